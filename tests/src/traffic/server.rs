//! The lab's own server: says its name and whom it saw.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};

use anyhow::{Context, Result};

use super::stream;

/// Serves TCP and UDP at each address until the process ends.
pub fn serve(name: &str, at: &[SocketAddr]) -> Result<()> {
    let mut threads = Vec::new();
    for at in at {
        let udp = UdpSocket::bind(at).with_context(|| format!("cannot bind UDP {at}"))?;
        let tcp = TcpListener::bind(at).with_context(|| format!("cannot bind TCP {at}"))?;
        let who = name.to_owned();
        threads.push(std::thread::spawn(move || udp_server(&who, &udp)));
        let who = name.to_owned();
        threads.push(std::thread::spawn(move || tcp_server(&who, &tcp)));
    }
    for thread in threads {
        let _ = thread.join();
    }
    Ok(())
}

fn udp_server(name: &str, socket: &UdpSocket) {
    let mut datagram = [0; 2048];
    loop {
        // A refused answer to a client that has gone shows up as an error of the next call: go on.
        if let Ok((_, peer)) = socket.recv_from(&mut datagram) {
            let _ = socket.send_to(hello(name, peer).as_bytes(), peer);
        }
    }
}

fn tcp_server(name: &str, listener: &TcpListener) {
    for stream in listener.incoming().flatten() {
        let name = name.to_owned();
        std::thread::spawn(move || {
            // A client that goes away in the middle is its own affair.
            let _ = converse(&name, stream);
        });
    }
}

fn converse(name: &str, stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let peer = stream.peer_addr()?;
    let mut writer = stream.try_clone()?;
    let mut reader = BufReader::with_capacity(256 * 1024, stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_ascii_whitespace();
    match (words.next(), words.next().and_then(|word| word.parse().ok())) {
        (Some("echo"), _) => {
            writer.write_all(hello(name, peer).as_bytes())?;
            loop {
                line.clear();
                if reader.read_line(&mut line)? == 0 {
                    return Ok(());
                }
                writer.write_all(line.as_bytes())?;
            }
        }
        (Some("sink"), Some(bytes)) => {
            let sum = stream::receive(&mut reader, bytes)?;
            writeln!(writer, "{sum:x}")
        }
        (Some("source"), Some(bytes)) => {
            let sum = stream::send(&mut writer, bytes)?;
            writeln!(writer, "{sum:x}")
        }
        (Some("GET"), _) => {
            while reader.read_line(&mut line)? > 2 {
                line.clear();
            }
            let body = hello(name, peer);
            let head = format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
            writer.write_all(format!("{head}{body}").as_bytes())
        }
        _ => writer.write_all(hello(name, peer).as_bytes()),
    }
}

fn hello(name: &str, peer: SocketAddr) -> String {
    format!("{name} {peer}\n")
}
