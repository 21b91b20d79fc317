//! What happens to a packet at each hook. The kernel programs call these functions and apply what they return.
//!
//! A function here returns `Ok` with the new tuple when the packet is to be rewritten, and `Err` with a [`Reason`] when
//! it is not; [`Reason::outcome`] says what becomes of it then.

pub mod classify;
pub mod collect;
pub mod connection;
pub mod conntrack;
pub mod env;
pub mod fragment;
pub mod icmp;
mod open;
pub mod scratch;
pub mod select;
pub mod slow;
pub mod socket;
mod turn;
mod xdp;

use crate::net::Port;
use crate::parse::{Packet, Piece};
use crate::tables::{Flow, FlowKey, flow};
use crate::tuple::{End, Tuple};
use crate::verdict::Reason;

use env::{Env, Family, FlowEntry as _};

pub use xdp::xdp;

/// What a packet becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation<A> {
    /// Its new addresses and ports.
    pub tuple: Tuple<A>,
    /// `step::*` bits: what else has to be done.
    pub steps: u8,
    /// [`Reason::Translated`], [`Reason::Opened`] or [`Reason::TurnedAround`].
    pub reason: Reason,
}

/// What a translation brings with it.
pub mod step {
    /// Set the mark: the source has to be translated at the backend's boundary.
    pub const MARK: u8 = 1 << 0;
    /// Clear the mark: the source has been translated.
    pub const UNMARK: u8 = 1 << 1;
    /// Send on by the route of the new destination.
    pub const ROUTE: u8 = 1 << 2;
    /// Nothing is translated yet: the packet is the first of a connection and waits in the scratch. Only an environment
    /// whose [`super::env::Env::open`] puts the opening off says so.
    pub const OPEN: u8 = 1 << 3;
    /// The connection's packets are turned around. What arrives for one that exists waits in the scratch for
    /// [`slow::turn`](super::slow::turn); what opens one has both its translations there.
    pub const TURN: u8 = 1 << 4;
}

/// A packet arrives by a device, at TC. Fragments have been through [`fragment::resolve`], here and at [`egress`].
#[inline(always)]
pub fn ingress<A: Family, E: Env<A>>(env: &E, packet: &Packet<A>, ifindex: u32) -> Result<Translation<A>, Reason> {
    let (key, from_low) = packet.tuple.key();
    if let Some(place) = env.flow(&key) {
        let entry = place.get();
        let request = (entry.flags & flow::LOW != 0) == from_low;
        if turn::is_turned(&entry, request) {
            return turn::offer(env, packet, &key, &entry);
        }
        match (entry.role, request) {
            (flow::CLIENT, true) => {
                if let Some(translation) = request_at_client(env, packet, &key, &entry) {
                    return Ok(translation);
                }
                // The connection was over; this packet begins another.
            }
            (flow::BACKEND, false) => {
                let host = entry.flags & flow::HOST_CLIENT != 0;
                if host {
                    reply_at_client(env, packet, &key, &entry);
                }
                return Ok(reply_at_backend(packet, &entry, host));
            }
            (flow::MIDDLE, false) if entry.flags & flow::HOST_CLIENT != 0 => {
                reply_at_client(env, packet, &key, &entry);
                return Ok(reply_to_client(packet, &entry));
            }
            _ => return Err(Reason::Transit),
        }
    } else if !classify::concerns_services(env, packet.tuple.destination.addr) {
        return Err(stranger(packet));
    }
    first(env, packet, ifindex, 0)
}

/// A packet leaves by a device, at TC. `marked`: its mark asks for source translation. `from_host`: it comes from a
/// process of this host and is not forwarded.
#[inline(always)]
pub fn egress<A: Family, E: Env<A>>(
    env: &E,
    packet: &Packet<A>,
    ifindex: u32,
    marked: bool,
    from_host: bool,
) -> Result<Translation<A>, Reason> {
    let (key, from_low) = packet.tuple.key();
    if let Some(place) = env.flow(&key) {
        let entry = place.get();
        let request = if key.low_end() == key.high_end() {
            // A pod that dials itself from the very port it serves on: only the mark tells the directions apart.
            marked
        } else {
            (entry.flags & flow::LOW != 0) == from_low
        };
        match (entry.role, request) {
            (flow::MIDDLE, false) if entry.flags & flow::HOST_CLIENT == 0 => {
                reply_at_client(env, packet, &key, &entry);
                return Ok(reply_to_client(packet, &entry));
            }
            (flow::MIDDLE, true) if marked => return request_at_backend(env, packet, &key, &entry, ifindex),
            (flow::CLIENT, true) if from_host && entry.flags & flow::HOST_CLIENT != 0 => {
                if let Some(mut translation) = request_at_client(env, packet, &key, &entry) {
                    translation.steps |= step::ROUTE;
                    return Ok(translation);
                }
            }
            _ => return Err(Reason::Transit),
        }
    } else if !from_host {
        // The client's boundary has translated a packet with the mark: it must not go to the backend under its client's
        // address, and the next one that renews the connection there puts the entry back. But where the CNI plugin has
        // masqueraded it on the way, it has the node's address already.
        let lost = marked && !env.is_node_address(packet.tuple.source.addr);
        return Err(if lost { Reason::EntryLost } else { stranger(packet) });
    } else if !classify::concerns_services(env, packet.tuple.destination.addr) {
        return Err(stranger(packet));
    }
    first(env, packet, ifindex, flow::HOST_CLIENT)
}

