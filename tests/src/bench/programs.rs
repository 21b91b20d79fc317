//! What the programs cost: nanoseconds per packet by `BPF_PROG_TEST_RUN`, net of an empty program of the same type.
//!
//! A test run hands the packet that the last repetition has rewritten to the next one. So every measured translation
//! has a counterpart in the tables that translates back, and the repetitions swing between the two: each does the full
//! work of its path, on an address that really changes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd as _;

use anyhow::{Context, Result, ensure};
use etherparse::PacketBuilder;
use svc_agent::datapath::bpf::{self, TestRun};
use svc_agent::datapath::empty::{self, Kind};
use svc_agent::datapath::table::Table;
use svc_agent::datapath::{Globals, Hook, Maps, Programs, Sizes, probe};
use svc_common::datapath::connection::Connection;
use svc_common::datapath::env::Family;
use svc_common::net::{Address, Port, Protocol, V4, V6};
use svc_common::tables::{Backend, Entry, Flow, FlowKey, Frontend, FrontendKey, Settings, SlotRange, filter_bit, flow};
use svc_common::tuple::End;

use super::report::{Figure, Report};

/// Repetitions of one test run: short enough that no entry falls due for renewal more than once.
const REPEAT: u32 = 200_000;
const NEXT: i32 = -1;
const XDP_PASS: i32 = 2;

/// Measures every path and adds it to the report.
pub fn run(rounds: usize, report: &mut Report, say: &dyn Fn(&str)) -> Result<()> {
    let bench = Bench::new(10_000)?;
    for (family, run) in [("v4", measure::<V4> as Measure), ("v6", measure::<V6> as Measure)] {
        say(&format!("programs, {family}"));
        run(&bench, family, rounds, report)?;
    }
    say("programs, growth from 10 to 100,000 services");
    growth(rounds, report)
}

type Measure = fn(&Bench, &str, usize, &mut Report) -> Result<()>;

/// The programs on tables of their own.
struct Bench {
    programs: Programs,
    maps: Maps,
    empty: [std::os::fd::OwnedFd; 2],
}

/// A family's tables and addresses.
trait Tables: Family {
    fn frontends(maps: &Maps) -> &Table<FrontendKey<Self>, Frontend>;
    fn flows(maps: &Maps) -> &Table<FlowKey<Self>, Flow<Self>>;
    fn backends(maps: &Maps) -> &Table<u32, Backend<Self>>;
    /// An address: network 1 are pods, 2 services, 3 strangers.
    fn address(network: u8, host: u32) -> Self;
}

impl Tables for V4 {
    fn frontends(maps: &Maps) -> &Table<FrontendKey<Self>, Frontend> {
        &maps.frontends_v4
    }

    fn flows(maps: &Maps) -> &Table<FlowKey<Self>, Flow<Self>> {
        &maps.flows_v4
    }

    fn backends(maps: &Maps) -> &Table<u32, Backend<Self>> {
        &maps.backends_v4
    }

    fn address(network: u8, host: u32) -> Self {
        let [_, a, b, c] = host.to_be_bytes();
        Self::new(Ipv4Addr::new(10, (network << 4) + a, b, c))
    }
}

impl Tables for V6 {
    fn frontends(maps: &Maps) -> &Table<FrontendKey<Self>, Frontend> {
        &maps.frontends_v6
    }

    fn flows(maps: &Maps) -> &Table<FlowKey<Self>, Flow<Self>> {
        &maps.flows_v6
    }

    fn backends(maps: &Maps) -> &Table<u32, Backend<Self>> {
        &maps.backends_v6
    }

    fn address(network: u8, host: u32) -> Self {
        let [high, low] = [(host >> 16) as u16, host as u16];
        Self::new(Ipv6Addr::new(0xfd00, network.into(), 0, 0, 0, 0, high, low))
    }
}

const SERVICE_PORT: u16 = 80;
const BACKEND_PORT: u16 = 8080;

impl Bench {
    fn new(services: u32) -> Result<Self> {
        let globals = Globals { hz: probe::ticks_per_second()?, mark: 0x4000, netns_cookie: 0, socket_all: true };
        let sizes = Sizes { services: services.max(1000), endpoints: 1000, flows: 100_000 };
        let hooks = [Hook::TcIngress, Hook::TcEgress, Hook::XdpUplink];
        let (programs, maps) = Programs::load_private(sizes, &globals, &hooks)?;
        let empty = [empty::load(Kind::Classifier, NEXT)?, empty::load(Kind::Xdp, XDP_PASS)?];
        let bench = Self { programs, maps, empty };
        let settings = Settings { snat_port_first: 20_000, snat_port_last: 29_999, ..Settings::default() };
        bench.maps.settings.set(&0, &settings)?;
        bench.maps.slots.set(&1, &1)?;
        bench.serve::<V4>(services)?;
        bench.serve::<V6>(services)?;
        Ok(bench)
    }

