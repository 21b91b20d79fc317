//! `svc-agent backends`: the endpoints that are in use, whose they are, and their connections.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use anyhow::Context as _;
use serde::Serialize;
use svc_common::net::Address;
use svc_common::slots::id_of;
use svc_common::tables::{Backend, Entry, Frontend, FrontendKey, backend, backend_stats_index};

use super::{ShowArgs, show};
use crate::datapath::Maps;
use crate::datapath::table::Table;

#[derive(Serialize)]
struct Row {
    endpoint: SocketAddr,
    local: bool,
    services: BTreeSet<String>,
    /// Connections that are open now.
    active: u64,
    /// Connections since the endpoint came.
    connections: u64,
}

/// Lists the endpoints.
pub(super) fn run(args: &ShowArgs) -> anyhow::Result<()> {
    let maps = Maps::open(&args.bpffs)?;
    let names = show::services(&maps)?;
    let slots: Vec<u32> = maps.slots.dump()?.into_iter().map(|(_, slot)| id_of(slot)).collect();
    let mut rows = Vec::new();
    collect(&maps, &maps.frontends_v4, &maps.backends_v4, &slots, &names, &mut rows).context("IPv4")?;
    collect(&maps, &maps.frontends_v6, &maps.backends_v6, &slots, &names, &mut rows).context("IPv6")?;
    let headings = ["ENDPOINT", "WHERE", "SERVICES", "ACTIVE", "CONNECTIONS"];
    show::rows(args.output, &rows, headings, "no endpoints are in use", |row| {
        [
            row.endpoint.to_string(),
            if row.local { "here" } else { "elsewhere" }.to_owned(),
            row.services.iter().map(String::as_str).collect::<Vec<_>>().join(", "),
            row.active.to_string(),
            row.connections.to_string(),
        ]
    })
}

fn collect<A: Address>(
    maps: &Maps,
    frontends: &Table<FrontendKey<A>, Frontend>,
    backends: &Table<u32, Backend<A>>,
    slots: &[u32],
    names: &BTreeMap<u32, String>,
    rows: &mut Vec<Row>,
) -> std::io::Result<()>
where
    FrontendKey<A>: Entry,
    Backend<A>: Entry,
{
    let mut users: BTreeMap<u32, BTreeSet<u32>> = BTreeMap::new();
    frontends.for_each(|key, frontend| {
        if key.protocol == 0 {
            return;
        }
        for range in [frontend.cluster, frontend.local] {
            let end = (range.base as usize).saturating_add(range.len as usize).min(slots.len());
            for id in slots.get(range.base as usize..end).unwrap_or_default() {
                users.entry(*id).or_default().insert(frontend.service);
            }
        }
    })?;
    let mut found = Vec::new();
    for (id, services) in users {
        let Some(backend) = backends.get(&id)?.filter(|backend| backend.port.get() != 0) else { continue };
        let stats = maps.backend_stats.get(&backend_stats_index::<A>(id))?.unwrap_or_default();
        found.push(Row {
            endpoint: SocketAddr::new(backend.addr.to_ip(), backend.port.get()),
            local: backend.flags & backend::LOCAL != 0,
            services: services.iter().filter_map(|service| names.get(service).cloned()).collect(),
            active: stats.opened.saturating_sub(stats.closed),
            connections: stats.opened,
        });
    }
    found.sort_by_key(|row| row.endpoint);
    rows.append(&mut found);
    Ok(())
}
