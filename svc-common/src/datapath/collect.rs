//! Garbage collection: which flow entries have expired.
//!
//! Entries of one connection are renewed one after another, so one that looks expired may be the last to be renewed: it
//! stays as long as another of its connection lives.

use crate::tables::{FlowKey, flow};

use super::connection::has_expired;
use super::env::{Env, Family, FlowEntry};
use super::scratch::Scratch;

/// Removes the entry if it has expired. Whether it was removed.
#[inline(always)]
pub fn collect<A: Family, E: Env<A>>(env: &E, scratch: &mut Scratch<A>, key: &FlowKey<A>, place: E::Entry) -> bool {
    let found = place.get();
    if !has_expired(env, key.protocol, found.state, found.seen) {
        return false;
    }
    scratch.connection.read(key, &found);
    let other = if found.role == flow::CLIENT { flow::MIDDLE } else { flow::CLIENT };
    scratch.connection.write_key(other, &mut scratch.key);
    if let Some(other) = env.flow(&scratch.key) {
        let other = other.get();
        let same = other.opened == found.opened && other.service == found.service;
        if same && !has_expired(env, key.protocol, other.state, other.seen) {
            place.set_seen(other.seen);
            return false;
        }
    }
    // A packet may have renewed the entry meanwhile.
    if place.get().seen != found.seen {
        return false;
    }
    scratch.key = *key;
    env.delete_flow(&scratch.key);
    if found.role == flow::CLIENT {
        env.count_closed(found.backend);
    }
    true
}