    /// Writes that many services, all with one backend.
    fn serve<A: Tables>(&self, services: u32) -> Result<()>
    where
        FrontendKey<A>: Entry,
        Backend<A>: Entry,
    {
        let backend = Backend { addr: A::address(1, 2), port: Port::new(BACKEND_PORT), flags: 0 };
        A::backends(&self.maps).set(&1, &backend)?;
        for host in 0..services {
            let addr = A::address(2, host);
            let (word, bit) = filter_bit(addr);
            let old = self.maps.filter.get(&word)?.unwrap_or(0);
            self.maps.filter.set(&word, &(old | bit))?;
            let key = FrontendKey { addr, port: Port::new(SERVICE_PORT), protocol: Protocol::Tcp as u8, zero: 0 };
            let frontend = Frontend { service: 1, cluster: SlotRange { base: 1, len: 1 }, ..Frontend::default() };
            A::frontends(&self.maps).set(&key, &frontend)?;
        }
        Ok(())
    }

    /// Nanoseconds of a hook on a frame, net of an empty program. Also the frame afterwards.
    fn cost(&self, hook: Hook, frame: &[u8], repeat: u32) -> Result<(f64, Vec<u8>)> {
        let empty = if hook == Hook::XdpUplink { &self.empty[1] } else { &self.empty[0] };
        let (base, _) = test(empty.as_fd(), hook, frame, repeat)?;
        let (cost, out) = test(self.programs.fd(hook)?, hook, frame, repeat)?;
        Ok((cost - base, out))
    }
}

fn test(program: std::os::fd::BorrowedFd<'_>, hook: Hook, frame: &[u8], repeat: u32) -> Result<(f64, Vec<u8>)> {
    // Loopback, which every namespace has: a test run of TC wants a device.
    const IFINDEX: usize = 40;
    let mut context = [0u8; 192];
    context[IFINDEX] = 1;
    let mut out = vec![0; 256];
    let context_in: &[u8] = if hook == Hook::XdpUplink { &[] } else { &context };
    let run = TestRun { data_in: frame, data_out: &mut out, context_in, context_out: &mut [], repeat };
    let result = bpf::test_run(program, run).with_context(|| format!("a test run of {}", hook.name()))?;
    out.truncate(result.length);
    Ok((f64::from(result.nanoseconds), out))
}

/// An Ethernet frame with a TCP segment, SYN or ACK.
fn frame<A: Address>(from: End<A>, to: End<A>, opening: bool) -> Vec<u8> {
    let ethernet = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    let network = match (from.addr.to_ip(), to.addr.to_ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => ethernet.ipv4(from.octets(), to.octets(), 64),
        (IpAddr::V6(from), IpAddr::V6(to)) => ethernet.ipv6(from.octets(), to.octets(), 64),
        _ => unreachable!("both ends have one family"),
    };
    let segment = network.tcp(from.port.get(), to.port.get(), 1, 1000);
    let segment = if opening { segment.syn() } else { segment.ack(1) };
    let mut bytes = Vec::new();
    segment.write(&mut bytes, b"payload").expect("writing to memory does not fail");
    bytes
}

fn ends<A: Tables>() -> [End<A>; 3] {
    [
        End::new(A::address(1, 1), Port::new(40_000)),
        End::new(A::address(2, 7), Port::new(SERVICE_PORT)),
        End::new(A::address(1, 2), Port::new(BACKEND_PORT)),
    ]
}

/// Writes the entry of this role of a connection, both directions seen.
fn store<A: Tables>(maps: &Maps, role: u8, client: End<A>, service: End<A>, backend: End<A>) -> Result<()>
where
    FlowKey<A>: Entry,
    Flow<A>: Entry,
{
    let now = probe::jiffies()?;
    let connection = Connection {
        client,
        service,
        backend,
        middle_port: client.port,
        service_id: 1,
        backend_id: 1,
        opened: now,
        seen: now,
        protocol: Protocol::Tcp as u8,
        state: flow::REQUESTED | flow::REPLIED,
        ..Connection::default()
    };
    let mut key = FlowKey {
        low: A::default(),
        high: A::default(),
        low_port: Port::NONE,
        high_port: Port::NONE,
        protocol: 0,
        zero: [0; 3],
    };
    let mut entry = Flow::default();
    connection.write(role, &mut key, &mut entry);
    Ok(A::flows(maps).set(&key, &entry)?)
}

