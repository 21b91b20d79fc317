//! Packets beyond the plain ones, through the real programs: SCTP, extension headers, pieces, pings, broken headers.
//! Needs CAP_BPF.

use svc_agent::datapath::Hook;
use svc_common::tables::{Fragment, Frontend};
use svc_common::verdict::Reason;
use svc_tests::packet::cast::{ACK, CASTS, CLUSTER_IP, NEXT, NODE_PORT, REDIRECT, SHOT, SYN, ended, goes};
use svc_tests::packet::{Ended, Frame, Kind, Node, Seen, together};

/// Types of SCTP chunks.
const DATA: Kind = Kind::Sctp(0);
const INIT: Kind = Kind::Sctp(1);
const INIT_ACK: Kind = Kind::Sctp(2);
const ABORT: Kind = Kind::Sctp(6);
const SHUTDOWN: Kind = Kind::Sctp(7);
const SHUTDOWN_ACK: Kind = Kind::Sctp(8);

const SCTP: u8 = 132;

#[test]
fn an_sctp_association_with_other_ports_keeps_a_right_crc() {
    for cast in CASTS {
        let mut node = Node::new();
        node.serve(1, cast.node_port, SCTP, NODE_PORT, Frontend::EXTERNAL, &[cast.remote]);
        let unknown = node.ingress(&Frame::new(cast.outside, cast.node_port, DATA));
        ended(&unknown, REDIRECT, Reason::NoConnection);
        let opened = node.ingress(&Frame::new(cast.outside, cast.node_port, INIT));
        ended(&opened, NEXT, Reason::Opened);
        goes(&opened, cast.outside, cast.remote);
        let left = node.egress(&opened);
        ended(&left, NEXT, Reason::Translated);
        let seen = left.seen();
        assert_eq!(seen.from.ip().to_string(), cast.node);
        let reply = node.ingress(&Frame::reply(&seen, INIT_ACK));
        goes(&reply, cast.remote, cast.outside);
        let reply = node.egress(&reply);
        goes(&reply, cast.node_port, cast.outside);
        // The association goes on, and ends in good order; then the same ports begin another.
        for kind in [DATA, SHUTDOWN] {
            let sent = node.ingress(&Frame::new(cast.outside, cast.node_port, kind));
            ended(&sent, NEXT, Reason::Translated);
            assert_eq!(node.egress(&sent).seen().from, seen.from);
        }
        let reply = node.ingress(&Frame::reply(&seen, SHUTDOWN_ACK));
        ended(&node.egress(&reply), NEXT, Reason::Translated);
        ended(&node.ingress(&Frame::new(cast.outside, cast.node_port, INIT)), NEXT, Reason::Opened);
        ended(&node.ingress(&Frame::new(cast.outside, cast.node_port, ABORT)), NEXT, Reason::Translated);
        ended(&node.ingress(&Frame::new(cast.outside, cast.node_port, INIT)), NEXT, Reason::Opened);
    }
}

#[test]
fn an_sctp_crc_is_not_touched_where_ports_stay() {
    for cast in CASTS {
        let mut node = Node::new();
        let service = cast.service.replace(":80", ":8080");
        node.serve(1, &service, SCTP, CLUSTER_IP, 0, &[cast.local]);
        let frame = Frame::new(cast.pod, &service, INIT);
        let before = frame.bytes();
        let opened = node.ingress(&frame);
        goes(&opened, cast.pod, cast.local);
        let l4 = if cast.is_v4() { 34 } else { 54 };
        assert_eq!(opened.bytes[l4..], before[l4..], "only addresses change");
    }
}

#[test]
fn extension_headers_and_options_are_followed_at_every_hook() {
    let chains: [&[u8]; 6] = [&[0], &[60], &[43], &[44], &[51], &[0, 60, 43, 44, 51, 60]];
    let cast = CASTS[1];
    for chain in chains {
        for tags in [0, 1, 2] {
            let mut node = Node::new();
            node.serve(1, cast.node_port, 17, NODE_PORT, Frontend::EXTERNAL, &[cast.remote]);
            let dress = |mut frame: Frame| {
                (frame.tags, frame.chain) = (tags, chain.to_vec());
                frame
            };
            let opened = node.ingress(&dress(Frame::new(cast.outside, cast.node_port, Kind::Udp)));
            ended(&opened, NEXT, Reason::Opened);
            goes(&opened, cast.outside, cast.remote);
            let left = node.egress(&opened);
            ended(&left, NEXT, Reason::Translated);
            let reply = node.ingress(&dress(Frame::reply(&left.seen(), Kind::Udp)));
            goes(&reply, cast.remote, cast.outside);
            goes(&node.egress(&reply), cast.node_port, cast.outside);
        }
    }
    // Options of IPv4, to the last byte that there is room for.
    let cast = CASTS[0];
    for options in [4, 8, 40] {
        let mut node = Node::new();
        node.serve(1, cast.node_port, 6, NODE_PORT, Frontend::EXTERNAL, &[cast.remote]);
        let mut frame = Frame::new(cast.outside, cast.node_port, SYN);
        frame.options = options;
        let opened = node.ingress(&frame);
        goes(&opened, cast.outside, cast.remote);
        let left = node.egress(&opened);
        let mut reply = Frame::reply(&left.seen(), ACK);
        reply.options = options;
        let reply = node.ingress(&reply);
        goes(&node.egress(&reply), cast.node_port, cast.outside);
    }
}

