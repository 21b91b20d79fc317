//! The packet programs, hop by hop: the output of one hook is the input of the next, and the reply is walked back.
//! Every checksum of every packet is verified by code that shares nothing with the programs. Needs CAP_BPF.

use std::net::SocketAddr;

use svc_agent::datapath::Hook;
use svc_common::tables::{Frontend, Rule};
use svc_common::verdict::Reason;
use svc_tests::packet::cast::{ACK, CASTS, CLUSTER_IP, FIN, NEXT, NODE_PORT, REDIRECT, RST, SHOT, SYN, ended, goes};
use svc_tests::packet::{Frame, Kind, Node, quoted, too_big};

#[test]
fn a_pod_talks_to_a_cluster_ip_and_back() {
    for cast in CASTS {
        for (protocol, first, later) in [(6, SYN, ACK), (17, Kind::Udp, Kind::Udp)] {
            for (tags, options) in [(0, 0), (1, 0), (2, 8), (0, 16)] {
                let mut node = Node::new();
                node.serve(1, cast.service, protocol, CLUSTER_IP, 0, &[cast.local]);
                let dress = |mut frame: Frame| {
                    (frame.tags, frame.options) = (tags, options);
                    frame
                };
                let opened = node.ingress(&dress(Frame::new(cast.pod, cast.service, first)));
                ended(&opened, NEXT, Reason::Opened);
                goes(&opened, cast.pod, cast.local);
                assert!(!opened.is_marked());
                let passed = node.egress(&opened);
                ended(&passed, NEXT, Reason::Transit);
                assert_eq!(passed.bytes, opened.bytes, "untouched at the backend's boundary");

                let reply = node.ingress(&dress(Frame::reply(&passed.seen(), later)));
                ended(&reply, NEXT, Reason::Transit);
                let reply = node.egress(&reply);
                ended(&reply, NEXT, Reason::Translated);
                goes(&reply, cast.service, cast.pod);

                // What is established needs no Service any more.
                node.withdraw(cast.service, protocol);
                let more = node.ingress(&dress(Frame::new(cast.pod, cast.service, later)));
                ended(&more, NEXT, Reason::Translated);
                goes(&more, cast.pod, cast.local);
            }
        }
    }
}

#[test]
fn a_client_outside_is_translated_at_the_backends_boundary() {
    for cast in CASTS {
        let mut node = Node::new();
        node.serve(1, cast.node_port, 6, NODE_PORT, Frontend::EXTERNAL, &[cast.local]);
        let opened = node.ingress(&Frame::new(cast.outside, cast.node_port, SYN));
        ended(&opened, NEXT, Reason::Opened);
        goes(&opened, cast.outside, cast.local);
        assert!(opened.is_marked());
        let left = node.egress(&opened);
        ended(&left, NEXT, Reason::Translated);
        assert!(!left.is_marked());
        let seen = left.seen();
        assert_eq!(seen.from.ip().to_string(), cast.node);
        assert!((20_000..30_000).contains(&seen.from.port()), "{seen}");
        assert_eq!(seen.to.to_string(), cast.local);

        let reply = node.ingress(&Frame::reply(&seen, ACK));
        ended(&reply, NEXT, Reason::Translated);
        goes(&reply, cast.local, cast.outside);
        let reply = node.egress(&reply);
        ended(&reply, NEXT, Reason::Translated);
        goes(&reply, cast.node_port, cast.outside);

        // The second packet takes the same port.
        let again = node.ingress(&Frame::new(cast.outside, cast.node_port, ACK));
        ended(&again, NEXT, Reason::Translated);
        let again = node.egress(&again);
        assert_eq!(again.seen().from, seen.from);
    }
}

#[test]
fn a_pod_that_is_its_own_backend_sees_the_node() {
    for cast in CASTS {
        let mut node = Node::new();
        let own = cast.own();
        node.serve(1, cast.service, 6, CLUSTER_IP, 0, &[&own]);
        let opened = node.ingress(&Frame::new(cast.pod, cast.service, SYN));
        goes(&opened, cast.pod, &own);
        assert!(opened.is_marked());
        let left = node.egress(&opened);
        let seen = left.seen();
        assert_eq!(seen.from.ip().to_string(), cast.node);
        let reply = node.ingress(&Frame::reply(&seen, ACK));
        goes(&reply, &own, cast.pod);
        let reply = node.egress(&reply);
        goes(&reply, cast.service, cast.pod);
    }
}

