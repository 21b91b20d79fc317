//! Packet headers as words, in the byte order of the wire.
//!
//! Fields are words and not byte arrays because the kernel's instruction set assembles an array byte by byte.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::net::{Port, V4, V6};

/// Ethernet types, in host byte order.
pub mod ether {
    /// IPv4.
    pub const IPV4: u16 = 0x0800;
    /// IPv6.
    pub const IPV6: u16 = 0x86dd;
    /// IEEE 802.1Q tag.
    pub const VLAN: u16 = 0x8100;
    /// IEEE 802.1ad (provider) tag.
    pub const QINQ: u16 = 0x88a8;
    /// Length of an Ethernet header.
    pub const HEADER: usize = 14;
    /// Length of one tag.
    pub const TAG: usize = 4;
}

/// IP protocol numbers that are not in [`crate::net::Protocol`].
pub mod protocol {
    /// ICMP for IPv4.
    pub const ICMP: u8 = 1;
    /// ICMP for IPv6.
    pub const ICMPV6: u8 = 58;
    /// IPv6 hop-by-hop options.
    pub const HOP_BY_HOP: u8 = 0;
    /// IPv6 routing header.
    pub const ROUTING: u8 = 43;
    /// IPv6 fragment header.
    pub const FRAGMENT: u8 = 44;
    /// IPv6 destination options.
    pub const DESTINATION: u8 = 60;
    /// IPsec authentication header.
    pub const AUTHENTICATION: u8 = 51;
    /// IPv6: nothing follows.
    pub const NONE: u8 = 59;
}

/// The fixed part of an IPv4 header (RFC 791).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Ipv4 {
    /// Version (high four bits) and header length in words.
    pub version_length: u8,
    /// Type of service.
    pub tos: u8,
    /// Length of header and payload.
    pub total_length: u16,
    /// Identification, the same in all fragments.
    pub id: u16,
    /// Flags and fragment offset in units of eight bytes.
    pub fragment: u16,
    /// Time to live.
    pub ttl: u8,
    /// Protocol number.
    pub protocol: u8,
    /// Checksum of the header.
    pub checksum: u16,
    /// Source address.
    pub source: V4,
    /// Destination address.
    pub destination: V4,
}

/// The fixed part of an IPv6 header (RFC 8200).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Ipv6 {
    /// Version, traffic class and flow label.
    pub version_class_flow: u32,
    /// Length of everything behind this header.
    pub payload_length: u16,
    /// Number of the next header.
    pub next: u8,
    /// Hop limit.
    pub hop_limit: u8,
    /// Source address.
    pub source: V6,
    /// Destination address.
    pub destination: V6,
}

/// What all IPv6 extension headers begin with, and the fragment header in full.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Extension {
    /// Number of the next header.
    pub next: u8,
    /// Length in units of eight bytes, not counting the first eight.
    pub length: u8,
    /// Fragment header: offset and the flag "more fragments".
    pub fragment: u16,
    /// Fragment header: identification.
    pub id: u32,
}

/// Source and destination port: the beginning of TCP, UDP and SCTP alike.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Ports {
    /// Source port.
    pub source: Port,
    /// Destination port.
    pub destination: Port,
}

/// A TCP header without options (RFC 9293).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Tcp {
    /// Source and destination port.
    pub ports: Ports,
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgement number.
    pub acknowledgement: u32,
    /// Header length in words, in the high four bits.
    pub offset: u8,
    /// `tcp::*` flags.
    pub flags: u8,
    /// Window.
    pub window: u16,
    /// Checksum.
    pub checksum: u16,
    /// Urgent pointer.
    pub urgent: u16,
}

/// Flags of a TCP header.
pub mod tcp {
    /// No more data.
    pub const FIN: u8 = 0x01;
    /// Synchronise sequence numbers.
    pub const SYN: u8 = 0x02;
    /// Reset.
    pub const RST: u8 = 0x04;
    /// The acknowledgement number counts.
    pub const ACK: u8 = 0x10;
    /// Offset of the checksum in the header.
    pub const CHECKSUM: usize = 16;
}

/// A UDP header (RFC 768).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Udp {
    /// Source and destination port.
    pub ports: Ports,
    /// Length of header and payload.
    pub length: u16,
    /// Checksum; 0 means none.
    pub checksum: u16,
}

/// Offset of the checksum in a UDP header.
pub const UDP_CHECKSUM: usize = 6;

/// The common header of SCTP and the head of its first chunk (RFC 9260).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Sctp {
    /// Source and destination port.
    pub ports: Ports,
    /// Verification tag.
    pub tag: u32,
    /// CRC32c, least significant byte first.
    pub checksum: u32,
    /// Type of the first chunk: a `chunk::*`.
    pub chunk: u8,
    /// Flags of the first chunk.
    pub chunk_flags: u8,
    /// Length of the first chunk.
    pub chunk_length: u16,
}

/// Types of SCTP chunks.
pub mod chunk {
    /// Begins an association.
    pub const INIT: u8 = 1;
    /// Ends an association at once.
    pub const ABORT: u8 = 6;
    /// Ends an association in good order.
    pub const SHUTDOWN: u8 = 7;
    /// The other side agrees to the end.
    pub const SHUTDOWN_ACK: u8 = 8;
}

/// Offset of the checksum in an SCTP header.
pub const SCTP_CHECKSUM: usize = 8;

/// An ICMP or ICMPv6 header (RFC 792, RFC 4443).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Icmp {
    /// Type.
    pub kind: u8,
    /// Code.
    pub code: u8,
    /// Checksum.
    pub checksum: u16,
    /// Meaning by type: MTU, pointer, or nothing.
    pub rest: u32,
}

const _: () = {
    assert!(size_of::<Ipv4>() == 20);
    assert!(size_of::<Ipv6>() == 40);
    assert!(size_of::<Extension>() == 8);
    assert!(size_of::<Tcp>() == 20);
    assert!(size_of::<Udp>() == 8);
    assert!(size_of::<Sctp>() == 16);
    assert!(size_of::<Icmp>() == 8);
};
