//! Address prefixes and the `--nodeport-addresses` list.

use std::net::IpAddr;

use super::rules::Facts;

/// Whether two addresses are of one family.
pub fn same_family(a: IpAddr, b: IpAddr) -> bool {
    a.is_ipv4() == b.is_ipv4()
}

/// An address prefix from text that this crate has written itself.
pub fn parse(text: &str) -> (IpAddr, u32) {
    let (addr, bits) = text.trim().split_once('/').expect("generated prefixes have a length");
    (addr.parse().expect("generated prefixes have an address"), bits.parse().expect("generated prefixes have a number"))
}

/// Whether `addr` is in the prefix.
pub fn contains(prefix: &str, addr: IpAddr) -> bool {
    let (network, bits) = parse(prefix);
    let shifted = |addr: IpAddr| match addr {
        IpAddr::V4(v4) => u128::from(u32::from(v4)).checked_shr(32 - bits).unwrap_or(0),
        IpAddr::V6(v6) => u128::from(v6).checked_shr(128 - bits).unwrap_or(0),
    };
    same_family(network, addr) && shifted(network) == shifted(addr)
}

/// Whether `addr`, which is an address of the node, answers on node ports (specification 1.11 and 1.17.16).
pub fn is_node_port_address(list: &[String], addr: IpAddr, facts: &Facts<'_>) -> bool {
    let is_word = |item: &&String| ["primary", "localhost", "all"].contains(&item.as_str());
    let of_family = |item: &&String| is_word(item) || same_family(parse(item).0, addr);
    if !list.iter().any(|item| of_family(&item)) {
        return true;
    }
    list.iter().filter(of_family).any(|item| match item.as_str() {
        "all" => true,
        "localhost" => addr.is_loopback(),
        "primary" => facts.primary(addr) == Some(addr),
        prefix => contains(prefix, addr),
    })
}
