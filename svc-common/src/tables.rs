//! Keys and values of every BPF map: the contract between the kernel programs and the agent.
//!
//! All types are `repr(C)` without padding bytes, which is asserted at compile time: the kernel compares keys byte by
//! byte. Integers are in host byte order; addresses and ports are in network byte order inside their own types.
//! Changing the size or the meaning of anything here means raising [`SCHEMA`], which names the pin directory.

use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::net::{Address, Port, V4, V6};

/// Version of all shapes and meanings in this file. Pins of another version are never opened.
pub const SCHEMA: u32 = 1;

/// A map key or value: plain old data without padding.
///
/// `FIELDS` is the sum of the sizes of all fields. That it equals the size of the type is checked at compile time by
/// [`entry!`], so every byte of such a value is initialised and any byte pattern is a valid value.
pub trait Entry: Copy + FromBytes + 'static {
    /// Sum of the sizes of all fields, in bytes.
    const FIELDS: usize;
}

macro_rules! entry {
    ($($type:ty = $size:literal: $($field:ty),+;)+) => {$(
        impl Entry for $type {
            const FIELDS: usize = 0 $(+ size_of::<$field>())+;
        }
        const _: () = assert!(size_of::<$type>() == $size);
        const _: () = assert!(size_of::<$type>() == <$type as Entry>::FIELDS);
    )+};
}

entry! {
    u8 = 1: u8;
    u32 = 4: u32;
    u64 = 8: u64;
    V4 = 4: V4;
    V6 = 16: V6;
    FrontendKey<V4> = 8: V4, Port, u8, u8;
    FrontendKey<V6> = 20: V6, Port, u8, u8;
    Frontend = 32: u32, u32, u32, SlotRange, SlotRange, [Rule; 3], u8;
    Backend<V4> = 8: V4, Port, u16;
    Backend<V6> = 20: V6, Port, u16;
    FlowKey<V4> = 16: V4, V4, Port, Port, u8, [u8; 3];
    FlowKey<V6> = 40: V6, V6, Port, Port, u8, [u8; 3];
    Flow<V4> = 36: V4, V4, Port, Port, u32, u32, u32, u32, u8, u8, u16, Port, u16;
    Flow<V6> = 60: V6, V6, Port, Port, u32, u32, u32, u32, u8, u8, u16, Port, u16;
    AffinityKey<V4> = 8: u32, V4;
    AffinityKey<V6> = 20: u32, V6;
    Affinity = 8: u32, u32;
    Prefix<V4> = 8: u32, V4;
    Prefix<V6> = 20: u32, V6;
    SourcePrefix<V4> = 12: u32, u32, V4;
    SourcePrefix<V6> = 24: u32, u32, V6;
    FragmentKey<V4> = 16: V4, V4, u32, u8, [u8; 3];
    FragmentKey<V6> = 40: V6, V6, u32, u8, [u8; 3];
    Fragment = 8: Port, Port, u32;
    Device = 24: u32, V4, V6;
    SocketKey<V4> = 16: [u32; 2], V4, Port, u8, u8;
    SocketKey<V6> = 28: [u32; 2], V6, Port, u8, u8;
    SocketFlow<V4> = 20: V4, Port, u16, u32, u32, u32;
    SocketFlow<V6> = 32: V6, Port, u16, u32, u32, u32;
    ServiceRecord = 176: [u8; ServiceRecord::NAME], u8, u8, u16, u32;
    Stats = 40: u64, u64, u64, u64, u64;
    BackendStats = 16: u64, u64;
    Collected = 16: u32, u32, u32, u32;
    Settings = 356: [Masked<V4>; SERVICE_CIDRS], [Masked<V6>; SERVICE_CIDRS], u32, u32, V4, V6, u16, u16, u32;
}

/// Key of the frontend map: one address, port and protocol at which a Service answers.
///
/// A key with port 0 and protocol 0 says that the address itself is known; see [`Frontend`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes)]
#[repr(C)]
pub struct FrontendKey<A> {
    /// Destination address. For loopback node ports always 127.0.0.1 or ::1.
    pub addr: A,
    /// Destination port; [`Port::NONE`] in the wildcard key of an address.
    pub port: Port,
    /// IP protocol number; 0 in the wildcard key of an address.
    pub protocol: u8,
    /// Always 0.
    pub zero: u8,
}

