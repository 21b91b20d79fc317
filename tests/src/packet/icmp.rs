//! ICMP errors, as routers send them.

use std::net::{IpAddr, SocketAddr};

use etherparse::{Icmpv4Type, Icmpv6Type, PacketBuilder};

use super::Ended;

/// An ICMP error of a router about a packet that was seen: destination unreachable, fragmentation needed; or packet too
/// big.
pub fn too_big(router: &str, about: &Ended) -> Vec<u8> {
    let mut bytes = Vec::new();
    let about = &about.bytes[14..];
    let link = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 1]);
    match router.parse().expect("address") {
        IpAddr::V4(router) => {
            let sender: [u8; 4] = about[12..16].try_into().expect("four bytes");
            let error =
                Icmpv4Type::DestinationUnreachable(etherparse::icmpv4::DestUnreachableHeader::FragmentationNeeded {
                    next_hop_mtu: 1400,
                });
            let packet = link.ipv4(router.octets(), sender, 60).icmpv4(error);
            packet.write(&mut bytes, &about[..28]).expect("a vector");
        }
        IpAddr::V6(router) => {
            let sender: [u8; 16] = about[8..24].try_into().expect("sixteen bytes");
            let packet = link.ipv6(router.octets(), sender, 60).icmpv6(Icmpv6Type::PacketTooBig { mtu: 1400 });
            packet.write(&mut bytes, &about[..48]).expect("a vector");
        }
    }
    bytes
}

/// Source and destination of what an ICMP error quotes.
pub fn quoted(error: &Ended) -> (SocketAddr, SocketAddr) {
    let payload = error.seen().payload;
    let port = |at: usize| u16::from_be_bytes([payload[at], payload[at + 1]]);
    let (from, to, ports): (IpAddr, IpAddr, usize) = if payload[0] >> 4 == 4 {
        let octets = |at: usize| <[u8; 4]>::try_from(&payload[at..at + 4]).expect("four bytes");
        (octets(12).into(), octets(16).into(), 20)
    } else {
        let octets = |at: usize| <[u8; 16]>::try_from(&payload[at..at + 16]).expect("sixteen bytes");
        (octets(8).into(), octets(24).into(), 40)
    };
    (SocketAddr::new(from, port(ports)), SocketAddr::new(to, port(ports + 2)))
}
