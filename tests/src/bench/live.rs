//! What a live frame costs that is turned around at XDP, next to a program that does nothing else.
//!
//! The kernel uses a frame again as the program has left it. So the two connections of this measurement are each other's
//! way back: what one makes of a frame is what the other turns around next.

use std::os::fd::{AsFd as _, BorrowedFd};

use anyhow::{Context, Result, ensure};
use svc_agent::datapath::bpf::{self, TestRun};
use svc_agent::datapath::{Hook, empty, probe};
use svc_common::datapath::connection::Connection;
use svc_common::net::{Port, Protocol, V4};
use svc_common::tables::{Flow, FlowKey, flow};
use svc_common::tuple::End;
use svc_common::verdict::Reason;

use super::report::{Figure, Report};
use crate::packet::{Frame, Kind, Node, Wires};

/// `XDP_TX`.
const TX: i32 = 3;
/// Frames at a time.
const BATCH: u32 = 64;
/// Runs of one measurement. No frame lives long enough to be used up: each loses a hop a run, and there are at least
/// [`BATCH`] of them.
const REPEAT: u32 = 200 * BATCH;

const CLIENT: &str = "203.0.113.9:50000";
const SERVICE: &str = "198.18.0.80:30080";
const BACKEND: &str = "10.2.0.20:8080";
const NODE: &str = "192.0.2.1:20001";

/// Measures in a network namespace of its own.
pub fn run(rounds: usize, report: &mut Report, say: &dyn Fn(&str)) -> Result<()> {
    say("live frames");
    // The namespace is that of a thread, and goes with it.
    let figures = std::thread::scope(|scope| scope.spawn(|| measure(rounds)).join())
        .map_err(|_| anyhow::anyhow!("live frames: no namespace, or no wires in it"))??;
    let what = super::budget::find("xdp/live").context("xdp/live has a budget")?.path;
    report.budgeted.push(Figure::of("xdp/live", what, "ns", &figures));
    Ok(())
}

fn measure(rounds: usize) -> Result<Vec<f64>> {
    let wires = Wires::new();
    let mut node = Node::new();
    wires.connect(&mut node);
    let bare = empty::load(empty::Kind::Xdp, TX)?;
    let frame = Frame { hops: 255, ..Frame::new(CLIENT, SERVICE, Kind::Tcp(16)) }.bytes();
    let mut figures = Vec::new();
    for _ in 0..rounds.max(3) {
        store(&node, CLIENT, SERVICE, BACKEND, NODE)?;
        store(&node, NODE, BACKEND, SERVICE, CLIENT)?;
        let before = turned(&node)?;
        let whole = cost(node.program(Hook::XdpUplink), &frame, wires.eth0)?;
        let turned = turned(&node)? - before;
        ensure!(turned == u64::from(REPEAT), "of {REPEAT} live frames {turned} were turned around");
        figures.push(whole - cost(bare.as_fd(), &frame, wires.eth0)?);
    }
    Ok(figures)
}

/// Frames that were turned around so far.
fn turned(node: &Node) -> Result<u64> {
    Ok(node.maps.reasons.get(Reason::TurnedAround as u32)?.iter().sum())
}

/// Nanoseconds of a live frame, all told.
fn cost(program: BorrowedFd<'_>, frame: &[u8], device: u32) -> Result<f64> {
    // struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
    let mut context = [0u8; 24];
    context[4..8].copy_from_slice(&u32::try_from(frame.len())?.to_ne_bytes());
    context[12..16].copy_from_slice(&device.to_ne_bytes());
    let run = TestRun { data_in: frame, context_in: &context, repeat: REPEAT, ..TestRun::default() };
    let result = bpf::test_run_live(program, run, BATCH).context("no live frames (kernel 5.18)")?;
    Ok(f64::from(result.nanoseconds))
}

/// Writes the client's entry of an established connection that is turned around.
fn store(node: &Node, client: &str, service: &str, backend: &str, own: &str) -> Result<()> {
    let now = probe::jiffies()?;
    let client = end(client)?;
    let connection = Connection {
        client,
        service: end(service)?,
        backend: end(backend)?,
        node: end(own)?,
        middle_port: client.port,
        flags: flow::SNAT | flow::TURNED,
        service_id: 1,
        backend_id: 1,
        opened: now,
        clock: 0,
        seen: now,
        protocol: Protocol::Tcp as u8,
        state: flow::REQUESTED | flow::REPLIED,
    };
    let zero = V4::default();
    let mut key =
        FlowKey { low: zero, high: zero, low_port: Port::NONE, high_port: Port::NONE, protocol: 0, zero: [0; 3] };
    let mut entry = Flow::default();
    connection.write(flow::CLIENT, &mut key, &mut entry);
    Ok(node.maps.flows_v4.set(&key, &entry)?)
}

fn end(text: &str) -> Result<End<V4>> {
    let end: std::net::SocketAddrV4 = text.parse()?;
    Ok(End::new(V4::new(*end.ip()), Port::new(end.port())))
}
