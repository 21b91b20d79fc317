//! From events to writes: the part of the agent's loop that does no IO and knows no clock.
//!
//! [`Engine`] folds events into the [`World`], plans what they concern, settles who owns contested addresses, and has
//! the [`Applier`] turn the difference into writes. `run` feeds it from a source and writes into pinned maps; `explain`
//! feeds it from manifests and writes into maps of its own: what they do with a change is the same.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;
use svc_common::net::{Address, V4, V6};
use svc_common::tables::{Device, Masked, SERVICE_CIDRS, Settings, settings};

use crate::apply::{self, Applier, Capacity, Globals, Owners, Present, Round, Write};
use crate::model::{Change, Event, Family, Kind, Node, ObjectKey, Protocol, World};
use crate::plan::clash::{self, FrontendAddr};
use crate::plan::settings::Detect;
use crate::plan::{self, ClashIndex, HealthCheck, NodeView, Options, Planned};

/// What the machine, not the cluster, says about this node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Machine {
    /// Further addresses of the node, beside those of its Node object.
    pub addresses: Vec<IpAddr>,
    /// Primary addresses for families of which the Node object has none, in the order of [`Family::ALL`].
    pub primary: [Option<IpAddr>; 2],
    /// Devices by interface index.
    pub devices: BTreeMap<u32, Device>,
}

/// What is fixed for the life of an agent.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The node's name.
    pub node: String,
    /// What the flags say about planning.
    pub options: Options,
    /// Source ports for translated connections, both ends included.
    pub snat_ports: (u16, u16),
}

/// What a step of the engine wants done, in this order.
#[derive(Debug, Default)]
pub struct Step {
    /// To be carried out.
    pub writes: Vec<Write>,
    /// To be swept after the writes.
    pub stale: Vec<apply::Stale>,
    /// For people, one line each; only what was not said before.
    pub remarks: Vec<String>,
    /// How many Services were looked at.
    pub services: usize,
    /// All Services were looked at.
    pub full: bool,
}

#[derive(Default)]
struct Contested {
    frontends: ClashIndex<FrontendAddr>,
    addresses: ClashIndex<IpAddr>,
}

impl Owners for Contested {
    fn owns(&self, service: &ObjectKey, addr: SocketAddr, protocol: Protocol) -> bool {
        self.frontends.owner(&FrontendAddr { addr, protocol }) == Some(service)
    }

    fn owns_address(&self, service: &ObjectKey, addr: IpAddr) -> bool {
        self.addresses.owner(&addr) == Some(service)
    }
}

/// Events in, writes out.
pub struct Engine {
    setup: Setup,
    world: World,
    machine: Machine,
    view: NodeView,
    contested: Contested,
    applier: Applier,
    capacity: Capacity,
    /// Services to plan with the next step.
    dirty: BTreeSet<ObjectKey>,
    /// Node, ServiceCIDRs or machine have changed.
    surroundings: bool,
    /// All Services have to be looked at.
    everything: bool,
    /// The first complete state has been applied.
    started: bool,
    /// Node and ServiceCIDRs are not waited for any longer.
    impatient: bool,
    /// What was last said about a Service, so that it is said once.
    said: BTreeMap<ObjectKey, Vec<String>>,
    said_of_node: Vec<String>,
    checks: BTreeMap<ObjectKey, HealthCheck>,
    without_local: BTreeMap<ObjectKey, WithoutLocal>,
}

/// Service ports of a Service whose Local policy has no endpoint here though there are some elsewhere, by family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WithoutLocal {
    /// `internalTrafficPolicy`.
    pub internal: [u32; 2],
    /// `externalTrafficPolicy`.
    pub external: [u32; 2],
}

impl Engine {
    /// On tables that hold what `present` says (nothing, if they are new).
    pub fn new(setup: Setup, capacity: Capacity, present: &Present) -> Self {
        Self {
            setup,
            world: World::default(),
            machine: Machine::default(),
            view: NodeView::default(),
            contested: Contested::default(),
            applier: Applier::restore(capacity, present),
            capacity,
            dirty: BTreeSet::new(),
            surroundings: true,
            everything: true,
            started: false,
            impatient: false,
            said: BTreeMap::new(),
            said_of_node: Vec::new(),
            checks: BTreeMap::new(),
            without_local: BTreeMap::new(),
        }
    }

    /// Starts over on tables of which it is no longer known what they hold.
    pub fn recover(&mut self, present: &Present) {
        self.applier = Applier::restore(self.capacity, present);
        self.surroundings = true;
        self.everything = true;
        self.started = false;
    }

