//! New addresses and ports into a packet, with all its checksums. The only place that changes bytes of a packet that
//! goes on.
//!
//! At TC a transport checksum can be in one of three states, which a program cannot see: finished; left to the device
//! (the field holds the sum of the pseudo header); or finished, with a sum over the whole packet kept beside it. XDP
//! sees finished checksums only.

use svc_common::checksum::{Sum, pseudo_header};
use svc_common::datapath::env::Family;
use svc_common::header::{Ports, SCTP_CHECKSUM, UDP_CHECKSUM, tcp};
use svc_common::net::{Port, Protocol, V4, V6};
use svc_common::parse::{Frame as _, Packet, Piece};
use svc_common::tuple::{End, Tuple};
use svc_common::verdict::Reason;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::packet::{Buffer, Skb};
use crate::slow;

/// Where the headers of a family have their addresses.
pub(crate) trait Wire: Family + FromBytes + IntoBytes + Immutable {
    /// Offset of the source address; the destination follows it.
    const SOURCE: usize;
    /// Offset of the header checksum, if there is one.
    const CHECKSUM: Option<usize>;
}

impl Wire for V4 {
    const SOURCE: usize = 12;
    const CHECKSUM: Option<usize> = Some(10);
}

impl Wire for V6 {
    const SOURCE: usize = 8;
    const CHECKSUM: Option<usize> = None;
}

/// What a rewrite changes, as summands of checksums.
#[derive(Clone, Copy)]
pub(crate) struct Change {
    /// Both ports before, as they stand in memory.
    ports_before: u32,
    /// Both ports after.
    ports_after: u32,
    /// New addresses less old ones.
    pub(crate) addresses: Sum,
    /// New ports less old ones.
    pub(crate) ports: Sum,
}

impl Change {
    #[inline(always)]
    pub(crate) fn between<A: Wire>(old: &Tuple<A>, new: &Tuple<A>) -> Self {
        let addresses = Sum::ZERO
            .sub_addr(old.source.addr)
            .add_addr(new.source.addr)
            .sub_addr(old.destination.addr)
            .add_addr(new.destination.addr);
        let (ports_before, ports_after) = (ports_word(old), ports_word(new));
        let ports = Sum::ZERO.sub(ports_before).add(ports_after);
        Self { ports_before, ports_after, addresses, ports }
    }
}

/// Both ports as they stand in memory.
#[inline(always)]
fn ports_word<A: Wire>(tuple: &Tuple<A>) -> u32 {
    let (source, destination) = (tuple.source.port.bits(), tuple.destination.port.bits());
    if cfg!(target_endian = "little") {
        u32::from(source) | u32::from(destination) << 16
    } else {
        u32::from(source) << 16 | u32::from(destination)
    }
}

/// Writes the tuple `new` into the packet.
///
/// Whatever can fail is tried before the first byte changes, except for memory that has just been read.
#[inline(always)]
pub(crate) fn rewrite<A: Wire, B: Buffer + Offloads>(
    buffer: &B,
    packet: &Packet<A>,
    new: &Tuple<A>,
) -> Result<(), Reason> {
    let old = present(buffer, packet)?;
    let change = Change::between(&old, new);
    if packet.piece != Piece::Later {
        transport(buffer, packet, &old, &change)?;
        let ports = Ports { source: new.source.port, destination: new.destination.port };
        put(buffer, packet.l4, ports)?;
    }
    put(buffer, packet.l3 + A::SOURCE, new.source.addr)?;
    put(buffer, packet.l3 + A::SOURCE + size_of::<A>(), new.destination.addr)?;
    if let Some(offset) = A::CHECKSUM {
        let old = buffer.load::<u16>(packet.l3 + offset).ok_or(Reason::CannotRewrite)?;
        put(buffer, packet.l3 + offset, change.addresses.update(old))?;
    }
    Ok(())
}

/// The tuple as it stands in the packet. Read again, so that the parser's copy need not be kept all the way: eight words
/// of IPv6 addresses are a sixth of the kernel's stack.
#[inline(always)]
fn present<A: Wire, B: Buffer>(buffer: &B, packet: &Packet<A>) -> Result<Tuple<A>, Reason> {
    let [source, destination] = buffer.load::<[A; 2]>(packet.l3 + A::SOURCE).ok_or(Reason::CannotRewrite)?;
    let ports = if packet.piece == Piece::Later {
        Ports { source: Port::NONE, destination: Port::NONE }
    } else {
        buffer.load::<Ports>(packet.l4).ok_or(Reason::CannotRewrite)?
    };
    Ok(Tuple {
        source: End::new(source, ports.source),
        destination: End::new(destination, ports.destination),
        protocol: packet.tuple.protocol,
    })
}

/// Writes a value, or says why not.
#[inline(always)]
pub(crate) fn put<B: Buffer, T: IntoBytes + Immutable>(buffer: &B, offset: usize, value: T) -> Result<(), Reason> {
    if buffer.store(offset, value) { Ok(()) } else { Err(Reason::CannotRewrite) }
}

