//! The lines of the specification's tables, written out by hand: one named example each, both families.
//!
//! They check the model itself, and the programs without the model.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use super::object::{Cluster, Endpoint, NODE, Node, Port, Protocol, Service, Slice, Type};
use super::rules::{Facts, Flags, Packet, Verdict, Via};

/// A packet and what has to become of it.
#[derive(Clone, Debug)]
pub struct Example {
    /// The line of the table, the sender and the family.
    pub name: String,
    /// Flags of the node.
    pub flags: Flags,
    /// Objects.
    pub cluster: Cluster,
    /// The packet.
    pub packet: Packet,
    /// What is expected.
    pub expected: Expected,
}

/// What is expected of an example: in the notation of the tables, `B-` is the Cluster set with the source kept, `L+`
/// the Local set with the source translated; further words are `reject`, `drop` and `untouched`.
pub type Expected = &'static str;

/// The senders of table 1.5, in its order.
const SENDERS: [&str; 5] = ["pod on this node", "pod on another node", "this host", "another node's host", "outside"];

/// Names of the four kinds of frontend.
const EXTERNAL: [&str; 3] = ["node port", "load balancer", "external IP"];

fn addr(text: &str, v6: bool) -> IpAddr {
    // The IPv6 plan mirrors the IPv4 plan: the four numbers become four groups.
    let text = if v6 { format!("fd00:{}::{}", text.replace('.', ":"), 1) } else { text.to_owned() };
    text.parse().expect("examples are written as addresses")
}

/// Address of the sender in a column of table 1.5.
fn sender(column: usize, v6: bool) -> (Via, IpAddr) {
    let (via, text) = [
        (Via::Pod, "10.1.0.2"),
        (Via::Uplink, "10.1.1.2"),
        (Via::Host, "192.168.0.1"),
        (Via::Uplink, "192.168.0.2"),
        (Via::Uplink, "172.16.7.7"),
    ][column];
    (via, addr(text, v6))
}

fn dialled(frontend: &str, v6: bool) -> SocketAddr {
    match frontend {
        "cluster IP" => SocketAddr::new(addr("10.96.0.10", v6), 80),
        "node port" => SocketAddr::new(addr("192.168.0.1", v6), 30080),
        "load balancer" => SocketAddr::new(addr("198.51.100.10", v6), 80),
        _ => SocketAddr::new(addr("203.0.113.10", v6), 80),
    }
}

/// Endpoints: on this node, on another node.
fn endpoints(v6: bool) -> [IpAddr; 2] {
    [addr("10.1.0.5", v6), addr("10.1.1.5", v6)]
}

fn endpoint(ip: IpAddr, node: &str) -> Endpoint {
    Endpoint {
        addresses: vec![ip],
        ready: None,
        serving: None,
        terminating: None,
        node: Some(node.into()),
        zones: Vec::new(),
        nodes: Vec::new(),
    }
}

/// A node, and a Service with every kind of frontend and an endpoint here and elsewhere.
fn cluster(v6: bool) -> Cluster {
    let service = Service {
        namespace: "default".into(),
        name: "web".into(),
        created: None,
        kind: Type::LoadBalancer,
        headless: false,
        cluster_ips: vec![addr("10.96.0.10", v6)],
        other_proxy: false,
        headless_label: false,
        external_ips: vec![addr("203.0.113.10", v6)],
        ingress: vec![(addr("198.51.100.10", v6), false)],
        ports: vec![Port { name: String::new(), protocol: Protocol::Tcp, port: 80, node_port: Some(30080) }],
        external_local: false,
        internal_local: false,
        affinity: false,
        timeout: None,
        scheduler: None,
        ranges: Vec::new(),
        sloppy: false,
    };
    let [here, elsewhere] = endpoints(v6);
    let slice = Slice {
        namespace: "default".into(),
        name: "web-1".into(),
        service: Some("web".into()),
        headless_label: false,
        v6,
        ports: vec![(String::new(), Protocol::Tcp, Some(8080))],
        endpoints: vec![endpoint(here, NODE), endpoint(elsewhere, "n2")],
        sloppy: false,
    };
    let node = Node {
        internal: vec![addr("192.168.0.1", v6)],
        external: Vec::new(),
        pod_cidrs: vec![if v6 { "fd00:10:1:0::/64".into() } else { "10.1.0.0/24".into() }],
        zone: None,
    };
    Cluster { services: vec![service], slices: vec![slice], node: Some(node), cidrs: Vec::new() }
}

