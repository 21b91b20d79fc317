//! The applier's order of writes against a packet that is under way: whatever is written between two of its readings, it
//! finds a complete service, old or new.
//!
//! What is written is what [`Applier`] says for a short history of worlds; a packet is the datapath's own ingress, stopped
//! after each reading of a table. Packets only read here, so that one at a time is all of them.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use stateright::{Model, Property};
use svc_agent::apply::{Applier, Capacity, Change, GRACE, Owners, Write};
use svc_agent::model::{ObjectKey, Protocol};
use svc_agent::plan::Planned;
use svc_common::datapath::ingress;
use svc_common::net::{Address as _, V4};
use svc_common::parse::{Packet, Piece, event};
use svc_common::tables::Backend;
use svc_common::tuple::Tuple;
use svc_common::verdict::{self, Reason};

use super::memory::Memory;
use super::replay::{Contested, Log, Shared, step};
use crate::fake::Tables;

/// What the agent wants at a time.
pub type World = BTreeMap<ObjectKey, Planned>;

/// A deliberate fault, which the checker has to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutation {
    /// Frontends are flipped before what they point to is there.
    FrontendsFirst,
    /// A round's writes are carried out from last to first.
    Backwards,
    /// What is free gets another meaning while a packet that has read its old one is still under way.
    NoGrace,
}

/// Changes one after another.
#[derive(Debug)]
pub struct History {
    worlds: Vec<World>,
    /// The tables after each write.
    tables: Vec<Tables<V4>>,
    /// Number of writes before each round begins, and whether the grace period is over by then.
    rounds: Vec<(usize, bool)>,
    patient: bool,
}

/// A packet that may meet any of the changes of a history.
#[derive(Clone, Debug)]
pub struct Encounter {
    /// The history.
    pub history: Arc<History>,
    /// What arrives: the first packet of a connection.
    pub packet: Tuple<V4>,
    /// What the packet's die shows.
    pub die: u32,
}

/// The packet, between two readings.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Journey {
    /// Writes that had been made when it began.
    began: usize,
    shared: Shared,
    log: Log,
}

/// How the packet ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// On its way to an endpoint.
    Sent(SocketAddr),
    /// Told that nobody serves it.
    Refused,
    /// Left alone.
    Untouched,
    /// Anything else.
    Lost(Reason),
}

/// Everything, between two accesses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    written: usize,
    journey: Option<Journey>,
    /// How the packet ended, and between which writes it was under way.
    ended: Option<(End, usize)>,
}

impl Hash for State {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.written, &self.journey, format!("{:?}", self.ended)).hash(state);
    }
}

/// What can happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Move {
    /// The agent makes its next write.
    Write,
    /// The packet makes its next reading.
    Read,
}

/// Among several Services the one whose name sorts first owns what they share.
struct FirstName<'a>(&'a World);

impl Owners for FirstName<'_> {
    fn owns(&self, service: &ObjectKey, addr: SocketAddr, protocol: Protocol) -> bool {
        let wants = |planned: &Planned| {
            let mut ports = planned.ports.iter().filter(|port| port.id.protocol == protocol);
            ports.any(|port| port.frontends.iter().any(|frontend| frontend.addr == addr))
        };
        self.0.iter().find(|(_, planned)| wants(planned)).is_some_and(|(key, _)| key == service)
    }

    fn owns_address(&self, service: &ObjectKey, addr: IpAddr) -> bool {
        let wants = |planned: &Planned| planned.cluster_ips.contains(&addr);
        self.0.iter().find(|(_, planned)| wants(planned)).is_some_and(|(key, _)| key == service)
    }
}

impl History {
    /// From empty tables through these worlds. With each goes whether a grace period has passed since the one before.
    pub fn new(steps: &[(World, bool)], mutation: Option<Mutation>) -> Self {
        // Few ids and slots: what is free is used again at once.
        let capacity = Capacity { frontends: 8, backends: 5, slots: 32, source_ranges: 1, services: 4 };
        let mut applier = Applier::new(capacity);
        let mut history = Self {
            worlds: vec![World::new()],
            tables: vec![Tables::default()],
            rounds: Vec::new(),
            patient: mutation != Some(Mutation::NoGrace),
        };
        let mut now = Duration::ZERO;
        for (world, waited) in steps {
            now += if *waited { GRACE } else { Duration::ZERO };
            let old = history.worlds.last().cloned().unwrap_or_default();
            let keys: BTreeSet<&ObjectKey> = old.keys().chain(world.keys()).collect();
            let changes: Vec<Change<'_>> =
                keys.iter().map(|key| Change { service: key, planned: world.get(key) }).collect();
            let round = applier.apply(&changes, &FirstName(world), now);
            assert!(round.full.is_empty(), "the tables of this history are too small: {:?}", round.full);
            let mut writes: Vec<Write> = round.writes.into_iter().flat_map(single).collect();
            match mutation {
                Some(Mutation::FrontendsFirst) => writes.sort_by_key(|write| !matches!(write, Write::FrontendV4(..))),
                Some(Mutation::Backwards) => writes.reverse(),
                Some(Mutation::NoGrace) | None => {}
            }
            history.rounds.push((history.tables.len() - 1, *waited));
            for write in writes {
                let mut tables = history.tables.last().cloned().unwrap_or_default();
                carry_out(&mut tables, &write);
                history.tables.push(tables);
            }
            history.worlds.push(world.clone());
        }
        history
    }
}

