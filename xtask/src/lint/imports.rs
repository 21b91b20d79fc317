//! The direction of imports, between crates and between the modules of the agent.

use std::fs;

use anyhow::{Context as _, Result};

use super::source::{self, Source, has_word, is_word};
use crate::run::root;

/// What each crate may import of our own.
const CRATES: &[(&str, &[&str])] = &[
    ("svc-common", &[]),
    ("svc-ebpf", &["svc-common"]),
    ("svc-agent", &["svc-common"]),
    ("tests", &["svc-agent", "svc-common"]),
    ("xtask", &[]),
];

/// The line along which data flows through the agent. A module knows what stands before it, whose values it takes, and
/// nothing of what comes after it. Modules beside the line read from all of it; nothing of the line reads from them.
const LINE: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("source", &["model"]),
    ("plan", &["model"]),
    ("apply", &["model", "plan"]),
    ("datapath", &["model", "plan", "apply"]),
];

/// The crates that load programs, and the only place of the agent that knows them.
const LOADERS: &[&str] = &["aya", "aya_log", "aya_obj"];
const LOADING: &str = "svc-agent/src/datapath/";

pub(super) fn check() -> Result<Vec<String>> {
    let mut problems = Vec::new();
    for (member, allowed) in CRATES {
        let path = root().join(member).join("Cargo.toml");
        let manifest = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        problems.extend(dependencies(member, allowed, &manifest));
    }
    problems.extend(source::all()?.iter().flat_map(file));
    Ok(problems)
}

/// Our own crates in a manifest that may not be there.
fn dependencies(member: &str, allowed: &[&str], manifest: &str) -> Vec<String> {
    let names = manifest.lines().filter_map(|line| line.split([' ', '.', '=']).next());
    names
        .filter(|name| name.starts_with("svc-") && *name != member && !allowed.contains(name))
        .map(|name| format!("{member}/Cargo.toml: {member} may not import {name}"))
        .collect()
}

/// The imports of one file of the agent, or of what stands above it.
fn file(source: &Source) -> Vec<String> {
    let mut problems = Vec::new();
    if source.path.starts_with("svc-agent/src/") || source.path.starts_with("tests/") {
        for (number, line) in source.code_lines() {
            let loader = LOADERS.iter().find(|name| has_word(line, name) && line.contains(&format!("{name}::")));
            if let Some(loader) = loader.filter(|_| !source.path.starts_with(LOADING)) {
                problems.push(format!("{}:{number}: {loader} is for {LOADING} alone", source.path));
            }
        }
    }
    let Some(inside) = source.path.strip_prefix("svc-agent/src/") else { return problems };
    let module = inside.split('/').next().unwrap_or(inside).trim_end_matches(".rs");
    let Some((_, allowed)) = LINE.iter().find(|(name, _)| *name == module) else { return problems };
    for (line, name) in crate_paths(&source.code) {
        if name != module && !allowed.contains(&name) {
            problems.push(format!("{}:{line}: `{module}` may not import `{name}`: nothing points back", source.path));
        }
    }
    problems
}

/// (line, first segment) of each path that begins with `crate::`, groups in braces taken apart.
fn crate_paths(code: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    for (at, start) in code.match_indices("crate::") {
        if code[..at].ends_with(is_word) {
            continue;
        }
        let line = code[..at].lines().count().max(1);
        let rest = &code[at + start.len()..];
        match rest.strip_prefix('{') {
            None => found.extend(first_word(rest).map(|name| (line, name))),
            Some(group) => found.extend(members(group).into_iter().map(|name| (line, name))),
        }
    }
    found
}

/// The first segment of each member of a `{a, b::{c, d}}` group, of which the opening brace is already taken.
fn members(group: &str) -> Vec<&str> {
    let (mut depth, mut start, mut names) = (0, 0, Vec::new());
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' if depth == 0 => {
                names.extend(first_word(&group[start..at]));
                start = at + 1;
            }
            '}' => {
                names.extend(first_word(&group[start..at]));
                break;
            }
            _ => {}
        }
    }
    names
}

fn first_word(text: &str) -> Option<&str> {
    let text = text.trim_start();
    let end = text.find(|c| !is_word(c)).unwrap_or(text.len());
    (end > 0).then(|| &text[..end])
}

#[cfg(test)]
mod tests {
    use super::{Source, crate_paths, dependencies, file};

    #[test]
    fn crates_import_one_way() {
        assert_eq!(dependencies("svc-ebpf", &["svc-common"], "svc-common = { workspace = true }").len(), 0);
        assert_eq!(dependencies("svc-ebpf", &["svc-common"], "svc-agent = { workspace = true }").len(), 1);
        assert_eq!(dependencies("xtask", &[], "svc-common.workspace = true").len(), 1);
    }

    #[test]
    fn paths_are_taken_apart() {
        let code = "use crate::{apply, plan::{Table, Set},\n model};\nlet x = crate::source::read();";
        assert_eq!(crate_paths(code), [(1, "apply"), (1, "plan"), (1, "model"), (3, "source")]);
    }

    #[test]
    fn nothing_points_back() {
        let problems = |path: &str, text: &str| file(&Source::new(path, text)).len();
        assert_eq!(problems("svc-agent/src/plan/mod.rs", "use crate::model::World;"), 0);
        assert_eq!(problems("svc-agent/src/plan/mod.rs", "use crate::apply::Write;"), 1);
        assert_eq!(problems("svc-agent/src/model/mod.rs", "use crate::{source, model};"), 1);
        assert_eq!(problems("svc-agent/src/cli/run.rs", "use crate::{source, apply};"), 0);
        assert_eq!(problems("svc-agent/src/plan/mod.rs", "// see crate::apply"), 0);
    }

    #[test]
    fn the_loader_has_one_place() {
        let problems = |path: &str| file(&Source::new(path, "use aya::Ebpf;")).len();
        assert_eq!(problems("svc-agent/src/datapath/load.rs"), 0);
        assert_eq!(problems("svc-agent/src/apply/mod.rs"), 1);
        assert_eq!(problems("tests/tests/run_tc.rs"), 1);
    }
}
