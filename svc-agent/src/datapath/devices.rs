//! Which devices of this network namespace are served, what each is for, and which addresses the node has.
//!
//! [`classify`] is a pure function of what netlink says. [`Watch`] listens for changes and takes a full picture after
//! each: a picture of some hundred devices costs a millisecond, and no lost message can leave it wrong.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures_util::{StreamExt as _, TryStreamExt as _};
use rtnetlink::packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope};
use rtnetlink::packet_route::link::{
    InfoKind, LinkAttribute, LinkInfo, LinkLayerType, LinkMessage, LinkXdp, XdpAttached,
};
use rtnetlink::{Handle, MulticastGroup};
use svc_common::net::{Address as _, V4, V6};
use svc_common::tables::{Device, device};
use tokio::sync::{Notify, watch};

use super::announce::{is_other_route, is_traffic_control, takes_filters_away};
use super::links::XdpMode;
use super::primary;
use crate::plan::Detector;

/// What a device is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// The host's end of a pod's link, routed.
    Pod,
    /// A port of a bridge.
    BridgePort,
    /// An overlay between nodes.
    Tunnel,
    /// The way out.
    Uplink,
}

impl Role {
    /// One word for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pod => "pod",
            Self::BridgePort => "bridge port",
            Self::Tunnel => "tunnel",
            Self::Uplink => "uplink",
        }
    }
}

/// A device that is served.
#[derive(Clone, Debug, PartialEq)]
pub struct Served {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub role: Role,
    /// Hardware, or a bundle of it: what arrives has a finished checksum, as XDP needs it.
    pub hardware: bool,
    /// What the programs are told about it.
    pub entry: Device,
}

/// A picture of the network namespace.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Network {
    /// Served devices, by interface index.
    pub devices: BTreeMap<u32, Served>,
    /// All addresses of the node, loopback excepted, sorted.
    pub addresses: Vec<IpAddr>,
    /// The node's own address, IPv4 and IPv6, where its Node object has none.
    pub primary: [Option<IpAddr>; 2],
}

/// A device as netlink describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Interface index.
    pub index: u32,
    /// Name.
    pub name: String,
    /// Index of the bridge, bond or VRF that it belongs to.
    pub master: Option<u32>,
    /// Kind of a virtual device; `None` for hardware.
    pub kind: Option<InfoKind>,
    /// Frames have an Ethernet header.
    pub ethernet: bool,
    /// It is the loopback device.
    pub loopback: bool,
    /// What runs an XDP program of the device, if it has one.
    pub xdp: Option<XdpMode>,
}

/// An address as netlink describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// Index of the device.
    pub index: u32,
    /// The address.
    pub addr: IpAddr,
    /// Packets to anywhere may have it as their source.
    pub usable: bool,
}

/// Which devices are wanted, and how pods are told by device.
#[derive(Clone, Debug)]
pub struct Selection {
    patterns: Vec<String>,
    detector: Detector,
    turns: bool,
}

impl Selection {
    /// From `--devices` and the detector flags. `turns`: connections from outside may be turned around.
    pub fn new(patterns: &[String], detector: Detector, turns: bool) -> Self {
        let patterns = patterns.iter().map(|pattern| pattern.trim().to_owned()).filter(|p| !p.is_empty()).collect();
        Self { patterns, detector, turns }
    }

    /// The last pattern that matches decides.
    fn wants(&self, name: &str, usual: bool) -> bool {
        let mut wanted = false;
        for pattern in &self.patterns {
            match pattern.strip_prefix('!') {
                Some(excluded) if matches(excluded, name) => wanted = false,
                Some(_) => {}
                None if pattern == "default" => wanted |= usual,
                None => wanted |= matches(pattern, name),
            }
        }
        wanted
    }
}

/// Whether `name` matches `pattern`, in which `*` stands for any characters.
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((head, rest)) => name.strip_prefix(head).is_some_and(|tail| {
            (0..=tail.len()).filter(|at| tail.is_char_boundary(*at)).any(|at| matches(rest, &tail[at..]))
        }),
    }
}

