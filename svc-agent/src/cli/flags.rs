//! The flags that `run` and `explain` share. Names and meanings are a stable interface; where kube-proxy has a flag
//! for a thing, its name and meaning are kept.
//!
//! Lists are comma-separated, both families mixed, blanks around items allowed.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{ArgAction, Args, ValueEnum};

use super::kube_proxy::KubeProxy;
use super::listen::Listen;
use crate::datapath::Sizes;
use crate::plan::Options;
use crate::plan::options::{DetectLocalMode, Detector, NodePortAddresses, OptionError, Prefixes};
use crate::plan::scheduler::{self, Method};
use crate::source::ControlPlane;

/// Default of `--bpffs`.
pub const DEFAULT_BPFFS: &str = "/sys/fs/bpf/svc";

/// Flags of `run`, all of which `explain` accepts.
#[derive(Clone, Debug, Args)]
pub struct Flags {
    // The first field, so that it sees all that was given: clap takes away what it has handed out.
    /// What kube-proxy takes besides.
    #[command(flatten)]
    pub kube_proxy: KubeProxy,
    /// This node's name: selects the Node object and what is local [default: the host name]
    #[arg(long, visible_alias = "hostname-override", value_name = "NAME")]
    pub node: Option<String>,
    /// Where objects come from: `kubernetes`, or a directory of manifests, which is watched
    #[arg(long, value_name = "kubernetes|DIR", default_value = "kubernetes")]
    pub source: SourceFlag,
    /// How to reach the API server [default: the pod's own account]
    #[arg(long, value_name = "FILE", env = "KUBECONFIG")]
    pub kubeconfig: Option<PathBuf>,
    /// Address of the API server in place of the one that the configuration names. With the pod's own account it should be
    /// given: a pod is told the address of a Service, which this program has to serve first
    #[arg(long, visible_alias = "master", value_name = "URL")]
    pub api_server: Option<String>,
    /// Pod range of the whole cluster; empty in mode ClusterCIDR: nobody is recognised as a pod
    #[arg(long, value_name = "LIST", default_value = "", hide_default_value = true)]
    pub cluster_cidr: Prefixes,
    /// How to tell that a sender is a pod
    #[arg(
        long,
        value_name = "ClusterCIDR|NodeCIDR|BridgeInterface|InterfaceNamePrefix",
        default_value = "ClusterCIDR"
    )]
    pub detect_local_mode: DetectLocalMode,
    /// For BridgeInterface: the bridge of the pods
    #[arg(long, value_name = "NAME")]
    pub pod_bridge_interface: Option<String>,
    /// For InterfaceNamePrefix: how the names of the pods' interfaces begin
    #[arg(long, value_name = "PREFIX")]
    pub pod_interface_name_prefix: Option<String>,
    /// Translate the source of everything that is sent to a ClusterIP
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false",
          hide_default_value = true, value_name = "BOOL", action = ArgAction::Set)]
    pub masquerade_all: bool,
    /// Where node ports answer: prefixes, or the words `primary`, `localhost`, `all`
    #[arg(long, value_name = "LIST", default_value = "primary,localhost")]
    pub nodeport_addresses: NodePortAddresses,
    /// How endpoints are chosen for a Service that does not say: the names of ipvs
    #[arg(long, visible_alias = "ipvs-scheduler", value_name = "NAME", default_value = "random", value_parser = method)]
    pub scheduler: Method,
    /// Prefixes whose addresses may be external IPs; by default none is captured
    #[arg(long, value_name = "LIST", default_value = "", hide_default_value = true)]
    pub allow_external_ips: Prefixes,
    /// Without an API server: where cluster IPs are allocated from; `none`: nothing is allocated
    #[arg(long, value_name = "LIST", value_parser = service_cidr, default_value = "10.96.0.0/12,fd00:10:96::/112")]
    pub service_cidr: Prefixes,
    /// Without an API server: where node ports are allocated from
    #[arg(long, value_name = "A-B", default_value = "30000-32767")]
    pub service_node_port_range: PortRange,
    /// Where maps and links are pinned; two agents with different folders do not know of each other
    #[arg(long, value_name = "DIR", default_value = DEFAULT_BPFFS)]
    pub bpffs: PathBuf,
    /// Where socket programs are attached [default: root of cgroup v2]
    #[arg(long, value_name = "DIR")]
    pub cgroup: Option<PathBuf>,
    /// Where /healthz, /livez and /readyz answer; the wildcard means both families
    #[arg(long, value_name = "ADDR:PORT", default_value = "0.0.0.0:10256", value_parser = Listen::healthz)]
    pub healthz_bind_address: Listen,
    /// Where /metrics, /healthz and /proxyMode answer; empty: nowhere
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:10249", value_parser = Listen::metrics)]
    pub metrics_bind_address: Listen,
    /// Also show the connections of each endpoint among the metrics
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false",
          hide_default_value = true, value_name = "BOOL", action = ArgAction::Set)]
    pub metrics_of_backends: bool,
    /// Devices to serve: comma-separated patterns with `*`, `!` before one excludes; `default` stands for the built-in
    /// list for the usual CNI plugins
    #[arg(long, value_name = "PATTERNS", value_delimiter = ',', default_value = "default")]
    pub devices: Vec<String>,
    /// Whose sockets are translated at connect and sendmsg: the host's, those of pods too, or nobody's
    #[arg(long, value_enum, default_value_t = SocketLb::Host)]
    pub socket_lb: SocketLb,
    /// How traffic from outside for a backend on another node is turned around without entering the stack
    #[arg(long, value_enum, default_value_t = FastPath::Auto)]
    pub external_fast_path: FastPath,
    /// Where TC programs are attached. For tests: what a kernel without TCX does is tried on every kernel
    #[arg(long, value_enum, default_value_t = TcHook::Auto, hide = true)]
    pub tc: TcHook,
    /// Services for which the tables have room
    #[arg(long, value_name = "N", default_value_t = Sizes::default().services, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub max_services: u32,
    /// Endpoints for which the tables have room
    #[arg(long, value_name = "N", default_value_t = Sizes::default().endpoints, value_parser = clap::value_parser!(u32).range(1..=4_000_000))]
    pub max_endpoints: u32,
    /// Connections of each family for which the tables have room
    #[arg(long, value_name = "N", default_value_t = Sizes::default().flows, value_parser = clap::value_parser!(u32).range(1..=64_000_000))]
    pub max_flows: u32,
    /// Source ports for translated connections; kept out of the host's own use
    #[arg(long, value_name = "A-B", default_value = "10000-29999")]
    pub snat_port_range: PortRange,
    /// Bit of the packet mark that says "translate the source on leaving"
    #[arg(long, visible_alias = "iptables-masquerade-bit", value_name = "0..31", default_value_t = 14,
          value_parser = clap::value_parser!(u8).range(0..=31))]
    pub masquerade_bit: u8,
    /// Write a line about every packet and socket call that the programs see; costs each about 100 ns
    #[arg(long)]
    pub trace: bool,
}

