//! The flags that matter to the plan, and the one place where LIST flags are read.
//!
//! A LIST is comma-separated, both families mixed, blanks around items allowed.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::scheduler::Method;
use crate::model::{Family, Node, text};

/// A flag that cannot be understood: one line that names the item and what would be right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OptionError(String);

impl fmt::Display for OptionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for OptionError {}

/// What the flags say about planning.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Who is a pod.
    pub detector: Detector,
    /// `--masquerade-all`: everything sent to a cluster IP gets its source translated.
    pub masquerade_all: bool,
    /// `--nodeport-addresses`.
    pub node_port_addresses: NodePortAddresses,
    /// `--allow-external-ips`: external IPs outside are not captured, so by default none is (CVE-2020-8554, KEP-5707).
    pub allow_external_ips: Vec<IpNet>,
    /// How endpoints are chosen for a Service that does not say.
    pub scheduler: Method,
    /// `--bind-address`: the primary address of its family, whatever the Node object says.
    pub bind_address: Option<IpAddr>,
}

/// A LIST of prefixes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prefixes(pub Vec<IpNet>);

impl FromStr for Prefixes {
    type Err = OptionError;

    fn from_str(list: &str) -> Result<Self, OptionError> {
        let prefix = |item| {
            text::prefix(item)
                .ok_or_else(|| OptionError(format!("\"{item}\" is no prefix; write it like 10.0.0.0/8 or fd00::/64")))
        };
        items(list).map(prefix).collect::<Result<_, _>>().map(Self)
    }
}

/// A LIST of addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses(pub Vec<IpAddr>);

impl FromStr for Addresses {
    type Err = OptionError;

    fn from_str(list: &str) -> Result<Self, OptionError> {
        let address = |item| {
            text::address(item)
                .ok_or_else(|| OptionError(format!("\"{item}\" is no address; write it like 192.0.2.1 or fd00::1")))
        };
        items(list).map(address).collect::<Result<_, _>>().map(Self)
    }
}

fn items(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(str::trim).filter(|item| !item.is_empty())
}

/// `--detect-local-mode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DetectLocalMode {
    /// By `--cluster-cidr`.
    #[default]
    ClusterCidr,
    /// By the pod ranges of the own Node.
    NodeCidr,
    /// By the bridge on which a packet arrives.
    BridgeInterface,
    /// By the name of the device on which a packet arrives.
    InterfaceNamePrefix,
}

impl DetectLocalMode {
    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::ClusterCidr => "ClusterCIDR",
            Self::NodeCidr => "NodeCIDR",
            Self::BridgeInterface => "BridgeInterface",
            Self::InterfaceNamePrefix => "InterfaceNamePrefix",
        }
    }
}

impl FromStr for DetectLocalMode {
    type Err = OptionError;

    fn from_str(mode: &str) -> Result<Self, OptionError> {
        match mode.trim() {
            "ClusterCIDR" => Ok(Self::ClusterCidr),
            "NodeCIDR" => Ok(Self::NodeCidr),
            "BridgeInterface" => Ok(Self::BridgeInterface),
            "InterfaceNamePrefix" => Ok(Self::InterfaceNamePrefix),
            other => Err(OptionError(format!(
                "\"{other}\" is no detection mode; use ClusterCIDR, NodeCIDR, BridgeInterface or InterfaceNamePrefix"
            ))),
        }
    }
}

/// Tells pods from everybody else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Detector {
    /// A source in one of these prefixes is a pod, of whichever node. A family without a prefix has no detector.
    ClusterCidr(Vec<IpNet>),
    /// A source in the pod ranges of the own Node is a pod. A family without a range has no detector.
    NodeCidr,
    /// What arrives on this bridge is from a pod.
    BridgeInterface(String),
    /// What arrives on a device whose name begins like this is from a pod.
    InterfaceNamePrefix(String),
}

impl Default for Detector {
    fn default() -> Self {
        Self::ClusterCidr(Vec::new())
    }
}

impl Detector {
    /// From the flags `--detect-local-mode`, `--cluster-cidr`, `--pod-bridge-interface` and
    /// `--pod-interface-name-prefix`.
    pub fn new(
        mode: DetectLocalMode,
        cluster_cidr: Prefixes,
        bridge: Option<String>,
        prefix: Option<String>,
    ) -> Result<Self, OptionError> {
        let named = |name: Option<String>, mode: &str, flag: &str| {
            name.filter(|name| !name.is_empty())
                .ok_or_else(|| OptionError(format!("--detect-local-mode {mode} needs {flag}")))
        };
        match mode {
            DetectLocalMode::ClusterCidr => Ok(Self::ClusterCidr(cluster_cidr.0)),
            DetectLocalMode::NodeCidr => Ok(Self::NodeCidr),
            DetectLocalMode::BridgeInterface => {
                named(bridge, "BridgeInterface", "--pod-bridge-interface").map(Self::BridgeInterface)
            }
            DetectLocalMode::InterfaceNamePrefix => {
                named(prefix, "InterfaceNamePrefix", "--pod-interface-name-prefix").map(Self::InterfaceNamePrefix)
            }
        }
    }

    /// Prefixes whose addresses are pods; empty for the interface detectors.
    pub fn pod_prefixes<'a>(&'a self, node: Option<&'a Node>) -> &'a [IpNet] {
        match self {
            Self::ClusterCidr(prefixes) => prefixes,
            Self::NodeCidr => node.map_or(&[], |node| &node.pod_cidrs),
            Self::BridgeInterface(_) | Self::InterfaceNamePrefix(_) => &[],
        }
    }

