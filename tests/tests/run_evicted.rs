//! Entries of a connection that are gone while it goes on: taken away by hand here, evicted from a full table in life.
//! Needs CAP_BPF.

use svc_agent::datapath::table::Table;
use svc_agent::datapath::{Globals, Hook};
use svc_common::datapath::env::Family;
use svc_common::tables::{Entry, Flow, FlowKey, Frontend, flow};
use svc_common::verdict::Reason;
use svc_tests::packet::cast::{ACK, CASTS, CLUSTER_IP, NEXT, NODE_PORT, REDIRECT, SHOT, SYN, ended, goes};
use svc_tests::packet::{Frame, Kind, Node};

/// Two seconds, in jiffies of the tests: long enough for the next packet to renew.
const AGE: u32 = 500;

/// Takes the entries with this role away, and makes those that are left two seconds older.
fn evict(node: &Node, role: u8) {
    let gone = evict_of(&node.maps.flows_v4, role) + evict_of(&node.maps.flows_v6, role);
    assert_eq!(gone, 1, "there was one entry with role {role}");
}

fn evict_of<A: Family>(flows: &Table<FlowKey<A>, Flow<A>>, role: u8) -> usize
where
    FlowKey<A>: Entry,
    Flow<A>: Entry,
{
    let mut gone = 0;
    for (key, flow) in flows.dump().expect("flows") {
        if flow.role == role {
            gone += usize::from(flows.remove(&key).expect("remove"));
        } else {
            flows.set(&key, &Flow { seen: flow.seen.wrapping_sub(AGE), ..flow }).expect("set");
        }
    }
    gone
}

/// Makes all entries as if they had just been renewed.
fn refresh<A: Family>(flows: &Table<FlowKey<A>, Flow<A>>)
where
    FlowKey<A>: Entry,
    Flow<A>: Entry,
{
    for (key, flow) in flows.dump().expect("flows") {
        let state = flow.state | flow::REQUESTED | flow::REPLIED;
        flows.set(&key, &Flow { seen: flow.seen.wrapping_add(AGE), state, ..flow }).expect("set");
    }
}

#[test]
fn the_reply_brings_the_clients_entry_back() {
    for cast in CASTS {
        let mut node = Node::new();
        node.serve(1, cast.service, 6, CLUSTER_IP, 0, &[cast.local]);
        let opened = node.ingress(&Frame::new(cast.pod, cast.service, SYN));
        evict(&node, flow::CLIENT);
        let reply = node.ingress(&Frame::reply(&opened.seen(), ACK));
        let reply = node.egress(&reply);
        ended(&reply, NEXT, Reason::Translated);
        goes(&reply, cast.service, cast.pod);
        // There is no Service any more that could choose anew.
        node.withdraw(cast.service, 6);
        let more = node.ingress(&Frame::new(cast.pod, cast.service, ACK));
        ended(&more, NEXT, Reason::Translated);
        goes(&more, cast.pod, cast.local);
    }
}

#[test]
fn the_request_brings_the_middle_entry_back() {
    for cast in CASTS {
        for (kind, later, protocol) in [(SYN, ACK, 6), (Kind::Udp, Kind::Udp, 17)] {
            let mut node = Node::new();
            node.serve(1, cast.service, protocol, CLUSTER_IP, 0, &[cast.local]);
            let opened = node.ingress(&Frame::new(cast.pod, cast.service, kind));
            evict(&node, flow::MIDDLE);
            let more = node.ingress(&Frame::new(cast.pod, cast.service, later));
            goes(&more, cast.pod, cast.local);
            let reply = node.ingress(&Frame::reply(&opened.seen(), later));
            let reply = node.egress(&reply);
            ended(&reply, NEXT, Reason::Translated);
            goes(&reply, cast.service, cast.pod);
        }
    }
}

#[test]
fn a_translated_source_comes_back_as_it_was() {
    for cast in CASTS {
        for role in [flow::MIDDLE, flow::BACKEND] {
            let mut node = Node::new();
            node.serve(1, cast.node_port, 6, NODE_PORT, Frontend::EXTERNAL, &[cast.local]);
            let opened = node.ingress(&Frame::new(cast.outside, cast.node_port, SYN));
            let first = node.egress(&opened).seen();
            evict(&node, role);
            let more = node.ingress(&Frame::new(cast.outside, cast.node_port, ACK));
            let more = node.egress(&more);
            ended(&more, NEXT, Reason::Translated);
            assert_eq!((more.seen().from, more.seen().to), (first.from, first.to));
            let reply = node.ingress(&Frame::reply(&first, ACK));
            goes(&reply, cast.local, cast.outside);
            goes(&node.egress(&reply), cast.node_port, cast.outside);
        }
    }
}

#[test]
fn a_source_that_cannot_be_translated_does_not_reach_the_backend() {
    for cast in CASTS {
        let mut node = Node::new();
        node.serve(1, cast.node_port, 6, NODE_PORT, Frontend::EXTERNAL, &[cast.local]);
        let opened = node.ingress(&Frame::new(cast.outside, cast.node_port, SYN));
        node.egress(&opened);
        evict(&node, flow::MIDDLE);
        refresh(&node.maps.flows_v4);
        refresh(&node.maps.flows_v6);
        let more = node.ingress(&Frame::new(cast.outside, cast.node_port, ACK));
        ended(&more, NEXT, Reason::Translated);
        assert!(more.is_marked());
        ended(&node.egress(&more), SHOT, Reason::EntryLost);
    }
}

#[test]
fn what_has_been_masqueraded_on_the_way_is_not_taken_for_lost() {
    for cast in CASTS {
        let mut node = Node::new();
        let own = if cast.is_v4() { "192.0.2.1:40000" } else { "[2001:db8::1]:40000" };
        for (from, verdict, reason) in [(own, NEXT, Reason::NotService), (cast.pod, SHOT, Reason::EntryLost)] {
            let frame = Frame::new(from, cast.remote, SYN).bytes();
            ended(&node.run(Hook::TcEgress, &frame, Globals::TRIAL.mark, 2), verdict, reason);
        }
    }
}

#[test]
fn a_connection_that_nobody_remembers_is_reset_for_its_client() {
    for cast in CASTS {
        let mut node = Node::new();
        node.serve(1, cast.service, 6, CLUSTER_IP, 0, &[cast.local]);
        node.ingress(&Frame::new(cast.pod, cast.service, SYN));
        evict(&node, flow::CLIENT);
        evict(&node, flow::MIDDLE);
        let refused = node.ingress(&Frame::new(cast.pod, cast.service, ACK));
        ended(&refused, REDIRECT, Reason::NoConnection);
        goes(&refused, cast.service, cast.pod);
    }
}

/// No segment of the server reaches the client under the server's own address, however little sense it makes there.
#[test]
fn segments_that_make_no_sense_are_translated_like_others() {
    for cast in CASTS {
        let mut node = Node::new();
        node.serve(1, cast.service, 6, CLUSTER_IP, 0, &[cast.local]);
        let opened = node.ingress(&Frame::new(cast.pod, cast.service, SYN));
        // Also after the end, while the entries are there; flags from none to all.
        for flags in [0x10, 0x12, 0x11, 0x04, 0x14, 0x02, 0x00, 0x3f] {
            let reply = node.ingress(&Frame::reply(&opened.seen(), Kind::Tcp(flags)));
            assert_eq!(reply.verdict, NEXT);
            let reply = node.egress(&reply);
            ended(&reply, NEXT, Reason::Translated);
            goes(&reply, cast.service, cast.pod);
        }
    }
}
