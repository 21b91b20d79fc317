//! A packet as text would describe it: to bytes with etherparse, and back, with every checksum computed afresh.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use etherparse::{
    IpNumber, Ipv4Header, Ipv6Header, NetSlice, PacketBuilder, SlicedPacket, TcpHeaderSlice, TransportSlice,
};

/// Number of the authentication header.
const AUTHENTICATION: u8 = 51;

/// Transport protocol and what matters of its header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// TCP with these flags (as in the header: 2 is SYN).
    Tcp(u8),
    /// UDP.
    Udp,
    /// UDP sent without a checksum.
    UdpBare,
    /// SCTP whose first chunk is of this type.
    Sctp(u8),
    /// An echo request.
    Ping,
    /// Another protocol, without ports.
    Other(u8),
}

/// A packet to send.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Source.
    pub from: SocketAddr,
    /// Destination.
    pub to: SocketAddr,
    /// Transport.
    pub kind: Kind,
    /// Payload.
    pub payload: Vec<u8>,
    /// VLAN tags.
    pub tags: u8,
    /// Bytes of IPv4 options, or IPv6 destination options (a multiple of eight).
    pub options: u8,
    /// Hops left.
    pub hops: u8,
    /// Further IPv6 extension headers in this order, by their numbers: of eight bytes, authentication of sixteen.
    pub chain: Vec<u8>,
}

/// What a packet says after the programs have had it, all checksums verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Source.
    pub from: SocketAddr,
    /// Destination.
    pub to: SocketAddr,
    /// IP protocol number.
    pub protocol: u8,
    /// TCP flags, type of the first SCTP chunk, type of ICMP, or 0.
    pub flags: u8,
    /// Hops left.
    pub hops: u8,
    /// Payload.
    pub payload: Vec<u8>,
}

impl Frame {
    /// A packet without options.
    pub fn new(from: &str, to: &str, kind: Kind) -> Self {
        let parse = |text: &str| text.parse().expect("ADDRESS:PORT");
        Self {
            from: parse(from),
            to: parse(to),
            kind,
            payload: b"payload".to_vec(),
            tags: 0,
            options: 0,
            hops: 64,
            chain: Vec::new(),
        }
    }

    /// The packet that answers one that was seen.
    pub fn reply(seen: &Seen, kind: Kind) -> Self {
        Self {
            from: seen.to,
            to: seen.from,
            kind,
            payload: b"answer".to_vec(),
            tags: 0,
            options: 0,
            hops: 64,
            chain: Vec::new(),
        }
    }

