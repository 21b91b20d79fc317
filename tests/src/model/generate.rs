//! Random clusters, changes and questions from a seed.
//!
//! The pools of names, addresses and ports are tiny on purpose: clashes, empty sets and near misses are then the
//! rule. Combinations that the API server refuses and on which the specification is silent are not made.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use super::object::{Cluster, Endpoint, NODE, Node, Port, Protocol, Service, Slice, Type};
use super::rules::{Detector, Flags, Packet, Via};
use super::session::Question;

/// A flag set, objects, and what happens one after another.
#[derive(Clone, Debug, PartialEq)]
pub struct History {
    /// Flags of the node.
    pub flags: Flags,
    /// Objects at the start.
    pub start: Cluster,
    /// What follows.
    pub steps: Vec<Step>,
}

/// One step of a history.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Other objects from here on; whether the session lives on.
    Change(Cluster, bool),
    /// A question; whether it belongs to the session.
    Ask(Question, bool),
}

/// A small generator of good numbers (SplitMix64): the same seed gives the same history everywhere.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// From a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    /// True in `percent` of the cases.
    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }

    fn some(&mut self, items: &[&str], percent: usize) -> Vec<String> {
        items.iter().filter(|_| self.chance(percent)).map(|item| (*item).to_owned()).collect()
    }
}

const NUMBERS: [u16; 3] = [53, 80, 443];
const NODE_PORTS: [u16; 3] = [30053, 30080, 30443];
const NAMES: [&str; 3] = ["", "http", "dns"];
const NAMESPACES: [&str; 2] = ["default", "kube-system"];
const SERVICES: [&str; 4] = ["a", "b", "web", "dns"];
const SCHEDULERS: [&str; 9] = ["rr", "wrr", "lc", "wlc", "sed", "sh", "dh", "mh", "unheard-of"];
const PROTOCOLS: [Protocol; 4] = [Protocol::Tcp, Protocol::Tcp, Protocol::Udp, Protocol::Sctp];

/// An address of a pool: a kind, a number, a family.
fn address(kind: Pool, number: usize, v6: bool) -> IpAddr {
    let (v4_net, v6_net) = match kind {
        Pool::Cluster => ("10.96.0", "fd00:10:96:"),
        Pool::Ingress => ("198.51.100", "2001:db8:51:"),
        Pool::External => ("203.0.113", "2001:db8:113:"),
        Pool::OwnPod => ("10.1.0", "fd00:1:0:"),
        Pool::OtherPod => ("10.1.1", "fd00:1:1:"),
        Pool::Node => ("192.168.0", "fd00:99:"),
        Pool::Client => ("172.16.7", "2001:db8:7:"),
    };
    let text = if v6 { format!("{v6_net}:{number:x}") } else { format!("{v4_net}.{number}") };
    text.parse().expect("pools are written as addresses")
}

#[derive(Clone, Copy)]
enum Pool {
    Cluster,
    Ingress,
    External,
    OwnPod,
    OtherPod,
    Node,
    Client,
}

/// The history of a seed.
pub fn history(seed: u64) -> History {
    let random = &mut Random::new(seed);
    let flags = flags(random);
    let start = cluster(random);
    let mut steps = Vec::new();
    let mut present = start.clone();
    // Starting the programs costs more than a hundred questions: one start serves several clusters.
    for _ in 0..4 + random.below(4) {
        for _ in 0..30 {
            steps.push(Step::Ask(question(random, &present, false), false));
        }
        // A session: connections that live through changes, asked for again and again.
        let mut asked: Vec<Question> = Vec::new();
        for _ in 0..2 + random.below(4) {
            for _ in 0..8 {
                let again = !asked.is_empty() && random.chance(60);
                let question = if again { random.pick(&asked).clone() } else { question(random, &present, true) };
                asked.push(question.clone());
                steps.push(Step::Ask(question, true));
            }
            change(random, &mut present);
            steps.push(Step::Change(present.clone(), true));
        }
        present = if random.chance(50) { cluster(random) } else { present };
        steps.push(Step::Change(present.clone(), false));
    }
    History { flags, start, steps }
}

