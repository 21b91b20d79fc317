//! The parser of the programs against etherparse, which shares nothing with it: on sound packets, on packets with a few
//! bytes changed or cut off, and on no packets at all.

use std::net::IpAddr;

use etherparse::{LaxSlicedPacket, NetSlice, SlicedPacket, TransportSlice};
use proptest::prelude::*;
use svc_common::header::ether;
use svc_common::net::Address;
use svc_common::parse::{self, Packet, Piece};
use svc_common::verdict::Reason;
use svc_tests::packet::{Frame, Kind};

/// What both parsers say: addresses, protocol and ports.
type Facts = (IpAddr, IpAddr, u8, Option<(u16, u16)>);

/// What ours says; the part of the datagram beside it.
fn ours(bytes: &[u8]) -> Result<(Facts, Piece), Reason> {
    fn facts<A: Address>(packet: &Packet<A>) -> (Facts, Piece) {
        let tuple = &packet.tuple;
        let ports =
            matches!(tuple.protocol, 6 | 17 | 132).then(|| (tuple.source.port.get(), tuple.destination.port.get()));
        ((tuple.source.addr.to_ip(), tuple.destination.addr.to_ip(), tuple.protocol, ports), packet.piece)
    }
    match parse::ethernet(bytes)? {
        (l3, ether::IPV4) => parse::ipv4(bytes, l3).map(|packet| facts(&packet)),
        (l3, _) => parse::ipv6(bytes, l3).map(|packet| facts(&packet)),
    }
}

fn ports(transport: Option<&TransportSlice<'_>>) -> Option<(u8, (u16, u16))> {
    match transport? {
        TransportSlice::Tcp(tcp) => Some((6, (tcp.source_port(), tcp.destination_port()))),
        TransportSlice::Udp(udp) => Some((17, (udp.source_port(), udp.destination_port()))),
        _ => None,
    }
}

/// A frame as [`Frame`] writes it, of any kind that it knows.
fn frame() -> impl Strategy<Value = Vec<u8>> {
    let kind = prop_oneof![
        any::<u8>().prop_map(Kind::Tcp),
        Just(Kind::Udp),
        Just(Kind::UdpBare),
        any::<u8>().prop_map(Kind::Sctp),
        Just(Kind::Ping),
        any::<u8>().prop_map(Kind::Other),
    ];
    let chain = prop::collection::vec(prop::sample::select(vec![0u8, 43, 44, 51, 60]), 0..10);
    let shape =
        (any::<bool>(), kind, 0..4u8, 0..11u8, chain, prop::collection::vec(any::<u8>(), 0..64), any::<[u16; 2]>());
    let pieces = prop::option::of((any::<u16>(), 1..5usize, any::<prop::sample::Index>()));
    (shape, pieces).prop_map(|((v4, kind, tags, options, chain, payload, [from, to]), pieces)| {
        let ends = if v4 {
            (format!("10.1.2.3:{from}"), format!("10.96.0.10:{to}"))
        } else {
            (format!("[fd01::3]:{from}"), format!("[fd96::10]:{to}"))
        };
        let mut frame = Frame::new(&ends.0, &ends.1, kind);
        frame.payload = payload;
        if let Some((id, eighths, index)) = pieces {
            let pieces = frame.pieces(id, eighths * 8);
            return if pieces.is_empty() { frame.bytes() } else { pieces[index.index(pieces.len())].clone() };
        }
        frame.tags = tags;
        if v4 {
            frame.options = options * 4;
        } else {
            frame.chain = chain;
        }
        frame.bytes()
    })
}

/// The same with damage.
fn damaged() -> impl Strategy<Value = Vec<u8>> {
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    let cut = prop_oneof![3 => Just(None), 1 => any::<prop::sample::Index>().prop_map(Some)];
    (frame(), changes, cut).prop_map(|(mut bytes, changes, cut)| {
        for (index, value) in changes {
            // Headers are where it matters.
            let reach = bytes.len().min(100);
            bytes[index.index(reach)] = value;
        }
        if let Some(cut) = cut {
            let length = cut.index(bytes.len());
            bytes.truncate(length);
        }
        bytes
    })
}

/// Tags and extension headers that ours follows, as etherparse has counted them.
fn is_within_reach(packet: &SlicedPacket<'_>) -> bool {
    let headers = match &packet.net {
        Some(NetSlice::Ipv6(ip)) => ip.extensions().clone().into_iter().count(),
        // The one that IPv4 can have is left alone.
        Some(NetSlice::Ipv4(ip)) if ip.extensions().auth.is_some() => return false,
        _ => 0,
    };
    packet.link_exts.len() <= 2 && headers <= parse::EXTENSIONS
}

/// Whether all tags have numbers that ours takes for tags.
fn has_known_tags(bytes: &[u8], packet: &SlicedPacket<'_>) -> bool {
    (0..packet.link_exts.len()).all(|tag| {
        let at = 12 + 4 * tag;
        matches!(bytes.get(at..at + 2), Some([0x81, 0x00] | [0x88, 0xa8]))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn what_etherparse_finds_sound_is_read_alike(bytes in damaged()) {
        if let Ok(packet) = SlicedPacket::from_ethernet(&bytes)
            && let Some((protocol, ports)) = ports(packet.transport.as_ref())
            && is_within_reach(&packet)
            && has_known_tags(&bytes, &packet)
        {
            let (facts, _) = ours(&bytes).map_err(|reason| TestCaseError::fail(format!("ours says {reason:?}")))?;
            prop_assert_eq!((facts.2, facts.3), (protocol, Some(ports)));
        }
    }

    #[test]
    fn what_ours_finds_sound_is_read_alike(bytes in damaged()) {
        if let Ok((facts, piece)) = ours(&bytes) {
            let packet = LaxSlicedPacket::from_ethernet(&bytes)
                .map_err(|error| TestCaseError::fail(format!("etherparse says {error}")))?;
            let net = packet.net.as_ref().ok_or_else(|| TestCaseError::fail("etherparse finds no IP header"))?;
            let (from, to): (IpAddr, IpAddr) = match net {
                etherparse::LaxNetSlice::Ipv4(ip) => {
                    (ip.header().source_addr().into(), ip.header().destination_addr().into())
                }
                etherparse::LaxNetSlice::Ipv6(ip) => {
                    (ip.header().source_addr().into(), ip.header().destination_addr().into())
                }
                etherparse::LaxNetSlice::Arp(_) => return Err(TestCaseError::fail("etherparse finds ARP")),
            };
            prop_assert_eq!((facts.0, facts.1), (from, to));
            if piece == Piece::Whole && let Some((protocol, ports)) = ports(packet.transport.as_ref()) {
                prop_assert_eq!((facts.2, facts.3), (protocol, Some(ports)));
            }
        }
    }

    #[test]
    fn any_bytes_are_read_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..200), kind in 0..3u8) {
        let mut bytes = bytes;
        if bytes.len() > 14 {
            match kind {
                0 => bytes[12..15].copy_from_slice(&[0x08, 0x00, 0x45]),
                1 => bytes[12..15].copy_from_slice(&[0x86, 0xdd, 0x60]),
                _ => {}
            }
        }
        // Whatever it says, it says something.
        let _: Result<_, Reason> = ours(&bytes);
    }
}
