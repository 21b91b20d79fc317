//! Sockets of a gone endpoint are ended, and no others. Needs CAP_NET_ADMIN; nothing leaves loopback.

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};

use svc_agent::datapath::sock_destroy::{destroy, probe};
use svc_agent::datapath::sweep::Orphan;

/// A socket connected to an endpoint, and what is known about it.
fn connected(from: &str, backend: SocketAddr) -> (UdpSocket, Orphan) {
    let socket = UdpSocket::bind(from).expect("bind");
    let mut to = backend;
    if from == "[::]:0" && backend.is_ipv4() {
        to = format!("[::ffff:{}]:{}", backend.ip(), backend.port()).parse().expect("an address");
    }
    socket.connect(to).expect("connect");
    socket.set_nonblocking(true).expect("set");
    let cookie = socket2::SockRef::from(&socket).cookie().expect("a cookie");
    (socket, Orphan { cookie, backend })
}

fn says(socket: &UdpSocket) -> ErrorKind {
    socket.recv(&mut [0; 8]).expect_err("nobody sends").kind()
}

#[test]
fn only_what_is_meant_is_ended() {
    // The third is an IPv6 socket that talks IPv4.
    for (from, at) in [("0.0.0.0:0", "127.0.0.1:0"), ("[::]:0", "[::1]:0"), ("[::]:0", "127.0.0.1:0")] {
        let server = UdpSocket::bind(at).expect("bind");
        let backend = server.local_addr().expect("bound");
        let (gone, orphan) = connected(from, backend);
        let (neighbour, other) = connected(from, backend);
        // The cookie of one, the endpoint of another: a socket that has been connected anew since.
        let elsewhere = Orphan { backend: SocketAddr::new(backend.ip(), backend.port() ^ 1), ..other };
        assert_eq!(destroy(&[elsewhere]).expect("may end sockets"), 0);
        assert_eq!(destroy(&[orphan, elsewhere]).expect("may end sockets"), 1, "{from} to {at}");
        assert_eq!(says(&gone), ErrorKind::ConnectionAborted, "{from} to {at}");
        assert_eq!(says(&neighbour), ErrorKind::WouldBlock, "{from} to {at}");
        assert_eq!(destroy(&[orphan]).expect("may end sockets"), 0, "it is connected no more");
    }
}

#[test]
fn the_probe_ends_its_own() {
    probe().expect("this kernel has CONFIG_INET_DIAG_DESTROY");
}
