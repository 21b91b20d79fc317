//! What the programs know about this node: prefixes, devices, settings, and the address filter.

use zerocopy::FromBytes;

use crate::net::{Address, V4, V6};

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
    /// An uplink.
    pub const UPLINK: u32 = 1 << 2;
    /// Connections from outside that arrive here and whose backend is on another node are turned around.
    pub const TURN: u32 = 1 << 3;
    /// Leads to other nodes, by Ethernet frames: what is turned around may leave here.
    pub const OUTWARD: u32 = 1 << 4;
    /// An XDP program runs in the device's driver. Only such a device is sure to send what XDP hands over to it.
    pub const XDP: u32 = 1 << 5;
    /// An XDP program runs here, but the stack runs it.
    pub const XDP_GENERIC: u32 = 1 << 6;
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
