//! Lines of the programs about packets: there when they are asked for, and no trace of them otherwise. Needs CAP_BPF.

use svc_common::tables::Frontend;
use svc_tests::packet::cast::{CASTS, CLUSTER_IP, NODE_PORT, SYN};
use svc_tests::packet::{Frame, Kind, Node};

#[test]
fn a_person_sees_where_a_packet_went() {
    for cast in CASTS {
        let (mut node, mut trace) = Node::traced();
        node.serve(1, cast.service, 6, CLUSTER_IP, 0, &[cast.local]);
        node.serve(2, cast.node_port, 17, NODE_PORT, Frontend::EXTERNAL, &[cast.remote]);
        let opened = node.ingress(&Frame::new(cast.pod, cast.service, SYN));
        node.egress(&opened);
        let (pod, service, local) = (cast.pod, cast.service, cast.local);
        assert_eq!(
            trace.read(),
            [
                format!("tc_ingress device 1 opened: TCP {pod} -> {service} => {pod} -> {local}"),
                format!("tc_egress device 1 transit: TCP {pod} -> {local}"),
            ]
        );
        let opened = node.ingress(&Frame::new(cast.outside, cast.node_port, Kind::Udp));
        let left = node.egress(&opened).seen();
        let (outside, remote) = (cast.outside, cast.remote);
        assert_eq!(
            trace.read()[1],
            format!("tc_egress device 1 translated: UDP {outside} -> {remote} => {} -> {remote}", left.from)
        );
        node.ingress(&Frame::new(cast.pod, cast.outside, Kind::Udp));
        node.ingress(&Frame::new(cast.pod, cast.outside, Kind::Other(47)));
        let lines = trace.read();
        assert_eq!(lines[0], format!("tc_ingress device 1 not_service: UDP {pod} -> {outside}"));
        assert!(lines[1].starts_with("tc_ingress device 1 not_transport: protocol 47 "), "{}", lines[1]);
    }
}

#[test]
fn nothing_is_left_of_the_lines_when_they_are_off() {
    let (on, mut trace) = Node::traced();
    let off = Node::new();
    for ((hook, with), (_, without)) in on.translated_bytes().into_iter().zip(off.translated_bytes()) {
        // A line alone is more than a thousand bytes.
        assert!(hook == "gc" || with > without + 1000, "{hook}: {with} bytes with lines, {without} without");
    }
    assert_eq!(trace.read(), Vec::<String>::new());
}
