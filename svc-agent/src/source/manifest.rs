//! Files of Kubernetes objects, read once.
//!
//! An object that cannot be used is named in one line and the others count; so does everything else that a person who
//! wrote the file would want to hear, such as a field that does not exist.

mod document;

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io;
use std::path::{Path, PathBuf};

use super::allocate::{Cluster, Given};
use super::wire::pod::Pod;
use super::wire::service::Draft;
use super::wire::slice::ReadSlice;
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
            let content = match read_file(&file, &FileContent::default(), &mut self.names) {
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
pub(super) fn read_file(path: &Path, before: &FileContent, names: &mut Interner) -> io::Result<FileContent> {
    let bytes = std::fs::read(path)?;
    Ok(match std::str::from_utf8(&bytes) {
        Ok(text) => read_text(path, text, before, names),
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
    /// The documents of the file, so that only those that change are read again.
    pieces: HashMap<(usize, u64), Piece>,
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
                Ok(meta) if meta.is_file() && is_manifest(&path) => found.push(path),
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

/// Whether a file below a directory counts, by its name.
pub(super) fn is_manifest(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml" || extension == "json")
}

/// Reads the text of one file. Documents that `before` had as well are taken from there.
pub(super) fn read_text(path: &Path, text: &str, before: &FileContent, names: &mut Interner) -> FileContent {
    let mut content = FileContent::default();
    let mut unique = true;
    for (first_line, text) in documents(text.strip_prefix('\u{feff}').unwrap_or(text)) {
        let print = fingerprint(text);
        let (piece, objects) = match before.pieces.get(&print).and_then(|piece| before.objects_of(piece)) {
            Some(known) => known,
            None => Piece::read(text, names),
        };
        let warning = |(line, text): &(usize, String)| format!("{}:{}: {text}", path.display(), first_line - 1 + line);
        content.warnings.extend(piece.remarks.iter().map(warning));
        content.broken |= piece.broken;
        for ((line, id), parsed) in piece.objects.iter().zip(objects) {
            if content.objects.insert(id.clone(), parsed).is_some() {
                let (kind, key) = id;
                content
                    .warnings
                    .push(warning(&(*line, format!("{kind} {key} is in this file twice: the last one counts"))));
                unique = false;
            }
        }
        content.pieces.insert(print, piece);
    }
    if !unique {
        // Which document an object is from can no longer be told.
        content.pieces.clear();
    }
    content
}

/// Tells the texts of documents apart.
fn fingerprint(text: &str) -> (usize, u64) {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    (text.len(), hasher.finish())
}

/// What is remembered of a document, besides its objects.
#[derive(Clone, Debug)]
struct Piece {
    /// Lines within the document, and the objects that begin there.
    objects: Vec<(usize, Id)>,
    remarks: Vec<(usize, String)>,
    broken: bool,
}

impl Piece {
    fn read(text: &str, names: &mut Interner) -> (Self, Vec<Parsed>) {
        let document = document::read(text, names);
        let objects = document.objects.iter().map(|(line, parsed)| (*line, parsed.id())).collect();
        let piece = Self { objects, remarks: document.remarks, broken: document.broken };
        (piece, document.objects.into_iter().map(|(_, parsed)| parsed).collect())
    }
}

impl FileContent {
    fn objects_of(&self, piece: &Piece) -> Option<(Piece, Vec<Parsed>)> {
        let objects: Option<Vec<Parsed>> = piece.objects.iter().map(|(_, id)| self.objects.get(id).cloned()).collect();
        Some((piece.clone(), objects?))
    }
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
            // A document may begin on the line of the separator; it seldom does.
            let own_line = rest.trim().is_empty();
            (begin, first_line) = if own_line { (at + line.len(), index + 2) } else { (at + 3, index + 1) };
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

#[cfg(test)]
mod tests;
