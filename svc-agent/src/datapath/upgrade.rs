//! Going on from the pins of another version: maps of another shape are replaced while the old programs serve.
//!
//! The new set of maps is pinned in a folder beside the old one: what has the same shape is the same map, pinned twice;
//! the rest is new. The old programs go on with the old maps until the new ones hold a full state ([`Stage::take_over`]),
//! and only then are their successors put on. An agent that dies before that leaves the old set in force.
//!
//! What the applier writes belongs together, so one table of another shape replaces all of them. What the programs write
//! is replaced one by one. Ids stay with their Services and backends where their tables can be read, because flows,
//! affinity records and counters name them; where they cannot, new ids begin behind the old.

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use svc_common::net::{V4, V6};
use svc_common::tables::{Backend, Entry, MAPS, MapShape, ServiceRecord, Writer as WrittenBy, name};

use super::bpf;
use super::maps::{self, Maps};
use super::table::Table;
use super::writer::{self, Writer};
use crate::apply::{Passed, Present, Sink as _, Write};

/// A set of maps that is being filled, and is in force only when it is full.
#[derive(Debug)]
pub struct Stage {
    bpffs: PathBuf,
    /// Tables that give ids, if those of the agent are replaced.
    legacy: Option<Legacy>,
}

/// Tables of the old set that give ids, if they were there.
#[derive(Debug, Default)]
struct Legacy {
    services: Option<Old>,
    backends_v4: Option<Old>,
    backends_v6: Option<Old>,
}

/// An old table.
#[derive(Debug)]
struct Old {
    fd: OwnedFd,
    found: bpf::MapShape,
    fits: bool,
}

/// Finds out whether pinned maps have to be replaced. If so, a folder is made with all that can be kept; it, and one line
/// for each map that is replaced, come with the stage.
pub(super) fn stage(bpffs: &Path) -> anyhow::Result<Option<(Stage, PathBuf, Vec<String>)>> {
    settle(bpffs)?;
    let dir = maps::map_dir(bpffs);
    let (mut lines, mut legacy, mut kept) = (Vec::new(), Legacy::default(), Vec::new());
    let mut tables_differ = false;
    for shape in MAPS {
        let Some((fd, found)) = maps::open_pinned(&dir.join(shape.name))? else { continue };
        let fits = maps::fits(shape, found);
        if !fits {
            lines.push(remark(shape, found));
            tables_differ |= shape.writer == WrittenBy::Agent;
        }
        let seat = match shape.name {
            name::SERVICES => &mut legacy.services,
            name::BACKENDS_V4 => &mut legacy.backends_v4,
            name::BACKENDS_V6 => &mut legacy.backends_v6,
            _ => &mut None,
        };
        *seat = Some(Old { fd: fd.try_clone()?, found, fits });
        if fits {
            kept.push((shape, fd));
        }
    }
    if !dir.exists() {
        let others = other_dirs(bpffs)?;
        lines.extend(others.iter().map(|other| {
            format!("{}: the tables of another version are replaced, and their connections end", other.display())
        }));
    }
    if lines.is_empty() {
        return Ok(None);
    }
    if tables_differ {
        kept.retain(|(shape, _)| shape.writer == WrittenBy::Programs);
    }
    let next = beside(&dir, "next");
    fs::create_dir(&next).with_context(|| format!("cannot make {}", next.display()))?;
    for (shape, fd) in kept {
        let path = next.join(shape.name);
        bpf::pin(fd.as_fd(), &path).with_context(|| format!("cannot pin {}", path.display()))?;
    }
    Ok(Some((Stage { bpffs: bpffs.into(), legacy: tables_differ.then_some(legacy) }, next, lines)))
}

fn remark(shape: &MapShape, found: bpf::MapShape) -> String {
    let ends = match shape.name {
        name::FLOWS_V4 | name::FLOWS_V6 => ", and its connections end",
        _ => "",
    };
    format!(
        "map {} of another version is replaced{ends} (kind {}, keys of {} bytes, values of {}; needed are {} and {})",
        shape.name, found.kind, found.key, found.value, shape.key, shape.value
    )
}

