//! The line from events to writes, in one value: what `run` and `explain` do alike.
//!
//! Events go in, [`Engine::commit`] says what has to be written. Only what an event concerns is planned again; a change
//! of the node itself plans everything, because everything may depend on it. No IO, no clock.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use svc_common::net::Address;
use svc_common::tables::{self, Device, Masked, SERVICE_CIDRS};

use crate::apply::{self, Applier, Owners, Stale, Write};
use crate::model::{Change, Event, Family, Node, ObjectKey, Protocol, World};
use crate::plan::clash::{ClashIndex, FrontendAddr, address_claims, frontend_claims};
use crate::plan::settings::Detect;
use crate::plan::slow_start::Ages;
use crate::plan::{self, NodeView, Options, Planned};

/// Ports for translated sources, both included.
pub type PortRange = (u16, u16);

/// What has to be done to bring the tables up to date.
#[derive(Debug, Default)]
pub struct Commit {
    /// To be carried out in this order.
    pub writes: Vec<Write>,
    /// To be swept after the writes.
    pub stale: Vec<Stale>,
    /// What found no room.
    pub full: Vec<apply::Full>,
    /// What is worth saying, once: the Service that it is about, if any, and one line.
    pub remarks: Vec<(Option<ObjectKey>, String)>,
    /// Services that were planned anew; `None`: gone.
    pub planned: Vec<(ObjectKey, Option<Planned>)>,
    /// All Services were looked at, whether they had changed or not.
    pub everything: bool,
    /// When there will be something to commit although nothing happens, by the clock that [`Engine::commit`] is told.
    pub again: Option<Duration>,
}

/// Everything that is known, and everything that was written.
pub struct Engine {
    name: String,
    options: Options,
    snat_ports: PortRange,
    world: World,
    /// Addresses of the machine besides those of the Node object.
    addresses: Vec<IpAddr>,
    /// Primary addresses of families of which the Node object has none.
    primary: [Option<IpAddr>; 2],
    devices: BTreeMap<u32, Device>,
    node: NodeView,
    settings: plan::Settings,
    claims: Claims,
    applier: Applier,
    ages: Ages,
    dirty: BTreeSet<ObjectKey>,
    /// The node, an address, a device or a ServiceCIDR has changed.
    node_dirty: bool,
    committed: bool,
    said: HashMap<ObjectKey, Vec<String>>,
}

/// Who owns what.
#[derive(Default)]
struct Claims {
    frontends: ClashIndex<FrontendAddr>,
    addresses: ClashIndex<IpAddr>,
}

impl Owners for Claims {
    fn owns(&self, service: &ObjectKey, addr: SocketAddr, protocol: Protocol) -> bool {
        self.frontends.owner(&FrontendAddr { addr, protocol }) == Some(service)
    }

    fn owns_address(&self, service: &ObjectKey, addr: IpAddr) -> bool {
        self.addresses.owner(&addr) == Some(service)
    }
}

impl Engine {
    /// For the node `name`. `applier` is new, or restored from the tables that are in force.
    pub fn new(name: &str, options: Options, snat_ports: PortRange, applier: Applier) -> Self {
        Self {
            node: NodeView::new(name, None, &[], &options),
            name: name.to_owned(),
            options,
            snat_ports,
            world: World::default(),
            addresses: Vec::new(),
            primary: [None; 2],
            devices: applier.present_globals().devices.clone(),
            settings: plan::Settings::default(),
            claims: Claims::default(),
            applier,
            ages: Ages::default(),
            dirty: BTreeSet::new(),
            node_dirty: true,
            committed: false,
            said: HashMap::new(),
        }
    }

    /// Takes an event in.
    pub fn fold(&mut self, event: Event) {
        for change in self.world.fold(event) {
            match change {
                Change::Service(key) => {
                    self.dirty.insert(key);
                }
                Change::Node | Change::ServiceCidrs => self.node_dirty = true,
            }
        }
    }

    /// The addresses that the machine has besides those of the Node object.
    pub fn set_addresses(&mut self, addresses: Vec<IpAddr>) {
        self.node_dirty |= self.addresses != addresses;
        self.addresses = addresses;
    }

    /// What counts as the node's primary address of a family of which its Node object has none.
    pub fn set_primary(&mut self, primary: [Option<IpAddr>; 2]) {
        self.node_dirty |= self.primary != primary;
        self.primary = primary;
    }

