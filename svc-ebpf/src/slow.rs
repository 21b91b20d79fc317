//! The slow paths as functions that the verifier looks at once.
//!
//! A function with a name of its own is verified apart from its callers, whatever they know about its arguments; an
//! ordinary one is verified again for each state in which it can be called, and the states of the packet programs times
//! those of the slow paths are more than the kernel is ready to look at. Such functions take numbers only; the rest
//! goes through the scratch.
#![expect(unsafe_code, reason = "functions with names of their own")]

use aya_ebpf::bindings::{__sk_buff, xdp_md};
use svc_common::checksum::Sum;
use svc_common::crc32c;
use svc_common::datapath::conntrack::Reserved;
use svc_common::datapath::env::Env;
use svc_common::datapath::slow;
use svc_common::net::{V4, V6};
use svc_common::parse;
use svc_common::verdict::Reason;

use crate::env::Kernel;
use crate::packet::{Raw, Skb};
use crate::rewrite::{self, Field};
use crate::{hold, icmp, reject, route, tc, xdp};

/// See [`crc32c::update`].
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn crc32c_of_ports(old: u32, before: u32, after: u32, length: u32) -> u32 {
    crc32c::update(old, before, after, length as u16)
}

/// See [`parse::follow`].
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn follow(context: *mut __sk_buff, at: u32, protocol: u32) -> u64 {
    parse::follow(&Skb::new(context), at as usize, protocol as u8).0
}

/// See [`rewrite::settle`]. `what`: the field's content, and two bits for UDP and IPv6 above it. 1: done; 0: not.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn settle(context: *mut __sk_buff, offset: u32, what: u32, addresses: u32, ports: u32) -> u32 {
    let field = Field { offset: offset as usize, old: what as u16, udp: what & 1 << 16 != 0, v6: what & 1 << 17 != 0 };
    let (addresses, ports) = (Sum::ZERO.add(addresses), Sum::ZERO.add(ports));
    rewrite::settle(&Skb::new(context), field, addresses, ports).is_ok().into()
}

/// Leaves the reason of a failure where the caller finds it. 1: done; 0: not.
macro_rules! report {
    ($scratch:ident, $result:expr) => {{
        let result: Result<(), Reason> = $result;
        match result {
            Ok(()) => 1,
            Err(reason) => {
                $scratch.reason = reason;
                0
            }
        }
    }};
}

/// The answer as a number.
#[inline(always)]
const fn reserved(answer: Reserved) -> u32 {
    match answer {
        Reserved::No => 0,
        Reserved::Yes => 1,
        Reserved::Full => 2,
    }
}

/// One family's functions. The symbols have the family in their names, since they share one object.
macro_rules! slow_paths {
    ($family:ident, $addr:ty, $($name:ident = $symbol:literal ($($argument:ident),*) $scratch:ident => $result:expr;)+) => {
        /// The slow paths of one address family.
        pub(crate) mod $family {
            use super::*;
            $(
                #[unsafe(export_name = $symbol)]
                #[inline(never)]
                pub(crate) extern "C" fn $name($($argument: u32),*) -> u32 {
                    let Some(mut $scratch) = Env::<$addr>::scratch(&Kernel) else { return 0 };
                    $result
                }
            )+
        }
    };
}

slow_paths! {
    v4, V4,
    begin_external = "begin_external_v4" (ifindex) scratch => report!(scratch, slow::begin_external::<V4, _>(&Kernel, &mut scratch, ifindex));
    complete_external = "complete_external_v4" (way) scratch => report!(scratch, slow::complete_external::<V4, _>(&Kernel, &mut scratch, way));
    turn = "turn_v4" () scratch => slow::turn::<V4, _>(&Kernel, &mut scratch).into();
    translate_source = "translate_source_v4" (ifindex) scratch => report!(scratch, slow::translate_source::<V4, _>(&Kernel, &mut scratch, ifindex));
    find = "find_v4" (ifindex) scratch => report!(scratch, slow::find(&Kernel, &mut scratch, ifindex));
    choose = "choose_v4" (ifindex, flags) scratch => report!(scratch, slow::choose(&Kernel, &mut scratch, ifindex, flags as u16));
    read = "read_v4" (ifindex) scratch => report!(scratch, slow::read(&Kernel, &mut scratch, ifindex));
    judge = "judge_v4" (event, request) scratch => slow::judge(&Kernel, &mut scratch, event as u8, request != 0).into();
    keep = "keep_v4" (role) scratch => {
        slow::keep(&Kernel, &mut scratch, role as u8);
        1
    };
    reserve = "reserve_v4" (role) scratch => reserved(slow::reserve(&Kernel, &mut scratch, role as u8));
    take_over = "take_over_v4" (role) scratch => reserved(slow::take_over(&Kernel, &mut scratch, role as u8));
}