/// What a device of this kind is for, and whether it is served by default. `None`: it carries nothing to translate.
fn role(link: &Link, master: Option<&Link>) -> Option<Role> {
    match master.and_then(|master| master.kind.as_ref()) {
        // The packets of a port that is bundled are seen on the bundle.
        Some(InfoKind::Bond | InfoKind::Team) => return None,
        Some(InfoKind::Bridge) => return Some(Role::BridgePort),
        _ => {}
    }
    match &link.kind {
        _ if link.loopback => None,
        None | Some(InfoKind::Bond | InfoKind::Team | InfoKind::Vlan | InfoKind::Ipoib) => Some(Role::Uplink),
        // The end that leads to a pod, unless it is called like an uplink: a node that is itself a container.
        Some(InfoKind::Veth | InfoKind::Netkit | InfoKind::Tun) => {
            let uplink = matches("eth*", &link.name) || (matches("en*", &link.name) && !matches("eni*", &link.name));
            Some(if uplink { Role::Uplink } else { Role::Pod })
        }
        Some(
            InfoKind::Vxlan
            | InfoKind::Geneve
            | InfoKind::IpIp
            | InfoKind::Ip6Tnl
            | InfoKind::SitTun
            | InfoKind::GreTun
            | InfoKind::GreTun6
            | InfoKind::GreTap
            | InfoKind::GreTap6
            | InfoKind::Vti
            | InfoKind::Vti6
            | InfoKind::Xfrm
            | InfoKind::Wireguard,
        ) => Some(Role::Tunnel),
        Some(_) => None,
    }
}

/// The devices of the kernel that no traffic of a pod or node ever takes by default.
fn is_idle(link: &Link) -> bool {
    // Fallback devices that loading a tunnel module leaves in every namespace.
    ["tunl0", "ip6tnl0", "sit0", "gre0", "gretap0", "erspan0", "ip_vti0", "ip6_vti0", "ip6gre0"]
        .contains(&link.name.as_str())
}

/// What is served of all that is there. `outgoing` are the addresses from which the default routes leave, by family.
pub fn classify(links: &[Link], addresses: &[Bound], outgoing: [Option<IpAddr>; 2], selection: &Selection) -> Network {
    let by_index: BTreeMap<u32, &Link> = links.iter().map(|link| (link.index, link)).collect();
    let source = |index: Option<u32>, v4: bool| {
        let index = index?;
        addresses.iter().find(|a| a.index == index && a.usable && a.addr.is_ipv4() == v4).map(|a| a.addr)
    };
    let mut devices: BTreeMap<u32, Served> = BTreeMap::new();
    for link in links {
        let master = link.master.and_then(|master| by_index.get(&master).copied());
        let Some(role) = role(link, master) else { continue };
        // A tunnel's fallback device is in use only when it has an address (Calico's tunl0).
        let usual = !is_idle(link) || addresses.iter().any(|addr| addr.index == link.index);
        if !selection.wants(&link.name, usual) {
            continue;
        }
        // Routing sees a bridge, not its port.
        let bridge = master.filter(|_| role == Role::BridgePort);
        let mut flags = 0;
        if selection.detector.accepts_device(&bridge.unwrap_or(link).name) {
            flags |= device::POD;
        }
        if !link.ethernet {
            flags |= device::LAYER3;
        }
        if role == Role::Uplink {
            flags |= device::UPLINK;
        }
        if link.ethernet && matches!(role, Role::Uplink | Role::Tunnel) {
            flags |= device::OUTWARD;
            if role == Role::Uplink && selection.turns {
                flags |= device::TURN;
            }
        }
        flags |= match link.xdp {
            Some(XdpMode::Driver) => device::XDP,
            Some(XdpMode::Generic) => device::XDP_GENERIC,
            None => 0,
        };
        let bridge = bridge.map(|bridge| bridge.index);
        let own = |v4| source(Some(link.index), v4).or_else(|| source(bridge, v4));
        let entry = Device {
            flags,
            source_v4: own(true).and_then(V4::from_ip).unwrap_or_default(),
            source_v6: own(false).and_then(V6::from_ip).unwrap_or_default(),
        };
        let hardware = matches!(link.kind, None | Some(InfoKind::Bond | InfoKind::Team));
        devices.insert(link.index, Served { name: link.name.clone(), role, hardware, entry });
    }
    let mut own: Vec<IpAddr> = addresses.iter().map(|bound| bound.addr).filter(|addr| !addr.is_loopback()).collect();
    own.sort_unstable();
    own.dedup();
    let uplinks: Vec<u32> =
        devices.iter().filter(|(_, served)| served.role == Role::Uplink).map(|(index, _)| *index).collect();
    let primary = primary::primary(outgoing, addresses, &uplinks);
    Network { devices, addresses: own, primary }
}

