//! XDP on uplinks: what comes from outside for a backend on another node, and its replies, are turned around here. What
//! of it cannot be (fragments, no neighbour yet, a tunnel on the way), TC turns around.
#![expect(unsafe_code, reason = "functions with names of their own, which the verifier looks at once")]

use aya_ebpf::bindings::xdp_action::{XDP_PASS, XDP_TX};
use aya_ebpf::bindings::xdp_md;
use svc_common::datapath::env::Env;
use svc_common::datapath::{self, step};
use svc_common::header::ether;
use svc_common::line::At;
use svc_common::net::{Protocol, V4, V6};
use svc_common::parse::{self, Frame as _, Packet};
use svc_common::tables::device;
use svc_common::tuple::Tuple;
use svc_common::verdict::Reason;

use crate::env::{Kernel, count_reason};
use crate::helpers::{ask_route, redirect};
use crate::packet::Raw;
use crate::rewrite::{put, rewrite};
use crate::route::{Hop, answer, leads_outward, question};
use crate::trace::{self, Named};

/// The packet in the scratch is the first of a connection: [`open`]. Never returned to the kernel, and no verdict.
const OPEN: u32 = 0x100;

/// The packet in the scratch has its translation there: [`send`]. Never returned to the kernel either.
const SEND: u32 = 0x101;

/// The functions of a family.
struct Functions {
    /// Turns a frame around whose connection is known, or says [`OPEN`].
    read: extern "C" fn(*mut xdp_md) -> u32,
    /// Opens a connection and says [`SEND`], or leaves the packet to TC.
    open: extern "C" fn(*mut xdp_md) -> u32,
    /// Sends the first packet of a connection.
    send: extern "C" fn(*mut xdp_md) -> u32,
}

/// The program.
#[inline(always)]
pub(crate) fn run(frame: &Raw) -> u32 {
    let kind = frame.load::<u16>(ether::HEADER - 2).unwrap_or_default();
    // Tagged frames are left to TC, where the device of the tag is known.
    match u16::from_be(kind) {
        ether::IPV4 => go::<V4>(frame, &Functions { read: xdp_v4, open: xdp_open_v4, send: xdp_send_v4 }),
        ether::IPV6 => go::<V6>(frame, &Functions { read: xdp_v6, open: xdp_open_v6, send: xdp_send_v6 }),
        _ => conclude(Err(Reason::NotIp)),
    }
}

/// The functions of a family, one after another: the stack does not hold both at once.
#[inline(always)]
fn go<A: Named>(frame: &Raw, functions: &Functions) -> u32 {
    let mut action = (functions.read)(frame.context());
    if action == OPEN {
        action = (functions.open)(frame.context());
    }
    if action == SEND {
        action = (functions.send)(frame.context());
    }
    // What is left to TC has its line there.
    if action != XDP_PASS {
        trace::send::<A>(At::Xdp, frame.ifindex());
    }
    action
}

/// Counts what ends here, and turns a reason for not turning a frame around into a verdict.
#[inline(always)]
fn conclude(result: Result<u32, Reason>) -> u32 {
    match result {
        Ok(action @ (OPEN | SEND)) => action,
        Ok(action) => {
            count_reason(Reason::TurnedAround);
            action
        }
        // TC counts what it sees under its own reasons; here only says that it went there.
        Err(reason) => {
            count_reason(if matches!(reason, Reason::NoNeighbour) { reason } else { Reason::LeftToStack });
            XDP_PASS
        }
    }
}

macro_rules! functions {
    ($($addr:ty: $parse:path, $read:ident, $open:ident, $send:ident;)+) => {$(
        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $read(context: *mut xdp_md) -> u32 {
            let frame = &Raw::new(context);
            conclude($parse(frame, ether::HEADER).and_then(|packet| read(frame, &packet)))
        }

        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $open(context: *mut xdp_md) -> u32 {
            conclude(open::<$addr>(&Raw::new(context)))
        }

        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $send(context: *mut xdp_md) -> u32 {
            let Some(scratch) = Env::<$addr>::scratch(&Kernel) else { return XDP_PASS };
            conclude(send(&Raw::new(context), &scratch.packet, &scratch.translation.tuple))
        }
    )+};
}

functions! {
    V4: parse::ipv4, xdp_v4, xdp_open_v4, xdp_send_v4;
    V6: parse::ipv6, xdp_v6, xdp_open_v6, xdp_send_v6;
}

#[inline(always)]
fn read<A: Hop>(frame: &Raw, packet: &Packet<A>) -> Result<u32, Reason>
where
    Kernel: Env<A>,
{
    if Protocol::from_number(packet.tuple.protocol).is_none() {
        return Err(Reason::NotTransport);
    }
    trace::begin(&packet.tuple);
    let translation = datapath::xdp(&Kernel, packet)?;
    if translation.steps & step::OPEN != 0 { Ok(OPEN) } else { send(frame, packet, &translation.tuple) }
}

/// Opens the connection whose first packet is in the scratch.
#[inline(always)]
fn open<A: Hop>(frame: &Raw) -> Result<u32, Reason>
where
    Kernel: Env<A>,
{
    let mut scratch = Kernel.scratch().ok_or(Reason::LeftToStack)?;
    Kernel.begin_external(&mut scratch, frame.ifindex())?;
    Kernel.complete_external(&mut scratch, A::way_out(frame))?;
    Ok(SEND)
}

/// The device by which a packet with the translation in the scratch leaves; 0: it does not leave the node.
#[inline(always)]
pub(crate) fn way_out<A: Hop>(frame: &Raw, tuple: &Tuple<A>) -> u32 {
    let mut question = question(tuple, frame.ifindex());
    let known = matches!(ask_route(frame.context().cast(), &mut question), answer::SUCCESS | answer::NO_NEIGHBOUR);
    if known && leads_outward(question.ifindex) { question.ifindex } else { 0 }
}

/// Finds the next hop, and only then changes the packet: what has none is the stack's, as it came.
#[inline(always)]
fn send<A: Hop>(frame: &Raw, packet: &Packet<A>, tuple: &Tuple<A>) -> Result<u32, Reason>
where
    Kernel: Env<A>,
{
    if A::left(frame, ether::HEADER).is_none_or(|hops| hops <= 1) {
        return Err(Reason::LeftToStack);
    }
    let mut question = question(tuple, frame.ifindex());
    question.__bindgen_anon_1.tot_len = packet.length as u16;
    match ask_route(frame.context().cast(), &mut question) {
        answer::SUCCESS => {}
        answer::NO_NEIGHBOUR => return Err(Reason::NoNeighbour),
        _ => return Err(Reason::LeftToStack),
    }
    let out = question.ifindex;
    let own = frame.ifindex();
    // Not every device can send frames that do not come from the stack. TC can send by all.
    if out != own && Kernel.device_by_index(out).is_none_or(|device| device.flags & device::XDP == 0) {
        return Err(Reason::LeftToStack);
    }
    trace::becomes(tuple);
    rewrite(frame, packet, tuple)?;
    A::take(frame, ether::HEADER)?;
    put(frame, 0, question.dmac)?;
    put(frame, 6, question.smac)?;
    Ok(if out == own { XDP_TX } else { redirect(out, false) as u32 })
}