/// The first packet of a connection, at its client's boundary.
#[inline(always)]
fn first<A: Family, E: Env<A>>(
    env: &E,
    packet: &Packet<A>,
    ifindex: u32,
    flags: u16,
) -> Result<Translation<A>, Reason> {
    let mut scratch = env.scratch().ok_or(Reason::TableFull)?;
    scratch.packet = *packet;
    env.open(&mut scratch, ifindex, flags)?;
    Ok(scratch.translation)
}

/// Notes a packet on all entries of its connection. `false`: the connection is over; the packet begins another.
#[inline(always)]
fn renew<A: Family, E: Env<A>>(env: &E, key: &FlowKey<A>, event: u8, request: bool) -> bool {
    // Without room nothing is noted, and the next packet tries again.
    let Some(mut scratch) = env.scratch() else { return true };
    scratch.key = *key;
    env.renew(&mut scratch, event, request)
}

/// Why a packet that has nothing to do with Services passes.
#[inline(always)]
fn stranger<A: Family>(packet: &Packet<A>) -> Reason {
    if packet.piece == Piece::Later { Reason::FragmentPassed } else { Reason::NotService }
}

/// Client to service, at the client's boundary: the destination becomes the backend. `None`: the connection was over.
#[inline(always)]
fn request_at_client<A: Family, E: Env<A>>(
    env: &E,
    packet: &Packet<A>,
    key: &FlowKey<A>,
    entry: &Flow<A>,
) -> Option<Translation<A>> {
    if !conntrack::is_fresh(env, entry, packet.event, true) && !renew(env, key, packet.event, true) {
        return None;
    }
    env.count_packet(entry.service, true, packet.length);
    Some(request_to_backend(packet, entry))
}

/// Client to service: the destination becomes the backend.
#[inline(always)]
fn request_to_backend<A: Family>(packet: &Packet<A>, entry: &Flow<A>) -> Translation<A> {
    let mut tuple = packet.tuple;
    tuple.destination = End::new(entry.first, entry.first_port);
    if entry.client_port != Port::NONE {
        tuple.source.port = entry.client_port;
    }
    let steps = if entry.flags & flow::SNAT != 0 { step::MARK } else { 0 };
    Translation { tuple, steps, reason: Reason::Translated }
}

/// Notes and counts a reply that has reached the client's boundary.
#[inline(always)]
fn reply_at_client<A: Family, E: Env<A>>(env: &E, packet: &Packet<A>, key: &FlowKey<A>, entry: &Flow<A>) {
    if !conntrack::is_fresh(env, entry, packet.event, false) {
        renew(env, key, packet.event, false);
    }
    env.count_packet(entry.service, false, packet.length);
}

/// Backend to client, at the client's boundary: the source becomes the service.
#[inline(always)]
fn reply_to_client<A: Family>(packet: &Packet<A>, entry: &Flow<A>) -> Translation<A> {
    let mut tuple = packet.tuple;
    tuple.source = End::new(entry.first, entry.first_port);
    if entry.client_port != Port::NONE {
        tuple.destination.port = entry.client_port;
    }
    Translation { tuple, steps: 0, reason: Reason::Translated }
}

/// Backend to node, at the backend's boundary: the destination becomes the client. `both`: this is the client's
/// boundary as well, so the source becomes the service at once.
#[inline(always)]
fn reply_at_backend<A: Family>(packet: &Packet<A>, entry: &Flow<A>, both: bool) -> Translation<A> {
    let mut tuple = packet.tuple;
    tuple.destination = End::new(entry.first, entry.first_port);
    if both {
        tuple.source = End::new(entry.second, entry.second_port);
        if entry.client_port != Port::NONE {
            tuple.destination.port = entry.client_port;
        }
    }
    Translation { tuple, steps: 0, reason: Reason::Translated }
}

/// Client to backend with the mark, at the backend's boundary: the source becomes the node.
#[inline(always)]
fn request_at_backend<A: Family, E: Env<A>>(
    env: &E,
    packet: &Packet<A>,
    key: &FlowKey<A>,
    entry: &Flow<A>,
    ifindex: u32,
) -> Result<Translation<A>, Reason> {
    let mut tuple = packet.tuple;
    tuple.source = if entry.second_port == Port::NONE {
        let mut scratch = env.scratch().ok_or(Reason::TableFull)?;
        scratch.key = *key;
        env.translate_source(&mut scratch, ifindex)?;
        scratch.connection.node
    } else {
        End::new(entry.second, entry.second_port)
    };
    Ok(Translation { tuple, steps: step::UNMARK, reason: Reason::Translated })
}
