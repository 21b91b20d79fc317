//! Who creates, renews and retires flow entries.
//!
//! - Entries are created by the first packet at the client's boundary, the middle one first, then the client's, each
//!   "only if absent". Who finds the client's entry taken has lost a race, removes his own middle entry if it is
//!   another one, and takes the winner's connection.
//! - When the tuple of client and backend is taken by another connection, the client gets another port between the
//!   boundaries.
//! - A key that belongs to a connection that is over is taken by who marks its entry first (see [`claim`]); who retires a
//!   connection leaves entries alone that are another's by now.
//! - The backend's entry is created where the source is translated: by the first marked packet at the backend's
//!   boundary, or together with the others at XDP.
//! - The client's boundary renews: at most once a second, and on every change of state, it writes the time and the state
//!   to all entries and rebuilds those that are missing; but a datagram flow's client's entry stays gone (see [`keep`]).
//! - A packet that can only be a first one (SYN, INIT) retires a connection that is over or has expired; so does a
//!   datagram that finds an expired one.

use crate::net::{Port, Protocol};
use crate::parse::event;
use crate::tables::{Flow, FlowKey, flow};
use crate::verdict::Reason;

use super::connection::{Connection, has_expired, is_over, is_too_long, lead, since};
use super::env::{Env, Family, FlowEntry as _, Refused};
use super::scratch::Scratch;

/// How many ports are tried at most, and from which connections they are taken: see [`Attempt`].
const PROBES: u32 = 40;
/// From one port to the next that is tried: past neighbours, which were given out together and may all live long.
const STRIDE: u32 = 601;

/// Whether the entry needs nothing written on account of this packet: the case of nearly every packet.
#[inline(always)]
pub fn is_fresh<A: Family, E: Env<A>>(env: &E, entry: &Flow<A>, event: u8, request: bool) -> bool {
    let direction = if request { flow::REQUESTED } else { flow::REPLIED };
    event & (event::FIRST | event::FIN | event::RESET) == 0
        && entry.state & direction != 0
        && env.now().wrapping_sub(entry.seen) < env.hz()
}

/// Notes a packet on all entries of the connection whose entry has the key in `scratch`. `false`: the connection is over
/// and has been retired; the packet begins another.
///
/// In steps that are called one after another and not one inside the other, so that their stacks do not add up.
#[inline(always)]
pub fn renew<A: Family, E: Env<A>>(env: &E, scratch: &mut E::Scratch, event: u8, request: bool) -> bool {
    if env.judge(scratch, event, request) {
        keep_all(env, scratch);
        true
    } else {
        retire(env, scratch);
        false
    }
}

/// Reads the connection and adds what the packet says. `false`: the packet begins another connection.
#[inline(always)]
pub fn judge<A: Family, E: Env<A>>(env: &E, scratch: &mut Scratch<A>, event: u8, request: bool) -> bool {
    let Scratch { connection, key, entry, .. } = scratch;
    let Some(place) = env.flow(key) else { return !request };
    *entry = place.get();
    connection.read(key, entry);
    if request && event & event::OPEN != 0 {
        let expired = has_expired(env, connection.protocol, connection.state, connection.seen);
        if expired || event & event::FIRST != 0 && is_over(connection.state) {
            return false;
        }
    }
    let mut bits = if request { flow::REQUESTED } else { flow::REPLIED };
    if event & event::FIN != 0 {
        bits |= if request { flow::CLIENT_FIN } else { flow::BACKEND_FIN };
    }
    if event & event::RESET != 0 {
        bits |= flow::RESET;
    }
    connection.state |= bits;
    connection.seen = env.now();
    true
}

/// Writes time and state to all entries.
#[inline(always)]
fn keep_all<A: Family, E: Env<A>>(env: &E, scratch: &mut E::Scratch) {
    env.keep(scratch, flow::CLIENT);
    env.keep(scratch, flow::MIDDLE);
    if scratch.connection.node.is_set() {
        env.keep(scratch, flow::BACKEND);
    }
}

/// Removes all entries.
#[inline(never)]
fn retire<A: Family, E: Env<A>>(env: &E, scratch: &mut E::Scratch) {
    forget(env, scratch, flow::CLIENT);
    withdraw(env, scratch);
    env.count_closed(scratch.connection.backend_id);
}