    /// Starts over on tables of which it is no longer known what they hold: the applier is restored from them.
    pub fn recover(&mut self, applier: Applier) {
        self.applier = applier;
        self.node_dirty = true;
        self.committed = false;
    }

    /// The devices that the programs have to know.
    pub fn set_devices(&mut self, devices: BTreeMap<u32, Device>) {
        self.node_dirty |= self.devices != devices;
        self.devices = devices;
    }

    /// All objects.
    pub fn world(&self) -> &World {
        &self.world
    }

    /// This node, as the plan sees it.
    pub fn node(&self) -> &NodeView {
        &self.node
    }

    /// What the datapath knows about the node.
    pub fn settings(&self) -> &plan::Settings {
        &self.settings
    }

    /// The applier, for ids and fill.
    pub fn applier(&self) -> &Applier {
        &self.applier
    }

    /// Whether a [`Engine::commit`] would have anything to look at.
    pub fn is_dirty(&self) -> bool {
        self.node_dirty || !self.dirty.is_empty() || self.applier.unsatisfied().next().is_some()
    }

    /// When there is something to commit although nothing happens.
    pub fn due(&self) -> Option<Duration> {
        self.ages.next()
    }

    /// The plan of one Service, with the weights that its endpoints have in the end.
    pub fn plan(&self, key: &ObjectKey) -> Option<Planned> {
        let service = self.world.service(key)?;
        Some(plan::service(service, self.world.slices(key), &self.node))
    }

    /// The Service that a frontend belongs to.
    pub fn owner(&self, addr: SocketAddr, protocol: Protocol) -> Option<&ObjectKey> {
        self.claims.frontends.owner(&FrontendAddr { addr, protocol })
    }

    /// The Service that an address as such belongs to: as cluster IP, or as one that another proxy serves.
    pub fn address_owner(&self, addr: IpAddr) -> Option<&ObjectKey> {
        self.claims.addresses.owner(&addr)
    }

    /// What has to be written now. Nothing at all before Services and EndpointSlices have been listed in full. The first
    /// commit also takes away what the tables hold and no Service wants. `now` is any clock that never goes back.
    pub fn commit(&mut self, now: Duration) -> Commit {
        let mut commit = Commit::default();
        if !self.world.is_synced() {
            return commit;
        }
        commit.everything = !self.committed;
        let mut dirty = std::mem::take(&mut self.dirty);
        dirty.extend(self.applier.unsatisfied().cloned());
        dirty.extend(self.ages.due(now).cloned());
        if std::mem::take(&mut self.node_dirty) {
            self.refresh_node(&mut dirty, &mut commit);
        }
        if !self.committed {
            dirty.extend(self.world.services().map(|service| service.key.clone()));
        }
        self.replan(dirty, now, &mut commit);
        commit.again = self.ages.next();
        let changes: Vec<_> = commit
            .planned
            .iter()
            .map(|(service, planned)| apply::Change { service, planned: planned.as_ref() })
            .collect();
        let round = if std::mem::replace(&mut self.committed, true) {
            self.applier.apply(&changes, &self.claims, now)
        } else {
            self.applier.apply_all(&changes, &self.claims, now)
        };
        commit.writes.extend(round.writes);
        commit.stale = round.stale;
        commit.full = round.full;
        commit
    }

    /// The writes of the last commit have been carried out.
    pub fn written(&mut self, now: Duration) {
        self.applier.written(now);
    }

    /// The own Node, completed by the machine's primary addresses.
    fn node_object(&self) -> Option<Node> {
        let mut node = self.world.node().cloned();
        for addr in self.primary.into_iter().flatten() {
            let node = node.get_or_insert_with(|| Node { name: self.name.as_str().into(), ..Node::default() });
            if !node.internal_ips.iter().any(|known| Family::of(*known) == Family::of(addr)) {
                node.internal_ips.push(addr);
            }
        }
        node
    }