impl Flags {
    /// The node's name: the flag, or the host name as kube-proxy spells it (lower case).
    pub fn node_name(&self) -> String {
        self.node.as_ref().map_or_else(host_name, |name| name.trim().to_owned())
    }

    /// What the plan has to know.
    pub fn options(&self) -> Result<Options, OptionError> {
        Ok(Options {
            detector: Detector::new(
                self.detect_local_mode,
                self.cluster_cidr.clone(),
                self.pod_bridge_interface.clone(),
                self.pod_interface_name_prefix.clone(),
            )?,
            masquerade_all: self.masquerade_all,
            node_port_addresses: self.nodeport_addresses.clone(),
            allow_external_ips: self.allow_external_ips.0.clone(),
            scheduler: self.scheduler,
            bind_address: self.kube_proxy.settings.bind_address,
        })
    }

    /// What stands in for a control plane when objects come from manifests.
    pub fn control_plane(&self) -> ControlPlane {
        ControlPlane {
            service_cidrs: Some(self.service_cidr.0.clone()).filter(|cidrs| !cidrs.is_empty()),
            node_ports: self.service_node_port_range.first..=self.service_node_port_range.last,
            node_name: self.node_name(),
            state_file: None,
        }
    }

    /// The mask of the mark bit that asks for source translation.
    pub fn masquerade_mark(&self) -> u32 {
        1 << self.masquerade_bit
    }

