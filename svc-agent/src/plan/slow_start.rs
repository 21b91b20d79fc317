//! Slow start: the weight of a new endpoint grows over some seconds, so that a cold process is not met by its full
//! share at once. Asked for by the annotation `svc.dev/slow-start`.
//!
//! The plan says what an endpoint weighs in the end; [`Ages`] knows since when it is there and lowers the weight until
//! then, in [`STEPS`] steps and not continuously: each step is a write.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::time::Duration;

use super::{Planned, PlannedEndpoint, PlannedPort, PortId};
use crate::model::{ObjectKey, Service};

/// Steps in which a weight grows.
pub const STEPS: u16 = 5;

/// The longest slow start, in seconds.
pub const LONGEST: u64 = 3600;

/// How long the slow start of a Service takes; what cannot be understood is remarked upon and has no effect.
pub(super) fn of(service: &Service, remarks: &mut Vec<String>) -> Option<Duration> {
    let (_, text) = service.annotations.iter().find(|(key, _)| **key == *"slow-start")?;
    let seconds = text.trim().strip_suffix('s').unwrap_or(text.trim());
    match seconds.trim().parse() {
        Ok(0) => None,
        Ok(seconds @ 1..=LONGEST) => Some(Duration::from_secs(seconds)),
        _ => {
            remarks.push(format!("svc.dev/slow-start: \"{text}\" is ignored; write seconds, 0 to {LONGEST}"));
            None
        }
    }
}

/// The step, 1 to [`STEPS`], that an endpoint of this age is in, and its age when the next one begins.
fn step(age: Duration, whole: Duration) -> (u16, Option<Duration>) {
    let step = (1..STEPS).find(|step| age < whole * u32::from(*step) / u32::from(STEPS));
    (step.unwrap_or(STEPS), step.map(|step| whole * u32::from(step) / u32::from(STEPS)))
}

/// Since when an endpoint is there; `None`: for longer than its slow start takes, or nobody saw it come.
type Since = Option<Duration>;

/// Since when the endpoints are there of the Services that want a slow start.
///
/// An endpoint is new if its Service was there before it: of a Service that appears nobody is ahead, and after a restart
/// of the agent all were there.
#[derive(Debug, Default)]
pub struct Ages {
    services: HashMap<ObjectKey, HashMap<PortId, BTreeMap<SocketAddr, Since>>>,
    /// When weights change next.
    due: HashMap<ObjectKey, Duration>,
}

impl Ages {
    /// Notes at `now` which endpoints a Service has, and lowers the weights of those that are new.
    pub fn lower(&mut self, service: &ObjectKey, planned: Option<&mut Planned>, now: Duration) {
        self.due.remove(service);
        let before = self.services.remove(service);
        let Some((planned, whole)) = planned.and_then(|planned| planned.slow_start.map(|whole| (planned, whole)))
        else {
            return;
        };
        let mut ports = HashMap::new();
        let mut due = None;
        for port in &mut planned.ports {
            let known = before.as_ref().and_then(|ports| ports.get(&port.id));
            let since = sinces(port, known, now, whole);
            for at in since.values().filter_map(|since| step_of(*since, now, whole).1) {
                due = Some(due.map_or(at, |due: Duration| due.min(at)));
            }
            lower(port, &since, now, whole);
            ports.insert(port.id.clone(), since);
        }
        self.due.extend(due.map(|at| (service.clone(), at)));
        self.services.insert(service.clone(), ports);
    }

    /// Services whose weights have changed by `now`.
    pub fn due(&self, now: Duration) -> impl Iterator<Item = &ObjectKey> {
        self.due.iter().filter(move |(_, at)| **at <= now).map(|(service, _)| service)
    }

    /// When the next weight changes.
    pub fn next(&self) -> Option<Duration> {
        self.due.values().min().copied()
    }
}

/// Since when the endpoints of a port are there.
fn sinces(
    port: &PlannedPort,
    known: Option<&BTreeMap<SocketAddr, Since>>,
    now: Duration,
    whole: Duration,
) -> BTreeMap<SocketAddr, Since> {
    let present: BTreeSet<SocketAddr> = port.cluster.iter().chain(&port.local).map(|endpoint| endpoint.addr).collect();
    let since = |addr: &SocketAddr| match known {
        None => None,
        Some(known) => known.get(addr).copied().unwrap_or(Some(now)).filter(|since| now.saturating_sub(*since) < whole),
    };
    present.into_iter().map(|addr| (addr, since(&addr))).collect()
}

/// The step of an endpoint at `now`, and when the next one begins.
fn step_of(since: Since, now: Duration, whole: Duration) -> (u16, Option<Duration>) {
    let Some(since) = since else { return (STEPS, None) };
    let (step, next) = step(now.saturating_sub(since), whole);
    // The last step has no next one, but the endpoint has yet to count as old.
    (step, Some(since + next.unwrap_or(whole)))
}

fn lower(port: &mut PlannedPort, since: &BTreeMap<SocketAddr, Since>, now: Duration, whole: Duration) {
    if since.values().all(Option::is_none) {
        return;
    }
    let lowered = |endpoint: &mut PlannedEndpoint| {
        let (step, _) = step_of(since.get(&endpoint.addr).copied().flatten(), now, whole);
        endpoint.weight = endpoint.weight.saturating_mul(step);
    };
    port.cluster.iter_mut().chain(&mut port.local).for_each(lowered);
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: Duration = Duration::from_secs(10);

    #[test]
    fn a_weight_grows_in_steps() {
        let at = |millis| step(Duration::from_millis(millis), WHOLE);
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        assert_eq!(at(0), (1, seconds(2)));
        assert_eq!(at(1_999), (1, seconds(2)));
        assert_eq!(at(2_000), (2, seconds(4)));
        assert_eq!(at(7_999), (4, seconds(8)));
        assert_eq!(at(8_000), (5, None));
        assert_eq!(at(60_000), (5, None));
    }
}
