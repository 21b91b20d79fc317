//! The tables that belong to no Service: settings, pod prefixes, node addresses, devices.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use svc_common::net::{V4, V6};
use svc_common::tables::{Device, Prefix, Settings};

use super::{Applier, Presence, Write, new_items};

/// What the node itself, not a Service, puts into the tables.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Globals {
    /// The settings value.
    pub settings: Settings,
    /// Prefixes whose addresses are pods.
    pub pod_prefixes: Vec<IpNet>,
    /// Addresses of this node, without loopback.
    pub node_addresses: Vec<IpAddr>,
    /// Devices by interface index.
    pub devices: BTreeMap<u32, Device>,
}

impl Globals {
    fn normalised(&self) -> Self {
        let mut pod_prefixes: Vec<_> = self.pod_prefixes.iter().map(IpNet::trunc).collect();
        pod_prefixes.sort_unstable();
        pod_prefixes.dedup();
        let mut node_addresses = self.node_addresses.clone();
        node_addresses.sort_unstable();
        node_addresses.dedup();
        Self { settings: self.settings, pod_prefixes, node_addresses, devices: self.devices.clone() }
    }
}

impl Applier {
    /// What the tables hold now.
    pub fn present_globals(&self) -> &Globals {
        &self.globals
    }

    /// Brings settings, pod prefixes, node addresses and devices up to date. What is new comes first, then the settings
    /// that may need it, then what is gone.
    pub fn apply_globals(&mut self, wanted: &Globals) -> Vec<Write> {
        let wanted = wanted.normalised();
        let present = std::mem::replace(&mut self.globals, wanted);
        let wanted = &self.globals;
        let mut writes = Vec::new();
        for prefix in new_items(&wanted.pod_prefixes, &present.pod_prefixes) {
            writes.push(pod_prefix(prefix, Presence::Present));
        }
        for addr in new_items(&wanted.node_addresses, &present.node_addresses) {
            writes.push(node_address(addr, Presence::Present));
        }
        let changed = wanted.devices.iter().filter(|(index, device)| present.devices.get(index) != Some(device));
        writes.extend(changed.map(|(index, device)| Write::Device(*index, Some(*device))));
        if wanted.settings != present.settings {
            writes.push(Write::Settings(Box::new(wanted.settings)));
        }
        let gone = present.devices.keys().filter(|index| !wanted.devices.contains_key(index));
        writes.extend(gone.map(|index| Write::Device(*index, None)));
        for addr in new_items(&present.node_addresses, &wanted.node_addresses) {
            writes.push(node_address(addr, Presence::Absent));
        }
        for prefix in new_items(&present.pod_prefixes, &wanted.pod_prefixes) {
            writes.push(pod_prefix(prefix, Presence::Absent));
        }
        writes
    }
}

fn pod_prefix(prefix: IpNet, presence: Presence) -> Write {
    let len = prefix.prefix_len().into();
    match prefix {
        IpNet::V4(net) => Write::PodPrefixV4(Prefix { len, addr: V4::new(net.addr()) }, presence),
        IpNet::V6(net) => Write::PodPrefixV6(Prefix { len, addr: V6::new(net.addr()) }, presence),
    }
}

fn node_address(addr: IpAddr, presence: Presence) -> Write {
    match addr {
        IpAddr::V4(addr) => Write::NodeAddressV4(V4::new(addr), presence),
        IpAddr::V6(addr) => Write::NodeAddressV6(V6::new(addr), presence),
    }
}
