//! The endpoints of one service port in one family, and the sets that are chosen from.

use std::cmp::Ordering;
use std::net::SocketAddr;
use std::sync::Arc;

use super::{NodeView, PlannedEndpoint, scheduler::Scheduler};
use crate::model::{Endpoint, EndpointSlice, Family, Hints, Protocol};

/// One address and port, with the copy that counts if several slices name it.
struct Candidate<'a> {
    addr: SocketAddr,
    endpoint: &'a Endpoint,
    local: bool,
}

impl Candidate<'_> {
    fn is_usable(&self) -> bool {
        self.endpoint.ready || self.is_last_resort()
    }

    /// Serving but on its way out: used only where no endpoint is ready.
    fn is_last_resort(&self) -> bool {
        self.endpoint.serving && self.endpoint.terminating
    }
}

/// The endpoints of one service port in one family, each once, sorted by address.
pub(super) struct Endpoints<'a>(Vec<Candidate<'a>>);

impl<'a> Endpoints<'a> {
    /// Takes from `slices` what belongs to a port of this name **and** protocol.
    pub(super) fn of_port(
        slices: &[&'a EndpointSlice],
        (name, protocol, family): (&str, Protocol, Family),
        node: &NodeView,
    ) -> Self {
        let mut all = Vec::new();
        for slice in slices.iter().filter(|slice| slice.family == family) {
            for port in slice.ports.iter().filter(|port| *port.name == *name && port.protocol == protocol) {
                let of_family = slice.endpoints.iter().filter(|endpoint| Family::of(endpoint.addr) == family);
                all.extend(of_family.map(|endpoint| Candidate {
                    addr: SocketAddr::new(endpoint.addr, port.port),
                    endpoint,
                    local: endpoint.node.as_ref() == Some(&node.name),
                }));
            }
        }
        all.sort_unstable_by(|a, b| a.addr.cmp(&b.addr).then_with(|| preference(a, b)));
        all.dedup_by_key(|candidate| candidate.addr);
        Self(all)
    }

    /// Whether there is nothing to send to, on any node.
    pub(super) fn is_empty(&self) -> bool {
        !self.0.iter().any(Candidate::is_usable)
    }

    /// The Cluster set: what is ready, narrowed by hints; if nothing is, what still serves while it terminates.
    pub(super) fn cluster(&self, node: &NodeView, scheduler: &Scheduler) -> Vec<PlannedEndpoint> {
        let ready: Vec<_> = self.0.iter().filter(|candidate| candidate.endpoint.ready).collect();
        let set = match ready.is_empty() {
            false => narrowed(ready, node),
            true => self.0.iter().filter(|candidate| candidate.is_last_resort()).collect(),
        };
        planned(set, scheduler)
    }

    /// The Local set: the same of this node's endpoints, without regard to hints.
    pub(super) fn local(&self, scheduler: &Scheduler) -> Vec<PlannedEndpoint> {
        let local = || self.0.iter().filter(|candidate| candidate.local);
        let mut set: Vec<_> = local().filter(|candidate| candidate.endpoint.ready).collect();
        if set.is_empty() {
            set = local().filter(|candidate| candidate.is_last_resort()).collect();
        }
        planned(set, scheduler)
    }

    /// Endpoints on which a UDP flow may stay.
    pub(super) fn serving(&self) -> Vec<SocketAddr> {
        let serving = self.0.iter().filter(|candidate| candidate.endpoint.ready || candidate.endpoint.serving);
        serving.map(|candidate| candidate.addr).collect()
    }

    /// Ready endpoints of this node.
    pub(super) fn ready_local(&self) -> impl Iterator<Item = SocketAddr> {
        let local = self.0.iter().filter(|candidate| candidate.local && candidate.endpoint.ready);
        local.map(|candidate| candidate.addr)
    }
}

/// Which of two copies of the same address and port counts: first the one that is not terminating, then a ready one,
/// then a local one. The rest only makes the order total, so that the order of slices never matters.
fn preference(a: &Candidate<'_>, b: &Candidate<'_>) -> Ordering {
    let (x, y) = (a.endpoint, b.endpoint);
    (x.terminating.cmp(&y.terminating))
        .then_with(|| y.ready.cmp(&x.ready))
        .then_with(|| b.local.cmp(&a.local))
        .then_with(|| y.serving.cmp(&x.serving))
        .then_with(|| x.node.cmp(&y.node))
        .then_with(|| x.hints.cmp(&y.hints))
}

/// Of ready endpoints those that hints assign to this node, else those for its zone, else all. One endpoint without a
/// hint of the kind switches the kind off.
fn narrowed<'a, 'b>(ready: Vec<&'b Candidate<'a>>, node: &NodeView) -> Vec<&'b Candidate<'a>> {
    by_hint(&ready, |hints| &hints.nodes, &node.name)
        .or_else(|| by_hint(&ready, |hints| &hints.zones, node.zone.as_deref()?))
        .unwrap_or(ready)
}

fn by_hint<'a, 'b>(
    ready: &[&'b Candidate<'a>],
    kind: impl Fn(&Hints) -> &[Arc<str>],
    wanted: &str,
) -> Option<Vec<&'b Candidate<'a>>> {
    let mut chosen = Vec::new();
    for candidate in ready {
        let names = kind(candidate.endpoint.hints.as_deref()?);
        if names.is_empty() {
            return None;
        }
        if names.iter().any(|name| **name == *wanted) {
            chosen.push(*candidate);
        }
    }
    (!chosen.is_empty()).then_some(chosen)
}

fn planned(set: Vec<&Candidate<'_>>, scheduler: &Scheduler) -> Vec<PlannedEndpoint> {
    let endpoint = |candidate: &Candidate<'_>| PlannedEndpoint {
        addr: candidate.addr,
        local: candidate.local,
        weight: scheduler.weight(candidate.addr.ip(), candidate.endpoint.node.as_deref()),
    };
    set.into_iter().map(endpoint).collect()
}
