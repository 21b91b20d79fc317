//! The first packet of a connection.

use crate::parse::event;
use crate::tables::{Frontend, backend, device, flow};
use crate::tuple::End;
use crate::verdict::Reason;

use super::env::{Env, Family, FlowEntry as _};
use super::scratch::Scratch;
use super::{Translation, classify, conntrack, select, step};

/// Finds the frontend of the packet in `scratch`, chooses an endpoint, stores the connection and leaves its translation
/// in `scratch`.
///
/// In steps that are called one after another and not one inside the other, so that their stacks do not add up.
/// `flags` are those of the new flow: [`flow::HOST_CLIENT`] at egress, [`flow::TURNED`] where it can be turned around.
#[inline(always)]
pub fn open<A: Family, E: Env<A>>(env: &E, scratch: &mut E::Scratch, ifindex: u32, flags: u16) -> Result<(), Reason> {
    begin(env, scratch, ifindex, flags)?;
    complete(env, scratch, 0)
}

/// The first half of [`open`]: the connection, not yet stored. If it has [`flow::TURNED`], the caller finds out by which
/// device the way from client to backend leads.
#[inline(always)]
pub fn begin<A: Family, E: Env<A>>(env: &E, scratch: &mut E::Scratch, ifindex: u32, flags: u16) -> Result<(), Reason> {
    env.find(scratch, ifindex)?;
    env.choose(scratch, ifindex, flags)
}

/// The second half. `way`: the device by which what is turned around leaves; its address is what the backend sees. 0:
/// it cannot be turned around.
#[inline(always)]
pub fn complete<A: Family, E: Env<A>>(env: &E, scratch: &mut E::Scratch, way: u32) -> Result<(), Reason> {
    store(env, scratch, way)?;
    env.count_packet(scratch.connection.service_id, true, scratch.packet.length);
    Ok(())
}

/// Stores the connection in `scratch` and leaves its translation there.
#[inline(always)]
fn store<A: Family, E: Env<A>>(env: &E, scratch: &mut E::Scratch, way: u32) -> Result<(), Reason> {
    if scratch.connection.flags & flow::TURNED != 0 {
        if way == 0 {
            scratch.connection.flags &= !flow::TURNED;
        } else {
            scratch.connection.node.addr = node_address(env, way)?;
        }
    }
    conntrack::establish(env, scratch)?;
    finish(scratch);
    Ok(())
}

/// Finds the frontend, the sender and the set that applies to him.
#[inline(always)]
pub fn find<A: Family, E: Env<A>>(env: &E, scratch: &mut Scratch<A>, ifindex: u32) -> Result<(), Reason> {
    let opening = scratch.packet.event & event::OPEN != 0;
    scratch.frontend = classify::frontend(env, &scratch.packet.tuple, opening)?;
    if !opening {
        return Err(Reason::NoConnection);
    }
    let client = scratch.packet.tuple.source.addr;
    scratch.sender = classify::sender(env, client, ifindex);
    scratch.rule = select::rule(&scratch.frontend, scratch.sender);
    scratch.set = select::admit(env, &scratch.frontend, scratch.rule, client)?;
    Ok(())
}

/// The translation of the first packet.
#[inline(always)]
fn finish<A: Family>(scratch: &mut Scratch<A>) {
    let connection = &scratch.connection;
    let mark = if connection.flags & flow::SNAT != 0 { step::MARK } else { 0 };
    let route = if connection.flags & flow::HOST_CLIENT != 0 { step::ROUTE } else { 0 };
    // Another CPU may have stored the same connection without that.
    let turned = connection.flags & flow::TURNED != 0 && connection.node.is_set();
    let turn = if turned { step::TURN } else { 0 };
    scratch.translation =
        Translation { tuple: connection.tuple(flow::MIDDLE), steps: mark | route | turn, reason: Reason::Opened };
    scratch.turned = connection.tuple(flow::BACKEND);
}

