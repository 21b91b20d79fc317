//! A network namespace with routes and neighbours, for programs that ask for the way on.
//!
//! | device | addresses | leads to | by |
//! |---|---|---|---|
//! | eth0, an uplink | 192.0.2.1, 2001:db8::1 | everything else | .254, [`GATEWAY_MAC`] |
//! | | | pods 10.2.0.0/16, fd02::/16 | .2, [`OTHER_MAC`] |
//! | eth1, an uplink | 198.51.100.1, 2001:db8:1::1 | pods 10.3.0.0/16, fd03::/16 | .2, [`OTHER_MAC`] |
//! | over0, a tunnel, MTU 1400 | 10.1.0.0, fd01:: | pods 10.4.0.0/16, fd04::/16 | 10.4.0.0, [`OTHER_MAC`] |
//! | eth0 | | pods 10.5.0.0/16, fd05::/16 | .5, whose link address nobody knows |

use std::os::fd::{AsFd as _, OwnedFd};
use std::process::Command;

use nix::sched::{CloneFlags, unshare};
use svc_agent::datapath::bpf::{self, AttachType, Target};
use svc_agent::datapath::empty;
use svc_agent::datapath::links::XdpMode;
use svc_common::net::{V4, V6};
use svc_common::tables::{Device, device};

use super::Node;
use crate::lab::tool;

/// Link address of the devices, to which a [`super::Frame`] is sent.
pub const NODE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// Link address of the gateway to everywhere.
pub const GATEWAY_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xfe];
/// Link address of the other node.
pub const OTHER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// `enum xdp_action`.
const XDP_DROP: i32 = 1;
const XDP_PASS: i32 = 2;

/// The devices. They live as long as the thread that made them.
pub struct Wires {
    /// Index of the first uplink.
    pub eth0: u32,
    /// Index of the second uplink.
    pub eth1: u32,
    /// Index of the tunnel.
    pub over0: u32,
    /// A test run takes only devices that could receive frames for XDP: those with a program. Their far ends have one
    /// that drops, since a veth sends frames of XDP only to an end that has one.
    _programs: Vec<OwnedFd>,
}

impl Wires {
    /// Moves this thread into a namespace of its own and builds it.
    pub fn new() -> Self {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace of its own");
        let forwarding = ["net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"];
        tool::output(Command::new("sysctl").arg("-qw").args(forwarding)).expect("sysctl");
        let mut lines = String::from("link set lo up\n");
        for (name, mtu, v4, v6) in [
            ("eth0", 1500, "192.0.2.1/24", "2001:db8::1/64"),
            ("eth1", 1500, "198.51.100.1/24", "2001:db8:1::1/64"),
            ("over0", 1400, "10.1.0.0/32", "fd01::/128"),
        ] {
            lines += &format!(
                "link add {name} address 02:00:00:00:00:01 mtu {mtu} type veth peer name {name}-far\n\
                 link set {name} up\nlink set {name}-far up\n\
                 addr add {v4} dev {name}\naddr add {v6} dev {name} nodad\n"
            );
        }
        for (dev, hop4, hop6, mac) in [
            ("eth0", "192.0.2.254", "2001:db8::fe", "02:00:00:00:00:fe"),
            ("eth0", "192.0.2.2", "2001:db8::2", "02:00:00:00:00:02"),
            ("eth1", "198.51.100.2", "2001:db8:1::2", "02:00:00:00:00:02"),
            ("over0", "10.4.0.0", "fd04::", "02:00:00:00:00:02"),
        ] {
            for hop in [hop4, hop6] {
                lines += &format!("neigh add {hop} lladdr {mac} dev {dev} nud permanent\n");
            }
        }
        for (to, via) in [
            ("default", "192.0.2.254 dev eth0"),
            ("10.2.0.0/16", "192.0.2.2 dev eth0"),
            ("10.3.0.0/16", "198.51.100.2 dev eth1"),
            ("10.4.0.0/16", "10.4.0.0 dev over0 onlink"),
            ("10.5.0.0/16", "192.0.2.5 dev eth0"),
            ("default", "2001:db8::fe dev eth0"),
            ("fd02::/16", "2001:db8::2 dev eth0"),
            ("fd03::/16", "2001:db8:1::2 dev eth1"),
            ("fd04::/16", "fd04:: dev over0 onlink"),
            ("fd05::/16", "2001:db8::5 dev eth0"),
        ] {
            lines += &format!("route add {to} via {via}\n");
        }
        tool::output_with_input(Command::new("ip").args(["-batch", "-"]), &lines).expect("wires");
        let [eth0, eth1, over0] = ["eth0", "eth1", "over0"].map(index);
        let far = ["eth0-far", "eth1-far"].map(index);
        let ends = [(eth0, XDP_PASS), (eth1, XDP_PASS), (far[0], XDP_DROP), (far[1], XDP_DROP)];
        let programs = ends.map(|(index, action)| {
            let program = empty::load(empty::Kind::Xdp, action).expect("an empty program");
            bpf::link_create(program.as_fd(), Target::Device(index), AttachType::Xdp, XdpMode::Driver as u32)
                .expect("XDP on a veth")
        });
        Self { eth0, eth1, over0, _programs: programs.into() }
    }

    /// Makes the devices known to a node, and lets packets arrive by eth0.
    pub fn connect(&self, node: &mut Node) {
        const UPLINK: u32 = device::UPLINK | device::OUTWARD | device::TURN | device::XDP;
        self.declare(node, self.eth0, UPLINK, ["192.0.2.1", "2001:db8::1"]);
        self.declare(node, self.eth1, UPLINK, ["198.51.100.1", "2001:db8:1::1"]);
        self.declare(node, self.over0, device::OUTWARD, ["10.1.0.0", "fd01::"]);
        node.arrive_by(self.eth0);
    }

    /// Writes what the programs are told about a device.
    pub fn declare(&self, node: &Node, index: u32, flags: u32, [v4, v6]: [&str; 2]) {
        let entry = Device {
            flags,
            source_v4: V4::new(v4.parse().expect("address")),
            source_v6: V6::new(v6.parse().expect("address")),
        };
        node.maps.devices.set(&index, &entry).expect("device");
    }
}

impl Default for Wires {
    fn default() -> Self {
        Self::new()
    }
}

/// The index of a device of this thread's namespace.
fn index(name: &str) -> u32 {
    let said = tool::output(Command::new("ip").args(["-o", "link", "show", "dev", name])).expect("a device");
    said.split(':').next().and_then(|index| index.trim().parse().ok()).expect("an index")
}