fn flags(random: &mut Random) -> Flags {
    let detector = match random.below(6) {
        0 => Detector::NodeCidr,
        1 => Detector::Bridge("cbr0".into()),
        2 => Detector::Prefix("veth".into()),
        _ => Detector::ClusterCidr,
    };
    let lists: [&[&str]; 9] = [
        &["primary"],
        &["localhost"],
        &["all"],
        &["0.0.0.0/0", "::/0"],
        &["192.168.0.0/24"],
        &["fd00:99::/64"],
        &["127.0.0.0/8"],
        &["primary", "10.1.0.0/16", "::1/128"],
        &["203.0.113.0/24", "2001:db8::/32"],
    ];
    let own = |list: &[&str]| list.iter().map(|item| (*item).to_owned()).collect::<Vec<_>>();
    let extra = [
        address(Pool::Node, 9, false),
        address(Pool::Node, 9, true),
        address(Pool::Ingress, 1, false),
        address(Pool::External, 1, true),
        address(Pool::Cluster, 2, false),
        address(Pool::OwnPod, 1, false),
    ];
    Flags {
        cluster_cidr: random.some(&["10.1.0.0/16", "fd00:1::/32"], 80),
        detector,
        masquerade_all: random.chance(15),
        node_port_addresses: random.chance(60).then(|| own(lists[random.below(lists.len())])),
        allow_external_ips: random.some(&["203.0.113.0/24", "2001:db8:113::/48"], 80),
        host_addresses: extra.into_iter().filter(|_| random.chance(25)).collect(),
    }
}

fn cluster(random: &mut Random) -> Cluster {
    let mut cluster = Cluster { node: Some(node(random)), ..Cluster::default() };
    if random.chance(60) {
        cluster.cidrs = vec!["10.96.0.0/24".into(), "fd00:10:96::/112".into()];
    }
    for _ in 0..1 + random.below(5) {
        add_service(random, &mut cluster);
    }
    agree(&mut cluster);
    cluster
}

/// Copies of an endpoint in several slices get the same hints: which copy's would count, nobody says.
fn agree(cluster: &mut Cluster) {
    let mut hints = BTreeMap::new();
    for slice in &mut cluster.slices {
        for endpoint in &mut slice.endpoints {
            let key = (slice.namespace.clone(), slice.service.clone(), endpoint.addresses.first().copied());
            let first = hints.entry(key).or_insert_with(|| (endpoint.zones.clone(), endpoint.nodes.clone()));
            (endpoint.zones, endpoint.nodes) = first.clone();
        }
    }
}

fn node(random: &mut Random) -> Node {
    let external = [address(Pool::Node, 8, false), address(Pool::Node, 8, true)];
    Node {
        internal: vec![address(Pool::Node, 1, false), address(Pool::Node, 1, true)],
        external: external.into_iter().filter(|_| random.chance(20)).collect(),
        pod_cidrs: random.some(&["10.1.0.0/24", "fd00:1:0::/48"], 80),
        zone: random.chance(60).then(|| "east".to_owned()),
    }
}

fn add_service(random: &mut Random, cluster: &mut Cluster) {
    let (namespace, name) = (random.pick(&NAMESPACES).to_string(), random.pick(&SERVICES).to_string());
    if cluster.services.iter().any(|service| service.namespace == namespace && service.name == name) {
        return;
    }
    let kind = [Type::ClusterIp, Type::ClusterIp, Type::NodePort, Type::LoadBalancer, Type::LoadBalancer];
    let kind = if random.chance(4) { Type::ExternalName } else { *random.pick(&kind) };
    let mut service = Service {
        namespace,
        name,
        created: random.chance(50).then(|| random.below(3) as u32),
        kind,
        headless: random.chance(4),
        cluster_ips: Vec::new(),
        other_proxy: random.chance(5),
        headless_label: random.chance(5),
        external_ips: Vec::new(),
        ingress: Vec::new(),
        ports: Vec::new(),
        external_local: random.chance(40),
        internal_local: random.chance(30),
        affinity: random.chance(30),
        timeout: random.chance(50).then(|| 3600 + random.below(80_000) as u32),
        scheduler: random.chance(15).then(|| *random.pick(&SCHEDULERS)),
        ranges: Vec::new(),
        sloppy: random.chance(10),
    };
    for v6 in families(random) {
        // The API server gives a cluster IP to one Service only.
        let addr = address(Pool::Cluster, 1 + random.below(6), v6);
        if !cluster.services.iter().any(|other| other.cluster_ips.contains(&addr)) && !service.headless {
            service.cluster_ips.push(addr);
        }
        if random.chance(25) {
            service.external_ips.push(address(Pool::External, 1 + random.below(2), v6));
        }
        if kind == Type::LoadBalancer {
            for number in 1..=2 {
                if random.chance(50) {
                    service.ingress.push((address(Pool::Ingress, number, v6), random.chance(20)));
                }
            }
        }
    }
    if kind == Type::LoadBalancer && random.chance(50) {
        let ranges = ["172.16.0.0/16", "192.168.0.0/24", "10.1.0.0/24", "0.0.0.0/0", "2001:db8:7::/48", "fd00:99::/64"];
        service.ranges = random.some(&ranges, 25);
    }
    for name in NAMES {
        add_port(random, cluster, &mut service, name);
    }
    for number in 0..1 + random.below(3) {
        let slice = slice(random, &service, number);
        // Slices of a Service that was removed stay behind; the new one's have their names.
        cluster.slices.retain(|old| old.namespace != slice.namespace || old.name != slice.name);
        cluster.slices.push(slice);
    }
    cluster.services.push(service);
}

