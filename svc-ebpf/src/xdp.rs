//! XDP on uplinks: what comes from outside for a backend on another node, and its replies, are turned around here.

use aya_ebpf::bindings::xdp_action::{XDP_PASS, XDP_TX};
use svc_common::checksum::Sum;
use svc_common::datapath::env::Env;
use svc_common::datapath::{self, Translation};
use svc_common::header::{Ipv4, Ipv6, ether};
use svc_common::net::{Protocol, V4, V6};
use svc_common::parse::{self, Frame as _, Packet};
use svc_common::tables::device;
use svc_common::verdict::Reason;

use crate::env::{Kernel, count_reason};
use crate::globals;
use crate::helpers::{ask_route, redirect};
use crate::packet::Raw;
use crate::rewrite::{put, rewrite};
use crate::route::{Routed, answer, question};

/// The program.
#[inline(always)]
pub(crate) fn run(frame: &Raw) -> u32 {
    if !globals::external_fast_path() {
        return XDP_PASS;
    }
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

/// One hop less to live.
pub(crate) trait Hop: Routed {
    /// How many hops are left.
    fn left(frame: &Raw) -> Option<u8>;
    /// Writes one less.
    fn take(frame: &Raw) -> Result<(), Reason>;
}

impl Hop for V4 {
    #[inline(always)]
    fn left(frame: &Raw) -> Option<u8> {
        frame.load::<Ipv4>(ether::HEADER).map(|ip| ip.ttl)
    }

    #[inline(always)]
    fn take(frame: &Raw) -> Result<(), Reason> {
        let ip = frame.load::<Ipv4>(ether::HEADER).ok_or(Reason::CannotRewrite)?;
        let change = Sum::ZERO.sub(u16::from_be_bytes([1, 0]).to_be().into());
        put(frame, ether::HEADER, Ipv4 { ttl: ip.ttl - 1, checksum: change.update(ip.checksum), ..ip })
    }
}

impl Hop for V6 {
    #[inline(always)]
    fn left(frame: &Raw) -> Option<u8> {
        frame.load::<Ipv6>(ether::HEADER).map(|ip| ip.hop_limit)
    }

    #[inline(always)]
    fn take(frame: &Raw) -> Result<(), Reason> {
        let ip = frame.load::<Ipv6>(ether::HEADER).ok_or(Reason::CannotRewrite)?;
        put(frame, ether::HEADER, Ipv6 { hop_limit: ip.hop_limit - 1, ..ip })
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
    send(frame, packet, &translation)
}

/// Finds the next hop, and only then changes the packet: what has none is the stack's, as it came.
#[inline(always)]
fn send<A: Hop>(frame: &Raw, packet: &Packet<A>, translation: &Translation<A>) -> Result<u32, Reason> {
    if A::left(frame).is_none_or(|hops| hops <= 1) {
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
    // A device without a program of ours may not be able to send frames that do not come from its stack.
    if out != own && Kernel.device_by_index(out).is_none_or(|device| device.flags & device::UPLINK == 0) {
        return Err(Reason::LeftToStack);
    }
    rewrite(frame, packet, &translation.tuple)?;
    A::take(frame)?;
    put(frame, 0, question.dmac)?;
    put(frame, 6, question.smac)?;
    Ok(if out == own { XDP_TX } else { redirect(out, false) as u32 })
}
