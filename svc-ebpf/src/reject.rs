//! Telling the sender at once.

use svc_common::parse::Packet;

use crate::packet::Skb;
use crate::route::Routed;
use crate::tc;

/// Where the sender is.
#[derive(Clone, Copy)]
pub(crate) enum Back {
    /// Beyond the device by which the packet arrived.
    Out,
    /// In this host's own stack.
    In,
}

pub(crate) fn reject<A: Routed>(_skb: &Skb, _packet: &Packet<A>, _back: Back) -> i32 {
    tc::SHOT
}