slow_paths! {
    v6, V6,
    begin_external = "begin_external_v6" (ifindex) scratch => report!(scratch, slow::begin_external::<V6, _>(&Kernel, &mut scratch, ifindex));
    complete_external = "complete_external_v6" (way) scratch => report!(scratch, slow::complete_external::<V6, _>(&Kernel, &mut scratch, way));
    turn = "turn_v6" () scratch => slow::turn::<V6, _>(&Kernel, &mut scratch).into();
    translate_source = "translate_source_v6" (ifindex) scratch => report!(scratch, slow::translate_source::<V6, _>(&Kernel, &mut scratch, ifindex));
    find = "find_v6" (ifindex) scratch => report!(scratch, slow::find(&Kernel, &mut scratch, ifindex));
    choose = "choose_v6" (ifindex, flags) scratch => report!(scratch, slow::choose(&Kernel, &mut scratch, ifindex, flags as u16));
    read = "read_v6" (ifindex) scratch => report!(scratch, slow::read(&Kernel, &mut scratch, ifindex));
    judge = "judge_v6" (event, request) scratch => slow::judge(&Kernel, &mut scratch, event as u8, request != 0).into();
    keep = "keep_v6" (role) scratch => {
        slow::keep(&Kernel, &mut scratch, role as u8);
        1
    };
    reserve = "reserve_v6" (role) scratch => reserved(slow::reserve(&Kernel, &mut scratch, role as u8));
    take_over = "take_over_v6" (role) scratch => reserved(slow::take_over(&Kernel, &mut scratch, role as u8));
}

macro_rules! routes {
    ($($name:ident: $addr:ty;)+) => {$(
        /// Sends a packet of this host on by the route of the destination that the scratch's translation names.
        #[unsafe(no_mangle)]
        #[inline(never)]
        pub(crate) extern "C" fn $name(context: *mut __sk_buff) -> i32 {
            let Some(scratch) = Env::<$addr>::scratch(&Kernel) else { return tc::SHOT };
            route::send(&Skb::new(context), &scratch.translation.tuple)
        }
    )+};
}

routes! {
    route_v4: V4;
    route_v6: V6;
}

macro_rules! turns {
    ($($around:ident, $onward:ident: $addr:ty;)+) => {$(
        /// Turns the packet in the scratch around.
        #[unsafe(no_mangle)]
        #[inline(never)]
        pub(crate) extern "C" fn $around(context: *mut __sk_buff) -> i32 {
            tc::around::<$addr>(&Skb::new(context))
        }

        /// See [`icmp::onward`].
        #[unsafe(no_mangle)]
        #[inline(never)]
        pub(crate) extern "C" fn $onward(context: *mut __sk_buff) -> i32 {
            let Some(scratch) = Env::<$addr>::scratch(&Kernel) else { return tc::SHOT };
            icmp::onward(&Skb::new(context), &scratch.packet)
        }
    )+};
}

turns! {
    around_v4, onward_v4: V4;
    around_v6, onward_v6: V6;
}

macro_rules! answers {
    ($($name:ident: $addr:ty;)+) => {$(
        /// Answers the packet in the scratch with a refusal.
        #[unsafe(no_mangle)]
        #[inline(never)]
        pub(crate) extern "C" fn $name(context: *mut __sk_buff, into_stack: u32) -> i32 {
            let Some(scratch) = Env::<$addr>::scratch(&Kernel) else { return tc::SHOT };
            reject::reject(&Skb::new(context), &scratch.packet, into_stack != 0)
        }
    )+};
}

answers! {
    reject_v4: V4;
    reject_v6: V6;
}

macro_rules! icmp {
    ($($name:ident: $addr:ty;)+) => {$(
        /// See [`icmp::run`].
        #[unsafe(no_mangle)]
        #[inline(never)]
        pub(crate) extern "C" fn $name(context: *mut __sk_buff, ingress: u32) -> i32 {
            let Some(scratch) = Env::<$addr>::scratch(&Kernel) else { return tc::SHOT };
            icmp::run(&Skb::new(context), &scratch.packet, ingress != 0).unwrap_or(tc::OPEN)
        }
    )+};
}

icmp! {
    icmp_v4: V4;
    icmp_v6: V6;
}

macro_rules! pieces {
    ($($name:ident: $addr:ty;)+) => {$(
        /// See [`hold::piece`].
        #[unsafe(no_mangle)]
        #[inline(never)]
        pub(crate) extern "C" fn $name(context: *mut __sk_buff, inwards: u32, marked: u32) -> i32 {
            let Some(mut scratch) = Env::<$addr>::scratch(&Kernel) else { return tc::SHOT };
            hold::piece::<$addr>(&Skb::new(context), &mut scratch, inwards != 0, marked != 0)
        }
    )+};
}

pieces! {
    piece_v4: V4;
    piece_v6: V6;
}

macro_rules! ways_out {
    ($($name:ident: $addr:ty;)+) => {$(
        /// See [`xdp::way_out`].
        #[unsafe(no_mangle)]
        #[inline(never)]
        pub(crate) extern "C" fn $name(context: *mut xdp_md) -> u32 {
            let Some(scratch) = Env::<$addr>::scratch(&Kernel) else { return 0 };
            xdp::way_out(&Raw::new(context), &scratch.translation.tuple)
        }
    )+};
}

ways_out! {
    way_out_v4: V4;
    way_out_v6: V6;
}
