//! Telling the sender at once: a reset for TCP, "port unreachable" for everything else.
//!
//! The answer is built in the packet itself and leaves by the device of the hook, or goes up into this host's stack if
//! the sender is a process of the host.

use svc_common::checksum::{Sum, pseudo_header};
use svc_common::header::{Icmp, Ipv4, Ipv6, Ports, Tcp, UDP_CHECKSUM, ether, protocol, tcp};
use svc_common::net::{Port, Protocol, V4, V6};
use svc_common::parse::{Frame as _, Packet, Piece};
use svc_common::verdict::Reason;

use crate::helpers::redirect;
use crate::packet::Skb;
use crate::rewrite::{Wire, put};
use crate::tc;

/// Lifetime of an answer, in hops.
const HOPS: u8 = 64;

/// A family's headers.
pub(crate) trait Answer: Wire {
    /// Exchanges the addresses of the network header and gives it a new payload length.
    fn turn(skb: &Skb, packet: &Packet<Self>, payload: u32) -> Result<(), Reason>;

    /// Length of the headers that precede the quoted packet in "port unreachable".
    const HEADERS: usize;

    /// Writes these headers; `quoted` is the length of what follows, `rest` the sum over its transport bytes.
    fn unreachable(skb: &Skb, packet: &Packet<Self>, quoted: usize, rest: Sum) -> Result<(), Reason>;
}

/// Answers the packet: to beyond the device, or up into this host's own stack. What cannot be answered is dropped.
#[inline(always)]
pub(crate) fn reject<A: Answer>(skb: &Skb, packet: &Packet<A>, into_stack: bool) -> i32 {
    // Only the sender of a whole datagram can make sense of an answer.
    if packet.piece != Piece::Whole {
        return tc::SHOT;
    }
    let answered =
        if packet.tuple.protocol == Protocol::Tcp as u8 { reset(skb, packet) } else { unreachable(skb, packet) };
    match answered {
        Ok(()) => redirect(skb.ifindex(), into_stack),
        Err(_) => tc::SHOT,
    }
}

/// Whether the transport checksum at `offset` was left to the device. Only the kernel knows; what it makes of a change
/// by one tells. The field is different afterwards.
#[inline(always)]
fn is_unfinished<A: Answer>(skb: &Skb, packet: &Packet<A>, offset: usize, old: u16) -> bool {
    let length = packet.length.wrapping_sub((packet.l4 - packet.l3) as u32);
    let (from, to) = (packet.tuple.source.addr, packet.tuple.destination.addr);
    if !pseudo_header(from, to, packet.tuple.protocol, length).is_equal(old) {
        return false;
    }
    skb.adjust_unfinished(offset, 1);
    let answer = skb.load::<u16>(offset).unwrap_or(0);
    Sum::ZERO.add(old.into()).add(1).is_equal(answer)
}

/// Exchanges the link addresses, if there are any.
#[inline(always)]
fn turn_link(skb: &Skb, l3: usize) -> Result<(), Reason> {
    if l3 < ether::HEADER {
        return Ok(());
    }
    let [a, b, c, d, e, f] = skb.load::<[u16; 6]>(0).ok_or(Reason::CannotRewrite)?;
    put(skb, 0, [d, e, f, a, b, c])
}

