//! TC ingress: the client's boundary for requests, the backend's boundary for replies.

use aya_ebpf::bindings::__sk_buff;
use svc_common::datapath;
use svc_common::datapath::env::Env;
use svc_common::net::{V4, V6};
use svc_common::parse::{self, Packet};

use crate::env::Kernel;
use crate::packet::Skb;
use crate::route::Routed;
use crate::tc::{self, Functions};

/// The program.
#[inline(always)]
pub(crate) fn run(skb: &Skb) -> i32 {
    tc::run(skb, Functions::v4(tc_ingress_v4), Functions::v6(tc_ingress_v6), 0)
}

// Each family is a function that the verifier looks at once, with a stack of its own.

#[expect(unsafe_code, reason = "a name of its own")]
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn tc_ingress_v4(context: *mut __sk_buff, l3: u32) -> i32 {
    let skb = &Skb::new(context);
    match parse::ipv4(skb, tc::bounded(l3)) {
        Ok(mut packet) => packet_in(skb, &mut packet, l3),
        Err(reason) => tc::unreadable::<V4>(reason),
    }
}

#[expect(unsafe_code, reason = "a name of its own")]
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn tc_ingress_v6(context: *mut __sk_buff, l3: u32) -> i32 {
    let skb = &Skb::new(context);
    match parse::ipv6(skb, tc::bounded(l3)) {
        Ok(mut packet) => packet_in(skb, &mut packet, l3),
        Err(reason) => tc::unreadable::<V6>(reason),
    }
}

#[inline(always)]
fn packet_in<A: Routed>(skb: &Skb, packet: &mut Packet<A>, l3: u32) -> i32
where
    Kernel: Env<A>,
{
    if let Err(later) = tc::prepare(packet, l3) {
        return later;
    }
    match datapath::ingress(&Kernel, packet, skb.ifindex()) {
        Ok(translation) => tc::apply(skb, packet, &translation),
        Err(reason) => tc::refuse(packet, reason),
    }
}
