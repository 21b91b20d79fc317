//! Fragments: the first has the ports, the others find them in the fragment map.
//!
//! Each hook stores and looks up under the addresses that the packet has when it gets there. A later fragment that comes
//! before its first says nothing about where it belongs; the kernel programs keep it (svc-ebpf/src/hold.rs) until the
//! first has come.

use crate::net::Protocol;
use crate::parse::{Packet, Piece};
use crate::tables::{Fragment, FragmentKey};
use crate::verdict::Reason;

use super::classify;
use super::connection::since;
use super::env::{Env, Family};
use super::scratch::Scratch;

/// Key of a fragment's datagram, under the addresses that it has now.
#[inline(always)]
pub fn key<A: Family>(packet: &Packet<A>) -> FragmentKey<A> {
    FragmentKey {
        source: packet.tuple.source.addr,
        destination: packet.tuple.destination.addr,
        id: packet.fragment_id,
        protocol: packet.tuple.protocol,
        place: 0,
        zero: 0,
    }
}

/// The ports of a datagram whose first fragment was seen not long ago: identifications are used again and again.
#[inline(always)]
pub fn ports<A: Family, E: Env<A>>(env: &E, key: &FragmentKey<A>) -> Option<Fragment> {
    let found = env.fragment(key)?;
    (since(env.now(), found.seen) <= LIFETIME * env.hz()).then_some(found)
}

/// How long the pieces of a datagram belong together, in seconds: as long as the kernel waits for all of them.
const LIFETIME: u32 = 30;

/// Fills in the ports of a later fragment in `scratch`; those of a first one are remembered. `marked`: the packet belongs
/// to a Service connection for certain.
#[inline(always)]
pub fn resolve<A: Family, E: Env<A>>(env: &E, scratch: &mut Scratch<A>, marked: bool) -> Result<(), Reason> {
    let packet = &mut scratch.packet;
    if Protocol::from_number(packet.tuple.protocol).is_none() {
        return Err(if packet.piece == Piece::Later { Reason::FragmentPassed } else { Reason::NotTransport });
    }
    let key = key(packet);
    if packet.piece == Piece::First {
        let ports =
            Fragment { source: packet.tuple.source.port, destination: packet.tuple.destination.port, seen: env.now() };
        env.set_fragment(&key, &ports);
        return Ok(());
    }
    if let Some(ports) = ports(env, &key) {
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
