//! Endpoints from Pods, as the EndpointSlice controller makes them.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::super::wire::pod::Pod;
use super::super::wire::service::{Distribution, Draft};
use super::of_family;
use crate::model::{Endpoint, EndpointSlice, Family, Hints, ObjectKey, Protocol, SlicePort};

/// Whether a Service selects a pod.
pub(super) fn selects(draft: &Draft, pod: &Pod) -> bool {
    !draft.selector.is_empty() && draft.selector.iter().all(|(label, value)| pod.labels.get(label) == Some(value))
}

/// The slices of a Service: one for each family and each set of port numbers that its pods have, as the number behind
/// a name is that of each pod. `zone` says where a node is.
pub(super) fn slices<'a>(
    draft: &Draft,
    families: &[Family],
    pods: impl Iterator<Item = &'a Pod>,
    zone: impl Fn(&str) -> Option<Arc<str>>,
) -> Vec<EndpointSlice> {
    let mut groups: BTreeMap<(Family, Vec<Resolved>), Vec<Endpoint>> = BTreeMap::new();
    for pod in pods.filter(|pod| !pod.finished && selects(draft, pod)) {
        let targets = draft.service.ports.iter().zip(&draft.targets);
        let ports: Vec<Resolved> = targets
            .filter_map(|(port, target)| Some((port.name.clone(), port.protocol, pod.resolve(target, port.protocol)?)))
            .collect();
        let node = pod.node.clone();
        let ready = draft.publish_not_ready || pod.ready && !pod.terminating;
        let hints = hints(draft.distribution, node.as_ref(), &zone).filter(|_| ready);
        for family in families {
            let Some(addr) = of_family(&pod.ips, *family) else { continue };
            let endpoint = Endpoint {
                addr,
                ready,
                serving: pod.ready,
                terminating: pod.terminating,
                node: node.clone(),
                hints: hints.clone().map(Box::new),
            };
            groups.entry((*family, ports.clone())).or_default().push(endpoint);
        }
    }
    let service = &draft.service;
    let mut slices = Vec::new();
    for (index, ((family, ports), endpoints)) in groups.into_iter().enumerate() {
        // The tilde cannot be in the name of an object, so these never clash with somebody's own.
        let name = format!("{}~{}~{index}", service.key.name, family.name().to_ascii_lowercase());
        slices.push(EndpointSlice {
            key: ObjectKey::new(service.key.namespace.clone(), name),
            service: service.key.clone(),
            family,
            ports: ports.into_iter().map(|(name, protocol, port)| SlicePort { name, protocol, port }).collect(),
            endpoints,
            triggered: None,
        });
    }
    slices
}

/// Name, protocol and number of a port of a pod.
type Resolved = (Arc<str>, Protocol, u16);

/// `trafficDistribution`: each endpoint is hinted to be used where it is.
fn hints(
    distribution: Distribution,
    node: Option<&Arc<str>>,
    zone: impl Fn(&str) -> Option<Arc<str>>,
) -> Option<Hints> {
    let node = node.filter(|_| distribution != Distribution::Anywhere)?;
    let zones = zone(node).into_iter().collect();
    let nodes = if distribution == Distribution::SameNode { vec![node.clone()] } else { Vec::new() };
    Some(Hints { zones, nodes }).filter(|hints| *hints != Hints::default())
}
