//! Every reason of the table is reached through the real programs, in both families. A new row does not compile here
//! until it has a case.
//!
//! In a namespace of its own, where XDP finds routes. Needs CAP_BPF, CAP_NET_ADMIN and, for a table of one entry, a bpffs.

use std::os::fd::AsFd as _;
use std::path::Path;

use anyhow::{Result, ensure};
use svc_agent::datapath::bpf::{self, MapShape};
use svc_agent::datapath::{Globals, Hook, Maps, Object, Sizes, maps};
use svc_common::tables::{Frontend, MAPS, Rule, SlotRange, flow, name};
use svc_common::verdict::Reason;
use svc_tests::lab::run::Run;
use svc_tests::packet::cast::{ACK, CASTS, CLUSTER_IP, Cast, NODE_PORT, SYN};
use svc_tests::packet::errors::{Trouble, error};
use svc_tests::packet::{Ended, Frame, HOOKS, Kind, Node, Wires};

/// What shows a reason.
enum Case {
    /// The packet that this does to a fresh node ends with it.
    Packet(fn(&mut Node, &Cast) -> Ended),
    /// The same on a node whose flow tables take one entry.
    Cramped(fn(&mut Node, &Cast) -> Ended),
    /// No packet can: why not, and what shows it then.
    Never(&'static str),
}

/// The case of each reason.
fn case(reason: Reason) -> Case {
    use Case::{Cramped, Never, Packet};
    match reason {
        Reason::Translated => Packet(|node, cast| {
            serve(node, cast);
            node.ingress(&Frame::new(cast.pod, cast.service, SYN));
            node.ingress(&Frame::new(cast.pod, cast.service, ACK))
        }),
        Reason::Opened => Packet(|node, cast| {
            serve(node, cast);
            node.ingress(&Frame::new(cast.pod, cast.service, SYN))
        }),
        Reason::TurnedAround => Packet(|node, cast| {
            node.serve(1, cast.node_port, 6, NODE_PORT, Frontend::EXTERNAL, &[cast.remote]);
            node.xdp(&Frame::new(cast.outside, cast.node_port, SYN))
        }),
        Reason::NotService => Packet(|node, cast| node.ingress(&Frame::new(cast.pod, cast.outside, SYN))),
        Reason::NotIp => Packet(|node, cast| {
            let mut bytes = Frame::new(cast.pod, cast.service, SYN).bytes();
            bytes[12..14].copy_from_slice(&[0x08, 0x06]);
            node.run(Hook::TcIngress, &bytes, 0, 0)
        }),
        Reason::NotTransport => Packet(|node, cast| node.ingress(&Frame::new(cast.pod, cast.outside, Kind::Other(47)))),
        Reason::NotUnicast => Packet(|node, cast| {
            let group = if cast.is_v4() { "224.0.0.5:0" } else { "[ff02::5]:0" };
            node.ingress(&Frame::new(cast.pod, group, Kind::Other(89)))
        }),
        Reason::Malformed => Packet(|node, cast| {
            let mut bytes = Frame::new(cast.pod, cast.service, SYN).bytes();
            bytes[14] = 0x20;
            node.run(Hook::TcIngress, &bytes, 0, 0)
        }),
        Reason::TooManyExtensions => Packet(|node, cast| {
            let mut frame = Frame::new(cast.pod, cast.service, SYN);
            if cast.is_v4() {
                frame.tags = 3;
            } else {
                frame.chain = vec![60; 9];
            }
            node.ingress(&frame)
        }),
        Reason::OwnAddress => Packet(|node, cast| {
            let address = cast.node_port.replace(":30080", ":0");
            node.put(&address, 0, &Frontend { flags: Frontend::CLUSTER_IP, ..Frontend::default() });
            node.ingress(&Frame::new(cast.pod, cast.node_port, SYN))
        }),
        Reason::LeftToStack => Packet(|node, cast| node.xdp(&Frame::new(cast.outside, cast.node_port, SYN))),
        Reason::NoNeighbour => Packet(|node, cast| {
            let away = if cast.is_v4() { "10.5.0.20:8080" } else { "[fd05::20]:8080" };
            node.serve(1, cast.node_port, 6, NODE_PORT, Frontend::EXTERNAL, &[away]);
            node.xdp(&Frame::new(cast.outside, cast.node_port, SYN))
        }),
        Reason::IcmpUnrelated => Packet(|node, cast| {
            let about = Frame::new(cast.pod, cast.outside, Kind::Udp).bytes();
            node.run(Hook::TcIngress, &error(Trouble::TooBig, cast.router, &about, 8), 0, 0)
        }),
        Reason::FragmentPassed => Packet(|node, cast| {
            let piece = &Frame::new(cast.pod, cast.outside, Kind::Udp).pieces(1, 8)[1];
            node.run(Hook::TcIngress, piece, 0, 0)
        }),
        Reason::NoEndpoint => Packet(|node, cast| {
            node.put(cast.service, 6, &empty(CLUSTER_IP, 0));
            node.ingress(&Frame::new(cast.pod, cast.service, SYN))
        }),
        Reason::UnknownPort => Packet(|node, cast| {
            known(node, cast);
            node.ingress(&Frame::new(cast.pod, cast.service, SYN))
        }),
        Reason::NoConnection => Packet(|node, cast| {
            serve(node, cast);
            node.ingress(&Frame::new(cast.pod, cast.service, ACK))
        }),
        Reason::NoLocalEndpoint => Packet(|node, cast| {
            node.put(cast.service, 6, &empty([Rule::LOCAL | Rule::DROP; 3], 0));
            node.ingress(&Frame::new(cast.pod, cast.service, SYN))
        }),
        Reason::SourceRange => Packet(|node, cast| {
            node.put(cast.service, 6, &empty(CLUSTER_IP, Frontend::SOURCE_RANGES));
            node.ingress(&Frame::new(cast.pod, cast.service, SYN))
        }),
        Reason::UnallocatedAddress => Packet(|node, cast| {
            node.set_service_cidrs("10.96.0.0/16", "fd96::/64");
            node.ingress(&Frame::new(cast.pod, cast.service, SYN))
        }),
        Reason::NoSourcePort => Packet(|node, cast| {
            node.serve(1, cast.service, 6, NODE_PORT, 0, &[cast.local]);
            let mut settings = node.maps.settings.get(&0).expect("settings").expect("settings");
            (settings.snat_port_first, settings.snat_port_last) = (1, 0);
            node.maps.settings.set(&0, &settings).expect("settings");
            let opened = node.ingress(&Frame::new(cast.pod, cast.service, SYN));
            node.egress(&opened)
        }),
        Reason::TableFull => Cramped(|node, cast| {
            serve(node, cast);
            node.ingress(&Frame::new(cast.pod, cast.service, SYN))
        }),
        Reason::FragmentUnknown => Packet(|node, cast| {
            known(node, cast);
            let piece = &Frame::new(cast.pod, cast.service, Kind::Udp).pieces(1, 8)[1];
            node.run(Hook::TcIngress, piece, 0, 0)
        }),
        Reason::StaleBackend => Packet(|node, cast| {
            serve(node, cast);
            node.maps.slots.set(&0, &0).expect("slot");
            node.ingress(&Frame::new(cast.pod, cast.service, SYN))
        }),
        Reason::CannotRewrite => Packet(|node, cast| {
            // The CRC of SCTP covers pieces that are not here.
            node.serve(1, cast.service, 132, CLUSTER_IP, 0, &[cast.local]);
            let piece = &Frame::new(cast.pod, cast.service, Kind::Sctp(1)).pieces(1, 16)[0];
            node.run(Hook::TcIngress, piece, 0, 0)
        }),
        Reason::SocketTranslated => Packet(|node, cast| {
            serve(node, cast);
            node.call(&Frame::new(cast.pod, cast.service, SYN))
        }),
        Reason::SocketPassed => Packet(|node, cast| {
            node.put(cast.service, 6, &empty([Rule::LOCAL | Rule::DROP; 3], 0));
            node.call(&Frame::new(cast.pod, cast.service, SYN))
        }),
        Reason::SocketRefused => Packet(|node, cast| {
            node.put(cast.service, 6, &empty(CLUSTER_IP, 0));
            node.call(&Frame::new(cast.pod, cast.service, SYN))
        }),
        Reason::Transit => Packet(|node, cast| {
            serve(node, cast);
            let opened = node.ingress(&Frame::new(cast.pod, cast.service, SYN));
            node.egress(&opened)
        }),
        Reason::EntryLost => Packet(|node, cast| {
            node.serve(1, cast.service, 6, NODE_PORT, 0, &[cast.local]);
            let opened = node.ingress(&Frame::new(cast.pod, cast.service, SYN));
            forget(node, flow::MIDDLE);
            node.egress(&opened)
        }),
        Reason::FragmentHeld => Never("in trials nothing waits, since it leaves for good; lab_packets shows it"),
    }
}

/// A Service with one endpoint.
fn serve(node: &mut Node, cast: &Cast) {
    node.serve(1, cast.service, 6, CLUSTER_IP, 0, &[cast.local]);
}

/// The address of the Service is known as a cluster IP, and none of its ports.
fn known(node: &mut Node, cast: &Cast) {
    let address = cast.service.replace(":80", ":0");
    node.put(&address, 0, &Frontend { flags: Frontend::CLUSTER_IP, ..Frontend::default() });
}

/// A frontend without endpoints.
fn empty(rules: [u8; 3], flags: u32) -> Frontend {
    Frontend { service: 1, rules: rules.map(Rule), flags, cluster: SlotRange::default(), ..Frontend::default() }
}

fn forget(node: &Node, role: u8) {
    for (key, entry) in node.maps.flows_v4.dump().expect("flows") {
        assert!(entry.role != role || node.maps.flows_v4.remove(&key).expect("remove"));
    }
    for (key, entry) in node.maps.flows_v6.dump().expect("flows") {
        assert!(entry.role != role || node.maps.flows_v6.remove(&key).expect("remove"));
    }
}

#[test]
fn every_reason_is_reached_in_both_families() -> Result<()> {
    let run = Run::begin(false)?;
    let bpffs = run.bpffs("node")?;
    let wires = Wires::new();
    for cast in CASTS {
        for reason in Reason::ALL {
            let (mut node, act) = match case(*reason) {
                Case::Packet(act) => (Node::new(), act),
                Case::Cramped(act) => (cramped(&bpffs)?, act),
                Case::Never(why) => {
                    println!("{}: {why}", reason.label());
                    continue;
                }
            };
            wires.connect(&mut node);
            let ended = act(&mut node, &cast);
            assert_eq!(ended.reasons, [*reason], "{} with {}", reason.label(), cast.service);
        }
    }
    Ok(())
}

/// A node whose flow tables take one entry and evict nothing.
fn cramped(bpffs: &Path) -> Result<Node> {
    let sizes = Sizes { services: 100, endpoints: 1000, flows: 10_000 };
    let dir = maps::map_dir(bpffs);
    if dir.exists() {
        std::fs::remove_dir_all(&dir)?;
    }
    let tables = Maps::open_or_create(bpffs, sizes)?.maps;
    for shape in MAPS.iter().filter(|shape| [name::FLOWS_V4, name::FLOWS_V6].contains(&shape.name)) {
        let path = dir.join(shape.name);
        std::fs::remove_file(&path)?;
        let one = MapShape { kind: bpf::HASH, key: shape.key, value: shape.value, entries: 1, flags: 0 };
        bpf::pin(bpf::map_create(shape.name, one)?.as_fd(), &path)?;
    }
    let (programs, refused) = Object::on_pinned(&dir, &Globals::TRIAL)?.load(&HOOKS);
    ensure!(refused.is_empty(), "{refused:?}");
    Ok(Node::of(programs, tables))
}
