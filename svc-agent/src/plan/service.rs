//! The plan of one Service: which objects count, where it answers, and what happens to whom.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use svc_common::tables::Rule;

use super::endpoints::Endpoints;
use super::options::loopback;
use super::scheduler::Scheduler;
use super::slow_start;
use super::{FrontendKind, HealthCheck, NodeView, Planned, PlannedFrontend, PlannedPort, PortId};
use crate::model::{EndpointSlice, Family, IpMode, Service, ServicePort, ServiceType, TrafficPolicy};

/// What the datapath of this node has to know about one Service.
pub fn service<'a>(service: &Service, slices: impl Iterator<Item = &'a EndpointSlice>, node: &NodeView) -> Planned {
    let mut planned = Planned { created: service.created, ..Planned::default() };
    if service.kind == ServiceType::ExternalName {
        return planned;
    }
    if service.other_proxy {
        planned.foreign = addresses(service);
        return planned;
    }
    if service.cluster_ips.is_empty() {
        if !service.headless {
            planned.remarks.push("ignored as a whole, node ports included: it has no cluster IP".to_owned());
        }
        return planned;
    }

    let slices: Vec<_> = slices.collect();
    let mut remarks = Vec::new();
    let scheduler = Scheduler::of(service, node.scheduler, &mut remarks);
    planned.slow_start = slow_start::of(service, &mut remarks);
    let ports = distinct_ports(service, &mut remarks);
    for family in Family::ALL {
        let Some(captured) = Captured::of(service, family, node, &mut remarks) else { continue };
        planned.cluster_ips.push(captured.cluster_ip);
        for port in &ports {
            planned.ports.push(plan_port(service, port, family, &captured, &slices, node, &scheduler));
        }
    }
    settle_own_clashes(&mut planned.ports, &mut remarks);
    planned.health_check = health_check(service, &slices, node);
    remarks.sort_unstable();
    remarks.dedup();
    planned.remarks = remarks;
    planned
}

/// The ports of a Service, each name and protocol once.
fn distinct_ports<'a>(service: &'a Service, remarks: &mut Vec<String>) -> Vec<&'a ServicePort> {
    let mut seen = HashSet::new();
    let mut ports: Vec<_> = service.ports.iter().collect();
    ports.retain(|port| {
        let first = seen.insert((&port.name, port.protocol));
        if !first {
            remarks.push(format!("port {} is ignored: an earlier one has the name \"{}\" too", port.port, port.name));
        }
        first
    });
    ports
}

