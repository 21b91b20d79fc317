//! Datagrams that no link takes whole: cut by the kernel, or by hand and sent in an order of one's own; and what routers
//! say about datagrams.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::client;
use crate::packet::{Frame, Kind};

/// Length of pieces that are cut by hand.
const PIECE: usize = 1024;
/// Length of the Ethernet header that [`Frame`] writes.
const LINK: usize = 14;
/// How long an answer may take: nothing is sent again.
const PATIENCE: Duration = Duration::from_secs(2);

/// An order of pieces, `2,0,1`; `-` leaves the cutting to the kernel.
pub fn order(text: &str) -> Result<Vec<usize>> {
    if text == "-" {
        return Ok(Vec::new());
    }
    text.split(',').map(|index| index.parse().context("an order is `-` or numbers with commas")).collect()
}

/// Sends every datagram back to where it came from, in pieces of that order, until the process ends.
pub fn echo(order: &[usize], at: &[SocketAddr]) -> Result<()> {
    let mut threads = Vec::new();
    for at in at {
        let socket = UdpSocket::bind(at).with_context(|| format!("cannot bind UDP {at}"))?;
        let (order, at) = (order.to_vec(), *at);
        threads.push(std::thread::spawn(move || {
            let mut datagram = vec![0; 65_536];
            loop {
                if let Ok((length, peer)) = socket.recv_from(&mut datagram) {
                    // An answer that cannot be sent is missed where it is waited for.
                    let _ = send(&socket, at, peer, &datagram[..length], &order);
                }
            }
        }));
    }
    for thread in threads {
        let _ = thread.join();
    }
    Ok(())
}

/// Sends one datagram of `size` bytes in pieces of that order and waits for it to come back from where it was sent.
pub fn say(to: SocketAddr, size: usize, order: &[usize]) -> Result<()> {
    let socket = client::udp(to)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let own = socket.local_addr()?;
    let payload: Vec<u8> = (0..size).map(|at| (at % 251) as u8).collect();
    let mut answer = vec![0; 65_536];
    for _ in 0..PATHS {
        send(&socket, own, to, &payload, order)?;
        match socket.recv(&mut answer) {
            Ok(length) => {
                ensure!(answer[..length] == payload, "other bytes came back from {to}");
                return Ok(());
            }
            // A router has said how narrow the path is; only the sender cuts datagrams of IPv6.
            Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => {}
            Err(error) => return Err(error).with_context(|| format!("{size} bytes to {to} did not come back")),
        }
    }
    bail!("{to}: the path becomes narrower with every attempt")
}

/// How many links can be narrower than the one before.
const PATHS: usize = 3;

/// Sends `payload`, whole by the socket if it is connected or not, or in pieces beside it.
fn send(socket: &UdpSocket, from: SocketAddr, to: SocketAddr, payload: &[u8], order: &[usize]) -> Result<()> {
    if order.is_empty() {
        match socket.peer_addr() {
            Ok(_) => socket.send(payload)?,
            Err(_) => socket.send_to(payload, to)?,
        };
        return Ok(());
    }
    // Raw sockets of this number take packets with their IP headers.
    const RAW: i32 = 255;
    let raw = Socket::new(Domain::for_address(to), Type::RAW, Some(Protocol::from(RAW)))?;
    let mut frame = Frame::new(&from.to_string(), &to.to_string(), Kind::Udp);
    frame.payload = payload.to_vec();
    // Each question has another port.
    let pieces = frame.pieces(from.port().wrapping_add(to.port()).max(1), PIECE);
    ensure!(pieces.len() == order.len(), "{} pieces and an order of {}", pieces.len(), order.len());
    for index in order {
        let piece = pieces.get(*index).context("no such piece")?;
        raw.send_to(&piece[LINK..], &SocketAddr::new(to.ip(), 0).into())?;
    }
    Ok(())
}

/// What a router, or the other end, has said about a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard {
    /// Who has said it.
    pub from: IpAddr,
    /// Type of ICMP.
    pub kind: u8,
    /// Where the datagram that is quoted was to go.
    pub to: SocketAddr,
}

impl Heard {
    /// From the line that the helper prints.
    pub fn parse(line: &str) -> Result<Self> {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let [from, kind, to] = words[..] else { bail!("nothing was heard: {line}") };
        Ok(Self { from: from.parse()?, kind: kind.parse()?, to: to.parse()? })
    }
}

/// Sends a datagram of `size` bytes with so many hops to live and prints what is heard about it.
pub fn hear(to: SocketAddr, hops: u32, size: usize) -> Result<()> {
    let protocol = if to.is_ipv4() { Protocol::ICMPV4 } else { Protocol::ICMPV6 };
    let ear = UdpSocket::from(Socket::new(Domain::for_address(to), Type::RAW, Some(protocol))?);
    ear.set_read_timeout(Some(PATIENCE))?;
    let socket = client::udp(to)?;
    if to.is_ipv4() {
        socket.set_ttl(hops)?;
    } else {
        SockRef::from(&socket).set_unicast_hops_v6(hops)?;
    }
    let own = socket.local_addr()?;
    socket.send(&vec![7; size])?;
    let mut bytes = [0; 2048];
    loop {
        let (length, from) = ear.recv_from(&mut bytes).with_context(|| format!("nobody has said anything of {to}"))?;
        // Raw sockets of IPv4 hand out the IP header.
        let start = if to.is_ipv4() { usize::from(bytes[0] & 15) * 4 } else { 0 };
        if let Some((sender, quoted)) = quoted(&bytes[start..length], to.is_ipv4())
            && sender == own
        {
            println!("{} {} {quoted}", from.ip(), bytes[start]);
            return Ok(());
        }
    }
}

/// Source and destination of what an ICMP message quotes.
fn quoted(icmp: &[u8], v4: bool) -> Option<(SocketAddr, SocketAddr)> {
    let packet = icmp.get(8..)?;
    let ip = |at: usize| -> Option<IpAddr> {
        if v4 {
            Some(<[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?.into())
        } else {
            Some(<[u8; 16]>::try_from(packet.get(at..at + 16)?).ok()?.into())
        }
    };
    let (from, to, ports) = if v4 { (ip(12)?, ip(16)?, 20) } else { (ip(8)?, ip(24)?, 40) };
    let port = |at: usize| Some(u16::from_be_bytes(packet.get(at..at + 2)?.try_into().ok()?));
    Some((SocketAddr::new(from, port(ports)?), SocketAddr::new(to, port(ports + 2)?)))
}
