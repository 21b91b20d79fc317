//! XDP on uplinks: what comes from outside for a backend on another node, and its replies, are turned around here. What
//! of it cannot be (fragments, no neighbour yet, a tunnel on the way), TC turns around.

use aya_ebpf::bindings::xdp_action::{XDP_PASS, XDP_TX};
use svc_common::datapath::env::Env;
use svc_common::datapath::{self, Translation, step};
use svc_common::header::ether;
use svc_common::net::Protocol;
use svc_common::parse::{self, Frame as _, Packet};
use svc_common::tables::device;
use svc_common::tuple::Tuple;
use svc_common::verdict::Reason;

use crate::env::{Kernel, count_reason};
use crate::helpers::{ask_route, redirect};
use crate::packet::Raw;
use crate::rewrite::{put, rewrite};
use crate::route::{Hop, answer, leads_outward, question};

/// The program.
#[inline(always)]
pub(crate) fn run(frame: &Raw) -> u32 {
    match turn(frame) {
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

#[inline(always)]
fn turn(frame: &Raw) -> Result<u32, Reason> {
    let kind = frame.load::<u16>(ether::HEADER - 2).ok_or(Reason::Malformed)?;
    // Tagged frames are left to TC, where the device of the tag is known.
    match u16::from_be(kind) {
        ether::IPV4 => forward(frame, &parse::ipv4(frame, ether::HEADER)?),
        ether::IPV6 => forward(frame, &parse::ipv6(frame, ether::HEADER)?),
        _ => Err(Reason::NotIp),
    }
}

#[inline(always)]
fn forward<A: Hop>(frame: &Raw, packet: &Packet<A>) -> Result<u32, Reason>
where
    Kernel: Env<A>,
{
    if Protocol::from_number(packet.tuple.protocol).is_none() {
        return Err(Reason::NotTransport);
    }
    let translation = datapath::xdp(&Kernel, packet, frame.ifindex())?;
    if translation.steps & step::OPEN != 0 {
        let translation = open(frame, &translation.tuple)?;
        return send(frame, packet, &translation);
    }
    send(frame, packet, &translation)
}

/// Stores the connection that waits in the scratch; `tuple` is that of client and backend.
#[inline(always)]
fn open<A: Hop>(frame: &Raw, tuple: &Tuple<A>) -> Result<Translation<A>, Reason>
where
    Kernel: Env<A>,
{
    let mut question = question(tuple, frame.ifindex());
    let known = matches!(ask_route(frame.context().cast(), &mut question), answer::SUCCESS | answer::NO_NEIGHBOUR);
    let way = if known && leads_outward(question.ifindex) { question.ifindex } else { 0 };
    let mut scratch = Kernel.scratch().ok_or(Reason::LeftToStack)?;
    Kernel.complete_external(&mut scratch, way)?;
    Ok(scratch.translation)
}

/// Finds the next hop, and only then changes the packet: what has none is the stack's, as it came.
#[inline(always)]
fn send<A: Hop>(frame: &Raw, packet: &Packet<A>, translation: &Translation<A>) -> Result<u32, Reason> {
    if A::left(frame, ether::HEADER).is_none_or(|hops| hops <= 1) {
        return Err(Reason::LeftToStack);
    }
    let own = frame.ifindex();
    let mut question = question(&translation.tuple, own);
    question.__bindgen_anon_1.tot_len = packet.length as u16;
    match ask_route(frame.context().cast(), &mut question) {
        answer::SUCCESS => {}
        answer::NO_NEIGHBOUR => return Err(Reason::NoNeighbour),
        _ => return Err(Reason::LeftToStack),
    }
    let out = question.ifindex;
    // Not every device can send frames that do not come from the stack. TC can send by all.
    if out != own && Kernel.device_by_index(out).is_none_or(|device| device.flags & device::XDP == 0) {
        return Err(Reason::LeftToStack);
    }
    rewrite(frame, packet, &translation.tuple)?;
    A::take(frame, ether::HEADER)?;
    put(frame, 0, question.dmac)?;
    put(frame, 6, question.smac)?;
    Ok(if out == own { XDP_TX } else { redirect(out, false) as u32 })
}
