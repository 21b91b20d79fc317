//! End to end: a client pod and a server pod of one node, without any Service, with the Service as nftables rules of
//! kube-proxy's shape, and with the Service served by svc.
//!
//! Each of the three has a node of its own, all of them standing at the same time, so that each exchange is measured on
//! one after the other within a second: noise of the machine that lasts longer than that falls on all three.

use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::load::{Exchange, Sample};
use super::nft::{self, NftService};
use super::report::{Figure, Group, Report};
use crate::lab::cluster::PodSpec;
use crate::lab::place::{Job, Place};
use crate::lab::{Config, Lab, tool};

const PORT: u16 = 8080;
/// Rounds of an exchange for each of iperf3, which does not do with less than a second.
const SLICES: usize = 3;

/// How much is measured.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Numbers of Services, in turn.
    pub services: Vec<usize>,
    /// Rounds of which the median counts.
    pub rounds: usize,
    /// Length of one measurement.
    pub time: Duration,
    /// Behind the rules of a strict CNI.
    pub hostile: bool,
}

/// By what means the client reaches the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Direct,
    Nftables,
    Svc,
}

impl Way {
    const ALL: [Self; 3] = [Self::Direct, Self::Nftables, Self::Svc];

    fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Nftables => "nftables",
            Self::Svc => "svc",
        }
    }

    /// Index of its node.
    fn node(self) -> usize {
        self as usize
    }
}

/// Figures of one way at one number of Services, a value a round.
#[derive(Default)]
struct Rounds {
    samples: [Vec<Sample>; 4],
    throughput: Vec<f64>,
}

/// Measures everything and adds it to the report.
pub fn run(plan: &Plan, report: &mut Report, say: &dyn Fn(&str)) -> Result<()> {
    for &count in &plan.services {
        say(&format!("{count} services: three nodes are made"));
        let bench = Bench::new(plan, count)?;
        let mut all = [Rounds::default(), Rounds::default(), Rounds::default()];
        for round in 1..=plan.rounds {
            say(&format!("{count} services, round {round} of {}", plan.rounds));
            bench.round(plan, round, &mut all)?;
        }
        describe(count, &all, report);
    }
    Ok(())
}

/// Where one way is measured.
struct Side {
    client: Place,
    to: IpAddr,
}

struct Bench {
    sides: [Side; 3],
    /// Kept for what runs in them.
    _lab: Lab,
    _jobs: Vec<Job>,
}

impl Bench {
    fn new(plan: &Plan, count: usize) -> Result<Self> {
        let nodes = Way::ALL.len();
        let mut lab = Lab::build(Config { nodes, hostile: plan.hostile, ..Config::default() })?;
        let mut jobs = Vec::new();
        let mut sides = Vec::new();
        for way in Way::ALL {
            let [client, server] = ["client", "server"].map(|role| format!("{role}-{}", way.name()));
            for name in [&client, &server] {
                lab.make_pod(PodSpec {
                    name: name.clone(),
                    node: way.node(),
                    labels: json!({ "app": name }),
                    ports: json!([]),
                    host_network: false,
                })?;
            }
            let pod = lab.pod(&server)?.clone();
            let log = lab.dir().join(format!("{server}.log"));
            jobs.push(pod.place.spawn(worker()?, &["worker", "serve", &PORT.to_string()], &log)?);
            jobs.push(pod.place.spawn("iperf3", &["-s"], &log)?);
            crate::lab::wait::until("the servers listen", Duration::from_secs(10), || {
                let listening = pod.place.output("ss", &["-Hltn"])?;
                ensure!(
                    listening.contains(&format!(":{PORT} ")) && listening.contains(":5201 "),
                    "not yet: {listening}"
                );
                Ok(())
            })?;
            let services = services(count, pod.ips[0]);
            match way {
                Way::Direct => {}
                Way::Nftables => {
                    let node = &lab.nodes[way.node()];
                    let rules = nft::ruleset(&services, "10.244.0.0/16", node.ips[0]);
                    let mut nft = Command::new("ip");
                    nft.args(["netns", "exec", node.place.netns(), "nft", "-f", "-"]);
                    tool::output_with_input(&mut nft, &rules).context("the rules to compare with")?;
                }
                Way::Svc => {
                    lab.manifests.write_object("bench-services.json", &objects(&services))?;
                    lab.start_agent(way.node())?;
                    lab.agent(way.node())?.wait_ready()?;
                }
            }
            let to = if way == Way::Direct { pod.ips[0] } else { frontend(0).ip() };
            sides.push(Side { client: lab.pod(&client)?.place.clone(), to });
        }
        let sides = sides.try_into().map_err(|_| anyhow::anyhow!("a side for each way"))?;
        Ok(Self { sides, _lab: lab, _jobs: jobs })
    }

