//! Rust sources as the house rules see them: paths, and the text without comments and literals.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::run::root;

/// One file of the project.
pub(super) struct Source {
    /// Relative to the workspace, with `/`.
    pub(super) path: String,
    /// As it stands in the file.
    pub(super) text: String,
    /// The same lines, with comments and the insides of literals blanked out.
    pub(super) code: String,
}

impl Source {
    pub(super) fn new(path: impl Into<String>, text: impl Into<String>) -> Self {
        let text = text.into();
        let code = code_only(&text);
        Self { path: path.into(), text, code }
    }

    /// Calls `visit` with (line number, line of code) of each line.
    pub(super) fn code_lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.code.lines().enumerate().map(|(index, line)| (index + 1, line))
    }
}

/// All Rust files of the workspace's crates, in order.
pub(super) fn all() -> Result<Vec<Source>> {
    let mut files = Vec::new();
    for member in ["svc-agent", "svc-common", "svc-ebpf", "tests", "xtask"] {
        collect(&root().join(member), &mut files)?;
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

fn collect(folder: &Path, files: &mut Vec<Source>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            if path.file_name().is_some_and(|name| name != "target") {
                collect(&path, files)?;
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            files.push(Source::new(path.strip_prefix(root())?.to_string_lossy(), text));
        }
    }
    Ok(())
}

/// Blanks out comments and what stands inside string and character literals; lines stay lines.
fn code_only(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let (skip, keep) = match c {
            '/' if rest.starts_with("//") => (rest.find('\n').unwrap_or(rest.len()), false),
            '/' if rest.starts_with("/*") => (block_comment(rest), false),
            '"' => (string(rest), false),
            'r' | 'b' | 'c' if !out.ends_with(is_word) => match raw_string(rest) {
                Some(length) => (length, false),
                None => (1, true),
            },
            '\'' => match character(rest) {
                Some(length) => (length, false),
                None => (1, true),
            },
            _ => (c.len_utf8(), true),
        };
        let (taken, left) = rest.split_at(skip);
        if keep {
            out.push_str(taken);
        } else {
            out.extend(taken.chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        }
        rest = left;
    }
    out
}

/// Part of an identifier.
pub(super) fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Do these words stand in the line as a whole word?
pub(super) fn has_word(line: &str, word: &str) -> bool {
    line.match_indices(word)
        .any(|(at, _)| !line[..at].ends_with(is_word) && !line[at + word.len()..].starts_with(is_word))
}

fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < text.len() {
        let rest = &text[at..];
        if rest.starts_with("/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if rest.starts_with("*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += rest.chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

fn string(text: &str) -> usize {
    let mut escaped = true;
    for (at, c) in text.char_indices() {
        if c == '"' && !escaped {
            return at + 1;
        }
        // The opening quote counts as escaped, an escaped backslash does not escape what follows it.
        escaped = c == '\\' && !escaped;
    }
    text.len()
}

/// `r".."`, `r#".."#`, `br".."`: its length, if it is one. Plain `b".."` is found at its quote.
fn raw_string(text: &str) -> Option<usize> {
    let prefix = text.find('r').filter(|at| *at <= 1)? + 1;
    let hashes = text[prefix..].chars().take_while(|c| *c == '#').count();
    let inside = prefix + hashes + 1;
    text[prefix + hashes..].starts_with('"').then_some(())?;
    let end = format!("\"{}", "#".repeat(hashes));
    Some(text[inside..].find(&end).map_or(text.len(), |at| inside + at + end.len()))
}

/// `'x'` or `'\n'`: its length; none for a lifetime.
fn character(text: &str) -> Option<usize> {
    let mut chars = text.char_indices().skip(1);
    match chars.next()? {
        (_, '\\') => text[3..].find('\'').map(|at| at + 4),
        _ => chars.next().and_then(|(at, c)| (c == '\'').then_some(at + 1)),
    }
}

#[cfg(test)]
mod tests {
    use super::{code_only, has_word};

    #[test]
    fn comments_and_literals_are_blank() {
        assert_eq!(code_only("a // b\nc /* d /* e */ f */ g"), "a     \nc                   g");
        assert_eq!(code_only(r#"f("x\"y", 'q', '\'', z)"#), "f(      ,    ,     , z)");
        assert_eq!(code_only("r#\"a\"b\"# c br\"d\" e"), "         c       e");
        assert_eq!(code_only("fn f<'a>(x: &'a str) -> char"), "fn f<'a>(x: &'a str) -> char");
    }

    #[test]
    fn words_are_whole() {
        assert!(has_word("unsafe {", "unsafe"));
        assert!(!has_word("allow(unsafe_code)", "unsafe"));
    }
}
