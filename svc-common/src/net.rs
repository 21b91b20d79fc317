//! Addresses, ports and protocols as packets carry them.
//!
//! Whatever travels on the wire in network byte order stays in network byte order in memory, inside types that do
//! not let the two orders mix: a [`Port`] or an address is made from host order by a constructor and nowhere else.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A TCP, UDP or SCTP port, in network byte order.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct Port(u16);

impl Port {
    /// Port 0: "no port" in a wildcard key.
    pub const NONE: Self = Self(0);

    /// From a number in host byte order.
    #[inline(always)]
    pub const fn new(host: u16) -> Self {
        Self(host.to_be())
    }

    /// The number in host byte order.
    #[inline(always)]
    pub const fn get(self) -> u16 {
        u16::from_be(self.0)
    }

    /// The sixteen bits as they stand in memory, for checksum arithmetic and hashing.
    #[inline(always)]
    pub const fn bits(self) -> u16 {
        self.0
    }
}

impl core::fmt::Debug for Port {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}", self.get())
    }
}

/// An IPv4 address, in network byte order.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct V4(u32);

/// An IPv6 address as four words, in network byte order.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct V6([u32; 4]);

impl V4 {
    /// From the standard library's type.
    #[inline(always)]
    pub const fn new(addr: Ipv4Addr) -> Self {
        Self(u32::from_ne_bytes(addr.octets()))
    }

    /// From a word in network byte order, as the kernel hands it to socket programs.
    #[inline(always)]
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits)
    }

    /// The word in network byte order.
    #[inline(always)]
    pub const fn bits(self) -> u32 {
        self.0
    }
}

impl V6 {
    /// From the standard library's type.
    pub const fn new(addr: Ipv6Addr) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = addr.octets();
        Self([
            u32::from_ne_bytes([a, b, c, d]),
            u32::from_ne_bytes([e, f, g, h]),
            u32::from_ne_bytes([i, j, k, l]),
            u32::from_ne_bytes([m, n, o, p]),
        ])
    }

    /// From words in network byte order, as the kernel hands them to socket programs.
    #[inline(always)]
    pub const fn from_words(words: [u32; 4]) -> Self {
        Self(words)
    }

    /// The words in network byte order.
    #[inline(always)]
    pub const fn words(self) -> [u32; 4] {
        self.0
    }
}

/// What the datapath asks of an address, whichever its family.
pub trait Address: Copy + Eq + Default + core::fmt::Debug + 'static {
    /// Length of a full prefix, in bits.
    const BITS: u32;
    /// 4 or 6.
    const VERSION: u8;

    /// Whether `self` sorts below `other` in the canonical order of a [`crate::tables::FlowKey`].
    /// Any total order serves, as long as every program and the agent use the same.
    fn below(self, other: Self) -> bool;

    /// All words folded by exclusive or: input of hash functions.
    fn fold(self) -> u32;

    /// 127.0.0.0/8 or ::1.
    fn is_loopback(self) -> bool;

    /// For people.
    fn to_ip(self) -> IpAddr;

    /// `None` if `addr` is of the other family.
    fn from_ip(addr: IpAddr) -> Option<Self>;

    /// The words of the address as they stand in memory, and zeroes behind those that an IPv4 address has not.
    fn wide(self) -> [u32; 4];

    /// The address that [`Address::wide`] has made.
    fn from_wide(words: [u32; 4]) -> Self;
}

impl Address for V4 {
    const BITS: u32 = 32;
    const VERSION: u8 = 4;

    #[inline(always)]
    fn below(self, other: Self) -> bool {
        self.0 < other.0
    }

    #[inline(always)]
    fn fold(self) -> u32 {
        self.0
    }

    #[inline(always)]
    fn is_loopback(self) -> bool {
        self.0 & u32::from_ne_bytes([0xff, 0, 0, 0]) == u32::from_ne_bytes([127, 0, 0, 0])
    }

    fn to_ip(self) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from(self.0.to_ne_bytes()))
    }

    fn from_ip(addr: IpAddr) -> Option<Self> {
        match addr {
            IpAddr::V4(v4) => Some(Self::new(v4)),
            IpAddr::V6(_) => None,
        }
    }

    #[inline(always)]
    fn wide(self) -> [u32; 4] {
        [self.0, 0, 0, 0]
    }

    fn from_wide(words: [u32; 4]) -> Self {
        Self(words[0])
    }
}

impl Address for V6 {
    const BITS: u32 = 128;
    const VERSION: u8 = 6;

    #[inline(always)]
    fn below(self, other: Self) -> bool {
        // Word by word without an early exit per byte: four compares on the fast path.
        if self.0[3] != other.0[3] {
            return self.0[3] < other.0[3];
        }
        if self.0[2] != other.0[2] {
            return self.0[2] < other.0[2];
        }
        if self.0[1] != other.0[1] {
            return self.0[1] < other.0[1];
        }
        self.0[0] < other.0[0]
    }

    #[inline(always)]
    fn fold(self) -> u32 {
        self.0[0] ^ self.0[1].rotate_left(8) ^ self.0[2].rotate_left(16) ^ self.0[3].rotate_left(24)
    }

    #[inline(always)]
    fn is_loopback(self) -> bool {
        self.0[0] | self.0[1] | self.0[2] == 0 && self.0[3] == 1u32.to_be()
    }

    fn to_ip(self) -> IpAddr {
        let mut octets = [0; 16];
        for (chunk, word) in octets.chunks_exact_mut(4).zip(self.0) {
            chunk.copy_from_slice(&word.to_ne_bytes());
        }
        IpAddr::V6(Ipv6Addr::from(octets))
    }

    fn from_ip(addr: IpAddr) -> Option<Self> {
        match addr {
            IpAddr::V4(_) => None,
            IpAddr::V6(v6) => Some(Self::new(v6)),
        }
    }

    #[inline(always)]
    fn wide(self) -> [u32; 4] {
        self.0
    }

    fn from_wide(words: [u32; 4]) -> Self {
        Self(words)
    }
}

impl core::fmt::Debug for V4 {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}", self.to_ip())
    }
}

impl core::fmt::Debug for V6 {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}", self.to_ip())
    }
}

/// A transport protocol that a Service port can have, by its IP protocol number (IANA).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Protocol {
    /// RFC 9293.
    Tcp = 6,
    /// RFC 768.
    Udp = 17,
    /// RFC 9260.
    Sctp = 132,
}

impl Protocol {
    /// The protocol with this IP protocol number, if a Service port can have it.
    #[inline(always)]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            6 => Some(Self::Tcp),
            17 => Some(Self::Udp),
            132 => Some(Self::Sctp),
            _ => None,
        }
    }

    /// As Kubernetes spells it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        }
    }
}
