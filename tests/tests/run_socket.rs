//! The socket hooks with real sockets: in a namespace and a cgroup of their own, on private maps.
//!
//! Each test runs itself again inside a place of the lab, where `inside` does the work.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd as _, OwnedFd};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use svc_agent::datapath::bpf::{Target, link_create};
use svc_agent::datapath::table::Table;
use svc_agent::datapath::{Globals, Hook, Maps, Programs, Sizes, probe};
use svc_common::datapath::env::Family;
use svc_common::net::Port;
use svc_common::tables::{Backend, Entry, Frontend, FrontendKey, Rule, SlotRange, filter_bit};
use svc_tests::lab::place::Place;
use svc_tests::lab::run::Run;
use svc_tests::lab::tool;

/// The variable that tells the inner run its part.
const PART: &str = "SVC_SOCKET_TEST";

/// Runs the part in a fresh namespace, whose loopback device has all addresses that the tests use.
fn in_a_place(part: &str) -> Result<()> {
    if !tool::is_root() {
        eprintln!("skipped: socket programs need root");
        return Ok(());
    }
    let run = Run::begin(false)?;
    let place = Place::make(&run, "sockets", "sockets")?;
    for addr in ["10.0.0.1/32", "10.0.1.5/32", "10.0.1.6/32", "fd00::1/128", "fd00:1::5/128", "fd00:1::6/128"] {
        place.ip(&["addr", "add", addr, "dev", "lo"])?;
    }
    let own = std::env::current_exe()?;
    let part = format!("{PART}={part}");
    let cgroup = format!("SVC_CGROUP={}", place.cgroup().display());
    let words = [part.as_str(), &cgroup, &own.to_string_lossy(), "--ignored", "--exact", "inside", "--nocapture"]
        .map(str::to_owned);
    place.output("env", &words).map(drop)
}

#[test]
fn processes_of_the_host_are_translated() -> Result<()> {
    in_a_place("host")
}

#[test]
fn other_namespaces_are_left_alone_unless_all_is_asked_for() -> Result<()> {
    in_a_place("others")
}

#[test]
#[ignore = "run by the other tests, inside a namespace of their own"]
fn inside() -> Result<()> {
    let Ok(part) = std::env::var(PART) else { return Ok(()) };
    for addr in ["10.0.1.5", "10.0.1.6", "fd00:1::5", "fd00:1::6"] {
        serve(addr.parse()?)?;
    }
    match part.as_str() {
        "host" => host(),
        _ => others(),
    }
}

/// A TCP and a UDP server that answer with their own address.
fn serve(addr: IpAddr) -> Result<()> {
    let tcp = TcpListener::bind((addr, 8080))?;
    let udp = UdpSocket::bind((addr, 8080))?;
    thread::spawn(move || {
        for stream in tcp.incoming() {
            // A client that is gone already is of no interest.
            drop(stream.and_then(|mut stream| std::io::Write::write_all(&mut stream, addr.to_string().as_bytes())));
        }
    });
    thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((_, client)) = udp.recv_from(&mut buffer) {
            drop(udp.send_to(addr.to_string().as_bytes(), client));
        }
    });
    Ok(())
}

/// Programs on their maps, attached to the cgroup until this is dropped.
struct Hooks {
    maps: Maps,
    _programs: Programs,
    _links: Vec<OwnedFd>,
}

