//! All maps of the datapath: how large they are, where they are pinned, and what they cost.
//!
//! Pinned maps are compared with [`svc_common::tables::MAPS`] before they are opened: a map of another shape under a
//! typed handle would be memory corruption. Sizes come from flags; a pinned map keeps the size it was made with,
//! because the programs that serve right now look at exactly that map.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::ScopedJoinHandle;

use anyhow::{Context as _, bail};
use svc_common::net::{V4, V6};
use svc_common::tables::{self, MAPS, MapKind, MapShape, name};

use super::bpf;
use super::probe;
use super::table::{PerCpuTable, Table};
use super::upgrade::{self, Stage};

macro_rules! maps {
    ($($(#[$doc:meta])* $field:ident: $table:ty = $name:ident;)+) => {
        /// The maps, opened.
        #[derive(Debug)]
        pub struct Maps {
            $($(#[$doc])* pub $field: $table,)+
        }

        impl Maps {
            /// From one descriptor for each name.
            fn assemble(mut fds: HashMap<&'static str, OwnedFd>) -> anyhow::Result<Self> {
                Ok(Self {$(
                    $field: {
                        let fd = fds.remove(name::$name).with_context(|| format!("map {} is missing", name::$name))?;
                        <$table>::new(fd).with_context(|| format!("map {}", name::$name))?
                    },
                )+})
            }

            /// Names and numbers of entries in use, of those that are no arrays.
            pub fn used(&self) -> io::Result<Vec<(&'static str, u32)>> {
                let mut used = Vec::new();
                $(used.extend(self.$field.used()?.map(|count| (name::$name, count)));)+
                Ok(used)
            }

            /// Names and numbers of entries, in the order of [`MAPS`].
            pub fn capacities(&self) -> Vec<(&'static str, u32)> {
                vec![$((name::$name, self.$field.entries()),)+]
            }

            /// Names and descriptors.
            pub(super) fn descriptors(&self) -> Vec<(&'static str, BorrowedFd<'_>)> {
                vec![$((name::$name, self.$field.fd()),)+]
            }
        }
    };
}

maps! {
    /// Frontends, IPv4.
    frontends_v4: Table<tables::FrontendKey<V4>, tables::Frontend> = FRONTENDS_V4;
    /// Frontends, IPv6.
    frontends_v6: Table<tables::FrontendKey<V6>, tables::Frontend> = FRONTENDS_V6;
    /// Backends by id, IPv4.
    backends_v4: Table<u32, tables::Backend<V4>> = BACKENDS_V4;
    /// Backends by id, IPv6.
    backends_v6: Table<u32, tables::Backend<V6>> = BACKENDS_V6;
    /// Backend ids, in ranges.
    slots: Table<u32, u32> = SLOTS;
    /// Source ranges, IPv4.
    source_ranges_v4: Table<tables::SourcePrefix<V4>, u8> = SOURCE_RANGES_V4;
    /// Source ranges, IPv6.
    source_ranges_v6: Table<tables::SourcePrefix<V6>, u8> = SOURCE_RANGES_V6;
    /// Prefixes of pods, IPv4.
    pod_prefixes_v4: Table<tables::Prefix<V4>, u8> = POD_PREFIXES_V4;
    /// Prefixes of pods, IPv6.
    pod_prefixes_v6: Table<tables::Prefix<V6>, u8> = POD_PREFIXES_V6;
    /// Addresses of this node, IPv4.
    node_addresses_v4: Table<V4, u32> = NODE_ADDRESSES_V4;
    /// Addresses of this node, IPv6.
    node_addresses_v6: Table<V6, u32> = NODE_ADDRESSES_V6;
    /// Devices by interface index.
    devices: Table<u32, tables::Device> = DEVICES;
    /// The only settings value.
    settings: Table<u32, tables::Settings> = SETTINGS;
    /// The address filter.
    filter: Table<u32, u64> = FILTER;
    /// Names of service ids.
    services: Table<u32, tables::ServiceRecord> = SERVICES;
    /// Flows, IPv4.
    flows_v4: Table<tables::FlowKey<V4>, tables::Flow<V4>> = FLOWS_V4;
    /// Flows, IPv6.
    flows_v6: Table<tables::FlowKey<V6>, tables::Flow<V6>> = FLOWS_V6;
    /// Affinity records, IPv4.
    affinity_v4: Table<tables::AffinityKey<V4>, tables::Affinity> = AFFINITY_V4;
    /// Affinity records, IPv6.
    affinity_v6: Table<tables::AffinityKey<V6>, tables::Affinity> = AFFINITY_V6;
    /// Fragments, IPv4.
    fragments_v4: Table<tables::FragmentKey<V4>, tables::Fragment> = FRAGMENTS_V4;
    /// Fragments, IPv6.
    fragments_v6: Table<tables::FragmentKey<V6>, tables::Fragment> = FRAGMENTS_V6;
    /// Fragments that wait, IPv4.
    held_v4: Table<tables::FragmentKey<V4>, tables::Held> = HELD_V4;
    /// Fragments that wait, IPv6.
    held_v6: Table<tables::FragmentKey<V6>, tables::Held> = HELD_V6;
    /// Translated sockets, IPv4.
    sockets_v4: Table<tables::SocketKey<V4>, tables::SocketFlow<V4>> = SOCKETS_V4;
    /// Translated sockets, IPv6.
    sockets_v6: Table<tables::SocketKey<V6>, tables::SocketFlow<V6>> = SOCKETS_V6;
    /// What TCP sockets have dialled, IPv4.
    peers_v4: Table<u32, tables::Peer<V4>> = PEERS_V4;
    /// What TCP sockets have dialled, IPv6.
    peers_v6: Table<u32, tables::Peer<V6>> = PEERS_V6;
    /// Counters by service id.
    service_stats: PerCpuTable<tables::Stats> = SERVICE_STATS;
    /// Counters by [`tables::backend_stats_index`].
    backend_stats: Table<u32, tables::BackendStats> = BACKEND_STATS;
    /// Packets by reason.
    reasons: PerCpuTable<u64> = REASONS;
}

/// For how much the tables have room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Services.
    pub services: u32,
    /// Endpoints.
    pub endpoints: u32,
    /// Flows of each family.
    pub flows: u32,
}

impl Default for Sizes {
    fn default() -> Self {
        Self { services: 10_000, endpoints: 100_000, flows: 250_000 }
    }
}

/// Folder of the maps below `--bpffs`: pins of another schema are never opened.
pub fn map_dir(bpffs: &Path) -> PathBuf {
    bpffs.join(format!("v{}", tables::SCHEMA))
}

impl Maps {
    /// Opens the pinned maps, and makes and pins those that are missing, several at a time: the kernel clears the memory
    /// of each.
    pub fn open_or_create(bpffs: &Path, sizes: Sizes) -> anyhow::Result<Opened> {
        fs::create_dir_all(bpffs)
            .with_context(|| format!("cannot make {}; is a BPF file system mounted there?", bpffs.display()))?;
        let (stage, dir, mut remarks) = match upgrade::stage(bpffs)? {
            Some((stage, dir, remarks)) => (Some(stage), dir, remarks),
            None => (None, map_dir(bpffs), Vec::new()),
        };
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let next = AtomicUsize::new(0);
        let work = || -> anyhow::Result<Vec<_>> {
            let mut done = Vec::new();
            while let Some(shape) = MAPS.get(next.fetch_add(1, Ordering::Relaxed)) {
                done.push((shape, provide(&dir, shape, kernel_shape(shape, sizes))?));
            }
            Ok(done)
        };
        let workers = std::thread::available_parallelism().map_or(1, usize::from).min(MAPS.len());
        let done = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
            let join = |worker: ScopedJoinHandle<'_, _>| worker.join().unwrap_or_else(|panic| resume_unwind(panic));
            workers.into_iter().map(join).collect::<anyhow::Result<Vec<_>>>()
        })?;
        let mut fds = HashMap::new();
        let mut fresh = true;
        for (shape, (fd, kept)) in done.into_iter().flatten() {
            fresh &= kept.is_none();
            let asked = entries(shape, sizes);
            if let Some(entries) = kept.filter(|entries| *entries != asked) {
                remarks.push(format!(
                    "map {} keeps its {entries} entries ({asked} asked for): the size of a table in use is changed \
                     only after svc-agent cleanup",
                    shape.name
                ));
            }
            fds.insert(shape.name, fd);
        }
        remarks.sort();
        Ok(Opened { maps: Self::assemble(fds)?, dir, remarks, fresh, stage })
    }

    /// Opens the pinned maps of an agent that may be running or dead.
    pub fn open(bpffs: &Path) -> anyhow::Result<Self> {
        let dir = map_dir(bpffs);
        let mut fds = HashMap::new();
        for shape in MAPS {
            let path = dir.join(shape.name);
            let (fd, _) = open_checked(&path, shape)?.with_context(|| {
                format!(
                    "there is no datapath in {}: {} is missing; has svc-agent run here?",
                    bpffs.display(),
                    shape.name
                )
            })?;
            fds.insert(shape.name, fd);
        }
        Self::assemble(fds)
    }

    /// A set of maps of its own that nobody else sees and that goes with the process. `made` are those that exist
    /// already because programs were loaded on them.
    pub fn private(mut made: HashMap<&'static str, OwnedFd>, sizes: Sizes) -> anyhow::Result<Self> {
        for shape in MAPS {
            if !made.contains_key(shape.name) {
                made.insert(shape.name, create(shape.name, kernel_shape(shape, sizes))?);
            }
        }
        Self::assemble(made)
    }
}

/// The maps of a datapath that is to go on.
#[derive(Debug)]
pub struct Opened {
    /// All of them.
    pub maps: Maps,
    /// Where they are pinned.
    pub dir: PathBuf,
    /// Which maps keep another size than the one asked for, and which are replaced, one line each.
    pub remarks: Vec<String>,
    /// All of them are new, and empty.
    pub fresh: bool,
    /// Some of them replace those of another version, which serve until this is ended.
    pub stage: Option<Stage>,
}

/// Opens a pinned map, or makes and pins it. The second value is the size of one that was there.
fn provide(dir: &Path, shape: &MapShape, wanted: bpf::MapShape) -> anyhow::Result<(OwnedFd, Option<u32>)> {
    let path = dir.join(shape.name);
    if let Some((fd, entries)) = open_checked(&path, shape)? {
        return Ok((fd, Some(entries)));
    }
    let fd = create(shape.name, wanted)?;
    bpf::pin(fd.as_fd(), &path)
        .with_context(|| format!("cannot pin {}; is it on a BPF file system?", path.display()))?;
    Ok((fd, None))
}

fn create(name: &str, shape: bpf::MapShape) -> anyhow::Result<OwnedFd> {
    bpf::map_create(name, shape).with_context(|| {
        format!("cannot create map {name} with {} entries; svc-agent needs CAP_BPF and enough memory", shape.entries)
    })
}

/// Opens a pinned map if it is there and has the shape; its number of entries may differ.
fn open_checked(path: &Path, shape: &MapShape) -> anyhow::Result<Option<(OwnedFd, u32)>> {
    let Some((fd, found)) = open_pinned(path)? else { return Ok(None) };
    if !fits(shape, found) {
        bail!(
            "{} has another shape than this version needs (found {found:?}): it is of another version, which svc-agent run \
             of this one replaces",
            path.display()
        );
    }
    Ok(Some((fd, found.entries)))
}

/// Opens a pinned map of whatever shape, if it is there.
pub(super) fn open_pinned(path: &Path) -> anyhow::Result<Option<(OwnedFd, bpf::MapShape)>> {
    let fd = match bpf::open_pin(path) {
        Ok(fd) => fd,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot open {}", path.display())),
    };
    let (_, found) = bpf::map_info(fd.as_fd()).with_context(|| format!("{} is no map", path.display()))?;
    Ok(Some((fd, found)))
}

/// Whether a map that was found is of this shape, whatever its size.
pub(super) fn fits(shape: &MapShape, found: bpf::MapShape) -> bool {
    let wanted = kernel_shape(shape, Sizes::default());
    bpf::MapShape { entries: wanted.entries, ..found } == wanted
}

/// How a map is made.
fn kernel_shape(shape: &MapShape, sizes: Sizes) -> bpf::MapShape {
    let (kind, flags) = match shape.kind {
        MapKind::Hash => (bpf::HASH, 0),
        MapKind::Array => (bpf::ARRAY, 0),
        MapKind::PerCpuArray => (bpf::PERCPU_ARRAY, 0),
        MapKind::LruHash => (bpf::LRU_HASH, 0),
        MapKind::LpmTrie => (bpf::LPM_TRIE, bpf::NO_PREALLOC),
    };
    bpf::MapShape { kind, key: shape.key, value: shape.value, entries: entries(shape, sizes), flags }
}

/// Tables smaller than this save no memory worth having, and a small LRU map evicts before it is full.
const FEWEST: u32 = 1024;

/// For how many entries a map has room when the tables are to have room for `sizes`: the defaults of the table file
/// hold for the default sizes, everything else is in proportion.
pub fn entries(shape: &MapShape, sizes: Sizes) -> u32 {
    let default = Sizes::default();
    let (asked, usual) = match shape.name {
        name::FRONTENDS_V4
        | name::FRONTENDS_V6
        | name::SOURCE_RANGES_V4
        | name::SOURCE_RANGES_V6
        | name::SERVICES
        | name::SERVICE_STATS => (sizes.services, default.services),
        name::BACKENDS_V4 | name::BACKENDS_V6 | name::SLOTS | name::BACKEND_STATS => {
            (sizes.endpoints, default.endpoints)
        }
        name::FLOWS_V4
        | name::FLOWS_V6
        | name::AFFINITY_V4
        | name::AFFINITY_V6
        | name::SOCKETS_V4
        | name::SOCKETS_V6
        | name::FRAGMENTS_V4
        | name::FRAGMENTS_V6 => (sizes.flows, default.flows),
        _ => return shape.entries,
    };
    let scaled = (u64::from(shape.entries) * u64::from(asked)).div_ceil(u64::from(usual));
    u32::try_from(scaled).unwrap_or(u32::MAX).max(FEWEST)
}

/// Kernel memory of one map, in bytes, as its implementation allocates it at creation. Prefix tries grow with use.
pub fn memory(shape: &MapShape, entries: u32, cpus: usize) -> u64 {
    /// `struct htab_elem` without the key.
    const ELEMENT: u64 = 48;
    /// `struct bucket`.
    const BUCKET: u64 = 16;
    let entries = u64::from(entries);
    let (key, value) = (u64::from(shape.key).next_multiple_of(8), u64::from(shape.value).next_multiple_of(8));
    match shape.kind {
        MapKind::Hash | MapKind::LruHash => entries * (ELEMENT + key + value) + entries.next_power_of_two() * BUCKET,
        MapKind::Array => entries * value,
        MapKind::PerCpuArray => entries * (8 + value * cpus as u64),
        MapKind::LpmTrie => 0,
    }
}

/// Kernel memory of all maps for these sizes, in bytes.
pub fn total_memory(sizes: Sizes) -> io::Result<u64> {
    let cpus = probe::possible_cpus()?;
    Ok(MAPS.iter().map(|shape| memory(shape, entries(shape, sizes), cpus)).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_in_proportion() {
        let of = |name: &str, sizes| entries(MAPS.iter().find(|map| map.name == name).expect("a map"), sizes);
        assert_eq!(of("FLOWS_V4", Sizes::default()), tables::entries::FLOWS_V4);
        assert_eq!(of("FLOWS_V4", Sizes { flows: 500_000, ..Sizes::default() }), 2 * tables::entries::FLOWS_V4);
        assert_eq!(of("SLOTS", Sizes { endpoints: 1, ..Sizes::default() }), FEWEST);
        assert_eq!(of("SETTINGS", Sizes { services: 1, endpoints: 1, flows: 1 }), 1);
    }

    #[test]
    fn the_default_tables_cost_no_more_than_promised() {
        let total: u64 = MAPS.iter().map(|shape| memory(shape, entries(shape, Sizes::default()), 2)).sum();
        assert!(total <= 192 << 20, "{} MiB", total >> 20);
    }
}
