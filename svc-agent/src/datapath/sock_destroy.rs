//! Ends UDP sockets of this network namespace that are connected to an endpoint which serves no more: the socket programs
//! connected them to the endpoint itself, so nobody but their owner can move them. The owner is told: by `ECONNABORTED` where
//! it receives, by `EDESTADDRREQ` where it sends first.
//!
//! By `NETLINK_SOCK_DIAG` (`linux/inet_diag.h`): a dump of connected sockets, and `SOCK_DESTROY` for each that is meant.
//! Addresses and ports are in network byte order, cookies are two words in host byte order, the low one first.

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use socket2::SockRef;

use super::netlink::{self, DUMP, Request};
use super::sweep::Orphan;

/// `NETLINK_SOCK_DIAG`.
const SOCK_DIAG: isize = 4;
/// `SOCK_DIAG_BY_FAMILY`.
const BY_FAMILY: u16 = 20;
/// `SOCK_DESTROY`.
const DESTROY: u16 = 21;
/// In this state is a UDP socket that is connected (`TCP_ESTABLISHED`).
const CONNECTED: u32 = 1 << 1;
/// Length of `struct inet_diag_sockid`; in an answer (`struct inet_diag_msg`) it comes after four bytes.
const ID: usize = 48;

/// A socket as the kernel names it, both ends and the cookie: an answer's bytes are those of the next request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Id([u8; ID]);

impl Id {
    /// Of an answer: family and id.
    fn read(body: &[u8]) -> Option<(u8, Self)> {
        Some((*body.first()?, Self(*body.get(4..)?.first_chunk()?)))
    }

    /// To whom the socket is connected; an IPv6 socket may be to IPv4.
    fn destination(&self, family: u8) -> Option<SocketAddr> {
        let port = u16::from_be_bytes(*self.0[2..].first_chunk()?);
        let addr = &self.0[20..];
        let addr = if i32::from(family) == libc::AF_INET {
            IpAddr::V4(Ipv4Addr::from(*addr.first_chunk::<4>()?))
        } else {
            IpAddr::V6(Ipv6Addr::from(*addr.first_chunk::<16>()?)).to_canonical()
        };
        Some(SocketAddr::new(addr, port))
    }

    fn cookie(&self) -> Option<u64> {
        let word = |at: usize| netlink::word(&self.0[at..]).map(u32::from_ne_bytes).map(u64::from);
        Some(word(40)? | word(44)? << 32)
    }
}

/// A `struct inet_diag_req_v2` about UDP.
fn request(family: u8, states: u32, id: &Id) -> Vec<u8> {
    let mut bytes = vec![family, libc::IPPROTO_UDP as u8, 0, 0];
    bytes.extend(states.to_ne_bytes());
    bytes.extend(id.0);
    bytes
}

/// Ends those of these sockets that are in this network namespace and still connected to that endpoint; how many.
///
/// A socket that has gone meanwhile does not matter. An error for which [`is_unsupported`] holds comes from a kernel
/// that cannot do it at all; otherwise the first error of the kernel is returned after all sockets have been tried.
pub fn destroy(orphans: &[Orphan]) -> io::Result<u64> {
    if orphans.is_empty() {
        return Ok(0);
    }
    let meant: HashSet<&Orphan> = orphans.iter().collect();
    let (mut ended, mut failed) = (0, None);
    // IPv6 sockets can be connected to either family.
    let families = [libc::AF_INET, libc::AF_INET6];
    let skip = usize::from(!orphans.iter().any(|orphan| orphan.backend.is_ipv4()));
    for family in families.into_iter().skip(skip) {
        let all = request(family as u8, CONNECTED, &Id([0; ID]));
        for (_, body) in Request::new(BY_FAMILY, DUMP, &all).ask(SOCK_DIAG)? {
            let Some((family, id)) = Id::read(&body) else { continue };
            let found = id.cookie().zip(id.destination(family)).map(|(cookie, backend)| Orphan { cookie, backend });
            if !found.is_some_and(|found| meant.contains(&found)) {
                continue;
            }
            match Request::new(DESTROY, 0, &request(family, CONNECTED, &id)).ask(SOCK_DIAG) {
                Ok(_) => ended += 1,
                // Closed, or connected to somebody else, since the dump.
                Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESTALE)) => {}
                Err(error) => failed = failed.or(Some(error)),
            }
        }
    }
    failed.map_or(Ok(ended), Err)
}