/// Writes time and state to the entry in the map, or puts it back if it was evicted.
#[inline(always)]
pub fn keep<A: Family, E: Env<A>>(env: &E, scratch: &mut Scratch<A>, role: u8) {
    let Scratch { connection, key, entry, .. } = scratch;
    connection.write(role, key, entry);
    match env.flow(key) {
        Some(present) => {
            let found = present.get();
            if found.role == role && found.first == entry.first && found.first_port == entry.first_port {
                present.set_seen(entry.seen);
                if found.state & entry.state != entry.state {
                    present.add_state(entry.state);
                }
            }
        }
        // A datagram flow whose client's entry is gone may have been taken away by the agent, because its endpoint has
        // gone: whoever puts that entry back ties the client to nobody. The next datagram begins anew.
        None if role == flow::CLIENT && key.protocol == Protocol::Udp as u8 => {}
        // Lost to eviction. When the table has no room now, the next packet that renews tries again.
        None => drop(env.insert_flow(key, entry)),
    }
}

/// Removes what a connection has stored besides its client's entry. The port of one that is over may have been given to
/// another since (see [`reserve`]), whose entry stays.
#[inline(always)]
fn withdraw<A: Family, E: Env<A>>(env: &E, scratch: &mut Scratch<A>) {
    forget_own(env, scratch, flow::MIDDLE);
    if scratch.connection.node.is_set() {
        forget_own(env, scratch, flow::BACKEND);
    }
}

/// Removes one entry of a connection, if it is that connection's.
#[inline(never)]
fn forget_own<A: Family, E: Env<A>>(env: &E, scratch: &mut Scratch<A>, role: u8) {
    let Scratch { connection, key, entry, .. } = scratch;
    connection.write(role, key, entry);
    let own = |found: Flow<A>| found.role == role && found.first == entry.first && found.first_port == entry.first_port;
    if env.flow(key).is_some_and(|present| own(present.get())) {
        env.delete_flow(key);
    }
}

/// Removes one entry of a connection.
#[inline(never)]
fn forget<A: Family, E: Env<A>>(env: &E, scratch: &mut Scratch<A>, role: u8) {
    scratch.connection.write_key(role, &mut scratch.key);
    env.delete_flow(&scratch.key);
}

/// Stores the new connection in `scratch`. If its node's end has an address, its source is translated to that at once,
/// as XDP does.
///
/// On return the connection is what holds: the new one, with what was allocated for it, or the one that another CPU has
/// stored meanwhile.
#[inline(always)]
pub fn establish<A: Family, E: Env<A>>(env: &E, scratch: &mut E::Scratch) -> Result<(), Reason> {
    reserve_middle(env, scratch)?;
    let node = scratch.connection.node.addr;
    if node != A::default() {
        if let Err(reason) = translate_source(env, scratch) {
            forget(env, scratch, flow::MIDDLE);
            return Err(reason);
        }
        remember_node(env, scratch, flow::MIDDLE);
    }
    let Scratch { connection, key, entry, .. } = &mut **scratch;
    connection.write(flow::CLIENT, key, entry);
    match env.insert_flow(key, entry) {
        Ok(()) => {
            env.count_opened(connection.service_id, connection.backend_id);
            Ok(())
        }
        Err(Refused::Full) => {
            withdraw(env, scratch);
            Err(Reason::TableFull)
        }
        Err(Refused::Taken) => {
            let winner = env.flow(key).ok_or(Reason::TableFull)?;
            give_way(env, scratch, winner);
            Ok(())
        }
    }
}

/// Another CPU has stored the same client's entry first: what this one has stored besides it goes, unless it is shared.
#[inline(never)]
fn give_way<A: Family, E: Env<A>>(env: &E, scratch: &mut Scratch<A>, winner: E::Entry) {
    let winner = winner.get();
    let connection = &scratch.connection;
    let port = if winner.client_port == Port::NONE { connection.client.port } else { winner.client_port };
    let same_middle = winner.first == connection.backend.addr
        && winner.first_port == connection.backend.port
        && port == connection.middle_port;
    let same_node = winner.second == connection.node.addr && winner.second_port == connection.node.port;
    if connection.node.is_set() && !(same_middle && same_node) {
        forget(env, scratch, flow::BACKEND);
    }
    if !same_middle {
        forget(env, scratch, flow::MIDDLE);
    }
    scratch.connection.adopt(&winner);
    if same_middle && scratch.connection.node.is_set() {
        // The middle entry is shared and must name the node's end that the client's entry names.
        remember_node(env, scratch, flow::MIDDLE);
    }
}

