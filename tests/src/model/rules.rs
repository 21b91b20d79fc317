//! The specification: what happens to the first packet of a connection.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::object::{Cluster, Endpoint, NODE, Port, Protocol, Service, Type};
use super::prefix;

/// The flags of a node that change an answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Flags {
    /// `--cluster-cidr`.
    pub cluster_cidr: Vec<String>,
    /// `--detect-local-mode` and its companions.
    pub detector: Detector,
    /// `--masquerade-all`.
    pub masquerade_all: bool,
    /// `--nodeport-addresses`; `None` leaves the default.
    pub node_port_addresses: Option<Vec<String>>,
    /// `--allow-external-ips`.
    pub allow_external_ips: Vec<String>,
    /// `--host-addresses`.
    pub host_addresses: Vec<IpAddr>,
}

/// How a node knows its pods.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Detector {
    /// By the pod range of the cluster.
    #[default]
    ClusterCidr,
    /// By the pod ranges of the own Node.
    NodeCidr,
    /// By the bridge on which a packet arrives.
    Bridge(String),
    /// By the name of the device on which a packet arrives.
    Prefix(String),
}

/// Where a packet enters the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// From a pod of this node.
    Pod,
    /// From a process of the host.
    Host,
    /// From outside.
    Uplink,
}

/// The first packet of a connection.
#[derive(Clone, Debug, PartialEq)]
pub struct Packet {
    /// Where it enters.
    pub via: Via,
    /// Device on which it arrives; `None`: the default of `via`.
    pub device: Option<String>,
    /// Source address.
    pub from: IpAddr,
    /// Destination.
    pub to: SocketAddr,
    /// Protocol.
    pub protocol: Protocol,
}

/// Identity of a service port in one family: namespace, Service, port name, protocol, IPv6.
pub type PortId = (String, String, String, Protocol, bool);

/// What happens to a packet.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// It goes on as it came.
    Untouched,
    /// The sender is told.
    Reject,
    /// Silence.
    Drop,
    /// It goes to one of these endpoints.
    Forward(Choice),
}

/// The endpoints to choose from, and what becomes of the source.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// The service port that was dialled.
    pub port: PortId,
    /// The set that applies; the value says whether the source is translated on the way to this endpoint.
    pub endpoints: BTreeMap<SocketAddr, bool>,
    /// The Service has session affinity.
    pub affinity: bool,
    /// Each endpoint gets its equal share.
    pub even: bool,
}

/// Who sends, in the order of the specification: a pod wins over the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// By the detector.
    Pod,
    /// An address of the node.
    Host,
    /// Everybody else.
    Other,
}

/// Kinds of frontend with rules of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Frontend {
    ClusterIp,
    LoadBalancer,
    /// External IPs and node ports.
    External,
}

/// An endpoint of a service port after all slices have been merged.
struct Merged<'a> {
    addr: SocketAddr,
    endpoint: &'a Endpoint,
}

/// What a node knows: objects and flags.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// The objects.
    pub cluster: &'a Cluster,
    /// The flags.
    pub flags: &'a Flags,
}

impl<'a> Facts<'a> {
    /// The verdict of the specification on a first packet.
    pub fn verdict(&self, packet: &Packet) -> Verdict {
        if let Some((service, port, kind)) = self.frontend(packet) {
            return self.apply_policy(packet, service, port, kind);
        }
        // 1.17.1: what is delivered here because the address is bound here passes.
        let to = packet.to.ip();
        if self.is_node_address(to) {
            return Verdict::Untouched;
        }
        if self.visible(to).any(|service| service.cluster_ips.contains(&to)) {
            return Verdict::Reject;
        }
        // No proxy serves an ExternalName, whatever its labels.
        let served = |service: &&Service| service.other_proxy && service.kind != Type::ExternalName;
        let foreign = self.cluster.services.iter().filter(served);
        if foreign.flat_map(all_addresses).any(|addr| addr == to) {
            return Verdict::Untouched;
        }
        if self.cluster.cidrs.iter().any(|cidr| prefix::contains(cidr, to)) {
            Verdict::Drop
        } else {
            Verdict::Untouched
        }
    }