    fn refresh_node(&mut self, dirty: &mut BTreeSet<ObjectKey>, commit: &mut Commit) {
        let object = self.node_object();
        let node = NodeView::new(&self.name, object.as_ref(), &self.addresses, &self.options);
        if node != self.node {
            self.node = node;
            dirty.extend(self.world.services().map(|service| service.key.clone()));
        }
        let settings = plan::settings(&self.world, &self.node, &self.options);
        let new = settings.remarks.iter().filter(|remark| !self.settings.remarks.contains(remark));
        commit.remarks.extend(new.map(|remark| (None, remark.clone())));
        self.settings = settings;
        let globals = apply::Globals {
            settings: settings_value(&self.settings, self.snat_ports),
            pod_prefixes: self.settings.pod_prefixes.clone(),
            node_addresses: self.settings.addresses.clone(),
            devices: self.devices.clone(),
        };
        commit.writes.extend(self.applier.apply_globals(&globals));
    }

    /// Plans the dirty Services, and those with which a frontend changes hands.
    fn replan(&mut self, mut dirty: BTreeSet<ObjectKey>, now: Duration, commit: &mut Commit) {
        let mut done = BTreeSet::new();
        while let Some(key) = dirty.pop_first() {
            let mut planned = self.plan(&key);
            self.ages.lower(&key, planned.as_mut(), now);
            let created = planned.as_ref().and_then(|planned| planned.created);
            let frontends = planned.iter().flat_map(frontend_claims);
            let frontends = self.claims.frontends.set(&key, created, frontends);
            let addresses = planned.iter().flat_map(address_claims);
            let addresses = self.claims.addresses.set(&key, created, addresses);
            let hands = |before: Option<ObjectKey>, after: Option<ObjectKey>| before.into_iter().chain(after);
            let touched = frontends.owners.into_iter().flat_map(|it| hands(it.before, it.after));
            let touched = touched.chain(addresses.owners.into_iter().flat_map(|it| hands(it.before, it.after)));
            // Claims of those planned already stand; what they lose or win is seen when the writes are made.
            dirty.extend(touched.filter(|other| *other != key && !done.contains(other)));
            let clashes = frontends.remarks.into_iter().chain(addresses.remarks);
            commit.remarks.extend(clashes.map(|(loser, remark)| (Some(loser), remark)));
            self.remark(&key, planned.as_ref(), commit);
            commit.planned.push((key.clone(), planned));
            done.insert(key);
        }
    }

    /// Remarks of a plan are said when they are new.
    fn remark(&mut self, key: &ObjectKey, planned: Option<&Planned>, commit: &mut Commit) {
        let remarks = planned.map_or(&[][..], |planned| &planned.remarks);
        let said = self.said.get(key).map_or(&[][..], |said| said);
        let new: Vec<_> = remarks.iter().filter(|remark| !said.contains(remark)).cloned().collect();
        commit.remarks.extend(new.into_iter().map(|remark| (Some(key.clone()), remark)));
        if remarks.is_empty() {
            self.said.remove(key);
        } else {
            self.said.insert(key.clone(), remarks.to_vec());
        }
    }
}

fn settings_value(settings: &plan::Settings, snat_ports: PortRange) -> tables::Settings {
    let mut value = tables::Settings {
        snat_port_first: snat_ports.0,
        snat_port_last: snat_ports.1,
        flags: match settings.detect {
            Detect::Nobody => 0,
            Detect::Prefix => tables::settings::DETECT_PREFIX,
            Detect::Device => tables::settings::DETECT_DEVICE,
        },
        primary_v4: primary(settings, Family::V4),
        primary_v6: primary(settings, Family::V6),
        ..tables::Settings::default()
    };
    value.service_cidr_count_v4 = masks(settings, Family::V4, &mut value.service_cidrs_v4);
    value.service_cidr_count_v6 = masks(settings, Family::V6, &mut value.service_cidrs_v6);
    value
}

fn primary<A: Address>(settings: &plan::Settings, family: Family) -> A {
    settings.primary[family as usize].and_then(A::from_ip).unwrap_or_default()
}

