//! Reading a KubeProxyConfiguration: what is set in it, on which line, and what in it is unknown.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context as _, anyhow, bail};

use super::table::{FIELDS, Meaning};
use crate::source::fields::nearest;
use crate::source::tree::{Node, Value};

/// What a file sets.
#[derive(Debug)]
pub(super) struct File {
    path: PathBuf,
    /// By path of the field: line and value, lists with commas between their items.
    set: BTreeMap<&'static str, (usize, String)>,
    /// What is unknown, and what has no meaning here, one line each.
    pub(super) remarks: Vec<String>,
}

impl File {
    /// Reads a file. As kube-proxy does, an unknown field is named and passed over.
    pub(super) fn read(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("--config {}", path.display()))?;
        Self::parse(path, &text)
    }

    /// As [`Self::read`], of a text that is there already.
    pub(super) fn parse(path: &Path, text: &str) -> anyhow::Result<Self> {
        let root = Node::parse(text)
            .map_err(|error| anyhow!("{}:{}: not readable as YAML: {error}", path.display(), error.line))?;
        let (api, kind) = (root.text("apiVersion").unwrap_or_default(), root.text("kind").unwrap_or_default());
        if (api, kind) != ("kubeproxy.config.k8s.io/v1alpha1", "KubeProxyConfiguration") {
            bail!(
                "{}: this is \"{kind}\" of \"{api}\"; --config takes a KubeProxyConfiguration of \
                 kubeproxy.config.k8s.io/v1alpha1",
                path.display()
            );
        }
        let mut file = Self { path: path.to_owned(), set: BTreeMap::new(), remarks: Vec::new() };
        file.walk(&root, "");
        Ok(file)
    }

    fn walk(&mut self, node: &Node<'_>, path: &str) {
        let Value::Map(entries) = &node.value else { return };
        for entry in entries {
            let path = if path.is_empty() { entry.name.to_string() } else { format!("{path}.{}", entry.name) };
            if let Some((known, meaning)) = FIELDS.iter().find(|(known, _)| *known == path) {
                self.leaf(known, *meaning, entry.line, &entry.value);
            } else if FIELDS.iter().any(|(known, _)| below(known, &path).is_some()) {
                match &entry.value.value {
                    Value::Map(_) | Value::Null => self.walk(&entry.value, &path),
                    _ => self.remark(entry.line, format_args!("{path} should have fields below it")),
                }
            } else {
                self.unknown(entry.line, &path);
            }
        }
    }

    fn leaf(&mut self, path: &'static str, meaning: Meaning, line: usize, node: &Node<'_>) {
        let value = text(node);
        // What kubeadm and others write out although nobody has asked for it.
        if matches!(value.as_str(), "" | "0" | "0s" | "false")
            && !matches!(
                path,
                "iptables.localhostNodePorts" | "iptables.masqueradeBit" | "nftables.masqueradeBit" | "oomScoreAdj"
            )
        {
            return;
        }
        if value.is_empty() {
            return;
        }
        match meaning {
            Meaning::Taken => drop(self.set.insert(path, (line, value))),
            Meaning::Without(why) => self.remark(line, format_args!("{path} has no meaning here: {why}")),
        }
    }

    fn unknown(&mut self, line: usize, path: &str) {
        let (parent, name) = path.rsplit_once('.').unwrap_or(("", path));
        let siblings = FIELDS.iter().filter_map(|(known, _)| below(known, parent)?.split('.').next());
        let elsewhere = FIELDS.iter().find(|(known, _)| known.rsplit('.').next() == Some(name));
        let hint = match (nearest(name, siblings), elsewhere) {
            (Some(near), _) => format!("did you mean {near}?"),
            (None, Some((home, _))) => format!("did you mean {home}?"),
            (None, None) => "there is no such field".to_owned(),
        };
        self.remark(line, format_args!("unknown field {path}: {hint}"));
    }

    fn remark(&mut self, line: usize, text: impl Display) {
        self.remarks.push(format!("{}:{line}: {text}", self.path.display()));
    }

    /// What a field is set to.
    pub(super) fn text(&self, path: &str) -> Option<&str> {
        self.set.get(path).map(|(_, value)| value.as_str())
    }

    /// What a field is set to, understood by `read`.
    pub(super) fn read_with<T, E: Display>(
        &self,
        path: &str,
        read: impl FnOnce(&str) -> Result<T, E>,
    ) -> anyhow::Result<Option<T>> {
        let Some((line, value)) = self.set.get(path) else { return Ok(None) };
        read(value).map(Some).map_err(|error| anyhow!("{}:{line}: {path}: {error}", self.path.display()))
    }

    /// What a field is set to.
    pub(super) fn get<T: FromStr<Err: Display>>(&self, path: &str) -> anyhow::Result<Option<T>> {
        self.read_with(path, T::from_str)
    }
}

/// The rest of a path that leads through `parent`; the outermost level is "".
fn below<'a>(path: &'a str, parent: &str) -> Option<&'a str> {
    if parent.is_empty() { Some(path) } else { path.strip_prefix(parent)?.strip_prefix('.') }
}

/// A value on one line.
fn text(node: &Node<'_>) -> String {
    match &node.value {
        Value::Null => String::new(),
        Value::Bool(value) => value.to_string(),
        Value::Int(value) => value.to_string(),
        Value::Float(value) => value.to_string(),
        Value::Text(text) => text.trim().to_owned(),
        Value::List(items) => items.iter().map(text).collect::<Vec<_>>().join(","),
        Value::Map(entries) => {
            entries.iter().map(|entry| format!("{}={}", entry.name, text(&entry.value))).collect::<Vec<_>>().join(",")
        }
    }
}