/// Who sent the first packet of a connection; index into [`Frontend::rules`]. A pod wins over the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Sender {
    /// A pod by the local detector.
    Pod = 0,
    /// An address of this node.
    Host = 1,
    /// Everybody else: other nodes, clients outside.
    Other = 2,
}

/// A range of the slot table. `len` 0 means that the set is empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes)]
#[repr(C)]
pub struct SlotRange {
    /// Index of the first slot.
    pub base: u32,
    /// Number of slots to choose from. With affinity, the slots after them hold the number of members and then the
    /// distinct members in ascending order, so that membership is a binary search.
    pub len: u32,
}

/// What happens to a new connection from one kind of [`Sender`]: a small set of `Rule::*` bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes)]
#[repr(transparent)]
pub struct Rule(pub u8);

impl Rule {
    /// Choose from [`Frontend::local`] instead of [`Frontend::cluster`].
    pub const LOCAL: u8 = 1 << 0;
    /// Translate the source to an address of this node.
    pub const SNAT: u8 = 1 << 1;
    /// With an empty set: drop in silence instead of refusing.
    pub const DROP: u8 = 1 << 2;

    /// Whether all of `bits` are set.
    #[inline(always)]
    pub const fn has(self, bits: u8) -> bool {
        self.0 & bits == bits
    }
}

/// Value of the frontend map. One value is replaced by one write, so a packet sees all of it, old or new.
///
/// A wildcard value (key with port 0, protocol 0) uses only `flags`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes)]
#[repr(C)]
pub struct Frontend {
    /// Id of the service port and family that owns the frontend: index of the service record and the counters, key of
    /// affinity records and source ranges. All frontends of a service port and family share it.
    pub service: u32,
    /// `Frontend::*` bits.
    pub flags: u32,
    /// Lifetime of an affinity record, in seconds; 0 without affinity.
    pub affinity: u32,
    /// The Cluster set.
    pub cluster: SlotRange,
    /// The Local set.
    pub local: SlotRange,
    /// By [`Sender`].
    pub rules: [Rule; 3],
    /// How to choose among the slots: an [`Algorithm`].
    pub algorithm: u8,
}

impl Frontend {
    /// A new connection is admitted only if its source is in the source-range trie under this service's id.
    pub const SOURCE_RANGES: u32 = 1 << 0;
    /// Wildcard value: the address is a ClusterIP; other ports and protocols are refused.
    pub const CLUSTER_IP: u32 = 1 << 1;
    /// Wildcard value: the address belongs to a Service that another proxy serves; never dropped as unallocated.
    pub const FOREIGN: u32 = 1 << 2;
    /// NodePort, load-balancer address or external IP: traffic for a remote backend may be turned around at XDP.
    pub const EXTERNAL: u32 = 1 << 3;
    /// A frontend on a loopback address: matched by socket hooks only.
    pub const LOOPBACK: u32 = 1 << 4;

    /// Whether all of `bits` are set.
    #[inline(always)]
    pub const fn has(&self, bits: u32) -> bool {
        self.flags & bits == bits
    }
}

/// How `slots[base + h % len]` gets its `h`. Weights and Maglev tables are in the slots themselves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Algorithm {
    /// `h` is random (rr of ipvs without its counter: the default of kube-proxy).
    #[default]
    Random = 0,
    /// `h` is a per-CPU counter of the service.
    RoundRobin = 1,
    /// `h` is a hash of the five-tuple; the slots are a Maglev table.
    FlowHash = 2,
    /// `h` is a hash of the source address.
    SourceHash = 3,
    /// `h` is a hash of the destination address.
    DestinationHash = 4,
    /// Two random slots, the one with fewer active connections per weight.
    LeastConnections = 5,
    /// The same with one connection added to each before comparing (shortest expected delay).
    ShortestDelay = 6,
}

/// Value of the backend array, by backend id. Id 0 is never used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes)]
#[repr(C)]
pub struct Backend<A> {
    /// Address of the endpoint.
    pub addr: A,
    /// Port of the endpoint.
    pub port: Port,
    /// `backend::*` bits.
    pub flags: u16,
}

/// Bits of [`Backend::flags`].
pub mod backend {
    /// The endpoint runs on this node.
    pub const LOCAL: u16 = 1 << 0;
}