fn hooks(netns_cookie: u64, socket_all: bool) -> Result<Hooks> {
    let globals = Globals { hz: probe::ticks_per_second()?, netns_cookie, socket_all, ..Globals::TRIAL };
    let all: Vec<Hook> = Hook::SOCKET.iter().map(|(hook, _)| *hook).collect();
    let (programs, maps) =
        Programs::load_private(Sizes { services: 100, endpoints: 1000, flows: 10_000 }, &globals, &all)?;
    let cgroup = std::fs::File::open(std::env::var("SVC_CGROUP")?)?;
    let mut links = Vec::new();
    for (hook, at) in Hook::SOCKET {
        links.push(link_create(programs.fd(hook)?, Target::Cgroup(cgroup.as_fd()), at, 0)?);
    }
    for (index, id) in [0, 1, 2].into_iter().enumerate() {
        maps.slots.set(&(index as u32), &id)?;
    }
    fill(&maps, &maps.frontends_v4, &maps.backends_v4, ["10.0.96.1", "10.0.1.5", "10.0.1.6"])?;
    fill(&maps, &maps.frontends_v6, &maps.backends_v6, ["fd00:96::1", "fd00:1::5", "fd00:1::6"])?;
    Ok(Hooks { maps, _programs: programs, _links: links })
}

/// A Service at port 80 with two endpoints, one without at 81, and a node port at loopback.
fn fill<A: Family>(
    maps: &Maps,
    frontends: &Table<FrontendKey<A>, Frontend>,
    backends: &Table<u32, Backend<A>>,
    [service, first, second]: [&str; 3],
) -> Result<()>
where
    FrontendKey<A>: Entry,
    Backend<A>: Entry,
{
    let read = |text: &str| A::from_ip(text.parse::<IpAddr>()?).context("the wrong family");
    for (id, addr) in [(1, first), (2, second)] {
        backends.set(&id, &Backend { addr: read(addr)?, port: Port::new(8080), flags: 0 })?;
    }
    let set = SlotRange { base: 1, len: 2 };
    let frontend = Frontend { service: 1, cluster: set, ..Frontend::default() };
    let loopback =
        Frontend { flags: Frontend::LOOPBACK | Frontend::EXTERNAL, rules: [Rule(Rule::SNAT); 3], ..frontend };
    let nobody = Frontend { cluster: SlotRange::default(), ..frontend };
    for protocol in [6, 17] {
        for (addr, port, value) in
            [(read(service)?, 80, frontend), (read(service)?, 81, nobody), (A::loopback(), 30080, loopback)]
        {
            frontends.set(&FrontendKey { addr, port: Port::new(port), protocol, zero: 0 }, &value)?;
            let (word, bit) = filter_bit(addr);
            let present = maps.filter.get(&word)?.unwrap_or_default();
            maps.filter.set(&word, &(present | bit))?;
        }
    }
    Ok(())
}

fn host() -> Result<()> {
    let hooks = hooks(probe::netns_cookie()?, false)?;
    // IPv4, IPv6, and IPv4 by an IPv6 socket.
    for (service, loopback) in
        [("10.0.96.1", "127.0.0.1"), ("fd00:96::1", "::1"), ("::ffff:10.0.96.1", "::ffff:127.0.0.1")]
    {
        let (service, loopback): (IpAddr, IpAddr) = (service.parse()?, loopback.parse()?);
        for to in [SocketAddr::new(service, 80), SocketAddr::new(loopback, 30080)] {
            stream(to).with_context(|| format!("TCP to {to}"))?;
            datagrams(to).with_context(|| format!("UDP to {to}"))?;
            connected_datagrams(to).with_context(|| format!("connected UDP to {to}"))?;
        }
        refused(SocketAddr::new(service, 81)).with_context(|| format!("no endpoint at {service}"))?;
    }
    stream("127.77.1.2:30080".parse()?).context("all of 127.0.0.0/8 is loopback")?;
    let direct = TcpStream::connect("10.0.1.5:8080")?;
    ensure!(direct.peer_addr()? == "10.0.1.5:8080".parse()?, "what is no Service's stays as it is");
    moved(&hooks)
}

/// A process of a namespace that is not the node's.
fn others() -> Result<()> {
    let service: SocketAddr = "10.0.96.1:80".parse()?;
    {
        let _hooks = hooks(1, false)?;
        ensure!(TcpStream::connect(service).is_err(), "nobody answers at the cluster IP itself");
    }
    let _hooks = hooks(1, true)?;
    stream(service)?;
    stream("[fd00:96::1]:80".parse()?)?;
    ensure!(TcpStream::connect("127.0.0.1:30080").is_err(), "a pod's loopback is its own");
    ensure!(TcpStream::connect("[::1]:30080").is_err(), "a pod's loopback is its own");
    Ok(())
}

