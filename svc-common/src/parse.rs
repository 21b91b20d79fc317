//! From bytes to a [`Packet`]: IPv4 with options, IPv6 with extension headers, VLAN tags, fragments.
//!
//! Generic over [`Frame`], so the same code runs on packet memory in the kernel and on slices in tests and fuzzers.

use zerocopy::FromBytes;

use crate::header::{Extension, Icmp, Ipv4, Ipv6, Sctp, Tcp, Udp, chunk, ether, protocol, tcp};
use crate::net::{Address, Port, Protocol, V4, V6};
use crate::tuple::{End, Tuple};
use crate::verdict::Reason;

/// Read access to a packet.
pub trait Frame {
    /// The value at `offset`, or `None` if it does not lie wholly inside the packet.
    fn load<T: FromBytes + Copy>(&self, offset: usize) -> Option<T>;

    /// Number of bytes from the start of the frame, also of those that [`Frame::load`] cannot reach.
    fn length(&self) -> u32;

    /// Runs [`follow`]. A method so that the kernel programs can put it into a function that the verifier looks at once.
    fn follow(&self, at: usize, protocol: u8) -> Followed {
        follow(self, at, protocol)
    }
}

/// What a packet says about the life of its connection.
pub mod event {
    /// A connection may begin with this packet.
    pub const OPEN: u8 = 1 << 0;
    /// TCP SYN without ACK, SCTP INIT: this packet cannot belong to a connection that has been going on.
    pub const FIRST: u8 = 1 << 1;
    /// The sender will send no more.
    pub const FIN: u8 = 1 << 2;
    /// The connection is gone.
    pub const RESET: u8 = 1 << 3;
}

/// Which part of a datagram a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Piece {
    /// All of it.
    Whole,
    /// The first fragment, which has the ports.
    First,
    /// A later fragment.
    Later,
}

/// What the datapath knows of a packet.
#[derive(Clone, Copy, Debug)]
pub struct Packet<A> {
    /// Addresses, ports and protocol. Ports are [`Port::NONE`] in later fragments and in protocols without ports.
    pub tuple: Tuple<A>,
    /// `event::*` bits.
    pub event: u8,
    /// Which part of a datagram this is.
    pub piece: Piece,
    /// Identification of the datagram if it comes in fragments. A whole packet has something else there: see
    /// [`Packet::clock`]. One field for both, because the kernel's stack has no room for another.
    pub fragment_id: u32,
    /// Number of bytes from the network header on.
    pub length: u32,
    /// Offset of the network header in the frame.
    pub l3: usize,
    /// Offset of the transport header in the frame.
    pub l4: usize,
}

impl<A> Packet<A> {
    /// The upper half of the sender's TCP timestamp, if this packet can only be a first one; 0: not known.
    #[inline(always)]
    pub fn clock(&self) -> u16 {
        let is_whole = matches!(self.piece, Piece::Whole);
        let is_syn = self.tuple.protocol == Protocol::Tcp as u8 && self.event & event::FIRST != 0;
        if is_whole && is_syn { self.fragment_id as u16 } else { 0 }
    }
}

/// Result of following what stands before the transport header.
#[derive(Clone, Copy)]
struct Transport {
    protocol: u8,
    l4: usize,
    piece: Piece,
    fragment_id: u32,
}

/// Offset of the network header and the Ethernet type behind up to two tags.
#[inline(always)]
pub fn ethernet<F: Frame + ?Sized>(frame: &F) -> Result<(usize, u16), Reason> {
    let kind = frame.load::<u16>(ether::HEADER - 2).ok_or(Reason::Malformed)?;
    match u16::from_be(kind) {
        kind @ (ether::IPV4 | ether::IPV6) => Ok((ether::HEADER, kind)),
        ether::VLAN | ether::QINQ => tagged(frame),
        _ => Err(Reason::NotIp),
    }
}

