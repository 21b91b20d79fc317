//! The flags that `run` and `explain` share. Names and meanings are a stable interface; where kube-proxy has a flag
//! for a thing, its name and meaning are kept.
//!
//! Lists are comma-separated, both families mixed, blanks around items allowed.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use clap::{ArgAction, Args, ValueEnum};
use ipnet::IpNet;

/// Default of `--bpffs`.
pub const DEFAULT_BPFFS: &str = "/sys/fs/bpf/svc";

/// A list of addresses (a type of its own because clap gives `Vec` another meaning).
pub type Addresses = Box<[IpAddr]>;

/// A list of prefixes.
pub type Prefixes = Box<[IpNet]>;

/// Flags of `run`, all of which `explain` accepts.
#[derive(Clone, Debug, Args)]
pub struct Flags {
    /// This node's name: selects the Node object and what is local [default: the host name]
    #[arg(long, visible_alias = "hostname-override", value_name = "NAME")]
    pub node: Option<String>,
    /// Where objects come from: `kubernetes`, or a directory of manifests, which is watched
    #[arg(long, value_name = "kubernetes|DIR", default_value = "kubernetes")]
    pub source: SourceFlag,
    /// How to reach the API server [default: the pod's own account]
    #[arg(long, value_name = "FILE", env = "KUBECONFIG")]
    pub kubeconfig: Option<PathBuf>,
    /// Pod range of the whole cluster; empty in mode ClusterCIDR: nobody is recognised as a pod
    #[arg(long, value_name = "LIST", value_parser = prefixes, default_value = "", hide_default_value = true)]
    pub cluster_cidr: Prefixes,
    /// How to tell that a sender is a pod
    #[arg(long, value_enum, value_name = "MODE", default_value_t = DetectLocalMode::ClusterCidr)]
    pub detect_local_mode: DetectLocalMode,
    /// For BridgeInterface: the bridge of the pods
    #[arg(long, value_name = "NAME", required_if_eq("detect_local_mode", "BridgeInterface"))]
    pub pod_bridge_interface: Option<String>,
    /// For InterfaceNamePrefix: how the names of the pods' interfaces begin
    #[arg(long, value_name = "PREFIX", required_if_eq("detect_local_mode", "InterfaceNamePrefix"))]
    pub pod_interface_name_prefix: Option<String>,
    /// Translate the source of everything that is sent to a ClusterIP
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false",
          hide_default_value = true, value_name = "BOOL", action = ArgAction::Set)]
    pub masquerade_all: bool,
    /// Where node ports answer: prefixes, or the words `primary`, `localhost`, `all`
    #[arg(long, value_name = "LIST", value_parser = node_port_addresses, default_value = "primary,localhost")]
    pub nodeport_addresses: NodePortAddresses,
    /// Prefixes whose addresses may be external IPs; empty: all
    #[arg(long, value_name = "LIST", value_parser = prefixes, default_value = "", hide_default_value = true)]
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
    #[arg(long, value_name = "ADDR:PORT", default_value = "0.0.0.0:10256")]
    pub healthz_bind_address: SocketAddr,
    /// Where /metrics, /healthz and /proxyMode answer
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:10249")]
    pub metrics_bind_address: SocketAddr,
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
    #[arg(long, value_name = "A-B", default_value = "20000-29999")]
    pub snat_port_range: PortRange,
    /// Bit of the packet mark that says "translate the source on leaving"
    #[arg(long, visible_alias = "iptables-masquerade-bit", value_name = "0..31", default_value_t = 14,
          value_parser = clap::value_parser!(u8).range(0..=31))]
    pub masquerade_bit: u8,
}

