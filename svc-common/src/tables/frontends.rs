//! Where Services answer and who serves them: written by the agent, read for the first packet of a connection.

use zerocopy::FromBytes;

use crate::net::Port;

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
