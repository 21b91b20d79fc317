//! The life of one flow: packets on several CPUs, the collector, eviction, the agent's sweep.
//!
//! The scenario's actors run in every possible order, one access to the flow map at a time. When all have finished, a
//! last round of packets runs undisturbed: whatever happened before, the flow has to work again.

use std::hash::{Hash, Hasher};

use stateright::{Model, Property};
use svc_common::datapath::connection::has_expired;
use svc_common::datapath::env::{Env as _, FlowEntry as _};
use svc_common::datapath::{egress, ingress, step as steps};
use svc_common::net::V4;
use svc_common::parse::{Packet, Piece, event};
use svc_common::tables::{Flow, FlowKey};
use svc_common::tuple::Tuple;
use svc_common::verdict::Reason;

use super::memory::Memory;
use super::replay::{Contested, Log, Mutation, Replay, Shared, step};
use crate::fake::Tables;

/// Device of the clients, and device by which packets leave to backends.
const CLIENT_DEVICE: u32 = 1;
const BACKEND_DEVICE: u32 = 2;

/// What an actor does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// A packet of a client to a service, through both boundaries.
    Request(Tuple<V4>, u8),
    /// The first packet of a TCP connection, with the upper half of the client's timestamp.
    Dial(Tuple<V4>, u16),
    /// An answer to what this actor's last request, or the prologue's, became.
    Reply(u8),
    /// The garbage collector looks at every entry there is.
    Collect,
    /// The agent forgets every flow to a backend.
    Sweep(u32),
    /// Jiffies pass.
    Pass(u32),
}

/// How a task ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A request left by the backend's device like this.
    Delivered(Tuple<V4>, Tuple<V4>),
    /// A reply left by the client's device like this; the request that it answers.
    Returned(Tuple<V4>, Tuple<V4>),
    /// A packet ended early.
    Ended(Reason),
}

/// Who does what.
#[derive(Clone, Debug)]
pub struct Script {
    /// One after another.
    pub tasks: Vec<Task>,
    /// What its die shows.
    pub die: u32,
}

/// A situation to be tried in every order.
#[derive(Debug)]
pub struct Scenario {
    /// Tables during the race and after it.
    pub tables: Tables<V4>,
    /// Runs undisturbed before the race.
    pub prologue: Vec<Task>,
    /// Tables during the prologue, if they were others.
    pub before: Option<Tables<V4>>,
    /// Jiffies between prologue and race.
    pub pause: u32,
    /// Run against each other.
    pub actors: Vec<Script>,
    /// How many entries may be evicted, at any time.
    pub evictions: u32,
    /// Runs undisturbed after the race.
    pub epilogue: Vec<Task>,
    /// Slots of the flow map.
    pub room: usize,
    /// A deliberate fault.
    pub mutation: Option<Mutation>,
    /// What has to hold of the outcomes of the race and of the epilogue, once all have finished.
    pub verdict: fn(&[Outcome], &[Outcome]) -> bool,
}

/// A packet on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Journey {
    tuple: Tuple<V4>,
    event: u8,
    clock: u16,
    /// By which devices it arrives and leaves.
    devices: [u32; 2],
    /// It has passed the first boundary, with or without the mark.
    marked: Option<bool>,
}

/// One actor, between two accesses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor {
    at: usize,
    journey: Option<Journey>,
    /// Entries that a walk has still to look at.
    walk: Option<Vec<FlowKey<V4>>>,
    log: Log,
    delivered: Option<(Tuple<V4>, Tuple<V4>)>,
    said: Vec<Outcome>,
}

/// Everything, between two accesses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    shared: Shared,
    actors: Vec<Actor>,
    evictions: u32,
}

impl State {
    /// The flow map.
    pub fn entries(&self) -> Vec<(FlowKey<V4>, Flow<V4>)> {
        self.shared.flows.entries().collect()
    }
}

impl Hash for State {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.shared.hash(state);
        self.evictions.hash(state);
        for actor in &self.actors {
            (actor.at, &actor.log, &actor.walk).hash(state);
            actor.journey.map(|journey| (hashable(&journey.tuple), journey.marked)).hash(state);
            actor.delivered.map(|(from, to)| (hashable(&from), hashable(&to))).hash(state);
            for outcome in &actor.said {
                match outcome {
                    Outcome::Delivered(from, to) => (0, hashable(from), hashable(to)).hash(state),
                    Outcome::Returned(from, to) => (1, hashable(from), hashable(to)).hash(state),
                    Outcome::Ended(reason) => (2, *reason as u8).hash(state),
                }
            }
        }
    }
}

