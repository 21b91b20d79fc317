//! What both TC programs share: from a socket buffer to a packet, and from a translation to a verdict.

use aya_ebpf::bindings::__sk_buff;
use svc_common::datapath::env::{Env, Family};
use svc_common::datapath::scratch::Scratch;
use svc_common::datapath::{Translation, slow, step};
use svc_common::header::ether;
use svc_common::net::{Protocol, V4, V6};
use svc_common::parse::{self, Frame as _, Packet};
use svc_common::tables::flow;
use svc_common::verdict::{Outcome, Reason};

use crate::env::{Kernel, count_reason};
use crate::globals;
use crate::helpers::redirect_to_next_hop;
use crate::packet::Skb;
use crate::rewrite::rewrite;
use crate::route::{Hop, Routed, is_plain, way};

/// The packet goes on: to the next program at this hook, and then its way.
pub(crate) const NEXT: i32 = -1;
/// The packet ends here.
pub(crate) const SHOT: i32 = 2;

/// The packet in the scratch is the first of a connection: its hook calls [`open`]. Never returned to the kernel.
pub(crate) const OPEN: i32 = -2;

/// The packet in the scratch has no ports: it may be an ICMP error, and else it is treated like a first one.
const PORTLESS: i32 = -3;

/// The packet in the scratch belongs to a connection whose packets are turned around.
const TURN: i32 = -4;

/// The packet in the scratch is to be turned around, and both its translations are there.
const AROUND: i32 = -6;

/// The ICMP error in the scratch has been translated at both ends and goes on at once.
pub(crate) const ONWARD: i32 = -5;

/// The packet in the scratch is refused: its sender is told. Never returned to the kernel.
const ANSWER: i32 = -7;

/// The functions of a family that take over where the one that has read the packet ends.
#[derive(Clone, Copy)]
pub(crate) struct Sequel {
    /// Translates an ICMP error, or says [`OPEN`].
    icmp: extern "C" fn(*mut __sk_buff, u32) -> i32,
    /// Opens a connection.
    open: extern "C" fn(*mut __sk_buff, u32) -> i32,
    /// See [`slow::turn`].
    turn: extern "C" fn() -> u32,
    /// Turns a packet around.
    around: extern "C" fn(*mut __sk_buff) -> i32,
    /// Sends a translated ICMP error on.
    onward: extern "C" fn(*mut __sk_buff) -> i32,
    /// Tells the sender that the packet is refused.
    answer: extern "C" fn(*mut __sk_buff, u32) -> i32,
}

/// Those of IPv4.
pub(crate) const V4_SEQUEL: Sequel = Sequel {
    icmp: crate::slow::icmp_v4,
    open: tc_open_v4,
    turn: crate::slow::v4::turn,
    around: crate::slow::around_v4,
    onward: crate::slow::onward_v4,
    answer: crate::slow::reject_v4,
};
/// Those of IPv6.
pub(crate) const V6_SEQUEL: Sequel = Sequel {
    icmp: crate::slow::icmp_v6,
    open: tc_open_v6,
    turn: crate::slow::v6::turn,
    around: crate::slow::around_v6,
    onward: crate::slow::onward_v6,
    answer: crate::slow::reject_v6,
};

/// Finishes what a family's function has begun, if it has asked for that. `flags`: [`flow::HOST_CLIENT`] at egress. Called
/// when that function's stack is free again, since both do not fit at once.
#[inline(always)]
pub(crate) fn finish(action: i32, sequel: Sequel, skb: &Skb, flags: u16) -> i32 {
    let ingress = flags & flow::HOST_CLIENT == 0;
    let action = if action == PORTLESS { (sequel.icmp)(skb.context(), ingress.into()) } else { action };
    let action = match action {
        TURN if !ingress => action,
        TURN if (sequel.turn)() != 0 => AROUND,
        TURN => OPEN,
        _ => action,
    };
    let action = if action == OPEN { (sequel.open)(skb.context(), flags.into()) } else { action };
    match action {
        AROUND if ingress => (sequel.around)(skb.context()),
        ONWARD if ingress => (sequel.onward)(skb.context()),
        // Beyond the device by which the packet has come, or in this host's own stack.
        ANSWER => (sequel.answer)(skb.context(), (!ingress).into()),
        _ => action,
    }
}

/// Leaves a packet without ports to [`finish`].
#[inline(always)]
pub(crate) fn put_off<A: Family>(packet: &Packet<A>) -> i32
where
    Kernel: Env<A>,
{
    let Some(mut scratch) = Kernel.scratch() else { return SHOT };
    scratch.packet = *packet;
    PORTLESS
}

/// Opens the connection whose first packet is in the scratch, and does with the packet what follows.
#[inline(always)]
fn open<A: Hop>(skb: &Skb, flags: u16) -> i32
where
    Kernel: Env<A>,
{
    let Some(mut scratch) = Kernel.scratch() else { return SHOT };
    let forwarded = flags & flow::HOST_CLIENT != 0 && skb.ingress_ifindex() != 0;
    if forwarded && Protocol::from_number(scratch.packet.tuple.protocol).is_none() {
        // It has been looked at where it came in.
        count_reason(Reason::NotTransport);
        return NEXT;
    }
    match store(skb, &mut scratch, flags) {
        Ok(()) if scratch.translation.steps & step::TURN != 0 => AROUND,
        Ok(()) => apply(skb, &scratch.packet, &scratch.translation),
        Err(reason) => conclude(reason),
    }
}