    /// Endpoints of a service port to which a UDP flow may go on (1.17.13): ready or serving.
    pub fn good_endpoints(&self, id: &PortId) -> BTreeSet<SocketAddr> {
        self.endpoints_of(id, |merged| merged.ready() || merged.serving())
    }

    /// Ready endpoints of a service port.
    pub fn ready_endpoints(&self, id: &PortId) -> BTreeSet<SocketAddr> {
        self.endpoints_of(id, |merged| merged.ready())
    }

    /// None if there is no such service port.
    fn endpoints_of(&self, id: &PortId, wanted: fn(&Merged<'_>) -> bool) -> BTreeSet<SocketAddr> {
        let (namespace, name, port, protocol, v6) = id;
        let sample: IpAddr = if *v6 { Ipv6Addr::LOCALHOST.into() } else { Ipv4Addr::LOCALHOST.into() };
        let service = self.visible(sample).find(|service| service.namespace == *namespace && service.name == *name);
        let same = |candidate: &&Port| candidate.name == *port && candidate.protocol == *protocol;
        let Some((service, port)) = service.and_then(|service| Some((service, service.ports.iter().find(same)?)))
        else {
            return BTreeSet::new();
        };
        let merged = self.endpoints(service, port, *v6);
        merged.iter().filter(|merged| wanted(merged)).map(|merged| merged.addr).collect()
    }

    /// The primary address of the node in the family of `like` (1.17.6).
    pub fn primary(&self, like: IpAddr) -> Option<IpAddr> {
        let node = self.cluster.node.as_ref()?;
        node.internal.iter().copied().find(|addr| prefix::same_family(*addr, like))
    }

    /// Whether the address belongs to this node.
    pub fn is_node_address(&self, addr: IpAddr) -> bool {
        let node = self.cluster.node.as_ref();
        addr.is_loopback()
            || self.flags.host_addresses.contains(&addr)
            || node.is_some_and(|node| node.internal.contains(&addr) || node.external.contains(&addr))
    }

    /// Who sends (1.1, 1.17.5).
    pub fn sender(&self, packet: &Packet) -> Sender {
        let pod = match &self.flags.detector {
            Detector::ClusterCidr => contains_any(&self.flags.cluster_cidr, packet.from),
            Detector::NodeCidr => {
                self.cluster.node.as_ref().is_some_and(|node| contains_any(&node.pod_cidrs, packet.from))
            }
            Detector::Bridge(name) => self.arrives_on(packet, |device| device == name),
            Detector::Prefix(prefix) => self.arrives_on(packet, |device| device.starts_with(prefix.as_str())),
        };
        if pod {
            Sender::Pod
        } else if self.is_node_address(packet.from) {
            Sender::Host
        } else {
            Sender::Other
        }
    }

    fn arrives_on(&self, packet: &Packet, accepts: impl Fn(&str) -> bool) -> bool {
        match (&packet.device, packet.via) {
            (Some(device), _) => accepts(device),
            (None, via) => via == Via::Pod,
        }
    }

    /// Whether there is a detector for the family of `addr` at all.
    fn detects(&self, addr: IpAddr) -> bool {
        let of_family = |list: &[String]| list.iter().any(|item| prefix::same_family(prefix::parse(item).0, addr));
        match &self.flags.detector {
            Detector::ClusterCidr => of_family(&self.flags.cluster_cidr),
            Detector::NodeCidr => self.cluster.node.as_ref().is_some_and(|node| of_family(&node.pod_cidrs)),
            Detector::Bridge(_) | Detector::Prefix(_) => true,
        }
    }

    /// Services that count in the family of `like` (1.2, 1.3), the winner of a clash first (1.17.17).
    fn visible(&self, like: IpAddr) -> impl Iterator<Item = &'a Service> + use<'a> {
        let counts = move |service: &&Service| {
            service.kind != Type::ExternalName
                && !service.headless
                && !service.other_proxy
                && service.cluster_ips.iter().any(|addr| prefix::same_family(*addr, like))
        };
        let mut services: Vec<&Service> = self.cluster.services.iter().filter(counts).collect();
        services.sort_by_key(|service| (service.created.unwrap_or(u32::MAX), &service.namespace, &service.name));
        services.into_iter()
    }

    /// The frontend that the packet dials: exact addresses first, then node ports (1.11).
    fn frontend(&self, packet: &Packet) -> Option<(&'a Service, &'a Port, Frontend)> {
        let to = packet.to.ip();
        for service in self.visible(to) {
            let kind = if service.cluster_ips.contains(&to) {
                Frontend::ClusterIp
            } else if service.kind == Type::LoadBalancer && service.ingress.contains(&(to, false)) {
                Frontend::LoadBalancer
            } else if service.external_ips.contains(&to) && contains_any(&self.flags.allow_external_ips, to) {
                Frontend::External
            } else {
                continue;
            };
            let dialled = |port: &&Port| port.port == packet.to.port() && port.protocol == packet.protocol;
            if let Some(port) = service.ports.iter().find(dialled) {
                return Some((service, port, kind));
            }
        }
        if !self.answers_on_node_ports(packet) {
            return None;
        }
        for service in self.visible(to) {
            if !matches!(service.kind, Type::NodePort | Type::LoadBalancer) {
                continue;
            }
            let dialled = |port: &&Port| port.node_port == Some(packet.to.port()) && port.protocol == packet.protocol;
            if let Some(port) = service.ports.iter().find(dialled) {
                return Some((service, port, Frontend::External));
            }
        }
        None
    }

    fn answers_on_node_ports(&self, packet: &Packet) -> bool {
        let default = ["primary".to_owned(), "localhost".to_owned()];
        let list = self.flags.node_port_addresses.as_deref().unwrap_or(&default);
        let to = packet.to.ip();
        // Loopback is served for processes of this host only (1.17.16), and by hooks that no SCTP socket passes.
        (!to.is_loopback() || (packet.via == Via::Host && packet.protocol != Protocol::Sctp))
            && self.is_node_address(to)
            && prefix::is_node_port_address(list, to, self)
    }

    fn apply_policy(&self, packet: &Packet, service: &Service, port: &Port, kind: Frontend) -> Verdict {
        if kind == Frontend::LoadBalancer && !self.admits(service, packet.from) {
            return Verdict::Drop;
        }
        let v6 = packet.to.is_ipv6();
        let endpoints = self.endpoints(service, port, v6);
        if !endpoints.iter().any(|merged| merged.ready() || merged.fallback()) {
            return Verdict::Reject;
        }
        let sender = self.sender(packet);
        let (local, translate) = match kind {
            Frontend::ClusterIp => {
                let foreigner = self.detects(packet.from) && sender != Sender::Pod;
                (service.internal_local, self.flags.masquerade_all || foreigner)
            }
            Frontend::LoadBalancer | Frontend::External => match (service.external_local, sender) {
                (false, _) => (false, true),
                (true, Sender::Pod) => (false, false),
                (true, Sender::Host) => (false, true),
                (true, Sender::Other) => (true, false),
            },
        };
        let set = if local { local_set(&endpoints) } else { self.cluster_set(&endpoints) };
        if set.is_empty() {
            return Verdict::Drop;
        }
        // 1.6: who is sent to himself is always translated.
        let treated = set.into_iter().map(|addr| (addr, translate || addr.ip() == packet.from)).collect();
        let id = (service.namespace.clone(), service.name.clone(), port.name.clone(), port.protocol, v6);
        Verdict::Forward(Choice {
            port: id,
            endpoints: treated,
            affinity: service.affinity,
            even: !service.affinity && service.scheduler.is_none(),
        })
    }

    /// loadBalancerSourceRanges (1.7, 1.17.3).
    fn admits(&self, service: &Service, from: IpAddr) -> bool {
        let ranges: Vec<&String> =
            service.ranges.iter().filter(|range| prefix::same_family(prefix::parse(range).0, from)).collect();
        let allowed = |addr: IpAddr| ranges.iter().any(|range| prefix::contains(range, addr));
        let node_allowed = self.primary(from).is_some_and(allowed);
        ranges.is_empty() || allowed(from) || (node_allowed && service.ingress.contains(&(from, false)))
    }

    /// Endpoints of a service port in one family (1.4, 1.17.9 to 1.17.11).
    fn endpoints(&self, service: &Service, port: &Port, v6: bool) -> Vec<Merged<'a>> {
        let mut merged: Vec<Merged<'a>> = Vec::new();
        for slice in &self.cluster.slices {
            let of_service = slice.namespace == service.namespace && slice.service.as_deref() == Some(&service.name);
            if !of_service || slice.headless_label || slice.v6 != v6 {
                continue;
            }
            for (name, protocol, number) in &slice.ports {
                let Some(number) = number else { continue };
                if *name != port.name || *protocol != port.protocol {
                    continue;
                }
                for endpoint in &slice.endpoints {
                    let Some(ip) = endpoint.addresses.first() else { continue };
                    let candidate = Merged { addr: SocketAddr::new(*ip, *number), endpoint };
                    match merged.iter_mut().find(|present| present.addr == candidate.addr) {
                        Some(present) if candidate.rank() > present.rank() => *present = candidate,
                        Some(_) => {}
                        None => merged.push(candidate),
                    }
                }
            }
        }
        merged
    }