impl Encounter {
    /// Whether the agent may make its next write: not if it begins a round that reuses what this packet may have read.
    fn may_write(&self, state: &State) -> bool {
        let waits = |(first, waited): &(usize, bool)| *waited && *first == state.written;
        let under_way = state.journey.is_some() && state.ended.is_none();
        state.written + 1 < self.history.tables.len()
            && !(self.history.patient && under_way && self.history.rounds.iter().any(waits))
    }

    /// One reading of the packet.
    fn read(&self, state: &mut State) {
        let fresh = || Journey {
            began: state.written,
            shared: Shared { flows: Memory::new(4), now: 1_000_000 },
            log: Log::default(),
        };
        let mut journey = state.journey.take().unwrap_or_else(fresh);
        let tables = &self.history.tables[state.written];
        let arrived = Packet {
            tuple: self.packet,
            event: event::OPEN | event::FIRST,
            piece: Piece::Whole,
            fragment_id: 0,
            length: 60,
            l3: 14,
            l4: 34,
        };
        let result = step((tables, Contested::Tables), &mut journey.shared, &mut journey.log, self.die, None, |env| {
            ingress(&env, &arrived, 1)
        });
        if let Some(result) = result {
            let end = match result {
                Ok(translation) => End::Sent(socket(&translation.tuple)),
                Err(reason) => match reason.outcome() {
                    verdict::Outcome::Pass => End::Untouched,
                    verdict::Outcome::Reject if reason != Reason::StaleBackend => End::Refused,
                    _ => End::Lost(reason),
                },
            };
            state.ended = Some((end, state.written));
        }
        state.journey = Some(journey);
    }

    /// Whether the packet's end is one that a world in force while it was under way asks for. A packet that was under way
    /// before its Service came (or came back) may also be refused: it can have looked for the port before, and for the
    /// address after.
    fn is_whole(&self, state: &State) -> bool {
        let (Some((end, last)), Some(journey)) = (state.ended, &state.journey) else { return true };
        // World number i is reached by round number i - 1: in force from its first write on, the only one after its last.
        let after = |round: usize| {
            self.history.rounds.get(round + 1).map_or(self.history.tables.len() - 1, |(first, _)| *first)
        };
        let oldest =
            (0..self.history.rounds.len()).rev().find(|round| after(*round) <= journey.began).map_or(0, |r| r + 1);
        let newest = self.history.rounds.iter().rposition(|(first, _)| *first < last).map_or(0, |r| r + 1);
        let (to, worlds) = (socket(&self.packet), &self.history.worlds[oldest..=newest.max(oldest)]);
        let too_early = end == End::Refused && worlds.iter().any(|world| asks_for(world, to, End::Untouched));
        too_early || worlds.iter().any(|world| asks_for(world, to, end))
    }
}

/// What a world asks for of a packet to `to`.
fn asks_for(world: &World, to: SocketAddr, end: End) -> bool {
    let ports = || world.values().flat_map(|planned| &planned.ports);
    match ports().find(|port| port.frontends.iter().any(|frontend| frontend.addr == to)) {
        Some(port) if port.cluster.is_empty() => end == End::Refused,
        Some(port) => port.cluster.iter().any(|endpoint| end == End::Sent(endpoint.addr)),
        None if world.values().any(|planned| planned.cluster_ips.contains(&to.ip())) => end == End::Refused,
        None => end == End::Untouched,
    }
}

fn socket(tuple: &Tuple<V4>) -> SocketAddr {
    SocketAddr::new(tuple.destination.addr.to_ip(), tuple.destination.port.get())
}

/// A range of slots is written one after another.
fn single(write: Write) -> Vec<Write> {
    match write {
        Write::Slots(base, words) => {
            (base..).zip(words).map(|(index, word)| Write::Slots(index, Box::new([word]))).collect()
        }
        other => vec![other],
    }
}

fn carry_out(tables: &mut Tables<V4>, write: &Write) {
    match write {
        Write::BackendV4(id, backend) if *backend == Backend::default() => drop(tables.backends.remove(id)),
        Write::BackendV4(id, backend) => drop(tables.backends.insert(*id, *backend)),
        Write::Slots(base, words) => {
            let end = *base as usize + words.len();
            tables.slots.resize(tables.slots.len().max(end), 0);
            tables.slots[*base as usize..end].copy_from_slice(words);
        }
        Write::FrontendV4(key, Some(frontend)) => drop(tables.frontends.insert(*key, *frontend)),
        Write::FrontendV4(key, None) => drop(tables.frontends.remove(key)),
        Write::Filter(word, bits) => tables.set_filter_word(*word, *bits),
        // Names for people.
        Write::Service(..) => {}
        other => panic!("these worlds have no {}", other.table()),
    }
}

impl Model for Encounter {
    type State = State;
    type Action = Move;

    fn init_states(&self) -> Vec<State> {
        vec![State { written: 0, journey: None, ended: None }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Move>) {
        if state.ended.is_none() {
            actions.push(Move::Read);
            if self.may_write(state) {
                actions.push(Move::Write);
            }
        }
    }

    fn next_state(&self, last: &State, action: Move) -> Option<State> {
        let mut state = last.clone();
        match action {
            Move::Write => state.written += 1,
            Move::Read => self.read(&mut state),
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![Property::always("a complete service", |encounter: &Self, state: &State| encounter.is_whole(state))]
    }
}
