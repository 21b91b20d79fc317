//! ICMP errors through the real programs: of routers and of the ends themselves, both ways, with and without source
//! translation. Whoever gets one has to find in it what he has sent, to the byte, and nobody he does not know.
//! Needs CAP_BPF.

use svc_agent::datapath::Hook;
use svc_common::tables::Frontend;
use svc_common::verdict::Reason;
use svc_tests::packet::cast::{ACK, CASTS, CLUSTER_IP, Cast, NEXT, NODE_PORT, SYN, ended};
use svc_tests::packet::errors::{TROUBLES, Trouble, error, quotes};
use svc_tests::packet::{Ended, Frame, Kind, Node};

/// What both ends of a connection have sent and what the other has got of it.
struct Talk {
    node: Node,
    /// The client's packet as it was sent.
    request: Vec<u8>,
    /// The same as the backend got it.
    arrived: Ended,
    /// The backend's packet as it was sent.
    reply: Vec<u8>,
    /// The same as the client got it.
    answered: Ended,
}

/// A first packet and its answer, between devices; UDP, or TCP.
fn talk(cast: &Cast, client: &str, service: &str, rules: [u8; 3], backend: &str, kind: Kind) -> Talk {
    let mut node = Node::new();
    let (protocol, later) = if kind == SYN { (6, ACK) } else { (17, Kind::Udp) };
    let flags = if service == cast.node_port { Frontend::EXTERNAL } else { 0 };
    node.serve(1, service, protocol, rules, flags, &[backend]);
    let request = Frame::new(client, service, kind);
    let opened = node.ingress(&request);
    let arrived = node.egress(&opened);
    let reply = Frame::reply(&arrived.seen(), later);
    let back = node.ingress(&reply);
    let answered = node.egress(&back);
    assert_eq!(answered.seen().from.to_string(), service);
    Talk { node, request: request.bytes(), arrived, reply: reply.bytes(), answered }
}

impl Talk {
    /// An error comes in by a device and goes out by another.
    fn through(&mut self, error: &[u8]) -> (Ended, Ended) {
        let entered = self.node.run(Hook::TcIngress, error, 0, 0);
        assert_eq!(entered.verdict, NEXT);
        let left = self.node.egress(&entered);
        assert_eq!(left.verdict, NEXT);
        (entered, left)
    }
}

/// Kinds of connection: client, service, rules, backend.
fn kinds(cast: &Cast) -> [(String, &'static str, [u8; 3], String); 4] {
    [
        (cast.pod.into(), cast.service, CLUSTER_IP, cast.local.into()),
        (cast.pod.into(), cast.service, CLUSTER_IP, cast.remote.into()),
        (cast.outside.into(), cast.node_port, NODE_PORT, cast.remote.into()),
        // Hairpin.
        (cast.pod.into(), cast.service, CLUSTER_IP, cast.own()),
    ]
}

#[test]
fn a_client_hears_of_its_own_packet() {
    for cast in CASTS {
        for (client, service, rules, backend) in kinds(&cast) {
            for kind in [Kind::Udp, SYN] {
                let mut talk = talk(&cast, &client, service, rules, &backend, kind);
                for trouble in TROUBLES {
                    let more = talk.arrived.bytes.len() - if cast.is_v4() { 34 } else { 54 };
                    for quoted in [8, more] {
                        // A router on the way, or the backend itself.
                        let own = trouble == Trouble::PortUnreachable;
                        let from = talk.arrived.seen().to.ip().to_string();
                        let from = if own { from.as_str() } else { cast.router };
                        let (_, left) = talk.through(&error(trouble, from, &talk.arrived.bytes, quoted));
                        assert_eq!(left.reasons, [Reason::Translated]);
                        let (seen, request) = (left.seen(), Frame::new(&client, service, kind));
                        assert_eq!(seen.to.ip(), request.from.ip());
                        quotes(&left, &talk.request);
                        if own {
                            assert_eq!(seen.from.ip(), request.to.ip(), "the backend is nobody that the client knows");
                        } else {
                            assert_eq!(seen.from.ip().to_string(), cast.router);
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn a_backend_hears_of_its_own_packet() {
    for cast in CASTS {
        for (client, service, rules, backend) in kinds(&cast) {
            for kind in [Kind::Udp, SYN] {
                let mut talk = talk(&cast, &client, service, rules, &backend, kind);
                for trouble in TROUBLES {
                    let own = trouble == Trouble::PortUnreachable;
                    let from = talk.answered.seen().to.ip().to_string();
                    let from = if own { from.as_str() } else { cast.router };
                    let (entered, left) = talk.through(&error(trouble, from, &talk.answered.bytes, 8));
                    assert_eq!(entered.reasons, [Reason::Translated]);
                    let seen = left.seen();
                    let backend = backend.parse::<std::net::SocketAddr>().expect("address");
                    assert_eq!(seen.to.ip(), backend.ip());
                    assert!(!left.is_marked());
                    quotes(&left, &talk.reply);
                    // Whom the backend knows: the client, or this node.
                    let known = talk.arrived.seen().from.ip().to_string();
                    let expected = if own { known.as_str() } else { cast.router };
                    assert_eq!(seen.from.ip().to_string(), expected);
                }
            }
        }
    }
}

#[test]
fn a_process_of_the_host_hears_of_its_own_packet() {
    for cast in CASTS {
        for rules in [[0; 3], CLUSTER_IP] {
            for trouble in TROUBLES {
                let mut node = Node::new();
                node.serve(1, cast.service, 17, rules, 0, &[cast.remote]);
                let own = if cast.is_v4() { "192.0.2.1:40000" } else { "[2001:db8::1]:40000" };
                let request = Frame::new(own, cast.service, Kind::Udp).bytes();
                // Chosen where it leaves; sent on, it passes the hook once more.
                let opened = node.run(Hook::TcEgress, &request, 0, 0);
                assert_eq!(opened.reasons, [Reason::Opened]);
                let left = node.run(Hook::TcEgress, &opened.bytes, opened.mark, 0);
                assert_eq!(left.seen().to.to_string(), cast.remote);
                let from = if trouble == Trouble::PortUnreachable {
                    left.seen().to.ip().to_string()
                } else {
                    cast.router.to_owned()
                };
                let heard = node.run(Hook::TcIngress, &error(trouble, &from, &left.bytes, 8), 0, 0);
                ended(&heard, NEXT, Reason::Translated);
                let seen = heard.seen();
                assert_eq!(seen.to.ip().to_string(), cast.node);
                quotes(&heard, &request);
                let expected = cast.service.parse::<std::net::SocketAddr>().expect("address").ip().to_string();
                assert_eq!(seen.from.ip().to_string(), if from == cast.router { from.clone() } else { expected });
            }
        }
    }
}

#[test]
fn errors_about_nothing_known_pass_as_they_are() {
    for cast in CASTS {
        let mut node = Node::new();
        node.serve(1, cast.service, 17, CLUSTER_IP, 0, &[cast.local]);
        let stranger = Frame::new(cast.pod, cast.outside, Kind::Udp).bytes();
        for trouble in TROUBLES {
            let bytes = error(trouble, cast.router, &stranger, 8);
            for hook in [Hook::TcIngress, Hook::TcEgress] {
                let passed = node.run(hook, &bytes, 0, 1);
                ended(&passed, NEXT, Reason::IcmpUnrelated);
                assert_eq!(passed.bytes, bytes);
            }
        }
    }
}