fn flags() -> Flags {
    Flags {
        cluster_cidr: vec!["10.1.0.0/16".into(), "fd00:10:1::/48".into()],
        allow_external_ips: vec!["203.0.113.0/24".into(), "fd00:203::/32".into()],
        ..Flags::default()
    }
}

/// A change to the base, by family.
type Twist = fn(&mut Flags, &mut Cluster, bool);

/// Collects examples.
#[derive(Default)]
struct Table {
    examples: Vec<Example>,
}

impl Table {
    /// One line of a table: a frontend, a twist and the verdict for each sender.
    fn line(&mut self, name: &str, frontends: &[&str], twist: Twist, verdicts: [Expected; 5]) {
        for v6 in [false, true] {
            for frontend in frontends {
                for (column, expected) in verdicts.into_iter().enumerate() {
                    let (via, from) = sender(column, v6);
                    let packet = Packet { via, device: None, from, to: dialled(frontend, v6), protocol: Protocol::Tcp };
                    let name = format!("{name}: {} dials the {frontend}", SENDERS[column]);
                    self.add(name, twist, packet, v6, expected);
                }
            }
        }
    }

    fn add(&mut self, name: String, twist: Twist, packet: Packet, v6: bool, expected: Expected) {
        let (mut flags, mut cluster) = (flags(), cluster(v6));
        twist(&mut flags, &mut cluster, v6);
        let family = if v6 { "IPv6" } else { "IPv4" };
        self.examples.push(Example { name: format!("{name} ({family})"), flags, cluster, packet, expected });
    }
}

/// All examples.
pub fn examples() -> Vec<Example> {
    let mut table = Table::default();
    policies(&mut table);
    translation(&mut table);
    nothing_to_send_to(&mut table);
    table.examples
}

/// Table 1.5.
fn policies(table: &mut Table) {
    let all = ["B+"; 5];
    table.line("1.5 internal policy Cluster", &["cluster IP"], |_, _, _| {}, ["B-", "B-", "B+", "B+", "B+"]);
    let local: Twist = |_, cluster, _| cluster.services[0].internal_local = true;
    table.line("1.5 internal policy Local", &["cluster IP"], local, ["L-", "L-", "L+", "L+", "L+"]);
    table.line("1.5 external policy Cluster", &EXTERNAL, |_, _, _| {}, all);
    table.line("1.5 external policy Local", &EXTERNAL, external_local, ["B-", "B-", "B+", "L-", "L-"]);
    let blind: Twist = |flags, cluster, v6| {
        external_local(flags, cluster, v6);
        flags.cluster_cidr.clear();
    };
    table.line("1.5 external policy Local, no detector", &EXTERNAL, blind, ["L-", "L-", "B+", "L-", "L-"]);
    let narrow: Twist = |flags, cluster, v6| {
        external_local(flags, cluster, v6);
        flags.detector = super::rules::Detector::NodeCidr;
    };
    table.line("1.5 external policy Local, NodeCIDR", &EXTERNAL, narrow, ["B-", "L-", "B+", "L-", "L-"]);
    let internal: Twist = |_, cluster, _| cluster.services[0].internal_local = true;
    table.line("1.5 internal policy does not touch external frontends", &EXTERNAL, internal, all);
    table.line(
        "1.5 external policy does not touch the cluster IP",
        &["cluster IP"],
        external_local,
        ["B-", "B-", "B+", "B+", "B+"],
    );
}

/// Table 1.6.
fn translation(table: &mut Table) {
    let all = ["B+"; 5];
    table.line("1.6 masquerade-all", &["cluster IP"], |flags, _, _| flags.masquerade_all = true, all);
    let both: Twist = |flags, cluster, v6| {
        external_local(flags, cluster, v6);
        flags.masquerade_all = true;
    };
    table.line("1.6 masquerade-all, external Local", &EXTERNAL, both, ["B-", "B-", "B+", "L-", "L-"]);
    let blind: Twist = |flags, _, _| flags.cluster_cidr.clear();
    // A process of the host gets the address that the kernel chooses: the node's, translated or not.
    table.line("1.6 no detector", &["cluster IP"], blind, ["B-", "B-", "B+", "B-", "B-"]);
    let hairpin: Twist = |flags, cluster, v6| {
        external_local(flags, cluster, v6);
        let ip = sender(0, v6).1;
        cluster.slices[0].endpoints = vec![endpoint(ip, NODE)];
    };
    let kinds = ["cluster IP", "node port", "load balancer", "external IP"];
    for v6 in [false, true] {
        for kind in kinds {
            let (via, from) = sender(0, v6);
            let packet = Packet { via, device: None, from, to: dialled(kind, v6), protocol: Protocol::Tcp };
            table.add(format!("1.6 hairpin: a pod dials itself by the {kind}"), hairpin, packet, v6, "B+");
        }
    }
}

