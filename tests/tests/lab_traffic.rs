//! Every kind of client to every kind of backend, TCP and UDP, both families, behind the hostile neighbour; and what
//! address the backend sees.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, ensure};
use svc_tests::lab::cluster::Pod;
use svc_tests::lab::place::{Job, Place};
use svc_tests::lab::service::TestService;
use svc_tests::lab::{self, At, Config, Lab, Topology, topology};
use svc_tests::traffic::{self, Ask};

/// Questions of each pair of client and backend.
const FEW: u64 = 20;
/// Connections of each kind of client in the long run.
const MANY: u64 = 10_000;

/// Services with one backend each, named after where it is, seen from node-a.
struct Backends {
    /// A pod of node-a.
    near: TestService,
    /// A pod of node-b.
    far: TestService,
    /// The client itself, a pod of node-a.
    own: TestService,
    /// The network of node-a.
    host: TestService,
    /// The network of node-b.
    far_host: TestService,
    client: Pod,
    _jobs: Vec<Job>,
}

fn backends(lab: &mut Lab) -> Result<Backends> {
    let mut jobs = Vec::new();
    let mut make = |lab: &mut Lab, name: &str, number: u8, node: usize, at: At| -> Result<(TestService, Pod)> {
        let (pod, job) = lab.add_server(name, name, node, at)?;
        jobs.push(job);
        let service = TestService::new(name, number);
        service.publish(lab)?;
        Ok((service, pod))
    };
    let near = make(lab, "near", 1, 0, At::Pod)?.0;
    let far = make(lab, "far", 2, 1, At::Pod)?.0;
    let (own, client) = make(lab, "own", 3, 0, At::Pod)?;
    let host = make(lab, "host", 4, 0, At::Host(8081))?.0;
    let far_host = make(lab, "far-host", 5, 1, At::Host(8082))?.0;
    Ok(Backends { near, far, own, host, far_host, client, _jobs: jobs })
}

/// Asks over both protocols; the backend has to see one of the addresses.
fn asks(who: &str, from: &Place, to: SocketAddr, service: &TestService, seen_as: &[IpAddr]) -> Result<()> {
    for ask in [Ask::Tcp, Ask::Udp] {
        let report = traffic::ask(from, ask, to, FEW)?;
        report
            .expect_all()
            .and_then(|report| report.expect_spread(&[&service.name]))
            .and_then(|report| report.expect_sources(seen_as))
            .with_context(|| format!("{who} to {} at {to} over {}", service.name, ask.word()))?;
        ensure!(report.slowest_ms < 900, "{who} to {to}: {} ms, a packet was lost", report.slowest_ms);
    }
    Ok(())
}

/// Whom a backend may see behind a node port.
struct Expected<'a> {
    service: &'a str,
    nodes: &'a [Vec<IpAddr>; 2],
}

impl Expected<'_> {
    /// A node port gives the address of its node, whoever asks. What is delivered on that very node leaves by no device,
    /// and sources are translated on leaving: there the backend may see the client as it came.
    fn through(&self, node: usize, client: &[IpAddr]) -> Vec<IpAddr> {
        let mut seen = self.nodes[node].clone();
        if matches!((self.service, node), ("host", 0) | ("far-host", 1)) {
            seen.extend_from_slice(client);
        }
        seen
    }
}

fn matrix(topology: Topology) -> Result<()> {
    lab::with(Config { topology, ..Config::default() }, |lab| {
        let all = backends(lab)?;
        lab.start_agents()?;
        let mut failures = Vec::new();
        let mut check = |result: Result<()>| failures.extend(result.err().map(|error| format!("{error:#}")));
        for family in 0..2 {
            let client = all.client.ips[family];
            let nodes = [lab.nodes[0].addresses(family)?, lab.nodes[1].addresses(family)?];
            let (node, other) = (&lab.nodes[0].place, &lab.nodes[1].place);
            for service in [&all.near, &all.far, &all.own, &all.host, &all.far_host] {
                let seen = Expected { service: &service.name, nodes: &nodes };
                // A cluster IP keeps a pod's address, but where the pod is its own backend; and what goes to the network
                // of another node leaves the pods' ranges: the CNI masquerades it.
                let kept = match service.name.as_str() {
                    "own" | "far-host" => nodes[0].clone(),
                    _ => vec![client],
                };
                check(asks("pod", &all.client.place, service.at(family), service, &kept));
                check(asks("host", node, service.at(family), service, &nodes[0]));
                check(asks("other node", other, service.at(family), service, &nodes[1]));
                let at = [service.at_node(lab, 0, family), service.at_node(lab, 1, family)];
                let pod = &all.client.place;
                check(asks("pod, own node's port", pod, at[0], service, &seen.through(0, &[client])));
                check(asks("pod, other node's port", pod, at[1], service, &seen.through(1, &nodes[0])));
                check(asks("host, own node's port", node, at[0], service, &nodes[0]));
                check(asks("other node's process, this port", other, at[0], service, &seen.through(0, &nodes[1])));
                for (index, at) in at.into_iter().enumerate() {
                    let who = format!("outside, port of {}", lab.nodes[index].name);
                    let outside = topology::OUTSIDE[family];
                    check(asks(&who, &lab.outside, at, service, &seen.through(index, &[outside])));
                }
            }
        }
        ensure!(failures.is_empty(), "{} pairs fail:\n{}", failures.len(), failures.join("\n"));
        Ok(())
    })
}