fn masks<A: Address>(settings: &plan::Settings, family: Family, into: &mut [Masked<A>; SERVICE_CIDRS]) -> u32 {
    let prefixes = settings.service_cidrs[family as usize].iter();
    let masked =
        prefixes.filter_map(|net| Some(Masked { addr: A::from_ip(net.network())?, mask: A::from_ip(net.netmask())? }));
    let mut count = 0;
    for (slot, prefix) in into.iter_mut().zip(masked) {
        *slot = prefix;
        count += 1;
    }
    count
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use svc_common::net::{V4, V6};

    use super::*;
    use crate::apply::Capacity;
    use crate::model::{Endpoint, EndpointSlice, Kind, Object, Service, ServicePort, SlicePort};

    fn service(name: &str, created: i64, ports: &[u16]) -> Service {
        Service {
            key: ObjectKey::new("ns", name),
            uid: "".into(),
            created: Some(created),
            kind: crate::model::ServiceType::ClusterIp,
            cluster_ips: vec!["10.96.0.9".parse().expect("address")],
            headless: false,
            other_proxy: false,
            external_ips: Vec::new(),
            ingress: Vec::new(),
            ports: ports
                .iter()
                .map(|port| ServicePort {
                    name: port.to_string().into(),
                    protocol: Protocol::Tcp,
                    port: *port,
                    node_port: None,
                })
                .collect(),
            external_policy: Default::default(),
            internal_policy: Default::default(),
            affinity: None,
            source_ranges: Vec::new(),
            health_check_node_port: None,
            annotations: Vec::new(),
        }
    }

    fn slice(service: &str) -> EndpointSlice {
        let endpoint = Endpoint {
            addr: "10.1.0.1".parse().expect("address"),
            ready: true,
            serving: true,
            terminating: false,
            node: None,
            hints: None,
        };
        EndpointSlice {
            key: ObjectKey::new("ns", format!("{service}-1")),
            service: ObjectKey::new("ns", service),
            family: Family::V4,
            ports: vec![SlicePort { name: "80".into(), protocol: Protocol::Tcp, port: 8080 }],
            endpoints: vec![endpoint],
            triggered: None,
        }
    }

    fn engine() -> Engine {
        Engine::new("n", Options::default(), (20_000, 29_999), Applier::new(Capacity::default()))
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn nothing_is_written_before_both_lists() {
        let mut engine = engine();
        engine.fold(Event::Applied(Object::Service(service("a", 1, &[80]))));
        engine.fold(Event::Synced(Kind::Service));
        assert!(engine.commit(seconds(1)).writes.is_empty());
        engine.fold(Event::Synced(Kind::Slice));
        assert!(!engine.commit(seconds(1)).writes.is_empty());
        assert!(engine.commit(seconds(2)).writes.is_empty());
    }

    #[test]
    fn a_contested_frontend_goes_to_the_older_and_back() {
        let mut engine = engine();
        engine.fold(Event::Applied(Object::Service(service("young", 5, &[80]))));
        engine.fold(Event::Applied(Object::Slice(slice("young"))));
        engine.fold(Event::Synced(Kind::Service));
        engine.fold(Event::Synced(Kind::Slice));
        engine.commit(seconds(1));
        let frontend = "10.96.0.9:80".parse().expect("address");
        assert_eq!(engine.owner(frontend, Protocol::Tcp), Some(&ObjectKey::new("ns", "young")));
        engine.fold(Event::Applied(Object::Service(service("old", 1, &[80]))));
        let commit = engine.commit(seconds(2));
        assert_eq!(engine.owner(frontend, Protocol::Tcp), Some(&ObjectKey::new("ns", "old")));
        assert!(commit.remarks.iter().any(|(loser, _)| *loser == Some(ObjectKey::new("ns", "young"))));
        assert_eq!(commit.planned.len(), 2, "the loser is looked at again");
        engine.fold(Event::Deleted(Kind::Service, ObjectKey::new("ns", "old")));
        let commit = engine.commit(seconds(3));
        let flips =
            commit.writes.iter().filter(|write| matches!(write, Write::FrontendV4(key, Some(_)) if key.protocol != 0));
        assert_eq!(flips.count(), 1, "one write gives the frontend back");
    }

    #[test]
    fn a_new_primary_address_reaches_the_settings() {
        let mut engine = engine();
        engine.fold(Event::Synced(Kind::Service));
        engine.fold(Event::Synced(Kind::Slice));
        engine.commit(seconds(1));
        let internal_ips = vec!["192.168.0.5".parse().expect("address")];
        engine.fold(Event::Applied(Object::Node(Node { name: Arc::from("n"), internal_ips, ..Node::default() })));
        let writes = engine.commit(seconds(2)).writes;
        assert!(
            writes.iter().any(|write| matches!(write, Write::Settings(value) if value.primary_v4 != V4::default()))
        );
        assert!(writes.iter().any(|write| matches!(write, Write::NodeAddressV4(..))));
        assert_eq!(primary::<V6>(engine.settings(), Family::V6), V6::default());
    }
}