/// Table 1.10.
fn nothing_to_send_to(table: &mut Table) {
    let kinds = ["cluster IP", "node port", "load balancer", "external IP"];
    let nobody: Twist = |_, cluster, _| cluster.slices.clear();
    table.line("1.10 empty", &kinds, nobody, ["reject"; 5]);
    let elsewhere: Twist = |_, cluster, v6| {
        cluster.services[0].internal_local = true;
        cluster.services[0].external_local = true;
        cluster.slices[0].endpoints = vec![endpoint(endpoints(v6)[1], "n2")];
    };
    table.line("1.10 internal Local, none local", &["cluster IP"], elsewhere, ["drop"; 5]);
    table.line("1.10 external Local, none local", &EXTERNAL, elsewhere, ["B-", "B-", "B+", "drop", "drop"]);
    for v6 in [false, true] {
        let (via, from) = sender(0, v6);
        let packet = |text: &str, port: u16, protocol: Protocol| Packet {
            via,
            device: None,
            from,
            to: SocketAddr::new(addr(text, v6), port),
            protocol,
        };
        let cidr: Twist = |_, cluster, v6| {
            cluster.cidrs = vec![if v6 { "fd00:10:96::/48".into() } else { "10.96.0.0/16".into() }];
        };
        let mut add = |name: &str, packet: Packet, expected: Expected| {
            table.add(format!("1.10 {name}"), cidr, packet, v6, expected);
        };
        add("cluster IP, unknown port", packet("10.96.0.10", 81, Protocol::Tcp), "reject");
        add("cluster IP, unknown protocol", packet("10.96.0.10", 80, Protocol::Udp), "reject");
        add("load balancer, unknown port", packet("198.51.100.10", 81, Protocol::Tcp), "untouched");
        add("external IP, unknown port", packet("203.0.113.10", 81, Protocol::Tcp), "untouched");
        add("node port, unknown protocol", packet("192.168.0.1", 30080, Protocol::Udp), "untouched");
        add("ServiceCIDR without a Service", packet("10.96.0.99", 80, Protocol::Tcp), "drop");
    }
}

fn external_local(_: &mut Flags, cluster: &mut Cluster, _: bool) {
    cluster.services[0].external_local = true;
}

impl Example {
    /// Whether the model says what the table says; else what it says.
    pub fn check_model(&self) -> Result<(), String> {
        let facts = Facts { cluster: &self.cluster, flags: &self.flags };
        let verdict = facts.verdict(&self.packet);
        let said = match &verdict {
            Verdict::Untouched => self.expected == "untouched",
            Verdict::Reject => self.expected == "reject",
            Verdict::Drop => self.expected == "drop",
            Verdict::Forward(choice) => {
                let set: BTreeSet<IpAddr> = choice.endpoints.keys().map(SocketAddr::ip).collect();
                let hosts = self.packet.via == Via::Host;
                let translated = |yes: bool| choice.endpoints.values().all(|translated| *translated == yes || hosts);
                self.expected_set().is_some_and(|expected| expected == set) && translated(self.expected.ends_with('+'))
            }
        };
        if said { Ok(()) } else { Err(format!("{}: {verdict:?} instead of {}", self.name, self.expected)) }
    }

    /// The set that the example names; `None` if the packet is not forwarded.
    fn expected_set(&self) -> Option<BTreeSet<IpAddr>> {
        let endpoints = self.cluster.slices.iter().flat_map(|slice| &slice.endpoints);
        let own = |endpoint: &&Endpoint| !self.expected.starts_with('L') || endpoint.node.as_deref() == Some(NODE);
        let set = endpoints.filter(own).filter_map(|endpoint| endpoint.addresses.first().copied()).collect();
        matches!(self.expected, "B-" | "B+" | "L-" | "L+").then_some(set)
    }
}