/// Key of the flow map: a five-tuple in canonical order, so that both directions of a connection share one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes)]
#[repr(C)]
pub struct FlowKey<A> {
    /// The lower end, by address and then by port.
    pub low: A,
    /// The higher end.
    pub high: A,
    /// Port of the lower end.
    pub low_port: Port,
    /// Port of the higher end.
    pub high_port: Port,
    /// IP protocol number.
    pub protocol: u8,
    /// Always 0.
    pub zero: [u8; 3],
}

/// Value of the flow map. See `conntrack` for the three roles and for who creates, renews and retires entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes)]
#[repr(C)]
pub struct Flow<A> {
    /// Meaning by role: the backend (client view), the service address (middle view), the client (backend view).
    pub first: A,
    /// Meaning by role: the node's address (client view and middle view, once the source is translated), the service
    /// address (backend view).
    pub second: A,
    /// Port that belongs to `first`.
    pub first_port: Port,
    /// Port that belongs to `second`; [`Port::NONE`]: `second` is not set.
    pub second_port: Port,
    /// Low 32 bits of jiffies when a packet was last seen; written at most once a second.
    pub seen: u32,
    /// Low 32 bits of jiffies when the entry was made.
    pub opened: u32,
    /// Id of the service port that made the flow.
    pub service: u32,
    /// Id of the chosen backend.
    pub backend: u32,
    /// A `flow::Role`.
    pub role: u8,
    /// `flow::*` state bits.
    pub state: u8,
    /// `flow::*` flag bits.
    pub flags: u16,
    /// [`Port::NONE`], unless the client's port had to be changed because its tuple with the backend was taken. Then
    /// the client's port between the boundaries (client view), or its own port (middle and backend view).
    pub client_port: Port,
    /// Always 0.
    pub zero: u16,
}

/// Roles, state bits and flags of a [`Flow`].
pub mod flow {
    /// Client and service address: what the client sees.
    pub const CLIENT: u8 = 1;
    /// Client and backend: what stands between the two boundaries.
    pub const MIDDLE: u8 = 2;
    /// Node and backend: what the backend sees of a translated source.
    pub const BACKEND: u8 = 3;

    /// A packet has been seen in the direction client to backend.
    pub const REQUESTED: u8 = 1 << 0;
    /// A packet has been seen in the direction backend to client.
    pub const REPLIED: u8 = 1 << 1;
    /// The client has sent FIN (SCTP: SHUTDOWN).
    pub const CLIENT_FIN: u8 = 1 << 2;
    /// The backend has sent FIN (SCTP: SHUTDOWN).
    pub const BACKEND_FIN: u8 = 1 << 3;
    /// Either side has sent RST (SCTP: ABORT).
    pub const RESET: u8 = 1 << 4;

    /// The source has to be translated at the backend's boundary.
    pub const SNAT: u16 = 1 << 0;
    /// The client is a process of this node: its replies are translated at ingress, not at egress.
    pub const HOST_CLIENT: u16 = 1 << 1;
    /// The initiating end (client, or node in the backend view) is the lower end of the key.
    pub const LOW: u16 = 1 << 2;
    /// Made at XDP for a remote backend: XDP rewrites both ends at once and turns the packet around.
    pub const TURNED: u16 = 1 << 3;
}

/// Key of the affinity map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes)]
#[repr(C)]
pub struct AffinityKey<A> {
    /// Id of the service port and family.
    pub service: u32,
    /// Client as it arrives, before translation; 127.0.0.1 or ::1 stands for this host, whichever address it uses.
    pub client: A,
}

/// Value of the affinity map.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes)]
#[repr(C)]
pub struct Affinity {
    /// Id of the backend that the client's last new connection got.
    pub backend: u32,
    /// Low 32 bits of jiffies of the last new connection.
    pub seen: u32,
}

/// Key of a prefix trie of addresses (`BPF_MAP_TYPE_LPM_TRIE`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes)]
#[repr(C)]
pub struct Prefix<A> {
    /// Number of leading bits that count.
    pub len: u32,
    /// The prefix, host bits zero.
    pub addr: A,
}

