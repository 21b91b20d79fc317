//! Surroundings that can be stopped after each access to a shared map.
//!
//! A job is run from its beginning again and again: accesses that it has made already are answered from its log, the
//! next one is made and noted, and the one after that stops the job. So one call of [`step`] is one access.
//!
//! Which maps others change meanwhile, and which accesses therefore count, is the model's choice ([`Contested`]).

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use svc_common::datapath::env::{Env, FlowEntry, Refused, Timeouts};
use svc_common::datapath::scratch::Scratch;
use svc_common::net::{Port, V4};
use svc_common::tables::{
    Affinity, AffinityKey, Backend, Device, Flow, FlowKey, Fragment, FragmentKey, Frontend, FrontendKey, Settings, flow,
};

use super::memory::Memory;
use crate::fake::{Tables, empty_scratch, is_as_found};

/// What all jobs share.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Shared {
    /// The flow map.
    pub flows: Memory,
    /// Jiffies.
    pub now: u32,
}

/// The answer that an access got.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Answer {
    Slot(Option<usize>),
    Flow(Box<FlowBits>),
    Stored(Option<bool>),
    Done,
    Now(u32),
    Word(u64),
    Id(Option<u32>),
    Frontend(Shown<Option<Frontend>>),
    Backend(Shown<Option<Backend<V4>>>),
}

/// A value that is hashed by what it looks like.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Shown<T>(T);

impl<T: std::fmt::Debug> std::hash::Hash for Shown<T> {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        format!("{:?}", self.0).hash(state);
    }
}

/// The maps that somebody else changes while a job runs: each access to one of them is a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contested {
    /// The flow map. The tables of the agent do not change.
    Flows,
    /// The tables of the agent. The flow map is the job's own.
    Tables,
}

/// A flow that can be hashed.
#[derive(Clone, Debug, PartialEq, Eq)]
struct FlowBits(Flow<V4>);

impl std::hash::Hash for FlowBits {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        let flow = &self.0;
        (flow.first, flow.second, flow.first_port, flow.second_port, flow.client_port).hash(state);
        (flow.seen, flow.opened, flow.role, flow.state, flow.flags, flow.backend, flow.clock).hash(state);
    }
}

/// The accesses of a job so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Log(Vec<Answer>);

/// Stops a job.
struct Pause;

/// The surroundings of one step of one job.
#[derive(Debug)]
pub struct Replay<'a> {
    /// Tables as they are in this step.
    tables: &'a Tables<V4>,
    contested: Contested,
    shared: RefCell<&'a mut Shared>,
    log: RefCell<&'a mut Log>,
    cursor: Cell<usize>,
    /// The access of this step has been made.
    spent: Cell<bool>,
    /// What this job's die shows.
    die: u32,
    /// A deliberate fault.
    mutation: Option<Mutation>,
}

/// A deliberate fault in the surroundings, which the checker has to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutation {
    /// "Only if absent" is forgotten.
    InsertReplaces,
    /// What is deleted stays.
    DeleteIsLost,
}