    /// Takes an event in; [`Engine::step`] acts on it.
    pub fn fold(&mut self, event: Event) {
        for change in self.world.fold(event) {
            match change {
                Change::Service(key) => {
                    self.dirty.insert(key);
                }
                Change::Node | Change::ServiceCidrs => self.surroundings = true,
            }
        }
    }

    /// What the machine says about this node has changed.
    pub fn set_machine(&mut self, machine: Machine) {
        if machine != self.machine {
            self.machine = machine;
            self.surroundings = true;
        }
    }

    /// Whether [`Engine::step`] has something to do.
    pub fn is_pending(&self) -> bool {
        self.is_listed() && (self.surroundings || self.everything || !self.dirty.is_empty())
    }

    /// Whether enough is known to write. Services and EndpointSlices are waited for, however long it takes. Without the
    /// Node and the ServiceCIDRs the plan would only lack what depends on them; but a restart must not take that away
    /// for the moment until they arrive, so they are waited for as well, until [`Engine::stop_waiting`].
    fn is_listed(&self) -> bool {
        let others = [Kind::Node, Kind::ServiceCidr].iter().all(|kind| self.world.has_listed(*kind));
        self.world.is_synced() && (others || self.impatient)
    }

    /// The Node and the ServiceCIDRs may be unreachable for good: what is known has to do.
    pub fn stop_waiting(&mut self) {
        self.impatient = true;
    }

    /// Number of Services that wait for the next step.
    pub fn pending(&self) -> usize {
        self.dirty.len()
    }

    /// Whether the first complete state has been applied.
    pub fn is_started(&self) -> bool {
        self.started
    }

    /// The objects.
    pub fn world(&self) -> &World {
        &self.world
    }

    /// The present tables and ids.
    pub fn applier(&self) -> &Applier {
        &self.applier
    }

    /// Health-check listeners by Service.
    pub fn health_checks(&self) -> &BTreeMap<ObjectKey, HealthCheck> {
        &self.checks
    }

    /// Service ports without local endpoints, summed over all Services.
    pub fn without_local(&self) -> WithoutLocal {
        self.without_local.values().fold(WithoutLocal::default(), |mut sum, one| {
            for family in 0..2 {
                sum.internal[family] += one.internal[family];
                sum.external[family] += one.external[family];
            }
            sum
        })
    }

    /// Plans everything that waits and says what has to be written. Nothing, before both lists have arrived. `now` is
    /// any clock that never goes back.
    pub fn step(&mut self, now: Duration) -> Step {
        let mut step = Step::default();
        if !self.is_listed() {
            return step;
        }
        if std::mem::take(&mut self.surroundings) {
            self.look_around(&mut step);
        }
        let first = !self.started;
        if std::mem::take(&mut self.everything) {
            step.full = true;
            self.dirty.extend(self.world.services().map(|service| service.key.clone()));
        }
        self.dirty.extend(self.applier.unsatisfied().cloned());

        let mut plans: BTreeMap<ObjectKey, Option<Planned>> = BTreeMap::new();
        let mut touched = BTreeSet::new();
        for key in std::mem::take(&mut self.dirty) {
            let planned = self.plan(&key);
            self.claim(&key, planned.as_ref(), &mut touched, &mut step);
            self.remember(&key, planned.as_ref(), &mut step);
            plans.insert(key, planned);
        }
        // Whoever gains or loses an address has to be written too.
        for key in touched {
            if !plans.contains_key(&key) {
                let planned = self.plan(&key);
                plans.insert(key, planned);
            }
        }
        let changes: Vec<_> =
            plans.iter().map(|(service, planned)| apply::Change { service, planned: planned.as_ref() }).collect();
        step.services = changes.len();
        let Round { writes, stale, full } = if first {
            self.applier.apply_all(&changes, &self.contested, now)
        } else {
            self.applier.apply(&changes, &self.contested, now)
        };
        self.started = true;
        step.writes.extend(writes);
        step.stale = stale;
        step.remarks.extend(full.iter().map(ToString::to_string));
        step
    }

    fn plan(&self, key: &ObjectKey) -> Option<Planned> {
        self.world.service(key).map(|service| plan::service(service, self.world.slices(key), &self.view))
    }

