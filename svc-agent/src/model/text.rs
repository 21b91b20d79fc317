//! Addresses and prefixes as people and old objects write them: the only place where they are read.
//!
//! Blanks around them are tolerated, and numbers with leading zeros are decimal ("172.30.0.041" is 172.30.0.41, also
//! "/025"): that is how Kubernetes has always read objects that were stored before it refused the notation.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// Reads an address. An IPv4 address in IPv6 clothes ("::ffff:10.0.0.1") is the IPv4 address.
pub fn address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let Some(colon) = text.rfind(':') else {
        return ipv4(text).map(IpAddr::V4);
    };
    let (head, tail) = text.split_at(colon + 1);
    let addr: Ipv6Addr = match tail.contains('.') {
        true => format!("{head}{}", ipv4(tail)?).parse(),
        false => text.parse(),
    }
    .ok()?;
    Some(IpAddr::V6(addr).to_canonical())
}

/// Reads a prefix, host bits cleared; an address without a length is the prefix of that address alone.
pub fn prefix(text: &str) -> Option<IpNet> {
    let Some((addr, len)) = text.split_once('/') else {
        return address(text).map(IpNet::from);
    };
    let len = len.trim();
    if len.is_empty() || !len.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    IpNet::new(address(addr)?, len.parse().ok()?).ok().map(|net| net.trunc())
}

fn ipv4(text: &str) -> Option<Ipv4Addr> {
    let mut octets = text.split('.').map(|octet| {
        let digits = !octet.is_empty() && octet.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| octet.parse::<u8>().ok()).flatten()
    });
    let mut next = || octets.next().flatten();
    let addr = Ipv4Addr::new(next()?, next()?, next()?, next()?);
    octets.next().is_none().then_some(addr)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_with_leading_zeros_and_blanks_are_decimal() {
        for (text, canonical) in [
            ("10.0.0.1", "10.0.0.1"),
            (" 172.30.0.041 ", "172.30.0.41"),
            ("010.000.00.08", "10.0.0.8"),
            ("fd00::1", "fd00::1"),
            (" FD00:0000:0:0::0001\t", "fd00::1"),
            ("::ffff:010.0.0.1", "10.0.0.1"),
            ("::", "::"),
        ] {
            assert_eq!(address(text).map(|addr| addr.to_string()).as_deref(), Some(canonical), "{text:?}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in ["", "10.0.0", "10.0.0.1.2", "10.0.0.256", "10.0.0.+1", "10.0.0.", "fd00::1::", "a.b", "10.0.0.0/8"]
        {
            assert_eq!(address(text), None, "{text:?}");
        }
    }

    #[test]
    fn prefixes_lose_host_bits_leading_zeros_and_blanks() {
        for (text, canonical) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            (" 010.1.2.3/08 ", "10.0.0.0/8"),
            ("192.168.1.0/025", "192.168.1.0/25"),
            ("192.168.1.0 / 25", "192.168.1.0/25"),
            ("fd00::1/64", "fd00::/64"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("10.0.0.7", "10.0.0.7/32"),
            ("fd00::7", "fd00::7/128"),
        ] {
            assert_eq!(prefix(text).map(|net| net.to_string()).as_deref(), Some(canonical), "{text:?}");
        }
        for text in ["", "/8", "10.0.0.0/33", "10.0.0.0/", "10.0.0.0/-1", "10.0.0.0/+8", "fd00::/129", "primary"] {
            assert_eq!(prefix(text), None, "{text:?}");
        }
    }
}