/// Writes the node's end to the entry with this role.
#[inline(never)]
pub fn remember_node<A: Family, E: Env<A>>(env: &E, scratch: &mut Scratch<A>, role: u8) {
    scratch.connection.write_key(role, &mut scratch.key);
    if let Some(entry) = env.flow(&scratch.key) {
        entry.set_second(scratch.connection.node.addr, scratch.connection.node.port);
    }
}

/// Stores the middle entry, under another client port if the client's own is taken.
#[inline(always)]
fn reserve_middle<A: Family, E: Env<A>>(env: &E, scratch: &mut E::Scratch) -> Result<(), Reason> {
    let start = first_port(env, &scratch.connection);
    for probe in 0..PROBES {
        let attempt = Attempt::number(probe);
        scratch.reuse = attempt.reuse;
        match obtain(env, scratch, flow::MIDDLE) {
            Reserved::Yes => return Ok(()),
            Reserved::Full => return Err(Reason::TableFull),
            Reserved::No => {}
        }
        scratch.connection.middle_port = translation_port(env, start, attempt)?;
    }
    Err(Reason::NoSourcePort)
}

/// Gives the connection a source at the node's address, with a port that is free towards its backend, and stores the
/// backend's entry.
#[inline(always)]
pub fn translate_source<A: Family, E: Env<A>>(env: &E, scratch: &mut E::Scratch) -> Result<(), Reason> {
    let start = first_port(env, &scratch.connection);
    for probe in 0..PROBES {
        let attempt = Attempt::number(probe);
        scratch.reuse = attempt.reuse;
        scratch.connection.node.port = translation_port(env, start, attempt)?;
        match obtain(env, scratch, flow::BACKEND) {
            Reserved::Yes => return Ok(()),
            Reserved::Full => return Err(Reason::TableFull),
            Reserved::No => {}
        }
    }
    scratch.connection.node.port = Port::NONE;
    Err(Reason::NoSourcePort)
}

/// From which connections a key may be taken, besides those that have expired. The backend remembers one that it has closed
/// for a minute, and a first packet that it does not take for what it is costs the client a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Reuse {
    /// From the same client's to the same service: its packet is ahead by so little.
    Own,
    /// From any that its packet is ahead of.
    Ahead,
    /// From any that is over.
    Over,
}

/// By how much a client's clock has moved on at most (see [`lead`]) if two connections are to be taken for its own: a
/// quarter of an hour.
const OWN_LEAD: u16 = 14;

/// One try to get a port.
#[derive(Clone, Copy)]
struct Attempt {
    /// How many ports behind the one whose turn it is; `None`: any one.
    turn: Option<u32>,
    reuse: Reuse,
}

impl Attempt {
    /// First those whose turn it is, taking only what nobody else could use as well: if all took what they are ahead of,
    /// the ports would gather at the client whose clock is ahead of the others', and he alone could use them. Then
    /// what can be had at all. In the end any port: where nearly all belong to connections that live, a client
    /// must not run into the very ports that the one before him has found taken.
    #[inline(always)]
    fn number(probe: u32) -> Self {
        match probe {
            0..6 => Self { turn: Some(probe), reuse: Reuse::Own },
            6..26 => Self { turn: Some(probe - 6), reuse: Reuse::Ahead },
            26..30 => Self { turn: Some(probe - 26), reuse: Reuse::Over },
            _ => Self { turn: None, reuse: Reuse::Over },
        }
    }
}

/// Answer of [`reserve`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reserved {
    /// The entry is stored.
    Yes,
    /// Another connection has the key.
    No,
    /// The map has no room.
    Full,
}

