//! One connection, whole: what its two or three flow entries say together.
//!
//! Any entry, with its key, yields the connection, and the connection yields every entry. That is how an entry that was
//! evicted is rebuilt from another, and how a flow is renewed or retired as one.

use crate::net::{Port, Protocol};
use crate::tables::{Flow, FlowKey, flow};
use crate::tuple::{End, Tuple};

use super::env::{Env, Family, Timeouts};

/// A connection through a Service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Connection<A> {
    /// The client as it knows itself.
    pub client: End<A>,
    /// The service address.
    pub service: End<A>,
    /// The chosen endpoint.
    pub backend: End<A>,
    /// The node's end, as the backend sees it; not set while (or if) the source is not translated.
    pub node: End<A>,
    /// The client's port between the boundaries: its own, unless that was taken.
    pub middle_port: Port,
    /// `flow::*` flags, without [`flow::LOW`].
    pub flags: u16,
    /// Id of the service port.
    pub service_id: u32,
    /// Id of the backend.
    pub backend_id: u32,
    /// Jiffies of its first packet.
    pub opened: u32,
    /// Jiffies of its last packet that was noted.
    pub seen: u32,
    /// The upper half of the TCP timestamp of its first packet; 0: not known.
    pub clock: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// `flow::*` state bits.
    pub state: u8,
}

impl<A: Family> Connection<A> {
    /// Reads the connection that an entry belongs to.
    #[inline(always)]
    pub fn read(&mut self, key: &FlowKey<A>, entry: &Flow<A>) {
        let low = entry.flags & flow::LOW != 0;
        let (from, to) = if low { (key.low_end(), key.high_end()) } else { (key.high_end(), key.low_end()) };
        let first = End::new(entry.first, entry.first_port);
        let second = End::new(entry.second, entry.second_port);
        match entry.role {
            flow::CLIENT => {
                (self.client, self.service) = (from, to);
                (self.backend, self.node) = (first, second);
            }
            flow::MIDDLE => {
                (self.client, self.backend) = (from, to);
                (self.service, self.node) = (first, second);
            }
            _ => {
                (self.node, self.backend) = (from, to);
                (self.client, self.service) = (first, second);
            }
        }
        self.middle_port = self.client.port;
        if entry.client_port != Port::NONE {
            let port = if entry.role == flow::CLIENT { &mut self.middle_port } else { &mut self.client.port };
            *port = entry.client_port;
        }
        self.flags = entry.flags & !flow::LOW;
        self.service_id = entry.service;
        self.backend_id = entry.backend;
        self.opened = entry.opened;
        self.seen = entry.seen;
        self.clock = entry.clock;
        self.protocol = key.protocol;
        self.state = entry.state & !flow::TAKEN;
    }

    /// The tuple of a request, as the entry with a `flow::*` role has it.
    #[inline(always)]
    pub fn tuple(&self, role: u8) -> Tuple<A> {
        let source = match role {
            flow::CLIENT => self.client,
            flow::MIDDLE => self.middle_client(),
            _ => self.node,
        };
        let destination = if role == flow::CLIENT { self.service } else { self.backend };
        Tuple { source, destination, protocol: self.protocol }
    }

    /// Takes over what another CPU has chosen for the same client and service: its client's entry.
    #[inline(always)]
    pub fn adopt(&mut self, winner: &Flow<A>) {
        self.backend = End::new(winner.first, winner.first_port);
        self.node = End::new(winner.second, winner.second_port);
        self.middle_port = if winner.client_port == Port::NONE { self.client.port } else { winner.client_port };
        self.flags = winner.flags & !flow::LOW;
        self.backend_id = winner.backend;
        self.clock = winner.clock;
    }

    /// Writes the entry with a `flow::*` role, and its key. In place and field by field: a value in passing would take
    /// a fifth of the kernel's stack.
    #[inline(always)]
    pub fn write(&self, role: u8, key: &mut FlowKey<A>, entry: &mut Flow<A>) {
        let low = self.write_key(role, key);
        let (first, second, client_port) = match role {
            flow::CLIENT => (&self.backend, &self.node, self.middle_port),
            flow::MIDDLE => (&self.service, &self.node, self.client.port),
            _ => (&self.client, &self.service, self.client.port),
        };
        entry.first = first.addr;
        entry.first_port = if role == flow::BACKEND { self.middle_port } else { first.port };
        entry.second = second.addr;
        entry.second_port = second.port;
        entry.seen = self.seen;
        entry.opened = self.opened;
        entry.service = self.service_id;
        entry.backend = self.backend_id;
        entry.role = role;
        entry.state = self.state;
        entry.flags = if low { self.flags | flow::LOW } else { self.flags };
        entry.client_port = if self.middle_port == self.client.port { Port::NONE } else { client_port };
        entry.clock = self.clock;
    }

