//! Files of Kubernetes objects, read once.
//!
//! An object that cannot be used is named in one line and the others count; so does everything else that a person who
//! wrote the file would want to hear, such as a field that does not exist.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::allocate::{Cluster, Given};
use super::fields::{self, Shape};
use super::tree::{Node, TreeError, Value};
use super::wire::node::{WireNode, WireServiceCidr};
use super::wire::pod::{Pod, WirePod};
use super::wire::service::{Draft, WireService};
use super::wire::slice::{ReadSlice, WireSlice};
use super::wire::{Meta, Problem};
use super::{ControlPlane, Interner, Loaded};
use crate::model::{self, Event, ObjectKey, ServiceCidr};

/// Reads a file, or all `.yaml`, `.yml` and `.json` files below a directory. An error means that the path itself cannot
/// be read.
pub fn load(path: &Path, options: &ControlPlane) -> io::Result<Loaded> {
    Reader::new(options.clone()).load(path)
}

/// Reads manifests again and again: what was given out to a Service is remembered from one reading to the next.
#[derive(Debug)]
pub struct Reader {
    options: ControlPlane,
    given: BTreeMap<String, Given>,
    names: Interner,
}

impl Reader {
    /// Nothing read yet.
    pub fn new(options: ControlPlane) -> Self {
        Self { options, given: BTreeMap::new(), names: Interner::default() }
    }

    /// As [`load`].
    pub fn load(&mut self, path: &Path) -> io::Result<Loaded> {
        let mut warnings = Vec::new();
        let mut objects: BTreeMap<Id, (PathBuf, Parsed)> = BTreeMap::new();
        for file in files(path)? {
            let content = match read_file(&file, &mut self.names) {
                Ok(content) => content,
                Err(error) if file == path => return Err(error),
                Err(error) => {
                    warnings.push(format!("{}: cannot be read: {error}", file.display()));
                    continue;
                }
            };
            warnings.extend(content.warnings);
            for (id, parsed) in content.objects {
                if let Some((first, _)) = objects.insert(id.clone(), (file.clone(), parsed)) {
                    warnings.push(twice(&id, &file, &first));
                }
            }
        }
        let changes = objects.into_iter().map(|(id, (_, parsed))| (id, Some(parsed))).collect();
        let mut cluster = Cluster::new(self.options.clone(), std::mem::take(&mut self.given));
        let (events, more) = cluster.apply(changes);
        self.given = cluster.given().clone();
        warnings.extend(more);
        let objects = events.into_iter().filter_map(|event| match event {
            Event::Applied(object) => Some(object),
            _ => None,
        });
        Ok(Loaded { objects: objects.collect(), warnings })
    }
}

/// Says that an object is in two files.
pub(super) fn twice((kind, key): &Id, file: &Path, other: &Path) -> String {
    format!("{}: {kind} {key} is also in {}: the last one counts", file.display(), other.display())
}

/// Reads one file.
pub(super) fn read_file(path: &Path, names: &mut Interner) -> io::Result<FileContent> {
    let bytes = std::fs::read(path)?;
    Ok(match std::str::from_utf8(&bytes) {
        Ok(text) => read_text(path, text, names),
        Err(_) => FileContent {
            warnings: vec![format!("{}: not readable as YAML: not in UTF-8", path.display())],
            broken: true,
            ..FileContent::default()
        },
    })
}

/// One object of a file.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Parsed {
    Service(Draft),
    Slice(ReadSlice),
    Node(model::Node),
    ServiceCidr(ServiceCidr),
    Pod(Pod),
}

/// What tells objects apart: the kind as a person writes it, and the name.
pub(super) type Id = (&'static str, ObjectKey);

impl Parsed {
    pub(super) fn id(&self) -> Id {
        match self {
            Self::Service(draft) => ("Service", draft.service.key.clone()),
            Self::Slice(slice) => ("EndpointSlice", slice.key.clone()),
            Self::Node(node) => ("Node", ObjectKey::new("", node.name.clone())),
            Self::ServiceCidr(cidr) => ("ServiceCIDR", ObjectKey::new("", cidr.name.clone())),
            Self::Pod(pod) => ("Pod", pod.key.clone()),
        }
    }
}

/// What a file holds.
#[derive(Debug, Default)]
pub(super) struct FileContent {
    pub(super) objects: BTreeMap<Id, Parsed>,
    /// Complete lines, with file and line number.
    pub(super) warnings: Vec<String>,
    /// Something in it could not be used, so that what is missing may be meant to be there.
    pub(super) broken: bool,
}

/// The files that count below a directory, in a fixed order; or the file itself. Names that begin with a dot do not
/// count: editors and the ConfigMap volumes of Kubernetes keep other things under such names.
pub(super) fn files(path: &Path) -> io::Result<Vec<PathBuf>> {
    fn walk(directory: &Path, depth: usize, found: &mut Vec<PathBuf>) -> io::Result<()> {
        for entry in std::fs::read_dir(directory)? {
            let path = entry?.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            if name.starts_with('.') {
                continue;
            }
            // Follows symbolic links; a link that leads nowhere or in a circle does not count.
            match std::fs::metadata(&path) {
                Ok(meta) if meta.is_dir() && depth < 32 => walk(&path, depth + 1, found)?,
                Ok(meta) if meta.is_file() && matches!(name.rsplit_once('.'), Some((_, "yaml" | "yml" | "json"))) => {
                    found.push(path);
                }
                _ => {}
            }
        }
        Ok(())
    }

    if std::fs::metadata(path)?.is_file() {
        return Ok(vec![path.to_owned()]);
    }
    let mut found = Vec::new();
    walk(path, 0, &mut found)?;
    found.sort();
    Ok(found)
}

/// Reads the text of one file.
pub(super) fn read_text(path: &Path, text: &str, names: &mut Interner) -> FileContent {
    let mut reader = FileReader { path, names, content: FileContent::default() };
    reader.read(text.strip_prefix('\u{feff}').unwrap_or(text));
    reader.content
}

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

struct FileReader<'a> {
    path: &'a Path,
    names: &'a mut Interner,
    content: FileContent,
}

