//! Answers questions one after another, and keeps what a session has to remember.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::Context as _;

use super::answer::{Answer, Outcome, Reply, Tally};
use super::machine::Machine;
use super::packet::Moment;
use super::question::{Invalid, Line, Question, Via};
use super::reason;
use super::walk::{Packet, Walk, walk};
use crate::cli::flags::PortRange;
use crate::model::{Family, Protocol};

/// A connection as its client knows it.
type Connection = (SocketAddr, SocketAddr, Protocol);

/// A dialog with one private datapath.
pub(super) struct Dialog {
    machine: Machine,
    ports: Ports,
    session: Option<String>,
    /// Connections that the session has, and what became of their last packet.
    known: HashMap<Connection, Walk>,
}

impl Dialog {
    pub(super) fn new(machine: Machine, node_ports: PortRange) -> Self {
        Self { machine, ports: Ports::new(node_ports), session: None, known: HashMap::new() }
    }

    /// Answers a line.
    pub(super) fn answer(&mut self, line: Result<Line, Invalid>) -> Reply {
        let (id, result) = match line {
            Err(invalid) => return invalid.into(),
            Ok(Line::Ask(question)) => (question.id.clone(), self.ask(&question).map(Reply::Answer)),
            Ok(Line::Change { id, session, manifests }) => {
                let changed = self.enter(session.as_deref()).and_then(|()| self.machine.change(&manifests));
                let changed = changed.with_context(|| format!("cannot read {}", manifests.display()));
                (id.clone(), changed.map(|reason| Reply::applied(id, reason)))
            }
        };
        result.unwrap_or_else(|error| Reply::Error { id, error: format!("{error:#}") })
    }

    /// Answers a question.
    pub(super) fn ask(&mut self, question: &Question) -> anyhow::Result<Answer> {
        self.enter(question.session.as_deref())?;
        self.machine.catch_up()?;
        self.machine.set_pod_device(is_pod_device(&self.machine, question))?;
        let from = question.from.unwrap_or_else(|| default_source(&self.machine, question.via, question.to.ip()));
        let mut tally = Tally::default();
        let mut told: Option<(Packet, Walk)> = None;
        for trial in 0..question.trials {
            let port = match question.source_port {
                Some(port) if trial == 0 => port,
                taken => self.ports.next(taken),
            };
            let packet = Packet {
                via: question.via,
                from: SocketAddr::new(from, port),
                to: question.to,
                protocol: question.protocol,
                moment: Moment::First,
            };
            let (packet, walk) = self.trial(packet)?;
            tally.add(walk.outcome);
            // Of trials that differ, the one that was not forwarded has more to tell.
            let tells_more = told.as_ref().is_none_or(|(_, told)| {
                matches!(told.outcome, Outcome::Forward { .. }) && !matches!(walk.outcome, Outcome::Forward { .. })
            });
            if tells_more {
                told = Some((packet, walk));
            }
        }
        self.clean_up(question.via)?;
        let mut reason = match &told {
            Some((packet, walk)) => reason::sentence(&self.machine, packet, walk)?,
            None => String::new(),
        };
        if let Some(differences) = tally.differences() {
            reason = format!("the trials differ ({differences}); {reason}");
        }
        Ok(tally.into_answer(question.id.clone(), from, reason))
    }

    /// Sends one packet and, outside sessions, forgets its connection.
    fn trial(&mut self, mut packet: Packet) -> anyhow::Result<(Packet, Walk)> {
        let connection = (packet.from, packet.to, packet.protocol);
        let known = self.known.get(&connection);
        if known.is_some() && packet.protocol != Protocol::Udp {
            packet.moment = Moment::Later;
        }
        let walk = match known {
            // The socket of a process talks to the endpoint itself: no program sees the Service again.
            Some(known) if packet.via == Via::Host && packet.moment == Moment::Later => known.clone(),
            _ => walk(&mut self.machine, &packet)?,
        };
        let forwarded = matches!(walk.outcome, Outcome::Forward { .. });
        if self.session.is_none() {
            self.forget(&packet, &walk)?;
        } else if forwarded {
            self.known.insert(connection, walk.clone());
        } else {
            self.known.remove(&connection);
        }
        Ok((packet, walk))
    }

