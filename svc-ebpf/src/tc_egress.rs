//! TC egress: the client's boundary for replies, the backend's boundary for requests, and both for processes of the
//! host that the socket hooks do not serve.

use aya_ebpf::bindings::__sk_buff;
use svc_common::datapath;
use svc_common::datapath::env::Env;
use svc_common::header::ether;
use svc_common::net::Protocol;
use svc_common::parse::{self, Packet, Piece};
use svc_common::tables::flow;

use crate::env::Kernel;
use crate::globals;
use crate::packet::Skb;
use crate::route::Routed;
use crate::tc;

/// The program.
#[inline(always)]
pub(crate) fn run(skb: &Skb) -> i32 {
    match tc::network(skb) {
        Ok((l3, ether::IPV4)) => {
            tc::finish(tc_egress_v4(skb.context(), l3 as u32), tc::V4_SEQUEL, skb, flow::HOST_CLIENT)
        }
        Ok((l3, _)) => tc::finish(tc_egress_v6(skb.context(), l3 as u32), tc::V6_SEQUEL, skb, flow::HOST_CLIENT),
        Err(reason) => tc::unreadable(reason),
    }
}

// Each family is a function that the verifier looks at once, with a stack of its own.

#[expect(unsafe_code, reason = "a name of its own")]
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn tc_egress_v4(context: *mut __sk_buff, l3: u32) -> i32 {
    let skb = &Skb::new(context);
    match parse::ipv4(skb, tc::bounded(l3)) {
        Ok(mut packet) => packet_out(skb, &mut packet),
        Err(reason) => tc::unreadable(reason),
    }
}

#[expect(unsafe_code, reason = "a name of its own")]
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn tc_egress_v6(context: *mut __sk_buff, l3: u32) -> i32 {
    let skb = &Skb::new(context);
    match parse::ipv6(skb, tc::bounded(l3)) {
        Ok(mut packet) => packet_out(skb, &mut packet),
        Err(reason) => tc::unreadable(reason),
    }
}

#[inline(always)]
fn packet_out<A: Routed>(skb: &Skb, packet: &mut Packet<A>) -> i32
where
    Kernel: Env<A>,
{
    if Protocol::from_number(packet.tuple.protocol).is_none() && packet.piece == Piece::Whole {
        return tc::put_off(packet);
    }
    let marked = skb.mark() & globals::mark() != 0;
    let from_host = skb.ingress_ifindex() == 0;
    match datapath::egress(&Kernel, packet, skb.ifindex(), marked, from_host) {
        Ok(translation) => tc::apply(skb, packet, &translation),
        Err(reason) => tc::refuse(packet, reason),
    }
}
