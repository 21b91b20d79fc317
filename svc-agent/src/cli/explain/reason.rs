//! Sentences for people: which Service and port matched, which policy, why this outcome.

use std::net::{IpAddr, SocketAddr};

use svc_common::tables::{Frontend, Rule, Sender};
use svc_common::verdict::Reason;

use super::answer::Outcome;
use super::machine::Machine;
use super::walk::{Packet, Walk};
use crate::cli::services::kind_name;
use crate::model::{Family, ObjectKey, Protocol, TrafficPolicy};
use crate::plan::options::loopback;
use crate::plan::{FrontendKind, PlannedPort};

/// What answers at a destination.
pub(super) struct Match {
    /// `namespace/name:port`.
    pub(super) service: String,
    /// `ClusterIP`, `NodePort` and so on; empty if only the tables are known.
    pub(super) kind: String,
    /// `internalTrafficPolicy Cluster` and so on.
    pub(super) policy: String,
    /// Endpoints in the set that applies to the sender.
    pub(super) chosen_from: usize,
    /// Ready or serving endpoints.
    pub(super) endpoints: usize,
    /// The set holds endpoints of this node only.
    pub(super) is_local: bool,
    /// Seconds.
    pub(super) affinity: u32,
    /// The rule asks for source translation.
    pub(super) snat: bool,
}

/// The frontend at the destination of a packet, in words.
pub(super) fn matched(machine: &Machine, packet: &Packet) -> anyhow::Result<Option<Match>> {
    let Some(frontend) = machine.frontend(packet.to, packet.protocol)? else { return Ok(None) };
    let rule = rule_of(&frontend, machine.sender(packet.from.ip()));
    let set = if rule.has(Rule::LOCAL) { frontend.local } else { frontend.cluster };
    let mut found = Match {
        service: machine.service_name(frontend.service).unwrap_or("a Service").to_owned(),
        kind: String::new(),
        policy: String::new(),
        chosen_from: set.len as usize,
        endpoints: frontend.cluster.len.max(frontend.local.len) as usize,
        is_local: rule.has(Rule::LOCAL),
        affinity: frontend.affinity,
        snat: rule.has(Rule::SNAT),
    };
    if let Some((key, port, kind)) = planned(machine, packet.to, packet.protocol) {
        found.service = service_port(&key, &port.id.port);
        found.kind = kind_name(kind).to_owned();
        found.policy = policy(machine, &key, kind);
        found.chosen_from = if found.is_local { port.local.len() } else { port.cluster.len() };
        found.endpoints = port.serving.len();
    }
    Ok(Some(found))
}

/// Why the packet ended as it did. Never empty.
pub(super) fn sentence(machine: &Machine, packet: &Packet, walk: &Walk) -> anyhow::Result<String> {
    let found = matched(machine, packet)?;
    Ok(match (walk.outcome, &found) {
        (Outcome::Forward { backend, source }, Some(found)) => forwarded(machine, packet, found, backend, source),
        (Outcome::Forward { backend, .. }, None) => {
            format!("part of a connection to {backend} that was made while a Service answered at {}", packet.to)
        }
        _ => ended(machine, packet, walk.reason.unwrap_or(Reason::NotService), found.as_ref()),
    })
}

fn forwarded(machine: &Machine, packet: &Packet, found: &Match, backend: SocketAddr, source: IpAddr) -> String {
    let from = packet.from.ip();
    let mut text =
        format!("{}: {} of {} endpoint{}", found.title(), found.chosen_from, found.endpoints, plural(found.endpoints));
    if found.is_local {
        text.push_str(" (those on this node)");
    }
    text.push_str(&format!("; the sender is {}", sender_name(machine.sender(from))));
    if backend.ip() == from {
        text.push_str(" and the endpoint itself, so its source has to be translated");
    } else if source != from {
        text.push_str(", its source becomes an address of this node");
    } else if found.snat {
        text.push_str(", its source is this node's address already");
    } else {
        text.push_str(", its source is kept");
    }
    if found.affinity > 0 {
        text.push_str(&format!("; session affinity for {} s", found.affinity));
    }
    text
}