/// Watches the network namespace for as long as it lives.
#[derive(Debug)]
pub struct Watch {
    /// The present picture; changes are announced.
    pub network: watch::Receiver<Network>,
    again: Arc<Notify>,
    /// Somebody has taken a qdisc or a filter from a device, whoever and whichever it was.
    pub disturbed: Arc<Notify>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Watch {
    /// Takes the first picture and goes on watching.
    pub async fn start(selection: Selection) -> anyhow::Result<Self> {
        let groups = [
            MulticastGroup::Link,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv6Route,
            MulticastGroup::Tc,
        ];
        let (connection, handle, mut messages) =
            rtnetlink::new_multicast_connection(&groups).context("cannot listen to netlink")?;
        let connection = tokio::spawn(connection);
        let first = picture(&handle, &selection).await.context("cannot list the devices of this network namespace")?;
        let (sender, network) = watch::channel(first);
        let again = Arc::new(Notify::new());
        let asked = Arc::clone(&again);
        let disturbed = Arc::new(Notify::new());
        let disturbance = Arc::clone(&disturbed);
        let task = tokio::spawn(async move {
            loop {
                tokio::select! {
                    message = messages.next() => match message {
                        Some((message, _)) if is_other_route(&message) => continue,
                        Some((message, _)) if is_traffic_control(&message) => {
                            if takes_filters_away(&message) {
                                disturbance.notify_one();
                            }
                            continue;
                        }
                        Some(_) => {}
                        None => break,
                    },
                    () = asked.notified() => {}
                }
                // A device comes with a burst of messages; one picture serves them all.
                tokio::time::sleep(Duration::from_millis(10)).await;
                while messages.try_recv().is_ok() {}
                match picture(&handle, &selection).await {
                    Ok(new) => {
                        sender.send_if_modified(|network| {
                            let changed = *network != new;
                            *network = new;
                            changed
                        });
                    }
                    Err(error) => tracing::warn!("cannot list the devices of this network namespace: {error}"),
                }
            }
            connection.abort();
        });
        Ok(Self { network, again, disturbed, task })
    }

    /// Takes another picture: programs that are attached by a link are not announced.
    pub fn look_again(&self) {
        self.again.notify_one();
    }
}

async fn picture(handle: &Handle, selection: &Selection) -> Result<Network, rtnetlink::Error> {
    let links: Vec<LinkMessage> = handle.link().get().execute().try_collect().await?;
    let addresses: Vec<AddressMessage> = handle.address().get().execute().try_collect().await?;
    let links: Vec<Link> = links.iter().map(read_link).collect();
    let addresses: Vec<Bound> = addresses.iter().filter_map(read_address).collect();
    Ok(classify(&links, &addresses, primary::outgoing(), selection))
}

fn read_link(message: &LinkMessage) -> Link {
    let layer = message.header.link_layer_type;
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        master: None,
        kind: None,
        ethernet: matches!(layer, LinkLayerType::Ether | LinkLayerType::Loopback),
        loopback: layer == LinkLayerType::Loopback,
        xdp: None,
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Controller(index) => link.master = Some(*index),
            LinkAttribute::Xdp(xdp) => link.xdp = xdp.iter().find_map(mode),
            LinkAttribute::LinkInfo(infos) => {
                link.kind = infos.iter().find_map(|info| match info {
                    LinkInfo::Kind(kind) => Some(kind.clone()),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    link
}

fn mode(xdp: &LinkXdp) -> Option<XdpMode> {
    match xdp {
        LinkXdp::Attached(XdpAttached::Driver | XdpAttached::Multiple) => Some(XdpMode::Driver),
        LinkXdp::Attached(XdpAttached::SocketBuffer) => Some(XdpMode::Generic),
        _ => None,
    }
}

fn read_address(message: &AddressMessage) -> Option<Bound> {
    // A point-to-point IPv4 link has its own address in Local and the peer's in Address; IPv6 has only Address.
    let mut local = None;
    let mut plain = None;
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(addr) => local = Some(*addr),
            AddressAttribute::Address(addr) => plain = Some(*addr),
            _ => {}
        }
    }
    let unusable = AddressHeaderFlags::Secondary
        | AddressHeaderFlags::Deprecated
        | AddressHeaderFlags::Tentative
        | AddressHeaderFlags::Dadfailed;
    Some(Bound {
        index: message.header.index,
        addr: local.or(plain)?,
        usable: message.header.scope == AddressScope::Universe && !message.header.flags.intersects(unusable),
    })
}

/// Name of a device of this network namespace.
pub fn name(index: u32) -> Option<String> {
    let mut name = [0u8; libc::IF_NAMESIZE];
    // SAFETY: the buffer has the size that the function asks for.
    let found = unsafe { libc::if_indextoname(index, name.as_mut_ptr().cast()) };
    let end = name.iter().position(|byte| *byte == 0)?;
    (!found.is_null()).then(|| String::from_utf8_lossy(&name[..end]).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, name: &str, kind: Option<InfoKind>, master: Option<u32>) -> Link {
        Link { index, name: name.into(), master, kind, ethernet: true, loopback: name == "lo", xdp: None }
    }

    fn bound(index: u32, addr: &str) -> Bound {
        Bound { index, addr: addr.parse().expect("an address"), usable: true }
    }

    fn selection(patterns: &[&str]) -> Selection {
        let patterns: Vec<String> = patterns.iter().map(ToString::to_string).collect();
        Selection::new(&patterns, Detector::BridgeInterface("cni0".into()), true)
    }

    fn node() -> Vec<Link> {
        vec![
            link(1, "lo", None, None),
            link(2, "eth0", None, None),
            link(3, "cni0", Some(InfoKind::Bridge), None),
            link(4, "veth1234", Some(InfoKind::Veth), Some(3)),
            link(5, "cali77", Some(InfoKind::Veth), None),
            Link { ethernet: false, ..link(6, "tunl0", Some(InfoKind::IpIp), None) },
            link(7, "flannel.1", Some(InfoKind::Vxlan), None),
            link(8, "bond0", Some(InfoKind::Bond), None),
            link(9, "eth1", None, Some(8)),
            link(10, "kube-ipvs0", Some(InfoKind::Dummy), None),
        ]
    }

    #[test]
    fn a_usual_node() {
        let network = classify(&node(), &[], [None; 2], &selection(&["default"]));
        let roles: Vec<_> = network.devices.values().map(|served| (served.name.as_str(), served.role)).collect();
        assert_eq!(
            roles,
            [
                ("eth0", Role::Uplink),
                ("veth1234", Role::BridgePort),
                ("cali77", Role::Pod),
                ("flannel.1", Role::Tunnel),
                ("bond0", Role::Uplink),
            ]
        );
    }

    #[test]
    fn sources_are_the_devices_own_or_their_bridges() {
        let addresses = [
            bound(1, "127.0.0.1"),
            bound(2, "192.0.2.1"),
            bound(2, "fd00::1"),
            bound(3, "10.1.0.1"),
            bound(6, "10.1.0.0"),
        ];
        let network = classify(&node(), &addresses, [None; 2], &selection(&["default"]));
        let source = |index: u32| network.devices[&index].entry.source_v4.to_ip().to_string();
        assert_eq!(source(2), "192.0.2.1");
        assert_eq!(source(4), "10.1.0.1");
        assert_eq!(source(5), "0.0.0.0");
        assert_eq!(network.devices[&2].entry.source_v6.to_ip().to_string(), "fd00::1");
        // Calico's tunl0 is used as soon as it has an address.
        assert_eq!(network.devices[&6].entry.flags, device::LAYER3);
        assert_eq!(network.addresses.len(), 4);
    }

    #[test]
    fn a_bridge_detector_looks_at_the_bridge_of_a_port() {
        let network = classify(&node(), &[], [None; 2], &selection(&["default"]));
        let pods: Vec<_> = network.devices.iter().filter(|(_, d)| d.entry.flags & device::POD != 0).collect();
        assert_eq!(pods.iter().map(|(index, _)| **index).collect::<Vec<_>>(), [4]);
    }

    #[test]
    fn patterns_select_and_exclude() {
        let names = |patterns: &[&str]| {
            let network = classify(&node(), &[], [None; 2], &selection(patterns));
            network.devices.values().map(|served| served.name.clone()).collect::<Vec<_>>()
        };
        assert_eq!(names(&["cali*", "eth0"]), ["eth0", "cali77"]);
        assert_eq!(names(&["default", "!veth*", "!flannel.*"]), ["eth0", "cali77", "bond0"]);
        assert!(matches("a*c*e", "abcde") && !matches("a*c*e", "abcd") && matches("*", ""));
    }
}
