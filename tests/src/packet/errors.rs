//! ICMP errors about packets that were seen.

use std::net::IpAddr;

use etherparse::{Icmpv4Type, Icmpv6Type, PacketBuilder, icmpv4, icmpv6};

use super::node::Ended;

/// What somebody on the way has to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Fragmentation needed, or packet too big: 1400 bytes.
    TooBig,
    /// No hop left.
    TimeExceeded,
    /// Nobody listens.
    PortUnreachable,
}

/// All of them.
pub const TROUBLES: [Trouble; 3] = [Trouble::TooBig, Trouble::TimeExceeded, Trouble::PortUnreachable];

/// The error that `from` sends to the sender of the frame `about`, with so many bytes of what followed its network header.
pub fn error(trouble: Trouble, from: &str, about: &[u8], quoted: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    let about = &about[14..];
    let link = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 1]);
    match from.parse().expect("address") {
        IpAddr::V4(from) => {
            let sender: [u8; 4] = about[12..16].try_into().expect("four bytes");
            let kind = match trouble {
                Trouble::TooBig => {
                    Icmpv4Type::DestinationUnreachable(icmpv4::DestUnreachableHeader::FragmentationNeeded {
                        next_hop_mtu: 1400,
                    })
                }
                Trouble::TimeExceeded => Icmpv4Type::TimeExceeded(icmpv4::TimeExceededCode::TtlExceededInTransit),
                Trouble::PortUnreachable => Icmpv4Type::DestinationUnreachable(icmpv4::DestUnreachableHeader::Port),
            };
            let packet = link.ipv4(from.octets(), sender, 60).icmpv4(kind);
            packet.write(&mut bytes, &about[..20 + quoted]).expect("a vector");
        }
        IpAddr::V6(from) => {
            let sender: [u8; 16] = about[8..24].try_into().expect("sixteen bytes");
            let kind = match trouble {
                Trouble::TooBig => Icmpv6Type::PacketTooBig { mtu: 1400 },
                Trouble::TimeExceeded => Icmpv6Type::TimeExceeded(icmpv6::TimeExceededCode::HopLimitExceeded),
                Trouble::PortUnreachable => Icmpv6Type::DestinationUnreachable(icmpv6::DestUnreachableCode::Port),
            };
            let packet = link.ipv6(from.octets(), sender, 60).icmpv6(kind);
            packet.write(&mut bytes, &about[..40 + quoted]).expect("a vector");
        }
    }
    bytes
}

/// Asserts that an error quotes the beginning of the frame `sent`, byte by byte: its sender finds what it has sent.
///
/// # Panics
///
/// If it quotes something else, or a checksum is wrong.
#[track_caller]
pub fn quotes(error: &Ended, sent: &[u8]) {
    let quoted = error.seen().payload;
    assert_eq!(quoted, sent[14..14 + quoted.len()], "what is quoted and what was sent");
}