impl Flags {
    /// The node's name: the flag, or the host name as kube-proxy spells it (lower case).
    pub fn node_name(&self) -> String {
        self.node.as_ref().map_or_else(host_name, |name| name.trim().to_owned())
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

/// For how much the tables have room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Services.
    pub services: u32,
    /// Endpoints.
    pub endpoints: u32,
    /// Flows of each family.
    pub flows: u32,
}

impl Default for Sizes {
    fn default() -> Self {
        Self { services: 10_000, endpoints: 100_000, flows: 250_000 }
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

/// How to tell that a sender is a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DetectLocalMode {
    /// Its source is in `--cluster-cidr`.
    #[value(name = "ClusterCIDR")]
    ClusterCidr,
    /// Its source is in a podCIDR of the own Node object.
    #[value(name = "NodeCIDR")]
    NodeCidr,
    /// It arrives by `--pod-bridge-interface`.
    #[value(name = "BridgeInterface")]
    BridgeInterface,
    /// It arrives by an interface whose name begins with `--pod-interface-name-prefix`.
    #[value(name = "InterfaceNamePrefix")]
    InterfaceNamePrefix,
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
    /// XDP in the driver where it can be attached, else as `off`.
    Auto,
    /// XDP everywhere, in generic mode if the driver has none.
    Xdp,
    /// By redirect at TC.
    Tc,
    /// Through the stack, like everything else.
    Off,
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

/// One item of `--nodeport-addresses`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodePortItem {
    /// The primary address of each family.
    Primary,
    /// 127.0.0.0/8 and ::1.
    Localhost,
    /// Every address of the node, loopback included.
    All,
    /// Addresses of the node inside this prefix.
    Prefix(IpNet),
}

/// The items of `--nodeport-addresses`.
pub type NodePortAddresses = Box<[NodePortItem]>;

fn items(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty())
}

/// Leading zeros are tolerated and read as decimal, as in objects of the API.
fn address(text: &str) -> Result<IpAddr, String> {
    let decimal: Option<Vec<&str>> = text
        .split('.')
        .map(|part| {
            let digits = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
            digits.then(|| part.trim_start_matches('0')).map(|part| if part.is_empty() { "0" } else { part })
        })
        .collect();
    let plain = decimal.map_or_else(|| text.to_owned(), |parts| parts.join("."));
    plain.parse().map_err(|_| format!("{text} is no IP address"))
}

fn prefix(text: &str) -> Result<IpNet, String> {
    let (addr, len) = text.split_once('/').ok_or_else(|| format!("{text} is no prefix; write ADDRESS/LENGTH"))?;
    let len = len.trim().parse().map_err(|_| format!("{text} is no prefix: bad length"))?;
    let net = IpNet::new(address(addr.trim())?, len).map_err(|_| format!("{text} is no prefix: length too big"))?;
    Ok(net.trunc())
}

/// Parses a list of addresses.
pub fn addresses(text: &str) -> Result<Addresses, String> {
    items(text).map(address).collect()
}

fn prefixes(text: &str) -> Result<Prefixes, String> {
    items(text).map(prefix).collect()
}

fn service_cidr(text: &str) -> Result<Prefixes, String> {
    if text.trim() == "none" { Ok(Prefixes::default()) } else { prefixes(text) }
}

fn node_port_addresses(text: &str) -> Result<NodePortAddresses, String> {
    items(text)
        .map(|item| match item {
            "primary" => Ok(NodePortItem::Primary),
            "localhost" => Ok(NodePortItem::Localhost),
            "all" => Ok(NodePortItem::All),
            other => prefix(other).map(NodePortItem::Prefix),
        })
        .collect()
}

/// The host name as kube-proxy takes it for a node name.
fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_lowercase()
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
    fn lists_tolerate_blanks_and_leading_zeros() {
        let flags = run(&["--cluster-cidr", " 10.1.0.0/16 ,fd00:1::/64, 010.002.0.0/016"]).expect("valid");
        let expected: Vec<IpNet> =
            ["10.1.0.0/16", "fd00:1::/64", "10.2.0.0/16"].map(|net| net.parse().expect("a prefix")).into();
        assert_eq!(*flags.cluster_cidr, *expected);
        assert_eq!(*run(&[]).expect("valid").cluster_cidr, []);
    }

    #[test]
    fn words_of_nodeport_addresses() {
        use NodePortItem::{Localhost, Prefix, Primary};
        assert_eq!(*run(&[]).expect("valid").nodeport_addresses, [Primary, Localhost]);
        let flags = run(&["--nodeport-addresses", "primary, 192.0.2.0/24"]).expect("valid");
        assert_eq!(*flags.nodeport_addresses, [Primary, Prefix("192.0.2.0/24".parse().expect("a prefix"))]);
    }

    #[test]
    fn none_switches_allocation_off() {
        assert_eq!(*run(&["--service-cidr", "none"]).expect("valid").service_cidr, []);
        assert_eq!(run(&[]).expect("valid").service_cidr.len(), 2);
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
        for args in [
            ["--snat-port-range", "30-20"],
            ["--cluster-cidr", "10.1.0.0"],
            ["--nodeport-addresses", "primari"],
            ["--detect-local-mode", "BridgeInterface"],
        ] {
            assert!(run(&args).is_err(), "{args:?}");
        }
    }
}
