//! Packets as a person would write them, and reading back what the programs made of them.

use std::net::{IpAddr, SocketAddr};

use crate::model::Protocol;

/// Ethernet, IPv6 and TCP headers, and room for what programs may put before them.
pub(super) const ROOM: usize = 256;

const ETHERNET: usize = 14;

/// What kind of packet of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moment {
    /// TCP: SYN; SCTP: INIT.
    First,
    /// TCP: ACK; SCTP: DATA.
    Later,
}

/// Builds a frame.
pub(super) fn build(from: SocketAddr, to: SocketAddr, protocol: Protocol, moment: Moment) -> Vec<u8> {
    let transport = transport(from, to, protocol, moment);
    let mut frame = vec![0x02, 0, 0, 0, 0, 0x02, 0x02, 0, 0, 0, 0, 0x01];
    match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            frame.extend([0x08, 0x00]);
            let mut header = [0; 20];
            header[0] = 0x45;
            header[2..4].copy_from_slice(&(20 + transport.len() as u16).to_be_bytes());
            header[6] = 0x40;
            header[8] = 64;
            header[9] = protocol as u8;
            header[12..16].copy_from_slice(&from.octets());
            header[16..20].copy_from_slice(&to.octets());
            let sum = checksum(&header, 0);
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            frame.extend(header);
        }
        (from, to) => {
            frame.extend([0x86, 0xdd]);
            let mut header = [0; 40];
            header[0] = 0x60;
            header[4..6].copy_from_slice(&(transport.len() as u16).to_be_bytes());
            header[6] = protocol as u8;
            header[7] = 64;
            header[8..24].copy_from_slice(&octets(from));
            header[24..40].copy_from_slice(&octets(to));
            frame.extend(header);
        }
    }
    frame.extend(transport);
    frame
}

fn transport(from: SocketAddr, to: SocketAddr, protocol: Protocol, moment: Moment) -> Vec<u8> {
    const SYN: u8 = 0x02;
    const ACK: u8 = 0x10;
    let mut bytes = Vec::with_capacity(40);
    bytes.extend(from.port().to_be_bytes());
    bytes.extend(to.port().to_be_bytes());
    let field = match (protocol, moment) {
        (Protocol::Tcp, moment) => {
            // Sequence number, acknowledgement, header length, flags, window, checksum, urgent pointer.
            let flags = if moment == Moment::First { SYN } else { ACK };
            bytes.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
            16
        }
        (Protocol::Udp, _) => {
            bytes.extend([0, 12, 0, 0]);
            bytes.extend(*b"test");
            6
        }
        (Protocol::Sctp, Moment::First) => {
            // No verification tag yet, checksum, an INIT chunk of 20 bytes.
            bytes.extend([0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 20, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1]);
            8
        }
        (Protocol::Sctp, Moment::Later) => {
            // Verification tag, checksum, a DATA chunk with four bytes.
            bytes.extend([0, 0, 0, 1, 0, 0, 0, 0, 0, 3, 0, 20, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4]);
            8
        }
    };
    if protocol == Protocol::Sctp {
        let sum = crc32c(&bytes);
        bytes[field..field + 4].copy_from_slice(&sum.to_le_bytes());
    } else {
        let sum = checksum(&bytes, pseudo_header(from.ip(), to.ip(), protocol, bytes.len()));
        let sum = if sum == 0 && protocol == Protocol::Udp { 0xffff } else { sum };
        bytes[field..field + 2].copy_from_slice(&sum.to_be_bytes());
    }
    bytes
}

/// Addresses and ports of a frame; `None` if it is none of ours any more.
pub(super) fn read(frame: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let (from, to, transport): (IpAddr, IpAddr, usize) = match frame.get(ETHERNET)? >> 4 {
        4 => {
            let header: &[u8; 20] = frame.get(ETHERNET..ETHERNET + 20)?.try_into().ok()?;
            let addr = |at: usize| <[u8; 4]>::try_from(&header[at..at + 4]).ok().map(IpAddr::from);
            (addr(12)?, addr(16)?, ETHERNET + usize::from(header[0] & 0xf) * 4)
        }
        6 => {
            let header: &[u8; 40] = frame.get(ETHERNET..ETHERNET + 40)?.try_into().ok()?;
            let addr = |at: usize| <[u8; 16]>::try_from(&header[at..at + 16]).ok().map(IpAddr::from);
            (addr(8)?, addr(24)?, ETHERNET + 40)
        }
        _ => return None,
    };
    let port = |at: usize| Some(u16::from_be_bytes(frame.get(at..at + 2)?.try_into().ok()?));
    Some((SocketAddr::new(from, port(transport)?), SocketAddr::new(to, port(transport + 2)?)))
}

fn octets(addr: IpAddr) -> [u8; 16] {
    match addr {
        IpAddr::V4(addr) => addr.to_ipv6_mapped().octets(),
        IpAddr::V6(addr) => addr.octets(),
    }
}

fn pseudo_header(from: IpAddr, to: IpAddr, protocol: Protocol, length: usize) -> u32 {
    let words = |addr: IpAddr| -> u32 {
        let bytes = match addr {
            IpAddr::V4(addr) => addr.octets().to_vec(),
            IpAddr::V6(addr) => addr.octets().to_vec(),
        };
        bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum()
    };
    words(from) + words(to) + u32::from(protocol as u8) + length as u32
}

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8], start: u32) -> u16 {
    let pairs = bytes.chunks(2);
    let mut sum = pairs
        .fold(start, |sum, pair| sum + u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)])));
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// The checksum of SCTP (RFC 9260, appendix A).
fn crc32c(bytes: &[u8]) -> u32 {
    let bit = |crc: u32| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| bit(crc)))
}

/// What is wrong with the checksums of a frame that [`build`] made and the programs changed.
#[cfg(test)]
pub(super) fn verify(frame: &[u8], protocol: Protocol) -> Result<(), String> {
    let (from, to) = read(frame).ok_or("unreadable")?;
    let transport = if from.is_ipv4() { ETHERNET + 20 } else { ETHERNET + 40 };
    if from.is_ipv4() && checksum(&frame[ETHERNET..transport], 0) != 0 {
        return Err("IPv4 header".to_owned());
    }
    let bytes = &frame[transport..];
    if protocol == Protocol::Sctp {
        let mut blank = bytes.to_vec();
        blank[8..12].fill(0);
        let right = crc32c(&blank).to_le_bytes();
        return if bytes[8..12] == right { Ok(()) } else { Err("SCTP".to_owned()) };
    }
    match checksum(bytes, pseudo_header(from.ip(), to.ip(), protocol, bytes.len())) {
        0 => Ok(()),
        sum => Err(format!("transport {sum:04x}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_built_can_be_read_and_has_right_checksums() {
        let ends = [("10.1.0.7:4000", "10.96.0.1:80"), ("[fd00::7]:4000", "[fd00:96::1]:80")];
        for (from, to) in ends.map(|(from, to)| (from.parse().expect("address"), to.parse().expect("address"))) {
            for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Sctp] {
                for moment in [Moment::First, Moment::Later] {
                    let frame = build(from, to, protocol, moment);
                    assert_eq!(read(&frame), Some((from, to)));
                    assert_eq!(verify(&frame, protocol), Ok(()), "{from} {protocol:?} {moment:?}");
                }
            }
        }
    }

    #[test]
    fn the_sctp_checksum_is_the_published_one() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }
}