#[test]
fn more_headers_than_are_followed_pass_as_they_are() {
    for cast in CASTS {
        let mut node = Node::new();
        node.serve(1, cast.service, 17, CLUSTER_IP, 0, &[cast.local]);
        let mut frame = Frame::new(cast.pod, cast.service, Kind::Udp);
        if cast.is_v4() {
            frame.tags = 3;
        } else {
            frame.chain = vec![60; 8];
            ended(&node.ingress(&frame), NEXT, Reason::Opened);
            frame.chain.push(60);
        }
        let passed = node.ingress(&frame);
        ended(&passed, NEXT, Reason::TooManyExtensions);
        assert_eq!(passed.bytes, frame.bytes());
    }
}

/// Bytes of a frame, and where they go.
type Changes = Vec<(usize, u8)>;

/// What is wrong with a TCP packet to a Service.
fn broken(v4: bool) -> Vec<(&'static str, Changes)> {
    let l4 = if v4 { 34 } else { 54 };
    let mut cases = vec![
        ("a TCP header of four words", vec![(l4 + 12, 4 << 4)]),
        ("version 5", vec![(14, 0x55)]),
        ("the end of the packet in the TCP header, and padding", length_field(v4, 19)),
        ("no transport header at all, and padding", length_field(v4, 0)),
        ("more bytes announced than there are", length_field(v4, 28)),
    ];
    if v4 {
        cases.push(("a header of four words", vec![(14, 0x44)]));
        cases.push(("a header longer than the packet", vec![(14, 0x4f), (17, 40)]));
        cases.push(("a total length shorter than the header", vec![(16, 0), (17, 19)]));
    }
    cases
}

/// The length field that says so many bytes follow the network header.
fn length_field(v4: bool, bytes: u8) -> Changes {
    if v4 {
        vec![(16, 0), (17, 20 + bytes)]
    } else if bytes == 0 {
        vec![(20, 60)]
    } else {
        vec![(18, 0), (19, bytes)]
    }
}

#[test]
fn headers_that_make_no_sense_pass_as_they_are() {
    for cast in CASTS {
        for hook in [Hook::TcIngress, Hook::TcEgress] {
            for (what, changes) in broken(cast.is_v4()) {
                let mut node = Node::new();
                node.serve(1, cast.service, 6, CLUSTER_IP, 0, &[cast.local]);
                let mut bytes = Frame::new(cast.pod, cast.service, SYN).bytes();
                for (at, value) in changes {
                    bytes[at] = value;
                }
                let passed = node.run(hook, &bytes, 0, u32::from(hook == Hook::TcIngress));
                assert_eq!((passed.verdict, &passed.reasons[..]), (NEXT, &[Reason::Malformed][..]), "{what}");
                assert_eq!(passed.bytes, bytes, "{what}");
            }
        }
    }
}

#[test]
fn a_ping_of_a_cluster_ip_is_refused_and_of_nobodys_address_dropped() {
    for cast in CASTS {
        let mut node = Node::new();
        node.serve(1, cast.service, 6, CLUSTER_IP, 0, &[cast.local]);
        let known = Frontend { flags: Frontend::CLUSTER_IP, ..Frontend::default() };
        let address = cast.service.replace(":80", ":0");
        node.put(&address, 0, &known);
        node.set_service_cidrs("10.96.0.0/16", "fd96::/64");
        let refused = node.ingress(&Frame::new(cast.pod, cast.service, Kind::Ping));
        ended(&refused, REDIRECT, Reason::UnknownPort);
        let seen = refused.seen();
        assert_eq!(seen.to.ip().to_string(), cast.pod_addr);
        assert!(matches!((seen.protocol, seen.flags), (1, 3) | (58, 1)), "{seen}");
        let dropped = node.ingress(&Frame::new(cast.pod, cast.other_service, Kind::Ping));
        ended(&dropped, SHOT, Reason::UnallocatedAddress);
        // A pod is pinged as ever.
        let frame = Frame::new(cast.pod, cast.local, Kind::Ping);
        let passed = node.ingress(&frame);
        ended(&passed, NEXT, Reason::NotTransport);
        assert_eq!(passed.bytes, frame.bytes());
    }
}

