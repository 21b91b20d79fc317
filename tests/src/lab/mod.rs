//! A cluster on one machine: nodes and pods are network namespaces, wires are veth pairs.
//!
//! ```text
//!   pod  pod          pod  pod
//!    └─┬──┘            └─┬──┘            each node: own namespace, own bpffs, own cgroup, one agent
//!    node-a            node-b
//!       └──── router ────┘               one Ethernet segment; the router is the nodes' gateway
//!               │
//!            outside                     a client that belongs to no cluster
//! ```
//!
//! Nothing touches the namespace of the machine. Every namespace, mount, cgroup and process carries the name of its run
//! (see [`run`]), and a janitor process takes all of it away when the run ends, however it ends.

pub mod agent;
pub mod cgroup;
pub mod cluster;
pub mod hostile;
pub mod place;
pub mod run;
pub mod service;
pub mod tool;
pub mod topology;
pub mod wait;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Mutex;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use agent::Agent;
use cluster::{Manifests, Pod, PodSpec};
use place::{Job, Place};
use run::Run;

/// How pods are connected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Topology {
    /// One veth and one host route a pod, nodes route to each other's pod ranges: the way of Calico without overlay.
    #[default]
    Routed,
    /// Pods of a node on a bridge, VXLAN between the nodes: the way of Flannel.
    Bridge,
}

/// What a lab looks like.
#[derive(Clone, Debug)]
pub struct Config {
    /// How pods are connected.
    pub topology: Topology,
    /// Number of nodes: they are called node-a, node-b, ...
    pub nodes: usize,
    /// The rules of a strict CNI on every node, see [`hostile`].
    pub hostile: bool,
    /// Segmentation and receive offloads of all devices.
    pub offloads: bool,
    /// The tunnel between nodes has checksums of its own, which IPv4 does without by default.
    pub tunnel_sums: bool,
    /// The nodes' uplinks can be sent to by XDP_TX: a veth takes such frames only while its other end has an XDP program
    /// too. It costs segmentation offload on these wires, so it is off unless XDP is what a test is about.
    pub xdp_wires: bool,
    /// Leave everything standing at the end, for a person to look at.
    pub keep: bool,
    /// Further arguments of every agent.
    pub agent_args: Vec<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            topology: Topology::Routed,
            nodes: 2,
            hostile: true,
            offloads: true,
            tunnel_sums: false,
            xdp_wires: false,
            keep: false,
            agent_args: Vec::new(),
        }
    }
}

/// One node.
#[derive(Debug)]
pub struct Node {
    /// Name, as in its Node object.
    pub name: String,
    /// Where processes of the host run.
    pub place: Place,
    /// Its addresses on the uplink: IPv4, IPv6.
    pub ips: [IpAddr; 2],
    /// Its bpffs.
    pub bpffs: PathBuf,
    /// Its agent, if one was started.
    pub agent: Option<Agent>,
    index: usize,
    pods: usize,
}

impl Node {
    /// Every address of the node in a family: a translated source is one of them.
    pub fn addresses(&self, family: usize) -> Result<Vec<IpAddr>> {
        let text = self
            .place
            .output("ip", &["-o", if family == 0 { "-4" } else { "-6" }, "addr", "show", "scope", "global"])?;
        let addresses = text.lines().filter_map(|line| line.split_ascii_whitespace().nth(3)?.split('/').next());
        addresses.map(|address| address.parse().context("ip prints addresses")).collect()
    }
}

/// Where a server of a test listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// In a pod of its own, on port 80.
    Pod,
    /// On the network of the host, on this port.
    Host(u16),
}

impl At {
    /// The port it listens on.
    pub fn port(self) -> u16 {
        match self {
            Self::Pod => 80,
            Self::Host(port) => port,
        }
    }
}

/// A standing lab. Dropping it takes everything away.
#[derive(Debug)]
pub struct Lab {
    /// How it was asked for.
    pub config: Config,
    /// The nodes.
    pub nodes: Vec<Node>,
    /// The client that belongs to no cluster.
    pub outside: Place,
    /// The gateway between nodes and outside.
    pub router: Place,
    /// The directory that every agent reads, unless `source` says something else.
    pub manifests: Manifests,
    /// Where agents that are started from now on have their objects from, as arguments of `svc-agent run`.
    pub source: Vec<String>,
    pods: Vec<Pod>,
    // Last, so that everything above is gone when the run is taken down.
    run: Run,
}

impl Lab {
    /// Builds the namespaces and wires; no agent runs yet.
    pub fn build(config: Config) -> Result<Self> {
        run::sweep();
        let run = Run::begin(config.keep)?;
        topology::build(run, config)
    }

