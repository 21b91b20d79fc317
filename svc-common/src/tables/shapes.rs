//! Every map: name, kind, key, value, size, and who writes it.

use crate::net::{V4, V6};

use super::{
    Affinity, AffinityKey, Backend, BackendStats, Device, FILTER_WORDS, Flow, FlowKey, Fragment, FragmentKey, Frontend,
    FrontendKey, Held, PEERS, Peer, Prefix, ServiceRecord, Settings, SocketFlow, SocketKey, SourcePrefix, Stats,
};

/// Kinds of BPF map that the datapath uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapKind {
    /// `BPF_MAP_TYPE_HASH`.
    Hash,
    /// `BPF_MAP_TYPE_LRU_HASH`.
    LruHash,
    /// `BPF_MAP_TYPE_ARRAY`.
    Array,
    /// `BPF_MAP_TYPE_PERCPU_ARRAY`.
    PerCpuArray,
    /// `BPF_MAP_TYPE_LPM_TRIE`.
    LpmTrie,
}

/// What one map looks like. The agent compares this with a pinned map before it opens it.
#[derive(Clone, Copy, Debug)]
pub struct MapShape {
    /// Name in the object and name of the pin.
    pub name: &'static str,
    /// Kind of map.
    pub kind: MapKind,
    /// Size of a key, in bytes.
    pub key: u32,
    /// Size of a value, in bytes.
    pub value: u32,
    /// Default number of entries.
    pub entries: u32,
    /// Who writes it: the agent, the programs, or both.
    pub writer: Writer,
}

/// Who may write a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writer {
    /// The applier in the agent, nobody else.
    Agent,
    /// The kernel programs; the agent only reads, and deletes what has gone stale.
    Programs,
}

macro_rules! maps {
    ($($(#[$doc:meta])* $name:ident: $kind:ident<$key:ty, $value:ty>($entries:expr), $writer:ident;)+) => {
        /// Names of the maps.
        pub mod name {
            $($(#[$doc])* pub const $name: &str = stringify!($name);)+
        }

        /// Every map, with its shape. The programs and the agent both take names, types and sizes from here.
        pub const MAPS: &[MapShape] = &[$(MapShape {
            name: stringify!($name),
            kind: MapKind::$kind,
            key: size_of::<$key>() as u32,
            value: size_of::<$value>() as u32,
            entries: $entries,
            writer: Writer::$writer,
        },)+];

        /// Default number of entries, by map.
        pub mod entries {
            use super::*;
            $($(#[$doc])* pub const $name: u32 = $entries;)+
        }
    };
}

maps! {
    /// Frontends, IPv4.
    FRONTENDS_V4: Hash<FrontendKey<V4>, Frontend>(65_536), Agent;
    /// Frontends, IPv6.
    FRONTENDS_V6: Hash<FrontendKey<V6>, Frontend>(65_536), Agent;
    /// Backends by id, IPv4.
    BACKENDS_V4: Array<u32, Backend<V4>>(131_072), Agent;
    /// Backends by id, IPv6.
    BACKENDS_V6: Array<u32, Backend<V6>>(131_072), Agent;
    /// The flat array of backend ids that [`super::SlotRange`] points into; both families.
    SLOTS: Array<u32, u32>(1_048_576), Agent;
    /// Source ranges of services, IPv4.
    SOURCE_RANGES_V4: LpmTrie<SourcePrefix<V4>, u8>(65_536), Agent;
    /// Source ranges of services, IPv6.
    SOURCE_RANGES_V6: LpmTrie<SourcePrefix<V6>, u8>(65_536), Agent;
    /// Prefixes whose addresses are pods, IPv4.
    POD_PREFIXES_V4: LpmTrie<Prefix<V4>, u8>(1_024), Agent;
    /// Prefixes whose addresses are pods, IPv6.
    POD_PREFIXES_V6: LpmTrie<Prefix<V6>, u8>(1_024), Agent;
    /// Addresses of this node, IPv4 (loopback is known without the map).
    NODE_ADDRESSES_V4: Hash<V4, u32>(4_096), Agent;
    /// Addresses of this node, IPv6.
    NODE_ADDRESSES_V6: Hash<V6, u32>(4_096), Agent;
    /// Devices by interface index.
    DEVICES: Hash<u32, Device>(8_192), Agent;
    /// The only settings value.
    SETTINGS: Array<u32, Settings>(1), Agent;
    /// The address filter, both families.
    FILTER: Array<u32, u64>(FILTER_WORDS), Agent;
    /// Names of service ids.
    SERVICES: Array<u32, ServiceRecord>(32_768), Agent;
    /// Flows, IPv4. Two entries a flow, three where the source is translated.
    FLOWS_V4: LruHash<FlowKey<V4>, Flow<V4>>(500_000), Programs;
    /// Flows, IPv6.
    FLOWS_V6: LruHash<FlowKey<V6>, Flow<V6>>(500_000), Programs;
    /// Affinity records, IPv4.
    AFFINITY_V4: LruHash<AffinityKey<V4>, Affinity>(32_768), Programs;
    /// Affinity records, IPv6.
    AFFINITY_V6: LruHash<AffinityKey<V6>, Affinity>(32_768), Programs;
    /// Ports of fragmented datagrams, IPv4.
    FRAGMENTS_V4: LruHash<FragmentKey<V4>, Fragment>(4_096), Programs;
    /// Ports of fragmented datagrams, IPv6.
    FRAGMENTS_V6: LruHash<FragmentKey<V6>, Fragment>(4_096), Programs;
    /// Fragments that wait for the first of their datagram, IPv4.
    HELD_V4: LruHash<FragmentKey<V4>, Held>(128), Programs;
    /// Fragments that wait for the first of their datagram, IPv6.
    HELD_V6: LruHash<FragmentKey<V6>, Held>(128), Programs;
    /// Translated sockets of UDP, IPv4.
    SOCKETS_V4: LruHash<SocketKey<V4>, SocketFlow<V4>>(16_384), Programs;
    /// Translated sockets of UDP, IPv6.
    SOCKETS_V6: LruHash<SocketKey<V6>, SocketFlow<V6>>(16_384), Programs;
    /// What TCP sockets have dialled, IPv4.
    PEERS_V4: Array<u32, Peer<V4>>(PEERS), Programs;
    /// What TCP sockets have dialled, IPv6.
    PEERS_V6: Array<u32, Peer<V6>>(PEERS), Programs;
    /// Counters by service id.
    SERVICE_STATS: PerCpuArray<u32, Stats>(32_768), Programs;
    /// New and retired connections by backend, both families: see [`backend_stats_index`].
    BACKEND_STATS: Array<u32, BackendStats>(262_144), Programs;
    /// Packets by [`crate::verdict::Reason`].
    REASONS: PerCpuArray<u32, u64>(128), Programs;
}
