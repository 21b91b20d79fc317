//! What both TC programs share: from a socket buffer to a packet, and from a translation to a verdict.

use svc_common::datapath::env::Env;
use svc_common::datapath::{Translation, step};
use svc_common::header::ether;
use svc_common::parse::{self, Frame as _, Packet};
use svc_common::verdict::{Outcome, Reason};

use crate::env::{Kernel, count_reason};
use crate::globals;
use crate::packet::Skb;
use crate::reject;
use crate::rewrite::rewrite;
use crate::route::Routed;

/// The packet goes on: to the next program at this hook, and then its way.
pub(crate) const NEXT: i32 = -1;
/// The packet ends here.
pub(crate) const SHOT: i32 = 2;

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

/// Rewrites the packet and does whatever else the translation asks for.
#[inline(always)]
pub(crate) fn apply<A: Routed>(skb: &Skb, packet: &Packet<A>, translation: &Translation<A>) -> i32
where
    Kernel: Env<A>,
{
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

/// Turns a reason for not translating into a verdict. `back`: where an answer to the sender goes.
#[inline(always)]
pub(crate) fn conclude<A: Routed>(skb: &Skb, packet: &Packet<A>, reason: Reason, back: reject::Back) -> i32 {
    count_reason(reason);
    match reason.outcome() {
        Outcome::Forward | Outcome::Pass => NEXT,
        Outcome::Drop => SHOT,
        // A copy goes out of line, so that the packet itself can stay in registers.
        Outcome::Reject => reject::reject(skb, &packet.clone(), back),
    }
}

/// Verdict on a packet that could not be read.
#[inline(always)]
pub(crate) fn unreadable(reason: Reason) -> i32 {
    count_reason(reason);
    NEXT
}