    /// Measures each exchange on one side after the other; who is first changes from time to time.
    fn round(&self, plan: &Plan, round: usize, all: &mut [Rounds; 3]) -> Result<()> {
        for (exchange, number) in Exchange::ALL.into_iter().zip(0..) {
            for slice in 0..SLICES {
                for turn in 0..3 {
                    let way = (turn + slice + round) % 3;
                    all[way].samples[number].push(self.sides[way].exchange(exchange, plan.time)?);
                }
            }
        }
        for turn in 0..3 {
            let way = (turn + round) % 3;
            all[way].throughput.push(self.sides[way].throughput()?);
        }
        Ok(())
    }
}

impl Side {
    fn exchange(&self, exchange: Exchange, time: Duration) -> Result<Sample> {
        let (to, millis) = (SocketAddr::new(self.to, PORT).to_string(), time.as_millis().to_string());
        let printed =
            tool::output(self.client.command(worker()?).args(["worker", exchange.word(), &to, millis.as_str()]))?;
        let sample: Sample = serde_json::from_str(&printed)?;
        ensure!(sample.failed == 0, "{} of {} to {to} failed", sample.failed, exchange.word());
        Ok(sample)
    }

    /// One stream, in Gbit/s.
    fn throughput(&self) -> Result<f64> {
        let printed = self.client.output("iperf3", &["-J", "-c", &self.to.to_string(), "-t", "1"])?;
        let result: Value = serde_json::from_str(&printed)?;
        let bits = result["end"]["sum_received"]["bits_per_second"].as_f64().context("iperf3 counted nothing")?;
        Ok(bits / 1e9)
    }
}

fn worker() -> Result<std::path::PathBuf> {
    std::env::current_exe().context("where is this program?")
}

/// Where a Service answers; number 0 is the one that is measured.
fn frontend(number: usize) -> SocketAddr {
    let [_, high, mid, low] = u32::try_from(number + 10).unwrap_or(u32::MAX).to_be_bytes();
    SocketAddr::from(([10, 96 + high, mid, low], PORT))
}

/// The measured Service and so many others that nobody calls.
fn services(count: usize, server: IpAddr) -> Vec<NftService> {
    let mut all = Vec::with_capacity(count + 3);
    for number in 0..count.max(1) {
        let backends = if number == 0 {
            vec![SocketAddr::new(server, PORT)]
        } else {
            (1..=2).map(|n| SocketAddr::from(([10, 244, 200, n], PORT))).collect()
        };
        all.push(NftService { frontend: frontend(number), node_port: None, protocol: "tcp", backends });
    }
    for (protocol, port) in [("udp", PORT), ("tcp", 5201), ("udp", 5201)] {
        let frontend = SocketAddr::new(frontend(0).ip(), port);
        all.push(NftService { frontend, node_port: None, protocol, backends: vec![SocketAddr::new(server, port)] });
    }
    all
}

/// The same as objects: a Service and an EndpointSlice each; ports of one address belong to one Service.
fn objects(services: &[NftService]) -> Value {
    let mut by_address: std::collections::BTreeMap<IpAddr, Vec<&NftService>> = std::collections::BTreeMap::new();
    for service in services {
        by_address.entry(service.frontend.ip()).or_default().push(service);
    }
    let mut items = Vec::new();
    for (number, (address, ports)) in by_address.into_iter().enumerate() {
        let name = format!("bench-{number}");
        let named = |service: &NftService| format!("{}-{}", service.protocol, service.frontend.port());
        let list = |backend: bool| -> Vec<Value> {
            ports
                .iter()
                .map(|service| {
                    let port = if backend { service.backends[0].port() } else { service.frontend.port() };
                    json!({ "name": named(service), "protocol": service.protocol.to_uppercase(), "port": port })
                })
                .collect()
        };
        items.push(json!({
            "apiVersion": "v1", "kind": "Service", "metadata": { "name": name },
            "spec": { "clusterIP": address, "clusterIPs": [address], "ipFamilies": ["IPv4"], "ports": list(false) },
        }));
        let endpoints: Vec<_> = ports[0].backends.iter().map(|b| json!({ "addresses": [b.ip()] })).collect();
        items.push(json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": { "name": name, "labels": { "kubernetes.io/service-name": name } },
            "endpoints": endpoints, "ports": list(true),
        }));
    }
    json!({ "apiVersion": "v1", "kind": "List", "items": items })
}