fn families(random: &mut Random) -> Vec<bool> {
    match random.below(4) {
        0 => vec![true],
        1 => vec![false],
        2 => vec![false, true],
        _ => vec![true, false],
    }
}

fn add_port(random: &mut Random, cluster: &Cluster, service: &mut Service, name: &str) {
    let (number, protocol) = (*random.pick(&NUMBERS), *random.pick(&PROTOCOLS));
    let taken = service.ports.iter().any(|port| port.port == number && port.protocol == protocol);
    if taken || (random.chance(50) && !service.ports.is_empty()) {
        return;
    }
    let node_port = *random.pick(&NODE_PORTS);
    let everybody = cluster.services.iter().chain(std::iter::once(&*service));
    let free = everybody
        .flat_map(|service| &service.ports)
        .all(|port| port.node_port != Some(node_port) || port.protocol != protocol);
    let wants = matches!(service.kind, Type::NodePort | Type::LoadBalancer) && random.chance(90);
    let node_port = (wants && free).then_some(node_port);
    service.ports.push(Port { name: name.to_owned(), protocol, port: number, node_port });
}

fn slice(random: &mut Random, service: &Service, number: usize) -> Slice {
    let v6 = random.chance(50);
    let mut ports: Vec<(String, Protocol, Option<u16>)> = Vec::new();
    for port in &service.ports {
        let number = (!random.chance(3)).then(|| 8000 + *random.pick(&NUMBERS));
        ports.push((port.name.clone(), if random.chance(3) { Protocol::Udp } else { port.protocol }, number));
    }
    Slice {
        namespace: service.namespace.clone(),
        name: format!("{}-{number}", service.name),
        service: (!random.chance(3)).then(|| service.name.clone()),
        headless_label: random.chance(4),
        v6,
        ports,
        endpoints: endpoints(random, v6),
        sloppy: random.chance(10),
    }
}

fn endpoints(random: &mut Random, v6: bool) -> Vec<Endpoint> {
    // All endpoints of a slice have hints or hardly any has: the rule asks for "every".
    let (zones, nodes) = (random.chance(30), random.chance(20));
    let mut seen = BTreeSet::new();
    let mut endpoints = Vec::new();
    for _ in 0..random.below(6) {
        let (pool, node) = match random.below(8) {
            0..=2 => (Pool::OwnPod, Some(NODE)),
            3..=5 => (Pool::OtherPod, Some("n2")),
            6 => (Pool::Node, Some(NODE)),
            _ => (Pool::Client, None),
        };
        let number = if matches!(pool, Pool::Node) { 1 } else { 2 + random.below(4) };
        let addr = address(pool, number, v6);
        if !seen.insert(addr) {
            continue;
        }
        let condition = |random: &mut Random, usual: bool| match random.below(10) {
            0..=4 => None,
            5..=7 => Some(usual),
            _ => Some(!usual),
        };
        endpoints.push(Endpoint {
            addresses: if random.chance(10) { vec![addr, address(pool, 77, v6)] } else { vec![addr] },
            ready: condition(random, true),
            serving: condition(random, true),
            terminating: condition(random, false),
            node: node.map(str::to_owned),
            zones: if zones && random.chance(90) { random.some(&["east", "west"], 60) } else { Vec::new() },
            nodes: if nodes && random.chance(90) { random.some(&[NODE, "n2"], 60) } else { Vec::new() },
        });
    }
    endpoints
}

/// One or a few small changes, as controllers and people make them.
fn change(random: &mut Random, cluster: &mut Cluster) {
    for _ in 0..1 + random.below(3) {
        let service = random.below(cluster.services.len());
        let slice = random.below(cluster.slices.len());
        match random.below(12) {
            0 => add_service(random, cluster),
            1 if cluster.services.len() > 1 => drop(cluster.services.remove(service)),
            2 if cluster.slices.len() > 1 => drop(cluster.slices.remove(slice)),
            3 => cluster.node = Some(node(random)),
            4..=6 => toggle(random, cluster.services.get_mut(service)),
            _ => shake(random, cluster.slices.get_mut(slice)),
        }
    }
    agree(cluster);
}

fn toggle(random: &mut Random, service: Option<&mut Service>) {
    let Some(service) = service else { return };
    match random.below(8) {
        0 => service.external_local = !service.external_local,
        1 => service.internal_local = !service.internal_local,
        2 => service.affinity = !service.affinity,
        3 => service.other_proxy = !service.other_proxy,
        4 => service.ranges.clear(),
        5 => service.timeout = Some(3600 + random.below(80_000) as u32),
        6 => service.scheduler = random.chance(70).then(|| *random.pick(&SCHEDULERS)),
        _ => drop(service.ports.pop().filter(|_| service.ports.is_empty()).map(|port| service.ports.push(port))),
    }
}