#[test]
fn a_checksum_that_comes_out_as_nothing_is_written_as_all_ones() {
    for cast in CASTS {
        let mut node = Node::new();
        node.serve(1, cast.service, 17, CLUSTER_IP, 0, &[cast.local]);
        let field = if cast.is_v4() { 40 } else { 60 };
        let mut frame = Frame::new(cast.pod, cast.service, Kind::Udp);
        frame.payload = vec![0, 0];
        let sum = |ended: &Ended| u16::from_be_bytes([ended.bytes[field], ended.bytes[field + 1]]);
        // The payload that holds what the checksum is without it leaves nothing.
        let without = sum(&node.ingress(&frame));
        frame.payload = without.to_be_bytes().to_vec();
        let after = node.ingress(&frame);
        goes(&after, cast.pod, cast.local);
        assert_eq!(sum(&after), 0xffff, "zero means none");
    }
}

/// All pieces of a datagram through a hook, in this order.
fn each(node: &mut Node, hook: Hook, pieces: &[Vec<u8>], mark: u32, order: &[usize]) -> Vec<Ended> {
    order.iter().map(|index| node.run(hook, &pieces[*index], mark, u32::from(hook == Hook::TcEgress))).collect()
}

#[test]
fn pieces_follow_their_first_at_every_boundary() {
    for cast in CASTS {
        for (kind, protocol) in [(Kind::Udp, 17), (SYN, 6)] {
            let mut node = Node::new();
            node.serve(1, cast.node_port, protocol, NODE_PORT, Frontend::EXTERNAL, &[cast.remote]);
            let mut frame = Frame::new(cast.outside, cast.node_port, kind);
            frame.payload = (0..100u8).collect();
            let pieces = frame.pieces(77, 32);
            // Later ones in any order; the first is the first.
            let order: Vec<usize> = std::iter::once(0).chain((1..pieces.len()).rev()).collect();
            let entered = each(&mut node, Hook::TcIngress, &pieces, 0, &order);
            assert!(entered.iter().all(|piece| piece.verdict == NEXT && piece.is_marked()));
            let left: Vec<Ended> = entered.iter().map(|piece| node.egress(piece)).collect();
            assert!(left.iter().all(|piece| piece.verdict == NEXT && !piece.is_marked()));
            let bytes: Vec<Vec<u8>> = left.into_iter().map(|piece| piece.bytes).collect();
            let seen = Seen::read(&together(&bytes));
            assert_eq!((seen.from.ip().to_string().as_str(), seen.to.to_string().as_str()), (cast.node, cast.remote));
            assert_eq!(seen.payload, frame.payload);

            let mut reply = Frame::reply(&seen, kind);
            reply.payload = frame.payload.clone();
            let pieces = reply.pieces(78, 40);
            let order: Vec<usize> = (0..pieces.len()).collect();
            let back = each(&mut node, Hook::TcIngress, &pieces, 0, &order);
            let back: Vec<Vec<u8>> = back.iter().map(|piece| node.egress(piece).bytes).collect();
            let seen = Seen::read(&together(&back));
            assert_eq!((seen.from.to_string().as_str(), seen.to.to_string().as_str()), (cast.node_port, cast.outside));
        }
    }
}

/// The CRC covers the ports and all pieces: where the ports stay it stays, and where they change nobody could say to what.
#[test]
fn pieces_of_sctp_go_on_where_their_ports_stay() {
    for cast in CASTS {
        let mut node = Node::new();
        let same = cast.service.replace(":80", ":8080");
        node.serve(1, &same, SCTP, CLUSTER_IP, 0, &[cast.local]);
        node.serve(2, cast.other_service, SCTP, CLUSTER_IP, 0, &[cast.local]);
        let mut frame = Frame::new(cast.pod, &same, INIT);
        frame.payload = vec![3; 96];
        let order = [0, 2, 1, 3];
        let sent = each(&mut node, Hook::TcIngress, &frame.pieces(3, 32), 0, &order);
        let bytes: Vec<Vec<u8>> = sent.into_iter().map(|piece| piece.bytes).collect();
        let seen = Seen::read(&together(&bytes));
        assert_eq!((seen.from.to_string().as_str(), seen.to.to_string().as_str()), (cast.pod, cast.local));
        frame.to = cast.other_service.parse().expect("address");
        let lost = node.run(Hook::TcIngress, &frame.pieces(4, 32)[0], 0, 0);
        ended(&lost, SHOT, Reason::CannotRewrite);
    }
}