/// The same behind one tag or two.
#[inline(always)]
fn tagged<F: Frame + ?Sized>(frame: &F) -> Result<(usize, u16), Reason> {
    let kind = frame.load::<u16>(ether::HEADER + ether::TAG - 2).ok_or(Reason::Malformed)?;
    match u16::from_be(kind) {
        kind @ (ether::IPV4 | ether::IPV6) => return Ok((ether::HEADER + ether::TAG, kind)),
        ether::VLAN | ether::QINQ => {}
        _ => return Err(Reason::NotIp),
    }
    let kind = frame.load::<u16>(ether::HEADER + 2 * ether::TAG - 2).ok_or(Reason::Malformed)?;
    match u16::from_be(kind) {
        kind @ (ether::IPV4 | ether::IPV6) => Ok((ether::HEADER + 2 * ether::TAG, kind)),
        ether::VLAN | ether::QINQ => Err(Reason::TooManyExtensions),
        _ => Err(Reason::NotIp),
    }
}

/// The IPv4 packet whose header stands at `l3`.
#[inline(always)]
pub fn ipv4<F: Frame + ?Sized>(frame: &F, l3: usize) -> Result<Packet<V4>, Reason> {
    let ip = frame.load::<Ipv4>(l3).ok_or(Reason::Malformed)?;
    let header = usize::from(ip.version_length & 15) * 4;
    let total = u32::from(u16::from_be(ip.total_length));
    if ip.version_length >> 4 != 4 || header < size_of::<Ipv4>() {
        return Err(Reason::Malformed);
    }
    // A total length of zero is a segment of more than 64 KiB that has not been cut yet.
    let present = frame.length().wrapping_sub(l3 as u32);
    let length = if total == 0 { present } else { total };
    if length > present {
        return Err(Reason::Malformed);
    }
    let fragment = u16::from_be(ip.fragment);
    let piece = if fragment & 0x1fff != 0 {
        Piece::Later
    } else if fragment & 0x2000 != 0 {
        Piece::First
    } else {
        Piece::Whole
    };
    let transport = Transport { protocol: ip.protocol, l4: l3 + header, piece, fragment_id: u32::from(ip.id) };
    finish(frame, ip.source, ip.destination, l3, length, transport)
}

/// The IPv6 packet whose header stands at `l3`.
#[inline(always)]
pub fn ipv6<F: Frame + ?Sized>(frame: &F, l3: usize) -> Result<Packet<V6>, Reason> {
    let ip = frame.load::<Ipv6>(l3).ok_or(Reason::Malformed)?;
    if ip.version_class_flow & 0xf0u32.to_le() != 0x60u32.to_le() {
        return Err(Reason::Malformed);
    }
    let payload = u32::from(u16::from_be(ip.payload_length));
    let present = frame.length().wrapping_sub(l3 as u32);
    let length = if payload == 0 { present } else { payload + size_of::<Ipv6>() as u32 };
    if length > present {
        return Err(Reason::Malformed);
    }
    let l4 = l3 + size_of::<Ipv6>();
    let transport = if is_extension(ip.next) {
        frame.follow(l4, ip.next).transport()?
    } else {
        Transport { protocol: ip.next, l4, piece: Piece::Whole, fragment_id: 0 }
    };
    finish(frame, ip.source, ip.destination, l3, length, transport)
}

/// How many extension headers are followed.
pub const EXTENSIONS: usize = 8;

/// Whether a number is that of an extension header that is followed.
#[inline(always)]
const fn is_extension(number: u8) -> bool {
    matches!(
        number,
        protocol::HOP_BY_HOP
            | protocol::ROUTING
            | protocol::DESTINATION
            | protocol::FRAGMENT
            | protocol::AUTHENTICATION
    )
}

/// What stands behind extension headers, in one number: 16 bits offset, 8 bits protocol, 2 bits piece, 2 bits that say how
/// it went, and the identification of a fragment in the upper half.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Followed(pub u64);

