//! What the files of a directory hold, and what changes when they do.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::super::Interner;
use super::super::manifest::{self, FileContent, Id, Parsed};

/// What tells whether a file has changed, without reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// Of the file that a path leads to: through links, so that turning a link changes it.
    fn of(path: &Path) -> io::Result<Self> {
        let meta = std::fs::metadata(path)?;
        Ok(Self {
            device: meta.dev(),
            inode: meta.ino(),
            size: meta.size(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        })
    }

    /// Which file or directory it is, whatever is in it.
    pub(super) fn identity(path: &Path) -> Option<Self> {
        let stamp = Self::of(path).ok()?;
        Some(Self { size: 0, modified: (0, 0), changed: (0, 0), ..stamp })
    }
}

#[derive(Debug, Default)]
struct File {
    stamp: Option<Stamp>,
    content: FileContent,
}

/// All files, and which of them have each object.
#[derive(Debug, Default)]
pub(super) struct Files {
    files: BTreeMap<PathBuf, File>,
    /// The last one counts, as it would if they were applied one after another.
    owners: HashMap<Id, BTreeSet<PathBuf>>,
    names: Interner,
    /// Why the directory cannot be read; said once.
    trouble: Option<String>,
}

type Changes = Vec<(Id, Option<Parsed>)>;

impl Files {
    /// Reads what has changed below `root`. Files in `busy` are being written: what was read of them stays for now.
    pub(super) fn scan(&mut self, root: &Path, busy: &BTreeSet<PathBuf>) -> (Changes, Vec<String>) {
        let mut warnings = Vec::new();
        let present = match manifest::files(root) {
            Ok(present) => present,
            Err(error) => {
                // Gone as a whole, as when a volume is unmounted: the last good state serves.
                let text = format!("{}: cannot be read: {error}: what was read before stays in force", root.display());
                if self.trouble.as_ref() != Some(&text) {
                    warnings.push(text.clone());
                    self.trouble = Some(text);
                }
                return (Vec::new(), warnings);
            }
        };
        self.trouble = None;
        let mut affected = BTreeSet::new();
        let gone: Vec<_> = self.files.keys().filter(|path| present.binary_search(path).is_err()).cloned().collect();
        for path in gone {
            self.replace(&path, File::default(), &mut affected);
            self.files.remove(&path);
        }
        for path in present.into_iter().filter(|path| !busy.contains(path)) {
            self.read(&path, &mut affected, &mut warnings);
        }
        let changes = affected.into_iter().map(|id| {
            let object = self.effective(&id, &mut warnings);
            (id, object)
        });
        (changes.collect(), warnings)
    }

    fn read(&mut self, path: &Path, affected: &mut BTreeSet<Id>, warnings: &mut Vec<String>) {
        let known = self.files.get(path);
        // The stamp is taken before reading: what is written meanwhile is seen next time.
        let stamp = Stamp::of(path);
        if let (Some(known), Ok(stamp)) = (known, &stamp)
            && known.stamp.as_ref() == Some(stamp)
        {
            return;
        }
        let empty = FileContent::default();
        let before = known.map_or(&empty, |known| &known.content);
        let content = stamp.and_then(|stamp| Ok((stamp, manifest::read_file(path, before, &mut self.names)?)));
        let (stamp, mut content) = match content {
            Ok(content) => content,
            // It went away between listing and reading: the next comparison sees it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => {
                warnings.push(format!("{}: cannot be read: {error}", path.display()));
                let stamp = Stamp::of(path).ok();
                self.files.entry(path.to_owned()).or_default().stamp = stamp;
                return;
            }
        };
        warnings.append(&mut content.warnings);
        if content.broken
            && let Some(known) = known
        {
            let missing: Vec<_> =
                known.content.objects.iter().filter(|(id, _)| !content.objects.contains_key(*id)).collect();
            if !missing.is_empty() {
                let names: Vec<_> = missing.iter().map(|((kind, key), _)| format!("{kind} {key}")).collect();
                warnings.push(format!(
                    "{}: until it is mended this stays as it was: {}",
                    path.display(),
                    names.join(", ")
                ));
            }
            content.objects.extend(missing.into_iter().map(|(id, parsed)| (id.clone(), parsed.clone())));
        }
        self.replace(path, File { stamp: Some(stamp), content }, affected);
    }

    /// Puts new content in the place of the old and notes which objects differ.
    fn replace(&mut self, path: &Path, new: File, affected: &mut BTreeSet<Id>) {
        let file = self.files.entry(path.to_owned()).or_default();
        for id in file.content.objects.keys().filter(|id| !new.content.objects.contains_key(*id)) {
            affected.insert(id.clone());
            if let Some(owners) = self.owners.get_mut(id) {
                owners.remove(path);
                if owners.is_empty() {
                    self.owners.remove(id);
                }
            }
        }
        for (id, parsed) in &new.content.objects {
            if file.content.objects.get(id) != Some(parsed) {
                affected.insert(id.clone());
                self.owners.entry(id.clone()).or_default().insert(path.to_owned());
            }
        }
        *file = new;
    }

    fn effective(&self, id: &Id, warnings: &mut Vec<String>) -> Option<Parsed> {
        let mut owners = self.owners.get(id)?.iter().rev();
        let last = owners.next()?;
        if let Some(other) = owners.next() {
            warnings.push(manifest::twice(id, last, other));
        }
        self.files.get(last)?.content.objects.get(id).cloned()
    }
}