fn forget<A: Tables>(maps: &Maps) -> Result<()>
where
    FlowKey<A>: Entry,
    Flow<A>: Entry,
{
    let keys: Vec<_> = A::flows(maps).dump()?.into_iter().map(|(key, _)| key).collect();
    Ok(A::flows(maps).remove_all(&keys)?)
}

fn rounds_of(rounds: usize, mut one: impl FnMut() -> Result<f64>) -> Result<Vec<f64>> {
    (0..rounds.max(3)).map(|_| one()).collect()
}

fn measure<A: Tables>(bench: &Bench, family: &str, rounds: usize, report: &mut Report) -> Result<()>
where
    FlowKey<A>: Entry,
    Flow<A>: Entry,
{
    let [client, service, backend] = ends::<A>();
    let stranger = End::new(A::address(3, 1), Port::new(443));
    let mut add = |id: &str, figures: Vec<f64>| {
        let id = format!("{id}/{family}");
        let what = super::budget::find(&id).map_or(id.as_str(), |row| row.path);
        report.budgeted.push(Figure::of(&id, what, "ns", &figures));
    };

    let passing = frame(client, stranger, false);
    for (id, hook) in
        [("pass/tc-ingress", Hook::TcIngress), ("pass/tc-egress", Hook::TcEgress), ("pass/xdp", Hook::XdpUplink)]
    {
        let figures = rounds_of(rounds, || {
            let (cost, out) = bench.cost(hook, &passing, REPEAT)?;
            ensure!(out == passing, "{id}: a packet that is no Service's was changed");
            Ok(cost)
        })?;
        add(id, figures);
    }

    let figures = rounds_of(rounds, || established(bench, client, service, backend))?;
    add("established/request", figures);

    let reply = frame(backend, client, false);
    let figures = rounds_of(rounds, || {
        forget::<A>(&bench.maps)?;
        store(&bench.maps, flow::MIDDLE, client, service, backend)?;
        store(&bench.maps, flow::MIDDLE, client, backend, service)?;
        let (cost, out) = bench.cost(Hook::TcEgress, &reply, REPEAT + 1)?;
        ensure!(out == frame(service, client, false), "the measured reply was not translated");
        Ok(cost)
    })?;
    add("established/reply", figures);

    let mut port = 1024;
    let figures = rounds_of(rounds, || {
        forget::<A>(&bench.maps)?;
        let mut costs = Vec::new();
        for _ in 0..500 {
            port = if port == u16::MAX { 1024 } else { port + 1 };
            let client = End::new(client.addr, Port::new(port));
            let (cost, out) = bench.cost(Hook::TcIngress, &frame(client, service, true), 1)?;
            ensure!(out == frame(client, backend, true), "the measured connection was not opened");
            costs.push(cost);
        }
        costs.sort_by(f64::total_cmp);
        Ok(costs[costs.len() / 2])
    })?;
    add("new", figures);
    forget::<A>(&bench.maps)
}

/// A request of an established connection at its client's boundary.
fn established<A: Tables>(bench: &Bench, client: End<A>, service: End<A>, backend: End<A>) -> Result<f64>
where
    FlowKey<A>: Entry,
    Flow<A>: Entry,
{
    forget::<A>(&bench.maps)?;
    store(&bench.maps, flow::CLIENT, client, service, backend)?;
    store(&bench.maps, flow::CLIENT, client, backend, service)?;
    // An odd number of repetitions, so that the packet ends translated.
    let (cost, out) = bench.cost(Hook::TcIngress, &frame(client, service, false), REPEAT + 1)?;
    ensure!(out == frame(client, backend, false), "the measured request was not translated");
    Ok(cost)
}

/// How much an established request costs more when there are 100,000 services instead of 10.
fn growth(rounds: usize, report: &mut Report) -> Result<()> {
    let [client, service, backend] = ends::<V4>();
    let (few, many) = (Bench::new(10)?, Bench::new(100_000)?);
    let figures = rounds_of(rounds, || {
        let few = established(&few, client, service, backend)?;
        let many = established(&many, client, service, backend)?;
        Ok((many / few - 1.0) * 100.0)
    })?;
    let what = super::budget::find("growth").map_or("growth", |row| row.path);
    report.budgeted.push(Figure::of("growth", what, "%", &figures));
    Ok(())
}
