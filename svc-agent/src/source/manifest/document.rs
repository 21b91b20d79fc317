//! One document: which of its objects are of a kind that is read, and what is wrong with them.

use serde::Deserialize;

use super::Parsed;
use crate::source::Interner;
use crate::source::fields::{self, Shape};
use crate::source::tree::{Node, TreeError, Value};
use crate::source::wire::node::{WireNode, WireServiceCidr};
use crate::source::wire::pod::WirePod;
use crate::source::wire::service::WireService;
use crate::source::wire::slice::WireSlice;
use crate::source::wire::{Meta, Problem};

/// The kinds that are read: API group, kind, version.
const READ: [(&str, &str); 5] = [
    ("", "Service"),
    ("", "Node"),
    ("", "Pod"),
    ("discovery.k8s.io", "EndpointSlice"),
    ("networking.k8s.io", "ServiceCIDR"),
];

/// The other kinds of the core group: whoever writes another one has misspelt it.
const CORE: [&str; 13] = [
    "Binding",
    "ConfigMap",
    "Endpoints",
    "Event",
    "LimitRange",
    "Namespace",
    "PersistentVolume",
    "PersistentVolumeClaim",
    "PodTemplate",
    "ReplicationController",
    "ResourceQuota",
    "Secret",
    "ServiceAccount",
];

/// What one document holds; lines count from its beginning.
#[derive(Debug, Default)]
pub(super) struct Document {
    pub(super) objects: Vec<(usize, Parsed)>,
    pub(super) remarks: Vec<(usize, String)>,
    /// Something in it could not be used.
    pub(super) broken: bool,
}

/// Reads one document.
pub(super) fn read(text: &str, names: &mut Interner) -> Document {
    // A parser of JSON alone is many times faster and takes what YAML does not, but knows no lines: if there is
    // something to say, the document is read again.
    let json = json_documents(text).map(|roots| Reader::read(roots.iter(), names));
    match json {
        Some(document) if document.remarks.is_empty() => document,
        json => match Node::parse(text) {
            Ok(root) => Reader::read([&root].into_iter(), names),
            Err(error) => json.unwrap_or_else(|| Document {
                remarks: vec![(error.line, format!("not readable as YAML: {error}"))],
                broken: true,
                ..Document::default()
            }),
        },
    }
}

struct Reader<'a> {
    names: &'a mut Interner,
    document: Document,
}