/// Runs one step of a job. `Some` when it has come to its end.
pub fn step<R>(
    (tables, contested): (&Tables<V4>, Contested),
    shared: &mut Shared,
    log: &mut Log,
    die: u32,
    mutation: Option<Mutation>,
    job: impl FnOnce(&Replay<'_>) -> R,
) -> Option<R> {
    let replay = Replay {
        tables,
        contested,
        shared: RefCell::new(shared),
        log: RefCell::new(log),
        cursor: Cell::new(0),
        spent: Cell::new(false),
        die,
        mutation,
    };
    match catch_unwind(AssertUnwindSafe(|| job(&replay))) {
        Ok(result) => Some(result),
        Err(payload) if payload.is::<Pause>() => None,
        Err(payload) => resume_unwind(payload),
    }
}

impl Replay<'_> {
    /// One access to the flow map.
    fn access(&self, make: impl FnOnce(&mut Shared) -> Answer) -> Answer {
        self.any_access(Contested::Flows, |shared, _| make(shared))
    }

    /// One reading of the agent's tables.
    fn consult(&self, make: impl FnOnce(&Tables<V4>) -> Answer) -> Answer {
        match self.contested {
            Contested::Flows => make(self.tables),
            Contested::Tables => self.any_access(Contested::Tables, |_, tables| make(tables)),
        }
    }

    /// One access: from the log, or made now, or put off to the next step.
    fn any_access(&self, to: Contested, make: impl FnOnce(&mut Shared, &Tables<V4>) -> Answer) -> Answer {
        let at = self.cursor.get();
        self.cursor.set(at + 1);
        if let Some(answer) = self.log.borrow().0.get(at) {
            return answer.clone();
        }
        if to == self.contested && self.spent.replace(true) {
            resume_unwind(Box::new(Pause));
        }
        let answer = make(&mut self.shared.borrow_mut(), self.tables);
        self.log.borrow_mut().0.push(answer.clone());
        answer
    }

    /// The clock is read together with the access that follows.
    fn clock(&self) -> u32 {
        let at = self.cursor.get();
        self.cursor.set(at + 1);
        if let Some(Answer::Now(now)) = self.log.borrow().0.get(at) {
            return *now;
        }
        if self.contested == Contested::Flows && self.spent.get() {
            resume_unwind(Box::new(Pause));
        }
        let now = self.shared.borrow().now;
        self.log.borrow_mut().0.push(Answer::Now(now));
        now
    }

    fn done(&self, make: impl FnOnce(&mut Shared)) {
        self.access(|shared| {
            make(shared);
            Answer::Done
        });
    }
}

/// A pointer into the flow map.
#[derive(Clone, Copy, Debug)]
pub struct Pointer<'e, 'a>(&'e Replay<'a>, usize);

impl FlowEntry<V4> for Pointer<'_, '_> {
    fn get(self) -> Flow<V4> {
        match self.0.access(|shared| Answer::Flow(Box::new(FlowBits(shared.flows.read(self.1))))) {
            Answer::Flow(flow) => flow.0,
            other => panic!("a replayed job took another way: {other:?}"),
        }
    }

    fn set_seen(self, now: u32) {
        self.0.done(|shared| shared.flows.change(self.1, |flow| flow.seen = now));
    }

    fn add_state(self, bits: u8) {
        self.0.done(|shared| shared.flows.change(self.1, |flow| flow.state |= bits));
    }

    fn claim(self, found: &Flow<V4>) -> bool {
        let answer = self.0.access(|shared| {
            let claimed = is_as_found(&shared.flows.read(self.1), found);
            if claimed {
                shared.flows.change(self.1, |flow| flow.state |= flow::TAKEN);
            }
            Answer::Stored(Some(claimed))
        });
        answer == Answer::Stored(Some(true))
    }

    fn set_second(self, addr: V4, port: Port) {
        self.0.done(|shared| shared.flows.change(self.1, |flow| (flow.second, flow.second_port) = (addr, port)));
    }
}

impl<'e, 'a> Env<V4> for &'e Replay<'a> {
    type Entry = Pointer<'e, 'a>;
    type Scratch = Box<Scratch<V4>>;

    fn scratch(&self) -> Option<Self::Scratch> {
        Some(empty_scratch())
    }

    fn now(&self) -> u32 {
        self.clock()
    }

    fn hz(&self) -> u32 {
        Tables::<V4>::HZ
    }

    fn timeouts(&self) -> Timeouts {
        Timeouts::DEFAULT
    }

    fn random(&self) -> u32 {
        self.die
    }

    fn flow(&self, key: &FlowKey<V4>) -> Option<Self::Entry> {
        match self.access(|shared| Answer::Slot(shared.flows.find(key))) {
            Answer::Slot(slot) => slot.map(|slot| Pointer(self, slot)),
            other => panic!("a replayed job took another way: {other:?}"),
        }
    }

