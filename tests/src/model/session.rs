//! What lasts from one packet to the next, and the comparison of an answer with what the specification allows.
//!
//! The model does not choose an endpoint: it takes the choice out of the answer, says whether it was allowed, and
//! remembers it.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::object::Protocol;
use super::rules::{Choice, Facts, Packet, PortId, Sender, Verdict, Via};

/// A question: one packet or several trials of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Question {
    /// The packet.
    pub packet: Packet,
    /// Source port of the first trial.
    pub source_port: Option<u16>,
    /// Number of connections.
    pub trials: u32,
}

/// What `explain` answered.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// `outcome`.
    pub outcome: String,
    /// `backends`.
    pub backends: BTreeMap<SocketAddr, u32>,
    /// `sources`.
    pub sources: BTreeMap<IpAddr, u32>,
    /// `snat`.
    pub snat: String,
}

type Tuple = (IpAddr, u16, SocketAddr, Protocol);

#[derive(Clone, Debug)]
struct Connection {
    port: PortId,
    endpoint: SocketAddr,
    translated: bool,
    /// When its last packet was answered.
    seen: Instant,
}

/// A connection that was silent for so long may have been forgotten: a datagram without a reply is after 30 s. No
/// history is that slow by itself, but the machine may have better things to do.
const PATIENCE: Duration = Duration::from_secs(20);

/// Who has an affinity record: a pod or an outside client by its address, the host as one.
type Client = Option<IpAddr>;

/// State that the packets of one session share.
#[derive(Clone, Debug, Default)]
pub struct Session {
    connections: BTreeMap<Tuple, Connection>,
    /// The endpoint of the last new connection, while it is certain that the record is still there.
    affinity: BTreeMap<(PortId, Client), SocketAddr>,
}

impl Session {
    /// Other objects are in force from now on.
    pub fn changed(&mut self, facts: &Facts<'_>) {
        // 1.12, 1.17.13: UDP flows to what is no longer good are given up, if there is something better.
        self.connections.retain(|(_, _, _, protocol), connection| {
            let good = facts.good_endpoints(&connection.port);
            *protocol != Protocol::Udp || good.is_empty() || good.contains(&connection.endpoint)
        });
        // 1.9: a record is worthless once its endpoint is not ready; whether it is still there matters to nobody
        // until the endpoint comes back, so nothing is expected of it.
        self.affinity.retain(|(port, _), endpoint| facts.ready_endpoints(port).contains(endpoint));
    }

    /// Compares an answer with what is allowed, and remembers what was chosen.
    pub fn check(&mut self, facts: &Facts<'_>, question: &Question, answer: &Answer) -> Result<(), String> {
        let packet = &question.packet;
        let tuple = question.source_port.map(|port| (packet.from, port, packet.to, packet.protocol));
        if let Some(connection) = tuple.and_then(|tuple| self.connections.get_mut(&tuple))
            && question.trials == 1
        {
            let silent = connection.seen.elapsed();
            connection.seen = Instant::now();
            if silent > PATIENCE {
                // Whatever it is now, it is from now on.
                match answer.backends.keys().next() {
                    Some(endpoint) => connection.endpoint = *endpoint,
                    None => drop(tuple.and_then(|tuple| self.connections.remove(&tuple))),
                }
                return Ok(());
            }
            let endpoints = [(connection.endpoint, connection.translated)].into();
            let choice = Choice { port: connection.port.clone(), endpoints, affinity: false, even: false };
            return expect_forward(facts, question, answer, &choice)
                .map_err(|what| format!("later packet of a connection: {what}"));
        }
        let verdict = facts.verdict(packet);
        let expected = match &verdict {
            Verdict::Untouched => "untouched",
            Verdict::Reject => "reject",
            Verdict::Drop => "drop",
            Verdict::Forward(_) => "forward",
        };
        if answer.outcome != expected {
            return Err(format!("outcome {} instead of {expected}", answer.outcome));
        }
        let Verdict::Forward(mut choice) = verdict else {
            let silent = answer.backends.is_empty() && answer.sources.is_empty() && answer.snat == "never";
            return if silent { Ok(()) } else { Err("backends, sources or snat of what was not forwarded".into()) };
        };
        let client = (facts.sender(packet) != Sender::Host).then_some(packet.from);
        let record = (choice.port.clone(), client);
        if let Some(endpoint) = self.affinity.get(&record)
            && choice.affinity
            && let Some(translated) = choice.endpoints.get(endpoint)
        {
            choice.endpoints = [(*endpoint, *translated)].into();
        }
        expect_forward(facts, question, answer, &choice)?;
        if let Some((endpoint, _)) = answer.backends.first_key_value() {
            let translated = choice.endpoints.get(endpoint).copied().unwrap_or_default();
            if choice.affinity && answer.backends.len() == 1 {
                self.affinity.insert(record, *endpoint);
            }
            if let (Some(tuple), 1) = (tuple, question.trials) {
                let connection =
                    Connection { port: choice.port, endpoint: *endpoint, translated, seen: Instant::now() };
                self.connections.insert(tuple, connection);
            }
        }
        Ok(())
    }
}

