//! The next hop of a packet whose destination was rewritten after the stack had routed it, or before it ever will.

use aya_ebpf::bindings::bpf_fib_lookup as Lookup;
use svc_common::checksum::Sum;
use svc_common::header::{Ipv4, Ipv6, Tcp, ether};
use svc_common::net::{Protocol, V4, V6};
use svc_common::parse::{Frame as _, Packet, Piece};
use svc_common::tables::device;
use svc_common::tuple::Tuple;
use svc_common::verdict::Reason;

use crate::env::Kernel;
use crate::helpers::{ask_route, no_question, redirect_to_neighbour};
use crate::packet::{Buffer, Raw, Skb};
use crate::rewrite::{Offloads, Wire, put};
use crate::slow;

/// Puts a family's addresses into a routing question.
pub(crate) trait Routed: Wire {
    /// Source and destination.
    fn address(question: &mut Lookup, source: Self, destination: Self);

    /// Runs [`send`] for the translation in the scratch.
    fn route(skb: &Skb) -> i32;
}

impl Routed for V4 {
    #[inline(always)]
    fn address(question: &mut Lookup, source: Self, destination: Self) {
        const INET: u8 = 2;
        question.family = INET;
        question.__bindgen_anon_3.ipv4_src = source.bits();
        question.__bindgen_anon_4.ipv4_dst = destination.bits();
    }

    #[inline(always)]
    fn route(skb: &Skb) -> i32 {
        slow::route_v4(skb.context())
    }
}

impl Routed for V6 {
    #[inline(always)]
    fn address(question: &mut Lookup, source: Self, destination: Self) {
        const INET6: u8 = 10;
        question.family = INET6;
        question.__bindgen_anon_3.ipv6_src = source.words();
        question.__bindgen_anon_4.ipv6_dst = destination.words();
    }

    #[inline(always)]
    fn route(skb: &Skb) -> i32 {
        slow::route_v6(skb.context())
    }
}

/// The question where a packet with this tuple goes that has come by device `ifindex`.
#[inline(always)]
pub(crate) fn question<A: Routed>(tuple: &Tuple<A>, ifindex: u32) -> Lookup {
    let mut question = no_question();
    A::address(&mut question, tuple.source.addr, tuple.destination.addr);
    question.l4_protocol = tuple.protocol;
    question.sport = tuple.source.port.bits();
    question.dport = tuple.destination.port.bits();
    question.ifindex = ifindex;
    question
}

/// Answers of the routing table.
pub(crate) mod answer {
    /// Next hop and link addresses are known.
    pub(crate) const SUCCESS: i64 = 0;
    /// The next hop is known, its link address is not.
    pub(crate) const NO_NEIGHBOUR: i64 = 7;
}

/// Sends a packet of this host on by the route of its new destination. The egress programs of the device that the route
/// names see it again, as a packet between client and backend.
#[inline(always)]
pub(crate) fn send<A: Routed>(skb: &Skb, tuple: &Tuple<A>) -> i32 {
    let own = skb.ifindex();
    let mut question = question(tuple, own);
    match ask_route(skb.context().cast(), &mut question) {
        answer::SUCCESS | answer::NO_NEIGHBOUR => redirect_to_neighbour(question.ifindex),
        // No better way is known than the one it was on.
        _ => redirect_to_neighbour(own),
    }
}

/// One hop less to live.
pub(crate) trait Hop: Routed {
    /// How many hops are left.
    fn left<B: Buffer>(buffer: &B, l3: usize) -> Option<u8>;
    /// Writes one less.
    fn take<B: Buffer + Offloads>(buffer: &B, l3: usize) -> Result<(), Reason>;
    /// Runs [`crate::xdp::way_out`] for the translation in the scratch.
    fn way_out(frame: &Raw) -> u32;
}

impl Hop for V4 {
    #[inline(always)]
    fn left<B: Buffer>(buffer: &B, l3: usize) -> Option<u8> {
        buffer.load::<Ipv4>(l3).map(|ip| ip.ttl)
    }

