//! `svc-agent connections`: what is translated right now.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::Context as _;
use serde::Serialize;
use svc_common::net::{Address, Port, Protocol};
use svc_common::tables::{Entry, Flow, FlowKey, Peer, SocketFlow, SocketKey, flow, socket};

use super::{ShowArgs, show};
use crate::datapath::table::Table;
use crate::datapath::{Maps, probe};

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Row {
    protocol: String,
    /// Who opened the connection; absent for one that is translated at its socket.
    client: Option<SocketAddr>,
    /// What it believes to talk to.
    service_address: SocketAddr,
    /// What it talks to.
    endpoint: SocketAddr,
    /// What the endpoint takes for the client, if that is not the client.
    translated_source: Option<SocketAddr>,
    service: String,
    state: &'static str,
    /// Seconds since a packet was seen (a socket: since it was used).
    idle: u32,
}

/// What the reading of one family needs besides the tables.
struct Context<'a> {
    names: &'a BTreeMap<u32, String>,
    now: u32,
    hz: u32,
}

/// Lists the connections.
pub(super) fn run(args: &ShowArgs) -> anyhow::Result<()> {
    let maps = Maps::open(&args.bpffs)?;
    let names = show::services(&maps)?;
    let context = Context { names: &names, now: probe::jiffies()?, hz: probe::ticks_per_second()? };
    let mut rows = Vec::new();
    flows(&maps.flows_v4, &context, &mut rows).context("FLOWS_V4")?;
    flows(&maps.flows_v6, &context, &mut rows).context("FLOWS_V6")?;
    sockets(&maps.sockets_v4, &context, &mut rows).context("SOCKETS_V4")?;
    sockets(&maps.sockets_v6, &context, &mut rows).context("SOCKETS_V6")?;
    peers(&maps.peers_v4, &context, &mut rows).context("PEERS_V4")?;
    peers(&maps.peers_v6, &context, &mut rows).context("PEERS_V6")?;
    rows.sort_unstable();
    let headings = ["PROTOCOL", "CLIENT", "SERVICE ADDRESS", "ENDPOINT", "SOURCE", "SERVICE", "STATE", "IDLE"];
    show::rows(args.output, &rows, headings, "nothing is translated", |row| {
        [
            row.protocol.clone(),
            row.client.map_or_else(|| "a socket of this host".to_owned(), |client| client.to_string()),
            row.service_address.to_string(),
            row.endpoint.to_string(),
            row.translated_source.map_or_else(String::new, |source| source.to_string()),
            row.service.clone(),
            row.state.to_owned(),
            format!("{} s", row.idle),
        ]
    })
}

impl Context<'_> {
    fn service(&self, id: u32) -> String {
        self.names.get(&id).cloned().unwrap_or_else(|| "(gone)".to_owned())
    }

    fn idle(&self, seen: u32) -> u32 {
        // A program may have written a newer time than ours.
        let ticks = self.now.wrapping_sub(seen);
        if ticks > u32::MAX / 2 { 0 } else { ticks / self.hz.max(1) }
    }
}

fn end<A: Address>(addr: A, port: Port) -> SocketAddr {
    SocketAddr::new(addr.to_ip(), port.get())
}

/// Each connection once: the entry that the client sees.
fn flows<A: Address>(
    table: &Table<FlowKey<A>, Flow<A>>,
    context: &Context<'_>,
    rows: &mut Vec<Row>,
) -> std::io::Result<()>
where
    FlowKey<A>: Entry,
    Flow<A>: Entry,
{
    table.for_each(|key, flow| {
        if flow.role != flow::CLIENT {
            return;
        }
        let (low, high) = (end(key.low, key.low_port), end(key.high, key.high_port));
        let (client, service_address) = if flow.flags & flow::LOW != 0 { (low, high) } else { (high, low) };
        rows.push(Row {
            protocol: show::protocol(key.protocol),
            client: Some(client),
            service_address,
            endpoint: end(flow.first, flow.first_port),
            translated_source: (flow.second_port != Port::NONE).then(|| end(flow.second, flow.second_port)),
            service: context.service(flow.service),
            state: state(key.protocol, flow.state),
            idle: context.idle(flow.seen),
        });
    })
}

fn state(protocol: u8, bits: u8) -> &'static str {
    let has = |bit| bits & bit != 0;
    if has(flow::RESET) {
        "reset"
    } else if has(flow::CLIENT_FIN) && has(flow::BACKEND_FIN) {
        "closed"
    } else if has(flow::CLIENT_FIN) || has(flow::BACKEND_FIN) {
        "closing"
    } else if has(flow::REPLIED) {
        if protocol == Protocol::Udp as u8 { "answered" } else { "established" }
    } else if protocol == Protocol::Udp as u8 {
        "unanswered"
    } else {
        "opening"
    }
}

fn sockets<A: Address>(
    table: &Table<SocketKey<A>, SocketFlow<A>>,
    context: &Context<'_>,
    rows: &mut Vec<Row>,
) -> std::io::Result<()>
where
    SocketKey<A>: Entry,
    SocketFlow<A>: Entry,
{
    table.for_each(|key, flow| {
        if key.kind != socket::REVERSE {
            return;
        }
        rows.push(Row {
            protocol: show::protocol(key.protocol),
            client: None,
            service_address: end(flow.addr, flow.port),
            endpoint: end(key.addr, key.port),
            translated_source: None,
            service: context.service(flow.service),
            state: "translated at the socket",
            idle: context.idle(flow.seen),
        });
    })
}

fn peers<A: Address>(table: &Table<u32, Peer<A>>, context: &Context<'_>, rows: &mut Vec<Row>) -> std::io::Result<()>
where
    Peer<A>: Entry,
{
    table.for_each(|_, peer| {
        if peer.cookie == [0; 2] {
            return;
        }
        rows.push(Row {
            protocol: show::protocol(Protocol::Tcp as u8),
            client: None,
            service_address: end(peer.service, peer.service_port),
            endpoint: end(peer.backend, peer.backend_port),
            translated_source: None,
            service: context.service(peer.service_id),
            state: "translated at the socket",
            idle: context.idle(peer.seen),
        });
    })
}