/// Key of the source-range trie: prefixes of one service's clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes)]
#[repr(C)]
pub struct SourcePrefix<A> {
    /// 32 bits of `service` and then the leading bits of `addr` that count.
    pub len: u32,
    /// Id of the service port and family.
    pub service: u32,
    /// The prefix, host bits zero.
    pub addr: A,
}

/// Key of the fragment map: what all fragments of one datagram have in common (RFC 791, RFC 8200).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes)]
#[repr(C)]
pub struct FragmentKey<A> {
    /// Source address.
    pub source: A,
    /// Destination address.
    pub destination: A,
    /// Identification, as the packet carries it (16 bits for IPv4).
    pub id: u32,
    /// IP protocol number.
    pub protocol: u8,
    /// Always 0.
    pub zero: [u8; 3],
}

/// Ports that the first fragment carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes)]
#[repr(C)]
pub struct Fragment {
    /// Source port.
    pub source: Port,
    /// Destination port.
    pub destination: Port,
    /// Low 32 bits of jiffies when the first fragment was seen.
    pub seen: u32,
}

/// Value of the device map, by interface index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes)]
#[repr(C)]
pub struct Device {
    /// `device::*` bits.
    pub flags: u32,
    /// Source address for translated IPv4 packets that leave by this device.
    pub source_v4: V4,
    /// Source address for translated IPv6 packets that leave by this device.
    pub source_v6: V6,
}

/// Bits of [`Device::flags`].
pub mod device {
    /// The interface detectors take a sender behind this device for a pod.
    pub const POD: u32 = 1 << 0;
    /// Packets have no Ethernet header (tun, ipip, wireguard).
    pub const LAYER3: u32 = 1 << 1;
    /// An uplink: XDP may turn packets around here.
    pub const UPLINK: u32 = 1 << 2;
}

/// Key of the socket map: what a translated socket believes, or what it really talks to.
///
/// With kind [`socket::FORWARD`] `addr` is the service address to which an unconnected UDP socket sends; with
/// [`socket::REVERSE`] it is the backend from which the socket receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes)]
#[repr(C)]
pub struct SocketKey<A> {
    /// Socket cookie, low word first (two words keep the key free of padding).
    pub cookie: [u32; 2],
    /// See the type.
    pub addr: A,
    /// Port that belongs to `addr`.
    pub port: Port,
    /// A `socket::*` kind.
    pub kind: u8,
    /// IP protocol number.
    pub protocol: u8,
}

/// Kinds of [`SocketKey`].
pub mod socket {
    /// From the service address to the backend.
    pub const FORWARD: u8 = 1;
    /// From the backend to the service address.
    pub const REVERSE: u8 = 2;
}

/// Value of the socket map: the other end of the translation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes)]
#[repr(C)]
pub struct SocketFlow<A> {
    /// The backend (forward) or the service address (reverse).
    pub addr: A,
    /// Port that belongs to `addr`.
    pub port: Port,
    /// Always 0.
    pub zero: u16,
    /// Id of the service port.
    pub service: u32,
    /// Id of the chosen backend.
    pub backend: u32,
    /// Low 32 bits of jiffies when the socket last used it; written at most once a second.
    pub seen: u32,
}

/// Who a service id is: written by the agent for the command line and for its own restart, not read by any program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes)]
#[repr(C)]
pub struct ServiceRecord {
    /// `namespace/name:port`, filled up with zero bytes. All zero: the id is free.
    pub name: [u8; Self::NAME],
    /// IP protocol number.
    pub protocol: u8,
    /// 4 or 6.
    pub family: u8,
    /// Always 0.
    pub zero: u16,
    /// Always 0.
    pub reserved: u32,
}

impl ServiceRecord {
    /// Room for a namespace, a Service and a port name (63 + 63 + 15 characters) and two separators, rounded up.
    pub const NAME: usize = 168;
}

/// Counters of one service id, one per CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes)]
#[repr(C)]
pub struct Stats {
    /// New connections.
    pub connections: u64,
    /// Packets from clients to backends.
    pub request_packets: u64,
    /// Bytes of those, from the network header on.
    pub request_bytes: u64,
    /// Packets from backends to clients.
    pub reply_packets: u64,
    /// Bytes of those.
    pub reply_bytes: u64,
}

