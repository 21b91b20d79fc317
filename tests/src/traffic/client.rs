//! One question, one new flow.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::report::{Answer, Report, millis};
use super::{Ask, stream};

/// Long enough for a lost packet to be sent again: that is reported as slow, not as failed.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// Asks once.
pub fn ask(ask: Ask, to: SocketAddr) -> io::Result<Answer> {
    match ask {
        Ask::Tcp => {
            let mut stream = connect(to)?;
            stream.write_all(b"who\n")?;
            first_line(stream)
        }
        Ask::Udp => {
            let socket = udp(to)?;
            ask_again(&socket, None)
        }
        Ask::Http => {
            let mut stream = connect(to)?;
            write!(stream, "GET / HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\n\r\n")?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            let (head, body) = text.split_once("\r\n\r\n").ok_or(io::ErrorKind::UnexpectedEof)?;
            if !head.starts_with("HTTP/1.1 200") {
                return Err(io::Error::other(head.lines().next().unwrap_or_default().to_owned()));
            }
            Answer::parse(body)
        }
    }
}

/// A TCP connection that does not wait for ever.
pub fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Dials until standard output is closed, and prints a line when another server answers than before: the moment in
/// microseconds since 1970, and its name.
pub fn dial(to: SocketAddr) -> io::Result<()> {
    let mut last = String::new();
    loop {
        // What is not answered at once was not served yet.
        let asked = TcpStream::connect_timeout(&to, Duration::from_millis(100)).and_then(|mut stream| {
            stream.set_read_timeout(Some(Duration::from_millis(200)))?;
            stream.write_all(b"who\n")?;
            first_line(stream)
        });
        match asked {
            Ok(answer) if answer.name != last => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).map_err(io::Error::other)?;
                writeln!(io::stdout(), "{} {}", now.as_micros(), answer.name)?;
                last = answer.name;
            }
            _ => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}

/// A connected UDP socket, so that being refused is told.
pub fn udp(to: SocketAddr) -> io::Result<UdpSocket> {
    let socket = unconnected(to)?;
    socket.connect(to)?;
    Ok(socket)
}

/// A UDP socket of the family of an address.
pub fn unconnected(to: SocketAddr) -> io::Result<UdpSocket> {
    let any = if to.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

/// One datagram, to an address if the socket is not connected, and its answer, which has to come from there.
pub fn ask_again(socket: &UdpSocket, to: Option<SocketAddr>) -> io::Result<Answer> {
    let mut datagram = [0; 256];
    let got = match to {
        None => {
            socket.send(b"who\n")?;
            socket.recv(&mut datagram)?
        }
        Some(to) => {
            socket.send_to(b"who\n", to)?;
            let (got, from) = socket.recv_from(&mut datagram)?;
            if from != to {
                return Err(io::Error::other(format!("asked {to}, answered by {from}")));
            }
            got
        }
    };
    Answer::parse(&String::from_utf8_lossy(&datagram[..got]))
}

/// The first line that a server sends.
pub fn first_line(stream: impl Read) -> io::Result<Answer> {
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    Answer::parse(&line)
}

/// There and back again, with checksums.
pub fn transfer(to: SocketAddr, bytes: u64) -> Report {
    let began = Instant::now();
    let mut report = Report::default();
    for way in [upload, download] {
        match way(to, bytes) {
            Ok(()) => report.ok += 1,
            Err(error) => report.failed(&error),
        }
    }
    report.took_ms = millis(began.elapsed());
    report
}

fn upload(to: SocketAddr, bytes: u64) -> io::Result<()> {
    let mut stream = connect(to)?;
    writeln!(stream, "sink {bytes}")?;
    let sent = stream::send(&mut stream, bytes)?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    compare(sent, &line)
}

fn download(to: SocketAddr, bytes: u64) -> io::Result<()> {
    let mut stream = connect(to)?;
    writeln!(stream, "source {bytes}")?;
    let mut reader = BufReader::with_capacity(256 * 1024, stream);
    let received = stream::receive(&mut reader, bytes)?;
    let mut line = String::new();
    reader.read_line(&mut line)?;
    compare(received, &line)
}

fn compare(own: u64, theirs: &str) -> io::Result<()> {
    if format!("{own:x}") == theirs.trim() {
        return Ok(());
    }
    Err(io::Error::other("the checksums at both ends differ"))
}
