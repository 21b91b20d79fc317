//! Addresses and prefixes as old objects spell them: blanks around, leading zeros, all of it decimal.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// An address; `172.30.0.041` is 172.30.0.41 (CVE-2021-29923 was about reading it otherwise).
pub(crate) fn parse_ip(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    if !text.contains(':') {
        return parse_v4(text).map(IpAddr::V4);
    }
    // An IPv4 address at the end may have leading zeros as well, which the standard library refuses.
    let v6 = match text.rsplit_once(':') {
        Some((head, tail)) if tail.contains('.') => {
            let [a, b, c, d] = parse_v4(tail)?.octets();
            format!("{head}:{a:02x}{b:02x}:{c:02x}{d:02x}").parse::<Ipv6Addr>().ok()?
        }
        _ => text.parse::<Ipv6Addr>().ok()?,
    };
    Some(v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4))
}

fn parse_v4(text: &str) -> Option<Ipv4Addr> {
    let mut octets = [0; 4];
    let mut parts = text.split('.');
    for octet in &mut octets {
        *octet = decimal(parts.next()?)?.try_into().ok()?;
    }
    parts.next().is_none().then(|| octets.into())
}

/// A prefix, cut to its length: `10.0.0.5/08` is 10.0.0.0/8.
pub(crate) fn parse_prefix(text: &str) -> Option<IpNet> {
    let (addr, len) = text.split_once('/')?;
    let addr = parse_ip(addr)?;
    let len = decimal(len.trim())?.try_into().ok()?;
    IpNet::new(addr, len).ok().map(|net| net.trunc())
}

fn decimal(digits: &str) -> Option<u32> {
    (!digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())).then(|| digits.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for (text, want) in [
            ("172.30.0.041", Some("172.30.0.41")),
            (" 10.0.0.1 ", Some("10.0.0.1")),
            ("010.000.0000.008", Some("10.0.0.8")),
            ("fd00:010::1", Some("fd00:10::1")),
            ("FD00::0001", Some("fd00::1")),
            ("::ffff:1.2.3.04", Some("1.2.3.4")),
            ("64:ff9b::010.1.2.3", Some("64:ff9b::a01:203")),
            ("256.0.0.1", None),
            ("1.2.3", None),
            ("1.2.3.4.5", None),
            ("+1.2.3.4", None),
            ("0x1.2.3.4", None),
            ("1..2.3", None),
            ("fe80::1%eth0", None),
            ("", None),
            ("None", None),
        ] {
            assert_eq!(parse_ip(text), want.map(|want| want.parse().unwrap()), "{text:?}");
        }
    }

    #[test]
    fn prefixes() {
        for (text, want) in [
            ("10.0.0.0/8", Some("10.0.0.0/8")),
            (" 010.1.0.0/016 ", Some("10.1.0.0/16")),
            ("10.0.0.128/025", Some("10.0.0.128/25")),
            ("10.1.2.3/8", Some("10.0.0.0/8")),
            ("0.0.0.0/0", Some("0.0.0.0/0")),
            ("fd00:10::/064", Some("fd00:10::/64")),
            ("10.0.0.0/33", None),
            ("10.0.0.0", None),
            ("10.0.0.0/", None),
            ("10.0.0.0/-1", None),
        ] {
            assert_eq!(parse_prefix(text), want.map(|want| want.parse().unwrap()), "{text:?}");
        }
    }
}
