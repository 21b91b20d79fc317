//! What the loop of the agent counts: passes, changes, sweeps. One pass writes both families, so both get its numbers.

use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family as Labelled;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use svc_common::tables::name;

use super::local::WithoutLocal;
use super::triggers::Triggers;
use crate::apply::Fill;
use crate::datapath::gc::Collection;
use crate::datapath::sweep::Swept;
use crate::model::{Event, Family, Kind, Object, ObjectKey, World};
use crate::plan::Planned;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfFamily {
    ip_family: &'static str,
}

impl OfFamily {
    fn new(family: Family) -> Self {
        Self { ip_family: family.name() }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfPolicy {
    ip_family: &'static str,
    traffic_policy: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfTable {
    table: &'static str,
}

type Histograms = Labelled<OfFamily, Histogram, fn() -> Histogram>;
type Seconds = Gauge<f64, AtomicU64>;

/// Counts what the loop does. The registry shows the same numbers.
#[derive(Debug)]
pub struct Recorder {
    programming: Histograms,
    passes: Histograms,
    full_passes: Histograms,
    partial_passes: Histograms,
    last: Labelled<OfFamily, Seconds>,
    last_queued: Labelled<OfFamily, Seconds>,
    services: Changes,
    endpoints: Changes,
    no_local: Labelled<OfPolicy, Gauge>,
    sweeps: Histograms,
    swept: Labelled<OfFamily, Counter>,
    failures: Counter,
    put_back: Counter,
    entries: Labelled<OfTable, Gauge>,
    expired: Labelled<OfFamily, Counter>,
    collections: Histogram,
    triggers: Triggers,
    without_local: WithoutLocal,
}

/// Changes of one kind of object.
#[derive(Debug, Default)]
struct Changes {
    total: Counter,
    pending: Gauge,
}

impl Changes {
    fn register(registry: &mut Registry, kind: &str) -> Self {
        let changes = Self::default();
        let name = |what| format!("kubeproxy_sync_proxy_rules_{kind}_changes{what}");
        registry.register(
            name("_pending"),
            format!("Changes of {kind}s that wait for a pass"),
            changes.pending.clone(),
        );
        registry.register(name(""), format!("Changes of {kind}s"), changes.total.clone());
        changes
    }

    fn count(&self) {
        self.total.inc();
        self.pending.inc();
    }
}

/// A pass over the tables that succeeded.
#[derive(Clone, Copy, Debug)]
pub struct Pass<'a> {
    /// The Services that were planned; `None`: gone.
    pub planned: &'a [(ObjectKey, Option<Planned>)],
    /// All Services were looked at, not only those that changed.
    pub full: bool,
    /// How long it took, planning and writing.
    pub took: Duration,
    /// How full the tables of the agent are.
    pub fill: &'a [(&'static str, Fill)],
}

impl Recorder {
    /// Everything at zero.
    pub fn new(registry: &mut Registry) -> Self {
        let proxy = "kubeproxy_sync_proxy_rules";
        let recorder = Self {
            programming: Histograms::new_with_constructor(|| Histogram::new(programming_buckets())),
            passes: Histograms::new_with_constructor(pass_histogram),
            full_passes: Histograms::new_with_constructor(pass_histogram),
            partial_passes: Histograms::new_with_constructor(pass_histogram),
            last: Labelled::default(),
            last_queued: Labelled::default(),
            services: Changes::register(registry, "service"),
            endpoints: Changes::register(registry, "endpoint"),
            no_local: Labelled::default(),
            sweeps: Histograms::new_with_constructor(pass_histogram),
            swept: Labelled::default(),
            failures: Counter::default(),
            put_back: Counter::default(),
            entries: Labelled::default(),
            expired: Labelled::default(),
            collections: pass_histogram(),
            triggers: Triggers::new(nanoseconds(SystemTime::now())),
            without_local: WithoutLocal::default(),
        };
        registry.register(
            "kubeproxy_network_programming_duration_seconds",
            "From the change of a pod or Service, as its EndpointSlice says, to the end of the pass that applied it",
            recorder.programming.clone(),
        );
        registry.register(format!("{proxy}_duration_seconds"), "How long a pass took", recorder.passes.clone());
        registry.register(
            "kubeproxy_sync_full_proxy_rules_duration_seconds",
            "How long a pass over all Services took",
            recorder.full_passes.clone(),
        );
        registry.register(
            "kubeproxy_sync_partial_proxy_rules_duration_seconds",
            "How long a pass over what had changed took",
            recorder.partial_passes.clone(),
        );
        registry.register(
            format!("{proxy}_last_timestamp_seconds"),
            "When the last pass succeeded",
            recorder.last.clone(),
        );
        registry.register(
            format!("{proxy}_last_queued_timestamp_seconds"),
            "When a pass was last asked for",
            recorder.last_queued.clone(),
        );
        registry.register(
            format!("{proxy}_no_local_endpoints_total"),
            "Service ports whose traffic policy Local finds no endpoint on this node though there are some elsewhere",
            recorder.no_local.clone(),
        );
        registry.register(
            "kubeproxy_conntrack_reconciler_sync_duration_seconds",
            "How long it took to forget flows and affinity records whose endpoint is gone",
            recorder.sweeps.clone(),
        );
        registry.register(
            "kubeproxy_conntrack_reconciler_deleted_entries",
            "Flow entries, socket records and affinity records that were forgotten because their endpoint is gone",
            recorder.swept.clone(),
        );
        registry.register(
            "svc_write_failures",
            "Passes that the kernel refused; the tables were read back and the pass repeated",
            recorder.failures.clone(),
        );
        registry.register(
            "svc_programs_put_back",
            "Programs that somebody else had taken from a device or a cgroup and that were attached again",
            recorder.put_back.clone(),
        );
        registry.register(
            "svc_table_entries",
            "Entries in use, also those that wait a moment until they may be reused",
            recorder.entries.clone(),
        );
        registry.register(
            "svc_flow_entries_expired",
            "Flow entries that the garbage collector deleted",
            recorder.expired.clone(),
        );
        registry.register(
            "svc_gc_duration_seconds",
            "How long a walk of the garbage collector over the flow tables took",
            recorder.collections.clone(),
        );
        for family in Family::ALL.map(OfFamily::new) {
            for histograms in [&recorder.programming, &recorder.passes, &recorder.full_passes] {
                drop(histograms.get_or_create(&family));
            }
            for histograms in [&recorder.partial_passes, &recorder.sweeps] {
                drop(histograms.get_or_create(&family));
            }
            drop(recorder.last.get_or_create(&family));
            drop(recorder.last_queued.get_or_create(&family));
            drop(recorder.swept.get_or_create(&family));
            drop(recorder.expired.get_or_create(&family));
        }
        recorder.show_no_local();
        recorder
    }