impl<'a> Reader<'a> {
    fn read<'n>(roots: impl Iterator<Item = &'n Node<'n>>, names: &'a mut Interner) -> Document {
        let mut reader = Self { names, document: Document::default() };
        roots.for_each(|root| reader.document(root));
        reader.document
    }

    fn warn(&mut self, line: usize, text: impl std::fmt::Display) {
        self.document.remarks.push((line, text.to_string()));
    }

    /// Names what cannot be used.
    fn refuse(&mut self, line: usize, text: impl std::fmt::Display) {
        self.warn(line, text);
        self.document.broken = true;
    }

    fn document(&mut self, root: &Node<'_>) {
        if root.value == Value::Null {
            return;
        }
        self.object(root, root.text("apiVersion"), root.text("kind"));
    }

    fn object(&mut self, node: &Node<'_>, api_version: Option<&str>, kind: Option<&str>) {
        let Value::Map(_) = node.value else {
            return self.refuse(node.line, "not an object: it should begin with apiVersion and kind");
        };
        let (Some(api_version), Some(kind)) = (api_version, kind) else {
            let missing = if kind.is_none() { "kind" } else { "apiVersion" };
            return self.refuse(node.line, format_args!("{missing} is missing: cannot tell what this is"));
        };
        let group = api_version.rsplit_once('/').map_or("", |(group, _)| group);
        if let Some((item_kind, items)) = list(node, group, kind) {
            for item in items {
                // The items of a ServiceList need not repeat what they are.
                let kind = item.text("kind").or(item_kind);
                self.object(item, item.text("apiVersion").or(item_kind.map(|_| api_version)), kind);
            }
            return;
        }
        match (group, kind) {
            ("", "Service") => self.take(node, "Service", &fields::SERVICE, |wire: WireService, names| {
                let (draft, problems) = wire.read(names);
                (Parsed::Service(draft), problems)
            }),
            ("discovery.k8s.io", "EndpointSlice") => {
                self.take(node, "EndpointSlice", &fields::SLICE, |wire: WireSlice, names| {
                    let (slice, problems) = wire.read(names);
                    (Parsed::Slice(slice), problems)
                });
            }
            ("", "Node") => self.take(node, "Node", &fields::NODE, |wire: WireNode, _| {
                let (node, problems) = wire.read();
                (Parsed::Node(node), problems)
            }),
            ("networking.k8s.io", "ServiceCIDR") => {
                self.take(node, "ServiceCIDR", &fields::SERVICE_CIDR, |wire: WireServiceCidr, _| {
                    let (cidr, problems) = wire.read();
                    (Parsed::ServiceCidr(cidr), problems)
                });
            }
            ("", "Pod") => self.take(node, "Pod", &fields::POD, |wire: WirePod, names| {
                let (pod, problems) = wire.read(names);
                (Parsed::Pod(pod), problems)
            }),
            _ => self.other(node, group, api_version, kind),
        }
    }

    /// Another kind: passed over, unless it is one of ours misspelt.
    fn other(&mut self, node: &Node<'_>, group: &str, api_version: &str, kind: &str) {
        let line = node.line_of("kind");
        if let Some((right, _)) = READ.iter().find(|(_, known)| *known == kind)
            && (group.is_empty() || *right == "discovery.k8s.io")
        {
            let right = if right.is_empty() { "v1".to_owned() } else { format!("{right}/v1") };
            return self
                .refuse(node.line_of("apiVersion"), format_args!("{kind} is not in {api_version}: write {right}"));
        }
        let known = READ.iter().map(|(_, kind)| *kind).chain(CORE);
        if group.is_empty() && !known.clone().any(|known| known == kind) {
            let hint = fields::nearest(kind, known).map(|near| format!(": did you mean {near}?")).unwrap_or_default();
            self.refuse(line, format_args!("there is no kind {kind:?} in {api_version}{hint}"));
        }
    }

    fn take<W: for<'de> Deserialize<'de>>(
        &mut self,
        node: &Node<'_>,
        kind: &'static str,
        shape: &'static Shape,
        read: impl FnOnce(W, &mut Interner) -> (Parsed, Vec<Problem>),
    ) {
        let who = || who(node, kind);
        for unknown in fields::unknown(node, shape) {
            self.warn(unknown.line, format_args!("{}: unknown field {}: {}", who(), unknown.path, unknown.hint));
        }
        if node.get("metadata").and_then(|meta| meta.text("name")).is_none_or(str::is_empty) {
            return self.refuse(
                node.line_of("metadata.name"),
                format_args!("{}: metadata.name is missing or no string", who()),
            );
        }
        let wire = match W::deserialize(node) {
            Ok(wire) => wire,
            Err(error) => return self.refuse(error.line, format_args!("{}: {}", who(), explained(&error))),
        };
        let (parsed, problems) = read(wire, self.names);
        if !problems.is_empty() {
            let line = problems.first().map_or(node.line, |problem| node.line_of(&problem.path));
            let texts: Vec<_> = problems.iter().map(|problem| format!("{} {}", problem.path, problem.text)).collect();
            return self.refuse(line, format_args!("{}: {}", who(), texts.join("; ")));
        }
        self.document.objects.push((node.line, parsed));
    }
}

/// A type error with what the person may have had in mind.
fn explained(error: &TreeError) -> String {
    if error.path == "spec.selector.matchLabels" || error.path == "spec.selector.matchExpressions" {
        return format!(
            "{} does not exist: a Service's selector is the labels themselves, right below selector",
            error.path
        );
    }
    error.to_string()
}

/// Kind and name for messages.
fn who(node: &Node<'_>, kind: &str) -> String {
    let meta = node.get("metadata").and_then(|meta| Meta::deserialize(meta).ok()).unwrap_or_default();
    if meta.name.as_deref().unwrap_or_default().is_empty() {
        return format!("{kind} without a name");
    }
    let key = if matches!(kind, "Node" | "ServiceCIDR") { meta.cluster_wide() } else { meta.namespaced() };
    format!("{kind} {key}")
}

/// The items of a list, and their kind if the list tells it.
fn list<'a>(node: &'a Node<'a>, group: &str, kind: &'a str) -> Option<(Option<&'a str>, &'a [Node<'a>])> {
    let item_kind = kind.strip_suffix("List")?;
    let item_kind = if item_kind.is_empty() { None } else { Some(item_kind) };
    let ours = item_kind.is_none_or(|kind| READ.contains(&(group, kind)));
    let items = match node.get("items").map(|items| &items.value) {
        Some(Value::List(items)) => items.as_slice(),
        _ => &[],
    };
    ours.then_some((item_kind, items))
}

/// JSON, also with several objects one after another.
fn json_documents(text: &str) -> Option<Vec<Node<'static>>> {
    if !text.trim_start().starts_with('{') {
        return None;
    }
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<serde_json::Value>();
    let mut roots = Vec::new();
    loop {
        let begin = text.len() - text[values.byte_offset()..].trim_start().len();
        let line = 1 + text[..begin].matches('\n').count();
        match values.next() {
            Some(value) => roots.push(Node::from_json(value.ok()?, line)),
            None => return Some(roots),
        }
    }
}
