//! `svc-agent services`: the Services and the addresses at which they answer, from manifests or from the tables that are
//! in force.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use serde::Serialize;
use svc_common::net::Address;
use svc_common::slots::id_of;
use svc_common::tables::{Backend, Frontend, FrontendKey, SlotRange};
use tabled::builder::Builder;
use tabled::settings::Style;

use super::{Output, ServicesArgs, out};
use crate::apply::{Applier, Capacity, Present};
use crate::datapath::Maps;
use crate::engine::Engine;
use crate::model::{Event, Kind, Protocol};
use crate::plan::FrontendKind;
use crate::source::manifest;

/// One address and port at which a Service answers.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Row {
    /// `namespace/name`.
    service: String,
    /// Name of the port.
    port: String,
    /// Address and port; empty for a Service that answers nowhere.
    frontend: String,
    protocol: String,
    kind: String,
    endpoints: Vec<SocketAddr>,
}

fn list(endpoints: &[SocketAddr]) -> String {
    /// More are counted, not named.
    const NAMED: usize = 3;
    let mut text: Vec<_> = endpoints.iter().take(NAMED).map(ToString::to_string).collect();
    if endpoints.len() > NAMED {
        text.push(format!("and {} more", endpoints.len() - NAMED));
    }
    if text.is_empty() { "none".to_owned() } else { text.join(", ") }
}

/// Runs the command.
pub(super) fn run(args: &ServicesArgs) -> anyhow::Result<()> {
    let mut rows = if args.manifests.is_some() { planned(args)? } else { in_force(args)? };
    rows.sort_unstable();
    match args.output {
        Output::Json => out::line(serde_json::to_string_pretty(&rows)?),
        Output::Text if rows.is_empty() => out::line("no Services"),
        Output::Text => out::line(table(&rows)),
    }
}

fn table(rows: &[Row]) -> String {
    let mut table = Builder::default();
    table.push_record(["SERVICE", "PORT", "FRONTEND", "PROTOCOL", "KIND", "ENDPOINTS"]);
    for Row { service, port, frontend, protocol, kind, endpoints } in rows {
        table.push_record([service, port, frontend, protocol, kind, &list(endpoints)]);
    }
    table.build().with(Style::blank()).to_string()
}

/// What the Services of manifests get on this node.
fn planned(args: &ServicesArgs) -> anyhow::Result<Vec<Row>> {
    let path = args.manifests.as_deref().context("no manifests")?;
    let flags = &args.flags;
    let loaded =
        manifest::load(path, &flags.control_plane()).with_context(|| format!("cannot read {}", path.display()))?;
    for warning in &loaded.warnings {
        eprintln!("svc-agent: {warning}");
    }
    let ports = (flags.snat_port_range.first, flags.snat_port_range.last);
    let mut engine = Engine::new(&flags.node_name(), flags.options()?, ports, Applier::new(Capacity::default()));
    loaded.objects.into_iter().for_each(|object| engine.fold(Event::Applied(object)));
    Kind::ALL.into_iter().for_each(|kind| engine.fold(Event::Synced(kind)));
    let commit = engine.commit(Duration::ZERO);
    for (service, remark) in &commit.remarks {
        eprintln!("svc-agent: {}{remark}", service.as_ref().map(|key| format!("Service {key}: ")).unwrap_or_default());
    }
    let mut rows = Vec::new();
    for (key, planned) in &commit.planned {
        let ports = planned.iter().flat_map(|planned| &planned.ports);
        let before = rows.len();
        for port in ports {
            for frontend in &port.frontends {
                let is_contested = engine.owner(frontend.addr, port.id.protocol) != Some(key);
                rows.push(Row {
                    service: key.to_string(),
                    port: port.id.port.to_string(),
                    frontend: frontend.addr.to_string(),
                    protocol: port.id.protocol.name().to_owned(),
                    kind: if is_contested { "served for another" } else { kind_name(frontend.kind) }.to_owned(),
                    endpoints: port.serving.clone(),
                });
            }
        }
        if rows.len() == before {
            rows.push(Row {
                service: key.to_string(),
                port: String::new(),
                frontend: String::new(),
                protocol: String::new(),
                kind: "answers nowhere".to_owned(),
                endpoints: Vec::new(),
            });
        }
    }
    Ok(rows)
}

/// What the tables say.
fn in_force(args: &ServicesArgs) -> anyhow::Result<Vec<Row>> {
    let present = Maps::open(&args.flags.bpffs)?.present()?;
    let names: BTreeMap<u32, String> = present.services.iter().map(|(id, record)| (*id, text(&record.name))).collect();
    let mut rows = Vec::new();
    read(&present, &present.frontends_v4, &present.backends_v4, &names, &mut rows);
    read(&present, &present.frontends_v6, &present.backends_v6, &names, &mut rows);
    Ok(rows)
}

fn read<A: Address>(
    present: &Present,
    frontends: &[(FrontendKey<A>, Frontend)],
    backends: &[(u32, Backend<A>)],
    names: &BTreeMap<u32, String>,
    rows: &mut Vec<Row>,
) {
    let backends: BTreeMap<u32, SocketAddr> =
        backends.iter().map(|(id, it)| (*id, SocketAddr::new(it.addr.to_ip(), it.port.get()))).collect();
    let endpoints = |range: SlotRange| {
        let slots = present.slots.iter().skip(range.base as usize).take(range.len as usize);
        slots.filter_map(|slot| backends.get(&id_of(*slot)).copied()).collect::<Vec<_>>()
    };
    for (key, value) in frontends.iter().filter(|(key, _)| key.protocol != 0) {
        let name = names.get(&value.service).map_or("?", String::as_str);
        let (service, port) = name.rsplit_once(':').unwrap_or((name, ""));
        let mut endpoints = [endpoints(value.cluster), endpoints(value.local)].concat();
        endpoints.sort_unstable();
        endpoints.dedup();
        rows.push(Row {
            service: service.to_owned(),
            port: port.to_owned(),
            frontend: SocketAddr::new(key.addr.to_ip(), key.port.get()).to_string(),
            protocol: Protocol::from_number(key.protocol).map_or("?", Protocol::name).to_owned(),
            kind: if value.has(Frontend::EXTERNAL) {
                "external".to_owned()
            } else if value.has(Frontend::LOOPBACK) {
                kind_name(FrontendKind::LocalhostNodePort).to_owned()
            } else {
                kind_name(FrontendKind::ClusterIp).to_owned()
            },
            endpoints,
        });
    }
}

fn text(name: &[u8]) -> String {
    let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
    String::from_utf8_lossy(&name[..end]).into_owned()
}

/// A kind of frontend as reports name it.
pub(super) fn kind_name(kind: FrontendKind) -> &'static str {
    match kind {
        FrontendKind::ClusterIp => "ClusterIP",
        FrontendKind::NodePort => "NodePort",
        FrontendKind::LocalhostNodePort => "NodePort on loopback",
        FrontendKind::LoadBalancer => "LoadBalancer address",
        FrontendKind::ExternalIp => "external IP",
    }
}
