//! The maps, by the names and shapes of [`svc_common::tables`]. Nothing else in this crate declares one.
//!
//! Without type information: the agent makes the maps itself and compares their shapes by sizes.

use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray};
use svc_common::datapath::scratch::Scratch;
use svc_common::line::Line;
use svc_common::net::{V4, V6};
use svc_common::tables::{
    Affinity, AffinityKey, Backend, BackendStats, Device, Flow, FlowKey, Fragment, FragmentKey, Frontend, FrontendKey,
    Held, Peer, ServiceRecord, Settings, SocketFlow, SocketKey, Stats, entries,
};

/// Data part of a key of the source-range tries: [`svc_common::tables::SourcePrefix`] without its length.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Scoped<A> {
    pub(crate) service: u32,
    pub(crate) addr: A,
}

macro_rules! maps {
    ($($name:ident: $kind:ident<$($type:ty),+>$(, $flags:expr)?;)+) => {$(
        #[map]
        pub(crate) static $name: $kind<$($type),+> = maps!(@ $kind, entries::$name $(, $flags)?);
    )+};
    (@ $kind:ident, $entries:expr) => { $kind::with_max_entries($entries, 0) };
    (@ $kind:ident, $entries:expr, $flags:expr) => { $kind::with_max_entries($entries, $flags) };
}

maps! {
    FRONTENDS_V4: HashMap<FrontendKey<V4>, Frontend>;
    FRONTENDS_V6: HashMap<FrontendKey<V6>, Frontend>;
    BACKENDS_V4: Array<Backend<V4>>;
    BACKENDS_V6: Array<Backend<V6>>;
    SLOTS: Array<u32>;
    SOURCE_RANGES_V4: LpmTrie<Scoped<V4>, u8>, BPF_F_NO_PREALLOC;
    SOURCE_RANGES_V6: LpmTrie<Scoped<V6>, u8>, BPF_F_NO_PREALLOC;
    POD_PREFIXES_V4: LpmTrie<V4, u8>, BPF_F_NO_PREALLOC;
    POD_PREFIXES_V6: LpmTrie<V6, u8>, BPF_F_NO_PREALLOC;
    NODE_ADDRESSES_V4: HashMap<V4, u32>;
    NODE_ADDRESSES_V6: HashMap<V6, u32>;
    DEVICES: HashMap<u32, Device>;
    SETTINGS: Array<Settings>;
    FILTER: Array<u64>;
    SERVICES: Array<ServiceRecord>;
    FLOWS_V4: LruHashMap<FlowKey<V4>, Flow<V4>>;
    FLOWS_V6: LruHashMap<FlowKey<V6>, Flow<V6>>;
    AFFINITY_V4: LruHashMap<AffinityKey<V4>, Affinity>;
    AFFINITY_V6: LruHashMap<AffinityKey<V6>, Affinity>;
    FRAGMENTS_V4: LruHashMap<FragmentKey<V4>, Fragment>;
    FRAGMENTS_V6: LruHashMap<FragmentKey<V6>, Fragment>;
    HELD_V4: LruHashMap<FragmentKey<V4>, Held>;
    HELD_V6: LruHashMap<FragmentKey<V6>, Held>;
    SOCKETS_V4: LruHashMap<SocketKey<V4>, SocketFlow<V4>>;
    SOCKETS_V6: LruHashMap<SocketKey<V6>, SocketFlow<V6>>;
    PEERS_V4: Array<Peer<V4>>;
    PEERS_V6: Array<Peer<V6>>;
    SERVICE_STATS: PerCpuArray<Stats>;
    BACKEND_STATS: Array<BackendStats>;
    REASONS: PerCpuArray<u64>;
}

/// Room for the slow paths: index 0 for packets, 1 for the garbage collector. Private to one loaded object: nothing in it outlives a packet, so it is never pinned.
#[map]
pub(crate) static SCRATCH_V4: PerCpuArray<Scratch<V4>> = PerCpuArray::with_max_entries(2, 0);
/// The same for IPv6.
#[map]
pub(crate) static SCRATCH_V6: PerCpuArray<Scratch<V6>> = PerCpuArray::with_max_entries(2, 0);
/// Room for one frame while it is put aside. Never pinned either.
#[map]
pub(crate) static FRAME: PerCpuArray<Held> = PerCpuArray::with_max_entries(1, 0);
/// Not 0 while fragments that have waited are sent on, on this CPU.
#[map]
pub(crate) static RELEASING: PerCpuArray<u32> = PerCpuArray::with_max_entries(1, 0);
/// The line about a socket call. Never pinned either.
#[map]
pub(crate) static CALL_LINE: PerCpuArray<Line> = PerCpuArray::with_max_entries(1, 0);
