//! Addresses and wires.
//!
//! | who | IPv4 | IPv6 |
//! |---|---|---|
//! | nodes, from .11 on; the router is .1 | 192.168.77.0/24 | fd00:77::/64 |
//! | pods of node n, n from 1 on | 10.244.n.0/24 | fd00:10:244:n::/64 |
//! | outside: router .1, client .2 | 203.0.113.0/24 | 2001:db8:113::/64 |
//!
//! A veth hands XDP a packet whose checksum the sender left to its device. No wire of the real world does, so the
//! router's end of each wire that ends at a node's uplink finishes checksums; everywhere else offloads are on.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;

use anyhow::{Context, Result};
use svc_agent::datapath::{bpf, empty};

use super::cluster::Manifests;
use super::place::Place;
use super::run::Run;
use super::{Config, Lab, Node, Topology, hostile};

/// Pod ranges of the whole cluster.
pub const POD_RANGES: [&str; 2] = ["10.244.0.0/16", "fd00:10:244::/48"];
/// The segment of the nodes.
pub const NODE_RANGES: [&str; 2] = ["192.168.77.0/24", "fd00:77::/64"];
/// Where the outside client lives.
pub const OUTSIDE_RANGES: [&str; 2] = ["203.0.113.0/24", "2001:db8:113::/64"];
/// Addresses of the outside client.
pub const OUTSIDE: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(203, 0, 113, 2)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x113, 0, 0, 0, 0, 2))];

/// The host's end of every routed pod veth, as Calico gives it; the link-local address that follows from it is the
/// pods' IPv6 gateway.
const ROUTED_MAC: &str = "ee:ee:ee:ee:ee:ee";
const ROUTED_GATEWAY_V6: &str = "fe80::ecee:eeff:feee:eeee";
const ROUTED_GATEWAY_V4: &str = "169.254.1.1";
/// `enum xdp_action` of the kernel.
const XDP_PASS: i32 = 2;
/// Room for the outer headers of VXLAN.
const OVERLAY_MTU: u16 = 1450;

/// Builds router, outside client and nodes, without pods.
pub fn build(run: Run, config: Config) -> Result<Lab> {
    let router = build_router(&run, &config)?;
    let outside = build_outside(&run, &router, &config)?;
    let mut nodes = Vec::new();
    for index in 0..config.nodes {
        nodes.push(build_node(&run, &router, &config, index)?);
    }
    for node in &nodes {
        join_others(node, &nodes, config.topology)?;
    }
    let manifests = Manifests::new(run.dir().join("manifests"))?;
    let source = vec!["--source".to_owned(), manifests.dir().display().to_string()];
    let lab = Lab { config, nodes, outside, router, manifests, source, pods: Vec::new(), run };
    lab.write_nodes()?;
    Ok(lab)
}

fn build_router(run: &Run, config: &Config) -> Result<Place> {
    let router = Place::make(run, "router", "router")?;
    router.sysctl(&[("net.ipv4.ip_forward", "1"), ("net.ipv6.conf.all.forwarding", "1")])?;
    router.ip_batch(
        "link add lan0 type bridge mcast_snooping 0\n\
         link set lan0 up\n\
         addr add 192.168.77.1/24 dev lan0\n\
         addr add fd00:77::1/64 dev lan0\n",
    )?;
    switch_offloads(&router, "lan0", config)?;
    Ok(router)
}

fn build_outside(run: &Run, router: &Place, config: &Config) -> Result<Place> {
    let outside = Place::make(run, "outside", "outside")?;
    router.ip_batch(&format!(
        "link add out0 type veth peer name eth0 netns {}\n\
         addr add 203.0.113.1/24 dev out0\n\
         addr add 2001:db8:113::1/64 dev out0\n\
         link set out0 up\n",
        outside.netns()
    ))?;
    outside.ip_batch(
        "addr add 203.0.113.2/24 dev eth0\n\
         addr add 2001:db8:113::2/64 dev eth0\n\
         link set eth0 up\n\
         route add default via 203.0.113.1\n\
         route add default via 2001:db8:113::1\n",
    )?;
    switch_offloads(&outside, "eth0", config)?;
    switch_offloads(router, "out0", config)?;
    Ok(outside)
}