    /// Starts an agent on every node and waits until each is ready.
    pub fn start_agents(&mut self) -> Result<()> {
        for index in 0..self.nodes.len() {
            self.start_agent(index)?;
        }
        for node in &mut self.nodes {
            let agent = node.agent.as_mut().context("just started")?;
            agent.wait_ready()?;
        }
        Ok(())
    }

    /// Starts the agent of one node and does not wait for it.
    pub fn start_agent(&mut self, index: usize) -> Result<()> {
        let log = self.run.dir().join(format!("{}.log", self.nodes[index].name));
        let node = &mut self.nodes[index];
        node.agent = Some(Agent::start(node, &self.source, &self.config.agent_args, &log)?);
        Ok(())
    }

    /// The agent of a node that has one.
    pub fn agent(&mut self, index: usize) -> Result<&mut Agent> {
        let node = &mut self.nodes[index];
        node.agent.as_mut().with_context(|| format!("{}: no agent was started", node.name))
    }

    /// The cluster IPs that the agents' own allocation gives a Service of the manifests.
    pub fn cluster_ips(&mut self, name: &str) -> Result<Vec<IpAddr>> {
        let manifests = self.manifests.dir().display().to_string();
        let said = self.agent(0)?.run(&["services", "--manifests", &manifests, "-o", "json"])?;
        let frontends: Vec<Value> = serde_json::from_str(&said).with_context(|| format!("`services` said {said}"))?;
        let mine = frontends
            .iter()
            .filter(|row| row["service"] == format!("default/{name}") && row["kind"] == "ClusterIP")
            .filter_map(|row| row["frontend"].as_str()?.parse::<SocketAddr>().ok());
        let mut ips: Vec<IpAddr> = mine.map(|at| at.ip()).collect();
        ips.sort_unstable();
        ips.dedup();
        ensure!(!ips.is_empty(), "`services` does not know {name}: {said}");
        Ok(ips)
    }

    /// The pods, in the order in which they came.
    pub fn pods(&self) -> &[Pod] {
        &self.pods
    }

    /// A pod by name.
    pub fn pod(&self, name: &str) -> Result<&Pod> {
        self.pods.iter().find(|pod| pod.name == name).with_context(|| format!("no pod is called {name}"))
    }

    /// Makes a pod of a [`service::TestService`], starts the lab's server in it and writes its object, ready.
    pub fn add_server(&mut self, app: &str, name: &str, node: usize, at: At) -> Result<(Pod, Job)> {
        let (port, host_network) = (at.port(), at != At::Pod);
        let pod = self.make_pod(PodSpec {
            name: name.into(),
            node,
            labels: serde_json::json!({ "app": app }),
            ports: service::pod_ports(port),
            host_network,
        })?;
        let job = self.start_server(name, &[port])?;
        self.publish_pod(name, true)?;
        Ok((pod, job))
    }

    /// The directory of this run: manifests, logs, web pages.
    pub fn dir(&self) -> PathBuf {
        self.run.dir()
    }

    /// A machine of its own on the segment of the nodes: 192.168.77.`host` and fd00:77::`host`. Nodes have numbers from
    /// 11 on, the router has 1.
    pub fn add_host(&self, name: &str, host: u8) -> Result<(Place, [IpAddr; 2])> {
        topology::build_host(&self.run, &self.router, &self.config, name, host)
    }

    /// Routes an address to a node, as a load balancer or an upstream router would.
    pub fn route_outside(&self, to: IpAddr, node: usize) -> Result<()> {
        let family = if to.is_ipv4() { 0 } else { 1 };
        let via = self.nodes[node].ips[family].to_string();
        self.router.ip(&["route", "replace", &to.to_string(), "via", &via])
    }

    /// What the agents wrote, for a failure report.
    pub fn agent_logs(&self) -> String {
        let mut out = String::new();
        for node in &self.nodes {
            let path = self.run.dir().join(format!("{}.log", node.name));
            if let Ok(text) = std::fs::read_to_string(&path) {
                let lines: Vec<&str> = text.lines().collect();
                let tail = &lines[lines.len().saturating_sub(40)..];
                out.push_str(&format!("--- agent of {}\n{}\n", node.name, tail.join("\n")));
            }
        }
        out
    }
}

/// Labs of one process stand one after another: timing tests on two cores bear no company.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Builds a lab, hands it to a test, and takes it away; when the test fails, what the agents wrote is printed.
/// Without root nothing can be built: the test is skipped and says so.
pub fn with(config: Config, test: impl FnOnce(&mut Lab) -> Result<()>) -> Result<()> {
    if !tool::is_root() {
        eprintln!("skipped: a lab needs root");
        return Ok(());
    }
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut lab = Lab::build(config)?;
    let result = test(&mut lab);
    if result.is_err() {
        eprintln!("{}", lab.agent_logs());
    }
    result
}
