//! What the kernel's tables hold and count, read from them at each scrape.
//!
//! Services without a packet since the agent gave them their id are left out, so the number of series follows what is
//! used and not what exists. Endpoints are many and come and go: their connections are shown only when asked for.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use svc_common::net::{Address as _, Protocol};
use svc_common::tables::ServiceRecord;
use svc_common::verdict::Outcome;

use super::Samples;
use crate::datapath::Maps;
use crate::datapath::stats::ServiceTotals;
use crate::model::Family;

/// Shows the maps.
#[derive(Debug)]
pub struct Tables {
    /// The maps.
    pub maps: Arc<Maps>,
    /// Also show each backend.
    pub backends: bool,
}

/// Who a service id is, as labels.
pub(super) type ServiceLabels = [(&'static str, String); 5];

impl Collector for Tables {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        let mut samples = Samples { encoder };
        let capacities = self.maps.capacities();
        let capacities = capacities.into_iter().map(|(table, entries)| ([("table", table)], entries));
        samples.gauges("svc_table_capacity", "Entries for which there is room.", capacities)?;
        let memory = known("kernel memory", self.maps.memory());
        let memory = memory.into_iter().map(|(table, bytes)| ([("table", table)], bytes));
        samples.gauges("svc_table_memory_bytes", "Kernel memory of a table.", memory)?;
        let reasons = known("reasons", self.maps.reason_totals());
        let verdicts = reasons
            .into_iter()
            .map(|(reason, count)| ([("reason", reason.label()), ("outcome", outcome(reason.outcome()))], count));
        samples.counters("svc_verdicts", "Runs of the programs, by how they ended and why.", verdicts)?;
        services(&mut samples, &known("counters of Services", self.maps.service_totals()))?;
        self.connections(&mut samples)
    }
}

impl Tables {
    fn connections(&self, samples: &mut Samples<'_>) -> std::fmt::Result {
        let totals = known("counters of endpoints", self.maps.backend_totals());
        let active = Family::ALL.map(|family| {
            let of_family = totals.iter().filter(|(other, ..)| *other == family);
            let active = of_family.map(|(.., stats)| stats.opened.saturating_sub(stats.closed)).sum::<u64>();
            ([("ip_family", family.name())], active)
        });
        samples.gauges("svc_active_connections", "Connections that are not over yet.", active)?;
        if !self.backends {
            return Ok(());
        }
        let named = totals.into_iter().filter_map(|(family, id, stats)| Some((self.endpoint(family, id)?, stats)));
        let named: Vec<_> = named.collect();
        let labels = |endpoint: &String| [("endpoint", endpoint.clone())];
        let opened = named.iter().map(|(endpoint, stats)| (labels(endpoint), stats.opened));
        samples.counters("svc_backend_connections", "Connections to an endpoint.", opened)?;
        let active =
            named.iter().map(|(endpoint, stats)| (labels(endpoint), stats.opened.saturating_sub(stats.closed)));
        samples.gauges("svc_backend_active_connections", "Connections to an endpoint that are not over yet.", active)
    }

    /// Address and port of a backend id; `None` if the id is free by now.
    fn endpoint(&self, family: Family, id: u32) -> Option<String> {
        let (ip, port): (IpAddr, _) = match family {
            Family::V4 => {
                let backend = self.maps.backends_v4.get(&id).ok()??;
                (backend.addr.to_ip(), backend.port.get())
            }
            Family::V6 => {
                let backend = self.maps.backends_v6.get(&id).ok()??;
                (backend.addr.to_ip(), backend.port.get())
            }
        };
        (port != 0).then(|| SocketAddr::new(ip, port).to_string())
    }
}

fn services(samples: &mut Samples<'_>, totals: &[ServiceTotals]) -> std::fmt::Result {
    let named: Vec<_> = totals.iter().map(|totals| (labels(&totals.record), totals.stats)).collect();
    let connections = named.iter().map(|(labels, stats)| (labels.clone(), stats.connections));
    samples.counters("svc_service_connections", "Connections to a service port.", connections)?;
    let both = |labels: &ServiceLabels, request: u64, reply: u64| {
        [("request", request), ("reply", reply)].map(|(direction, value)| {
            let [namespace, service, port, protocol, ip_family] = labels.clone();
            ([namespace, service, port, protocol, ip_family, ("direction", direction.to_owned())], value)
        })
    };
    let packets = named.iter().flat_map(|(labels, stats)| both(labels, stats.request_packets, stats.reply_packets));
    samples.counters("svc_service_packets", "Packets of a service port, by direction.", packets)?;
    let bytes = named.iter().flat_map(|(labels, stats)| both(labels, stats.request_bytes, stats.reply_bytes));
    samples.counters("svc_service_bytes", "Bytes of those, from the network header on.", bytes)
}

/// The record holds `namespace/name:port`.
pub(super) fn labels(record: &ServiceRecord) -> ServiceLabels {
    let end = record.name.iter().position(|byte| *byte == 0).unwrap_or(record.name.len());
    let text = String::from_utf8_lossy(&record.name[..end]);
    let (namespace, rest) = text.split_once('/').unwrap_or(("", &text));
    let (name, port) = rest.rsplit_once(':').unwrap_or((rest, ""));
    let protocol = Protocol::from_number(record.protocol).map_or("", Protocol::name);
    let family = if record.family == 6 { Family::V6 } else { Family::V4 };
    [
        ("namespace", namespace.to_owned()),
        ("service", name.to_owned()),
        ("port", port.to_owned()),
        ("protocol", protocol.to_owned()),
        ("ip_family", family.name().to_owned()),
    ]
}

fn outcome(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Forward => "forward",
        Outcome::Pass => "pass",
        Outcome::Reject => "reject",
        Outcome::Drop => "drop",
    }
}

/// A scrape shows what it can.
fn known<T>(what: &str, values: std::io::Result<Vec<T>>) -> Vec<T> {
    values.unwrap_or_else(|error| {
        tracing::debug!("a scrape lacks {what}: {error}");
        Vec::new()
    })
}