#[test]
fn two_services_with_one_backend_do_not_mix_up_one_client_port() {
    for cast in CASTS {
        let mut node = Node::new();
        node.serve(1, cast.service, 17, CLUSTER_IP, 0, &[cast.local]);
        node.serve(2, cast.other_service, 17, CLUSTER_IP, 0, &[cast.local]);
        let one = node.ingress(&Frame::new(cast.pod, cast.service, Kind::Udp));
        let two = node.ingress(&Frame::new(cast.pod, cast.other_service, Kind::Udp));
        goes(&one, cast.pod, cast.local);
        let seen = two.seen();
        assert_eq!(seen.to.to_string(), cast.local);
        assert_eq!(seen.from.ip().to_string(), cast.pod_addr);
        assert!((20_000..30_000).contains(&seen.from.port()), "{seen}");
        for (request, service) in [(&one, cast.service), (&two, cast.other_service)] {
            let reply = node.ingress(&Frame::reply(&request.seen(), Kind::Udp));
            let reply = node.egress(&reply);
            goes(&reply, service, cast.pod);
        }
        let again = node.ingress(&Frame::new(cast.pod, cast.other_service, Kind::Udp));
        assert_eq!(again.seen(), seen);
    }
}

#[test]
fn a_syn_replaces_a_connection_that_is_over() {
    for cast in CASTS {
        let mut node = Node::new();
        node.serve(1, cast.service, 6, CLUSTER_IP, 0, &[cast.local]);
        let opened = node.ingress(&Frame::new(cast.pod, cast.service, SYN));
        // A SYN that comes again belongs to the connection that it has opened.
        let again = node.ingress(&Frame::new(cast.pod, cast.service, SYN));
        ended(&again, NEXT, Reason::Translated);
        for kind in [ACK, FIN] {
            let reply = node.ingress(&Frame::reply(&opened.seen(), kind));
            node.egress(&reply);
        }
        ended(&node.ingress(&Frame::new(cast.pod, cast.service, FIN)), NEXT, Reason::Translated);
        ended(&node.ingress(&Frame::new(cast.pod, cast.service, ACK)), NEXT, Reason::Translated);
        ended(&node.ingress(&Frame::new(cast.pod, cast.service, SYN)), NEXT, Reason::Opened);
        ended(&node.ingress(&Frame::new(cast.pod, cast.service, RST)), NEXT, Reason::Translated);
        ended(&node.ingress(&Frame::new(cast.pod, cast.service, SYN)), NEXT, Reason::Opened);
    }
}

#[test]
fn who_cannot_be_served_is_told() {
    for cast in CASTS {
        let mut node = Node::new();
        let empty = Frontend { rules: CLUSTER_IP.map(Rule), service: 1, ..Frontend::default() };
        node.put(cast.service, 6, &empty);
        node.put(cast.service, 17, &empty);
        let refused = node.ingress(&Frame::new(cast.pod, cast.service, SYN));
        ended(&refused, REDIRECT, Reason::NoEndpoint);
        goes(&refused, cast.service, cast.pod);
        assert_eq!(refused.seen().flags, 0x14, "RST and ACK");
        let refused = node.ingress(&Frame::new(cast.pod, cast.service, Kind::Udp));
        ended(&refused, REDIRECT, Reason::NoEndpoint);
        let seen = refused.seen();
        assert_eq!(
            (seen.from.ip(), seen.to.ip()),
            (
                cast.service.parse::<std::net::SocketAddr>().expect("address").ip(),
                cast.pod_addr.parse::<std::net::IpAddr>().expect("address")
            )
        );
        assert!(matches!((seen.protocol, seen.flags), (1, 3) | (58, 1)), "{seen}");
        // A segment of a connection that nobody knows.
        let refused = node.ingress(&Frame::new(cast.pod, cast.service, ACK));
        ended(&refused, REDIRECT, Reason::NoConnection);
        assert_eq!(refused.seen().flags, 4, "RST");
        // And nobody answers a reset.
        let silent = node.ingress(&Frame::new(cast.pod, cast.service, RST));
        ended(&silent, SHOT, Reason::NoConnection);
    }
}

#[test]
fn what_is_no_service_passes_untouched() {
    for cast in CASTS {
        let mut node = Node::new();
        node.serve(1, cast.service, 6, CLUSTER_IP, 0, &[cast.local]);
        let frame = Frame::new(cast.pod, cast.outside, SYN);
        let passed = node.ingress(&frame);
        ended(&passed, NEXT, Reason::NotService);
        assert_eq!(passed.bytes, frame.bytes());
        let out = node.egress(&passed);
        ended(&out, NEXT, Reason::NotService);
        assert_eq!(out.bytes, frame.bytes());
    }
}

