//! Where numbers are taken from: a range, and a place in it that follows from a name.
//!
//! The place depends on the name alone as long as it is free, so the same manifests get the same addresses in any
//! order. The lower end of a range is used last: that is where people put the values that they choose by hand, in
//! Kubernetes as well (KEP-3070, KEP-3682).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use ipnet::IpNet;

/// How often a taken place is exchanged for another before the range is searched from end to end.
const DRAWS: u64 = 16;

/// Finds a free number in `0..size` for `name`, keeping the first `reserved` ones for last.
fn draw(name: &str, size: u128, reserved: u128, is_free: impl Fn(u128) -> bool) -> Option<u128> {
    let open = size - reserved;
    if open > 0 {
        let place = |attempt| reserved + u128::from(hash(name, attempt)) % open;
        // Another hash for each attempt, not the next place: a crowd then does not grow in one spot, and a Service that
        // goes away seldom makes another one move.
        if let Some(place) = (0..DRAWS).map(place).find(|place| is_free(*place)) {
            return Some(place);
        }
        let start = place(DRAWS) - reserved;
        if let Some(place) = (0..open).map(|step| reserved + (start + step) % open).find(|place| is_free(*place)) {
            return Some(place);
        }
    }
    (0..reserved).find(|place| is_free(*place))
}

/// FNV-1a with a final mix: the same for ever, unlike the hashers of the standard library.
fn hash(name: &str, attempt: u64) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in name.bytes().chain(attempt.to_le_bytes()) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash ^= hash >> 32;
    hash = hash.wrapping_mul(0xd6e8_feb8_6659_fd93);
    hash ^ hash >> 32
}

/// How much of the lower end is for values chosen by hand.
fn reserved(size: u128, step: u128, most: u128) -> u128 {
    if size <= 16 { 0 } else { (size / step).clamp(16, most) }
}

/// A free address of `range` for `name`.
pub(super) fn address(name: &str, range: &IpNet, is_free: impl Fn(IpAddr) -> bool) -> Option<IpAddr> {
    let bits = u32::from(range.max_prefix_len() - range.prefix_len());
    let all = 1_u128.checked_shl(bits).unwrap_or(u128::MAX);
    // The first address is the network's own, the last one of IPv4 its broadcast address.
    let ends = if matches!(range, IpNet::V4(_)) { 2 } else { 1 };
    let (size, first) = if all > ends { (all - ends, 1) } else { (all, 0) };
    let at = |place: u128| match range.network() {
        // The place is below the size of the range, so it fits.
        IpAddr::V4(base) => IpAddr::V4(Ipv4Addr::from_bits(base.to_bits().wrapping_add((place + first) as u32))),
        IpAddr::V6(base) => IpAddr::V6(Ipv6Addr::from_bits(base.to_bits().wrapping_add(place + first))),
    };
    draw(name, size, reserved(size, 16, 256), |place| is_free(at(place))).map(at)
}

/// A free port of `range` for `name`.
pub(super) fn port(name: &str, range: &RangeInclusive<u16>, is_free: impl Fn(u16) -> bool) -> Option<u16> {
    let size = range.len() as u128;
    if size == 0 {
        return None;
    }
    let at = |place: u128| range.start() + place as u16;
    draw(name, size, reserved(size, 32, 128), |place| is_free(at(place))).map(at)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_address_is_given_out_once() {
        for (range, want) in [
            ("10.0.0.0/29", 6),
            ("10.0.0.0/24", 254),
            ("10.0.0.4/31", 2),
            ("10.0.0.1/32", 1),
            ("fd00::/124", 15),
            ("fd00::7/128", 1),
        ] {
            let range: IpNet = range.parse().unwrap();
            let mut taken = HashSet::new();
            while let Some(ip) = address(&format!("n{}", taken.len()), &range, |ip| !taken.contains(&ip)) {
                assert!(range.contains(&ip) && taken.insert(ip), "{ip}");
            }
            assert_eq!(taken.len(), want, "{range}");
        }
    }

    #[test]
    fn the_lower_end_is_used_last() {
        let range: IpNet = "10.96.0.0/12".parse().unwrap();
        let low: IpNet = "10.96.0.0/24".parse().unwrap();
        assert!((0..1000).filter_map(|i| address(&i.to_string(), &range, |_| true)).all(|ip| !low.contains(&ip)));
        assert!((0..1000).filter_map(|i| port(&i.to_string(), &(30000..=32767), |_| true)).all(|port| port >= 30086));
        assert_eq!(port("x", &(30000..=30000), |_| true), Some(30000));
        assert_eq!(port("x", &(30000..=30000), |_| false), None);
    }

    /// These values stand in scripts of people who have never heard of this file.
    #[test]
    fn the_same_for_ever() {
        let v4 = "10.96.0.0/12".parse().unwrap();
        let v6 = "fd00:10:96::/112".parse().unwrap();
        assert_eq!(address("default/web", &v4, |_| true).unwrap().to_string(), "10.105.29.203");
        assert_eq!(address("default/web", &v6, |_| true).unwrap().to_string(), "fd00:10:96::a60d");
        assert_eq!(port("default/web:80", &(30000..=32767), |_| true), Some(32232));
    }
}
