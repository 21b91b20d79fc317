//! House rules of single files.

use anyhow::Result;

use super::source::{self, Source, has_word};

/// A file that is longer has two concerns.
const MOST_LINES: usize = 500;

/// The only places for unsafe code: the packet accessor, map and helper bindings of the kernel programs, the module
/// that knows bpf(2), and the lab, which enters network namespaces.
const UNSAFE: &[&str] = &["svc-agent/src/datapath/", "svc-ebpf/src/", "tests/"];

/// Words that promise work instead of doing it. Spelled in halves, so that this file passes its own rule.
const UNFINISHED: &[&str] = &[concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];

pub(super) fn check() -> Result<Vec<String>> {
    Ok(source::all()?.iter().flat_map(file).collect())
}

/// The rules that look at one file alone.
fn file(source: &Source) -> Vec<String> {
    let mut problems = Vec::new();
    let lines = source.text.lines().count();
    if lines > MOST_LINES {
        problems.push(format!("{}: {lines} lines, at most {MOST_LINES}: split it by concern", source.path));
    }
    if !source.text.starts_with("//!") && !source.path.contains("/build.rs") {
        problems.push(format!("{}:1: no module comment that says what this file owns", source.path));
    }
    for (number, line) in source.text.lines().enumerate() {
        if let Some(word) = UNFINISHED.iter().find(|word| has_word(line, word)) {
            problems.push(format!("{}:{}: {word}: finish it or leave it out", source.path, number + 1));
        }
    }
    let mut before = "";
    for (number, line) in source.code_lines() {
        let mut found = |what: &str| problems.push(format!("{}:{number}: {what}", source.path));
        if has_word(line, "unsafe") && !UNSAFE.iter().any(|place| source.path.starts_with(place)) {
            found("unsafe code outside its places (ARCHITECTURE.md, invariants)");
        }
        if source.path.starts_with("svc-ebpf/") && relaxed_fetch(before, line) {
            // LLVM 22 gives back the addend instead of the old value.
            found("a relaxed fetch whose result is used is miscompiled: SeqCst, or a statement of its own");
        }
        if has_word(line, "allow") && line.trim_start().starts_with(['#']) && line.contains("[allow(") {
            found("#[expect(.., reason = \"..\")] instead of allow, so that it disappears with its cause");
        }
        // Blank lines and comments stand between no two parts of a statement that matter here.
        before = if line.trim().is_empty() { before } else { line.trim_end() };
    }
    problems
}

/// An atomic read-modify-write with relaxed order that is not a statement of its own, which throws the result away.
fn relaxed_fetch(before: &str, line: &str) -> bool {
    const FETCHES: &[&str] = &["atomic_x", "atomic_and", "atomic_or", "atomic_nand", "fetch_"];
    let statement = (before.is_empty() || before.ends_with([';', '{', '}'])) && line.trim_end().ends_with(';');
    let discarded = statement && FETCHES.iter().any(|name| line.trim_start().starts_with(name));
    has_word(line, "Relaxed") && FETCHES.iter().any(|name| line.contains(name)) && !discarded
}

#[cfg(test)]
mod tests {
    use super::{Source, file};

    fn problems(path: &str, text: &str) -> usize {
        file(&Source::new(path, format!("//! Doc.\n{text}"))).len()
    }

    #[test]
    fn long_and_unexplained_files_are_found() {
        assert_eq!(problems("svc-common/src/a.rs", &"\n".repeat(499)), 0);
        assert_eq!(problems("svc-common/src/a.rs", &"\n".repeat(500)), 1);
        assert_eq!(file(&Source::new("svc-common/src/a.rs", "fn f() {}\n")).len(), 1);
        assert_eq!(problems("svc-common/src/a.rs", concat!("// TO", "DO: later")), 1);
    }

    #[test]
    fn unsafe_code_has_its_places() {
        assert_eq!(problems("svc-common/src/a.rs", "// SAFETY: no.\nunsafe { f() }"), 1);
        assert_eq!(problems("svc-agent/src/datapath/a.rs", "// SAFETY: yes.\nunsafe { f() }"), 0);
        assert_eq!(problems("svc-common/src/a.rs", "#![forbid(unsafe_code)] // unsafe"), 0);
    }

    #[test]
    fn relaxed_fetches_throw_their_result_away() {
        assert_eq!(problems("svc-ebpf/src/a.rs", "let x = atomic_xadd::<_, _, { Relaxed }>(p, 1);"), 1);
        assert_eq!(problems("svc-ebpf/src/a.rs", "atomic_xadd::<_, _, { Relaxed }>(p, 1);"), 0);
        assert_eq!(problems("svc-ebpf/src/a.rs", "let x =\n    atomic_xadd::<_, _, { Relaxed }>(p, 1);"), 1);
        assert_eq!(problems("svc-ebpf/src/a.rs", "atomic_xadd::<_, _, { Relaxed }>(p, 1)"), 1);
        assert_eq!(problems("svc-ebpf/src/a.rs", "let x = atomic_xadd::<_, _, { SeqCst }>(p, 1);"), 0);
    }

    #[test]
    fn exceptions_expect() {
        assert_eq!(problems("svc-common/src/a.rs", "#[allow(dead_code)]"), 1);
        assert_eq!(problems("svc-common/src/a.rs", "#[expect(dead_code, reason = \"x\")]"), 0);
    }
}
