//! What both TC programs share: from a socket buffer to a packet, and from a translation to a verdict.

use aya_ebpf::bindings::__sk_buff;
use svc_common::datapath::env::{Env, Family};
use svc_common::datapath::{self, Translation, step};
use svc_common::header::ether;
use svc_common::line::At;
use svc_common::net::{Protocol, V4, V6};
use svc_common::parse::{self, Frame as _, Packet, Piece};
use svc_common::tables::flow;
use svc_common::tuple::Tuple;
use svc_common::verdict::{Outcome, Reason};

use crate::env::{Kernel, count_reason};
use crate::globals;
use crate::helpers::redirect_to_next_hop;
use crate::packet::Skb;
use crate::rewrite::rewrite;
use crate::route::{Hop, Routed, is_plain, way};
use crate::slow;
use crate::trace::{self, Named};

/// The packet goes on: to the next program at this hook, and then its way.
pub(crate) const NEXT: i32 = -1;
/// The packet ends here.
pub(crate) const SHOT: i32 = 2;

// What one function of a hook says to `go`, which calls the next. Never returned to the kernel; the packet is in the scratch.

/// It is a fragment, whose ports have to be found.
const PIECE: i32 = -2;
/// It is a fragment that has its ports now: the function that has read it can go on, see [`KNOWN`].
pub(crate) const AGAIN: i32 = -3;
/// It has no ports: it may be an ICMP error, and else it is treated like a first one.
const PORTLESS: i32 = -4;
/// It is the first of a connection.
pub(crate) const OPEN: i32 = -5;
/// It belongs to a connection whose packets are turned around.
const TURN: i32 = -6;
/// It is to be turned around, and both its translations are there.
const AROUND: i32 = -7;
/// It is an ICMP error, has been translated at both ends and goes on at once.
pub(crate) const ONWARD: i32 = -8;
/// It is refused: its sender is told.
const ANSWER: i32 = -9;

/// Beside the offset of the network header: the packet is a fragment, and its ports are in the scratch.
pub(crate) const KNOWN: u32 = 1 << 8;

/// The functions of a family at a hook.
#[derive(Clone, Copy)]
pub(crate) struct Functions {
    /// Reads a packet, given the offset of its network header, and does what most packets need. Where that is not all, one
    /// of the others takes over when its stack is free again, since both do not fit at once.
    pub(crate) read: extern "C" fn(*mut __sk_buff, u32) -> i32,
    /// Finds the ports of a fragment, or says [`AGAIN`].
    piece: extern "C" fn(*mut __sk_buff, u32, u32) -> i32,
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

impl Functions {
    /// Those of IPv4, with the one that reads at the hook.
    pub(crate) const fn v4(read: extern "C" fn(*mut __sk_buff, u32) -> i32) -> Self {
        Self {
            read,
            piece: slow::piece_v4,
            icmp: slow::icmp_v4,
            open: tc_open_v4,
            turn: slow::v4::turn,
            around: slow::around_v4,
            onward: slow::onward_v4,
            answer: slow::reject_v4,
        }
    }

