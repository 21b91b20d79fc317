//! Datagrams in two pieces.

use super::Frame;

const LINK: usize = 14;
const V4_HEADER: usize = 20;
const V6_HEADER: usize = 40;
/// Length of the IPv6 fragment header.
const EXTENSION: usize = 8;
/// `IPPROTO_FRAGMENT`.
const FRAGMENT: u8 = 44;
/// Where the transport bytes are cut, in units of eight bytes.
const CUT: usize = 3;
/// Identification of the datagram.
const ID: u16 = 0x5c5c;

/// Both fragments of a frame without tags and options whose payload is long enough.
pub fn fragments(frame: &Frame) -> [Vec<u8>; 2] {
    let whole = frame.bytes();
    let v4 = frame.from.is_ipv4();
    let start = LINK + if v4 { V4_HEADER } else { V6_HEADER };
    let (head, rest) = whole[start..].split_at(CUT * 8);
    [(head, 0, true), (rest, CUT, false)].map(|(piece, offset, more)| {
        let mut bytes = whole[..start].to_vec();
        if v4 {
            bytes[LINK + 2..LINK + 4].copy_from_slice(&((V4_HEADER + piece.len()) as u16).to_be_bytes());
            bytes[LINK + 4..LINK + 6].copy_from_slice(&ID.to_be_bytes());
            let place = offset as u16 | if more { 0x2000 } else { 0 };
            bytes[LINK + 6..LINK + 8].copy_from_slice(&place.to_be_bytes());
            finish(&mut bytes[LINK..]);
        } else {
            bytes[LINK + 4..LINK + 6].copy_from_slice(&((EXTENSION + piece.len()) as u16).to_be_bytes());
            let protocol = std::mem::replace(&mut bytes[LINK + 6], FRAGMENT);
            let [high, low] = ((offset as u16) << 3 | u16::from(more)).to_be_bytes();
            bytes.extend([protocol, 0, high, low, 0, 0, 0x5c, 0x5c]);
        }
        bytes.extend(piece);
        bytes
    })
}

/// What two fragments say together.
pub fn reassemble(first: &[u8], later: &[u8]) -> Vec<u8> {
    let v4 = first[LINK] >> 4 == 4;
    let start = LINK + if v4 { V4_HEADER } else { V6_HEADER + EXTENSION };
    assert_eq!(addresses(first), addresses(later), "fragments of one datagram");
    let transport = [&first[start..], &later[start..]].concat();
    let mut bytes = first[..LINK + if v4 { V4_HEADER } else { V6_HEADER }].to_vec();
    if v4 {
        assert_eq!(sum(&first[LINK..start]), 0xffff, "checksum of the first header");
        assert_eq!(sum(&later[LINK..start]), 0xffff, "checksum of the later header");
        bytes[LINK + 2..LINK + 4].copy_from_slice(&((V4_HEADER + transport.len()) as u16).to_be_bytes());
        bytes[LINK + 6..LINK + 8].fill(0);
        finish(&mut bytes[LINK..]);
    } else {
        bytes[LINK + 4..LINK + 6].copy_from_slice(&(transport.len() as u16).to_be_bytes());
        bytes[LINK + 6] = first[LINK + V6_HEADER];
    }
    bytes.extend(transport);
    bytes
}

/// Both addresses of a packet, as they stand in it.
fn addresses(bytes: &[u8]) -> &[u8] {
    if bytes[LINK] >> 4 == 4 { &bytes[LINK + 12..LINK + 20] } else { &bytes[LINK + 8..LINK + 40] }
}

/// Writes the checksum of an IPv4 header without options.
fn finish(header: &mut [u8]) {
    header[10..12].fill(0);
    let checksum = !sum(&header[..V4_HEADER]);
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
}

fn sum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}