    /// Node, ServiceCIDRs and machine: settings and, if the plans depend on what has changed, everything.
    fn look_around(&mut self, step: &mut Step) {
        let node = self.node();
        let Setup { node: name, options, .. } = &self.setup;
        let view = NodeView::new(name, node.as_ref(), &self.machine.addresses, options);
        let planned = plan::settings(&self.world, &view, options);
        if view != self.view {
            self.view = view;
            self.everything = true;
        }
        if planned.remarks != self.said_of_node {
            step.remarks.extend(planned.remarks.iter().cloned());
            self.said_of_node.clone_from(&planned.remarks);
        }
        let globals = Globals {
            settings: table_settings(&planned, self.setup.snat_ports),
            pod_prefixes: planned.pod_prefixes,
            node_addresses: planned.addresses,
            devices: self.machine.devices.clone(),
        };
        step.writes.extend(self.applier.apply_globals(&globals));
    }

    /// The own Node; where its object has no address of a family, the machine's counts.
    fn node(&self) -> Option<Node> {
        let mut node = self.world.node().cloned();
        for addr in self.machine.primary.into_iter().flatten() {
            let node = node.get_or_insert_with(|| Node { name: self.setup.node.as_str().into(), ..Node::default() });
            if !node.internal_ips.iter().any(|known| Family::of(*known) == Family::of(addr)) {
                node.internal_ips.push(addr);
            }
        }
        node
    }

    fn claim(
        &mut self,
        key: &ObjectKey,
        planned: Option<&Planned>,
        touched: &mut BTreeSet<ObjectKey>,
        step: &mut Step,
    ) {
        let created = planned.and_then(|planned| planned.created);
        let frontends =
            self.contested.frontends.set(key, created, planned.into_iter().flat_map(clash::frontend_claims));
        let addresses = self.contested.addresses.set(key, created, planned.into_iter().flat_map(clash::address_claims));
        touched.extend(frontends.owners.into_iter().flat_map(|change| [change.before, change.after]).flatten());
        touched.extend(addresses.owners.into_iter().flat_map(|change| [change.before, change.after]).flatten());
        let remarks = frontends.remarks.into_iter().chain(addresses.remarks);
        step.remarks.extend(remarks.map(|(service, remark)| format!("Service {service}: {remark}")));
    }

    fn remember(&mut self, key: &ObjectKey, planned: Option<&Planned>, step: &mut Step) {
        let remarks = planned.map_or(&[][..], |planned| &planned.remarks);
        let said = self.said.get(key).map_or(&[][..], Vec::as_slice);
        let new = remarks.iter().filter(|remark| !said.contains(remark));
        step.remarks.extend(new.map(|remark| format!("Service {key}: {remark}")));
        replace(&mut self.said, key, (!remarks.is_empty()).then(|| remarks.to_vec()));
        replace(&mut self.checks, key, planned.and_then(|planned| planned.health_check.clone()));
        let without = planned.map(WithoutLocal::of).filter(|without| *without != WithoutLocal::default());
        replace(&mut self.without_local, key, without);
    }
}

fn replace<V>(map: &mut BTreeMap<ObjectKey, V>, key: &ObjectKey, value: Option<V>) {
    match value {
        Some(value) => drop(map.insert(key.clone(), value)),
        None => drop(map.remove(key)),
    }
}

impl WithoutLocal {
    fn of(planned: &Planned) -> Self {
        use svc_common::tables::{Rule, Sender};
        let mut without = Self::default();
        for port in &planned.ports {
            if !port.local.is_empty() || port.serving.is_empty() {
                continue;
            }
            let local = |external| {
                port.frontends.iter().any(|frontend| {
                    frontend.kind.is_external() == external && frontend.rules[Sender::Other as usize].has(Rule::LOCAL)
                })
            };
            let family = port.id.family as usize;
            without.internal[family] += u32::from(local(false));
            without.external[family] += u32::from(local(true));
        }
        without
    }
}

/// The settings value, as the programs read it.
fn table_settings(planned: &plan::Settings, snat_ports: (u16, u16)) -> Settings {
    let mut value = Settings {
        primary_v4: address(planned.primary[Family::V4 as usize]),
        primary_v6: address(planned.primary[Family::V6 as usize]),
        snat_port_first: snat_ports.0,
        snat_port_last: snat_ports.1,
        flags: match planned.detect {
            Detect::Nobody => 0,
            Detect::Prefix => settings::DETECT_PREFIX,
            Detect::Device => settings::DETECT_DEVICE,
        },
        ..Settings::default()
    };
    value.service_cidr_count_v4 = masks(&planned.service_cidrs[Family::V4 as usize], &mut value.service_cidrs_v4);
    value.service_cidr_count_v6 = masks(&planned.service_cidrs[Family::V6 as usize], &mut value.service_cidrs_v6);
    value
}