/// Chooses, finds the way if the packet may be turned around, and stores.
#[inline(always)]
fn store<A: Hop>(skb: &Skb, scratch: &mut Scratch<A>, flags: u16) -> Result<(), Reason>
where
    Kernel: Env<A>,
{
    let turned = flags & flow::HOST_CLIENT == 0 && is_plain(skb, &scratch.packet);
    let flags = if turned { flags | flow::TURNED } else { flags };
    slow::begin(&Kernel, scratch, skb.ifindex(), flags)?;
    let mut out = 0;
    if scratch.connection.flags & flow::TURNED != 0
        && let Some(way) = way(skb, &scratch.packet, &scratch.connection.tuple(flow::MIDDLE))
    {
        out = way.ifindex;
    }
    slow::complete(&Kernel, scratch, out)
}

/// Turns the packet in the scratch around, or treats it like any other if that cannot be done.
#[inline(always)]
pub(crate) fn around<A: Hop>(skb: &Skb) -> i32
where
    Kernel: Env<A>,
{
    let Some(mut scratch) = Env::<A>::scratch(&Kernel) else { return SHOT };
    let Some(way) = way(skb, &scratch.packet, &scratch.turned) else {
        scratch.translation.steps &= !step::TURN;
        return apply(skb, &scratch.packet, &scratch.translation);
    };
    let turned = rewrite(skb, &scratch.packet, &scratch.turned).and_then(|()| A::take(skb, ether::HEADER));
    match turned {
        Ok(()) => {
            count_reason(Reason::TurnedAround);
            redirect_to_next_hop(&way)
        }
        Err(reason) => {
            count_reason(reason);
            SHOT
        }
    }
}

#[expect(unsafe_code, reason = "a name of its own")]
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn tc_open_v4(context: *mut __sk_buff, flags: u32) -> i32 {
    open::<V4>(&Skb::new(context), flags as u16)
}

#[expect(unsafe_code, reason = "a name of its own")]
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn tc_open_v6(context: *mut __sk_buff, flags: u32) -> i32 {
    open::<V6>(&Skb::new(context), flags as u16)
}

/// Offset of the network header and its Ethernet type.
///
/// A device without link layer (tun, wireguard, ipip) hands over packets that begin with the network header. Which
/// it is shows in the type that the stack believes: behind a link layer the same type stands in the packet.
#[inline(always)]
pub(crate) fn network(skb: &Skb) -> Result<(usize, u16), Reason> {
    skb.make_linear(size_of::<svc_common::header::Ipv4>() as u32 + 34);
    let protocol = skb.protocol() as u16;
    if skb.load::<u16>(ether::HEADER - 2) == Some(protocol) {
        return parse::ethernet(skb);
    }
    match u16::from_be(protocol) {
        kind @ (ether::IPV4 | ether::IPV6) => Ok((0, kind)),
        _ => Err(Reason::NotIp),
    }
}

/// An offset that [`network`] has found, with a bound that the verifier can see: an Ethernet header and two tags are 22
/// bytes.
#[inline(always)]
pub(crate) const fn bounded(l3: u32) -> usize {
    (l3 & 31) as usize
}

/// Rewrites the packet and does whatever else the translation asks for.
#[inline(always)]
pub(crate) fn apply<A: Routed>(skb: &Skb, packet: &Packet<A>, translation: &Translation<A>) -> i32
where
    Kernel: Env<A>,
{
    if translation.steps & step::OPEN != 0 {
        return OPEN;
    }
    if translation.steps & step::TURN != 0 {
        return TURN;
    }
    let mut reason = translation.reason;
    let mut action = NEXT;
    match rewrite(skb, packet, &translation.tuple) {
        Ok(()) => {
            if translation.steps & step::MARK != 0 {
                skb.set_mark(skb.mark() | globals::mark());
            }
            if translation.steps & step::UNMARK != 0 {
                skb.set_mark(skb.mark() & !globals::mark());
            }
            if translation.steps & step::ROUTE != 0 {
                action = send::<A>(skb, translation);
            }
        }
        Err(error) => {
            reason = error;
            action = SHOT;
        }
    }
    count_reason(reason);
    action
}

/// Sends a packet of this host on by the route of its new destination.
#[inline(always)]
fn send<A: Routed>(skb: &Skb, translation: &Translation<A>) -> i32
where
    Kernel: Env<A>,
{
    let Some(mut scratch) = Kernel.scratch() else { return SHOT };
    scratch.translation = *translation;
    A::route(skb)
}

/// Turns a reason for not translating the packet in the scratch into a verdict, or into what [`finish`] has to do.
#[inline(always)]
fn conclude(reason: Reason) -> i32 {
    count_reason(reason);
    match reason.outcome() {
        Outcome::Forward | Outcome::Pass => NEXT,
        Outcome::Drop => SHOT,
        Outcome::Reject => ANSWER,
    }
}

/// The same for a packet that is not in the scratch yet.
#[inline(always)]
pub(crate) fn refuse<A: Family>(packet: &Packet<A>, reason: Reason) -> i32
where
    Kernel: Env<A>,
{
    let action = conclude(reason);
    if action == ANSWER {
        let Some(mut scratch) = Kernel.scratch() else { return SHOT };
        scratch.packet = *packet;
    }
    action
}

/// Verdict on a packet that could not be read.
#[inline(always)]
pub(crate) fn unreadable(reason: Reason) -> i32 {
    count_reason(reason);
    NEXT
}