#[test]
fn every_client_reaches_every_backend_over_routed_veths() -> Result<()> {
    matrix(Topology::Routed)
}

#[test]
fn every_client_reaches_every_backend_over_bridge_and_tunnel() -> Result<()> {
    matrix(Topology::Bridge)
}

/// The same with the socket hooks for pods as well, and with none. Without them the reply of a local pod to the host
/// itself comes by another device than the route to the Service: strict reverse path filtering takes it for forged, so
/// behind this neighbour only pods are asked then.
#[test]
fn socket_hooks_give_the_same_answers() -> Result<()> {
    for mode in ["all", "off"] {
        let config = Config { agent_args: vec!["--socket-lb".into(), mode.into()], ..Config::default() };
        lab::with(config, |lab| {
            let all = backends(lab)?;
            lab.start_agents()?;
            for family in 0..2 {
                let nodes = lab.nodes[0].addresses(family)?;
                for service in [&all.near, &all.far, &all.host] {
                    let at = service.at(family);
                    asks(&format!("pod, hooks {mode}"), &all.client.place, at, service, &[all.client.ips[family]])?;
                    if mode == "all" {
                        asks(&format!("host, hooks {mode}"), &lab.nodes[0].place, at, service, &nodes)?;
                    }
                }
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// No endpoint: refused at once, for everybody, over both protocols.
#[test]
fn refused_without_endpoint() -> Result<()> {
    lab::with(Config::default(), |lab| {
        let service = TestService::new("empty", 1);
        service.publish(lab)?;
        let (pod, _job) = lab.add_server("somebody", "somebody", 0, At::Pod)?;
        lab.start_agents()?;
        for family in 0..2 {
            for ask in [Ask::Tcp, Ask::Udp] {
                let (at, at_node) = (service.at(family), service.at_node(lab, 0, family));
                for (who, from, to) in [
                    ("pod", &pod.place, at),
                    ("host", &lab.nodes[0].place, at),
                    ("outside", &lab.outside, at_node),
                    ("host, node port", &lab.nodes[0].place, at_node),
                ] {
                    let report = traffic::ask(from, ask, to, 3)?;
                    report.expect_refused().with_context(|| format!("{who} to {to} over {}", ask.word()))?;
                    ensure!(report.slowest_ms < 900, "{who}: refused late");
                }
            }
        }
        // The address is the Service's: its other ports are refused as well.
        for family in 0..2 {
            let unknown = SocketAddr::new(service.ips()[family], service.node_port());
            traffic::ask(&pod.place, Ask::Tcp, unknown, 1)?.expect_refused().context("an unknown port")?;
        }
        Ok(())
    })
}

/// Many backends share the connections of each kind of client; none of them fails.
fn ten_thousand(topology: Topology) -> Result<()> {
    lab::with(Config { topology, ..Config::default() }, |lab| {
        let service = TestService::new("web", 1);
        service.publish(lab)?;
        let mut jobs = Vec::new();
        for (name, node) in [("web-1", 0), ("web-2", 1), ("web-3", 0)] {
            jobs.push(lab.add_server("web", name, node, At::Pod)?.1);
        }
        let (client, job) = lab.add_server("client", "client", 0, At::Pod)?;
        jobs.push(job);
        lab.start_agents()?;
        let names = ["web-1", "web-2", "web-3"];
        for family in 0..2 {
            let (at, at_node) = (service.at(family), service.at_node(lab, 0, family));
            for (who, from, to) in [
                ("pod", &client.place, at),
                ("backend", &lab.pod("web-1")?.place, at),
                ("host", &lab.nodes[0].place, at),
                ("other node", &lab.nodes[1].place, at_node),
                ("outside", &lab.outside, at_node),
            ] {
                let report = traffic::ask(from, Ask::Tcp, to, MANY)?;
                eprintln!("{who} to {to}: {} in {} ms, slowest {} ms", report.ok, report.took_ms, report.slowest_ms);
                report.expect_all().and_then(|report| report.expect_spread(&names)).context(who)?;
                ensure!(report.slowest_ms < 900, "{who} to {to}: a packet was lost and sent again");
            }
        }
        Ok(())
    })
}

#[test]
fn ten_thousand_connections_over_routed_veths() -> Result<()> {
    ten_thousand(Topology::Routed)
}

#[test]
fn ten_thousand_connections_over_bridge_and_tunnel() -> Result<()> {
    ten_thousand(Topology::Bridge)
}

/// 1 GiB each way through a Service, with offloads and without; from outside a quarter of it.
#[test]
fn a_gibibyte_arrives_unchanged() -> Result<()> {
    for offloads in [true, false] {
        lab::with(Config { offloads, ..Config::default() }, |lab| {
            let all = backends(lab)?;
            lab.start_agents()?;
            for family in 0..2 {
                for (who, from, to, bytes) in [
                    ("pod", &all.client.place, all.far.at(family), 1 << 30),
                    ("outside", &lab.outside, all.far.at_node(lab, 0, family), 1 << 28),
                ] {
                    let report = traffic::transfer(from, to, bytes)?;
                    eprintln!("{who}, offloads {offloads}, {to}: {bytes} bytes each way in {} ms", report.took_ms);
                    report.expect_all().with_context(|| format!("{who} to {to}, offloads {offloads}"))?;
                }
            }
            Ok(())
        })?;
    }
    Ok(())
}
