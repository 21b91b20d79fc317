//! What the programs count, and whom a service id stands for.

use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::net::Address;

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
