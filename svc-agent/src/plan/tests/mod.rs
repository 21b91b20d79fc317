//! Examples for every rule of the plan, by subject, and properties that hold for all plans.
//!
//! A plan is asked as the datapath would read it ([`ask`]), and answers in the notation of the tables of the
//! specification: "B" the Cluster set, "L" the Local set, "+" source translated, "-" source kept.

mod addresses;
mod clash;
mod endpoints;
mod objects;
mod policies;
mod properties;
mod settings;
mod slow_start;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;
use svc_common::tables::{Rule, Sender};

use super::options::Prefixes;
use super::*;
use crate::model::{
    Endpoint, EndpointSlice, Hints, IpMode, LoadBalancerIngress, Node, Service, ServicePort, ServiceType, SlicePort,
    TrafficPolicy,
};

/// Name of this node; "b" is another one.
const HERE: &str = "a";
const NODE_PORT: u16 = 30080;

fn ip(text: &str) -> IpAddr {
    text.parse().expect("a test's address")
}

fn net(text: &str) -> IpNet {
    text.parse().expect("a test's prefix")
}

fn by_family(family: Family, v4: &str, v6: &str) -> IpAddr {
    ip(match family {
        Family::V4 => v4,
        Family::V6 => v6,
    })
}

fn cluster_ip(family: Family) -> IpAddr {
    by_family(family, "10.96.0.10", "fd00:96::10")
}

fn vip(family: Family) -> IpAddr {
    by_family(family, "203.0.113.1", "2001:db8:113::1")
}

fn external_ip(family: Family) -> IpAddr {
    by_family(family, "198.51.100.1", "2001:db8:100::1")
}

fn node_ip(family: Family) -> IpAddr {
    by_family(family, "192.0.2.1", "2001:db8::1")
}

/// The address of the pod of this number: the same endpoint in both families.
fn pod(family: Family, number: u8) -> IpAddr {
    by_family(family, &format!("10.1.0.{number}"), &format!("fd00:1::{number:x}"))
}

fn port(name: &str, protocol: Protocol, number: u16) -> ServicePort {
    ServicePort { name: name.into(), protocol, port: number, node_port: None }
}

/// A Service that answers at every kind of address in both families.
fn web() -> Service {
    let ingress = |family| LoadBalancerIngress { ip: vip(family), mode: IpMode::Vip };
    Service {
        key: ObjectKey::new("default", "web"),
        uid: "".into(),
        created: Some(1000),
        kind: ServiceType::LoadBalancer,
        cluster_ips: Family::ALL.map(cluster_ip).to_vec(),
        headless: false,
        other_proxy: false,
        external_ips: Family::ALL.map(external_ip).to_vec(),
        ingress: Family::ALL.map(ingress).to_vec(),
        ports: vec![ServicePort { node_port: Some(NODE_PORT), ..port("http", Protocol::Tcp, 80) }],
        external_policy: TrafficPolicy::Cluster,
        internal_policy: TrafficPolicy::Cluster,
        affinity: None,
        source_ranges: Vec::new(),
        health_check_node_port: None,
        annotations: Vec::new(),
    }
}

/// A ready endpoint on a node.
fn endpoint(addr: IpAddr, node: &str) -> Endpoint {
    Endpoint { addr, ready: true, serving: true, terminating: false, node: Some(node.into()), hints: None }
}

fn hinted(endpoint: Endpoint, nodes: &[&str], zones: &[&str]) -> Endpoint {
    let names = |names: &[&str]| names.iter().map(|name| (*name).into()).collect();
    Endpoint { hints: Some(Box::new(Hints { nodes: names(nodes), zones: names(zones) })), ..endpoint }
}

fn slice_port(name: &str, protocol: Protocol, number: u16) -> SlicePort {
    SlicePort { name: name.into(), protocol, port: number }
}

/// A slice for the port of [`web`], by the family of its first endpoint.
fn slice(name: &str, endpoints: Vec<Endpoint>) -> EndpointSlice {
    EndpointSlice {
        key: ObjectKey::new("default", name),
        service: ObjectKey::new("default", "web"),
        family: endpoints.first().map_or(Family::V4, |endpoint| Family::of(endpoint.addr)),
        ports: vec![slice_port("http", Protocol::Tcp, 8080)],
        endpoints,
        triggered: None,
    }
}

/// One slice a family, each endpoint made from its address by the same function.
fn dual(endpoints: impl Fn(Family) -> Vec<Endpoint>) -> Vec<EndpointSlice> {
    Family::ALL.map(|family| EndpointSlice { family, ..slice(family.name(), endpoints(family)) }).to_vec()
}