    /// The Cluster set with hints (1.4, 1.8).
    fn cluster_set(&self, endpoints: &[Merged<'_>]) -> BTreeSet<SocketAddr> {
        let ready: Vec<&Merged<'_>> = endpoints.iter().filter(|merged| merged.ready()).collect();
        if ready.is_empty() {
            return endpoints.iter().filter(|merged| merged.fallback()).map(|merged| merged.addr).collect();
        }
        let narrowed = |hints: &dyn Fn(&Endpoint) -> &[String], own: &str| {
            let all = ready.iter().all(|merged| !hints(merged.endpoint).is_empty());
            let mine = |merged: &&&Merged<'_>| hints(merged.endpoint).iter().any(|name| name == own);
            let set: BTreeSet<SocketAddr> = ready.iter().filter(mine).map(|merged| merged.addr).collect();
            (all && !set.is_empty()).then_some(set)
        };
        let zone = self.cluster.node.as_ref().and_then(|node| node.zone.as_deref()).filter(|zone| !zone.is_empty());
        narrowed(&|endpoint| &endpoint.nodes, NODE)
            .or_else(|| narrowed(&|endpoint| &endpoint.zones, zone?))
            .unwrap_or_else(|| ready.iter().map(|merged| merged.addr).collect())
    }
}

/// The Local set (1.4): hints never apply.
fn local_set(endpoints: &[Merged<'_>]) -> BTreeSet<SocketAddr> {
    let select = |usable: &dyn Fn(&Merged<'_>) -> bool| -> BTreeSet<SocketAddr> {
        endpoints.iter().filter(|merged| merged.local() && usable(merged)).map(|merged| merged.addr).collect()
    };
    let ready = select(&|merged| merged.ready());
    if ready.is_empty() { select(&|merged| merged.fallback()) } else { ready }
}

impl Merged<'_> {
    fn ready(&self) -> bool {
        self.endpoint.ready.unwrap_or(true)
    }

    fn serving(&self) -> bool {
        self.endpoint.serving.unwrap_or(true)
    }

    fn terminating(&self) -> bool {
        self.endpoint.terminating.unwrap_or(false)
    }

    /// Usable when the set has no ready endpoint.
    fn fallback(&self) -> bool {
        !self.ready() && self.serving() && self.terminating()
    }

    fn local(&self) -> bool {
        self.endpoint.node.as_deref() == Some(NODE)
    }

    /// Which of two copies of an endpoint counts (1.17.10).
    fn rank(&self) -> (bool, bool, bool) {
        (!self.terminating(), self.ready(), self.local())
    }
}

fn contains_any(list: &[String], addr: IpAddr) -> bool {
    list.iter().any(|item| prefix::contains(item, addr))
}

/// Every address at which a Service might be dialled.
fn all_addresses(service: &Service) -> impl Iterator<Item = IpAddr> {
    let ingress = service.ingress.iter().map(|(addr, _)| *addr);
    service.cluster_ips.iter().copied().chain(service.external_ips.iter().copied()).chain(ingress)
}
