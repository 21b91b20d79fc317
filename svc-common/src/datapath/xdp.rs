//! What XDP turns around: every packet that it can handle of the connections that [`super::turn`] is about.

use crate::parse::{Packet, Piece};
use crate::tables::flow;
use crate::verdict::Reason;

use super::env::{Env, Family, FlowEntry as _};
use super::turn::{both_ends, is_turned};
use super::{Translation, classify, conntrack, renew, step};

/// A packet arrives by an uplink, at XDP. Everything but flows of the fast path is left to TC.
///
/// With [`step::OPEN`] the packet is in the scratch and begins a connection: the caller opens it by
/// [`Env::begin_external`], asks for the way of the translation in the scratch, and calls [`Env::complete_external`].
#[inline(always)]
pub fn xdp<A: Family, E: Env<A>>(env: &E, packet: &Packet<A>) -> Result<Translation<A>, Reason> {
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
        return Ok(Translation { tuple: packet.tuple, steps: step::OPEN, reason: Reason::Opened });
    };
    let entry = place.get();
    let request = (entry.flags & flow::LOW != 0) == from_low;
    if !is_turned(&entry, request) {
        return Err(Reason::LeftToStack);
    }
    if !conntrack::is_fresh(env, &entry, packet.event, request) && !renew(env, &key, packet.event, request) {
        // Over and retired: TC begins the next one. Rare enough not to need the fast path.
        return Err(Reason::LeftToStack);
    }
    // The few packets that find no next hop are counted once more at TC.
    env.count_packet(entry.service, request, packet.length);
    Ok(Translation { tuple: both_ends(packet, &entry, request), steps: 0, reason: Reason::TurnedAround })
}
