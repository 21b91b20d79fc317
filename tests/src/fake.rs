//! The surroundings of the datapath in user space: what the maps and helpers are to the kernel programs.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::Hash;

use svc_common::datapath::Translation;
use svc_common::datapath::connection::Connection;
use svc_common::datapath::conntrack::Reuse;
use svc_common::datapath::env::{Env, Family, FlowEntry, Refused, Timeouts};
use svc_common::datapath::scratch::Scratch;
use svc_common::datapath::socket::Sockets;
use svc_common::line::Line;
use svc_common::net::Port;
use svc_common::parse::{Packet, Piece};
use svc_common::tables::{
    Affinity, AffinityKey, Backend, Device, FILTER_WORDS, Flow, FlowKey, Fragment, FragmentKey, Frontend, FrontendKey,
    Peer, Rule, Sender, Settings, SlotRange, SocketFlow, SocketKey, filter_bit, flow,
};
use svc_common::tuple::Tuple;
use svc_common::verdict::Reason;

/// What only the agent writes.
#[derive(Clone, Debug)]
pub struct Tables<A: Hash + Eq> {
    /// Frontends.
    pub frontends: HashMap<FrontendKey<A>, Frontend>,
    /// Backends by id.
    pub backends: HashMap<u32, Backend<A>>,
    /// Slots.
    pub slots: Vec<u32>,
    /// Settings.
    pub settings: Settings,
    /// Devices.
    pub devices: HashMap<u32, Device>,
    /// Addresses of the node.
    pub node_addresses: Vec<A>,
    /// Pods, address by address.
    pub pods: Vec<A>,
    /// Admitted sources: service and address.
    pub admitted: Vec<(u32, A)>,
    filter: Vec<u64>,
}

impl<A: Family + Hash> Default for Tables<A> {
    fn default() -> Self {
        Self {
            frontends: HashMap::new(),
            backends: HashMap::new(),
            slots: vec![0],
            settings: Settings::default(),
            devices: HashMap::new(),
            node_addresses: Vec::new(),
            pods: Vec::new(),
            admitted: Vec::new(),
            filter: vec![0; FILTER_WORDS as usize],
        }
    }
}

impl<A: Family + Hash> Tables<A> {
    /// Jiffies in a second.
    pub const HZ: u32 = 250;

    /// Adds a frontend and its address to the filter.
    pub fn add_frontend(&mut self, key: FrontendKey<A>, frontend: Frontend) {
        let (word, bit) = filter_bit(key.addr);
        self.filter[word as usize] |= bit;
        self.frontends.insert(key, frontend);
    }

    /// Sets a word of the address filter.
    pub fn set_filter_word(&mut self, index: u32, word: u64) {
        self.filter[index as usize] = word;
    }

    /// A word of the address filter.
    pub fn filter_word(&self, index: u32) -> u64 {
        self.filter.get(index as usize).copied().unwrap_or_default()
    }
}

/// Maps of one address family, a clock and a die.
#[derive(Debug)]
pub struct Fake<A: Hash + Eq> {
    /// What only the agent writes.
    pub tables: Tables<A>,
    /// Socket records.
    pub sockets: RefCell<HashMap<SocketKey<A>, SocketFlow<A>>>,
    /// What TCP sockets have dialled, by place.
    pub peers: RefCell<HashMap<u32, Peer<A>>>,
    /// Affinity records.
    pub affinity: RefCell<HashMap<AffinityKey<A>, Affinity>>,
    /// What another CPU writes before the next affinity record is stored.
    pub rival: Cell<Option<Affinity>>,
    /// Flows.
    pub flows: RefCell<HashMap<FlowKey<A>, Flow<A>>>,
    /// Jiffies.
    pub now: Cell<u32>,
    random: Cell<u32>,
}

impl<A: Family + Hash> Fake<A> {
    /// Empty tables of connections beside the given ones.
    pub fn new(tables: Tables<A>) -> Self {
        Self {
            tables,
            sockets: RefCell::default(),
            peers: RefCell::default(),
            affinity: RefCell::default(),
            rival: Cell::default(),
            flows: RefCell::default(),
            now: Cell::new(1_000_000),
            random: Cell::new(1),
        }
    }

    /// Lets time pass.
    pub fn pass(&self, seconds: u32) {
        self.now.set(self.now.get() + seconds * Tables::<A>::HZ);
    }
}

/// Room for a slow path, with nothing in it.
pub fn empty_scratch<A: Family>() -> Box<Scratch<A>> {
    let tuple = Tuple::default();
    Box::new(Scratch {
        packet: Packet { tuple, event: 0, piece: Piece::Whole, fragment_id: 0, length: 0, l3: 0, l4: 0 },
        connection: Connection::default(),
        frontend: Frontend::default(),
        sender: Sender::Other,
        rule: Rule(0),
        set: SlotRange::default(),
        translation: Translation { tuple, steps: 0, reason: Reason::NotService },
        turned: tuple,
        reason: Reason::NotService,
        reuse: Reuse::Own,
        key: tuple.key().0,
        entry: Flow::default(),
        found: Flow::default(),
        line: Line::default(),
    })
}

/// Whether an entry can be claimed by who has found it like this.
pub fn is_as_found<A>(entry: &Flow<A>, found: &Flow<A>) -> bool {
    let word = |flow: &Flow<A>| (flow.role, flow.state, flow.flags);
    found.state & flow::TAKEN == 0 && word(entry) == word(found)
}