/// Makes the packet a TCP reset (RFC 9293, 3.10.7.1).
#[inline(always)]
fn reset<A: Answer>(skb: &Skb, packet: &Packet<A>) -> Result<(), Reason> {
    let old = skb.load::<Tcp>(packet.l4).ok_or(Reason::CannotRewrite)?;
    if old.flags & tcp::RST != 0 {
        return Err(Reason::NoConnection);
    }
    let unfinished = is_unfinished(skb, packet, packet.l4 + tcp::CHECKSUM, old.checksum);
    let header = u32::from(old.offset >> 4) * 4;
    let data = packet.length.wrapping_sub((packet.l4 - packet.l3) as u32).wrapping_sub(header);
    let flags = u32::from(old.flags & tcp::SYN != 0) + u32::from(old.flags & tcp::FIN != 0);
    let end = u32::from_be(old.sequence).wrapping_add(data).wrapping_add(flags);
    let (sequence, acknowledgement, flags) = if old.flags & tcp::ACK != 0 {
        (old.acknowledgement, 0, tcp::RST)
    } else {
        (0, end.to_be(), tcp::RST | tcp::ACK)
    };
    const LENGTH: u32 = size_of::<Tcp>() as u32;
    skb.change_length(packet.l4 as u32 + LENGTH)?;
    let ports = Ports { source: old.ports.destination, destination: old.ports.source };
    let offset = 5 << 4;
    let pseudo = pseudo_header(packet.tuple.destination.addr, packet.tuple.source.addr, packet.tuple.protocol, LENGTH);
    let checksum = if unfinished {
        pseudo.folded()
    } else {
        pseudo
            .add(ports_word(ports.source, ports.destination))
            .add(sequence)
            .add(acknowledgement)
            .add(u32::from(u16::from_be_bytes([offset, flags]).to_be()))
            .checksum()
    };
    let answer = Tcp { ports, sequence, acknowledgement, offset, flags, window: 0, checksum, urgent: 0 };
    put(skb, packet.l4, answer)?;
    A::turn(skb, packet, LENGTH)?;
    turn_link(skb, packet.l3)
}

/// Two ports as a summand.
#[inline(always)]
fn ports_word(source: Port, destination: Port) -> u32 {
    u32::from(source.bits()) + u32::from(destination.bits())
}

/// Puts "port unreachable" before the packet, and cuts that off behind the eight bytes that say whose it is.
#[inline(always)]
fn unreachable<A: Answer>(skb: &Skb, packet: &Packet<A>) -> Result<(), Reason> {
    let first = skb.load::<[u16; 4]>(packet.l4).ok_or(Reason::CannotRewrite)?;
    let [a, b, c, d] = first.map(u32::from);
    let sum = Sum::ZERO.add(a).add(b).add(c).add(d);
    let udp = packet.tuple.protocol == Protocol::Udp as u8;
    let rest = if udp && is_unfinished(skb, packet, packet.l4 + UDP_CHECKSUM, first[3]) {
        put(skb, packet.l4 + UDP_CHECKSUM, first[3])?;
        // The device will put the complement of the sum over these bytes into the field, whatever they are; what
        // they then sum up to is the complement of what the field holds now.
        Sum::ZERO.sub(first[3].into())
    } else {
        sum
    };
    let quoted = packet.l4 - packet.l3 + 8;
    skb.change_length((packet.l3 + quoted) as u32)?;
    skb.make_room(A::HEADERS as u32)?;
    A::unreachable(skb, packet, quoted, rest)?;
    turn_link(skb, packet.l3)
}

impl Answer for V4 {
    const HEADERS: usize = size_of::<Ipv4>() + size_of::<Icmp>();

    #[inline(always)]
    fn turn(skb: &Skb, packet: &Packet<Self>, payload: u32) -> Result<(), Reason> {
        let old = skb.load::<Ipv4>(packet.l3).ok_or(Reason::CannotRewrite)?;
        let total_length = ((packet.l4 - packet.l3) as u16 + payload as u16).to_be();
        let change = Sum::ZERO
            .sub(old.total_length.into())
            .add(total_length.into())
            .sub(u16::from_be_bytes([old.ttl, 0]).to_be().into())
            .add(u16::from_be_bytes([HOPS, 0]).to_be().into());
        let new = Ipv4 {
            total_length,
            ttl: HOPS,
            checksum: change.update(old.checksum),
            source: old.destination,
            destination: old.source,
            ..old
        };
        put(skb, packet.l3, new)
    }

