//! The way of a packet, step by step, for a person.

use std::net::SocketAddr;

use anyhow::Context as _;
use svc_common::tables::Sender;

use super::answer::Outcome;
use super::machine::Machine;
use super::packet::Moment;
use super::question::{self, Via};
use super::reason;
use super::walk::{Packet, Walk, walk};
use crate::datapath::Hook;
use crate::model::text;

/// The packet of `FROM TO:PORT/proto`, FROM with or without a port.
pub(super) fn packet(machine: &mut Machine, from: &str, to: &str) -> anyhow::Result<Packet> {
    let (addr, protocol) = to.rsplit_once('/').unwrap_or((to, "tcp"));
    let protocol = question::protocol(&protocol.to_uppercase()).map_err(anyhow::Error::msg)?;
    let to = question::destination(addr)
        .with_context(|| format!("{to} is no destination; write 172.30.0.41:80/tcp or [fd00::1]:80/tcp"))?;
    let from = question::destination(from)
        .or_else(|| text::address(from).map(|addr| SocketAddr::new(addr, 40_000)))
        .with_context(|| format!("{from} is no source; write 10.0.0.2 or 10.0.0.2:40000"))?;
    anyhow::ensure!(from.is_ipv4() == to.is_ipv4(), "{} and {} are of different address families", from.ip(), to.ip());
    // Where it comes from follows from who it is; only a device could say otherwise.
    let via = match machine.sender(from.ip()) {
        Sender::Pod => Via::Pod,
        Sender::Host => Via::Host,
        Sender::Other if machine.options().detector.is_by_device() => {
            machine.set_pod_device(true)?;
            Via::Pod
        }
        Sender::Other => Via::Uplink,
    };
    Ok(Packet { via, from, to, protocol, moment: Moment::First })
}

/// What happens to it.
pub(super) fn explain(machine: &mut Machine, packet: &Packet) -> anyhow::Result<String> {
    let way = walk(machine, packet)?;
    render(machine, packet, &way)
}

fn render(machine: &Machine, packet: &Packet, way: &Walk) -> anyhow::Result<String> {
    let Packet { from, to, protocol, .. } = packet;
    let mut lines = vec![format!("{from} -> {to}/{}, the first packet of a connection", protocol.name())];
    lines.push(format!("  sender    {}", reason::sender_name(machine.sender(from.ip()))));
    match reason::matched(machine, packet)? {
        Some(found) => {
            lines.push(format!("  frontend  {}", found.title()));
            let place = if found.is_local { " on this node" } else { "" };
            lines.push(format!("  set       {} of {} endpoints{place}", found.chosen_from, found.endpoints));
        }
        None => lines.push("  frontend  none at this address, port and protocol".to_owned()),
    }
    let (mut source, mut destination) = (*from, *to);
    for station in &way.stations {
        let mut changes = Vec::new();
        if station.to != destination {
            changes.push(format!("destination {destination} becomes {}", station.to));
        }
        if station.from != source {
            changes.push(format!("source {source} becomes {}", station.from));
        }
        let what = if changes.is_empty() { "passes unchanged, or ends here".to_owned() } else { changes.join(", ") };
        lines.push(format!("  {:<9} {what}", hook_name(station.hook)));
        (source, destination) = (station.from, station.to);
    }
    let end = match way.outcome {
        Outcome::Forward { backend, source } => format!("forward to {backend}, which sees {source}"),
        other => other.name().to_owned(),
    };
    lines.push(format!("  outcome   {end}"));
    lines.push(format!("  because   {}", reason::sentence(machine, packet, way)?));
    Ok(lines.join("\n"))
}

fn hook_name(hook: Hook) -> &'static str {
    match hook {
        Hook::TcIngress => "ingress",
        Hook::TcEgress => "egress",
        Hook::SocketProbe => "socket",
        other => other.name(),
    }
}
