//! Forgets what a change has made worthless: UDP flows and translated sockets whose endpoint serves no more, and
//! affinity records whose endpoint left its set.
//!
//! The tables are walked by batch, which marks no entry as used: lookups would make every old flow young again.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use svc_common::net::{Address, Port, Protocol};
use svc_common::tables::{Affinity, AffinityKey, Entry, Flow, FlowKey, SocketFlow, SocketKey, flow, socket};

use super::maps::Maps;
use super::table::Table;
use crate::apply::Stale;
use crate::model::Family;

/// How many records were forgotten, and what is left to do; arrays are by family in the order of [`Family::ALL`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Entries of UDP flows.
    pub flows: [u64; 2],
    /// Records of translated sockets.
    pub sockets: [u64; 2],
    /// Affinity records.
    pub affinity: [u64; 2],
    /// How long it took.
    pub took: [Duration; 2],
    /// Sockets that may be connected to an endpoint which serves no more.
    pub orphans: Vec<Orphan>,
}

/// A UDP socket whose datagrams went to an endpoint that serves no more. If it is connected, it is to that endpoint, and
/// only its owner can move it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Orphan {
    /// Cookie of the socket.
    pub cookie: u64,
    /// The endpoint.
    pub backend: SocketAddr,
}

/// Forgets what `stale` names. Only tables that can hold such a record are walked.
pub fn sweep(maps: &Maps, stale: &[Stale]) -> anyhow::Result<Swept> {
    let mut swept = Swept::default();
    for family in Family::ALL {
        let stale: HashMap<u32, &Stale> =
            stale.iter().filter(|stale| stale.family == family).map(|stale| (stale.service, stale)).collect();
        let (index, began) = (family as usize, Instant::now());
        let flows = stale.values().any(|stale| stale.serving.is_some());
        let affinity = stale.values().any(|stale| stale.members.is_some());
        match family {
            Family::V4 => {
                if flows {
                    swept.flows[index] = sweep_flows(&maps.flows_v4, &stale).context("FLOWS_V4")?;
                    swept.sockets[index] =
                        sweep_sockets(&maps.sockets_v4, &stale, &mut swept.orphans).context("SOCKETS_V4")?;
                }
                if affinity {
                    swept.affinity[index] = sweep_affinity(&maps.affinity_v4, &stale).context("AFFINITY_V4")?;
                }
            }
            Family::V6 => {
                if flows {
                    swept.flows[index] = sweep_flows(&maps.flows_v6, &stale).context("FLOWS_V6")?;
                    swept.sockets[index] =
                        sweep_sockets(&maps.sockets_v6, &stale, &mut swept.orphans).context("SOCKETS_V6")?;
                }
                if affinity {
                    swept.affinity[index] = sweep_affinity(&maps.affinity_v6, &stale).context("AFFINITY_V6")?;
                }
            }
        }
        swept.took[index] = began.elapsed();
    }
    Ok(swept)
}

fn forget<K: Entry, V: Entry>(table: &Table<K, V>, mut worthless: impl FnMut(&K, &V) -> bool) -> std::io::Result<u64> {
    let mut keys = Vec::new();
    table.for_each(|key, value| {
        if worthless(key, value) {
            keys.push(*key);
        }
    })?;
    table.remove_all(&keys)?;
    Ok(keys.len() as u64)
}

fn sweep_flows<A: Address>(table: &Table<FlowKey<A>, Flow<A>>, stale: &HashMap<u32, &Stale>) -> std::io::Result<u64>
where
    FlowKey<A>: Entry,
    Flow<A>: Entry,
{
    forget(table, |key, flow| {
        key.protocol == Protocol::Udp as u8
            && stale.get(&flow.service).is_some_and(|stale| stale.flow_is_stale(backend(key, flow)))
    })
}

/// The endpoint of a flow, from whichever of its entries.
pub fn backend<A: Address>(key: &FlowKey<A>, flow: &Flow<A>) -> SocketAddr {
    let (addr, port) = match flow.role {
        flow::CLIENT => (flow.first, flow.first_port),
        // The end that did not begin.
        _ if flow.flags & flow::LOW != 0 => (key.high, key.high_port),
        _ => (key.low, key.low_port),
    };
    socket_addr(addr, port)
}

fn sweep_sockets<A: Address>(
    table: &Table<SocketKey<A>, SocketFlow<A>>,
    stale: &HashMap<u32, &Stale>,
    orphans: &mut Vec<Orphan>,
) -> std::io::Result<u64>
where
    SocketKey<A>: Entry,
    SocketFlow<A>: Entry,
{
    forget(table, |key, flow| {
        let backend = match key.kind {
            socket::FORWARD => socket_addr(flow.addr, flow.port),
            _ => socket_addr(key.addr, key.port),
        };
        let worthless = key.protocol == Protocol::Udp as u8
            && stale.get(&flow.service).is_some_and(|stale| stale.flow_is_stale(backend));
        // A connected socket has this record only.
        if worthless && key.kind == socket::REVERSE {
            orphans.push(Orphan { cookie: u64::from(key.cookie[0]) | u64::from(key.cookie[1]) << 32, backend });
        }
        worthless
    })
}

fn sweep_affinity<A: Address>(
    table: &Table<AffinityKey<A>, Affinity>,
    stale: &HashMap<u32, &Stale>,
) -> std::io::Result<u64>
where
    AffinityKey<A>: Entry,
{
    forget(table, |key, record| stale.get(&key.service).is_some_and(|stale| stale.record_is_stale(record.backend)))
}

fn socket_addr<A: Address>(addr: A, port: Port) -> SocketAddr {
    let addr: IpAddr = addr.to_ip();
    SocketAddr::new(addr, port.get())
}