    #[inline(always)]
    fn unreachable(skb: &Skb, packet: &Packet<Self>, quoted: usize, rest: Sum) -> Result<(), Reason> {
        const DO_NOT_FRAGMENT: u16 = 0x4000;
        const DESTINATION_UNREACHABLE: u8 = 3;
        const PORT: u8 = 3;
        let total_length = ((Self::HEADERS + quoted) as u16).to_be();
        let (source, destination) = (packet.tuple.destination.addr, packet.tuple.source.addr);
        let sum = Sum::ZERO
            .add(u16::from_be_bytes([0x45, 0]).to_be().into())
            .add(total_length.into())
            .add(DO_NOT_FRAGMENT.to_be().into())
            .add(u16::from_be_bytes([HOPS, protocol::ICMP]).to_be().into())
            .add_addr(source)
            .add_addr(destination);
        let ip = Ipv4 {
            version_length: 0x45,
            tos: 0,
            total_length,
            id: 0,
            fragment: DO_NOT_FRAGMENT.to_be(),
            ttl: HOPS,
            protocol: protocol::ICMP,
            checksum: sum.checksum(),
            source,
            destination,
        };
        // The quoted network header has a checksum of its own: it sums up to nothing.
        let sum = rest.add(u16::from_be_bytes([DESTINATION_UNREACHABLE, PORT]).to_be().into());
        let icmp = Icmp { kind: DESTINATION_UNREACHABLE, code: PORT, checksum: sum.checksum(), rest: 0 };
        put(skb, packet.l3, ip)?;
        put(skb, packet.l3 + size_of::<Ipv4>(), icmp)
    }
}

impl Answer for V6 {
    const HEADERS: usize = size_of::<Ipv6>() + size_of::<Icmp>();

    #[inline(always)]
    fn turn(skb: &Skb, packet: &Packet<Self>, payload: u32) -> Result<(), Reason> {
        let old = skb.load::<Ipv6>(packet.l3).ok_or(Reason::CannotRewrite)?;
        let extensions = packet.l4 - packet.l3 - size_of::<Ipv6>();
        let new = Ipv6 {
            payload_length: (extensions as u16 + payload as u16).to_be(),
            hop_limit: HOPS,
            source: old.destination,
            destination: old.source,
            ..old
        };
        put(skb, packet.l3, new)
    }

    #[inline(always)]
    fn unreachable(skb: &Skb, packet: &Packet<Self>, quoted: usize, rest: Sum) -> Result<(), Reason> {
        const DESTINATION_UNREACHABLE: u8 = 1;
        const PORT: u8 = 4;
        let payload = (size_of::<Icmp>() + quoted) as u32;
        let (source, destination) = (packet.tuple.destination.addr, packet.tuple.source.addr);
        let ip = Ipv6 {
            version_class_flow: 0x6000_0000u32.to_be(),
            payload_length: (payload as u16).to_be(),
            next: protocol::ICMPV6,
            hop_limit: HOPS,
            source,
            destination,
        };
        let mut sum = pseudo_header(source, destination, protocol::ICMPV6, payload)
            .plus(rest)
            .add(u16::from_be_bytes([DESTINATION_UNREACHABLE, PORT]).to_be().into());
        // The quoted network header and its extensions have no checksum of their own.
        let start = tc::bounded(packet.l3 as u32) + Self::HEADERS;
        let words = (quoted - 8) / 4;
        for word in 0..MAX_QUOTED_WORDS {
            if word >= words {
                break;
            }
            sum = sum.add(skb.load::<u32>(start + word * 4).ok_or(Reason::CannotRewrite)?);
        }
        if words > MAX_QUOTED_WORDS {
            return Err(Reason::CannotRewrite);
        }
        let icmp = Icmp { kind: DESTINATION_UNREACHABLE, code: PORT, checksum: sum.checksum(), rest: 0 };
        put(skb, packet.l3, ip)?;
        put(skb, packet.l3 + size_of::<Ipv6>(), icmp)
    }
}

/// Longest chain of headers that is quoted, in words: an IPv6 header and 120 bytes of extensions.
const MAX_QUOTED_WORDS: usize = 40;