    /// A line of this session, or of none, begins. Another session's state is forgotten.
    fn enter(&mut self, session: Option<&str>) -> anyhow::Result<()> {
        if self.session.as_deref() != session {
            if self.session.is_some() {
                self.machine.forget_everything()?;
            }
            self.known.clear();
            self.session = session.map(ToOwned::to_owned);
        }
        Ok(())
    }

    /// Takes back what one trial has left in the tables.
    fn forget(&self, packet: &Packet, walk: &Walk) -> anyhow::Result<()> {
        let Packet { from, to, protocol, .. } = *packet;
        self.machine.forget_flow(from, to, protocol)?;
        for station in &walk.stations {
            self.machine.forget_flow(station.from, station.to, protocol)?;
        }
        if let Some(frontend) = self.machine.frontend(to, protocol)?
            && frontend.affinity > 0
        {
            self.machine.forget_affinity(frontend.service, from.ip())?;
        }
        Ok(())
    }

    /// Takes back what the trials of a question have left where it does not disturb the next trial.
    fn clean_up(&self, via: Via) -> anyhow::Result<()> {
        if self.session.is_none() && via == Via::Host { self.machine.forget_sockets() } else { Ok(()) }
    }

    /// The private datapath.
    pub(super) fn machine(&mut self) -> &mut Machine {
        &mut self.machine
    }
}

/// Whether the interface detectors take what comes by the packet's device for a pod's.
fn is_pod_device(machine: &Machine, question: &Question) -> bool {
    let detector = &machine.options().detector;
    match (&question.device, question.via) {
        (Some(name), _) => detector.accepts_device(name),
        (None, Via::Pod) => detector.is_by_device(),
        (None, Via::Host | Via::Uplink) => false,
    }
}

/// A source for a question that names none.
pub(super) fn default_source(machine: &Machine, via: Via, like: IpAddr) -> IpAddr {
    let family = Family::of(like);
    let pod = || {
        let prefixes = &machine.globals().pod_prefixes;
        let prefix = prefixes.iter().find(|prefix| Family::of(prefix.addr()) == family)?;
        // Not the first addresses, which bridges and the first pods have.
        prefix.hosts().nth(250).or_else(|| prefix.hosts().last())
    };
    match (via, family) {
        (Via::Host, Family::V4) => machine.primary(like).unwrap_or(Ipv4Addr::LOCALHOST.into()),
        (Via::Host, Family::V6) => machine.primary(like).unwrap_or(std::net::Ipv6Addr::LOCALHOST.into()),
        (Via::Pod, Family::V4) => pod().unwrap_or_else(|| Ipv4Addr::new(100, 64, 0, 250).into()),
        (Via::Pod, Family::V6) => {
            pod().unwrap_or_else(|| std::net::Ipv6Addr::new(0xfd64, 0, 0, 0, 0, 0, 0, 0xfa).into())
        }
        // Documentation prefixes: nobody's addresses.
        (Via::Uplink, Family::V4) => Ipv4Addr::new(203, 0, 113, 77).into(),
        (Via::Uplink, Family::V6) => std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x77).into(),
    }
}

/// Source ports for trials that name none: one after another, and never one that may be a node port.
struct Ports {
    node_ports: PortRange,
    last: u16,
}

impl Ports {
    const FIRST: u16 = 32_768;
    const LOWEST: u16 = 1_024;

    fn new(node_ports: PortRange) -> Self {
        Self { node_ports, last: Self::FIRST - 1 }
    }

    /// The next port that is not `taken`.
    fn next(&mut self, taken: Option<u16>) -> u16 {
        let PortRange { first, last } = self.node_ports;
        // A range of nearly all ports leaves nothing to stay clear of.
        let narrow = last - first < 32_768;
        loop {
            self.last = self.last.checked_add(1).unwrap_or(Self::LOWEST);
            let is_node_port = narrow && (first..=last).contains(&self.last);
            if !is_node_port && Some(self.last) != taken {
                return self.last;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn ports_differ_and_stay_clear_of_node_ports() {
        let mut ports = Ports::new(PortRange { first: 30_000, last: 32_767 });
        let taken: Vec<_> = (0..60_000).map(|_| ports.next(Some(40_000))).collect();
        assert_eq!(taken.iter().collect::<HashSet<_>>().len(), taken.len());
        assert!(taken.iter().all(|port| *port >= 1_024 && !(30_000..=32_767).contains(port) && *port != 40_000));
    }
}
