//! A datagram in pieces, and put together again: by code that knows nothing of the programs.

use super::frame::Frame;

/// Length of the Ethernet header.
const LINK: usize = 14;
/// Bit of the IPv4 fragment field: more pieces follow.
const MORE: u16 = 0x2000;

impl Frame {
    /// The frame as pieces of `size` bytes of its IP payload (a multiple of eight), all with this identification. Tags
    /// and options are not for packets in pieces.
    pub fn pieces(&self, id: u16, size: usize) -> Vec<Vec<u8>> {
        assert!(self.tags == 0 && self.options == 0 && self.chain.is_empty() && size.is_multiple_of(8));
        let whole = self.bytes();
        let v4 = self.from.is_ipv4();
        let header = LINK + if v4 { 20 } else { 40 };
        let payload = &whole[header..];
        let count = payload.len().div_ceil(size);
        let piece = |(index, part): (usize, &[u8])| {
            let offset = (index * size / 8) as u16;
            let more = index + 1 < count;
            let mut bytes = whole[..header].to_vec();
            if v4 {
                bytes[LINK + 2..LINK + 4].copy_from_slice(&((20 + part.len()) as u16).to_be_bytes());
                bytes[LINK + 4..LINK + 6].copy_from_slice(&id.to_be_bytes());
                bytes[LINK + 6..LINK + 8].copy_from_slice(&(offset | if more { MORE } else { 0 }).to_be_bytes());
                let sum = checksum(&bytes[LINK..]);
                bytes[LINK + 10..LINK + 12].copy_from_slice(&sum.to_be_bytes());
            } else {
                bytes[LINK + 4..LINK + 6].copy_from_slice(&((8 + part.len()) as u16).to_be_bytes());
                let next = std::mem::replace(&mut bytes[LINK + 6], 44);
                bytes.extend([next, 0]);
                bytes.extend((offset << 3 | u16::from(more)).to_be_bytes());
                bytes.extend(u32::from(id).to_be_bytes());
            }
            bytes.extend(part);
            bytes
        };
        payload.chunks(size).enumerate().map(piece).collect()
    }
}

/// The frame that these pieces make, in whatever order they come.
///
/// # Panics
///
/// If they are not the pieces of one datagram.
pub fn together(pieces: &[Vec<u8>]) -> Vec<u8> {
    let v4 = pieces[0][12..14] == [0x08, 0x00];
    let (header, data) = if v4 { (LINK + 20, LINK + 20) } else { (LINK + 40, LINK + 48) };
    let field = |piece: &[u8]| {
        let at = if v4 { LINK + 6 } else { LINK + 42 };
        let field = u16::from_be_bytes([piece[at], piece[at + 1]]);
        if v4 { usize::from(field & 0x1fff) * 8 } else { usize::from(field & 0xfff8) }
    };
    let mut sorted: Vec<&Vec<u8>> = pieces.iter().collect();
    sorted.sort_by_key(|piece| field(piece));
    let identity = |piece: &[u8]| {
        let ends = if v4 { LINK + 12..LINK + 20 } else { LINK + 8..LINK + 40 };
        let id = if v4 { LINK + 4..LINK + 6 } else { LINK + 44..LINK + 48 };
        (piece[ends].to_vec(), piece[id].to_vec())
    };
    let mut whole = sorted[0][..header].to_vec();
    for piece in &sorted {
        assert_eq!(identity(piece), identity(sorted[0]), "pieces of different datagrams");
        if v4 {
            assert_eq!(checksum_of(&piece[LINK..LINK + 20]), 0, "checksum of a piece's IPv4 header");
        }
        assert_eq!(field(piece), whole.len() - header, "a piece is missing");
        whole.extend(&piece[data..]);
    }
    let length = (whole.len() - header) as u16;
    if v4 {
        whole[LINK + 2..LINK + 4].copy_from_slice(&(20 + length).to_be_bytes());
        whole[LINK + 6..LINK + 8].fill(0);
        let sum = checksum(&whole[LINK..LINK + 20]);
        whole[LINK + 10..LINK + 12].copy_from_slice(&sum.to_be_bytes());
    } else {
        whole[LINK + 4..LINK + 6].copy_from_slice(&length.to_be_bytes());
        whole[LINK + 6] = sorted[0][LINK + 40];
    }
    whole
}

/// The checksum of an IPv4 header whose own field counts as zero.
fn checksum(header: &[u8]) -> u16 {
    let mut header = header[..20].to_vec();
    header[10..12].fill(0);
    checksum_of(&header)
}

/// Complement of the one's complement sum.
fn checksum_of(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
