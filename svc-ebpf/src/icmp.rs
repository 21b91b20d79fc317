//! ICMP errors, outside and inside.

use svc_common::checksum::Sum;
use svc_common::datapath::env::Env;
use svc_common::datapath::icmp::{ErrorTranslation, translate};
use svc_common::datapath::step;
use svc_common::header::{Icmp, Ipv4, Ipv6, Ports, UDP_CHECKSUM, ether, protocol, tcp};
use svc_common::net::{Port, Protocol, V4, V6};
use svc_common::parse::{Frame as _, Packet};
use svc_common::tuple::{End, Tuple};
use svc_common::verdict::Reason;

use crate::env::Kernel;
use crate::globals;
use crate::helpers::redirect_to_next_hop;
use crate::packet::Skb;
use crate::rewrite::{Wire, put};
use crate::route::{Hop, way};
use crate::tc::{self, NEXT, SHOT};
use crate::trace;

/// A quoted packet.
pub(crate) struct Quoted<A> {
    /// Its tuple.
    tuple: Tuple<A>,
    /// Offset of its network header.
    l3: usize,
    /// Offset of its ports.
    l4: usize,
}

/// Headers of a family that quote and are quoted.
pub(crate) trait Quoting: Wire {
    /// Number of the family's ICMP.
    const ICMP: u8;
    /// Whether a type is that of an error.
    fn is_error(kind: u8) -> bool;
    /// The packet that is quoted behind the ICMP header at `l4`, if its ports are there.
    fn quoted(skb: &Skb, l4: usize) -> Option<Quoted<Self>>;
}

impl Quoting for V4 {
    const ICMP: u8 = protocol::ICMP;

    #[inline(always)]
    fn is_error(kind: u8) -> bool {
        // Destination unreachable, time exceeded, parameter problem.
        matches!(kind, 3 | 11 | 12)
    }

    #[inline(always)]
    fn quoted(skb: &Skb, l4: usize) -> Option<Quoted<Self>> {
        let l3 = l4 + size_of::<Icmp>();
        let ip = skb.load::<Ipv4>(l3)?;
        // A later fragment has no ports.
        if ip.version_length >> 4 != 4 || u16::from_be(ip.fragment) & 0x1fff != 0 {
            return None;
        }
        let l4 = l3 + usize::from(ip.version_length & 15) * 4;
        read(skb, l3, l4, ip.protocol, ip.source, ip.destination)
    }
}

impl Quoting for V6 {
    const ICMP: u8 = protocol::ICMPV6;

    #[inline(always)]
    fn is_error(kind: u8) -> bool {
        // RFC 4443, 2.1: errors have the high bit clear.
        kind & 0x80 == 0
    }

    #[inline(always)]
    fn quoted(skb: &Skb, l4: usize) -> Option<Quoted<Self>> {
        let l3 = l4 + size_of::<Icmp>();
        let ip = skb.load::<Ipv6>(l3)?;
        // Services are seldom asked with extension headers, and errors about such packets are left alone.
        read(skb, l3, l3 + size_of::<Ipv6>(), ip.next, ip.source, ip.destination)
    }
}

/// The tuple of a quoted packet.
#[inline(always)]
fn read<A: Wire>(skb: &Skb, l3: usize, l4: usize, number: u8, source: A, destination: A) -> Option<Quoted<A>> {
    Protocol::from_number(number)?;
    let ports = skb.load::<Ports>(l4)?;
    let tuple = Tuple {
        source: End::new(source, ports.source),
        destination: End::new(destination, ports.destination),
        protocol: number,
    };
    Some(Quoted { tuple, l3, l4 })
}

/// Translates the packet in the scratch if it is an error about a connection through a Service. `None`: it is no error.
#[inline(always)]
pub(crate) fn run<A: Quoting>(skb: &Skb, packet: &Packet<A>, ingress: bool) -> Option<i32>
where
    Kernel: Env<A>,
{
    // The masks change nothing that could be translated, and give the verifier bounds that it can see.
    let packet = &Packet { l3: tc::bounded(packet.l3 as u32), l4: packet.l4 & 0x7ff, ..*packet };
    let icmp = skb.load::<Icmp>(packet.l4)?;
    if packet.tuple.protocol != A::ICMP || !A::is_error(icmp.kind) {
        return None;
    }
    let (reason, action) = match error(skb, packet, ingress) {
        Ok(action) => (Reason::Translated, action),
        Err(reason @ Reason::CannotRewrite) => (reason, SHOT),
        Err(reason) => (reason, NEXT),
    };
    trace::end::<A>(reason);
    Some(action)
}