/// Pods 1 and 2 are here, pod 3 is on another node.
fn everywhere() -> Vec<EndpointSlice> {
    dual(|family| vec![endpoint(pod(family, 1), HERE), endpoint(pod(family, 2), HERE), endpoint(pod(family, 3), "b")])
}

/// Pod 3 only, on another node.
fn elsewhere() -> Vec<EndpointSlice> {
    dual(|family| vec![endpoint(pod(family, 3), "b")])
}

fn node_object() -> Node {
    Node {
        name: HERE.into(),
        internal_ips: Family::ALL.map(node_ip).to_vec(),
        zone: Some("z1".into()),
        ..Node::default()
    }
}

fn options() -> Options {
    let pods: Prefixes = "10.1.0.0/16,fd00:1::/64".parse().expect("prefixes");
    let external: Prefixes = "0.0.0.0/0,::/0".parse().expect("prefixes");
    Options { detector: Detector::ClusterCidr(pods.0), allow_external_ips: external.0, ..Options::default() }
}

fn view(options: &Options) -> NodeView {
    NodeView::new(HERE, Some(&node_object()), &[], options)
}

/// The plan on this node with a detector.
fn plan(object: &Service, slices: &[EndpointSlice]) -> Planned {
    service(object, slices.iter(), &view(&options()))
}

/// What becomes of a new connection.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    /// To one of these endpoints; whether the source is translated.
    Forward(Vec<SocketAddr>, bool),
    Reject,
    Drop,
    Untouched,
}

fn frontend(planned: &Planned, to: SocketAddr, protocol: Protocol) -> Option<(&PlannedPort, &PlannedFrontend)> {
    let ports = planned.ports.iter().filter(|port| port.id.protocol == protocol);
    ports.flat_map(|port| port.frontends.iter().map(move |frontend| (port, frontend))).find(|(_, f)| f.addr == to)
}

/// Reads a plan as the datapath does, for a sender of this kind at this address.
fn ask_from(planned: &Planned, sender: Sender, from: IpAddr, to: SocketAddr, protocol: Protocol) -> Outcome {
    let Some((port, frontend)) = frontend(planned, to, protocol) else {
        return if planned.cluster_ips.contains(&to.ip()) { Outcome::Reject } else { Outcome::Untouched };
    };
    if frontend.guarded && !port.source_ranges.iter().any(|range| range.contains(&from)) {
        return Outcome::Drop;
    }
    let rule = frontend.rules[sender as usize];
    let set = if rule.has(Rule::LOCAL) { &port.local } else { &port.cluster };
    match set.is_empty() {
        true if rule.has(Rule::DROP) => Outcome::Drop,
        true => Outcome::Reject,
        false => Outcome::Forward(set.iter().map(|endpoint| endpoint.addr).collect(), rule.has(Rule::SNAT)),
    }
}

fn ask(planned: &Planned, sender: Sender, to: SocketAddr) -> Outcome {
    ask_from(planned, sender, ip("0.0.0.0"), to, Protocol::Tcp)
}

/// Outcomes in the notation of the specification's tables, for endpoints as in [`everywhere`].
fn notation(outcome: &Outcome, family: Family) -> String {
    let addr = |number| SocketAddr::new(pod(family, number), 8080);
    let set = |set: &[SocketAddr]| match set {
        set if *set == [addr(1), addr(2), addr(3)] => "B".to_owned(),
        set if *set == [addr(1), addr(2)] => "L".to_owned(),
        set if *set == [addr(3)] => "B".to_owned(),
        other => format!("{other:?}"),
    };
    match outcome {
        Outcome::Forward(endpoints, snat) => format!("{}{}", set(endpoints), if *snat { "+" } else { "-" }),
        Outcome::Reject => "reject".to_owned(),
        Outcome::Drop => "drop".to_owned(),
        Outcome::Untouched => "untouched".to_owned(),
    }
}

/// The four frontends of [`web`]: name and where.
fn frontends_of_web(family: Family) -> [(&'static str, SocketAddr); 4] {
    [
        ("CIP", SocketAddr::new(cluster_ip(family), 80)),
        ("NP", SocketAddr::new(node_ip(family), NODE_PORT)),
        ("VIP", SocketAddr::new(vip(family), 80)),
        ("externalIP", SocketAddr::new(external_ip(family), 80)),
    ]
}

/// Addresses of a set.
fn addrs(set: &[PlannedEndpoint]) -> Vec<String> {
    set.iter().map(|endpoint| endpoint.addr.to_string()).collect()
}

/// The plan of the only port of a Service in IPv4.
fn port_v4(planned: &Planned) -> &PlannedPort {
    planned.ports.iter().find(|port| port.id.family == Family::V4).expect("an IPv4 port")
}

fn affinity(seconds: u64) -> Option<Duration> {
    Some(Duration::from_secs(seconds))
}