/// A flow entry by its key.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a, A>(&'a RefCell<HashMap<FlowKey<A>, Flow<A>>>, FlowKey<A>);

impl<A: Family + Hash> Entry<'_, A> {
    fn change(self, change: impl FnOnce(&mut Flow<A>)) {
        if let Some(flow) = self.0.borrow_mut().get_mut(&self.1) {
            change(flow);
        }
    }
}

impl<A: Family + Hash> FlowEntry<A> for Entry<'_, A> {
    fn get(self) -> Flow<A> {
        self.0.borrow().get(&self.1).copied().unwrap_or_default()
    }

    fn set_seen(self, now: u32) {
        self.change(|flow| flow.seen = now);
    }

    fn add_state(self, bits: u8) {
        self.change(|flow| flow.state |= bits);
    }

    fn claim(self, found: &Flow<A>) -> bool {
        let before = self.get();
        let claimed = is_as_found(&before, found);
        if claimed {
            self.add_state(flow::TAKEN);
        }
        claimed
    }

    fn set_second(self, addr: A, port: Port) {
        self.change(|flow| (flow.second, flow.second_port) = (addr, port));
    }
}

impl<'a, A: Family + Hash> Env<A> for &'a Fake<A> {
    type Entry = Entry<'a, A>;
    type Scratch = Box<Scratch<A>>;

    fn scratch(&self) -> Option<Self::Scratch> {
        Some(empty_scratch())
    }

    fn now(&self) -> u32 {
        self.now.get()
    }

    fn hz(&self) -> u32 {
        Tables::<A>::HZ
    }

    fn timeouts(&self) -> Timeouts {
        Timeouts::DEFAULT
    }

    fn random(&self) -> u32 {
        let next = self.random.get().wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        self.random.set(next);
        next >> 8
    }

    fn flow(&self, key: &FlowKey<A>) -> Option<Self::Entry> {
        self.flows.borrow().contains_key(key).then_some(Entry(&self.flows, *key))
    }

    fn insert_flow(&self, key: &FlowKey<A>, flow: &Flow<A>) -> Result<(), Refused> {
        if self.flows.borrow().contains_key(key) {
            return Err(Refused::Taken);
        }
        self.replace_flow(key, flow)
    }

    fn replace_flow(&self, key: &FlowKey<A>, flow: &Flow<A>) -> Result<(), Refused> {
        self.flows.borrow_mut().insert(*key, *flow);
        Ok(())
    }

    fn delete_flow(&self, key: &FlowKey<A>) {
        self.flows.borrow_mut().remove(key);
    }

    fn frontend(&self, key: &FrontendKey<A>) -> Option<Frontend> {
        self.tables.frontends.get(key).copied()
    }

    fn backend(&self, id: u32) -> Option<Backend<A>> {
        self.tables.backends.get(&id).copied()
    }

    fn slot(&self, index: u32) -> Option<u32> {
        self.tables.slots.get(index as usize).copied()
    }

    fn filter_word(&self, index: u32) -> u64 {
        self.tables.filter_word(index)
    }

    fn settings(&self) -> Option<&Settings> {
        Some(&self.tables.settings)
    }

    fn device(&self, ifindex: u32) -> Option<Device> {
        self.tables.devices.get(&ifindex).copied()
    }

    fn in_pod_prefix(&self, addr: A) -> bool {
        self.tables.pods.contains(&addr)
    }

    fn is_node_address(&self, addr: A) -> bool {
        self.tables.node_addresses.contains(&addr)
    }

    fn in_source_range(&self, service: u32, addr: A) -> bool {
        self.tables.admitted.contains(&(service, addr))
    }

    fn affinity(&self, key: &AffinityKey<A>) -> Option<Affinity> {
        self.affinity.borrow().get(key).copied()
    }

    fn claim_affinity(&self, key: &AffinityKey<A>, found: Option<Affinity>, record: &Affinity) -> Option<Affinity> {
        let mut records = self.affinity.borrow_mut();
        if let Some(rival) = self.rival.take() {
            records.insert(*key, rival);
        }
        let present = records.get(key).copied();
        if present == found {
            records.insert(*key, *record);
            return None;
        }
        present
    }

    fn fragment(&self, _: &FragmentKey<A>) -> Option<Fragment> {
        None
    }

    fn set_fragment(&self, _: &FragmentKey<A>, _: &Fragment) {}

    fn count_opened(&self, _: u32, _: u32) {}

    fn count_closed(&self, _: u32) {}

    fn count_packet(&self, _: u32, _: bool, _: u32) {}

    fn turn(&self, _: u32) -> u32 {
        self.random()
    }

    fn active(&self, _: u32) -> u64 {
        0
    }

    fn opened(&self, _: u32) -> u32 {
        self.random()
    }
}

impl<A: Family + Hash> Sockets<A> for &Fake<A> {
    fn socket(&self, key: &SocketKey<A>) -> Option<SocketFlow<A>> {
        self.sockets.borrow().get(key).copied()
    }

    fn set_socket(&self, key: &SocketKey<A>, record: &SocketFlow<A>) -> bool {
        self.sockets.borrow_mut().insert(*key, *record);
        true
    }

    fn peer(&self, cookie: u64) -> Option<Peer<A>> {
        self.peers.borrow().get(&Peer::<A>::index(cookie)).copied()
    }

    fn set_peer(&self, cookie: u64, peer: &Peer<A>) {
        self.peers.borrow_mut().insert(Peer::<A>::index(cookie), *peer);
    }
}
