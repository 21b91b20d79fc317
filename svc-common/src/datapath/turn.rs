//! The exception to the rule of place: what comes from outside for a backend elsewhere is turned around, both ends
//! rewritten at once, and does not enter the stack.
//!
//! XDP does it for every packet that it can handle, TC for all others of such a connection. The stack sees none of it, or
//! its connection tracking would know one direction only; but what is too big or too old for the way is the stack's to
//! answer, and is translated for it as everywhere else.

use crate::net::Port;
use crate::parse::Packet;
use crate::tables::{Flow, FlowKey, flow};
use crate::tuple::{End, Tuple};
use crate::verdict::Reason;

use super::env::{Env, Family};
use super::scratch::Scratch;
use super::{Translation, conntrack, reply_at_backend, request_to_backend, step};

/// Whether the packets of an entry's connection are turned around.
#[inline(always)]
pub(super) fn is_turned_at_all<A: Copy>(entry: &Flow<A>) -> bool {
    entry.flags & flow::TURNED != 0 && entry.second_port != Port::NONE
}

/// Whether a packet that has found the entry is: a request by the client's entry, a reply by the backend's.
#[inline(always)]
pub(super) fn is_turned<A: Copy>(entry: &Flow<A>, request: bool) -> bool {
    is_turned_at_all(entry) && matches!((entry.role, request), (flow::CLIENT, true) | (flow::BACKEND, false))
}

/// Leaves a packet and its entry in the scratch, for [`turn`].
#[inline(always)]
pub(super) fn offer<A: Family, E: Env<A>>(
    env: &E,
    packet: &Packet<A>,
    key: &FlowKey<A>,
    entry: &Flow<A>,
) -> Result<Translation<A>, Reason> {
    let mut scratch = env.scratch().ok_or(Reason::TableFull)?;
    scratch.packet = *packet;
    scratch.key = *key;
    scratch.entry = *entry;
    Ok(Translation { tuple: packet.tuple, steps: step::TURN, reason: Reason::TurnedAround })
}

/// Both translations of the packet in the scratch, whose entry is there too: turned around, and as for the stack.
/// `false`: the connection was over; the packet begins another.
#[inline(always)]
pub fn turn<A: Family, E: Env<A>>(env: &E, scratch: &mut E::Scratch) -> bool {
    let Scratch { packet, entry, turned, translation, .. } = &mut **scratch;
    let request = entry.role == flow::CLIENT;
    let (event, length, service) = (packet.event, packet.length, entry.service);
    let fresh = conntrack::is_fresh(env, entry, event, request);
    *turned = both_ends(packet, entry, request);
    *translation = if request { request_to_backend(packet, entry) } else { reply_at_backend(packet, entry, false) };
    if !fresh && !env.renew(scratch, event, request) && request {
        return false;
    }
    // The few that cannot be turned around are counted once more at the client's boundary, if they are replies.
    env.count_packet(service, request, length);
    true
}

/// Both ends rewritten at once.
#[inline(always)]
pub(super) fn both_ends<A: Family>(packet: &Packet<A>, entry: &Flow<A>, request: bool) -> Tuple<A> {
    let first = End::new(entry.first, entry.first_port);
    let second = End::new(entry.second, entry.second_port);
    if request {
        Tuple { source: second, destination: first, protocol: packet.tuple.protocol }
    } else {
        let mut client = first;
        if entry.client_port != Port::NONE {
            client.port = entry.client_port;
        }
        Tuple { source: second, destination: client, protocol: packet.tuple.protocol }
    }
}