fn is_endpoint(text: &[u8]) -> bool {
    [b"10.0.1.5".as_slice(), b"10.0.1.6", b"fd00:1::5", b"fd00:1::6"].contains(&text)
}

fn stream(to: SocketAddr) -> Result<()> {
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..40 {
        let mut stream = TcpStream::connect(to)?;
        ensure!(stream.peer_addr()? == to, "the peer is {} and not what was dialled", stream.peer_addr()?);
        let mut text = Vec::new();
        std::io::Read::read_to_end(&mut stream, &mut text)?;
        ensure!(is_endpoint(&text), "an answer of somebody else");
        seen.insert(text);
    }
    ensure!(seen.len() == 2, "all connections went to one endpoint");
    Ok(())
}

fn socket(to: SocketAddr) -> Result<UdpSocket> {
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any)?;
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    Ok(socket)
}

/// All datagrams of a socket go to one endpoint, and the answers come from what was dialled.
fn datagrams(to: SocketAddr) -> Result<()> {
    let socket = socket(to)?;
    let mut first = None;
    for _ in 0..20 {
        socket.send_to(b"?", to)?;
        let mut text = [0; 64];
        let (length, from) = socket.recv_from(&mut text)?;
        ensure!(from == to, "the answer came from {from}");
        let text = text[..length].to_vec();
        ensure!(is_endpoint(&text), "an answer of somebody else");
        ensure!(*first.get_or_insert(text.clone()) == text, "another endpoint in the middle");
    }
    Ok(())
}

fn connected_datagrams(to: SocketAddr) -> Result<()> {
    let socket = socket(to)?;
    socket.connect(to)?;
    ensure!(socket.peer_addr()? == to, "the peer is {}", socket.peer_addr()?);
    socket.send(b"?")?;
    let mut text = [0; 64];
    let (length, from) = socket.recv_from(&mut text)?;
    ensure!(from == to, "the answer came from {from}");
    ensure!(is_endpoint(&text[..length]), "an answer of somebody else");
    Ok(())
}

fn refused(to: SocketAddr) -> Result<()> {
    let error = TcpStream::connect(to).err().context("connected to nobody")?;
    ensure!(error.kind() == ErrorKind::ConnectionRefused, "connect: {error}");
    let error = socket(to)?.send_to(b"?", to).err().context("sent to nobody")?;
    ensure!(error.kind() == ErrorKind::ConnectionRefused, "sendto: {error}");
    let error = socket(to)?.connect(to).err().context("connected to nobody")?;
    ensure!(error.kind() == ErrorKind::ConnectionRefused, "UDP connect: {error}");
    Ok(())
}

/// An endpoint goes: its records are forgotten, and the socket that never paused gets another one.
fn moved(hooks: &Hooks) -> Result<()> {
    let (to, socket) = ("10.0.96.1:80".parse::<SocketAddr>()?, socket("10.0.96.1:80".parse()?)?);
    let ask = || -> Result<String> {
        socket.send_to(b"?", to)?;
        let mut text = [0; 64];
        let (length, from) = socket.recv_from(&mut text)?;
        ensure!(from == to, "the answer came from {from}");
        Ok(String::from_utf8_lossy(&text[..length]).into_owned())
    };
    let first = ask()?;
    let other = if first == "10.0.1.5" { 2 } else { 1 };
    for slot in [1, 2] {
        hooks.maps.slots.set(&slot, &other)?;
    }
    ensure!(ask()? == first, "a flow stays where it is until it is swept");
    for (key, _) in hooks.maps.sockets_v4.dump()? {
        hooks.maps.sockets_v4.remove(&key)?;
    }
    ensure!(ask()? != first, "the socket still talks to the endpoint that has gone");
    Ok(())
}