    /// Those of IPv6.
    pub(crate) const fn v6(read: extern "C" fn(*mut __sk_buff, u32) -> i32) -> Self {
        Self {
            read,
            piece: slow::piece_v6,
            icmp: slow::icmp_v6,
            open: tc_open_v6,
            turn: slow::v6::turn,
            around: slow::around_v6,
            onward: slow::onward_v6,
            answer: slow::reject_v6,
        }
    }
}

/// From a packet to its verdict. `flags`: [`flow::HOST_CLIENT`] at egress.
#[inline(always)]
pub(crate) fn run(skb: &Skb, v4: Functions, v6: Functions, flags: u16) -> i32 {
    match network(skb) {
        Ok((l3, ether::IPV4)) => go::<V4>(skb, l3 as u32, v4, flags),
        Ok((l3, _)) => go::<V6>(skb, l3 as u32, v6, flags),
        Err(reason) => {
            count_reason(reason);
            NEXT
        }
    }
}

/// The functions of a family, one after another.
#[inline(always)]
fn go<A: Named>(skb: &Skb, l3: u32, functions: Functions, flags: u16) -> i32 {
    let context = skb.context();
    let ingress = flags & flow::HOST_CLIENT == 0;
    let mut action = (functions.read)(context, l3);
    if action == PIECE {
        action = (functions.piece)(context, ingress.into(), (!ingress && is_marked(skb)).into());
        if action == AGAIN {
            action = (functions.read)(context, l3 | KNOWN);
        }
    }
    if action == PORTLESS {
        action = (functions.icmp)(context, ingress.into());
    }
    if action == TURN && ingress {
        action = if (functions.turn)() != 0 { AROUND } else { OPEN };
    }
    if action == OPEN {
        action = (functions.open)(context, flags.into());
    }
    action = match action {
        AROUND if ingress => (functions.around)(context),
        ONWARD if ingress => (functions.onward)(context),
        // Beyond the device by which the packet has come, or in this host's own stack.
        ANSWER => (functions.answer)(context, (!ingress).into()),
        _ => action,
    };
    trace::send::<A>(if ingress { At::Ingress } else { At::Egress }, skb.ifindex());
    action
}

/// Whether the source of the packet is to be translated at the backend's boundary.
#[inline(always)]
pub(crate) fn is_marked(skb: &Skb) -> bool {
    skb.mark() & globals::mark() != 0
}

/// Whether the function that has read the packet can go on with it. [`PIECE`] or [`PORTLESS`]: another has to, and finds it
/// in the scratch. `l3`: what that function was given.
#[inline(always)]
pub(crate) fn prepare<A: Family>(packet: &mut Packet<A>, l3: u32) -> Result<(), i32>
where
    Kernel: Env<A>,
{
    trace::begin(&packet.tuple);
    let later = if packet.piece != Piece::Whole {
        PIECE
    } else if Protocol::from_number(packet.tuple.protocol).is_none() {
        PORTLESS
    } else {
        return Ok(());
    };
    let mut scratch = Kernel.scratch().ok_or(SHOT)?;
    if later == PIECE && l3 & KNOWN != 0 {
        packet.tuple = scratch.packet.tuple;
        return Ok(());
    }
    scratch.packet = *packet;
    Err(later)
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
        trace::end::<A>(Reason::NotTransport);
        return NEXT;
    }
    match store(skb, &mut scratch, flags) {
        Ok(()) if scratch.translation.steps & step::TURN != 0 => AROUND,
        Ok(()) => apply(skb, &scratch.packet, &scratch.translation),
        Err(reason) => conclude::<A>(reason),
    }
}

/// Chooses, finds the way if the packet may be turned around, and stores.
#[inline(always)]
fn store<A: Hop>(skb: &Skb, scratch: &mut <Kernel as Env<A>>::Scratch, flags: u16) -> Result<(), Reason>
where
    Kernel: Env<A>,
{
    let turned = flags & flow::HOST_CLIENT == 0 && is_plain(skb, &scratch.packet);
    let flags = if turned { flags | flow::TURNED } else { flags };
    datapath::slow::begin(&Kernel, scratch, skb.ifindex(), flags)?;
    let mut out = 0;
    if scratch.connection.flags & flow::TURNED != 0
        && let Some(way) = way(skb, &scratch.packet, &scratch.connection.tuple(flow::MIDDLE))
    {
        out = way.ifindex;
    }
    datapath::slow::complete(&Kernel, scratch, out)
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
    trace::becomes(&scratch.turned);
    let turned = rewrite(skb, &scratch.packet, &scratch.turned).and_then(|()| A::take(skb, ether::HEADER));
    match turned {
        Ok(()) => {
            trace::end::<A>(Reason::TurnedAround);
            redirect_to_next_hop(&way)
        }
        Err(reason) => {
            trace::end::<A>(reason);
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
    trace::becomes(&translation.tuple);
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
    trace::end::<A>(reason);
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

/// Turns a reason for not translating the packet in the scratch into a verdict, or into what [`go`] has to do.
#[inline(always)]
pub(crate) fn conclude<A: Family>(reason: Reason) -> i32
where
    Kernel: Env<A>,
{
    trace::end::<A>(reason);
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
    let action = conclude::<A>(reason);
    if action == ANSWER {
        let Some(mut scratch) = Kernel.scratch() else { return SHOT };
        scratch.packet = *packet;
    }
    action
}

/// Verdict on a packet that could not be read.
#[inline(always)]
pub(crate) fn unreadable<A: Family>(reason: Reason) -> i32
where
    Kernel: Env<A>,
{
    trace::begin(&Tuple::<A>::default());
    trace::end::<A>(reason);
    NEXT
}
