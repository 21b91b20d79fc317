//! Room for the slow paths: the kernel's stack of 512 bytes does not hold a packet, a connection and an entry at once.

use crate::line::Line;
use crate::parse::Packet;
use crate::tables::{Flow, FlowKey, Frontend, Rule, Sender, SlotRange};
use crate::tuple::Tuple;
use crate::verdict::Reason;

use super::Translation;
use super::connection::Connection;
use super::conntrack::Reuse;

/// What the slow paths work on. Its content means nothing between two packets.
#[derive(Clone, Copy, Debug)]
pub struct Scratch<A> {
    /// The packet, copied, so that the fast path can keep its own in registers.
    pub packet: Packet<A>,
    /// The connection that is made, renewed or retired.
    pub connection: Connection<A>,
    /// The frontend that the packet is addressed to.
    pub frontend: Frontend,
    /// Who sent the packet.
    pub sender: Sender,
    /// The rule for him.
    pub rule: Rule,
    /// The set that applies to him.
    pub set: SlotRange,
    /// The result, unless there is none:
    pub translation: Translation<A>,
    /// what the packet becomes instead if it can be turned around, or
    pub turned: Tuple<A>,
    /// why there is none.
    pub reason: Reason,
    /// From which connections a key may be taken.
    pub reuse: Reuse,
    /// Key of the entry at hand.
    pub key: FlowKey<A>,
    /// The entry at hand.
    pub entry: Flow<A>,
    /// The entry that has its key.
    pub found: Flow<A>,
    /// What is said about the packet, if a person watches.
    pub line: Line,
}