/// What a run of the garbage collector found: written to the first bytes of the packet that the agent runs it on, which
/// is at least 64 bytes long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct Collected {
    /// Entries that it looked at, IPv4.
    pub seen_v4: u32,
    /// Entries that it removed, IPv4.
    pub removed_v4: u32,
    /// Entries that it looked at, IPv6.
    pub seen_v6: u32,
    /// Entries that it removed, IPv6.
    pub removed_v6: u32,
}

/// An address and a mask: matches what is equal under the mask.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes)]
#[repr(C)]
pub struct Masked<A> {
    /// The prefix, host bits zero.
    pub addr: A,
    /// One bits where the address counts.
    pub mask: A,
}

/// How many ServiceCIDR prefixes a family can have. They are compared one by one for packets that are no Service's,
/// which is cheaper than a trie for the one or two prefixes of a real cluster.
pub const SERVICE_CIDRS: usize = 8;

/// The only value of the settings map: what may change while the programs run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes)]
#[repr(C)]
pub struct Settings {
    /// Prefixes whose unallocated addresses are dropped, IPv4.
    pub service_cidrs_v4: [Masked<V4>; SERVICE_CIDRS],
    /// The same, IPv6.
    pub service_cidrs_v6: [Masked<V6>; SERVICE_CIDRS],
    /// How many of `service_cidrs_v4` count.
    pub service_cidr_count_v4: u32,
    /// How many of `service_cidrs_v6` count.
    pub service_cidr_count_v6: u32,
    /// Primary address of this node: source of translated packets where the device has no address of its own.
    pub primary_v4: V4,
    /// The same, IPv6.
    pub primary_v6: V6,
    /// First port for translated sources, in host byte order.
    pub snat_port_first: u16,
    /// Last port for translated sources, in host byte order.
    pub snat_port_last: u16,
    /// `settings::*` bits.
    pub flags: u32,
}

/// Bits of [`Settings::flags`].
pub mod settings {
    /// A detector by prefix is configured: the pod-prefix tries say who is a pod.
    pub const DETECT_PREFIX: u32 = 1 << 0;
    /// A detector by interface is configured: [`super::device::POD`] says who is a pod.
    pub const DETECT_DEVICE: u32 = 1 << 1;
}

/// Number of bits of the address filter: a bitmap that says "no frontend has this address" for nearly every address
/// that none has, so that a packet that is no Service's costs no frontend lookup. A power of two.
pub const FILTER_BITS: u32 = 1 << 20;

/// Number of 64-bit words of the address filter.
pub const FILTER_WORDS: u32 = FILTER_BITS / 64;

/// Bit of `addr` in the address filter: the word and the mask within it.
#[inline(always)]
pub fn filter_bit<A: Address>(addr: A) -> (u32, u64) {
    // Fibonacci hashing: the high bits of the product depend on all bits of the address.
    let bit = addr.fold().wrapping_mul(0x9e37_79b1) >> (32 - FILTER_BITS.trailing_zeros());
    (bit / 64, 1 << (bit % 64))
}

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
    /// The flat array of backend ids that [`SlotRange`] points into; both families.
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
    /// Translated sockets, IPv4.
    SOCKETS_V4: LruHash<SocketKey<V4>, SocketFlow<V4>>(32_768), Programs;
    /// Translated sockets, IPv6.
    SOCKETS_V6: LruHash<SocketKey<V6>, SocketFlow<V6>>(32_768), Programs;
    /// Counters by service id.
    SERVICE_STATS: PerCpuArray<u32, Stats>(32_768), Programs;
    /// New and retired connections by backend, both families: see [`backend_stats_index`].
    BACKEND_STATS: Array<u32, BackendStats>(262_144), Programs;
    /// Packets by [`crate::verdict::Reason`].
    REASONS: PerCpuArray<u32, u64>(128), Programs;
}

/// Index of a backend in the map of backend counters: ids of the two families take turns.
#[inline(always)]
pub const fn backend_stats_index<A: Address>(id: u32) -> u32 {
    id * 2 + (A::VERSION == 6) as u32
}

/// Counters of one backend id, shared by all CPUs and changed by atomic additions: once a connection, not once a
/// packet, so that least-connections sees true numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes)]
#[repr(C)]
pub struct BackendStats {
    /// New connections since the id was given out.
    pub opened: u64,
    /// Connections retired since the id was given out: `opened - closed` are active.
    pub closed: u64,
}