fn ended(machine: &Machine, packet: &Packet, reason: Reason, found: Option<&Match>) -> String {
    let Packet { from, to, protocol, .. } = packet;
    let place = format!("{to}/{}", protocol.name());
    match (reason, found) {
        (Reason::NoEndpoint | Reason::SocketRefused, Some(found)) => {
            format!("{}: there is no usable endpoint anywhere, so the sender is refused", found.title())
        }
        (Reason::NoLocalEndpoint, Some(found)) => format!(
            "{}: no endpoint on this node, though there are {} elsewhere, so the packet is dropped",
            found.title(),
            found.endpoints
        ),
        (Reason::SourceRange, Some(found)) => {
            format!("{}: {} is outside loadBalancerSourceRanges, so the packet is dropped", found.title(), from.ip())
        }
        (Reason::NoConnection, Some(found)) => {
            format!("{}: the packet opens no connection and belongs to none, so it is refused", found.title())
        }
        (Reason::UnknownPort | Reason::SocketRefused, None) => format!(
            "{} is the ClusterIP of {}, which has no port {}/{}: refused",
            to.ip(),
            owner_of(machine, to.ip()),
            to.port(),
            protocol.name()
        ),
        (Reason::NoSourcePort, Some(found)) if machine.primary(to.ip()).is_none() => format!(
            "{}: the sender's address has to become one of this node, which has no {} address (see --node and the \
             InternalIPs of its Node object), so the packet is dropped",
            found.title(),
            Family::of(to.ip()).name()
        ),
        (Reason::UnallocatedAddress, _) => {
            format!("{} lies inside a ServiceCIDR, but no Service has this address: dropped", to.ip())
        }
        (Reason::NotService | Reason::SocketPassed, None) => match foreign(machine, to.ip()) {
            Some(service) => format!("{} belongs to {service}, which another proxy serves", to.ip()),
            None => format!("no Service answers at {place}"),
        },
        (Reason::OwnAddress, None) => format!("{} is bound on this node and no Service answers at {place}", to.ip()),
        (reason, Some(found)) => format!("{}: {}", found.title(), reason.text()),
        (reason, None) => format!("{place}: {}", reason.text()),
    }
}

impl Match {
    /// `namespace/name:port ClusterIP, internalTrafficPolicy Cluster`.
    pub(super) fn title(&self) -> String {
        let mut title = self.service.clone();
        if !self.kind.is_empty() {
            title.push_str(&format!(" {}, {}", self.kind, self.policy));
        }
        title
    }
}

/// The rule for a kind of sender.
pub(super) fn rule_of(frontend: &Frontend, sender: Sender) -> Rule {
    match sender {
        Sender::Pod => frontend.rules[0],
        Sender::Host => frontend.rules[1],
        Sender::Other => frontend.rules[2],
    }
}

/// A sender's class in words.
pub(super) fn sender_name(sender: Sender) -> &'static str {
    match sender {
        Sender::Pod => "a pod",
        Sender::Host => "this host",
        Sender::Other => "neither a pod nor this host",
    }
}

fn planned(machine: &Machine, to: SocketAddr, protocol: Protocol) -> Option<(ObjectKey, PlannedPort, FrontendKind)> {
    let engine = machine.engine()?;
    let addr = if to.ip().is_loopback() { loopback(Family::of(to.ip())) } else { to.ip() };
    let addr = SocketAddr::new(addr, to.port());
    let key = engine.owner(addr, protocol)?.clone();
    let plan = engine.plan(&key)?;
    let mut ports = plan.ports.into_iter().filter(|port| port.id.protocol == protocol);
    ports.find_map(|port| {
        let kind = port.frontends.iter().find(|frontend| frontend.addr == addr)?.kind;
        Some((key.clone(), port, kind))
    })
}

fn service_port(key: &ObjectKey, port: &str) -> String {
    if port.is_empty() { key.to_string() } else { format!("{key}:{port}") }
}

fn policy(machine: &Machine, key: &ObjectKey, kind: FrontendKind) -> String {
    let service = machine.engine().and_then(|engine| engine.world().service(key));
    let (name, policy) = if kind.is_external() {
        ("externalTrafficPolicy", service.map(|service| service.external_policy))
    } else {
        ("internalTrafficPolicy", service.map(|service| service.internal_policy))
    };
    let policy = match policy {
        Some(TrafficPolicy::Local) => "Local",
        Some(TrafficPolicy::Cluster) | None => "Cluster",
    };
    format!("{name} {policy}")
}

fn owner_of(machine: &Machine, addr: IpAddr) -> String {
    let owner = machine.engine().and_then(|engine| engine.address_owner(addr));
    owner.map_or_else(|| "a Service".to_owned(), ToString::to_string)
}

/// The Service that an address belongs to without being served here.
fn foreign(machine: &Machine, addr: IpAddr) -> Option<String> {
    let engine = machine.engine()?;
    let key = engine.address_owner(addr)?;
    engine.world().service(key).filter(|service| service.other_proxy).map(|_| key.to_string())
}

fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}