    /// As it stands on the wire.
    pub fn bytes(&self) -> Vec<u8> {
        let transport = self.transport();
        let protocol = self.protocol();
        let mut bytes = vec![0x02, 0, 0, 0, 0, 1, 0x02, 0, 0, 0, 0, 2];
        for _ in 0..self.tags {
            bytes.extend([0x81, 0x00, 0x00, 0x07]);
        }
        match (self.from.ip(), self.to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                bytes.extend([0x08, 0x00]);
                let mut header =
                    Ipv4Header::new(transport.len() as u16, self.hops, protocol, from.octets(), to.octets())
                        .expect("length");
                if self.options > 0 {
                    // No operation, as often as it takes.
                    header.options = vec![1u8; self.options.into()].as_slice().try_into().expect("options");
                }
                header.set_payload_len(transport.len()).expect("length");
                header.header_checksum = header.calc_header_checksum();
                header.write(&mut bytes).expect("a vector");
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                bytes.extend([0x86, 0xdd]);
                let mut chain = self.chain.clone();
                chain.extend((self.options > 0).then_some(60));
                let mut next = chain.iter().skip(1).copied().chain([protocol.0]);
                let header = Ipv6Header {
                    payload_length: (transport.len() + self.chain_length() + usize::from(self.options)) as u16,
                    next_header: chain.first().map_or(protocol, |number| IpNumber(*number)),
                    hop_limit: self.hops,
                    source: from.octets(),
                    destination: to.octets(),
                    ..Ipv6Header::default()
                };
                header.write(&mut bytes).expect("a vector");
                for number in &self.chain {
                    let next = next.next().expect("one more than headers");
                    bytes.extend(match number {
                        // Routing: of an unknown type, no segment left. Fragment: the only one.
                        43 => [next, 0, 253, 0, 0, 0, 0, 0],
                        44 => [next, 0, 0, 0, 0, 0, 0, 7],
                        // Counts words less two.
                        51 => [next, 2, 0, 0, 0, 0, 0, 1],
                        _ => [next, 0, 1, 4, 0, 0, 0, 0],
                    });
                    bytes.extend(&[0; 8][..if *number == AUTHENTICATION { 8 } else { 0 }]);
                }
                if self.options > 0 {
                    let mut options = vec![0u8; self.options.into()];
                    (options[0], options[1]) = (protocol.0, self.options / 8 - 1);
                    // PadN over the rest.
                    (options[2], options[3]) = (1, self.options - 4);
                    bytes.extend(options);
                }
            }
            _ => panic!("two families in one packet"),
        }
        bytes.extend(transport);
        bytes
    }

    /// Number of bytes of the chain.
    fn chain_length(&self) -> usize {
        self.chain.iter().map(|number| if *number == AUTHENTICATION { 16 } else { 8 }).sum()
    }

    /// Number of the transport protocol.
    fn protocol(&self) -> IpNumber {
        match self.kind {
            Kind::Tcp(_) => IpNumber::TCP,
            Kind::Udp | Kind::UdpBare => IpNumber::UDP,
            Kind::Sctp(_) => IpNumber::SCTP,
            Kind::Ping if self.from.is_ipv4() => IpNumber::ICMP,
            Kind::Ping => IpNumber::IPV6_ICMP,
            Kind::Other(number) => IpNumber(number),
        }
    }

    /// The transport header and payload, with its checksum.
    fn transport(&self) -> Vec<u8> {
        let (from, to) = (self.from.port(), self.to.port());
        let builder = match (self.from.ip(), self.to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => PacketBuilder::ipv4(from.octets(), to.octets(), 64),
            (IpAddr::V6(from), IpAddr::V6(to)) => PacketBuilder::ipv6(from.octets(), to.octets(), 64),
            _ => panic!("two families in one packet"),
        };
        let network = if self.from.is_ipv4() { 20 } else { 40 };
        let mut bytes = Vec::new();
        match self.kind {
            Kind::Tcp(flags) => {
                let mut tcp = etherparse::TcpHeader::new(from, to, 1000, 64_000);
                tcp.syn = flags & 2 != 0;
                tcp.fin = flags & 1 != 0;
                tcp.rst = flags & 4 != 0;
                tcp.ack = flags & 16 != 0;
                tcp.acknowledgment_number = 2000;
                builder.tcp_header(tcp).write(&mut bytes, &self.payload).expect("a vector");
            }
            Kind::Udp | Kind::UdpBare => {
                builder.udp(from, to).write(&mut bytes, &self.payload).expect("a vector");
            }
            Kind::Sctp(chunk) => return sctp(from, to, chunk, &self.payload),
            Kind::Ping => match self.from.ip() {
                IpAddr::V4(_) => builder.icmpv4_echo_request(7, 1).write(&mut bytes, &self.payload).expect("a vector"),
                IpAddr::V6(_) => builder.icmpv6_echo_request(7, 1).write(&mut bytes, &self.payload).expect("a vector"),
            },
            Kind::Other(_) => return self.payload.clone(),
        }
        let mut transport = bytes.split_off(network);
        if self.kind == Kind::UdpBare {
            transport[6..8].fill(0);
        }
        transport
    }
}

/// An SCTP packet of one chunk, with its CRC.
fn sctp(from: u16, to: u16, chunk: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = [from.to_be_bytes(), to.to_be_bytes()].concat();
    bytes.extend([0, 0, 0, 9, 0, 0, 0, 0, chunk, 0]);
    bytes.extend((4 + payload.len() as u16).to_be_bytes());
    bytes.extend(payload);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    let crc = crc32c(&bytes);
    bytes[8..12].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// CRC32c (RFC 9260, appendix A), bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes
        .iter()
        .fold(!0u32, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0x82f6_3b78 * (crc & 1))))
}