/// Whether the kernel has said that it cannot end sockets: `CONFIG_INET_UDP_DIAG` (a module in many distributions) or
/// `CONFIG_INET_DIAG_DESTROY` is missing.
pub fn is_unsupported(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOENT | libc::EPROTONOSUPPORT))
}

/// Whether this kernel lets this process end sockets: tried on one of its own, on loopback. Nothing is sent.
pub fn probe() -> io::Result<()> {
    let any = || UdpSocket::bind("127.0.0.1:0").or_else(|_| UdpSocket::bind("[::1]:0"));
    let (server, client) = (any()?, any()?);
    let backend = server.local_addr()?;
    client.connect(backend)?;
    match destroy(&[Orphan { cookie: SockRef::from(&client).cookie()?, backend }])? {
        1 => Ok(()),
        _ => Err(io::Error::other("the kernel does not list a socket that is there")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An id of `struct inet_diag_sockid`: ports, addresses, device, cookie.
    fn id(destination: &[u8], port: u16, cookie: [u32; 2]) -> Id {
        let mut bytes = [0; ID];
        bytes[0..2].copy_from_slice(&40_000u16.to_be_bytes());
        bytes[2..4].copy_from_slice(&port.to_be_bytes());
        bytes[4..8].copy_from_slice(&[127, 0, 0, 1]);
        bytes[20..20 + destination.len()].copy_from_slice(destination);
        bytes[36..40].copy_from_slice(&3u32.to_ne_bytes());
        bytes[40..44].copy_from_slice(&cookie[0].to_ne_bytes());
        bytes[44..48].copy_from_slice(&cookie[1].to_ne_bytes());
        Id(bytes)
    }

    #[test]
    fn an_answer_is_read_and_asked_about() {
        let id = id(&[10, 244, 0, 7], 5353, [5, 1]);
        let mut body = vec![libc::AF_INET as u8, 1, 0, 0];
        body.extend(id.0);
        body.extend([0; 20]);
        let (family, read) = Id::read(&body).expect("an answer");
        assert_eq!((i32::from(family), read), (libc::AF_INET, id));
        assert_eq!(read.destination(family), Some("10.244.0.7:5353".parse().expect("an address")));
        assert_eq!(read.cookie(), Some(0x1_0000_0005));
        let request = request(family, CONNECTED, &read);
        assert_eq!((request.len(), &request[..4], &request[8..]), (56, &[2, 17, 0, 0][..], &id.0[..]));
        assert_eq!(request[4..8], 2u32.to_ne_bytes());
        assert_eq!(Id::read(&body[..51]), None, "ends early");
    }

    #[test]
    fn an_ipv6_socket_is_connected_to_either_family() {
        for (addr, text) in [("fd00::7", "[fd00::7]:53"), ("::ffff:10.0.0.7", "10.0.0.7:53")] {
            let addr: Ipv6Addr = addr.parse().expect("an address");
            let found = id(&addr.octets(), 53, [1, 0]).destination(libc::AF_INET6 as u8);
            assert_eq!(found, Some(text.parse().expect("an address")));
        }
    }

    #[test]
    fn what_a_kernel_without_it_says() {
        for code in [libc::EOPNOTSUPP, libc::ENOENT, libc::EPROTONOSUPPORT] {
            assert!(is_unsupported(&io::Error::from_raw_os_error(code)), "{code}");
        }
        assert!(!is_unsupported(&io::Error::from_raw_os_error(libc::EPERM)));
        // As without CONFIG_INET_UDP_DIAG: nobody lists the sockets of this protocol.
        let mut body = request(libc::AF_INET as u8, CONNECTED, &Id([0; ID]));
        body[1] = 255;
        let error = Request::new(BY_FAMILY, DUMP, &body).ask(SOCK_DIAG).expect_err("there is no such protocol");
        assert!(is_unsupported(&error), "{error}");
    }
}