/// The first half of opening at XDP, for frontends that the outside can reach; all others are TC's. Leaves the way from
/// client to backend as translation in `scratch`.
///
/// The connection to a backend that is to be reached through the stack is stored as TC would, so that the choice stays
/// uniform, and left to it. What ends without a connection is left to TC as well, where it ends in the same way, is
/// counted and is answered.
#[inline(always)]
pub fn begin_external<A: Family, E: Env<A>>(env: &E, scratch: &mut E::Scratch, ifindex: u32) -> Result<(), Reason> {
    let found = env.find(scratch, ifindex).is_ok() && scratch.frontend.has(Frontend::EXTERNAL);
    if !found || env.choose(scratch, ifindex, flow::TURNED).is_err() {
        return Err(Reason::LeftToStack);
    }
    if scratch.connection.flags & flow::TURNED == 0 {
        store(env, scratch, 0)?;
        return Err(Reason::LeftToStack);
    }
    let tuple = scratch.connection.tuple(flow::MIDDLE);
    scratch.translation = Translation { tuple, steps: step::OPEN, reason: Reason::Opened };
    Ok(())
}

/// The second half, with the translation of a packet that is turned around. `way` as for [`complete`].
#[inline(always)]
pub fn complete_external<A: Family, E: Env<A>>(env: &E, scratch: &mut E::Scratch, way: u32) -> Result<(), Reason> {
    store(env, scratch, way)?;
    if scratch.translation.steps & step::TURN == 0 {
        return Err(Reason::LeftToStack);
    }
    env.count_packet(scratch.connection.service_id, true, scratch.packet.length);
    scratch.translation = Translation { tuple: scratch.turned, steps: 0, reason: Reason::TurnedAround };
    Ok(())
}

/// Writes the connection that the packet opens to `scratch`; it is not stored yet.
///
/// With [`flow::TURNED`] asked for, a connection from outside to a backend elsewhere whose source is translated gets it;
/// others lose it.
#[inline(always)]
pub fn choose<A: Family, E: Env<A>>(env: &E, scratch: &mut Scratch<A>, ifindex: u32, flags: u16) -> Result<(), Reason> {
    let Scratch { packet, connection, frontend, sender, rule, set, .. } = scratch;
    let tuple = &packet.tuple;
    let id = select::draw(env, frontend, *set, *sender, tuple)?;
    let backend = env.backend(id).ok_or(Reason::StaleBackend)?;
    let snat = select::needs_translation(*rule, tuple.source.addr, &backend);
    let now = env.now();
    let local = backend.flags & backend::LOCAL != 0;
    connection.client = tuple.source;
    connection.service = tuple.destination;
    connection.backend = End::new(backend.addr, backend.port);
    connection.node = End::default();
    connection.middle_port = tuple.source.port;
    connection.flags = if snat { flags | flow::SNAT } else { flags };
    connection.service_id = frontend.service;
    connection.backend_id = id;
    connection.opened = now;
    connection.seen = now;
    connection.clock = packet.clock();
    connection.protocol = tuple.protocol;
    connection.state = flow::REQUESTED;
    if flags & flow::TURNED != 0 {
        let turns = || env.device(ifindex).is_some_and(|device| device.flags & device::TURN != 0);
        if !snat || local || !frontend.has(Frontend::EXTERNAL) || !turns() {
            connection.flags &= !flow::TURNED;
        }
    }
    Ok(())
}

/// Gives the connection whose middle entry has the key in `scratch` its source at this node: the address of the device
/// by which it leaves. The end that was allocated is left in the connection in `scratch`.
#[inline(always)]
pub fn translate_source<A: Family, E: Env<A>>(env: &E, scratch: &mut E::Scratch, ifindex: u32) -> Result<(), Reason> {
    env.read(scratch, ifindex)?;
    conntrack::translate_source(env, scratch)?;
    conntrack::remember_node(env, scratch, flow::MIDDLE);
    conntrack::remember_node(env, scratch, flow::CLIENT);
    Ok(())
}

/// Reads a connection that has no node's end yet, and gives that its address.
#[inline(always)]
pub fn read<A: Family, E: Env<A>>(env: &E, scratch: &mut Scratch<A>, ifindex: u32) -> Result<(), Reason> {
    let Scratch { connection, key, entry, .. } = scratch;
    *entry = env.flow(key).ok_or(Reason::TableFull)?.get();
    connection.read(key, entry);
    connection.node.addr = node_address(env, ifindex)?;
    Ok(())
}

/// The node's address for packets that leave by a device: the device's own, or the primary one.
#[inline(always)]
pub(super) fn node_address<A: Family, E: Env<A>>(env: &E, ifindex: u32) -> Result<A, Reason> {
    let own = env.device(ifindex).map(|device| A::source_of(&device)).unwrap_or_default();
    if own != A::default() {
        return Ok(own);
    }
    let primary = env.settings().map(A::primary).unwrap_or_default();
    if primary == A::default() { Err(Reason::NoSourcePort) } else { Ok(primary) }
}
