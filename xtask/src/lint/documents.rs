//! What the documents say about the tree has to be true of it.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context as _, Result};

use super::source::{self, Source, has_word};
use crate::run::root;

const DOCUMENTS: &[&str] = &["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"];
/// A path in a document begins with one of these.
const FOLDERS: &[&str] =
    &["svc-agent/", "svc-common/", "svc-ebpf/", "tests/", "xtask/", "docs/", "examples/", "deploy/"];

pub(super) fn check() -> Result<Vec<String>> {
    let mut problems = Vec::new();
    for name in DOCUMENTS {
        let text = fs::read_to_string(root().join(name)).with_context(|| format!("cannot read {name}"))?;
        let missing = paths(&text).into_iter().filter(|path| !root().join(path).exists());
        problems.extend(missing.map(|path| format!("{name}: {path} does not exist")));
        if *name == "ARCHITECTURE.md" {
            problems.extend(unnamed(&source::all()?, &text));
        }
    }
    Ok(problems)
}

/// Local links, and paths of the tree between backquotes; patterns are passed over.
fn paths(text: &str) -> BTreeSet<&str> {
    let links = text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next());
    let local = links.filter(|link| !link.is_empty() && !link.contains("://"));
    let quoted = text.lines().flat_map(|line| line.split('`').skip(1).step_by(2));
    let quoted = quoted.filter(|word| FOLDERS.iter().any(|folder| word.starts_with(folder)));
    local.chain(quoted).filter(|path| !path.contains(['*', ' ', '<'])).collect()
}

/// Top-level modules that ARCHITECTURE.md does not speak about.
fn unnamed(files: &[Source], architecture: &str) -> Vec<String> {
    let mut modules = BTreeSet::new();
    for file in files {
        let Some((member, inside)) = file.path.split_once("/src/") else { continue };
        if member == "xtask" {
            continue;
        }
        let module = inside.split('/').next().unwrap_or(inside).trim_end_matches(".rs");
        if !["lib", "main", "bin"].contains(&module) {
            modules.insert((member, module));
        }
    }
    modules
        .into_iter()
        .filter(|(_, module)| !has_word(architecture, module))
        .map(|(member, module)| format!("ARCHITECTURE.md: {member}'s module `{module}` is not named"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{Source, paths, unnamed};

    #[test]
    fn paths_are_found() {
        let text =
            "see [a](docs/a.svg) and [b](https://b/c), `tests/x.rs`, `tests/run_*.rs`, `other/x`\n`svc-agent/src/`";
        assert_eq!(paths(text).into_iter().collect::<Vec<_>>(), ["docs/a.svg", "svc-agent/src/", "tests/x.rs"]);
    }

    #[test]
    fn modules_are_named_in_the_document() {
        let files = [Source::new("svc-agent/src/plan/mod.rs", ""), Source::new("svc-agent/src/lib.rs", "")];
        assert_eq!(unnamed(&files, "the `plan` says"), Vec::<String>::new());
        assert_eq!(unnamed(&files, "the planner says").len(), 1);
    }
}