/// The transport checksum. The addresses and ports in the packet are still the old ones.
#[inline(always)]
fn transport<A: Wire, B: Buffer + Offloads>(
    buffer: &B,
    packet: &Packet<A>,
    old_tuple: &Tuple<A>,
    change: &Change,
) -> Result<(), Reason> {
    let length = packet.length.wrapping_sub((packet.l4 - packet.l3) as u32);
    const TCP: u8 = Protocol::Tcp as u8;
    const UDP: u8 = Protocol::Udp as u8;
    let udp = packet.tuple.protocol == UDP;
    let offset = match packet.tuple.protocol {
        TCP => packet.l4 + tcp::CHECKSUM,
        UDP => packet.l4 + UDP_CHECKSUM,
        // The CRC of SCTP covers the whole datagram, and a piece does not know how long that is.
        _ if packet.piece != Piece::Whole && change.ports_before != change.ports_after => {
            return Err(Reason::CannotRewrite);
        }
        _ => return sctp(buffer, packet.l4, length, change),
    };
    let old = buffer.load::<u16>(offset).ok_or(Reason::CannotRewrite)?;
    if udp && old == 0 {
        // Sent without a checksum, and stays so. Only the ports change the sum over the packet.
        buffer.note(change.ports);
        return Ok(());
    }
    if B::OFFLOADS {
        let (from, to) = (old_tuple.source.addr, old_tuple.destination.addr);
        let unfinished = pseudo_header(from, to, packet.tuple.protocol, length);
        if unfinished.is_equal(old) {
            return buffer.settle(Field { offset, old, udp, v6: A::VERSION == 6 }, change);
        }
        if A::VERSION == 4 {
            // The header checksum answers for the addresses, so the transport checksum's answer is one too many.
            buffer.note(Sum::ZERO.minus(change.addresses));
        }
    }
    put(buffer, offset, finished(change.addresses.plus(change.ports).update(old), udp))
}

/// A finished UDP checksum is never zero: that would mean "none".
#[inline(always)]
const fn finished(checksum: u16, udp: bool) -> u16 {
    if udp && checksum == 0 { 0xffff } else { checksum }
}

/// SCTP covers neither addresses nor pseudo header: its CRC follows the ports alone.
#[inline(always)]
fn sctp<B: Buffer + Offloads>(buffer: &B, l4: usize, length: u32, change: &Change) -> Result<(), Reason> {
    let old = buffer.load::<u32>(l4 + SCTP_CHECKSUM).ok_or(Reason::CannotRewrite)?;
    let new = slow::crc32c_of_ports(old, change.ports_before, change.ports_after, length);
    put(buffer, l4 + SCTP_CHECKSUM, new)?;
    buffer.note(change.ports.sub(old).add(new));
    Ok(())
}

/// A transport checksum.
pub(crate) struct Field {
    /// Where it stands.
    pub(crate) offset: usize,
    /// What it holds.
    pub(crate) old: u16,
    /// Zero means "none".
    pub(crate) udp: bool,
    /// There is no header checksum beside it.
    pub(crate) v6: bool,
}

/// What the checksum states of a buffer ask for.
pub(crate) trait Offloads {
    /// The packet's bytes change by `difference` in sum.
    fn note(&self, difference: Sum);

    /// Adjusts a checksum field that is probably left to the device, and finds out whether it is.
    fn settle(&self, field: Field, change: &Change) -> Result<(), Reason>;
}

impl Offloads for Skb {
    #[inline(always)]
    fn note(&self, difference: Sum) {
        self.adjust_sum(difference.word());
    }

    #[inline(always)]
    fn settle(&self, field: Field, change: &Change) -> Result<(), Reason> {
        let Field { offset, old, udp, v6 } = field;
        let what = u32::from(old) | u32::from(udp) << 16 | u32::from(v6) << 17;
        let done = slow::settle(self.context(), offset as u32, what, change.addresses.word(), change.ports.word());
        if done != 0 { Ok(()) } else { Err(Reason::CannotRewrite) }
    }
}

impl Offloads for crate::packet::Raw {
    #[inline(always)]
    fn note(&self, _difference: Sum) {}

    #[inline(always)]
    fn settle(&self, _field: Field, _change: &Change) -> Result<(), Reason> {
        Ok(())
    }
}

/// A field that equals the sum of the pseudo header is unfinished but for one case in 65,536. The kernel knows: it is
/// given the change of addresses, and what it makes of the field tells which.
#[inline(always)]
pub(crate) fn settle(skb: &Skb, field: Field, addresses: Sum, ports: Sum) -> Result<(), Reason> {
    let Field { offset, old, udp, v6 } = field;
    // A change of nothing would tell nothing: then one is added first and taken away afterwards.
    let silent = addresses.is_equal(0);
    let asked = if silent { Sum::ZERO.add(1) } else { addresses };
    skb.adjust_unfinished(offset, asked.word());
    let answer = skb.load::<u16>(offset).ok_or(Reason::CannotRewrite)?;
    let unfinished = Sum::ZERO.add(asked.update_partial(old).into()).is_equal(answer);
    if silent {
        skb.adjust_unfinished(offset, Sum::ZERO.sub(1).word());
    }
    if unfinished {
        // The device will sum up the ports as it finds them.
        return Ok(());
    }
    if v6 && !silent {
        // The kernel has let the sum over the packet follow a change that the addresses compensate themselves.
        skb.adjust_sum(addresses.word());
    }
    put(skb, offset, finished(addresses.plus(ports).update(old), udp))
}