/// A machine on the segment of the nodes, with the router as its gateway.
pub fn build_host(run: &Run, router: &Place, config: &Config, name: &str, host: u8) -> Result<(Place, [IpAddr; 2])> {
    let place = Place::make(run, name, name)?;
    let ips = join_segment(&place, router, config, name, host)?;
    Ok((place, ips))
}

/// Its end is called eth0, the router's end bears its name.
fn join_segment(place: &Place, router: &Place, config: &Config, name: &str, host: u8) -> Result<[IpAddr; 2]> {
    let (v4, v6) = (format!("192.168.77.{host}"), format!("fd00:77::{host}"));
    let port = format!("{name}0");
    router.ip_batch(&format!(
        "link add {port} type veth peer name eth0 netns {}\n\
         link set {port} master lan0 up\n",
        place.netns()
    ))?;
    place.ip_batch(&format!(
        "addr add {v4}/24 dev eth0\n\
         addr add {v6}/64 dev eth0\n\
         link set eth0 up\n\
         route add default via 192.168.77.1\n\
         route add default via fd00:77::1\n"
    ))?;
    switch_offloads(router, &port, config)?;
    switch_offloads(place, "eth0", config)?;
    Ok([v4.parse()?, v6.parse()?])
}

fn build_node(run: &Run, router: &Place, config: &Config, index: usize) -> Result<Node> {
    let name = format!("node-{}", char::from(b'a' + u8::try_from(index)?));
    let place = Place::make(run, &name, &name)?;
    place.sysctl(&[
        ("net.ipv4.ip_forward", "1"),
        ("net.ipv6.conf.all.forwarding", "1"),
        ("net.ipv6.conf.default.forwarding", "1"),
    ])?;
    if config.hostile {
        place.sysctl(&[("net.ipv4.conf.all.rp_filter", "1"), ("net.ipv4.conf.default.rp_filter", "1")])?;
    }
    let ips = join_segment(&place, router, config, &name, u8::try_from(index + 11)?)?;
    let port = format!("{name}0");
    router.features(&port, &["tx", "off"])?;
    if config.xdp_wires {
        let pin = run.bpffs(&port)?.join("pass");
        let pass = empty::load(empty::Kind::Xdp, XDP_PASS).context("cannot load an empty XDP program")?;
        bpf::pin(pass.as_fd(), &pin).context("cannot pin an empty XDP program")?;
        router.ip(&["link", "set", &port, "xdp", "pinned", &pin.to_string_lossy()])?;
    }
    if config.topology == Topology::Bridge {
        build_bridge(&place, index + 1, config)?;
        switch_offloads(&place, "cni0", config)?;
        switch_offloads(&place, "flannel.1", config)?;
    }
    if config.hostile {
        hostile::install(&place)?;
    }
    // Processes of the host and of pods are both below the node's cgroup, where the agent attaches.
    let bpffs = run.bpffs(&name)?;
    Ok(Node { place: place.with_cgroup(run, &format!("{name}/host"))?, ips, name, bpffs, agent: None, index, pods: 0 })
}

/// The bridge of the pods and the tunnel to other nodes, with the names that Flannel uses.
fn build_bridge(node: &Place, number: usize, config: &Config) -> Result<()> {
    let sums = if config.tunnel_sums { "udpcsum" } else { "" };
    node.ip_batch(&format!(
        "link add cni0 type bridge mcast_snooping 0\n\
         link set cni0 mtu {OVERLAY_MTU} up\n\
         addr add 10.244.{number}.1/24 dev cni0\n\
         addr add fd00:10:244:{number}::1/64 dev cni0\n\
         link add flannel.1 address {mac} mtu {OVERLAY_MTU} type vxlan id 1 dev eth0 dstport 8472 nolearning {sums}\n\
         addr add 10.244.{number}.0/32 dev flannel.1\n\
         addr add fd00:10:244:{number}::/128 dev flannel.1\n\
         link set flannel.1 up\n",
        mac = tunnel_mac(number),
    ))?;
    node.sysctl(&[("net.bridge.bridge-nf-call-iptables", "1"), ("net.bridge.bridge-nf-call-ip6tables", "1")])
}