impl Followed {
    /// A header is cut off.
    pub const CUT_OFF: Self = Self(0);
    const FOUND: u64 = 1 << 26;
    const TOO_MANY: u64 = 2 << 26;

    #[inline(always)]
    fn transport(self) -> Result<Transport, Reason> {
        match self.0 & (Self::FOUND | Self::TOO_MANY) {
            Self::FOUND => {}
            Self::TOO_MANY => return Err(Reason::TooManyExtensions),
            _ => return Err(Reason::Malformed),
        }
        let piece = match self.0 >> 24 & 3 {
            0 => Piece::Whole,
            1 => Piece::First,
            _ => Piece::Later,
        };
        let l4 = usize::from(self.0 as u16);
        Ok(Transport { protocol: (self.0 >> 16) as u8, l4, piece, fragment_id: (self.0 >> 32) as u32 })
    }
}

/// Follows IPv6 extension headers, of which the first has this number and stands at this offset.
#[inline(always)]
pub fn follow<F: Frame + ?Sized>(frame: &F, at: usize, number: u8) -> Followed {
    let (mut at, mut number) = (at, number);
    // Piece and identification, where they stand in the answer.
    let mut fragment = 0;
    for _ in 0..=EXTENSIONS {
        if !is_extension(number) {
            return Followed(u64::from(at as u16) | u64::from(number) << 16 | fragment | Followed::FOUND);
        }
        let Some(header) = frame.load::<Extension>(at) else { return Followed::CUT_OFF };
        let (unit, length) = match number {
            protocol::FRAGMENT => (0, 0),
            protocol::AUTHENTICATION => (4, header.length),
            _ => (8, header.length),
        };
        at += size_of::<Extension>() + usize::from(length) * unit;
        let place = u16::from_be(header.fragment);
        if number == protocol::FRAGMENT && place & 0xfff9 != 0 {
            let piece = if place & 0xfff8 != 0 { Piece::Later } else { Piece::First };
            fragment = (piece as u64) << 24 | u64::from(header.id) << 32;
        }
        number = header.next;
        if fragment >> 24 & 3 == Piece::Later as u64 {
            // What follows is payload, whatever its first bytes look like.
            return Followed(u64::from(at as u16) | u64::from(number) << 16 | fragment | Followed::FOUND);
        }
    }
    Followed(Followed::TOO_MANY)
}

/// Ports and events, by transport protocol.
#[inline(always)]
fn finish<F: Frame + ?Sized, A: Address>(
    frame: &F,
    source: A,
    destination: A,
    l3: usize,
    length: u32,
    transport: Transport,
) -> Result<Packet<A>, Reason> {
    let Transport { protocol, l4, piece, mut fragment_id } = transport;
    // Bytes of the frame behind the end of the packet are padding, whatever they look like.
    let needed = match Protocol::from_number(protocol) {
        _ if piece == Piece::Later => 0,
        Some(Protocol::Tcp) => size_of::<Tcp>(),
        Some(Protocol::Udp) => size_of::<Udp>(),
        Some(Protocol::Sctp) => size_of::<Sctp>(),
        None => 0,
    };
    if ((l4 - l3 + needed) as u32) > length {
        return Err(Reason::Malformed);
    }
    let (from, to, event) = if piece == Piece::Later {
        (Port::NONE, Port::NONE, 0)
    } else {
        match Protocol::from_number(protocol) {
            Some(Protocol::Tcp) => {
                let tcp = frame.load::<Tcp>(l4).ok_or(Reason::Malformed)?;
                if tcp.offset < (size_of::<Tcp>() as u8 / 4) << 4 {
                    return Err(Reason::Malformed);
                }
                let event = tcp_event(tcp.flags);
                if event & event::FIRST != 0 && piece == Piece::Whole {
                    fragment_id = tcp_clock(frame, l4, tcp.offset).into();
                }
                (tcp.ports.source, tcp.ports.destination, event)
            }
            Some(Protocol::Udp) => {
                let udp = frame.load::<Udp>(l4).ok_or(Reason::Malformed)?;
                (udp.ports.source, udp.ports.destination, event::OPEN)
            }
            Some(Protocol::Sctp) => {
                let sctp = frame.load::<Sctp>(l4).ok_or(Reason::Malformed)?;
                (sctp.ports.source, sctp.ports.destination, sctp_event(sctp.chunk))
            }
            None => (Port::NONE, Port::NONE, other_event(frame, l4, protocol)?),
        }
    };
    let tuple = Tuple { source: End::new(source, from), destination: End::new(destination, to), protocol };
    Ok(Packet { tuple, event, piece, fragment_id, length, l3, l4 })
}

