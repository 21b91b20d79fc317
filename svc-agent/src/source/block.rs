//! The YAML that kubectl, helm and most people write, read in one pass: blocks by indentation, plain and quoted scalars
//! on one line, literal text.
//!
//! A parser of all of YAML reads some 6 MB/s, and the manifests of a large cluster are tens of megabytes. This reader
//! understands less than YAML, but what it understands it understands in the same way, lines included; at the first sign
//! of anything else it gives up, and the whole document is for the real parser, errors too. That both agree on whatever
//! this one takes is a property test.

use std::borrow::Cow;

use super::tree::{Entry, Node, Value};

/// Maps with more fields than this are left to the other parser, which finds repeated names with a set.
const FIELDS: usize = 64;
/// Blocks within blocks; nothing in Kubernetes comes near.
const DEPTH: usize = 64;

/// Reads a document whose outermost value is a map; `None` if it has anything in it that this reader does not know.
pub(super) fn read(text: &str) -> Option<Node<'_>> {
    // Tabs, line ends of other systems, characters that count as white space elsewhere, byte order marks.
    if !text.bytes().all(|byte| byte == b'\n' || (b' '..=b'~').contains(&byte)) {
        return None;
    }
    let mut lines = Lines { rest: text, number: 0, line: None };
    let first = lines.peek()?.indent;
    let root = map(&mut lines, first, 0)?;
    lines.peek().is_none().then_some(root)
}

/// What is left of a line that has something on it.
#[derive(Clone, Copy)]
struct Line<'a> {
    number: usize,
    /// Column at which the text begins.
    indent: usize,
    /// Without blanks at the end.
    text: &'a str,
}

struct Lines<'a> {
    rest: &'a str,
    /// Lines taken from `rest`.
    number: usize,
    line: Option<Line<'a>>,
}

impl<'a> Lines<'a> {
    /// The present line; blank lines and comments are passed over.
    fn peek(&mut self) -> Option<Line<'a>> {
        while self.line.is_none() {
            let raw = self.raw()?;
            let text = raw.trim_start_matches(' ');
            if !text.is_empty() && !text.starts_with('#') {
                let indent = raw.len() - text.len();
                self.line = Some(Line { number: self.number, indent, text: text.trim_end_matches(' ') });
            }
        }
        self.line
    }

    /// Goes on to the next line.
    fn done(&mut self) {
        self.line = None;
    }

    /// The next line as it stands.
    fn raw(&mut self) -> Option<&'a str> {
        if self.rest.is_empty() {
            return None;
        }
        let (line, rest) = self.rest.split_once('\n').unwrap_or((self.rest, ""));
        self.rest = rest;
        self.number += 1;
        Some(line)
    }
}

/// What stands behind the dash of an item: blanks and the text.
fn item(text: &str) -> Option<&str> {
    text.strip_prefix('-').filter(|rest| rest.is_empty() || rest.starts_with(' '))
}

/// A map or a list, whose first line is the present one.
fn block<'a>(lines: &mut Lines<'a>, depth: usize) -> Option<Node<'a>> {
    let line = lines.peek()?;
    match item(line.text) {
        Some(_) => list(lines, line.indent, depth),
        None => map(lines, line.indent, depth),
    }
}

fn list<'a>(lines: &mut Lines<'a>, indent: usize, depth: usize) -> Option<Node<'a>> {
    let begin = lines.peek()?.number;
    let mut items = Vec::new();
    while let Some(line) = lines.peek().filter(|line| line.indent >= indent) {
        let Some(rest) = item(line.text).filter(|_| line.indent == indent) else {
            // A field of the map around it, if that is as far indented; anything else is no YAML, or not ours.
            if line.indent == indent && !items.is_empty() {
                break;
            }
            return None;
        };
        let text = rest.trim_start_matches(' ');
        if text.is_empty() {
            return None;
        }
        if item(text).is_some() || field(text).is_some() {
            let inner = indent + line.text.len() - text.len();
            lines.line = Some(Line { indent: inner, text, ..line });
            items.push(block(lines, deeper(depth)?)?);
        } else {
            lines.done();
            items.push(Node { line: line.number, value: scalar(text)? });
        }
    }
    Some(Node { line: begin, value: Value::List(items) })
}

fn map<'a>(lines: &mut Lines<'a>, indent: usize, depth: usize) -> Option<Node<'a>> {
    let begin = lines.peek()?.number;
    let mut entries: Vec<Entry<'a>> = Vec::new();
    while let Some(line) = lines.peek().filter(|line| line.indent >= indent) {
        let (name, text) = field(line.text).filter(|_| line.indent == indent)?;
        if entries.len() >= FIELDS || entries.iter().any(|entry| entry.name == name) {
            return None;
        }
        lines.done();
        let value = match text.as_bytes().first() {
            None => below(lines, indent, depth)?,
            Some(b'|') => literal(lines, text, indent)?,
            Some(_) => Node { line: line.number, value: scalar(text)? },
        };
        entries.push(Entry { line: line.number, name: Cow::Borrowed(name), value });
    }
    Some(Node { line: begin, value: Value::Map(entries) })
}