    /// Writes the key of the entry with a `flow::*` role. Whether the initiating end is the lower one.
    #[inline(always)]
    pub fn write_key(&self, role: u8, key: &mut FlowKey<A>) -> bool {
        let from = if role == flow::BACKEND { &self.node } else { &self.client };
        let from_port = if role == flow::MIDDLE { self.middle_port } else { from.port };
        let to = if role == flow::CLIENT { &self.service } else { &self.backend };
        let low = Tuple { source: End::new(from.addr, from_port), destination: *to, protocol: 0 }.source_is_low();
        (key.low, key.high) = if low { (from.addr, to.addr) } else { (to.addr, from.addr) };
        (key.low_port, key.high_port) = if low { (from_port, to.port) } else { (to.port, from_port) };
        key.protocol = self.protocol;
        key.zero = [0; 3];
        low
    }

    /// The client as it is seen between the boundaries.
    #[inline(always)]
    fn middle_client(&self) -> End<A> {
        End::new(self.client.addr, self.middle_port)
    }
}

/// Whether a connection in this state is over: both sides have said so, or one has reset it.
#[inline(always)]
pub const fn is_over(state: u8) -> bool {
    const FINISHED: u8 = flow::CLIENT_FIN | flow::BACKEND_FIN;
    state & flow::RESET != 0 || state & FINISHED == FINISHED
}

/// How far the first timestamp of the connection in `new` is ahead of the last one of the connection in `old`, in units of
/// 65,536 ms; `None` if it is behind, or one of them is not known, or the old connection was not closed by both sides, or
/// only just (`idle`: jiffies since), so that its last packets may still be on their way.
///
/// A backend that remembers the old connection (TIME_WAIT) takes the first packet of another under the same addresses and
/// ports for what it is if its timestamp is ahead (RFC 6191). Timestamps are milliseconds of a clock that begins anywhere:
/// for each pair of client and service elsewhere in older systems, so that of the same pair the later connection is
/// always ahead, by little; for each connection elsewhere in newer ones. Of any two others one in two is ahead.
#[inline(always)]
pub fn lead<A: Family, E: Env<A>>(env: &E, new: &Flow<A>, old: &Flow<A>, idle: u32) -> Option<u16> {
    const FINISHED: u8 = flow::CLIENT_FIN | flow::BACKEND_FIN;
    let on_their_way = idle < env.hz() / 32;
    if new.clock == 0 || old.clock == 0 || old.state & FINISHED != FINISHED || on_their_way {
        return None;
    }
    let lasted = u64::from(since(old.seen, old.opened)) * 1000;
    let last = lasted.checked_div(u64::from(env.hz())).unwrap_or(0) >> 16;
    let lead = new.clock.wrapping_sub(old.clock.wrapping_add(last as u16));
    (lead as i16 >= 0).then_some(lead)
}

/// How long a connection in this state may be idle, in seconds.
#[inline(always)]
pub const fn lifetime(timeouts: &Timeouts, protocol: u8, state: u8) -> u32 {
    let replied = state & flow::REPLIED != 0;
    if protocol == Protocol::Udp as u8 {
        if replied { timeouts.stream } else { timeouts.datagram }
    } else if state & flow::RESET != 0 {
        timeouts.reset
    } else if is_over(state) {
        timeouts.closing
    } else if replied {
        timeouts.established
    } else {
        timeouts.opening
    }
}

/// Jiffies since `then`; 0 if another CPU has written a time that is ahead of this one's.
#[inline(always)]
pub const fn since(now: u32, then: u32) -> u32 {
    let idle = now.wrapping_sub(then);
    if idle as i32 >= 0 { idle } else { 0 }
}

/// Whether an entry has been idle for longer than its state allows.
#[inline(always)]
pub fn has_expired<A: Family, E: Env<A>>(env: &E, protocol: u8, state: u8, seen: u32) -> bool {
    is_too_long(env, protocol, state, since(env.now(), seen))
}

/// The same of so many jiffies.
#[inline(always)]
pub fn is_too_long<A: Family, E: Env<A>>(env: &E, protocol: u8, state: u8, idle: u32) -> bool {
    let limit = u64::from(lifetime(&env.timeouts(), protocol, state)) * u64::from(env.hz());
    u64::from(idle) > limit
}