fn hashable(tuple: &Tuple<V4>) -> impl Hash + use<> {
    (tuple.source, tuple.destination, tuple.protocol)
}

/// What can happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Move {
    /// An actor makes its next access.
    Step(usize),
    /// The entry with this position is evicted.
    Evict(usize),
}

impl Model for Scenario {
    type State = State;
    type Action = Move;

    fn init_states(&self) -> Vec<State> {
        let mut shared = Shared { flows: Memory::new(self.room), now: 1_000_000 };
        let said = self.undisturbed(self.before.as_ref().unwrap_or(&self.tables), &mut shared, &self.prologue);
        shared.now += self.pause;
        let delivered = said.iter().rev().find_map(|outcome| match outcome {
            Outcome::Delivered(from, to) => Some((*from, *to)),
            _ => None,
        });
        let actor = Actor { at: 0, journey: None, walk: None, log: Log::default(), delivered, said: Vec::new() };
        vec![State { shared, actors: vec![actor; self.actors.len()], evictions: self.evictions }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Move>) {
        let mut racing = false;
        for (index, actor) in state.actors.iter().enumerate() {
            if actor.at < self.actors[index].tasks.len() {
                racing = true;
                actions.push(Move::Step(index));
            }
        }
        if racing && state.evictions > 0 {
            actions.extend((0..state.shared.flows.entries().count()).map(Move::Evict));
        }
    }

    fn next_state(&self, last: &State, action: Move) -> Option<State> {
        let mut state = last.clone();
        match action {
            Move::Step(index) => {
                let script = &self.actors[index];
                self.advance(&self.tables, &mut state.shared, &mut state.actors[index], &script.tasks, script.die);
            }
            Move::Evict(position) => {
                let (key, _) = state.shared.flows.entries().nth(position)?;
                state.shared.flows.remove(&key);
                state.evictions -= 1;
            }
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![Property::always("every order ends well", |scenario: &Self, state: &State| scenario.ends_well(state))]
    }
}

impl Scenario {
    fn ends_well(&self, state: &State) -> bool {
        self.outcomes(state).is_none_or(|(race, epilogue)| (self.verdict)(&race, &epilogue))
    }

    /// What the race and the epilogue led to, if this is the end of the race.
    pub fn outcomes(&self, state: &State) -> Option<(Vec<Outcome>, Vec<Outcome>)> {
        let finished = |(index, actor): (usize, &Actor)| actor.at == self.actors[index].tasks.len();
        if !state.actors.iter().enumerate().all(finished) {
            return None;
        }
        let race: Vec<Outcome> = state.actors.iter().flat_map(|actor| actor.said.iter().copied()).collect();
        let epilogue = self.undisturbed(&self.tables, &mut state.shared.clone(), &self.epilogue);
        Some((race, epilogue))
    }

    /// Runs tasks one after another without anybody in between.
    fn undisturbed(&self, tables: &Tables<V4>, shared: &mut Shared, tasks: &[Task]) -> Vec<Outcome> {
        let mut actor =
            Actor { at: 0, journey: None, walk: None, log: Log::default(), delivered: None, said: Vec::new() };
        while actor.at < tasks.len() {
            self.advance(tables, shared, &mut actor, tasks, 0);
        }
        actor.said
    }

    /// One access of an actor, and whatever follows from it without another.
    fn advance(&self, tables: &Tables<V4>, shared: &mut Shared, actor: &mut Actor, tasks: &[Task], die: u32) {
        match tasks[actor.at] {
            Task::Request(tuple, event) => self.request(tables, shared, actor, die, (tuple, event, 0)),
            Task::Dial(tuple, clock) => {
                self.request(tables, shared, actor, die, (tuple, event::OPEN | event::FIRST, clock));
            }
            Task::Reply(event) => {
                let Some((request, delivered)) = actor.delivered else {
                    actor.at += 1;
                    return;
                };
                let journey = actor.journey.unwrap_or(Journey {
                    tuple: delivered.reversed(),
                    event,
                    clock: 0,
                    devices: [BACKEND_DEVICE, CLIENT_DEVICE],
                    marked: None,
                });
                let done = self.hook(tables, shared, &mut actor.log, die, journey);
                self.note(actor, request, journey, done, Outcome::Returned);
            }
            Task::Pass(jiffies) => {
                shared.now += jiffies;
                actor.at += 1;
            }
            Task::Collect => self.walk(tables, shared, actor, die, |env, key| {
                let Some(entry) = env.flow(key) else { return };
                let flow = entry.get();
                if has_expired(env, key.protocol, flow.state, flow.seen) {
                    env.delete_flow(key);
                }
            }),
            Task::Sweep(backend) => self.walk(tables, shared, actor, die, |env, key| {
                let Some(entry) = env.flow(key) else { return };
                if entry.get().backend == backend {
                    env.delete_flow(key);
                }
            }),
        }
    }

    /// A packet of a client: tuple, event and clock.
    fn request(
        &self,
        tables: &Tables<V4>,
        shared: &mut Shared,
        actor: &mut Actor,
        die: u32,
        (tuple, event, clock): (Tuple<V4>, u8, u16),
    ) {
        let devices = [CLIENT_DEVICE, BACKEND_DEVICE];
        let journey = actor.journey.unwrap_or(Journey { tuple, event, clock, devices, marked: None });
        let done = self.hook(tables, shared, &mut actor.log, die, journey);
        self.note(actor, tuple, journey, done, Outcome::Delivered);
    }

    /// One hook. `Some(Ok)`: the packet goes on like this; the flag is its mark.
    fn hook(
        &self,
        tables: &Tables<V4>,
        shared: &mut Shared,
        log: &mut Log,
        die: u32,
        journey: Journey,
    ) -> Option<Result<(Tuple<V4>, bool), Reason>> {
        let Journey { tuple, event, clock, devices: [arrives, leaves], .. } = journey;
        let packet =
            Packet { tuple, event, piece: Piece::Whole, fragment_id: clock.into(), length: 60, l3: 14, l4: 34 };
        let result = step((tables, Contested::Flows), shared, log, die, self.mutation, |env| match journey.marked {
            None => ingress(&env, &packet, arrives),
            Some(marked) => egress(&env, &packet, leaves, marked, false),
        })?;
        Some(match result {
            Ok(translation) => Ok((translation.tuple, translation.steps & steps::MARK != 0)),
            Err(reason) if reason.outcome() == svc_common::verdict::Outcome::Pass => Ok((journey.tuple, false)),
            Err(reason) => Err(reason),
        })
    }

    /// Takes a packet to its next hook or to its end.
    fn note(
        &self,
        actor: &mut Actor,
        request: Tuple<V4>,
        journey: Journey,
        done: Option<Result<(Tuple<V4>, bool), Reason>>,
        arrived: fn(Tuple<V4>, Tuple<V4>) -> Outcome,
    ) {
        let Some(result) = done else {
            actor.journey = Some(journey);
            return;
        };
        actor.log = Log::default();
        let outcome = match (result, journey.marked) {
            (Ok((tuple, marked)), None) => {
                actor.journey = Some(Journey { tuple, marked: Some(marked), ..journey });
                return;
            }
            (Ok((tuple, _)), Some(_)) => arrived(request, tuple),
            (Err(reason), _) => Outcome::Ended(reason),
        };
        if let Outcome::Delivered(from, to) = outcome {
            actor.delivered = Some((from, to));
        }
        actor.said.push(outcome);
        actor.journey = None;
        actor.at += 1;
    }

    /// A walk over the entries that are there when it begins: one look at each, each in as many accesses as it takes.
    fn walk(
        &self,
        tables: &Tables<V4>,
        shared: &mut Shared,
        actor: &mut Actor,
        die: u32,
        look: impl Fn(&&Replay<'_>, &FlowKey<V4>),
    ) {
        let keys = actor.walk.get_or_insert_with(|| shared.flows.entries().map(|(key, _)| key).collect());
        let Some(key) = keys.last().copied() else {
            actor.walk = None;
            actor.at += 1;
            return;
        };
        if step((tables, Contested::Flows), shared, &mut actor.log, die, self.mutation, |env| look(&env, &key))
            .is_some()
        {
            actor.log = Log::default();
            keys.pop();
        }
    }
}