    /// For how much the tables have room.
    pub fn sizes(&self) -> Sizes {
        Sizes { services: self.max_services, endpoints: self.max_endpoints, flows: self.max_flows }
    }
}

/// Where objects come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceFlag {
    /// The API server.
    Kubernetes,
    /// A directory of manifests.
    Directory(PathBuf),
}

impl FromStr for SourceFlag {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(if text == "kubernetes" { Self::Kubernetes } else { Self::Directory(text.into()) })
    }
}

/// Whose sockets are translated at connect and sendmsg.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SocketLb {
    /// Those of the agent's own network namespace.
    Host,
    /// All below the cgroup.
    All,
    /// None.
    Off,
}

/// How traffic from outside for a backend on another node is turned around.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FastPath {
    /// XDP in the driver where it can be attached, else TC.
    Auto,
    /// XDP everywhere, in generic mode if the driver has none; TC for what XDP cannot handle.
    Xdp,
    /// By redirect at TC.
    Tc,
    /// Through the stack, like everything else.
    Off,
}

/// Where TC programs are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TcHook {
    /// By TCX links where the kernel has them, else as filters.
    Auto,
    /// As filters in a clsact qdisc.
    Clsact,
}

/// Ports A to B, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRange {
    /// First port.
    pub first: u16,
    /// Last port.
    pub last: u16,
}

impl PortRange {
    /// Whether the ranges have a port in common.
    pub fn overlaps(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

impl FromStr for PortRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let port = |text: &str| text.trim().parse::<u16>().ok().filter(|port| *port != 0);
        text.split_once('-')
            .and_then(|(first, last)| Some(Self { first: port(first)?, last: port(last)? }))
            .filter(|range| range.first <= range.last)
            .ok_or_else(|| format!("{text} is no port range; write for instance 30000-32767"))
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

fn service_cidr(text: &str) -> Result<Prefixes, OptionError> {
    if text.trim() == "none" { Ok(Prefixes::default()) } else { text.parse() }
}

/// The host name as kube-proxy takes it for a node name.
fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_lowercase()
}

/// A scheduler, or what takes its place if only ipvs has it; that is said by [`super::kube_proxy::complete`].
pub(super) fn method(name: &str) -> Result<Method, String> {
    let name = scheduler::substitute(name).unwrap_or(name);
    scheduler::method(name).ok_or_else(|| format!("no scheduler is called {name}"))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::super::{Cli, Command};
    use super::*;

    fn run(args: &[&str]) -> Result<Flags, clap::Error> {
        match Cli::try_parse_from(["svc-agent", "run"].iter().chain(args))?.command {
            Command::Run(run) => Ok(run.flags),
            other => unreachable!("{other:?}"),
        }
    }

    #[test]
    fn lists_may_be_empty() {
        assert_eq!(run(&[]).expect("valid").cluster_cidr, Prefixes::default());
        assert_eq!(run(&["--cluster-cidr", "10.1.0.0/16, fd00:1::/64"]).expect("valid").cluster_cidr.0.len(), 2);
    }

    #[test]
    fn none_switches_allocation_off() {
        assert_eq!(run(&["--service-cidr", "none"]).expect("valid").service_cidr, Prefixes::default());
        assert_eq!(run(&[]).expect("valid").service_cidr.0.len(), 2);
    }

    #[test]
    fn switches_are_taken_as_kube_proxy_writes_them() {
        assert!(run(&["--masquerade-all"]).expect("valid").masquerade_all);
        assert!(run(&["--masquerade-all=true"]).expect("valid").masquerade_all);
        assert!(!run(&["--masquerade-all=false"]).expect("valid").masquerade_all);
        let named = run(&["--hostname-override", "n1", "--iptables-masquerade-bit", "15"]).expect("valid");
        assert_eq!((named.node_name().as_str(), named.masquerade_mark()), ("n1", 0x8000));
    }

    #[test]
    fn nonsense_is_refused() {
        for args in [["--snat-port-range", "30-20"], ["--cluster-cidr", "ten"], ["--nodeport-addresses", "primari"]] {
            assert!(run(&args).is_err(), "{args:?}");
        }
        let flags = run(&["--detect-local-mode", "BridgeInterface"]).expect("valid by itself");
        assert!(flags.options().is_err());
    }
}
