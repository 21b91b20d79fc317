//! Netlink by hand: one request and its answers, for what rtnetlink has no types for.
//!
//! Numbers are in host byte order, attributes are padded to four bytes (`linux/netlink.h`).

use std::io;

use rtnetlink::sys::{Socket, SocketAddr};

/// `NETLINK_ROUTE`: devices, qdiscs, filters.
pub const ROUTE: isize = 0;
/// `NETLINK_NETFILTER`: nftables.
pub const NETFILTER: isize = 12;

/// All objects of a kind, instead of one.
pub const DUMP: u16 = 0x300;
/// Make the object if it is not there; with what is there, replace it.
pub const CREATE: u16 = 0x400;
/// Fail with `EEXIST` if the object is there.
pub const EXCLUSIVE: u16 = 0x200;

const REQUEST: u16 = 0x1;
const ACKNOWLEDGE: u16 = 0x4;
const ERROR: u16 = 2;
const DONE: u16 = 3;
const HEADER: usize = 16;

/// A message: its type, and what follows the header.
pub type Message = (u16, Vec<u8>);

/// A question or an order.
#[derive(Clone, Debug)]
pub struct Request(Vec<u8>);

impl Request {
    /// Of a type, with the fixed part of its body.
    pub fn new(kind: u16, flags: u16, fixed: &[u8]) -> Self {
        let acknowledge = if flags & DUMP == DUMP { 0 } else { ACKNOWLEDGE };
        let mut bytes = vec![0; 4];
        bytes.extend(kind.to_ne_bytes());
        bytes.extend((REQUEST | acknowledge | flags).to_ne_bytes());
        bytes.extend([0; 8]);
        bytes.extend(fixed);
        Self(bytes)
    }

    /// With one more attribute.
    #[must_use]
    pub fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        push(&mut self.0, kind, value);
        self
    }

    /// Sends it and waits for all answers.
    pub fn ask(mut self, protocol: isize) -> io::Result<Vec<Message>> {
        let length = self.0.len() as u32;
        self.0[..4].copy_from_slice(&length.to_ne_bytes());
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        socket.send(&self.0, 0)?;
        let mut answers = Vec::new();
        loop {
            let (packet, _) = socket.recv_from_full()?;
            let mut rest = packet.as_slice();
            while let Some((kind, body, next)) = message(rest) {
                match kind {
                    // A dump that fails ends with its error.
                    DONE | ERROR => {
                        let code = word(body).map_or(0, i32::from_ne_bytes);
                        return if code == 0 { Ok(answers) } else { Err(io::Error::from_raw_os_error(-code)) };
                    }
                    _ => answers.push((kind, body.to_vec())),
                }
                rest = next;
            }
        }
    }
}

/// Appends an attribute.
pub fn push(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    bytes.extend(((value.len() + 4) as u16).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// The first four bytes.
pub fn word(bytes: &[u8]) -> Option<[u8; 4]> {
    bytes.first_chunk().copied()
}

/// A text that ends with a zero byte.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned()
}

/// Type and body of the first message, and what follows it.
fn message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = u32::from_ne_bytes(word(bytes)?) as usize;
    let kind = u16::from_ne_bytes([*bytes.get(4)?, *bytes.get(5)?]);
    let body = bytes.get(HEADER..length)?;
    Some((kind, body, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

/// Type and value of each attribute.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes([*bytes.first()?, *bytes.get(1)?]));
        // The two highest bits say that the value holds attributes, or is in network byte order.
        let kind = u16::from_ne_bytes([*bytes.get(2)?, *bytes.get(3)?]) & 0x3fff;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let Request(mut bytes) = Request::new(18, DUMP, &[7; 4]).attribute(3, b"lo\0").attribute(0x8005, &[1; 8]);
        let length = bytes.len() as u32;
        bytes[..4].copy_from_slice(&length.to_ne_bytes());
        let (kind, body, rest) = message(&bytes).expect("a message");
        assert_eq!((kind, rest.len(), &body[..4]), (18, 0, &[7; 4][..]));
        let found: Vec<_> = attributes(&body[4..]).collect();
        assert_eq!(found, [(3, &b"lo\0"[..]), (5, &[1; 8][..])]);
        assert_eq!(text(found[0].1), "lo");
    }

    #[test]
    fn what_ends_early_is_nothing() {
        assert_eq!(message(&[20, 0, 0, 0, 3, 10]), None);
        assert_eq!(attributes(&[40, 0, 1, 0, 1]).count(), 0);
    }

    #[test]
    fn the_kernel_answers() {
        const GET_LINK: u16 = 18;
        let links = Request::new(GET_LINK, DUMP, &[0; 16]).ask(ROUTE).expect("every process may ask");
        assert!(!links.is_empty(), "there is a loopback device");
        let error = Request::new(GET_LINK, 0, &[0; 16]).ask(ROUTE).expect_err("no device is named");
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
    }
}
