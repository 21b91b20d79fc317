//! TC ingress: the client's boundary for requests, the backend's boundary for replies.

use svc_common::datapath;
use svc_common::datapath::env::Env;
use svc_common::header::ether;
use svc_common::parse::{self, Packet};

use crate::env::Kernel;
use crate::packet::Skb;
use crate::reject::Back;
use crate::route::Routed;
use crate::tc;

/// The program.
#[inline(always)]
pub(crate) fn run(skb: &Skb) -> i32 {
    match tc::network(skb) {
        Ok((l3, ether::IPV4)) => match parse::ipv4(skb, l3) {
            Ok(mut packet) => packet_in(skb, &mut packet),
            Err(reason) => tc::unreadable(reason),
        },
        Ok((l3, _)) => match parse::ipv6(skb, l3) {
            Ok(mut packet) => packet_in(skb, &mut packet),
            Err(reason) => tc::unreadable(reason),
        },
        Err(reason) => tc::unreadable(reason),
    }
}

#[inline(always)]
fn packet_in<A: Routed>(skb: &Skb, packet: &mut Packet<A>) -> i32
where
    Kernel: Env<A>,
{
    match datapath::ingress(&Kernel, packet, skb.ifindex()) {
        Ok(translation) => tc::apply(skb, packet, &translation),
        Err(reason) => tc::conclude(skb, packet, reason, Back::Out),
    }
}
