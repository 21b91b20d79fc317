//! The chains of nftables, asked of the kernel: as far as it takes to see a forward policy and the rules of kube-proxy.

use std::fmt;
use std::io;

use rtnetlink::sys::{Socket, SocketAddr};

/// Netlink protocol and message numbers (`linux/netlink.h`, `linux/netfilter/nf_tables.h`).
const NETLINK_NETFILTER: isize = 12;
const GET_CHAIN: u16 = (10 << 8) | 4;
const NEW_CHAIN: u16 = (10 << 8) | 3;
const REQUEST_DUMP: u16 = 0x1 | 0x300;
const ERROR: u16 = 2;
const DONE: u16 = 3;
const HEADER: usize = 16;
/// `struct nfgenmsg`.
const GENERIC: usize = 4;

/// A chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cli) struct Chain {
    /// 2: ip, 10: ip6, 1: inet.
    pub(in crate::cli) family: u8,
    pub(in crate::cli) table: String,
    pub(in crate::cli) name: String,
    /// It sees forwarded packets, and drops what no rule accepts.
    pub(in crate::cli) drops_forwarded: bool,
}

impl Chain {
    /// Made by kube-proxy, in its nftables mode or by iptables over nftables.
    pub(in crate::cli) fn is_kube_proxys(&self) -> bool {
        self.table == "kube-proxy" || self.name == "KUBE-SERVICES" || self.name == "KUBE-NODEPORTS"
    }
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = match self.family {
            1 => "inet",
            2 => "ip",
            10 => "ip6",
            _ => "other",
        };
        write!(f, "{family} {} {}", self.table, self.name)
    }
}

/// All chains of this network namespace.
pub(in crate::cli) fn chains() -> io::Result<Vec<Chain>> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut request = Vec::new();
    request.extend(((HEADER + GENERIC) as u32).to_ne_bytes());
    request.extend(GET_CHAIN.to_ne_bytes());
    request.extend(REQUEST_DUMP.to_ne_bytes());
    request.extend([0; 8 + GENERIC]);
    socket.send(&request, 0)?;
    let mut chains = Vec::new();
    loop {
        let (packet, _) = socket.recv_from_full()?;
        let mut rest = packet.as_slice();
        while let Some((kind, body, next)) = message(rest) {
            match kind {
                DONE => return Ok(chains),
                ERROR => {
                    let code = word(body).map_or(0, i32::from_ne_bytes);
                    // Without nf_tables in the kernel there are no chains.
                    return if code == 0 { Ok(chains) } else { Err(io::Error::from_raw_os_error(-code)) };
                }
                NEW_CHAIN => chains.extend(chain(body)),
                _ => {}
            }
            rest = next;
        }
    }
}

fn word(bytes: &[u8]) -> Option<[u8; 4]> {
    bytes.first_chunk().copied()
}

/// Type and body of the first message, and what follows it.
fn message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let len = u32::from_ne_bytes(word(bytes)?) as usize;
    let kind = u16::from_ne_bytes([*bytes.get(4)?, *bytes.get(5)?]);
    let body = bytes.get(HEADER..len)?;
    Some((kind, body, bytes.get(len.next_multiple_of(4)..).unwrap_or_default()))
}

/// Type and value of each attribute.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let len = usize::from(u16::from_ne_bytes([*bytes.first()?, *bytes.get(1)?]));
        let kind = u16::from_ne_bytes([*bytes.get(2)?, *bytes.get(3)?]) & 0x3fff;
        let value = bytes.get(4..len)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned()
}

/// A body of NFT_MSG_NEWCHAIN.
fn chain(body: &[u8]) -> Option<Chain> {
    const TABLE: u16 = 1;
    const NAME: u16 = 3;
    const HOOK: u16 = 4;
    const POLICY: u16 = 5;
    const HOOK_NUMBER: u16 = 1;
    const FORWARD: u32 = 2;
    const NF_DROP: u32 = 0;
    let mut chain = Chain { family: *body.first()?, table: String::new(), name: String::new(), drops_forwarded: false };
    let (mut hook, mut policy) = (None, None);
    for (kind, value) in attributes(body.get(GENERIC..)?) {
        match kind {
            TABLE => chain.table = text(value),
            NAME => chain.name = text(value),
            HOOK => hook = attributes(value).find(|(kind, _)| *kind == HOOK_NUMBER).and_then(|(_, value)| word(value)),
            POLICY => policy = word(value),
            _ => {}
        }
    }
    chain.drops_forwarded =
        hook.map(u32::from_be_bytes) == Some(FORWARD) && policy.map(u32::from_be_bytes) == Some(NF_DROP);
    Some(chain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = ((value.len() + 4) as u16).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn a_forward_chain_that_drops() {
        let hook = [attribute(1, &2u32.to_be_bytes()), attribute(2, &0u32.to_be_bytes())].concat();
        let mut body = vec![2, 0, 0, 0];
        body.extend(attribute(1, b"filter\0"));
        body.extend(attribute(3, b"FORWARD\0"));
        body.extend(attribute(4 | 0x8000, &hook));
        body.extend(attribute(5, &0u32.to_be_bytes()));
        let chain = chain(&body).expect("a chain");
        assert!(chain.drops_forwarded);
        assert_eq!(chain.to_string(), "ip filter FORWARD");
        assert!(!chain.is_kube_proxys());
    }

    #[test]
    fn what_ends_early_is_no_chain() {
        assert_eq!(chain(&[]), None);
        assert_eq!(message(&[20, 0, 0, 0, 3, 10]), None);
        assert_eq!(attributes(&[40, 0, 1, 0, 1]).count(), 0);
    }
}
