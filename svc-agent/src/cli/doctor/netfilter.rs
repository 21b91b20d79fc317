//! The chains of nftables, asked of the kernel: as far as it takes to see a forward policy and the rules of kube-proxy.

use std::fmt;
use std::io;

use crate::datapath::netlink::{DUMP, NETFILTER, Request, attributes, text, word};

/// Message numbers (`linux/netfilter/nf_tables.h`).
const GET_CHAIN: u16 = (10 << 8) | 4;
const NEW_CHAIN: u16 = (10 << 8) | 3;
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

/// All chains of this network namespace; none without nf_tables in the kernel.
pub(in crate::cli) fn chains() -> io::Result<Vec<Chain>> {
    let answers = Request::new(GET_CHAIN, DUMP, &[0; GENERIC]).ask(NETFILTER)?;
    Ok(answers.iter().filter(|(kind, _)| *kind == NEW_CHAIN).filter_map(|(_, body)| chain(body)).collect())
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
    use crate::datapath::netlink::push;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        push(&mut bytes, kind, value);
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
        assert_eq!(chain(&[2, 0]), None);
    }
}
