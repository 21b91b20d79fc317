//! The way of one packet through the real programs, from where it enters to the endpoint.

use std::net::{IpAddr, SocketAddr};

use anyhow::Context as _;
use svc_common::tables::{Rule, Sender};
use svc_common::verdict::{Outcome as Verdict, Reason};

use super::answer::Outcome;
use super::machine::Machine;
use super::packet::{self, Moment};
use super::question::Via;
use crate::datapath::Hook;
use crate::model::Protocol;

/// What a program does with a packet: `TC_ACT_SHOT`; everything else lets it go on, or sends it on.
const SHOT: i32 = 2;
/// `TC_ACT_REDIRECT`.
const REDIRECT: i32 = 7;

/// A packet on its way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Packet {
    pub(super) via: Via,
    pub(super) from: SocketAddr,
    pub(super) to: SocketAddr,
    pub(super) protocol: Protocol,
    pub(super) moment: Moment,
}

/// One boundary that the packet came to, and how it left it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Station {
    pub(super) hook: Hook,
    pub(super) from: SocketAddr,
    pub(super) to: SocketAddr,
}

/// The whole way.
#[derive(Clone, Debug)]
pub(super) struct Walk {
    pub(super) outcome: Outcome,
    /// Why it ended, unless it was forwarded.
    pub(super) reason: Option<Reason>,
    pub(super) stations: Vec<Station>,
}

impl Walk {
    fn ended(reason: Reason, stations: Vec<Station>) -> Self {
        let outcome = match reason.outcome() {
            Verdict::Reject => Outcome::Reject,
            Verdict::Drop => Outcome::Drop,
            Verdict::Forward | Verdict::Pass => Outcome::Untouched,
        };
        Self { outcome, reason: Some(reason), stations }
    }
}

/// Sends a packet.
pub(super) fn walk(machine: &mut Machine, packet: &Packet) -> anyhow::Result<Walk> {
    match packet.via {
        Via::Pod | Via::Uplink => through_stack(machine, packet, Hook::TcIngress, Vec::with_capacity(2)),
        Via::Host => from_host(machine, packet),
    }
}

/// A process of the host: first its socket call, then, if that was not translated, the device by which it leaves.
fn from_host(machine: &mut Machine, packet: &Packet) -> anyhow::Result<Walk> {
    let mut frame = packet::build(packet.from, packet.to, packet.protocol, packet.moment);
    let mut mark = 0;
    let verdict = machine.run(Hook::SocketProbe, &mut frame, &mut mark)?;
    let mut stations = Vec::with_capacity(2);
    let reason = ended(machine, verdict, &frame, packet)?;
    let (from, to) = packet::read(&frame).context("the packet cannot be read any more")?;
    stations.push(Station { hook: Hook::SocketProbe, from, to });
    match reason {
        None => {
            let source = chosen_source(machine, packet, to)?;
            Ok(Walk { outcome: Outcome::Forward { backend: to, source }, reason: None, stations })
        }
        Some(reason) if reason.outcome() == Verdict::Reject => Ok(Walk::ended(reason, stations)),
        // Nothing that is sent to loopback comes by a device that is served.
        Some(reason) if packet.to.ip().is_loopback() => {
            Ok(Walk { outcome: Outcome::Untouched, reason: Some(reason), stations })
        }
        Some(_) => through_stack(machine, packet, Hook::TcEgress, stations),
    }
}

/// From the program that meets the packet first to the egress of the backend's device.
fn through_stack(
    machine: &mut Machine,
    packet: &Packet,
    first: Hook,
    mut stations: Vec<Station>,
) -> anyhow::Result<Walk> {
    let mut frame = packet::build(packet.from, packet.to, packet.protocol, packet.moment);
    let mut mark = 0;
    let verdict = machine.run(first, &mut frame, &mut mark)?;
    if let Some(reason) = ended(machine, verdict, &frame, packet)? {
        stations.push(Station { hook: first, from: packet.from, to: packet.to });
        return Ok(Walk::ended(reason, stations));
    }
    let (mut from, backend) = packet::read(&frame).context("the packet cannot be read any more")?;
    stations.push(Station { hook: first, from, to: backend });
    if machine.wants_source_translation(mark) {
        let verdict = machine.run(Hook::TcEgress, &mut frame, &mut mark)?;
        if verdict == SHOT {
            let reason = machine.new_reasons()?.pop().context("a program dropped the packet and gave no reason")?;
            stations.push(Station { hook: Hook::TcEgress, from, to: backend });
            return Ok(Walk::ended(reason, stations));
        }
        from = packet::read(&frame).context("the packet cannot be read any more")?.0;
        stations.push(Station { hook: Hook::TcEgress, from, to: backend });
    }
    Ok(Walk { outcome: Outcome::Forward { backend, source: from.ip() }, reason: None, stations })
}

/// Why the packet was not forwarded, if it was not.
fn ended(machine: &mut Machine, verdict: i32, frame: &[u8], packet: &Packet) -> anyhow::Result<Option<Reason>> {
    let goes_on = verdict != SHOT && verdict != REDIRECT;
    if goes_on && packet::read(frame).is_some_and(|(_, to)| to != packet.to) {
        return Ok(None);
    }
    // Refused packets come back as what the sender is told; others may look as they did although they were handled.
    let reasons = machine.new_reasons()?;
    let worst = |reason: &Reason| match reason.outcome() {
        Verdict::Forward => 0,
        Verdict::Pass => 1,
        Verdict::Reject => 2,
        Verdict::Drop => 3,
    };
    Ok(reasons.into_iter().max_by_key(worst))
}

/// The source that the kernel gives to a connection of this host that a socket hook has translated: the node's address,
/// where the rules ask for one or the socket has none that could be answered; else the one it is bound to.
fn chosen_source(machine: &Machine, packet: &Packet, backend: SocketAddr) -> anyhow::Result<IpAddr> {
    let from = packet.from.ip();
    let rule = machine.frontend(packet.to, packet.protocol)?.map(|frontend| match machine.sender(from) {
        Sender::Pod => frontend.rules[0],
        Sender::Host => frontend.rules[1],
        Sender::Other => frontend.rules[2],
    });
    let translated = rule.is_some_and(|rule| rule.has(Rule::SNAT)) || from == backend.ip();
    let unanswerable = from.is_loopback() || from.is_unspecified();
    let wants = translated || unanswerable;
    Ok(wants.then(|| machine.primary(backend.ip())).flatten().unwrap_or(from))
}