#[inline(always)]
fn error<A: Quoting>(skb: &Skb, packet: &Packet<A>, ingress: bool) -> Result<i32, Reason>
where
    Kernel: Env<A>,
{
    let quoted = A::quoted(skb, packet.l4).ok_or(Reason::IcmpUnrelated)?;
    let new = translate(&Kernel, packet, &quoted.tuple, ingress, tc::is_marked(skb))?;
    write(skb, packet, &quoted, &new)?;
    if new.steps & step::MARK != 0 {
        skb.set_mark(skb.mark() | globals::mark());
    }
    if new.steps & step::UNMARK != 0 {
        skb.set_mark(skb.mark() & !globals::mark());
    }
    Ok(if new.steps & step::TURN != 0 { tc::ONWARD } else { NEXT })
}

/// Sends an error that has been translated at both ends on, by the way of its new destination. If there is none for
/// such packets, the stack has to know it.
#[inline(always)]
pub(crate) fn onward<A: Quoting + Hop>(skb: &Skb, packet: &Packet<A>) -> i32 {
    let Some([source, destination]) = skb.load::<[A; 2]>(ether::HEADER + A::SOURCE) else { return NEXT };
    let tuple = Tuple {
        source: End::new(source, Port::NONE),
        destination: End::new(destination, Port::NONE),
        protocol: A::ICMP,
    };
    match way(skb, packet, &tuple) {
        Some(way) if A::take(skb, ether::HEADER).is_ok() => redirect_to_next_hop(&way),
        _ => NEXT,
    }
}

/// Writes what has changed, inside and then outside. The ICMP checksum covers all that is quoted, checksums included.
#[inline(always)]
fn write<A: Quoting>(
    skb: &Skb,
    packet: &Packet<A>,
    quoted: &Quoted<A>,
    new: &ErrorTranslation<A>,
) -> Result<(), Reason> {
    let old = &quoted.tuple;
    let inner = Sum::ZERO
        .sub_addr(old.source.addr)
        .add_addr(new.quoted.source.addr)
        .sub_addr(old.destination.addr)
        .add_addr(new.quoted.destination.addr);
    let outer = Sum::ZERO
        .sub_addr(packet.tuple.source.addr)
        .add_addr(new.source)
        .sub_addr(packet.tuple.destination.addr)
        .add_addr(new.destination);
    let ports = Sum::ZERO
        .sub(old.source.port.bits().into())
        .add(new.quoted.source.port.bits().into())
        .sub(old.destination.port.bits().into())
        .add(new.quoted.destination.port.bits().into());
    let mut difference = inner.plus(ports);
    put(skb, quoted.l3 + A::SOURCE, [new.quoted.source.addr, new.quoted.destination.addr])?;
    put(skb, quoted.l4, Ports { source: new.quoted.source.port, destination: new.quoted.destination.port })?;
    if let Some(offset) = A::CHECKSUM {
        difference = difference.plus(update(skb, quoted.l3 + offset, inner)?);
        let old = skb.load::<u16>(packet.l3 + offset).ok_or(Reason::CannotRewrite)?;
        put(skb, packet.l3 + offset, outer.update(old))?;
    }
    // The quoted transport checksum, if the quotation is long enough to have it. Nobody verifies it, but who compares
    // it with what he has sent finds what he has sent.
    let field = match old.protocol {
        TCP => quoted.l4 + tcp::CHECKSUM,
        _ => quoted.l4 + UDP_CHECKSUM,
    };
    if old.protocol != SCTP && skb.load::<u16>(field).is_some_and(|old| old != 0) {
        difference = difference.plus(update(skb, field, inner.plus(ports))?);
    }
    put(skb, packet.l3 + A::SOURCE, [new.source, new.destination])?;
    // ICMP for IPv6 has a pseudo header with the outer addresses.
    let difference = if A::VERSION == 6 { difference.plus(outer) } else { difference };
    const CHECKSUM: usize = 2;
    let old = skb.load::<u16>(packet.l4 + CHECKSUM).ok_or(Reason::CannotRewrite)?;
    put(skb, packet.l4 + CHECKSUM, difference.update(old))
}

const TCP: u8 = Protocol::Tcp as u8;
const SCTP: u8 = Protocol::Sctp as u8;

/// Updates a checksum field, and says by how much the field itself has changed.
#[inline(always)]
fn update(skb: &Skb, offset: usize, change: Sum) -> Result<Sum, Reason> {
    let old = skb.load::<u16>(offset).ok_or(Reason::CannotRewrite)?;
    let new = change.update(old);
    put(skb, offset, new)?;
    Ok(Sum::ZERO.sub(old.into()).add(new.into()))
}