/// Protocols without ports: nobody can know what goes on between their ends, so each packet may begin something; but
/// of ICMP only an echo request does.
#[inline(always)]
fn other_event<F: Frame + ?Sized>(frame: &F, l4: usize, number: u8) -> Result<u8, Reason> {
    const ECHO: u8 = 8;
    const ECHO_V6: u8 = 128;
    let kind = match number {
        protocol::ICMP | protocol::ICMPV6 => frame.load::<Icmp>(l4).ok_or(Reason::Malformed)?.kind,
        _ => return Ok(event::OPEN),
    };
    Ok(if kind == if number == protocol::ICMP { ECHO } else { ECHO_V6 } { event::OPEN } else { 0 })
}

/// The upper half of the timestamp of a SYN (RFC 7323), where Linux, the BSDs, macOS and Windows have it. One look and no
/// walk over options: who writes them in another order is taken for somebody without timestamps.
#[inline(always)]
fn tcp_clock<F: Frame + ?Sized>(frame: &F, l4: usize, offset: u8) -> u16 {
    // What the option begins with at the end of a word: kind 8, length 10, behind two no-operations or SACK-permitted.
    const PADDED: u32 = u32::from_be_bytes([1, 1, 8, 10]);
    const SACK_PERMITTED: u32 = u32::from_be_bytes([4, 2, 8, 10]);
    let begins = |word: u32| matches!(u32::from_be(word), PADDED | SACK_PERMITTED);
    if usize::from(offset >> 4) * 4 < size_of::<Tcp>() + size_of::<[u32; 5]>() {
        return 0;
    }
    let Some([_, second, third, fourth, _]) = frame.load::<[u32; 5]>(l4 + size_of::<Tcp>()) else { return 0 };
    let timestamp = if begins(second) {
        third
    } else if begins(third) {
        fourth
    } else {
        0
    };
    (u32::from_be(timestamp) >> 16) as u16
}

#[inline(always)]
const fn tcp_event(flags: u8) -> u8 {
    let mut event = 0;
    if flags & (tcp::SYN | tcp::ACK | tcp::RST) == tcp::SYN {
        event |= event::OPEN | event::FIRST;
    }
    if flags & tcp::FIN != 0 {
        event |= event::FIN;
    }
    if flags & tcp::RST != 0 {
        event |= event::RESET;
    }
    event
}

#[inline(always)]
const fn sctp_event(chunk: u8) -> u8 {
    match chunk {
        chunk::INIT => event::OPEN | event::FIRST,
        chunk::SHUTDOWN | chunk::SHUTDOWN_ACK => event::FIN,
        chunk::ABORT => event::RESET,
        _ => 0,
    }
}

/// A frame in a slice: what host tests and fuzzers parse.
impl Frame for [u8] {
    fn load<T: FromBytes + Copy>(&self, offset: usize) -> Option<T> {
        let bytes = self.get(offset..offset.checked_add(size_of::<T>())?)?;
        T::read_from_bytes(bytes).ok()
    }

    fn length(&self) -> u32 {
        self.len() as u32
    }
}