    /// An event arrives; `world` has not taken it in yet.
    pub fn event(&mut self, event: &Event, world: &World) {
        match event {
            Event::Applied(Object::Service(service)) if world.service(&service.key) != Some(service) => {
                self.services.count();
            }
            Event::Applied(Object::Slice(slice)) if world.slice(&slice.key) != Some(slice) => {
                self.endpoints.count();
                self.triggers.applied(slice);
            }
            Event::Deleted(Kind::Service, key) if world.service(key).is_some() => self.services.count(),
            Event::Deleted(Kind::Slice, key) => {
                if let Some(slice) = world.slice(key) {
                    self.endpoints.count();
                    self.triggers.removed(&slice.service);
                }
            }
            _ => {}
        }
    }

    /// A pass is asked for.
    pub fn queued(&self) {
        self.set_time(&self.last_queued);
    }

    /// A pass has succeeded.
    pub fn passed(&mut self, pass: Pass<'_>) {
        let took = pass.took.as_secs_f64();
        let by_kind = if pass.full { &self.full_passes } else { &self.partial_passes };
        for family in Family::ALL.map(OfFamily::new) {
            self.passes.get_or_create(&family).observe(took);
            by_kind.get_or_create(&family).observe(took);
        }
        self.set_time(&self.last);
        self.services.pending.set(0);
        self.endpoints.pending.set(0);
        for (family, seconds) in self.triggers.applied_all(nanoseconds(SystemTime::now())) {
            self.programming.get_or_create(&OfFamily::new(family)).observe(seconds);
        }
        for (service, planned) in pass.planned {
            self.without_local.set(service, planned.as_ref());
        }
        self.show_no_local();
        for (table, fill) in pass.fill {
            self.entries.get_or_create(&OfTable { table }).set(i64::from(fill.used));
        }
    }

    /// A pass has failed.
    pub fn failed(&self) {
        self.failures.inc();
    }

    /// Programs that somebody else had taken away have been put back.
    pub fn put_back(&self, programs: u64) {
        self.put_back.inc_by(programs);
    }

    /// A sweep has ended.
    pub fn swept(&self, swept: &Swept) {
        for family in Family::ALL {
            let index = family as usize;
            let family = OfFamily::new(family);
            self.sweeps.get_or_create(&family).observe(swept.took[index].as_secs_f64());
            let records = swept.flows[index] + swept.sockets[index] + swept.affinity[index];
            self.swept.get_or_create(&family).inc_by(records);
        }
    }

    /// The flow tables have been walked.
    pub fn collected(&self, collection: &Collection) {
        self.collections.observe(collection.took.as_secs_f64());
        for (family, table) in Family::ALL.into_iter().zip([name::FLOWS_V4, name::FLOWS_V6]) {
            let (seen, removed) = (collection.seen[family as usize], collection.removed[family as usize]);
            self.entries.get_or_create(&OfTable { table }).set(i64::from(seen.saturating_sub(removed)));
            self.expired.get_or_create(&OfFamily::new(family)).inc_by(removed.into());
        }
    }

    fn show_no_local(&self) {
        for (traffic_policy, families) in ["internal", "external"].into_iter().zip(self.without_local.total()) {
            for family in Family::ALL {
                let labels = OfPolicy { ip_family: family.name(), traffic_policy };
                self.no_local.get_or_create(&labels).set(families[family as usize]);
            }
        }
    }

    fn set_time(&self, gauges: &Labelled<OfFamily, Seconds>) {
        let now = nanoseconds(SystemTime::now()) as f64 / 1e9;
        for family in Family::ALL.map(OfFamily::new) {
            gauges.get_or_create(&family).set(now);
        }
    }
}

fn pass_histogram() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 15))
}

fn programming_buckets() -> impl Iterator<Item = f64> {
    let seconds = (1..60).chain((60..120).step_by(5)).chain((120..=300).step_by(30));
    [0.25, 0.5].into_iter().chain(seconds.map(f64::from))
}

fn nanoseconds(time: SystemTime) -> i128 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| i128::try_from(since.as_nanos()).unwrap_or(i128::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_those_of_kube_proxy() {
        let buckets: Vec<f64> = programming_buckets().collect();
        assert_eq!(buckets.len(), 2 + 59 + 12 + 7);
        assert_eq!(buckets[..4], [0.25, 0.5, 1.0, 2.0]);
        assert_eq!(buckets[60..63], [59.0, 60.0, 65.0]);
        assert_eq!(buckets[72..75], [115.0, 120.0, 150.0].map(|x: f64| x));
        assert_eq!(buckets.last(), Some(&300.0));
    }
}