/// Every address that is somebody's business if the Service is another proxy's.
fn addresses(service: &Service) -> Vec<IpAddr> {
    let vips = service.ingress.iter().map(|ingress| ingress.ip);
    let mut all: Vec<_> = service.cluster_ips.iter().chain(&service.external_ips).copied().chain(vips).collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// The addresses at which a Service answers in one family, node ports aside.
struct Captured {
    cluster_ip: IpAddr,
    external_ips: Vec<IpAddr>,
    vips: Vec<IpAddr>,
    /// Who may use the VIPs; empty: everybody.
    source_ranges: Vec<IpNet>,
}

impl Captured {
    /// `None` if the Service has no cluster IP of this family: then none of its addresses of the family is served.
    fn of(service: &Service, family: Family, node: &NodeView, remarks: &mut Vec<String>) -> Option<Self> {
        let of_family = |addr: &IpAddr| Family::of(*addr) == family;
        let mut external_ips: Vec<_> = service.external_ips.iter().copied().filter(of_family).collect();
        let mut vips: Vec<_> = match service.kind {
            ServiceType::LoadBalancer => {
                let vips = service.ingress.iter().filter(|ingress| ingress.mode == IpMode::Vip);
                vips.map(|ingress| ingress.ip).filter(of_family).collect()
            }
            _ => Vec::new(),
        };
        let Some(cluster_ip) = service.cluster_ips.iter().copied().find(of_family) else {
            for addr in external_ips.iter().chain(&vips) {
                remarks.push(format!("{addr} is not served: there is no {} cluster IP", family.name()));
            }
            return None;
        };
        external_ips.retain(|addr| can_be_captured(*addr, "external IP", remarks) && is_allowed(*addr, node, remarks));
        external_ips.sort_unstable();
        external_ips.dedup();
        vips.retain(|addr| can_be_captured(*addr, "load-balancer address", remarks));
        vips.sort_unstable();
        vips.dedup();
        let source_ranges = source_ranges(service, family, &vips, node);
        Some(Self { cluster_ip, external_ips, vips, source_ranges })
    }
}

fn can_be_captured(addr: IpAddr, what: &str, remarks: &mut Vec<String>) -> bool {
    let special = addr.is_unspecified() || addr.is_loopback() || addr.is_multicast();
    if special {
        remarks.push(format!("{what} {addr} is not served: it is no address that can be routed to a Service"));
    }
    !special
}

fn is_allowed(addr: IpAddr, node: &NodeView, remarks: &mut Vec<String>) -> bool {
    let allowed = &node.allow_external_ips;
    let is_allowed = allowed.iter().any(|net| net.contains(&addr));
    if !is_allowed {
        remarks.push(format!("external IP {addr} is not served: --allow-external-ips does not name it"));
    }
    is_allowed
}

/// `loadBalancerSourceRanges` of one family. A node in one of them is taken to reach its own VIPs from the VIPs: some
/// platforms bind them on the node.
fn source_ranges(service: &Service, family: Family, vips: &[IpAddr], node: &NodeView) -> Vec<IpNet> {
    let of_family = |net: &IpNet| Family::of(net.addr()) == family;
    let mut ranges: Vec<_> = service.source_ranges.iter().map(IpNet::trunc).filter(of_family).collect();
    if vips.is_empty() || ranges.is_empty() {
        return Vec::new();
    }
    if node.primary[family as usize].is_some_and(|primary| ranges.iter().any(|net| net.contains(&primary))) {
        ranges.extend(vips.iter().copied().map(IpNet::from));
    }
    ranges.sort_unstable();
    ranges.dedup();
    ranges
}

fn plan_port(
    service: &Service,
    port: &ServicePort,
    family: Family,
    captured: &Captured,
    slices: &[&EndpointSlice],
    node: &NodeView,
    scheduler: &Scheduler,
) -> PlannedPort {
    let endpoints = Endpoints::of_port(slices, (&port.name, port.protocol, family), node);
    let rules = Rules { detector: node.detector[family as usize], empty: endpoints.is_empty() };
    let internal = rules.internal(service.internal_policy, node.masquerade_all);
    let external = rules.external(service.external_policy);

    let mut frontends: Vec<PlannedFrontend> = Vec::new();
    let mut answer = |addr, kind, rules, guarded| {
        let addr = SocketAddr::new(addr, port.port);
        // An address that has two roles keeps the first, and its guard whichever role brought it.
        match frontends.iter_mut().find(|frontend| frontend.addr == addr) {
            Some(frontend) => frontend.guarded |= guarded,
            None => frontends.push(PlannedFrontend { addr, kind, rules, guarded }),
        }
    };
    answer(captured.cluster_ip, FrontendKind::ClusterIp, internal, false);
    for addr in &captured.vips {
        answer(*addr, FrontendKind::LoadBalancer, external, !captured.source_ranges.is_empty());
    }
    for addr in &captured.external_ips {
        answer(*addr, FrontendKind::ExternalIp, external, false);
    }
    if let Some(node_port) = port.node_port.filter(|_| service.kind != ServiceType::ClusterIp) {
        let node_ports = &node.node_ports[family as usize];
        let own = node_ports.addresses.iter().map(|addr| (*addr, FrontendKind::NodePort));
        let on_loopback = node_ports.loopback.then(|| (loopback(family), FrontendKind::LocalhostNodePort));
        frontends.extend(own.chain(on_loopback).map(|(addr, kind)| PlannedFrontend {
            addr: SocketAddr::new(addr, node_port),
            kind,
            rules: external,
            guarded: false,
        }));
    }

    let asked = |local| frontends.iter().flat_map(|frontend| frontend.rules).any(|rule| rule.has(Rule::LOCAL) == local);
    PlannedPort {
        cluster: if asked(false) { endpoints.cluster(node, scheduler) } else { Vec::new() },
        local: if asked(true) { endpoints.local(scheduler) } else { Vec::new() },
        serving: endpoints.serving(),
        affinity: service.affinity.map(|timeout| u32::try_from(timeout.as_secs()).unwrap_or(u32::MAX).max(1)),
        algorithm: scheduler.algorithm,
        source_ranges: captured.source_ranges.clone(),
        id: PortId { service: service.key.clone(), port: port.name.clone(), protocol: port.protocol, family },
        frontends,
    }
}

/// What the rules of a port depend on besides its policies.
struct Rules {
    /// Pods can be recognised.
    detector: bool,
    /// No endpoint anywhere: everybody is refused, also where a Local policy would drop.
    empty: bool,
}

impl Rules {
    /// For a cluster IP.
    fn internal(&self, policy: TrafficPolicy, masquerade_all: bool) -> [Rule; 3] {
        let set = match policy {
            TrafficPolicy::Cluster => 0,
            TrafficPolicy::Local => self.local_set(),
        };
        let kept = if masquerade_all { set | Rule::SNAT } else { set };
        // Without a detector nobody is known to be outside, so nobody is translated.
        let outside = if self.detector { set | Rule::SNAT } else { kept };
        by_sender(kept, outside, outside)
    }

    /// For a node port, a load-balancer address or an external IP.
    fn external(&self, policy: TrafficPolicy) -> [Rule; 3] {
        match policy {
            TrafficPolicy::Cluster => by_sender(Rule::SNAT, Rule::SNAT, Rule::SNAT),
            TrafficPolicy::Local => {
                let outside = self.local_set();
                // Whom nothing recognises as a pod is a client from outside.
                let pod = if self.detector { 0 } else { outside };
                by_sender(pod, Rule::SNAT, outside)
            }
        }
    }

    fn local_set(&self) -> u8 {
        if self.empty { Rule::LOCAL } else { Rule::LOCAL | Rule::DROP }
    }
}

/// In the order of [`svc_common::tables::Sender`].
fn by_sender(pod: u8, host: u8, other: u8) -> [Rule; 3] {
    [Rule(pod), Rule(host), Rule(other)]
}

/// Leaves each address, port and protocol to one port of the Service: service addresses go before node ports, then the
/// earlier port wins.
fn settle_own_clashes(ports: &mut [PlannedPort], remarks: &mut Vec<String>) {
    let mut taken = HashSet::new();
    for node_ports in [false, true] {
        for port in ports.iter_mut() {
            let (name, protocol) = (&port.id.port, port.id.protocol);
            port.frontends.retain(|frontend| {
                let keep = frontend.kind.is_node_port() != node_ports || taken.insert((frontend.addr, protocol));
                if !keep {
                    let addr = frontend.addr;
                    remarks.push(format!(
                        "{addr}/{} of port \"{name}\" gives way to another frontend of the Service",
                        protocol.name()
                    ));
                }
                keep
            });
        }
    }
}

/// The health-check listener counts distinct addresses: a pod with two ports is one endpoint.
fn health_check(service: &Service, slices: &[&EndpointSlice], node: &NodeView) -> Option<HealthCheck> {
    let wanted = service.kind == ServiceType::LoadBalancer && service.external_policy == TrafficPolicy::Local;
    let port = service.health_check_node_port.filter(|_| wanted)?;
    let mut ports: Vec<_> = slices.iter().flat_map(|slice| &slice.ports).map(|p| (&*p.name, p.protocol)).collect();
    ports.sort_unstable();
    ports.dedup();
    let local_endpoints = Family::ALL.map(|family| {
        let ready = |(name, protocol)| -> Vec<_> {
            Endpoints::of_port(slices, (name, protocol, family), node).ready_local().map(|addr| addr.ip()).collect()
        };
        let mut addresses: Vec<_> = ports.iter().copied().flat_map(ready).collect();
        addresses.sort_unstable();
        addresses.dedup();
        addresses.len()
    });
    Some(HealthCheck { port, local_endpoints })
}