#[test]
fn pieces_to_oneself_are_told_from_their_replies() {
    for cast in CASTS {
        let mut node = Node::new();
        node.serve(1, cast.service, 17, CLUSTER_IP, 0, &[&cast.own()]);
        let mut frame = Frame::new(cast.pod, cast.service, Kind::Udp);
        frame.payload = vec![7; 90];
        let pieces = frame.pieces(9, 48);
        let entered: Vec<Ended> = pieces.iter().map(|piece| node.run(Hook::TcIngress, piece, 0, 0)).collect();
        let left: Vec<Vec<u8>> = entered.iter().map(|piece| node.egress(piece).bytes).collect();
        let seen = Seen::read(&together(&left));
        assert_eq!((seen.from.ip().to_string().as_str(), seen.to.to_string()), (cast.node, cast.own()));
        let mut reply = Frame::reply(&seen, Kind::Udp);
        reply.payload = vec![8; 90];
        let back: Vec<Vec<u8>> = reply
            .pieces(9, 48)
            .iter()
            .map(|piece| {
                let entered = node.run(Hook::TcIngress, piece, 0, 0);
                node.egress(&entered).bytes
            })
            .collect();
        let seen = Seen::read(&together(&back));
        assert_eq!((seen.from.to_string().as_str(), seen.to.to_string().as_str()), (cast.service, cast.pod));
    }
}

/// In trials nothing waits (the lab shows that): what belongs to a Service alone must not go on as it is.
#[test]
fn a_piece_without_its_first_is_dropped_only_where_it_is_a_services_for_certain() {
    for cast in CASTS {
        let mut node = Node::new();
        node.serve(1, cast.service, 17, CLUSTER_IP, 0, &[cast.local]);
        let address = cast.service.replace(":80", ":0");
        node.put(&address, 0, &Frontend { flags: Frontend::CLUSTER_IP, ..Frontend::default() });
        let mut frame = Frame::new(cast.pod, cast.service, Kind::Udp);
        frame.payload = vec![1; 64];
        let lost = node.run(Hook::TcIngress, &frame.pieces(5, 24)[1], 0, 0);
        ended(&lost, SHOT, Reason::FragmentUnknown);
        frame.to = cast.outside.parse().expect("address");
        let piece = &frame.pieces(5, 24)[1];
        let passed = node.run(Hook::TcIngress, piece, 0, 0);
        ended(&passed, NEXT, Reason::FragmentPassed);
        assert_eq!(&passed.bytes, piece);
        // With its first seen it is known to be nobody's, too.
        for piece in frame.pieces(6, 24) {
            let passed = node.run(Hook::TcIngress, &piece, 0, 0);
            assert_eq!((passed.verdict, &passed.bytes), (NEXT, &piece));
        }
    }
}

/// Identifications are used again: ports of half a minute ago say nothing about a piece of now.
#[test]
fn ports_of_a_datagram_of_long_ago_are_not_taken_for_those_of_another() {
    const LONG_AGO: u32 = 31 * 250;
    for cast in CASTS {
        let mut node = Node::new();
        node.serve(1, cast.service, 17, CLUSTER_IP, 0, &[cast.local]);
        let address = cast.service.replace(":80", ":0");
        node.put(&address, 0, &Frontend { flags: Frontend::CLUSTER_IP, ..Frontend::default() });
        let mut frame = Frame::new(cast.pod, cast.service, Kind::Udp);
        frame.payload = vec![1; 64];
        let pieces = frame.pieces(5, 40);
        ended(&node.run(Hook::TcIngress, &pieces[0], 0, 0), NEXT, Reason::Opened);
        ended(&node.run(Hook::TcIngress, &pieces[1], 0, 0), NEXT, Reason::Translated);
        for (key, ports) in node.maps.fragments_v4.dump().expect("fragments") {
            let old = Fragment { seen: ports.seen.wrapping_sub(LONG_AGO), ..ports };
            node.maps.fragments_v4.set(&key, &old).expect("set");
        }
        for (key, ports) in node.maps.fragments_v6.dump().expect("fragments") {
            let old = Fragment { seen: ports.seen.wrapping_sub(LONG_AGO), ..ports };
            node.maps.fragments_v6.set(&key, &old).expect("set");
        }
        ended(&node.run(Hook::TcIngress, &pieces[1], 0, 0), SHOT, Reason::FragmentUnknown);
    }
}