#[test]
fn a_packet_cut_off_anywhere_does_no_harm() {
    for cast in CASTS {
        let mut node = Node::new();
        node.serve(1, cast.service, 6, CLUSTER_IP, 0, &[cast.local]);
        let whole = Frame::new(cast.pod, cast.service, SYN).bytes();
        // The kernel hands no program less than a network header.
        let header = 14 + if cast.is_v4() { 20 } else { 40 };
        for length in header..whole.len() {
            let ended = node.run(Hook::TcIngress, &whole[..length], 0, 1);
            assert_eq!(ended.verdict, NEXT, "cut off at {length}");
        }
    }
}

#[test]
fn udp_without_a_checksum_stays_so() {
    let cast = &CASTS[0];
    let mut node = Node::new();
    node.serve(1, cast.service, 17, CLUSTER_IP, 0, &[cast.local]);
    let opened = node.ingress(&Frame::new(cast.pod, cast.service, Kind::UdpBare));
    ended(&opened, NEXT, Reason::Opened);
    goes(&opened, cast.pod, cast.local);
    assert_eq!(opened.bytes[40..42], [0, 0], "no checksum");
}

#[test]
fn xdp_leaves_what_it_cannot_turn_around_as_it_came_with_all_that_tc_needs() {
    for cast in CASTS {
        let mut node = Node::new();
        node.serve(1, cast.node_port, 6, NODE_PORT, Frontend::EXTERNAL, &[cast.remote]);
        let frame = Frame::new(cast.outside, cast.node_port, SYN);
        // There is no route to anywhere in this namespace's loopback.
        let left = node.xdp(&frame);
        assert_eq!((left.verdict, &left.bytes), (2, &frame.bytes()), "XDP_PASS");
        let opened = node.ingress(&frame);
        ended(&opened, NEXT, Reason::Translated);
        assert!(opened.is_marked());
        let out = node.egress(&opened);
        assert_eq!(out.seen().from.ip().to_string(), cast.node);
        assert_eq!(out.seen().to.to_string(), cast.remote);
        let reply = node.ingress(&Frame::reply(&out.seen(), ACK));
        goes(&reply, cast.remote, cast.outside);
        let reply = node.egress(&reply);
        goes(&reply, cast.node_port, cast.outside);
    }
}

#[test]
fn an_error_on_the_way_to_the_backend_reaches_the_client_about_its_own_packet() {
    for cast in CASTS {
        for kind in [Kind::Udp, SYN] {
            let protocol = if kind == SYN { 6 } else { 17 };
            let router = cast.router;
            let mut node = Node::new();
            node.serve(1, cast.node_port, protocol, NODE_PORT, Frontend::EXTERNAL, &[cast.remote]);
            let opened = node.ingress(&Frame::new(cast.outside, cast.node_port, kind));
            let left = node.egress(&opened);
            // A router beyond the node has seen node -> backend.
            let error = node.run(Hook::TcIngress, &too_big(router, &left), 0, 1);
            ended(&error, NEXT, Reason::Translated);
            let client: SocketAddr = cast.outside.parse().expect("address");
            assert_eq!(error.seen().to.ip(), client.ip());
            assert_eq!(quoted(&error), (client, cast.remote.parse().expect("address")));
            let error = node.egress(&error);
            ended(&error, NEXT, Reason::Translated);
            assert_eq!(error.seen().from.ip().to_string(), router);
            assert_eq!(quoted(&error), (client, cast.node_port.parse().expect("address")));
        }
    }
}

#[test]
fn an_error_on_the_way_to_the_client_reaches_the_backend() {
    for cast in CASTS {
        let router = cast.router;
        let mut node = Node::new();
        node.serve(1, cast.node_port, 17, NODE_PORT, Frontend::EXTERNAL, &[cast.remote]);
        let opened = node.ingress(&Frame::new(cast.outside, cast.node_port, Kind::Udp));
        let left = node.egress(&opened);
        let reply = node.ingress(&Frame::reply(&left.seen(), Kind::Udp));
        let reply = node.egress(&reply);
        // A router beyond the node has seen service -> client.
        let error = node.run(Hook::TcIngress, &too_big(router, &reply), 0, 1);
        ended(&error, NEXT, Reason::Translated);
        assert!(error.is_marked());
        let error = node.egress(&error);
        ended(&error, NEXT, Reason::Translated);
        assert!(!error.is_marked());
        let backend: SocketAddr = cast.remote.parse().expect("address");
        assert_eq!(error.seen().to.ip(), backend.ip());
        assert_eq!(quoted(&error), (backend, left.seen().from));
    }
}