/// Trials for each endpoint from which on the spread is looked at.
const ENOUGH: u32 = 64;

fn expect_forward(facts: &Facts<'_>, question: &Question, answer: &Answer, choice: &Choice) -> Result<(), String> {
    if answer.outcome != "forward" {
        return Err(format!("outcome {} instead of forward", answer.outcome));
    }
    let total: u32 = answer.backends.values().sum();
    if total != question.trials || answer.sources.values().sum::<u32>() != question.trials {
        return Err("the numbers of backends or sources do not add up to the trials".into());
    }
    if let Some(strange) = answer.backends.keys().find(|endpoint| !choice.endpoints.contains_key(endpoint)) {
        let allowed: Vec<_> = choice.endpoints.keys().collect();
        return Err(format!("endpoint {strange} is not in the set {allowed:?}"));
    }
    let mean = question.trials / choice.endpoints.len().max(1) as u32;
    if choice.even && mean >= ENOUGH {
        for endpoint in choice.endpoints.keys() {
            let count = answer.backends.get(endpoint).copied().unwrap_or(0);
            // More than six standard deviations at the smallest mean.
            if count < mean / 4 || count > mean * 9 / 5 {
                return Err(format!("endpoint {endpoint} got {count} of {} trials", question.trials));
            }
        }
    }
    expect_sources(facts, question, answer, choice)
}

fn expect_sources(facts: &Facts<'_>, question: &Question, answer: &Answer, choice: &Choice) -> Result<(), String> {
    let packet = &question.packet;
    let primary = facts.primary(packet.to.ip()).unwrap_or(packet.from);
    let source = |endpoint: &SocketAddr| if choice.endpoints[endpoint] { primary } else { packet.from };
    if packet.via == Via::Host {
        // After a socket hook the kernel chooses: the primary address, or the endpoint's own if it is bound here.
        let chosen = |source: &IpAddr| {
            *source == primary
                || answer.backends.keys().any(|endpoint| {
                    source_of(*source, *endpoint, facts) || (*source == packet.from && !choice.endpoints[endpoint])
                })
        };
        if let Some(strange) = answer.sources.keys().find(|source| !chosen(source)) {
            return Err(format!("source {strange} instead of {primary}"));
        }
    } else {
        let mut expected: BTreeMap<IpAddr, u32> = BTreeMap::new();
        for (endpoint, count) in &answer.backends {
            *expected.entry(source(endpoint)).or_default() += count;
        }
        if expected != answer.sources {
            return Err(format!("sources {:?} instead of {expected:?}", answer.sources));
        }
    }
    let kept = answer.sources.get(&packet.from).copied().unwrap_or(0);
    let snat = match kept {
        0 => "always",
        kept if kept == question.trials => "never",
        _ => "sometimes",
    };
    if answer.snat == snat { Ok(()) } else { Err(format!("snat {} where the sources say {snat}", answer.snat)) }
}

/// Whether the kernel would take `source` for a connection of the host to an endpoint that the host has itself.
fn source_of(source: IpAddr, endpoint: SocketAddr, facts: &Facts<'_>) -> bool {
    source == endpoint.ip() && facts.is_node_address(source)
}
