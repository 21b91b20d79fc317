//! The choice of an endpoint for a new connection.

use crate::hash;
use crate::slots::{id_of, weight_of};
use crate::tables::{Affinity, AffinityKey, Algorithm, Backend, Frontend, Rule, Sender, SlotRange};
use crate::tuple::Tuple;
use crate::verdict::Reason;

use super::connection::since;
use super::env::{Env, Family};

/// What was chosen.
#[derive(Clone, Copy, Debug)]
pub struct Choice<A> {
    /// Id of the backend.
    pub id: u32,
    /// The backend.
    pub backend: Backend<A>,
    /// The source has to be translated.
    pub snat: bool,
}

/// Chooses an endpoint for the new connection `tuple` to `frontend`, and remembers it if the service has affinity.
#[inline(always)]
pub fn choose<A: Family, E: Env<A>>(
    env: &E,
    frontend: &Frontend,
    sender: Sender,
    tuple: &Tuple<A>,
) -> Result<Choice<A>, Reason> {
    let rule = rule(frontend, sender);
    let set = admit(env, frontend, rule, tuple.source.addr)?;
    let id = draw(env, frontend, set, sender, tuple)?;
    let backend = env.backend(id).ok_or(Reason::StaleBackend)?;
    let snat = needs_translation(rule, tuple.source.addr, &backend);
    Ok(Choice { id, backend, snat })
}

/// The set that a rule names, if it has members and the client is let in.
#[inline(always)]
pub fn admit<A: Family, E: Env<A>>(env: &E, frontend: &Frontend, rule: Rule, client: A) -> Result<SlotRange, Reason> {
    if frontend.has(Frontend::SOURCE_RANGES) && !env.in_source_range(frontend.service, client) {
        return Err(Reason::SourceRange);
    }
    let set = if rule.has(Rule::LOCAL) { frontend.local } else { frontend.cluster };
    if set.len != 0 {
        Ok(set)
    } else if rule.has(Rule::DROP) {
        Err(Reason::NoLocalEndpoint)
    } else {
        Err(Reason::NoEndpoint)
    }
}

/// Whether the source has to be translated: by the rule, or because an endpoint that is its own client would answer
/// itself directly, past the translation.
#[inline(always)]
pub fn needs_translation<A: Family>(rule: Rule, client: A, backend: &Backend<A>) -> bool {
    rule.has(Rule::SNAT) || backend.addr == client
}

/// The rule for a sender. By shifting a word and not by indexing: the verifier bounds no index that it cannot see.
#[inline(always)]
pub const fn rule(frontend: &Frontend, sender: Sender) -> Rule {
    let [pod, host, other] = frontend.rules;
    Rule((u32::from_le_bytes([pod.0, host.0, other.0, 0]) >> (sender as u32 * 8)) as u8)
}

/// The backend that a new connection goes to: the one of the client's record, or a new one of `set`.
#[inline(always)]
pub fn draw<A: Family, E: Env<A>>(
    env: &E,
    frontend: &Frontend,
    set: SlotRange,
    sender: Sender,
    tuple: &Tuple<A>,
) -> Result<u32, Reason> {
    if frontend.affinity == 0 {
        return by_algorithm(env, frontend, set, tuple);
    }
    // The host is one client, whichever of its addresses it uses.
    let client = if matches!(sender, Sender::Host) { A::loopback() } else { tuple.source.addr };
    let key = AffinityKey { service: frontend.service, client };
    // Drawn also where it is not needed: each thing is done in one place, which keeps the verifier's work small.
    let drawn = Affinity { backend: by_algorithm(env, frontend, set, tuple)?, seen: env.now() };
    let found = env.affinity(&key);
    // Connections that a client opens at once all get the endpoint of whichever writes the record first.
    let record = match found.filter(|record| is_recent(env, frontend, record)) {
        None => env.claim_affinity(&key, found, &drawn),
        recent => recent,
    };
    let Some(record) = record else { return Ok(drawn.backend) };
    let backend = if is_member(env, set, record.backend) { record.backend } else { drawn.backend };
    env.claim_affinity(&key, Some(record), &Affinity { backend, ..drawn });
    Ok(backend)
}

/// Whether the client's last connection was recent enough to bind it.
#[inline(always)]
fn is_recent<A: Family, E: Env<A>>(env: &E, frontend: &Frontend, record: &Affinity) -> bool {
    let age = u64::from(since(env.now(), record.seen));
    age <= u64::from(frontend.affinity) * u64::from(env.hz())
}

/// Largest number of members of one set, as a power of two.
const MEMBER_BITS: u32 = 20;

/// Whether `id` is in the sorted member list behind the slots: binary search.
#[inline(always)]
fn is_member<A: Family, E: Env<A>>(env: &E, set: SlotRange, id: u32) -> bool {
    let list = set.base.wrapping_add(set.len);
    let Some(count) = env.slot(list) else { return false };
    let first = list.wrapping_add(1);
    let (mut low, mut high) = (0, count);
    for _ in 0..=MEMBER_BITS {
        if low >= high {
            return false;
        }
        let middle = low + (high - low) / 2;
        let Some(member) = env.slot(first.wrapping_add(middle)) else { return false };
        if member == id {
            return true;
        }
        if member < id {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    false
}

/// A backend id by the frontend's algorithm.
#[inline(always)]
fn by_algorithm<A: Family, E: Env<A>>(
    env: &E,
    frontend: &Frontend,
    set: SlotRange,
    tuple: &Tuple<A>,
) -> Result<u32, Reason> {
    const ROUND_ROBIN: u8 = Algorithm::RoundRobin as u8;
    const FLOW_HASH: u8 = Algorithm::FlowHash as u8;
    const SOURCE_HASH: u8 = Algorithm::SourceHash as u8;
    const DESTINATION_HASH: u8 = Algorithm::DestinationHash as u8;
    const LEAST_CONNECTIONS: u8 = Algorithm::LeastConnections as u8;
    const SHORTEST_DELAY: u8 = Algorithm::ShortestDelay as u8;
    match frontend.algorithm {
        ROUND_ROBIN => pick(env, set, env.turn(frontend.service)),
        FLOW_HASH => pick(env, set, hash::tuple(tuple)),
        SOURCE_HASH => pick(env, set, hash::address(tuple.source.addr)),
        DESTINATION_HASH => pick(env, set, hash::address(tuple.destination.addr)),
        LEAST_CONNECTIONS | SHORTEST_DELAY => {
            let first = pick(env, set, env.random())?;
            let second = pick(env, set, env.random())?;
            // The connection that is about to be made counts for those who want the shortest delay.
            let own = u64::from(frontend.algorithm == SHORTEST_DELAY);
            let load = |slot| env.active(id_of(slot)).saturating_add(own);
            // Connections per weight, compared without dividing.
            let lighter = load(second) * u64::from(weight_of(first)) < load(first) * u64::from(weight_of(second));
            Ok(id_of(if lighter { second } else { first }))
        }
        _ => pick(env, set, env.random()),
    }
}

/// The slot that `h` falls on: a backend id and, where connections are compared, its weight.
#[inline(always)]
fn pick<A: Family, E: Env<A>>(env: &E, set: SlotRange, h: u32) -> Result<u32, Reason> {
    let index = h.checked_rem(set.len).ok_or(Reason::NoEndpoint)?;
    env.slot(set.base.wrapping_add(index)).filter(|id| *id != 0).ok_or(Reason::StaleBackend)
}
