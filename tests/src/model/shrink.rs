//! Makes a history that shows a difference smaller, as long as it still shows one.

use super::generate::{History, Step};
use super::object::Cluster;
use super::rules::Flags;

/// The smallest history found that `fails`. Each candidate removes something; the first that still fails is kept.
pub fn shrink(mut history: History, mut fails: impl FnMut(&History) -> bool) -> History {
    // Enough for the histories of this crate; a difference that is shrunk badly is still a difference.
    let mut budget = 400;
    let mut attempt = |history: &mut History, candidate: History| {
        let smaller = budget > 0 && candidate != *history && {
            budget -= 1;
            fails(&candidate)
        };
        if smaller {
            *history = candidate;
        }
        smaller
    };
    shrink_steps(&mut history, &mut attempt);
    shrink_objects(&mut history, &mut attempt);
    shrink_flags(&mut history, &mut attempt);
    shrink_steps(&mut history, &mut attempt);
    history
}

type Attempt<'a> = &'a mut dyn FnMut(&mut History, History) -> bool;

fn shrink_steps(history: &mut History, attempt: Attempt<'_>) {
    let mut chunk = history.steps.len();
    while chunk > 0 {
        // From the end: what comes after the difference goes first.
        let mut end = history.steps.len();
        while end > 0 {
            let start = end.saturating_sub(chunk);
            let mut candidate = history.clone();
            candidate.steps.drain(start..end);
            attempt(history, candidate);
            end = start.min(history.steps.len());
        }
        // A change whose predecessors are gone can become the start.
        if let Some(Step::Change(cluster, _)) = history.steps.first() {
            let candidate =
                History { start: cluster.clone(), steps: history.steps[1..].to_vec(), flags: history.flags.clone() };
            attempt(history, candidate);
        }
        chunk /= 2;
    }
}

/// Applies one simplification to all states of the objects alike.
fn everywhere(history: &History, simplify: &dyn Fn(&mut Cluster)) -> History {
    let mut candidate = history.clone();
    simplify(&mut candidate.start);
    for step in &mut candidate.steps {
        if let Step::Change(cluster, _) = step {
            simplify(cluster);
        }
    }
    candidate
}

fn shrink_objects(history: &mut History, attempt: Attempt<'_>) {
    let states = |history: &History| {
        let changes = history.steps.iter().filter_map(|step| match step {
            Step::Change(cluster, _) => Some(cluster.clone()),
            Step::Ask(..) => None,
        });
        std::iter::once(history.start.clone()).chain(changes).collect::<Vec<_>>()
    };
    let all = states(history);
    let mut services: Vec<_> =
        all.iter().flat_map(|cluster| &cluster.services).map(|s| (s.namespace.clone(), s.name.clone())).collect();
    services.sort();
    services.dedup();
    for key in &services {
        let of = |s: &super::object::Service| (s.namespace.clone(), s.name.clone()) == *key;
        let removed = everywhere(history, &|cluster| cluster.services.retain(|service| !of(service)));
        if attempt(history, removed) {
            continue;
        }
        type Simplify = fn(&mut super::object::Service);
        let simpler: [Simplify; 13] = [
            |service| service.external_ips.clear(),
            |service| service.ingress.clear(),
            |service| service.ranges.clear(),
            |service| service.affinity = false,
            |service| service.timeout = None,
            |service| service.scheduler = None,
            |service| service.external_local = false,
            |service| service.internal_local = false,
            |service| service.headless_label = false,
            |service| service.sloppy = false,
            |service| service.created = None,
            |service| service.ports.truncate(1),
            |service| drop(service.ports.drain(..service.ports.len().saturating_sub(1))),
        ];
        for simplify in simpler {
            let candidate =
                everywhere(history, &|cluster| cluster.services.iter_mut().filter(|s| of(s)).for_each(simplify));
            attempt(history, candidate);
        }
    }
    let mut slices: Vec<_> =
        all.iter().flat_map(|cluster| &cluster.slices).map(|s| (s.namespace.clone(), s.name.clone())).collect();
    slices.sort();
    slices.dedup();
    for key in &slices {
        let of = |s: &super::object::Slice| (s.namespace.clone(), s.name.clone()) == *key;
        let removed = everywhere(history, &|cluster| cluster.slices.retain(|slice| !of(slice)));
        if attempt(history, removed) {
            continue;
        }
        let spelled = everywhere(history, &|cluster| {
            cluster.slices.iter_mut().filter(|s| of(s)).for_each(|slice| slice.sloppy = false);
        });
        attempt(history, spelled);
        for index in (0..5).rev() {
            let candidate = everywhere(history, &|cluster| {
                for slice in cluster.slices.iter_mut().filter(|s| of(s) && s.endpoints.len() > index) {
                    slice.endpoints.remove(index);
                }
            });
            attempt(history, candidate);
        }
    }
    let candidate = everywhere(history, &|cluster| cluster.cidrs.clear());
    attempt(history, candidate);
}

fn shrink_flags(history: &mut History, attempt: Attempt<'_>) {
    let simpler: [fn(&mut Flags); 6] = [
        |flags| flags.masquerade_all = false,
        |flags| flags.host_addresses.clear(),
        |flags| flags.node_port_addresses = None,
        |flags| flags.allow_external_ips.clear(),
        |flags| flags.cluster_cidr.clear(),
        |flags| flags.detector = super::rules::Detector::ClusterCidr,
    ];
    for simplify in simpler {
        let mut candidate = history.clone();
        simplify(&mut candidate.flags);
        attempt(history, candidate);
    }
}