    fn insert_flow(&self, key: &FlowKey<V4>, flow: &Flow<V4>) -> Result<(), Refused> {
        let answer = self.access(|shared| {
            let present = shared.flows.find(key).is_some() && self.mutation != Some(Mutation::InsertReplaces);
            Answer::Stored((!present).then(|| shared.flows.store(key, flow)))
        });
        match answer {
            Answer::Stored(None) => Err(Refused::Taken),
            Answer::Stored(Some(stored)) => {
                if stored {
                    Ok(())
                } else {
                    Err(Refused::Full)
                }
            }
            other => panic!("a replayed job took another way: {other:?}"),
        }
    }

    fn replace_flow(&self, key: &FlowKey<V4>, flow: &Flow<V4>) -> Result<(), Refused> {
        match self.access(|shared| Answer::Stored(Some(shared.flows.store(key, flow)))) {
            Answer::Stored(Some(true)) => Ok(()),
            _ => Err(Refused::Full),
        }
    }

    fn delete_flow(&self, key: &FlowKey<V4>) {
        if self.mutation != Some(Mutation::DeleteIsLost) {
            self.done(|shared| shared.flows.remove(key));
        }
    }

    fn frontend(&self, key: &FrontendKey<V4>) -> Option<Frontend> {
        match self.consult(|tables| Answer::Frontend(Shown(tables.frontends.get(key).copied()))) {
            Answer::Frontend(frontend) => frontend.0,
            other => panic!("a replayed job took another way: {other:?}"),
        }
    }

    fn backend(&self, id: u32) -> Option<Backend<V4>> {
        match self.consult(|tables| Answer::Backend(Shown(tables.backends.get(&id).copied()))) {
            Answer::Backend(backend) => backend.0,
            other => panic!("a replayed job took another way: {other:?}"),
        }
    }

    fn slot(&self, index: u32) -> Option<u32> {
        match self.consult(|tables| Answer::Id(tables.slots.get(index as usize).copied())) {
            Answer::Id(id) => id,
            other => panic!("a replayed job took another way: {other:?}"),
        }
    }

    fn filter_word(&self, index: u32) -> u64 {
        match self.consult(|tables| Answer::Word(tables.filter_word(index))) {
            Answer::Word(word) => word,
            other => panic!("a replayed job took another way: {other:?}"),
        }
    }

    fn settings(&self) -> Option<&Settings> {
        Some(&self.tables.settings)
    }

    fn device(&self, ifindex: u32) -> Option<Device> {
        self.tables.devices.get(&ifindex).copied()
    }

    fn in_pod_prefix(&self, addr: V4) -> bool {
        self.tables.pods.contains(&addr)
    }

    fn is_node_address(&self, addr: V4) -> bool {
        self.tables.node_addresses.contains(&addr)
    }

    fn in_source_range(&self, service: u32, addr: V4) -> bool {
        self.tables.admitted.contains(&(service, addr))
    }

    fn affinity(&self, _: &AffinityKey<V4>) -> Option<Affinity> {
        None
    }

    fn claim_affinity(&self, _: &AffinityKey<V4>, _: Option<Affinity>, _: &Affinity) -> Option<Affinity> {
        None
    }

    fn fragment(&self, _: &FragmentKey<V4>) -> Option<Fragment> {
        None
    }

    fn set_fragment(&self, _: &FragmentKey<V4>, _: &Fragment) {}

    fn count_opened(&self, _: u32, _: u32) {}

    fn count_closed(&self, _: u32) {}

    fn count_packet(&self, _: u32, _: bool, _: u32) {}

    fn turn(&self, _: u32) -> u32 {
        self.die
    }

    fn active(&self, _: u32) -> u64 {
        0
    }

    fn opened(&self, _: u32) -> u32 {
        self.die
    }
}
