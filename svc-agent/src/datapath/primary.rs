//! The node's own address of each family, where no Node object says which it is: the one from which it talks to the
//! world.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

use super::devices::Bound;
use crate::model::Family;

/// The source addresses that the kernel chooses for what leaves by the default routes, by family. No packet is sent:
/// connecting a datagram socket is only a question about routes.
pub(super) fn outgoing() -> [Option<IpAddr>; 2] {
    // Addresses of the world that nobody has: reserved, and the first of all global unicast addresses.
    let world: [IpAddr; 2] = [Ipv4Addr::new(240, 0, 0, 1).into(), Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 1).into()];
    let unspecified: [IpAddr; 2] = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
    Family::ALL.map(|family| {
        let socket = UdpSocket::bind((unspecified[family as usize], 0)).ok()?;
        socket.connect((world[family as usize], 9)).ok()?;
        socket.local_addr().ok().map(|addr| addr.ip())
    })
}

/// The primary address of each family: from where the default route leaves, else the first of an uplink, else the first
/// of all. `uplinks` are interface indices in their order.
pub(super) fn primary(outgoing: [Option<IpAddr>; 2], addresses: &[Bound], uplinks: &[u32]) -> [Option<IpAddr>; 2] {
    Family::ALL.map(|family| {
        let usable = || addresses.iter().filter(|bound| bound.usable && Family::of(bound.addr) == family);
        let of_route = usable().find(|bound| outgoing[family as usize] == Some(bound.addr));
        let of_uplink = || uplinks.iter().find_map(|index| usable().find(|bound| bound.index == *index));
        of_route.or_else(of_uplink).or_else(|| usable().next()).map(|bound| bound.addr)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_route_decides_then_uplinks_then_order() {
        let addr = |text: &str| text.parse::<IpAddr>().expect("address");
        let bound = |index, text, usable| Bound { index, addr: addr(text), usable };
        let addresses = [
            bound(1, "127.0.0.1", false),
            bound(5, "10.9.0.1", true),
            bound(2, "192.0.2.1", true),
            bound(3, "192.0.2.2", true),
            bound(3, "fe80::1", false),
            bound(5, "fd00::5", true),
        ];
        let both = |v4: Option<&str>, v6: Option<&str>| [v4.map(addr), v6.map(addr)];
        for (outgoing, uplinks, expected) in [
            (both(Some("192.0.2.2"), None), &[2, 3][..], both(Some("192.0.2.2"), Some("fd00::5"))),
            (both(None, None), &[2, 3], both(Some("192.0.2.1"), Some("fd00::5"))),
            (both(None, None), &[], both(Some("10.9.0.1"), Some("fd00::5"))),
            // A route may name a source that cannot be used (any more).
            (both(Some("127.0.0.1"), Some("fe80::1")), &[3], both(Some("192.0.2.2"), Some("fd00::5"))),
        ] {
            assert_eq!(primary(outgoing, &addresses, uplinks), expected, "{outgoing:?} {uplinks:?}");
        }
        assert_eq!(primary(both(None, None), &addresses[..1], &[1]), [None; 2]);
    }
}
