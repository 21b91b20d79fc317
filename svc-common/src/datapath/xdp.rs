//! The exception to the rule of place: what comes from outside for a backend elsewhere is turned around at XDP.

use crate::net::Port;
use crate::parse::{Packet, Piece};
use crate::tables::{Flow, flow};
use crate::tuple::{End, Tuple};
use crate::verdict::Reason;

use super::env::{Env, Family, FlowEntry as _};
use super::{Translation, classify, conntrack, renew};

/// A packet arrives by an uplink, at XDP. Everything but flows of the fast path is left to TC.
#[inline(always)]
pub fn xdp<A: Family, E: Env<A>>(env: &E, packet: &Packet<A>, ifindex: u32) -> Result<Translation<A>, Reason> {
    if packet.piece != Piece::Whole {
        return Err(Reason::LeftToStack);
    }
    let (key, from_low) = packet.tuple.key();
    let Some(place) = env.flow(&key) else {
        if !classify::may_be_frontend(env, packet.tuple.destination.addr) {
            return Err(Reason::NotService);
        }
        let mut scratch = env.scratch().ok_or(Reason::LeftToStack)?;
        scratch.packet = *packet;
        env.open_external(&mut scratch, ifindex)?;
        return Ok(scratch.translation);
    };
    let entry = place.get();
    let request = (entry.flags & flow::LOW != 0) == from_low;
    if entry.flags & flow::TURNED == 0 || entry.second_port == Port::NONE {
        return Err(Reason::LeftToStack);
    }
    match (entry.role, request) {
        (flow::CLIENT, true) | (flow::BACKEND, false) => {}
        _ => return Err(Reason::LeftToStack),
    }
    if !conntrack::is_fresh(env, &entry, packet.event, request) && !renew(env, &key, packet.event, request) {
        // Over and retired: TC begins the next one. Rare enough not to need the fast path.
        return Err(Reason::LeftToStack);
    }
    // The few packets that find no next hop are counted once more at TC.
    env.count_packet(entry.service, request, packet.length);
    Ok(Translation { tuple: both_ends(packet, &entry, request), steps: 0, reason: Reason::TurnedAround })
}

/// Both ends rewritten at once.
#[inline(always)]
fn both_ends<A: Family>(packet: &Packet<A>, entry: &Flow<A>, request: bool) -> Tuple<A> {
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