fn shake(random: &mut Random, slice: Option<&mut Slice>) {
    let Some(slice) = slice else { return };
    let endpoint = random.below(slice.endpoints.len());
    match (random.below(8), slice.endpoints.get_mut(endpoint)) {
        (0 | 1, _) => slice.endpoints = endpoints(random, slice.v6),
        (2, _) => slice.headless_label = !slice.headless_label,
        (3, Some(_)) => drop(slice.endpoints.remove(endpoint)),
        (4 | 5, Some(endpoint)) => endpoint.ready = Some(!endpoint.ready.unwrap_or(true)),
        (6, Some(endpoint)) => endpoint.serving = Some(!endpoint.serving.unwrap_or(true)),
        (_, Some(endpoint)) => {
            endpoint.ready = Some(false);
            endpoint.terminating = Some(true);
        }
        (_, None) => {}
    }
}

fn question(random: &mut Random, cluster: &Cluster, session: bool) -> Question {
    let v6 = random.chance(50);
    let (ip, port, protocol) = destination(random, cluster, v6);
    let via = *random.pick(&[Via::Pod, Via::Pod, Via::Host, Via::Uplink]);
    let from = match via {
        // A process of the host has an address of the host.
        Via::Host if ip.is_loopback() || random.chance(5) => loopback(v6),
        Via::Host => address(Pool::Node, 1, v6),
        Via::Pod if random.chance(80) => address(Pool::OwnPod, 2 + random.below(4), v6),
        _ => {
            let pools =
                [Pool::OwnPod, Pool::OtherPod, Pool::OtherPod, Pool::Client, Pool::Client, Pool::Client, Pool::Ingress];
            let pool = if random.chance(4) { Pool::Node } else { *random.pick(&pools) };
            address(pool, 1 + random.below(5), v6)
        }
    };
    let device = match via {
        Via::Host => None,
        _ if random.chance(85) => None,
        _ => Some(random.pick(&["cbr0", "veth12", "eth0", "cbr00"]).to_string()),
    };
    let many = [1, 1, 4, 4, 16, 64, 512];
    Question {
        packet: Packet { via, device, from, to: SocketAddr::new(ip, port), protocol },
        source_port: session.then(|| 1024 + random.below(8000) as u16),
        trials: if session { 1 } else { *random.pick(&many) },
    }
}

fn loopback(v6: bool) -> IpAddr {
    if v6 { std::net::Ipv6Addr::LOCALHOST.into() } else { std::net::Ipv4Addr::LOCALHOST.into() }
}

/// Mostly something that answers; sometimes a near miss; sometimes anything.
fn destination(random: &mut Random, cluster: &Cluster, v6: bool) -> (IpAddr, u16, Protocol) {
    let of_family = |addr: &IpAddr| addr.is_ipv6() == v6;
    let node_addresses = [
        address(Pool::Node, 1, v6),
        address(Pool::Node, 1, v6),
        address(Pool::Node, 1, v6),
        address(Pool::Node, 1, v6),
        address(Pool::Node, 9, v6),
        address(Pool::Node, 2, v6),
        address(Pool::Ingress, 1, v6),
        loopback(v6),
    ];
    let (mut ip, mut number, mut protocol) = (
        address(*random.pick(&[Pool::Cluster, Pool::Ingress, Pool::External, Pool::OwnPod]), 1 + random.below(6), v6),
        *random.pick(&NUMBERS),
        *random.pick(&PROTOCOLS),
    );
    if cluster.services.is_empty() || random.chance(10) {
        return (ip, number, protocol);
    }
    let service = random.pick(&cluster.services);
    if let Some(port) = service.ports.get(random.below(service.ports.len())) {
        (number, protocol) = (port.port, port.protocol);
        if let Some(node_port) = port.node_port.filter(|_| random.chance(40)) {
            return (*random.pick(&node_addresses), node_port, protocol);
        }
    }
    let ingress = service.ingress.iter().map(|(addr, _)| *addr);
    let all: Vec<IpAddr> = service.cluster_ips.iter().chain(&service.external_ips).copied().chain(ingress).collect();
    let own: Vec<IpAddr> = all.into_iter().filter(of_family).collect();
    if !own.is_empty() {
        ip = *random.pick(&own);
    }
    if random.chance(8) {
        number = *random.pick(&NUMBERS);
    }
    if random.chance(5) {
        protocol = *random.pick(&PROTOCOLS);
    }
    (ip, number, protocol)
}
