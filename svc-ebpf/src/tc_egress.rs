//! TC egress: the client's boundary for replies, the backend's boundary for requests, and both for processes of the
//! host that the socket hooks do not serve.

use svc_common::datapath;
use svc_common::datapath::env::Env;
use svc_common::header::ether;
use svc_common::parse::{self, Packet};

use crate::env::Kernel;
use crate::globals;
use crate::packet::Skb;
use crate::reject::Back;
use crate::route::Routed;
use crate::tc;

/// The program.
#[inline(always)]
pub(crate) fn run(skb: &Skb) -> i32 {
    match tc::network(skb) {
        Ok((l3, ether::IPV4)) => match parse::ipv4(skb, l3) {
            Ok(mut packet) => packet_out(skb, &mut packet),
            Err(reason) => tc::unreadable(reason),
        },
        Ok((l3, _)) => match parse::ipv6(skb, l3) {
            Ok(mut packet) => packet_out(skb, &mut packet),
            Err(reason) => tc::unreadable(reason),
        },
        Err(reason) => tc::unreadable(reason),
    }
}

#[inline(always)]
fn packet_out<A: Routed>(skb: &Skb, packet: &mut Packet<A>) -> i32
where
    Kernel: Env<A>,
{
    let marked = skb.mark() & globals::mark() != 0;
    let from_host = skb.ingress_ifindex() == 0;
    match datapath::egress(&Kernel, packet, skb.ifindex(), marked, from_host) {
        Ok(translation) => tc::apply(skb, packet, &translation),
        Err(reason) => tc::conclude(skb, packet, reason, Back::In),
    }
}