impl FileReader<'_> {
    fn warn(&mut self, line: usize, text: impl std::fmt::Display) {
        self.content.warnings.push(format!("{}:{line}: {text}", self.path.display()));
    }

    /// Names what cannot be used.
    fn refuse(&mut self, line: usize, text: impl std::fmt::Display) {
        self.warn(line, text);
        self.content.broken = true;
    }

    fn read(&mut self, text: &str) {
        for (first_line, document) in documents(text) {
            match Node::parse(document, first_line) {
                Ok(root) => self.document(&root),
                Err(error) => match json_documents(document, first_line) {
                    Some(roots) => roots.iter().for_each(|root| self.document(root)),
                    None => self.refuse(error.line, format_args!("not readable as YAML: {error}")),
                },
            }
        }
    }

    fn document(&mut self, root: &Node) {
        if root.value == Value::Null {
            return;
        }
        self.object(root, root.text("apiVersion"), root.text("kind"));
    }

    fn object(&mut self, node: &Node, api_version: Option<&str>, kind: Option<&str>) {
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
    fn other(&mut self, node: &Node, group: &str, api_version: &str, kind: &str) {
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
        node: &Node,
        kind: &'static str,
        shape: &'static Shape,
        read: impl FnOnce(W, &mut Interner) -> (Parsed, Vec<Problem>),
    ) {
        let who = who(node, kind);
        for unknown in fields::unknown(node, shape) {
            self.warn(unknown.line, format_args!("{who}: unknown field {}: {}", unknown.path, unknown.hint));
        }
        if node.get("metadata").and_then(|meta| meta.text("name")).is_none_or(str::is_empty) {
            return self
                .refuse(node.line_of("metadata.name"), format_args!("{who}: metadata.name is missing or no string"));
        }
        let wire = match W::deserialize(node) {
            Ok(wire) => wire,
            Err(error) => return self.refuse(error.line, format_args!("{who}: {}", explained(&error))),
        };
        let (parsed, problems) = read(wire, self.names);
        if !problems.is_empty() {
            let line = problems.first().map_or(node.line, |problem| node.line_of(&problem.path));
            let texts: Vec<_> = problems.iter().map(|problem| format!("{} {}", problem.path, problem.text)).collect();
            return self.refuse(line, format_args!("{who}: {}", texts.join("; ")));
        }
        if self.content.objects.insert(parsed.id(), parsed).is_some() {
            self.warn(node.line, format_args!("{who} is in this file twice: the last one counts"));
        }
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
fn who(node: &Node, kind: &str) -> String {
    let meta = node.get("metadata").and_then(|meta| Meta::deserialize(meta).ok()).unwrap_or_default();
    if meta.name.as_deref().unwrap_or_default().is_empty() {
        return format!("{kind} without a name");
    }
    let key = if matches!(kind, "Node" | "ServiceCIDR") { meta.cluster_wide() } else { meta.namespaced() };
    format!("{kind} {key}")
}

/// The items of a list, and their kind if the list tells it.
fn list<'a>(node: &'a Node, group: &str, kind: &'a str) -> Option<(Option<&'a str>, &'a [Node])> {
    let item_kind = kind.strip_suffix("List")?;
    let item_kind = if item_kind.is_empty() { None } else { Some(item_kind) };
    let ours = item_kind.is_none_or(|kind| READ.contains(&(group, kind)));
    let items = match node.get("items").map(|items| &items.value) {
        Some(Value::List(items)) => items.as_slice(),
        _ => &[],
    };
    ours.then_some((item_kind, items))
}

/// The documents of a file and the lines on which they begin. As in Kubernetes' own tools a line that begins with
/// `---` separates documents, whatever stands between: so a broken one does not spoil the others.
fn documents(text: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    let (mut begin, mut first_line) = (0, 1);
    let mut at = 0;
    for (index, line) in text.split_inclusive('\n').enumerate() {
        if let Some(rest) = line.strip_prefix("---")
            && (rest.trim().is_empty() || rest.starts_with([' ', '\t']))
        {
            found.push((first_line, &text[begin..at]));
            (begin, first_line) = (at + 3, index + 1);
        }
        at += line.len();
    }
    found.push((first_line, &text[begin..]));
    // Directives (%YAML 1.2) stand before the separator and are no document.
    found.retain(|(_, document)| {
        document.lines().map(str::trim).any(|line| !line.is_empty() && !line.starts_with(['#', '%']))
    });
    found
}

/// JSON that is no YAML: tabs for indentation, or several objects one after another.
fn json_documents(text: &str, first_line: usize) -> Option<Vec<Node>> {
    if !text.trim_start().starts_with('{') {
        return None;
    }
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<serde_json::Value>();
    let mut roots = Vec::new();
    loop {
        let begin = text.len() - text[values.byte_offset()..].trim_start().len();
        let line = first_line + text[..begin].matches('\n').count();
        match values.next() {
            Some(value) => roots.push(Node::from_json(value.ok()?, line)),
            None => return Some(roots),
        }
    }
}

#[cfg(test)]
mod tests;