fn tunnel_mac(number: usize) -> String {
    format!("02:77:00:00:00:{number:02x}")
}

/// Routes to the pods of the other nodes.
fn join_others(node: &Node, all: &[Node], topology: Topology) -> Result<()> {
    let mut lines = String::new();
    for other in all.iter().filter(|other| other.index != node.index) {
        let [v4, v6] = other.ips;
        let n = other.index + 1;
        lines += &match topology {
            Topology::Routed => {
                format!("route add 10.244.{n}.0/24 via {v4}\nroute add fd00:10:244:{n}::/64 via {v6}\n")
            }
            Topology::Bridge => {
                let mac = tunnel_mac(n);
                node.place.fdb(&mac, v4)?;
                format!(
                    "neigh add 10.244.{n}.0 lladdr {mac} dev flannel.1 nud permanent\n\
                     neigh add fd00:10:244:{n}:: lladdr {mac} dev flannel.1 nud permanent\n\
                     route add 10.244.{n}.0/24 via 10.244.{n}.0 dev flannel.1 onlink\n\
                     route add fd00:10:244:{n}::/64 via fd00:10:244:{n}:: dev flannel.1 onlink\n"
                )
            }
        };
    }
    node.place.ip_batch(&lines)
}

impl Place {
    fn fdb(&self, mac: &str, to: IpAddr) -> Result<()> {
        let mut command = std::process::Command::new("bridge");
        command.args(["-n", self.netns(), "fdb", "append", mac, "dev", "flannel.1", "dst", &to.to_string()]);
        super::tool::output(&mut command).map(drop)
    }
}

/// Connects a pod: `number` counts the pods of the node from 1 on. Returns its addresses and the node's device.
pub fn join_pod(node: &Node, pod: &Place, number: usize, config: &Config) -> Result<([IpAddr; 2], String)> {
    let n = node.index + 1;
    // .0 is the tunnel's address and .1 the bridge's; low numbers stay free.
    let host = number + 9;
    let (v4, v6) = (format!("10.244.{n}.{host}"), format!("fd00:10:244:{n}::{host}"));
    let device = match config.topology {
        Topology::Routed => {
            let device = format!("cali{number}");
            node.place.ip_batch(&format!(
                "link add {device} address {ROUTED_MAC} type veth peer name eth0 netns {}\n\
                 link set {device} up\n",
                pod.netns()
            ))?;
            node.place.sysctl(&[
                (&format!("net.ipv4.conf.{device}.proxy_arp"), "1"),
                (&format!("net.ipv4.neigh.{device}.proxy_delay"), "0"),
            ])?;
            pod.ip_batch(&format!(
                "addr add {v4}/32 dev eth0\n\
                 addr add {v6}/128 dev eth0\n\
                 link set eth0 up\n\
                 route add {ROUTED_GATEWAY_V4} dev eth0 scope link\n\
                 route add default via {ROUTED_GATEWAY_V4} dev eth0\n\
                 route add default via {ROUTED_GATEWAY_V6} dev eth0\n"
            ))?;
            node.place.ip_batch(&format!("route add {v4} dev {device}\nroute add {v6} dev {device}\n"))?;
            device
        }
        Topology::Bridge => {
            let device = format!("veth{number}");
            node.place.ip_batch(&format!(
                "link add {device} mtu {OVERLAY_MTU} type veth peer name eth0 mtu {OVERLAY_MTU} netns {}\n\
                 link set {device} master cni0 up\n\
                 link set {device} type bridge_slave hairpin on\n",
                pod.netns()
            ))?;
            pod.ip_batch(&format!(
                "addr add {v4}/24 dev eth0\n\
                 addr add {v6}/64 dev eth0\n\
                 link set eth0 up\n\
                 route add default via 10.244.{n}.1\n\
                 route add default via fd00:10:244:{n}::1\n"
            ))?;
            device
        }
    };
    switch_offloads(pod, "eth0", config)?;
    switch_offloads(&node.place, &device, config)?;
    Ok(([v4.parse()?, v6.parse()?], device))
}

fn switch_offloads(place: &Place, device: &str, config: &Config) -> Result<()> {
    if config.offloads {
        return Ok(());
    }
    place.features(device, &["tso", "off", "gso", "off", "gro", "off"])
}