fn address<A: Address>(addr: Option<IpAddr>) -> A {
    addr.and_then(A::from_ip).unwrap_or_default()
}

fn masks<A: Address>(nets: &[IpNet], masks: &mut [Masked<A>; SERVICE_CIDRS]) -> u32 {
    for (mask, net) in masks.iter_mut().zip(nets) {
        *mask = Masked { addr: address(Some(net.network())), mask: address(Some(net.netmask())) };
    }
    nets.len().min(SERVICE_CIDRS) as u32
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::{Object, Service, ServicePort, ServiceType, TrafficPolicy};

    fn engine() -> Engine {
        let setup = Setup { node: "n1".into(), options: Options::default(), snat_ports: (20000, 29999) };
        Engine::new(setup, Capacity::default(), &Present::default())
    }

    fn service(name: &str, external: &str, created: i64) -> Object {
        Object::Service(Service {
            key: ObjectKey::new("default", name),
            uid: Arc::from(""),
            created: Some(created),
            kind: ServiceType::ClusterIp,
            cluster_ips: vec![format!("10.96.0.{created}").parse().expect("an address")],
            headless: false,
            other_proxy: false,
            external_ips: vec![external.parse().expect("an address")],
            ingress: Vec::new(),
            ports: vec![ServicePort { name: "".into(), protocol: Protocol::Tcp, port: 80, node_port: None }],
            external_policy: TrafficPolicy::Cluster,
            internal_policy: TrafficPolicy::Cluster,
            affinity: None,
            source_ranges: Vec::new(),
            health_check_node_port: None,
            annotations: Vec::new(),
        })
    }

    fn sync(engine: &mut Engine) {
        for kind in Kind::ALL {
            engine.fold(Event::Synced(kind));
        }
    }

    fn frontends(step: &Step) -> Vec<String> {
        let frontend = |write: &Write| match write {
            Write::FrontendV4(key, value) if key.protocol != 0 => {
                Some(format!("{}{:?}", if value.is_some() { "+" } else { "-" }, key.addr))
            }
            _ => None,
        };
        let mut frontends: Vec<_> = step.writes.iter().filter_map(frontend).collect();
        frontends.sort_unstable();
        frontends
    }

    #[test]
    fn nothing_is_written_before_both_lists_are_there() {
        let mut engine = engine();
        engine.fold(Event::Applied(service("a", "192.0.2.1", 1)));
        engine.fold(Event::Synced(Kind::Service));
        assert!(!engine.is_pending());
        assert_eq!(engine.step(Duration::ZERO).writes, []);
        engine.fold(Event::Synced(Kind::Slice));
        assert!(!engine.is_pending(), "the Node may still come");
        engine.stop_waiting();
        assert!(engine.is_pending());
        assert_eq!(frontends(&engine.step(Duration::ZERO)), ["+10.96.0.1", "+192.0.2.1"]);
        assert!(!engine.is_pending());
    }

    #[test]
    fn a_lost_address_is_handed_over_and_said_once() {
        let mut engine = engine();
        engine.fold(Event::Applied(service("a", "192.0.2.1", 1)));
        engine.fold(Event::Applied(service("b", "192.0.2.1", 2)));
        sync(&mut engine);
        let step = engine.step(Duration::ZERO);
        assert_eq!(step.remarks.iter().filter(|line| line.contains("192.0.2.1")).count(), 1, "{:?}", step.remarks);
        engine.fold(Event::Deleted(Kind::Service, ObjectKey::new("default", "a")));
        let step = engine.step(Duration::from_secs(1));
        assert_eq!(frontends(&step), ["+192.0.2.1", "-10.96.0.1"]);
        assert_eq!(step.services, 2);
    }

    #[test]
    fn a_change_of_the_node_plans_everything_again() {
        let mut engine = engine();
        engine.fold(Event::Applied(service("a", "192.0.2.1", 1)));
        sync(&mut engine);
        assert!(engine.step(Duration::ZERO).full);
        engine.set_machine(Machine { primary: [Some(IpAddr::from([192, 0, 2, 9])), None], ..Machine::default() });
        let step = engine.step(Duration::from_secs(1));
        assert!(step.full);
        assert!(step.writes.iter().any(|write| matches!(write, Write::Settings(_))));
        engine.set_machine(engine.machine.clone());
        assert!(!engine.is_pending());
    }
}
