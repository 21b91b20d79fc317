//! How the agent is: written by `run`, read by every listener.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::watch;

use crate::model::{Family, ObjectKey};
use crate::plan::{HealthCheck, NodeView, Planned};

/// How long a change may wait before the agent counts as unhealthy: twice kube-proxy's default sync period.
pub const LIMIT: Duration = Duration::from_secs(60);

/// The state of the agent.
#[derive(Debug)]
pub struct Status {
    limit: Duration,
    state: Mutex<State>,
    checks: watch::Sender<Checks>,
    /// Answers given on the health port.
    pub(crate) healthz: Answers,
    /// The same for `/livez`.
    pub(crate) livez: Answers,
}

#[derive(Debug)]
struct State {
    /// Since when a change waits to be written.
    queued: Option<Instant>,
    /// When the tables were last known to be up to date; at first the start of the agent.
    updated: SystemTime,
    ready: bool,
    node_eligible: bool,
}

/// The state as one answer sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// No change has been waiting for too long.
    pub healthy: bool,
    /// The tables have been brought up to date at least once since the start.
    pub ready: bool,
    /// The node may get traffic from load balancers.
    pub node_eligible: bool,
    /// When the tables were last known to be up to date.
    pub updated: SystemTime,
}

/// What the health-check listeners need.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checks {
    /// Where to listen, by family in the order of [`Family::ALL`].
    pub addresses: [Vec<IpAddr>; 2],
    /// One per Service that has a health-check port.
    pub services: BTreeMap<ObjectKey, HealthCheck>,
}

/// How many requests were answered with each status.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    healthy: AtomicU64,
    unhealthy: AtomicU64,
}

impl Answers {
    pub(crate) fn count(&self, healthy: bool) {
        let counter = if healthy { &self.healthy } else { &self.unhealthy };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// By status code.
    pub(crate) fn by_code(&self) -> [(&'static str, u64); 2] {
        [("200", self.healthy.load(Ordering::Relaxed)), ("503", self.unhealthy.load(Ordering::Relaxed))]
    }
}

impl Default for Status {
    fn default() -> Self {
        Self::new(LIMIT)
    }
}

impl Status {
    /// The state at the start. A change that waits for `limit` makes the agent unhealthy.
    pub fn new(limit: Duration) -> Self {
        let state = State { queued: None, updated: SystemTime::now(), ready: false, node_eligible: true };
        Self {
            limit,
            state: Mutex::new(state),
            checks: watch::Sender::default(),
            healthz: Answers::default(),
            livez: Answers::default(),
        }
    }

    /// A change is there that has yet to be written. The oldest one counts.
    pub fn queued(&self) {
        self.state().queued.get_or_insert_with(Instant::now);
    }

    /// Everything that was there to write is written.
    pub fn updated(&self) {
        let mut state = self.state();
        state.queued = None;
        state.updated = SystemTime::now();
        state.ready = true;
    }

    /// Whether load balancers may send traffic to this node.
    pub fn set_node_eligible(&self, eligible: bool) {
        self.state().node_eligible = eligible;
    }

    /// Takes over what new plans say about health-check ports; `None`: the Service is gone.
    pub fn set_checks(&self, node: &NodeView, planned: &[(ObjectKey, Option<Planned>)]) {
        let addresses = Family::ALL.map(|family| listen_addresses(node, family));
        self.checks.send_if_modified(|checks| {
            let mut changed = checks.addresses != addresses;
            checks.addresses = addresses;
            for (key, planned) in planned {
                let wanted = planned.as_ref().and_then(|planned| planned.health_check.clone());
                let before = match wanted.clone() {
                    Some(check) => checks.services.insert(key.clone(), check),
                    None => checks.services.remove(key),
                };
                changed |= before != wanted;
            }
            changed
        });
    }

    /// The health-check ports; changes are announced.
    pub fn checks(&self) -> watch::Receiver<Checks> {
        self.checks.subscribe()
    }

    /// The state now.
    pub fn report(&self) -> Report {
        let state = self.state();
        let healthy = state.queued.is_none_or(|queued| queued.elapsed() < self.limit);
        Report { healthy, ready: state.ready, node_eligible: state.node_eligible, updated: state.updated }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A state whose writer panicked is still the last that is known.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where node ports answer, health-check ports are listened on.
fn listen_addresses(node: &NodeView, family: Family) -> Vec<IpAddr> {
    let wanted = &node.node_ports[family as usize];
    if wanted.all {
        return vec![match family {
            Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
            Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
        }];
    }
    let mut addresses = wanted.addresses.clone();
    if wanted.loopback {
        addresses.push(crate::plan::options::loopback(family));
    }
    addresses
}