    #[inline(always)]
    fn take<B: Buffer + Offloads>(buffer: &B, l3: usize) -> Result<(), Reason> {
        let ip = buffer.load::<Ipv4>(l3).ok_or(Reason::CannotRewrite)?;
        // The header checksum answers for it, so the sum over the packet stays.
        let change = Sum::ZERO.sub(u16::from_be_bytes([1, 0]).to_be().into());
        put(buffer, l3, Ipv4 { ttl: ip.ttl.wrapping_sub(1), checksum: change.update(ip.checksum), ..ip })
    }

    #[inline(always)]
    fn way_out(frame: &Raw) -> u32 {
        slow::way_out_v4(frame.context())
    }
}

impl Hop for V6 {
    #[inline(always)]
    fn left<B: Buffer>(buffer: &B, l3: usize) -> Option<u8> {
        buffer.load::<Ipv6>(l3).map(|ip| ip.hop_limit)
    }

    #[inline(always)]
    fn take<B: Buffer + Offloads>(buffer: &B, l3: usize) -> Result<(), Reason> {
        let ip = buffer.load::<Ipv6>(l3).ok_or(Reason::CannotRewrite)?;
        buffer.note(Sum::ZERO.sub(u16::from_be_bytes([0, 1]).to_be().into()));
        put(buffer, l3, Ipv6 { hop_limit: ip.hop_limit.wrapping_sub(1), ..ip })
    }

    #[inline(always)]
    fn way_out(frame: &Raw) -> u32 {
        slow::way_out_v6(frame.context())
    }
}

/// Whether what is turned around may leave by a device.
#[inline(always)]
pub(crate) fn leads_outward(ifindex: u32) -> bool {
    Kernel.device_by_index(ifindex).is_some_and(|device| device.flags & device::OUTWARD != 0)
}

/// Whether a packet at TC ingress can be turned around: it has an Ethernet header, no tags, and was sent to this host.
/// A device that listens to everything sees the frames of others as well, and who was meant turns them around.
#[inline(always)]
pub(crate) fn is_plain<A>(skb: &Skb, packet: &Packet<A>) -> bool {
    packet.l3 == ether::HEADER && skb.vlan_present() == 0 && skb.kind() == 0
}

/// The way on of a packet at TC ingress that becomes `tuple` and is turned around; `None` if that is the stack's to
/// find out: there is no route, the packet is at the end of its life, or too big for the way.
#[inline(always)]
pub(crate) fn way<A: Hop>(skb: &Skb, packet: &Packet<A>, tuple: &Tuple<A>) -> Option<Lookup> {
    if !is_plain(skb, packet) || A::left(skb, ether::HEADER).is_none_or(|hops| hops <= 1) {
        return None;
    }
    let mut question = question(tuple, skb.ifindex());
    question.__bindgen_anon_1.tot_len = segment(skb, packet)?;
    // An unknown neighbour is asked for by the kernel while the packet waits.
    let known = matches!(ask_route(skb.context().cast(), &mut question), answer::SUCCESS | answer::NO_NEIGHBOUR);
    (known && leads_outward(question.ifindex)).then_some(question)
}

/// Length on the wire of a packet, or of each of those that it stands for, from the network header on.
#[inline(always)]
fn segment<A>(skb: &Skb, packet: &Packet<A>) -> Option<u16> {
    let size = skb.gso_size();
    if size == 0 || packet.piece != Piece::Whole {
        return Some(packet.length as u16);
    }
    let header = match packet.tuple.protocol {
        TCP => usize::from(skb.load::<Tcp>(packet.l4)?.offset >> 4) * 4,
        _ => 8,
    };
    Some((packet.l4.wrapping_sub(packet.l3) + header) as u16 + size as u16)
}

const TCP: u8 = Protocol::Tcp as u8;
