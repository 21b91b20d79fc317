//! A flow map as the kernel has it: preallocated slots, reused last-freed-first.
//!
//! A pointer from a lookup stays readable after the entry is deleted, and shows another entry once its slot is reused.

use std::hash::{Hash, Hasher};

use svc_common::net::V4;
use svc_common::tables::{Flow, FlowKey};

/// One slot: a key and a value, whether in use or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Slot {
    key: FlowKey<V4>,
    flow: Flow<V4>,
    used: bool,
}

impl Hash for Slot {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let flow = &self.flow;
        self.key.hash(state);
        self.used.hash(state);
        (flow.first, flow.second, flow.first_port, flow.second_port, flow.client_port).hash(state);
        (flow.seen, flow.opened, flow.service, flow.backend, flow.role, flow.state, flow.flags, flow.clock).hash(state);
    }
}

/// The map.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Memory {
    slots: Vec<Slot>,
    /// Free slots; the last one freed is the next one used.
    free: Vec<usize>,
}

impl Memory {
    /// An empty map with room for `entries`.
    pub fn new(entries: usize) -> Self {
        let zero = V4::default();
        let key = FlowKey {
            low: zero,
            high: zero,
            low_port: svc_common::net::Port::NONE,
            high_port: svc_common::net::Port::NONE,
            protocol: 0,
            zero: [0; 3],
        };
        let slot = Slot { key, flow: Flow::default(), used: false };
        Self { slots: vec![slot; entries], free: (0..entries).rev().collect() }
    }

    /// The slot of a key.
    pub fn find(&self, key: &FlowKey<V4>) -> Option<usize> {
        self.slots.iter().position(|slot| slot.used && slot.key == *key)
    }

    /// What a pointer to a slot shows now.
    pub fn read(&self, slot: usize) -> Flow<V4> {
        self.slots[slot].flow
    }

    /// Writes through a pointer.
    pub fn change(&mut self, slot: usize, change: impl FnOnce(&mut Flow<V4>)) {
        change(&mut self.slots[slot].flow);
    }

    /// Stores an entry under a key that is absent, or replaces it. As in the kernel a replaced value lies in another
    /// slot. `false`: no room.
    pub fn store(&mut self, key: &FlowKey<V4>, flow: &Flow<V4>) -> bool {
        let Some(slot) = self.free.pop() else { return false };
        self.remove(key);
        self.slots[slot] = Slot { key: *key, flow: *flow, used: true };
        true
    }

    /// Deletes an entry.
    pub fn remove(&mut self, key: &FlowKey<V4>) {
        if let Some(slot) = self.find(key) {
            self.slots[slot].used = false;
            self.free.push(slot);
        }
    }

    /// All entries, in the order of their slots.
    pub fn entries(&self) -> impl Iterator<Item = (FlowKey<V4>, Flow<V4>)> {
        self.slots.iter().filter(|slot| slot.used).map(|slot| (slot.key, slot.flow))
    }
}