/// The value of a field with nothing behind its colon.
fn below<'a>(lines: &mut Lines<'a>, indent: usize, depth: usize) -> Option<Node<'a>> {
    let line = lines.peek()?;
    let is_item = item(line.text).is_some();
    // An empty value is rare, and where it stands is a question for the other parser.
    if line.indent > indent || (line.indent == indent && is_item) { block(lines, deeper(depth)?) } else { None }
}

fn deeper(depth: usize) -> Option<usize> {
    (depth < DEPTH).then_some(depth + 1)
}

/// Name of a field, and what stands behind its colon.
fn field(text: &str) -> Option<(&str, &str)> {
    let end = text.bytes().position(|byte| !is_name(byte))?;
    let (name, rest) = text.split_at(end);
    let rest = rest.strip_prefix(':')?;
    let separated = rest.is_empty() || rest.starts_with(' ');
    let usual = name.as_bytes().first().is_some_and(u8::is_ascii_alphabetic) && !is_word(name);
    (separated && usual).then(|| (name, rest.trim_start_matches(' ')))
}

fn is_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'/' | b'_' | b'-')
}

/// Words that are, or once were, something else than text.
fn is_word(text: &str) -> bool {
    const WORDS: [&str; 11] = ["null", "true", "false", "yes", "no", "on", "off", "y", "n", "inf", "nan"];
    text.len() <= 5 && WORDS.iter().any(|word| text.eq_ignore_ascii_case(word))
}

/// A value on one line.
fn scalar(text: &str) -> Option<Value<'_>> {
    match text.as_bytes().first()? {
        b'"' => double_quoted(text.strip_prefix('"')?.strip_suffix('"')?),
        b'\'' => single_quoted(text.strip_prefix('\'')?.strip_suffix('\'')?),
        b'{' => (text == "{}").then(|| Value::Map(Vec::new())),
        b'[' => (text == "[]").then(|| Value::List(Vec::new())),
        first => plain(*first, text),
    }
}

fn double_quoted(text: &str) -> Option<Value<'_>> {
    if !text.contains(['"', '\\']) {
        return Some(Value::Text(Cow::Borrowed(text)));
    }
    let mut plain = String::with_capacity(text.len());
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        plain.push(match letter {
            '"' => return None,
            '\\' => match letters.next()? {
                escaped @ ('"' | '\\') => escaped,
                'n' => '\n',
                _ => return None,
            },
            other => other,
        });
    }
    Some(Value::Text(Cow::Owned(plain)))
}

fn single_quoted(text: &str) -> Option<Value<'_>> {
    if !text.contains('\'') {
        return Some(Value::Text(Cow::Borrowed(text)));
    }
    // A quote within is written twice.
    let plain = text.replace("''", "\u{0}");
    (!plain.contains('\'')).then(|| Value::Text(Cow::Owned(plain.replace('\u{0}', "'"))))
}

fn plain(first: u8, text: &str) -> Option<Value<'_>> {
    if text.contains(": ") || text.contains(" #") || text.ends_with(':') {
        return None;
    }
    match first {
        b'0'..=b'9' if text.bytes().all(|byte| byte.is_ascii_digit()) => {
            let usual = text.len() <= 18 && (first != b'0' || text.len() == 1);
            usual.then(|| text.parse().ok().map(Value::Int)).flatten()
        }
        b'0'..=b'9' => is_no_number(text).then_some(Value::Text(Cow::Borrowed(text))),
        b'/' => Some(Value::Text(Cow::Borrowed(text))),
        b'a'..=b'z' | b'A'..=b'Z' => match text {
            "true" => Some(Value::Bool(true)),
            "false" => Some(Value::Bool(false)),
            _ if is_word(text) || text.eq_ignore_ascii_case("infinity") => None,
            _ => Some(Value::Text(Cow::Borrowed(text))),
        },
        _ => None,
    }
}

/// Whether text that begins with a digit can be no number of any notation: an address, a prefix, a name, a UID.
fn is_no_number(text: &str) -> bool {
    let count = |wanted: u8| text.bytes().filter(|byte| *byte == wanted).count();
    text.contains('/') || count(b'.') > 1 || count(b'-') > 1
}

