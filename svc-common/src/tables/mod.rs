//! Keys and values of every BPF map: the contract between the kernel programs and the agent.
//!
//! All types are `repr(C)` without padding bytes, which is asserted at compile time: the kernel compares keys byte by
//! byte. Integers are in host byte order; addresses and ports are in network byte order inside their own types.
//! A newer agent sees by itself that a map has another size. Changing the meaning of anything here without changing its
//! size means raising [`SCHEMA`], which names the pin directory.

use zerocopy::FromBytes;

use crate::net::{Port, V4, V6};

mod counters;
mod flows;
mod frontends;
mod node;
mod shapes;

pub use counters::{BackendStats, Collected, ServiceRecord, Stats, backend_stats_index};
pub use flows::{
    Affinity, AffinityKey, Flow, FlowKey, Fragment, FragmentKey, HELD, HELD_BYTES, Held, PEERS, Peer, SocketFlow,
    SocketKey, flow, socket,
};
pub use frontends::{Algorithm, Backend, Frontend, FrontendKey, Rule, Sender, SlotRange, backend};
pub use node::{
    Device, FILTER_BITS, FILTER_WORDS, Masked, Prefix, SERVICE_CIDRS, Settings, SourcePrefix, device, filter_bit,
    settings,
};
pub use shapes::{MAPS, MapKind, MapShape, Writer, entries, name};

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
    FragmentKey<V4> = 16: V4, V4, u32, u8, u8, u16;
    FragmentKey<V6> = 40: V6, V6, u32, u8, u8, u16;
    Fragment = 8: Port, Port, u32;
    Peer<V4> = 28: [u32; 2], V4, V4, Port, Port, u32, u32;
    Peer<V6> = 52: [u32; 2], V6, V6, Port, Port, u32, u32;
    Held = 2048: u32, u32, [u8; HELD_BYTES];
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