/// Stores the entry with this role, if its key is free or can be had.
#[inline(always)]
fn obtain<A: Family, E: Env<A>>(env: &E, scratch: &mut E::Scratch, role: u8) -> Reserved {
    match env.reserve(scratch, role) {
        Reserved::No => env.take_over(scratch, role),
        answer => answer,
    }
}

/// Stores the entry with this role if its key is free. It is left in the scratch.
#[inline(always)]
pub fn reserve<A: Family, E: Env<A>>(env: &E, scratch: &mut Scratch<A>, role: u8) -> Reserved {
    let Scratch { connection, key, entry, .. } = scratch;
    connection.write(role, key, entry);
    match env.insert_flow(key, entry) {
        Ok(()) => Reserved::Yes,
        Err(Refused::Full) => Reserved::Full,
        Err(Refused::Taken) => Reserved::No,
    }
}

/// Stores the entry in the scratch, which has this role, if its key belongs to a connection that needs it no more.
#[inline(always)]
pub fn take_over<A: Family, E: Env<A>>(env: &E, scratch: &mut Scratch<A>, role: u8) -> Reserved {
    let Scratch { key, entry, found, reuse, .. } = scratch;
    let Some(present) = env.flow(key) else {
        return if env.insert_flow(key, entry).is_ok() { Reserved::Yes } else { Reserved::No };
    };
    let now = env.now();
    // Not on the stack, of which XDP has none to spare here.
    *found = present.get();
    let idle = since(now, found.seen);
    let expired = is_too_long(env, key.protocol, found.state, idle);
    let over = expired || is_over(found.state);
    // A node's end is never shared: it was allocated for one connection. The middle entry of a connection whose
    // client's entry was lost is found again here.
    let same = role == flow::MIDDLE
        && found.role == flow::MIDDLE
        && found.first == entry.first
        && found.first_port == entry.first_port
        && found.client_port == entry.client_port
        && found.flags & flow::LOW == entry.flags & flow::LOW;
    if same && !over && since(now, found.opened) < env.hz() {
        // Another packet of the same connection is a moment ahead on another CPU.
        return Reserved::Yes;
    }
    let taken = match (*reuse, lead(env, entry, found, idle)) {
        (Reuse::Own, Some(lead)) => lead <= OWN_LEAD,
        (Reuse::Ahead, Some(_)) => true,
        (Reuse::Own | Reuse::Ahead, None) => false,
        (Reuse::Over, _) => true,
    };
    if (same || (expired || over && taken) && claim(env, present, key, found)) && env.replace_flow(key, entry).is_ok() {
        Reserved::Yes
    } else {
        Reserved::No
    }
}

/// Makes sure that nobody else takes the key of an entry that was found. The place of an entry that has been replaced
/// meanwhile may be another's by now, so who has marked it looks whether it was the entry under the key.
#[inline(always)]
fn claim<A: Family, E: Env<A>>(env: &E, present: E::Entry, key: &FlowKey<A>, found: &Flow<A>) -> bool {
    let as_found = |now: Flow<A>| now.state & flow::TAKEN != 0 && now.opened == found.opened;
    present.claim(found) && env.flow(key).is_some_and(|present| as_found(present.get()))
}

/// Where the search for a translation port begins. By turns for each backend, so that the port that comes next is the one
/// that was given back longest ago.
#[inline(always)]
fn first_port<A: Family, E: Env<A>>(env: &E, connection: &Connection<A>) -> u32 {
    env.opened(connection.backend_id).wrapping_add(connection.backend.addr.fold())
}

/// The port to try, counted round the translation range.
#[inline(always)]
fn translation_port<A: Family, E: Env<A>>(env: &E, start: u32, attempt: Attempt) -> Result<Port, Reason> {
    let settings = env.settings().ok_or(Reason::NoSourcePort)?;
    let (first, last) = (u32::from(settings.snat_port_first), u32::from(settings.snat_port_last));
    let n = match attempt.turn {
        Some(turn) => start.wrapping_add(turn.wrapping_mul(STRIDE)),
        None => env.random(),
    };
    let offset = n.checked_rem((last + 1).wrapping_sub(first)).ok_or(Reason::NoSourcePort)?;
    Ok(Port::new(first.wrapping_add(offset) as u16))
}
