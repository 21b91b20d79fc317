//! From the change of a pod to its endpoint in the kernel: kube-proxy's network-programming latency.
//!
//! The EndpointSlice controller writes into a slice when the change happened that made it write. Every write of a
//! slice is one sample, taken right after the pass that applied it. Changes from before the agent's start do not count.

use std::collections::HashMap;

use crate::model::{EndpointSlice, Family, ObjectKey};

/// Samples that wait for their pass.
#[derive(Debug)]
pub(super) struct Triggers {
    /// Nanoseconds since 1970.
    began: i128,
    waiting: HashMap<ObjectKey, Vec<(Family, i128)>>,
}

impl Triggers {
    pub(super) fn new(began: i128) -> Self {
        Self { began, waiting: HashMap::new() }
    }

    /// A slice is new or has changed.
    pub(super) fn applied(&mut self, slice: &EndpointSlice) {
        if let Some(triggered) = slice.triggered.filter(|triggered| *triggered > self.began) {
            self.waiting.entry(slice.service.clone()).or_default().push((slice.family, triggered));
        }
    }

    /// A slice of the Service is gone: what waits was not about what is there now.
    pub(super) fn removed(&mut self, service: &ObjectKey) {
        self.waiting.remove(service);
    }

    /// A pass has ended: family and seconds of every sample.
    pub(super) fn applied_all(&mut self, now: i128) -> impl Iterator<Item = (Family, f64)> {
        let samples = std::mem::take(&mut self.waiting).into_values().flatten();
        samples.map(move |(family, triggered)| (family, (now - triggered).max(0) as f64 / 1e9))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slice(service: &str, triggered: Option<i128>) -> EndpointSlice {
        EndpointSlice {
            key: ObjectKey::new("ns", format!("{service}-1")),
            service: ObjectKey::new("ns", service),
            family: Family::V6,
            ports: Vec::new(),
            endpoints: Vec::new(),
            triggered,
        }
    }

    #[test]
    fn every_write_after_the_start_is_one_sample() {
        let mut triggers = Triggers::new(10_000_000_000);
        for triggered in [None, Some(9_000_000_000), Some(11_000_000_000), Some(11_500_000_000)] {
            triggers.applied(&slice("a", triggered));
        }
        let mut samples: Vec<_> = triggers.applied_all(12_000_000_000).collect();
        samples.sort_by(|a, b| a.1.total_cmp(&b.1));
        assert_eq!(samples, [(Family::V6, 0.5), (Family::V6, 1.0)]);
        assert_eq!(triggers.applied_all(13_000_000_000).count(), 0, "each only once");
    }

    #[test]
    fn a_slice_that_goes_takes_the_samples_of_its_service_along() {
        let mut triggers = Triggers::new(0);
        triggers.applied(&slice("a", Some(1)));
        triggers.applied(&slice("b", Some(1)));
        triggers.removed(&ObjectKey::new("ns", "a"));
        assert_eq!(triggers.applied_all(2).count(), 1);
    }
}
