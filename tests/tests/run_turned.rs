//! The external fast path: what comes from outside for another node is turned around, by XDP where it can and by TC
//! where XDP cannot. Real programs, real routes and neighbours, every checksum verified. Needs CAP_BPF and CAP_NET_ADMIN.

use std::net::SocketAddr;

use svc_agent::datapath::Hook;
use svc_common::tables::{Frontend, Rule, SlotRange, device};
use svc_common::verdict::Reason;
use svc_tests::packet::{
    Ended, Frame, GATEWAY_MAC, Kind, NODE_MAC, Node, OTHER_MAC, Seen, Wires, quoted, together, too_big,
};

const PASS: i32 = 2;
const TX: i32 = 3;
const XDP_REDIRECT: i32 = 4;
const NEXT: i32 = -1;
const SHOT: i32 = 2;
const REDIRECT: i32 = 7;
const SYN: Kind = Kind::Tcp(2);
const ACK: Kind = Kind::Tcp(16);
/// NodePort with policy Cluster: everybody is translated.
const NODE_PORT: [u8; 3] = [Rule::SNAT; 3];

/// The same actors in both families. Backends are named after the device that leads to them, see [`Wires`].
struct Cast {
    node_port: &'static str,
    outside: &'static str,
    router: &'static str,
    local: &'static str,
    eth0: &'static str,
    eth1: &'static str,
    over0: &'static str,
    unknown: &'static str,
    /// Addresses of eth0, eth1 and over0.
    nodes: [&'static str; 3],
}

const CASTS: [Cast; 2] = [
    Cast {
        node_port: "192.0.2.1:30080",
        outside: "203.0.113.9:50000",
        router: "198.18.0.1",
        local: "10.1.0.20:8080",
        eth0: "10.2.0.20:8080",
        eth1: "10.3.0.20:8080",
        over0: "10.4.0.20:8080",
        unknown: "10.5.0.20:8080",
        nodes: ["192.0.2.1", "198.51.100.1", "10.1.0.0"],
    },
    Cast {
        node_port: "[2001:db8::1]:30080",
        outside: "[2001:db8:9::9]:50000",
        router: "2001:db8:77::1",
        local: "[fd01::20]:8080",
        eth0: "[fd02::20]:8080",
        eth1: "[fd03::20]:8080",
        over0: "[fd04::20]:8080",
        unknown: "[fd05::20]:8080",
        nodes: ["2001:db8::1", "2001:db8:1::1", "fd01::"],
    },
];

const PROTOCOLS: [(u8, Kind, Kind); 2] = [(6, SYN, ACK), (17, Kind::Udp, Kind::Udp)];

/// Runs a test for both families, each with fresh tables, on wires of its own.
fn each(test: impl Fn(&Wires, &mut Node, &Cast)) {
    let wires = Wires::new();
    for cast in &CASTS {
        let mut node = Node::new();
        wires.connect(&mut node);
        test(&wires, &mut node, cast);
    }
}

fn serve(node: &mut Node, cast: &Cast, protocol: u8, backend: &str) {
    node.serve(1, cast.node_port, protocol, NODE_PORT, Frontend::EXTERNAL, &[backend]);
}

#[track_caller]
fn ended(ended: &Ended, verdict: i32, reason: Reason) {
    assert_eq!((ended.verdict, ended.reasons.as_slice()), (verdict, [reason].as_slice()));
}

#[track_caller]
fn goes(ended: &Ended, from: &str, to: &str) {
    let seen = ended.seen();
    assert_eq!((seen.from.to_string().as_str(), seen.to.to_string().as_str()), (from, to), "{seen}");
}

/// A packet to the backend, from a translated source at `node`.
#[track_caller]
fn reaches(ended: &Ended, node: &str, backend: &str) -> SocketAddr {
    let seen = ended.seen();
    assert_eq!((seen.from.ip().to_string().as_str(), seen.to.to_string().as_str()), (node, backend), "{seen}");
    assert!((20_000..30_000).contains(&seen.from.port()), "{seen}");
    assert_eq!(seen.hops, 63, "one hop less");
    seen.from
}

#[track_caller]
fn link(ended: &Ended, to: [u8; 6]) {
    assert_eq!((&ended.bytes[..6], &ended.bytes[6..12]), (&to[..], &NODE_MAC[..]), "link addresses");
}

/// Everything behind the link addresses.
fn packet(ended: &Ended) -> &[u8] {
    &ended.bytes[12..]
}

#[test]
fn xdp_turns_requests_and_replies_around_from_the_first_packet_on() {
    each(|_, node, cast| {
        for (protocol, first, later) in PROTOCOLS {
            serve(node, cast, protocol, cast.eth0);
            let opened = node.xdp(&Frame::new(cast.outside, cast.node_port, first));
            ended(&opened, TX, Reason::TurnedAround);
            link(&opened, OTHER_MAC);
            let source = reaches(&opened, cast.nodes[0], cast.eth0);

            let reply = node.xdp(&Frame::reply(&opened.seen(), later));
            ended(&reply, TX, Reason::TurnedAround);
            link(&reply, GATEWAY_MAC);
            goes(&reply, cast.node_port, cast.outside);
            assert_eq!(reply.seen().hops, 63);

            node.withdraw(cast.node_port, protocol);
            let more = node.xdp(&Frame::new(cast.outside, cast.node_port, later));
            ended(&more, TX, Reason::TurnedAround);
            assert_eq!(reaches(&more, cast.nodes[0], cast.eth0), source);
        }
    });
}

/// Where there is no XDP, TC does all of it; and whoever has begun, the other goes on, to the same bytes.
#[test]
fn xdp_and_tc_take_each_others_connections_over() {
    for by_xdp in [true, false] {
        each(|_, node, cast| {
            for (protocol, first, later) in PROTOCOLS {
                serve(node, cast, protocol, cast.eth0);
                let frame = Frame::new(cast.outside, cast.node_port, first);
                let opened = if by_xdp { node.xdp(&frame) } else { node.ingress(&frame) };
                ended(&opened, if by_xdp { TX } else { REDIRECT }, Reason::TurnedAround);
                let source = reaches(&opened, cast.nodes[0], cast.eth0);
                assert!(!opened.is_marked());
                // The egress program of the device sees what TC sends on, and lets it be.
                ended(&node.egress(&opened), NEXT, Reason::Transit);

                let request = Frame::new(cast.outside, cast.node_port, later);
                let (xdp, tc) = (node.xdp(&request), node.ingress(&request));
                ended(&xdp, TX, Reason::TurnedAround);
                ended(&tc, REDIRECT, Reason::TurnedAround);
                assert_eq!(reaches(&tc, cast.nodes[0], cast.eth0), source);
                assert_eq!(packet(&xdp), packet(&tc));

                let reply = Frame::reply(&opened.seen(), later);
                let (xdp, tc) = (node.xdp(&reply), node.ingress(&reply));
                ended(&xdp, TX, Reason::TurnedAround);
                ended(&tc, REDIRECT, Reason::TurnedAround);
                goes(&tc, cast.node_port, cast.outside);
                assert_eq!(packet(&xdp), packet(&tc));
                ended(&node.egress(&tc), NEXT, Reason::Transit);
                node.withdraw(cast.node_port, protocol);
            }
        });
    }
}

#[test]
fn between_uplinks_frames_are_redirected() {
    each(|wires, node, cast| {
        serve(node, cast, 17, cast.eth1);
        let opened = node.xdp(&Frame::new(cast.outside, cast.node_port, Kind::Udp));
        ended(&opened, XDP_REDIRECT, Reason::TurnedAround);
        link(&opened, OTHER_MAC);
        // The backend sees the address of the device by which it is reached.
        reaches(&opened, cast.nodes[1], cast.eth1);
        node.arrive_by(wires.eth1);
        let reply = node.xdp(&Frame::reply(&opened.seen(), Kind::Udp));
        ended(&reply, XDP_REDIRECT, Reason::TurnedAround);
        link(&reply, GATEWAY_MAC);
        goes(&reply, cast.node_port, cast.outside);

        // Without a program in its driver nobody knows whether the other device could send it.
        node.arrive_by(wires.eth0);
        wires.declare(node, wires.eth1, device::UPLINK | device::OUTWARD | device::TURN, ["198.51.100.1", "fd01::"]);
        let request = Frame::new(cast.outside, cast.node_port, Kind::Udp);
        let left = node.xdp(&request);
        ended(&left, PASS, Reason::LeftToStack);
        assert_eq!(left.bytes, request.bytes());
        ended(&node.ingress(&request), REDIRECT, Reason::TurnedAround);
    });
}

#[test]
fn through_a_tunnel_tc_turns_around_what_xdp_has_chosen() {
    each(|wires, node, cast| {
        for (protocol, first, later) in PROTOCOLS {
            serve(node, cast, protocol, cast.over0);
            let frame = Frame::new(cast.outside, cast.node_port, first);
            let left = node.xdp(&frame);
            ended(&left, PASS, Reason::LeftToStack);
            assert_eq!(left.bytes, frame.bytes(), "as it came");
            let opened = node.ingress(&frame);
            ended(&opened, REDIRECT, Reason::TurnedAround);
            reaches(&opened, cast.nodes[2], cast.over0);
            node.arrive_by(wires.over0);
            let reply = node.ingress(&Frame::reply(&opened.seen(), later));
            ended(&reply, REDIRECT, Reason::TurnedAround);
            goes(&reply, cast.node_port, cast.outside);
            node.arrive_by(wires.eth0);
            node.withdraw(cast.node_port, protocol);
        }
    });
}

/// What does not fit is the stack's, which says so to the sender; both hooks then translate as they always do.
#[test]
fn what_is_too_big_for_the_way_goes_through_the_stack() {
    each(|_, node, cast| {
        serve(node, cast, 6, cast.over0);
        ended(&node.ingress(&Frame::new(cast.outside, cast.node_port, SYN)), REDIRECT, Reason::TurnedAround);
        let mut big = Frame::new(cast.outside, cast.node_port, ACK);
        big.payload = vec![7; 1400];
        let plain = node.ingress(&big);
        ended(&plain, NEXT, Reason::Translated);
        goes(&plain, cast.outside, cast.over0);
        assert!(plain.is_marked());
        let left = node.egress(&plain);
        ended(&left, NEXT, Reason::Translated);
        assert_eq!(left.seen().from.ip().to_string(), cast.nodes[2]);

        // A packet that stands for several is as big as one of them.
        let several = node.run_segments(Hook::TcIngress, &big.bytes(), 0, 0, 700);
        ended(&several, REDIRECT, Reason::TurnedAround);
        let several = node.run_segments(Hook::TcIngress, &big.bytes(), 0, 0, 1390);
        ended(&several, NEXT, Reason::Translated);
    });
}

#[test]
fn a_backend_of_this_node_is_passed_on() {
    each(|_, node, cast| {
        for (protocol, first, later) in PROTOCOLS {
            serve(node, cast, protocol, cast.local);
            let frame = Frame::new(cast.outside, cast.node_port, first);
            let left = node.xdp(&frame);
            ended(&left, PASS, Reason::LeftToStack);
            assert_eq!(left.bytes, frame.bytes());
            let passed = node.ingress(&frame);
            // The choice was XDP's.
            ended(&passed, NEXT, Reason::Translated);
            goes(&passed, cast.outside, cast.local);
            assert!(passed.is_marked());
            let out = node.egress(&passed);
            let reply = node.ingress(&Frame::reply(&out.seen(), later));
            ended(&reply, NEXT, Reason::Translated);
            goes(&reply, cast.local, cast.outside);
            node.withdraw(cast.node_port, protocol);
        }
    });
}

#[test]
fn the_end_of_life_and_tags_are_left_to_the_stack() {
    each(|_, node, cast| {
        serve(node, cast, 6, cast.eth0);
        node.xdp(&Frame::new(cast.outside, cast.node_port, SYN));
        let last = Frame { hops: 1, ..Frame::new(cast.outside, cast.node_port, ACK) };
        let tagged = Frame { tags: 1, ..Frame::new(cast.outside, cast.node_port, ACK) };
        for (frame, hops) in [(last, 1), (tagged, 64)] {
            let left = node.xdp(&frame);
            ended(&left, PASS, Reason::LeftToStack);
            assert_eq!(left.bytes, frame.bytes());
            let plain = node.ingress(&frame);
            ended(&plain, NEXT, Reason::Translated);
            goes(&plain, cast.outside, cast.eth0);
            assert_eq!(plain.seen().hops, hops);
        }
    });
}

#[test]
fn options_and_extension_headers_are_no_hindrance() {
    each(|_, node, cast| {
        serve(node, cast, 17, cast.eth0);
        let frame = Frame { options: 8, ..Frame::new(cast.outside, cast.node_port, Kind::Udp) };
        let opened = node.ingress(&frame);
        ended(&opened, REDIRECT, Reason::TurnedAround);
        reaches(&opened, cast.nodes[0], cast.eth0);
    });
}

#[test]
fn fragments_are_turned_around_by_tc() {
    each(|_, node, cast| {
        serve(node, cast, 17, cast.eth0);
        let opened = node.xdp(&Frame::new(cast.outside, cast.node_port, Kind::Udp));
        let mut request = Frame::new(cast.outside, cast.node_port, Kind::Udp);
        request.payload = (0..64).collect();
        let mut reply = Frame::reply(&opened.seen(), Kind::Udp);
        reply.payload.clone_from(&request.payload);
        let source = opened.seen().from.to_string();
        for (frame, from, to) in [(request, source.as_str(), cast.eth0), (reply, cast.node_port, cast.outside)] {
            let turn = |bytes: Vec<u8>| {
                let left = node.run(Hook::XdpUplink, &bytes, 0, 0);
                ended(&left, PASS, Reason::LeftToStack);
                let turned = node.run(Hook::TcIngress, &bytes, 0, 0);
                ended(&turned, REDIRECT, Reason::TurnedAround);
                turned.bytes
            };
            let turned: Vec<_> = frame.pieces(0x5c5c, 24).into_iter().map(turn).collect();
            let seen = Seen::read(&together(&turned));
            assert_eq!((seen.from.to_string().as_str(), seen.to.to_string().as_str()), (from, to), "{seen}");
            assert_eq!(seen.payload, frame.payload);
        }
    });
}

/// Connection tracking of the stack knows nothing of such a connection and would take an error about it for forged.
#[test]
fn errors_about_such_connections_are_turned_around_as_well() {
    each(|_, node, cast| {
        let backend: SocketAddr = cast.eth0.parse().expect("address");
        let client: SocketAddr = cast.outside.parse().expect("address");
        let service: SocketAddr = cast.node_port.parse().expect("address");
        for (protocol, first, later) in PROTOCOLS {
            serve(node, cast, protocol, cast.eth0);
            let opened = node.xdp(&Frame::new(cast.outside, cast.node_port, first));
            let source = opened.seen().from;
            let reply = node.xdp(&Frame::reply(&opened.seen(), later));

            // A router beyond the node, and the backend itself, about what the node has sent on.
            for (says, shown) in
                [(cast.router, cast.router.to_owned()), (&backend.ip().to_string(), service.ip().to_string())]
            {
                let bytes = too_big(says, &opened);
                let left = node.run(Hook::XdpUplink, &bytes, 0, 0);
                ended(&left, PASS, Reason::LeftToStack);
                let error = node.run(Hook::TcIngress, &bytes, 0, 0);
                ended(&error, REDIRECT, Reason::Translated);
                let seen = error.seen();
                assert_eq!((seen.from.ip().to_string(), seen.to.ip(), seen.hops), (shown, client.ip(), 59));
                assert_eq!(quoted(&error), (client, service));
            }
            // A router on the way to the client, about the reply.
            let error = node.run(Hook::TcIngress, &too_big(cast.router, &reply), 0, 0);
            ended(&error, REDIRECT, Reason::Translated);
            assert_eq!(
                (error.seen().from.ip().to_string().as_str(), error.seen().to.ip()),
                (cast.router, backend.ip())
            );
            assert_eq!(quoted(&error), (backend, source));
            assert!(!error.is_marked());
            node.withdraw(cast.node_port, protocol);
        }
    });
}

#[test]
fn an_unknown_neighbour_is_found_by_tc() {
    each(|_, node, cast| {
        serve(node, cast, 6, cast.unknown);
        let frame = Frame::new(cast.outside, cast.node_port, SYN);
        let left = node.xdp(&frame);
        ended(&left, PASS, Reason::NoNeighbour);
        let turned = node.ingress(&frame);
        ended(&turned, REDIRECT, Reason::TurnedAround);
        reaches(&turned, cast.nodes[0], cast.unknown);
    });
}

#[test]
fn nothing_is_turned_where_it_is_not_asked_for() {
    each(|wires, node, cast| {
        wires.declare(node, wires.eth0, device::UPLINK | device::OUTWARD, ["192.0.2.1", "2001:db8::1"]);
        for (protocol, first, _) in PROTOCOLS {
            serve(node, cast, protocol, cast.eth0);
            let opened = node.ingress(&Frame::new(cast.outside, cast.node_port, first));
            ended(&opened, NEXT, Reason::Opened);
            goes(&opened, cast.outside, cast.eth0);
            assert!(opened.is_marked());
            node.withdraw(cast.node_port, protocol);
        }
        let client = |number: u16| cast.outside.replace("50000", &(50_000 + number).to_string());
        // Nor what leads to somebody on this node, whoever says that he is elsewhere.
        wires.connect(node);
        wires.declare(node, wires.eth1, device::XDP, ["198.51.100.1", "2001:db8:1::1"]);
        serve(node, cast, 17, cast.eth1);
        let frame = Frame::new(&client(1), cast.node_port, Kind::Udp);
        ended(&node.xdp(&frame), PASS, Reason::LeftToStack);
        let plain = node.ingress(&frame);
        ended(&plain, NEXT, Reason::Translated);
        goes(&plain, &client(1), cast.eth1);
        node.withdraw(cast.node_port, 17);
        // Nor what was sent to another host, and is only overheard.
        serve(node, cast, 6, cast.eth0);
        let mut bytes = Frame::new(&client(2), cast.node_port, SYN).bytes();
        bytes[5] ^= 0x40;
        let overheard = node.run(Hook::TcIngress, &bytes, 0, 0);
        ended(&overheard, NEXT, Reason::Opened);
        node.withdraw(cast.node_port, 6);
        // Nor what is for nobody outside.
        node.serve(2, cast.node_port, 6, NODE_PORT, 0, &[cast.eth0]);
        ended(&node.ingress(&Frame::new(&client(3), cast.node_port, SYN)), NEXT, Reason::Opened);
    });
}

/// Policies are the same at both hooks: XDP turns nothing around that TC would refuse.
#[test]
fn policies_hold() {
    each(|_, node, cast| {
        let remote = SlotRange { base: 0, len: 1 };
        // Traffic policy Local, and the only endpoint is elsewhere.
        node.serve(1, cast.node_port, 6, NODE_PORT, Frontend::EXTERNAL, &[cast.eth0]);
        let local = Frontend {
            service: 1,
            flags: Frontend::EXTERNAL,
            cluster: remote,
            rules: [Rule(Rule::SNAT), Rule(Rule::SNAT), Rule(Rule::LOCAL | Rule::DROP)],
            ..Frontend::default()
        };
        // A source range that the client is not in.
        let narrow = Frontend {
            service: 1,
            flags: Frontend::EXTERNAL | Frontend::SOURCE_RANGES,
            cluster: remote,
            rules: NODE_PORT.map(Rule),
            ..Frontend::default()
        };
        for (frontend, reason) in [(local, Reason::NoLocalEndpoint), (narrow, Reason::SourceRange)] {
            node.put(cast.node_port, 6, &frontend);
            let frame = Frame::new(cast.outside, cast.node_port, SYN);
            ended(&node.xdp(&frame), PASS, Reason::LeftToStack);
            ended(&node.ingress(&frame), SHOT, reason);
        }
    });
}