    /// Whether pods are told by the device on which they arrive.
    pub fn is_by_device(&self) -> bool {
        matches!(self, Self::BridgeInterface(_) | Self::InterfaceNamePrefix(_))
    }

    /// Whether what arrives on the device of this name is from a pod: never by the prefix detectors.
    pub fn accepts_device(&self, name: &str) -> bool {
        match self {
            Self::BridgeInterface(bridge) => name == bridge,
            Self::InterfaceNamePrefix(prefix) => name.starts_with(prefix.as_str()),
            Self::ClusterCidr(_) | Self::NodeCidr => false,
        }
    }

    /// Whether anybody can be recognised as a pod in this family.
    pub fn is_present(&self, family: Family, node: Option<&Node>) -> bool {
        self.is_by_device() || self.pod_prefixes(node).iter().any(|net| Family::of(net.addr()) == family)
    }
}

/// `--nodeport-addresses`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodePortAddresses {
    items: Vec<NodePortItem>,
    /// On loopback wherever the items say so.
    loopback: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NodePortItem {
    Prefix(IpNet),
    Primary,
    Localhost,
    All,
}

impl Default for NodePortAddresses {
    fn default() -> Self {
        Self { items: vec![NodePortItem::Primary, NodePortItem::Localhost], loopback: true }
    }
}

impl FromStr for NodePortAddresses {
    type Err = OptionError;

    fn from_str(list: &str) -> Result<Self, OptionError> {
        let item = |item| match item {
            "primary" => Ok(NodePortItem::Primary),
            "localhost" => Ok(NodePortItem::Localhost),
            "all" => Ok(NodePortItem::All),
            _ => text::prefix(item).map(NodePortItem::Prefix).ok_or_else(|| {
                OptionError(format!(
                    "\"{item}\" is neither a prefix like 10.0.0.0/8 nor one of the words primary, localhost, all"
                ))
            }),
        };
        items(list).map(item).collect::<Result<_, _>>().map(|items| Self { items, loopback: true })
    }
}

impl fmt::Display for NodePortAddresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, item) in self.items.iter().enumerate() {
            f.write_str(if index == 0 { "" } else { "," })?;
            match item {
                NodePortItem::Prefix(net) => write!(f, "{net}")?,
                NodePortItem::Primary => f.write_str("primary")?,
                NodePortItem::Localhost => f.write_str("localhost")?,
                NodePortItem::All => f.write_str("all")?,
            }
        }
        Ok(())
    }
}

/// Where node ports answer in one family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodePortSet {
    /// Addresses of the node other than loopback, sorted.
    pub addresses: Vec<IpAddr>,
    /// Also on loopback, for processes of this host.
    pub loopback: bool,
    /// On every address that the node has or will have.
    pub all: bool,
}

impl NodePortAddresses {
    /// Nothing was said that differs from the default.
    pub fn is_default(&self) -> bool {
        self.items == Self::default().items || self.items == [NodePortItem::Primary] && !self.loopback
    }

    /// On every address, loopback only if it was not excluded.
    pub fn everywhere(mut self) -> Self {
        self.items = vec![NodePortItem::All];
        self
    }

    /// The same, but never on loopback.
    pub fn without_loopback(mut self) -> Self {
        self.items.retain(|item| *item != NodePortItem::Localhost);
        self.loopback = false;
        self
    }

    /// Picks from the node's addresses (`all`, without loopback, sorted) those of one family that are meant.
    pub fn resolve(&self, family: Family, primary: Option<IpAddr>, all: &[IpAddr]) -> NodePortSet {
        let own = all.iter().copied().filter(|addr| Family::of(*addr) == family);
        // Judged before loopback is looked at: a list with nothing but 127.0.0.0/8 has an item of IPv4.
        let mentioned = self.items.iter().any(|item| match item {
            NodePortItem::Prefix(net) => Family::of(net.addr()) == family,
            NodePortItem::Primary | NodePortItem::Localhost | NodePortItem::All => true,
        });
        if !mentioned {
            return NodePortSet { addresses: own.collect(), loopback: self.loopback, all: true };
        }
        let loopback = loopback_net(family);
        let all = self.items.iter().any(|item| match item {
            NodePortItem::Prefix(net) => net.prefix_len() == 0 && Family::of(net.addr()) == family,
            NodePortItem::Primary | NodePortItem::Localhost => false,
            NodePortItem::All => true,
        });
        NodePortSet {
            addresses: own
                .filter(|addr| {
                    self.items.iter().any(|item| match item {
                        NodePortItem::Prefix(net) => net.contains(addr),
                        NodePortItem::Primary => primary == Some(*addr),
                        NodePortItem::Localhost => false,
                        NodePortItem::All => true,
                    })
                })
                .collect(),
            loopback: self.loopback
                && self.items.iter().any(|item| match item {
                    NodePortItem::Prefix(net) => net.contains(&loopback) || loopback.contains(net),
                    NodePortItem::Primary => false,
                    NodePortItem::Localhost | NodePortItem::All => true,
                }),
            all,
        }
    }
}

/// The loopback prefix of a family.
fn loopback_net(family: Family) -> IpNet {
    match family {
        Family::V4 => IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8)),
        Family::V6 => IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128)),
    }
}

/// The address under which loopback frontends of a family are written.
pub fn loopback(family: Family) -> IpAddr {
    match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::LOCALHOST),
        Family::V6 => IpAddr::V6(Ipv6Addr::LOCALHOST),
    }
}
