//! YAML and JSON as a tree that knows the line of every value, and a serde deserializer on it.
//!
//! The tree exists because a person who wrote a manifest wants to hear "line 12: spec.ports[0].port", also for what is
//! found wrong after decoding, and because unknown fields are told apart from unusable ones.

use std::borrow::Cow;
use std::fmt;

use serde::de::value::StrDeserializer;
use serde::de::{self, DeserializeSeed, Deserializer, IntoDeserializer as _, MapAccess, SeqAccess, Visitor};
use serde::forward_to_deserialize_any;
use serde_saphyr::Spanned;

use super::block;

/// A value and the line on which it begins.
#[derive(Debug, PartialEq)]
pub(crate) struct Node<'a> {
    pub(crate) line: usize,
    pub(crate) value: Value<'a>,
}

/// What a document is made of.
#[derive(Debug, PartialEq)]
pub(crate) enum Value<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(Cow<'a, str>),
    List(Vec<Node<'a>>),
    Map(Vec<Entry<'a>>),
}

/// One field of a map; the line is that of its name.
#[derive(Debug, PartialEq)]
pub(crate) struct Entry<'a> {
    pub(crate) line: usize,
    pub(crate) name: Cow<'a, str>,
    pub(crate) value: Node<'a>,
}

/// Why text could not be read, or a tree not be decoded.
#[derive(Debug)]
pub(crate) struct TreeError {
    /// Line in the document; 0 if unknown.
    pub(crate) line: usize,
    /// Path of the field, `spec.ports[0].port`; empty for the document.
    pub(crate) path: String,
    pub(crate) text: String,
}

impl<'a> Node<'a> {
    /// Reads one YAML document (JSON is YAML).
    pub(crate) fn parse(text: &'a str) -> Result<Self, TreeError> {
        block::read(text).map_or_else(|| Self::parse_all(text), Ok)
    }

    /// As [`Self::parse`], by a parser that knows all of YAML.
    pub(super) fn parse_all(text: &'a str) -> Result<Self, TreeError> {
        let mut options = serde_saphyr::Options::default();
        // The limits are against hostile input from elsewhere; these files are the operator's own, and a List of a
        // whole cluster has millions of events. Anchors keep their limits.
        if let Some(budget) = &mut options.budget {
            budget.max_events = usize::MAX;
            budget.max_nodes = usize::MAX;
            budget.max_total_scalar_bytes = usize::MAX;
        }
        options.emit_comments = false;
        match serde_saphyr::from_str_with_options::<Spanned<Value<'_>>>(text, options) {
            Ok(root) => Ok(Self::from_spanned(root)),
            Err(error) => {
                let line = error.location().map_or(0, |location| location.line() as usize);
                let text = one_line(&error.without_snippet().to_string());
                Err(TreeError { line: line.max(1), path: String::new(), text })
            }
        }
    }

    /// A tree from a JSON value, all of it on one line.
    pub(crate) fn from_json(value: serde_json::Value, line: usize) -> Self {
        let value = match value {
            serde_json::Value::Null => Value::Null,
            serde_json::Value::Bool(flag) => Value::Bool(flag),
            serde_json::Value::Number(number) => {
                number.as_i64().map_or_else(|| Value::Float(number.as_f64().unwrap_or(f64::NAN)), Value::Int)
            }
            serde_json::Value::String(text) => Value::Text(Cow::Owned(text)),
            serde_json::Value::Array(items) => {
                Value::List(items.into_iter().map(|item| Self::from_json(item, line)).collect())
            }
            serde_json::Value::Object(fields) => Value::Map(
                fields
                    .into_iter()
                    .map(|(name, value)| Entry { line, name: Cow::Owned(name), value: Self::from_json(value, line) })
                    .collect(),
            ),
        };
        Self { line, value }
    }

    fn from_spanned(spanned: Spanned<Value<'a>>) -> Self {
        Self { line: spanned.referenced.line() as usize, value: spanned.value }
    }

    fn is_scalar(&self) -> bool {
        !matches!(self.value, Value::List(_) | Value::Map(_))
    }

    /// A field of a map.
    pub(crate) fn get(&self, name: &str) -> Option<&Self> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|entry| entry.name == name).map(|entry| &entry.value),
            _ => None,
        }
    }

    /// A field of a map that is a string.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        match &self.get(name)?.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The line of the value at `path` (`spec.ports[0].port`), or of the innermost value around it that exists.
    pub(crate) fn line_of(&self, path: &str) -> usize {
        let mut node = self;
        let mut line = self.line;
        for step in path.split(['.', '[']) {
            let next = match (&node.value, step.strip_suffix(']')) {
                (Value::List(items), Some(index)) => index.parse().ok().and_then(|index: usize| items.get(index)),
                (Value::Map(entries), None) => entries.iter().find(|entry| entry.name == step).map(|entry| {
                    line = entry.line;
                    &entry.value
                }),
                _ => None,
            };
            let Some(next) = next else { break };
            if next.is_scalar() || step.ends_with(']') {
                line = next.line;
            }
            node = next;
        }
        line
    }
}

