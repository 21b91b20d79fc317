//! The EndpointSlice.

use std::net::IpAddr;

use k8s_openapi::jiff::Timestamp;
use serde::Deserialize;

use super::service::family;
use super::{HEADLESS, Meta, OTHER_PROXY, Problem, SERVICE_NAME, address, nullable, port, protocol};
use crate::model::{Endpoint, EndpointSlice, Family, Hints, ObjectKey, SlicePort};
use crate::source::Interner;

const TRIGGER: &str = "endpoints.kubernetes.io/last-change-trigger-time";

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(in crate::source) struct WireSlice {
    #[serde(deserialize_with = "nullable")]
    pub(in crate::source) metadata: Meta,
    address_type: Option<String>,
    #[serde(deserialize_with = "nullable")]
    endpoints: Vec<WireEndpoint>,
    #[serde(deserialize_with = "nullable")]
    ports: Vec<WirePort>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct WireEndpoint {
    #[serde(deserialize_with = "nullable")]
    addresses: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    conditions: Conditions,
    node_name: Option<String>,
    #[serde(deserialize_with = "nullable")]
    hints: WireHints,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Conditions {
    ready: Option<bool>,
    serving: Option<bool>,
    terminating: Option<bool>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct WireHints {
    #[serde(deserialize_with = "nullable")]
    for_zones: Vec<Named>,
    #[serde(deserialize_with = "nullable")]
    for_nodes: Vec<Named>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Named {
    #[serde(deserialize_with = "nullable")]
    name: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct WirePort {
    name: Option<String>,
    protocol: Option<String>,
    port: Option<i64>,
}

/// What a slice is to this project.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::source) struct ReadSlice {
    pub(in crate::source) key: ObjectKey,
    /// The Service whose slice it says it is, whether or not the slice is seen.
    pub(in crate::source) service: Option<ObjectKey>,
    /// `None`: it is not seen, having host names, a label that hides it, or no Service.
    pub(in crate::source) slice: Option<EndpointSlice>,
}

impl WireSlice {
    /// The slice of the model; the second part lists what means nothing.
    pub(in crate::source) fn read(self, names: &mut Interner) -> (ReadSlice, Vec<Problem>) {
        let mut problems = Vec::new();
        let meta = &self.metadata;
        let key = meta.namespaced();
        let service = meta.labels.get(SERVICE_NAME).filter(|name| !name.is_empty());
        let service = service.map(|name| ObjectKey::new(names.get(&key.namespace), names.get(name)));
        let unseen = |service, problems| (ReadSlice { key: key.clone(), service, slice: None }, problems);
        let hidden = meta.labels.contains_key(HEADLESS) || meta.labels.contains_key(OTHER_PROXY);
        let family = match self.address_type.as_deref() {
            Some("FQDN") => return unseen(service, problems),
            Some(name) => family(name),
            None => Err("is missing: IPv4 or IPv6".to_owned()),
        };
        let family = match family {
            Ok(family) => family,
            Err(text) => {
                problems.push(Problem::new("addressType", text));
                return unseen(service, problems);
            }
        };
        let Some(owner) = service.clone().filter(|_| !hidden) else { return unseen(service, problems) };

        let mut ports = Vec::with_capacity(self.ports.len());
        for (index, wire) in self.ports.iter().enumerate() {
            // A port without a number means "all ports", which is nothing to translate to.
            let Some(number) = wire.port else { continue };
            match (port(number), protocol(wire.protocol.as_deref())) {
                (Ok(port), Ok(protocol)) => {
                    ports.push(SlicePort { name: names.get(wire.name.as_deref().unwrap_or_default()), protocol, port });
                }
                (Err(text), _) => problems.push(Problem::new(format!("ports[{index}].port"), text)),
                (_, Err(text)) => problems.push(Problem::new(format!("ports[{index}].protocol"), text)),
            }
        }
        let mut endpoints = Vec::with_capacity(self.endpoints.len());
        for (index, wire) in self.endpoints.into_iter().enumerate() {
            // Only the first address counts.
            let Some(text) = wire.addresses.first() else { continue };
            match endpoint_address(text, family) {
                Ok(addr) => endpoints.push(wire.read(addr, names)),
                Err(text) => problems.push(Problem::new(format!("endpoints[{index}].addresses[0]"), text)),
            }
        }
        let triggered = meta.annotations.get(TRIGGER).and_then(|time| time.parse::<Timestamp>().ok());
        let triggered = triggered.map(Timestamp::as_nanosecond);
        let slice = EndpointSlice { key: key.clone(), service: owner, family, ports, endpoints, triggered };
        (ReadSlice { key: key.clone(), service, slice: Some(slice) }, problems)
    }
}

fn endpoint_address(text: &str, family: Family) -> Result<IpAddr, String> {
    let addr = address(text)?;
    if Family::of(addr) == family {
        Ok(addr)
    } else {
        Err(format!("{addr} is no {} address, as addressType says", family.name()))
    }
}

impl WireEndpoint {
    fn read(self, addr: IpAddr, names: &mut Interner) -> Endpoint {
        let mut list = |named: Vec<Named>| named.iter().map(|named| names.get(&named.name)).collect();
        let hints = Hints { zones: list(self.hints.for_zones), nodes: list(self.hints.for_nodes) };
        Endpoint {
            addr,
            ready: self.conditions.ready.unwrap_or(true),
            serving: self.conditions.serving.unwrap_or(true),
            terminating: self.conditions.terminating.unwrap_or(false),
            node: self.node_name.filter(|name| !name.is_empty()).map(|name| names.get(&name)),
            hints: (hints != Hints::default()).then(|| Box::new(hints)),
        }
    }
}
