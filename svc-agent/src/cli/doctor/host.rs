//! Settings, rules and programs of the host that concern Services.

use std::collections::BTreeMap;
use std::fs;

use super::Report;
use super::netfilter::{self, Chain};
use crate::cli::flags::Flags;
use crate::datapath::devices::{Role, Served};
use crate::datapath::ports;

pub(super) fn examine(flags: &Flags, devices: &BTreeMap<u32, Served>, report: &mut Report) {
    forwarding(report);
    if devices.values().any(|device| device.role == Role::BridgePort) {
        bridges(report);
    }
    reserved(flags, report);
    rules(report);
    other_proxies(report);
}

fn sysctl(name: &str) -> Option<String> {
    fs::read_to_string(format!("/proc/sys/{name}")).ok().map(|value| value.trim().to_owned())
}

fn forwarding(report: &mut Report) {
    for (name, family) in [("net/ipv4/ip_forward", "IPv4"), ("net/ipv6/conf/all/forwarding", "IPv6")] {
        match sysctl(name).as_deref() {
            Some("0") => report.warn(
                "forwarding",
                format!(
                    "{family} packets are not forwarded, so pods reach nothing: set {} to 1",
                    name.replace('/', ".")
                ),
            ),
            Some(_) => report.good("forwarding", format!("{family} packets are forwarded")),
            None => report.note("forwarding", format!("this machine has no {family}")),
        }
    }
}

/// A reply between two pods of one bridge takes the short way, past the stack.
fn bridges(report: &mut Report) {
    for name in ["net/bridge/bridge-nf-call-iptables", "net/bridge/bridge-nf-call-ip6tables"] {
        match sysctl(name).as_deref() {
            Some("1") => report.good("bridge", format!("{} is 1", name.replace('/', "."))),
            _ => report.warn(
                "bridge",
                format!(
                    "{} is not 1: replies between pods of a bridge pass the stack by, and rules that judge connection \
                     state drop what follows them",
                    name.replace('/', ".")
                ),
            ),
        }
    }
}

fn reserved(flags: &Flags, report: &mut Report) {
    let range = flags.snat_port_range;
    match ports::is_reserved(range.first, range.last) {
        Ok(true) => report.good("ports", format!("{range} are reserved for source translation")),
        Ok(false) => report.note("ports", format!("{range} are reserved when the agent starts")),
        Err(error) => report.warn("ports", format!("{range} cannot be reserved: {error:#}")),
    }
    if range.overlaps(flags.service_node_port_range) {
        let nodes = flags.service_node_port_range;
        report.bad("ports", format!("--snat-port-range {range} overlaps --service-node-port-range {nodes}"));
    }
    let local = sysctl("net/ipv4/ip_local_port_range");
    let bounds = local.as_deref().and_then(|text| text.split_once(char::is_whitespace));
    if let Some((first, last)) = bounds
        && let (Ok(first), Ok(last)) = (first.trim().parse(), last.trim().parse())
        && flags.service_node_port_range.overlaps(crate::cli::flags::PortRange { first, last })
    {
        report.note(
            "ports",
            format!("the host's own ports {first}-{last} overlap the node ports: a process may hold one"),
        );
    }
}

fn rules(report: &mut Report) {
    match netfilter::chains() {
        Ok(chains) => judge(&chains, report),
        Err(error) => report.note("rules", format!("nftables cannot be read: {error}")),
    }
    // The old tables cannot be listed without their own tool; that they are loaded is known.
    for file in ["/proc/net/ip_tables_names", "/proc/net/ip6_tables_names"] {
        let tables = fs::read_to_string(file).unwrap_or_default();
        let tables: Vec<_> = tables.lines().collect();
        if !tables.is_empty() {
            report.note(
                "rules",
                format!(
                    "legacy iptables tables are loaded ({}): look there for rules of kube-proxy",
                    tables.join(", ")
                ),
            );
        }
    }
}

fn judge(chains: &[Chain], report: &mut Report) {
    for chain in chains.iter().filter(|chain| chain.drops_forwarded) {
        report.warn(
            "rules",
            format!(
                "the forward policy of {} drops: some rule has to accept the pod ranges, kube-proxy's own no longer do",
                chain
            ),
        );
    }
    let left: Vec<_> = chains.iter().filter(|chain| chain.is_kube_proxys()).map(|chain| chain.table.clone()).collect();
    if let Some(table) = left.first() {
        report.warn(
            "rules",
            format!("kube-proxy has rules in table {table}: stop it and remove them with kube-proxy --cleanup"),
        );
    }
}

fn other_proxies(report: &mut Report) {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let names = processes.filter_map(|process| fs::read_to_string(process.path().join("comm")).ok());
    if names.into_iter().any(|name| name.trim() == "kube-proxy") {
        report.warn("kube-proxy", "runs on this node: both would serve the Services; remove its DaemonSet");
    }
    let ipvs = fs::read_to_string("/proc/net/ip_vs").unwrap_or_default();
    if ipvs.lines().any(|line| line.starts_with("TCP") || line.starts_with("UDP") || line.starts_with("SCTP")) {
        report.warn("kube-proxy", "ipvs has virtual servers: remove them with kube-proxy --cleanup");
    }
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    #[test]
    fn rules_that_stand_in_the_way() {
        let chain = |table: &str, name: &str, drops_forwarded| Chain {
            family: 2,
            table: table.into(),
            name: name.into(),
            drops_forwarded,
        };
        let mut report = Report::default();
        judge(&[chain("filter", "INPUT", false)], &mut report);
        assert!(report.0.is_empty());
        judge(&[chain("filter", "FORWARD", true), chain("nat", "KUBE-SERVICES", false)], &mut report);
        assert_eq!(report.0.iter().map(|finding| finding.level).collect::<Vec<_>>(), [Level::Warning; 2]);
    }
}
