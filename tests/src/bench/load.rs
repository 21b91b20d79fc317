//! The load of the end-to-end measurements: one client thread, one server, as little of their own as possible.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

/// First byte of a TCP connection: answer once and close.
const ONCE: u8 = b'c';
/// First byte of a TCP connection: echo until the client closes.
const KEPT: u8 = b'r';
const PATIENCE: Duration = Duration::from_secs(5);

/// What one measurement saw.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Sample {
    /// Round trips per second.
    pub rate: f64,
    /// Median round trip, in microseconds.
    pub p50: f64,
    /// 99th percentile, in microseconds.
    pub p99: f64,
    /// Round trips that failed.
    pub failed: u64,
}

/// What is exchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exchange {
    /// TCP connect, request, answer, close.
    Connect,
    /// Requests on a kept TCP connection.
    Request,
    /// Datagrams of one UDP flow.
    Datagram,
    /// One datagram and its answer per UDP flow.
    FirstDatagram,
}

impl Exchange {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Connect, Self::Request, Self::Datagram, Self::FirstDatagram];

    /// The word on the command line.
    pub fn word(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Request => "request",
            Self::Datagram => "datagram",
            Self::FirstDatagram => "first-datagram",
        }
    }

    /// For people.
    pub fn title(self) -> &'static str {
        match self {
            Self::Connect => "connect-request-close, per second",
            Self::Request => "requests on a kept connection, per second",
            Self::Datagram => "round trips of one UDP flow, per second",
            Self::FirstDatagram => "UDP flows of one round trip, per second",
        }
    }
}

/// Keeps this process on the last processor that it may use. Client and server share one: where the scheduler puts two
/// processes that wake each other varies from one second to the next, and costs more than any Service.
pub fn pin() -> io::Result<()> {
    let this = Pid::from_raw(0);
    let allowed = sched_getaffinity(this)?;
    let last = (0..CpuSet::count()).rev().find(|cpu| allowed.is_set(*cpu).unwrap_or(false));
    let mut one = CpuSet::new();
    one.set(last.ok_or_else(|| io::Error::other("no processor to run on"))?)?;
    Ok(sched_setaffinity(this, &one)?)
}

/// Serves TCP and UDP on a port of both families until it is killed.
pub fn serve(port: u16) -> io::Result<()> {
    let any = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port);
    let udp = UdpSocket::bind(any)?;
    std::thread::spawn(move || {
        let mut datagram = [0; 64];
        while let Ok((got, peer)) = udp.recv_from(&mut datagram) {
            // A client that has gone is no concern of the server.
            let _ = udp.send_to(&datagram[..got], peer);
        }
    });
    for stream in TcpListener::bind(any)?.incoming() {
        let Ok(mut stream) = stream else { continue };
        let mut first = [0];
        if stream.set_nodelay(true).is_ok() && stream.read_exact(&mut first).is_ok() {
            match first[0] {
                KEPT => drop(std::thread::spawn(move || echo(&mut stream))),
                // Answered in line: a thread for each would be what is measured.
                _ => drop(stream.write_all(&first)),
            }
        }
    }
    Ok(())
}

fn echo(stream: &mut TcpStream) {
    let mut byte = [0];
    while stream.read_exact(&mut byte).is_ok() && stream.write_all(&byte).is_ok() {}
}

/// Exchanges with `to` for that long.
pub fn measure(exchange: Exchange, to: SocketAddr, time: Duration) -> io::Result<Sample> {
    match exchange {
        Exchange::Connect => rounds(time, || {
            let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.write_all(&[ONCE])?;
            let mut byte = [0];
            stream.read_exact(&mut byte)?;
            // The server closes first, so that no port of the client stays in TIME_WAIT.
            stream.read(&mut byte).map(drop)
        }),
        Exchange::Request => {
            let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.write_all(&[KEPT])?;
            let mut byte = [b'x'];
            rounds(time, || stream.write_all(&byte).and_then(|()| stream.read_exact(&mut byte)))
        }
        Exchange::Datagram => {
            let socket = udp(to)?;
            rounds(time, || ping(&socket))
        }
        Exchange::FirstDatagram => rounds(time, || ping(&udp(to)?)),
    }
}

fn udp(to: SocketAddr) -> io::Result<UdpSocket> {
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any)?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

fn ping(socket: &UdpSocket) -> io::Result<()> {
    let mut datagram = [b'x'; 16];
    socket.send(&datagram)?;
    socket.recv(&mut datagram).map(drop)
}

fn rounds(time: Duration, mut round: impl FnMut() -> io::Result<()>) -> io::Result<Sample> {
    for _ in 0..100 {
        round()?;
    }
    let mut took = Vec::with_capacity(1 << 20);
    let mut failed = 0;
    let began = Instant::now();
    let mut last = began;
    while last - began < time {
        failed += u64::from(round().is_err());
        let now = Instant::now();
        took.push((now - last).as_nanos());
        last = now;
    }
    let rate = took.len() as f64 / (last - began).as_secs_f64();
    took.sort_unstable();
    let percentile = |part: usize| took[took.len() * part / 100] as f64 / 1e3;
    Ok(Sample { rate, p50: percentile(50), p99: percentile(99), failed })
}