/// The first line of a message of several, without the place in the document: the line in the file stands before it.
fn one_line(text: &str) -> String {
    let line = text.split('\n').map(str::trim).find(|line| !line.is_empty()).unwrap_or("no reason given");
    line.split(" at line ").next().unwrap_or(line).to_owned()
}

impl<'de> serde::Deserialize<'de> for Value<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Tree;

        impl<'de> Visitor<'de> for Tree {
            type Value = Value<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("YAML")
            }
            fn visit_unit<E: de::Error>(self) -> Result<Value<'de>, E> {
                Ok(Value::Null)
            }
            fn visit_none<E: de::Error>(self) -> Result<Value<'de>, E> {
                Ok(Value::Null)
            }
            fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value<'de>, D::Error> {
                deserializer.deserialize_any(self)
            }
            fn visit_bool<E: de::Error>(self, value: bool) -> Result<Value<'de>, E> {
                Ok(Value::Bool(value))
            }
            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Value<'de>, E> {
                Ok(Value::Int(value))
            }
            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Value<'de>, E> {
                Ok(i64::try_from(value).map_or(Value::Float(value as f64), Value::Int))
            }
            fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value<'de>, E> {
                Ok(Value::Float(value))
            }
            fn visit_str<E: de::Error>(self, value: &str) -> Result<Value<'de>, E> {
                Ok(Value::Text(Cow::Owned(value.to_owned())))
            }
            fn visit_borrowed_str<E: de::Error>(self, value: &'de str) -> Result<Value<'de>, E> {
                Ok(Value::Text(Cow::Borrowed(value)))
            }
            fn visit_string<E: de::Error>(self, value: String) -> Result<Value<'de>, E> {
                Ok(Value::Text(Cow::Owned(value)))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value<'de>, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = seq.next_element::<Spanned<Value<'de>>>()? {
                    items.push(Node::from_spanned(item));
                }
                Ok(Value::List(items))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value<'de>, A::Error> {
                let mut entries = Vec::new();
                while let Some(name) = map.next_key::<Spanned<String>>()? {
                    let value = Node::from_spanned(map.next_value()?);
                    entries.push(Entry { line: name.referenced.line() as usize, name: Cow::Owned(name.value), value });
                }
                Ok(Value::Map(entries))
            }
        }

        deserializer.deserialize_any(Tree)
    }
}

impl de::Error for TreeError {
    fn custom<T: fmt::Display>(text: T) -> Self {
        // Names of Rust types say nothing to the author of a manifest.
        let text = text.to_string().replace("expected i64", "expected a whole number");
        Self { line: 0, path: String::new(), text }
    }
}

impl std::error::Error for TreeError {}

impl fmt::Display for TreeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() { f.write_str(&self.text) } else { write!(f, "{}: {}", self.path, self.text) }
    }
}

impl TreeError {
    /// The error as seen from one level further out.
    fn below(mut self, step: &str, line: usize, node: &Node<'_>) -> Self {
        if self.line == 0 {
            self.line = if node.is_scalar() { node.line } else { line };
            if self.text.ends_with("expected a string")
                && matches!(node.value, Value::Int(_) | Value::Float(_) | Value::Bool(_))
            {
                self.text.push_str(": put it in quotes");
            }
        }
        let dot = if self.path.is_empty() || self.path.starts_with('[') { "" } else { "." };
        self.path = format!("{step}{dot}{}", self.path);
        self
    }
}

impl<'de> Deserializer<'de> for &'de Node<'_> {
    type Error = TreeError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TreeError> {
        match &self.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Int(value) => visitor.visit_i64(*value),
            Value::Float(value) => visitor.visit_f64(*value),
            Value::Text(text) => visitor.visit_borrowed_str(text),
            Value::List(items) => visitor.visit_seq(Items { items: items.iter(), index: 0 }),
            Value::Map(entries) => visitor.visit_map(Fields { entries: entries.iter(), value: None }),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TreeError> {
        if self.value == Value::Null { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct
        newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

struct Items<'de> {
    items: std::slice::Iter<'de, Node<'de>>,
    index: usize,
}

impl<'de> SeqAccess<'de> for Items<'de> {
    type Error = TreeError;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, TreeError> {
        let Some(node) = self.items.next() else { return Ok(None) };
        let step = self.index;
        self.index += 1;
        seed.deserialize(node).map(Some).map_err(|error| error.below(&format!("[{step}]"), node.line, node))
    }
}

struct Fields<'de> {
    entries: std::slice::Iter<'de, Entry<'de>>,
    value: Option<&'de Entry<'de>>,
}

impl<'de> MapAccess<'de> for Fields<'de> {
    type Error = TreeError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, TreeError> {
        let Some(entry) = self.entries.next() else { return Ok(None) };
        self.value = Some(entry);
        let name: StrDeserializer<'_, TreeError> = (*entry.name).into_deserializer();
        seed.deserialize(name).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, TreeError> {
        let entry = self.value.take().ok_or_else(|| de::Error::custom("a value without a name"))?;
        seed.deserialize(&entry.value).map_err(|error| error.below(&entry.name, entry.line, &entry.value))
    }
}