impl Stage {
    /// What the new tables hold before the first write, and which ids are not to be given out.
    pub fn carry(&self, maps: &Maps) -> anyhow::Result<(Present, Passed)> {
        let Some(legacy) = &self.legacy else { return Ok((maps.present()?, Passed::default())) };
        let (services, services_passed) =
            carry(&legacy.services, maps.services.entries(), |record: &ServiceRecord| record.family == 0)
                .context("cannot read the names of the other version")?;
        let (backends_v4, v4_passed) =
            carry(&legacy.backends_v4, maps.backends_v4.entries(), |backend| *backend == Backend::<V4>::default())
                .context("cannot read the backends of the other version")?;
        let (backends_v6, v6_passed) =
            carry(&legacy.backends_v6, maps.backends_v6.entries(), |backend| *backend == Backend::<V6>::default())
                .context("cannot read the backends of the other version")?;
        let mut writes = Vec::new();
        writes.extend(services.iter().map(|(id, record)| Write::Service(*id, Box::new(*record))));
        writes.extend(backends_v4.iter().map(|(id, backend)| Write::BackendV4(*id, *backend)));
        writes.extend(backends_v6.iter().map(|(id, backend)| Write::BackendV6(*id, *backend)));
        Writer(maps).carry_out(&writes)?;
        let present = Present { services, backends_v4, backends_v6, ..Present::default() };
        Ok((present, Passed { services: services_passed, backends: [v4_passed, v6_passed] }))
    }

    /// The new set takes the place of the old one. The programs that serve now hold on to their maps by themselves.
    pub fn take_over(self) -> anyhow::Result<()> {
        let dir = maps::map_dir(&self.bpffs);
        if dir.exists() {
            rename(&dir, &beside(&dir, "old"))?;
        }
        rename(&beside(&dir, "next"), &dir)?;
        settle(&self.bpffs)
    }
}

/// The used elements of an old array as far as there is room, or else the highest id in use.
fn carry<V: Entry>(old: &Option<Old>, room: u32, is_free: impl Fn(&V) -> bool) -> anyhow::Result<(Vec<(u32, V)>, u32)> {
    let Some(old) = old else { return Ok((Vec::new(), 0)) };
    if old.fits {
        let mut elements = writer::used(&Table::new(old.fd.try_clone()?)?, is_free)?;
        elements.retain(|(id, _)| *id < room);
        return Ok((elements, 0));
    }
    Ok((Vec::new(), highest(old)?))
}

/// The last element that is not zero of an array, whatever its elements are.
fn highest(old: &Old) -> io::Result<u32> {
    if old.found.kind != bpf::ARRAY {
        return Ok(0);
    }
    // The kernel writes whole words.
    let mut value = vec![0u8; old.found.value.next_multiple_of(8) as usize];
    for id in (1..old.found.entries).rev() {
        // SAFETY: the key is a u32, as in any array; the buffer has room for a value, and bytes admit anything.
        let there = unsafe { bpf::map_get(old.fd.as_fd(), (&raw const id).cast(), value.as_mut_ptr()) }?;
        if there && value.iter().any(|byte| *byte != 0) {
            return Ok(id);
        }
    }
    Ok(0)
}

/// Finishes or undoes what an agent has left that died in between, and removes what is not in force.
fn settle(bpffs: &Path) -> anyhow::Result<()> {
    let dir = maps::map_dir(bpffs);
    let (next, old) = (beside(&dir, "next"), beside(&dir, "old"));
    // Between the two renames: the new set was full.
    if !dir.exists() && old.exists() && next.exists() {
        rename(&next, &dir)?;
    }
    let mut gone = vec![next, old];
    if dir.exists() {
        gone.extend(other_dirs(bpffs)?);
    }
    for dir in gone.iter().filter(|dir| dir.exists()) {
        fs::remove_dir_all(dir).with_context(|| format!("cannot remove {}", dir.display()))?;
    }
    Ok(())
}

/// The BPF file system takes no dots in names.
fn beside(dir: &Path, word: &str) -> PathBuf {
    let mut path = dir.as_os_str().to_owned();
    path.push("-");
    path.push(word);
    path.into()
}

fn rename(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::rename(from, to).with_context(|| format!("cannot rename {} to {}", from.display(), to.display()))
}

/// Folders with maps of other schemas.
fn other_dirs(bpffs: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let ours = maps::map_dir(bpffs);
    let own = [beside(&ours, "next"), beside(&ours, "old"), ours];
    let mut others = Vec::new();
    for entry in fs::read_dir(bpffs).with_context(|| format!("cannot read {}", bpffs.display()))? {
        let path = entry?.path();
        if path.is_dir() && is_map_dir(&path) && !own.contains(&path) {
            others.push(path);
        }
    }
    Ok(others)
}

/// Whether a folder below `--bpffs` is for maps, of whichever schema: `v1`, `v2`, `v2-next`, `v2-old`.
pub(super) fn is_map_dir(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_prefix('v'));
    name.is_some_and(|name| {
        let number = name.strip_suffix("-next").or_else(|| name.strip_suffix("-old")).unwrap_or(name);
        number.parse::<u32>().is_ok()
    })
}