fn describe(count: usize, all: &[Rounds; 3], report: &mut Report) {
    let values = |way: usize, exchange: usize, of: fn(&Sample) -> f64| -> Vec<f64> {
        all[way].samples[exchange].iter().map(of).collect()
    };
    for (index, exchange) in Exchange::ALL.into_iter().enumerate() {
        let bars = |unit: &'static str, of: fn(&Sample) -> f64| -> Vec<Figure> {
            Way::ALL
                .into_iter()
                .enumerate()
                .map(|(way, name)| Figure::of("", name.name(), unit, &values(way, index, of)))
                .collect()
        };
        let title = format!("{} ({count} services)", exchange.title());
        report.groups.push(Group { title, bars: bars("/s", |sample| sample.rate) });
        let title = format!("{}: median ({count} services)", exchange.word());
        report.groups.push(Group { title, bars: bars("us", |sample| sample.p50) });
        let title = format!("{}: 99th percentile ({count} services)", exchange.word());
        report.groups.push(Group { title, bars: bars("us", |sample| sample.p99) });
    }
    let bars = Way::ALL
        .into_iter()
        .zip(all)
        .map(|(way, rounds)| Figure::of("", way.name(), "Gbit/s", &rounds.throughput))
        .collect();
    report.groups.push(Group { title: format!("iperf3, one stream ({count} services)"), bars });

    // Ratios and differences of neighbours in time: noise that lasts longer than a round cancels.
    let [direct, nftables, svc] = [0, 1, 2].map(|way| &all[way].samples);
    let of = |exchange: usize, other: &[Vec<Sample>; 4], one: &[Vec<Sample>; 4]| -> Vec<f64> {
        one[exchange].iter().zip(&other[exchange]).map(|(one, other)| one.rate / other.rate).collect()
    };
    let mut bars = Vec::new();
    for (index, exchange) in Exchange::ALL.into_iter().enumerate() {
        for (name, other, one) in [
            ("svc, of direct", direct, svc),
            ("nftables, of direct", direct, nftables),
            ("svc, of nftables", nftables, svc),
        ] {
            let what = format!("{}: {name}", exchange.word());
            bars.push(Figure::of("", &what, "ratio", &of(index, other, one)));
        }
    }
    report
        .groups
        .push(Group { title: format!("rates measured within a second of each other ({count} services)"), bars });
    let pairs = |exchange: usize, of: fn(&Sample, &Sample) -> f64| -> Vec<f64> {
        direct[exchange].iter().zip(&svc[exchange]).map(|(direct, svc)| of(svc, direct)).collect()
    };
    let nanos = |svc: &Sample, direct: &Sample| (1e9 / svc.rate - 1e9 / direct.rate) / 2.0;
    let connect = pairs(0, |svc, direct| svc.rate / direct.rate);
    let named = |text: &str| format!("{text}, {count} services");
    let connect = Figure::of("e2e/connect", &named("connect-request-close, of direct"), "ratio", &connect);
    let flow = Figure::of("e2e/udp-established", &named("established UDP packet, over direct"), "ns", &pairs(2, nanos));
    let whole = |svc: &Sample, direct: &Sample| 1e9 / svc.rate - 1e9 / direct.rate;
    let first =
        Figure::of("e2e/udp-first", &named("first UDP packet and its reply, over direct"), "ns", &pairs(3, whole));
    report.budgeted.extend([connect, flow, first]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_are_told_of_the_same_services() {
        let all = services(300, IpAddr::from([10, 244, 1, 2]));
        assert_eq!(all.len(), 303);
        let list = objects(&all);
        let items = list["items"].as_array().expect("a list");
        assert_eq!(items.len(), 600);
        let ports = &items[0]["spec"]["ports"];
        assert_eq!(ports.as_array().map(Vec::len), Some(4), "{ports}");
        let addresses: std::collections::BTreeSet<_> = all.iter().map(|service| service.frontend.ip()).collect();
        assert_eq!(addresses.len(), 300);
    }
}
