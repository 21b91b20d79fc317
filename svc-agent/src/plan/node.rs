//! This node as the plan sees it.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::options::{NodePortSet, Options};
use super::scheduler::Method;
use crate::model::{Family, Node};

/// Everything about this node and the flags that the plan of a Service depends on: when this is equal, so is the plan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeView {
    /// Name: an endpoint whose `nodeName` is this one is local.
    pub name: Arc<str>,
    /// Zone, for hints.
    pub zone: Option<Arc<str>>,
    /// `--bind-address` or the first InternalIP of each family, in the order of [`Family::ALL`].
    pub primary: [Option<IpAddr>; 2],
    /// All addresses of the node except loopback, sorted.
    pub addresses: Vec<IpAddr>,
    /// Where node ports answer, by family.
    pub node_ports: [NodePortSet; 2],
    /// Whether pods can be recognised, by family: each family is served as if by a proxy of its own.
    pub detector: [bool; 2],
    /// Everything sent to a cluster IP gets its source translated.
    pub masquerade_all: bool,
    /// External IPs outside these prefixes are not captured.
    pub allow_external_ips: Vec<IpNet>,
    /// How endpoints are chosen for a Service that does not say.
    pub scheduler: Method,
}

impl NodeView {
    /// The node `name`, from its Node object (if there is one), further addresses of the machine, and the flags.
    pub fn new(name: &str, node: Option<&Node>, further: &[IpAddr], options: &Options) -> Self {
        let (internal, external): (&[IpAddr], &[IpAddr]) =
            node.map_or((&[], &[]), |node| (&node.internal_ips, &node.external_ips));
        let mut addresses: Vec<_> = internal
            .iter()
            .chain(external)
            .chain(further)
            .chain(&options.bind_address)
            .copied()
            .filter(|addr| !addr.is_loopback())
            .collect();
        addresses.sort_unstable();
        addresses.dedup();
        let own = |family: Family| {
            options.bind_address.into_iter().chain(internal.iter().copied()).find(|addr| Family::of(*addr) == family)
        };
        let primary = Family::ALL.map(own);
        let node_ports =
            Family::ALL.map(|family| options.node_port_addresses.resolve(family, primary[family as usize], &addresses));
        Self {
            name: name.into(),
            zone: node.and_then(|node| node.zone.clone()).filter(|zone| !zone.is_empty()),
            primary,
            addresses,
            node_ports,
            detector: Family::ALL.map(|family| options.detector.is_present(family, node)),
            masquerade_all: options.masquerade_all,
            allow_external_ips: options.allow_external_ips.clone(),
            scheduler: options.scheduler,
        }
    }
}
