//! The next hop of a packet whose destination was rewritten after the stack had routed it, or before it ever will.

use aya_ebpf::bindings::bpf_fib_lookup as Lookup;
use svc_common::net::{V4, V6};
use svc_common::tuple::Tuple;

use crate::helpers::{ask_route, no_question, redirect_to_neighbour};
use crate::packet::Skb;
use crate::rewrite::Wire;
use crate::slow;

/// Puts a family's addresses into a routing question.
pub(crate) trait Routed: Wire {
    /// Source and destination.
    fn address(question: &mut Lookup, source: Self, destination: Self);

    /// Runs [`send`] for the translation in the scratch.
    fn route(skb: &Skb) -> i32;
}

impl Routed for V4 {
    #[inline(always)]
    fn address(question: &mut Lookup, source: Self, destination: Self) {
        const INET: u8 = 2;
        question.family = INET;
        question.__bindgen_anon_3.ipv4_src = source.bits();
        question.__bindgen_anon_4.ipv4_dst = destination.bits();
    }

    #[inline(always)]
    fn route(skb: &Skb) -> i32 {
        slow::route_v4(skb.context())
    }
}

impl Routed for V6 {
    #[inline(always)]
    fn address(question: &mut Lookup, source: Self, destination: Self) {
        const INET6: u8 = 10;
        question.family = INET6;
        question.__bindgen_anon_3.ipv6_src = source.words();
        question.__bindgen_anon_4.ipv6_dst = destination.words();
    }

    #[inline(always)]
    fn route(skb: &Skb) -> i32 {
        slow::route_v6(skb.context())
    }
}

/// The question where a packet with this tuple goes that has come by device `ifindex`.
#[inline(always)]
pub(crate) fn question<A: Routed>(tuple: &Tuple<A>, ifindex: u32) -> Lookup {
    let mut question = no_question();
    A::address(&mut question, tuple.source.addr, tuple.destination.addr);
    question.l4_protocol = tuple.protocol;
    question.sport = tuple.source.port.bits();
    question.dport = tuple.destination.port.bits();
    question.ifindex = ifindex;
    question
}

/// Answers of the routing table.
pub(crate) mod answer {
    /// Next hop and link addresses are known.
    pub(crate) const SUCCESS: i64 = 0;
    /// The next hop is known, its link address is not.
    pub(crate) const NO_NEIGHBOUR: i64 = 7;
}

/// Sends a packet of this host on by the route of its new destination. The egress programs of the device that the route
/// names see it again, as a packet between client and backend.
#[inline(always)]
pub(crate) fn send<A: Routed>(skb: &Skb, tuple: &Tuple<A>) -> i32 {
    let own = skb.ifindex();
    let mut question = question(tuple, own);
    match ask_route(skb.context().cast(), &mut question) {
        answer::SUCCESS | answer::NO_NEIGHBOUR => redirect_to_neighbour(question.ifindex),
        // No better way is known than the one it was on.
        _ => redirect_to_neighbour(own),
    }
}