/// Text as it stands, after `|` or `|-`.
fn literal<'a>(lines: &mut Lines<'a>, mark: &str, parent: usize) -> Option<Node<'a>> {
    let line = lines.number + 1;
    let keep_end = match mark {
        "|" => true,
        "|-" => false,
        _ => return None,
    };
    let mut indent = 0;
    let mut text = String::new();
    loop {
        let (rest, number) = (lines.rest, lines.number);
        let Some(raw) = lines.raw() else { break };
        let own = raw.len() - raw.trim_start_matches(' ').len();
        if own == raw.len() {
            // How blanks count in an empty line is a question for the other parser.
            if own > 0 || indent == 0 {
                return None;
            }
            text.push('\n');
            continue;
        }
        if indent == 0 {
            indent = own;
        }
        if own < indent || indent <= parent {
            // The first line that is not of the text.
            (lines.rest, lines.number) = (rest, number);
            break;
        }
        text.push_str(&raw[indent..]);
        text.push('\n');
    }
    // Nothing at all, or something between the two indentations.
    if text.is_empty() || lines.peek().is_some_and(|line| line.indent > parent) {
        return None;
    }
    text.truncate(text.trim_end_matches('\n').len());
    if keep_end {
        text.push('\n');
    }
    Some(Node { line, value: Value::Text(Cow::Owned(text)) })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What the programs that write manifests write.
    const SAMPLE: &str = r#"apiVersion: v1
items:
- apiVersion: v1
  kind: Service
  metadata:
    annotations:
      kubectl.kubernetes.io/last-applied-configuration: |
        {"apiVersion":"v1","kind":"Service"}

      note: 'it''s "quoted"'
      other: "a \"b\" \\ c: d"
    creationTimestamp: "2026-01-01T00:00:00Z"
    labels: {}
    name: web
    uid: 5e3a0c1d-12ab-4e5f-8a9b-0123456789ab
  spec:
    clusterIPs:
    - 10.96.0.1
    - fd00:10:96::1
    externalTrafficPolicy: Cluster
    ports:
      # a comment
      - name: http
        port: 80
        targetPort: web
      -   name: dns
          port: 53
    selector:
      app: web
    loadBalancerSourceRanges: [ ]
    sourceRanges:
    - 10.0.0.0/8
- - a
  - b: true
    c:
    - - 1
- text: |-
    one

      two
kind: List
path: /healthz
"#;

    fn same(text: &str) -> bool {
        let Some(quick) = read(text) else { return false };
        let full = Node::parse_all(text).unwrap_or_else(|error| panic!("taken, but no YAML: {error}\n{text}"));
        assert_eq!(quick, full, "{text}");
        true
    }

    #[test]
    fn it_reads_what_is_usually_written() {
        let usual = SAMPLE.replace("    loadBalancerSourceRanges: [ ]\n", "    loadBalancerSourceRanges: []\n");
        assert!(same(&usual));
        assert!(!same(SAMPLE), "a list with a blank in it is for the other parser");
        for file in ["web", "node-port", "dual-stack", "affinity", "several-ports", "load-balancer", "without-selector"]
        {
            let path = format!("{}/../examples/{file}.yaml", env!("CARGO_MANIFEST_DIR"));
            for document in
                std::fs::read_to_string(path).expect("an example").split("---\n").filter(|d| d.contains(':'))
            {
                same(document);
            }
        }
    }

    #[test]
    fn it_gives_up_on_everything_else() {
        for text in [
            "a: &anchor b",
            "a: *anchor",
            "a: !!str 1",
            "a: {b: c}",
            "a: [b]",
            "a: >\n  folded\n",
            "a: |2\n  x\n",
            "a: b # comment",
            "a: b: c",
            "a: b\n  c",
            "a: 'b\n  c'",
            "a: \"\\x41\"",
            "a: 0x10",
            "a: 1_000",
            "a: 1.5",
            "a: -1",
            "a: 012",
            "a: ~",
            "a: null",
            "a: yes",
            "a: .inf",
            "a:",
            "a: 1e3",
            "? a\n: b",
            "\"a\": b",
            "1: b",
            "a: b\na: c",
            "a:\n- b\n  c",
            "a:\n - b\n- c",
            "a: b\n c: d",
            "a:\n  b: c\n d: e",
            "- a",
            "a",
            "%YAML 1.2",
            "a:\tb",
            "a: b\r\n",
            "a: \u{e9}",
            "---\na: b",
            "a: b\n...\n",
            "a: @b",
            "a: `b",
            "<<: b",
            "a: ? b",
            "a: - b",
        ] {
            assert!(read(text).is_none(), "{text:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(3000))]

        /// Text that is nearly what is usually written.
        #[test]
        fn what_it_takes_is_what_the_other_parser_reads(
            lines in (0..50_usize, 1..25_usize),
            edits in prop::collection::vec((any::<prop::sample::Index>(), 0..4_u8, "[-a1eE :.#'\"|>{}\\[\\]&*!?%@~,_/x\\\\\n]{1,2}"), 0..4),
        ) {
            let sample = SAMPLE.replace("[ ]", "[]");
            let chosen: Vec<&str> = sample.split_inclusive('\n').skip(lines.0).take(lines.1).collect();
            let mut text = chosen.concat();
            for (at, how, with) in &edits {
                if text.is_empty() {
                    break;
                }
                let at = at.index(text.len());
                match how {
                    0 => text.insert_str(at, with),
                    1 => drop(text.remove(at)),
                    2 => text.replace_range(at..=at, with),
                    // Another indentation for what follows.
                    _ => text = text.replacen("\n  ", "\n", 1),
                }
            }
            same(&text);
        }
    }
}