impl Seen {
    /// Reads a frame and verifies its checksums.
    pub fn read(bytes: &[u8]) -> Self {
        let packet = SlicedPacket::from_ethernet(bytes).expect("a packet that can be read");
        let net = packet.net.as_ref().expect("an IP packet");
        let (from, to, hops): (IpAddr, IpAddr, u8) = match net {
            NetSlice::Ipv4(ip) => {
                let header = ip.header();
                assert_eq!(
                    header.header_checksum(),
                    header.to_header().calc_header_checksum(),
                    "checksum of the IPv4 header"
                );
                (header.source_addr().into(), header.destination_addr().into(), header.ttl())
            }
            NetSlice::Ipv6(ip) => {
                let header = ip.header();
                (header.source_addr().into(), header.destination_addr().into(), header.hop_limit())
            }
            NetSlice::Arp(_) => panic!("an ARP packet"),
        };
        let ip = net.ip_payload_ref().expect("an IP packet");
        if ip.ip_number == IpNumber::SCTP {
            let (protocol, flags) = (ip.ip_number.0, ip.payload[12]);
            let (ports, payload) = read_sctp(ip.payload);
            let (from, to) = (SocketAddr::new(from, ports.0), SocketAddr::new(to, ports.1));
            return Self { from, to, protocol, flags, hops, payload };
        }
        let (ports, protocol, flags, payload) = match packet.transport.as_ref().expect("a transport header") {
            TransportSlice::Tcp(tcp) => {
                verify(from, to, 6, tcp.slice());
                let header = TcpHeaderSlice::from_slice(tcp.slice()).expect("a TCP header");
                let flags = header.slice()[13];
                ((tcp.source_port(), tcp.destination_port()), 6, flags, tcp.payload().to_vec())
            }
            TransportSlice::Udp(udp) => {
                if udp.checksum() != 0 {
                    verify(from, to, 17, udp.slice());
                } else {
                    assert!(from.is_ipv4(), "IPv6 has no UDP without a checksum");
                }
                ((udp.source_port(), udp.destination_port()), 17, 0, udp.payload().to_vec())
            }
            TransportSlice::Icmpv4(icmp) => {
                assert_eq!(fold(&[icmp.slice()]), 0xffff, "checksum of ICMP");
                ((0, 0), 1, icmp.type_u8(), icmp.payload().to_vec())
            }
            TransportSlice::Icmpv6(icmp) => {
                verify(from, to, 58, icmp.slice());
                ((0, 0), 58, icmp.type_u8(), icmp.payload().to_vec())
            }
            TransportSlice::Igmp(_) => panic!("an IGMP packet"),
        };
        Self { from: SocketAddr::new(from, ports.0), to: SocketAddr::new(to, ports.1), protocol, flags, hops, payload }
    }
}

/// Ports and chunks of an SCTP packet whose CRC is right.
fn read_sctp(segment: &[u8]) -> ((u16, u16), Vec<u8>) {
    let mut blank = segment.to_vec();
    blank[8..12].fill(0);
    assert_eq!(segment[8..12], crc32c(&blank).to_le_bytes(), "CRC of SCTP");
    let port = |at: usize| u16::from_be_bytes([segment[at], segment[at + 1]]);
    ((port(0), port(2)), segment[12..].to_vec())
}

/// Sums a transport segment up with its pseudo header, byte by byte.
fn verify(from: IpAddr, to: IpAddr, protocol: u8, segment: &[u8]) {
    let octets = |addr: IpAddr| match addr {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    let tail = [0, protocol, (segment.len() >> 8) as u8, segment.len() as u8];
    let sum = fold(&[&octets(from), &octets(to), &tail, segment]);
    assert_eq!(sum, 0xffff, "transport checksum of {from} -> {to}, protocol {protocol}");
}

/// One's complement sum of byte strings, each padded to whole words.
fn fold(parts: &[&[u8]]) -> u16 {
    let mut sum = 0u32;
    for part in parts {
        for pair in part.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            sum = (sum & 0xffff) + (sum >> 16);
        }
    }
    sum as u16
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -> {} protocol {} flags {:#x} hops {}", self.from, self.to, self.protocol, self.flags, self.hops)
    }
}
