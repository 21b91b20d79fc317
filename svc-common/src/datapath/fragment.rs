//! Fragments: the first has the ports, the others find them in the fragment map.
//!
//! Each hook stores and looks up under the addresses that the packet has when it gets there.

use crate::net::Protocol;
use crate::parse::Piece;
use crate::tables::{Fragment, FragmentKey};
use crate::verdict::Reason;

use super::classify;
use super::env::{Env, Family};
use super::scratch::Scratch;

/// Fills in the ports of a later fragment in `scratch`; those of a first one are remembered. `marked`: the packet belongs
/// to a Service connection for certain.
#[inline(always)]
pub fn resolve<A: Family, E: Env<A>>(env: &E, scratch: &mut Scratch<A>, marked: bool) -> Result<(), Reason> {
    let packet = &mut scratch.packet;
    if Protocol::from_number(packet.tuple.protocol).is_none() {
        return Err(if packet.piece == Piece::Later { Reason::FragmentPassed } else { Reason::NotTransport });
    }
    let key = FragmentKey {
        source: packet.tuple.source.addr,
        destination: packet.tuple.destination.addr,
        id: packet.fragment_id,
        protocol: packet.tuple.protocol,
        zero: [0; 3],
    };
    if packet.piece == Piece::First {
        let ports =
            Fragment { source: packet.tuple.source.port, destination: packet.tuple.destination.port, seen: env.now() };
        env.set_fragment(&key, &ports);
        return Ok(());
    }
    if let Some(ports) = env.fragment(&key) {
        packet.tuple.source.port = ports.source;
        packet.tuple.destination.port = ports.destination;
        return Ok(());
    }
    // Without ports nobody can say which Service an address shared by many, such as a node's, is meant to be. The
    // frontend lookup with port 0 answers for addresses that belong to Services alone.
    let known = classify::frontend(env, &packet.tuple, true);
    let service = matches!(known, Err(Reason::UnknownPort | Reason::UnallocatedAddress));
    Err(if marked || service { Reason::FragmentUnknown } else { Reason::FragmentPassed })
}
