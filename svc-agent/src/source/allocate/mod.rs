//! The small control plane: what a cluster would have filled in, for manifests that come without one.
//!
//! [`Cluster`] holds the objects of all files and turns changes of them into events of the model. Cluster IPs and ports
//! come from `ledger`, endpoints from Pods from `endpoints`. It does no IO and knows no files.

mod endpoints;
mod ledger;
mod pool;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use ipnet::IpNet;

pub(super) use ledger::Given;
use ledger::Ledger;

use super::ControlPlane;
use super::manifest::{Id, Parsed};
use super::wire::pod::Pod;
use super::wire::service::Draft;
use crate::model::{self, EndpointSlice, Event, Family, Kind, Object, ObjectKey, Service, ServiceCidr};

/// All objects of a set of manifests, and what has been given out to them.
#[derive(Debug)]
pub(super) struct Cluster {
    options: ControlPlane,
    services: BTreeMap<ObjectKey, Draft>,
    /// Whose slice each slice is, whether or not it is seen.
    owners: HashMap<ObjectKey, ObjectKey>,
    /// How many slices each Service has of its own.
    slice_counts: HashMap<ObjectKey, usize>,
    /// By namespace and name, so that the pods of a namespace are a range.
    pods: BTreeMap<ObjectKey, Pod>,
    nodes: BTreeMap<ObjectKey, model::Node>,
    cidrs: BTreeMap<ObjectKey, ServiceCidr>,
    ledger: Ledger,
    /// Slices made from Pods, by Service.
    made: HashMap<ObjectKey, Vec<EndpointSlice>>,
}

/// What has to be looked at again after a change.
#[derive(Default)]
struct Dirty {
    services: BTreeSet<ObjectKey>,
    /// Addresses and ports may have to be given out anew.
    allocation: bool,
    /// A node's zone changed: hints do.
    zones: bool,
}

impl Cluster {
    /// An empty cluster; `given` is what an earlier run gave out.
    pub(super) fn new(options: ControlPlane, given: BTreeMap<String, Given>) -> Self {
        Self {
            options,
            services: BTreeMap::new(),
            owners: HashMap::new(),
            slice_counts: HashMap::new(),
            pods: BTreeMap::new(),
            nodes: BTreeMap::new(),
            cidrs: BTreeMap::new(),
            ledger: Ledger::new(given),
            made: HashMap::new(),
        }
    }

    /// What has been given out, by Service.
    pub(super) fn given(&self) -> &BTreeMap<String, Given> {
        self.ledger.given()
    }

    /// Takes changes in (`None`: the object is gone) and says what follows from them. The second part is what could not
    /// be done, one line each.
    pub(super) fn apply(&mut self, changes: Vec<(Id, Option<Parsed>)>) -> (Vec<Event>, Vec<String>) {
        let mut events = Vec::new();
        let mut warnings = Vec::new();
        let mut dirty = Dirty::default();
        for ((kind, key), parsed) in changes {
            self.take(kind, key, parsed, &mut dirty, &mut events);
        }
        if dirty.allocation {
            let moved = self.ledger.settle(&self.services, &self.ranges(), &self.options.node_ports, &mut warnings);
            dirty.services.extend(moved);
        }
        if dirty.zones {
            dirty.services.extend(self.made.keys().cloned());
        }
        for key in dirty.services {
            match self.services.get(&key) {
                Some(draft) => {
                    let service = self.ledger.completed(draft);
                    let slices = self.endpoints(draft, &service);
                    events.push(Event::Applied(Object::Service(service)));
                    self.replace_made(key, slices, &mut events);
                }
                None => self.replace_made(key, Vec::new(), &mut events),
            }
        }
        (events, warnings)
    }

    fn take(&mut self, kind: &str, key: ObjectKey, parsed: Option<Parsed>, dirty: &mut Dirty, events: &mut Vec<Event>) {
        match parsed {
            Some(Parsed::Service(draft)) => {
                dirty.allocation = true;
                dirty.services.insert(key.clone());
                self.services.insert(key, draft);
            }
            Some(Parsed::Slice(read)) => {
                self.disown(&key, dirty);
                if let Some(service) = read.service {
                    *self.slice_counts.entry(service.clone()).or_default() += 1;
                    dirty.services.insert(service.clone());
                    self.owners.insert(key.clone(), service);
                }
                events.push(match read.slice {
                    Some(slice) => Event::Applied(Object::Slice(slice)),
                    None => Event::Deleted(Kind::Slice, key),
                });
            }
            Some(Parsed::Node(node)) => {
                dirty.zones |= self.nodes.get(&key).is_none_or(|old| old.zone != node.zone);
                if *node.name == *self.options.node_name {
                    events.push(Event::Applied(Object::Node(node.clone())));
                }
                self.nodes.insert(key, node);
            }
            Some(Parsed::ServiceCidr(cidr)) => {
                dirty.allocation = true;
                events.push(Event::Applied(Object::ServiceCidr(cidr.clone())));
                self.cidrs.insert(key, cidr);
            }
            Some(Parsed::Pod(pod)) => {
                self.mark_selectors(&pod, dirty);
                if let Some(old) = self.pods.insert(key, pod) {
                    self.mark_selectors(&old, dirty);
                }
            }
            None => self.remove(kind, key, dirty, events),
        }
    }

    fn remove(&mut self, kind: &str, key: ObjectKey, dirty: &mut Dirty, events: &mut Vec<Event>) {
        match kind {
            "Service" if self.services.remove(&key).is_some() => {
                dirty.allocation = true;
                dirty.services.insert(key.clone());
                events.push(Event::Deleted(Kind::Service, key));
            }
            "EndpointSlice" => {
                self.disown(&key, dirty);
                events.push(Event::Deleted(Kind::Slice, key));
            }
            "Node" if self.nodes.remove(&key).is_some() => {
                dirty.zones = true;
                if *key.name == *self.options.node_name {
                    events.push(Event::Deleted(Kind::Node, key));
                }
            }
            "ServiceCIDR" if self.cidrs.remove(&key).is_some() => {
                dirty.allocation = true;
                events.push(Event::Deleted(Kind::ServiceCidr, key));
            }
            "Pod" => {
                if let Some(old) = self.pods.remove(&key) {
                    self.mark_selectors(&old, dirty);
                }
            }
            _ => {}
        }
    }

    /// A slice no longer belongs to whom it belonged to.
    fn disown(&mut self, slice: &ObjectKey, dirty: &mut Dirty) {
        let Some(service) = self.owners.remove(slice) else { return };
        if let Some(count) = self.slice_counts.get_mut(&service) {
            *count -= 1;
            if *count == 0 {
                self.slice_counts.remove(&service);
            }
        }
        dirty.services.insert(service);
    }

    /// Marks the Services that select a pod.
    fn mark_selectors(&self, pod: &Pod, dirty: &mut Dirty) {
        let of_namespace = namespace(&self.services, &pod.key.namespace);
        dirty
            .services
            .extend(of_namespace.filter(|(_, draft)| endpoints::selects(draft, pod)).map(|(key, _)| key.clone()));
    }

    /// The slices that a cluster would make for a Service.
    fn endpoints(&self, draft: &Draft, service: &Service) -> Vec<EndpointSlice> {
        if self.slice_counts.contains_key(&service.key) || draft.hidden_slices || draft.selector.is_empty() {
            return Vec::new();
        }
        let families: Vec<Family> = service.cluster_ips.iter().copied().map(Family::of).collect();
        let pods = namespace(&self.pods, &service.key.namespace).map(|(_, pod)| pod);
        let zone = |node: &str| self.nodes.get(&ObjectKey::new("", node))?.zone.clone();
        endpoints::slices(draft, &families, pods, zone)
    }

    fn replace_made(&mut self, service: ObjectKey, slices: Vec<EndpointSlice>, events: &mut Vec<Event>) {
        let old = self.made.remove(&service).unwrap_or_default();
        let gone = old.iter().filter(|old| !slices.iter().any(|new| new.key == old.key));
        events.extend(gone.map(|old| Event::Deleted(Kind::Slice, old.key.clone())));
        let changed = slices.iter().filter(|new| !old.contains(new));
        events.extend(changed.map(|new| Event::Applied(Object::Slice(new.clone()))));
        if !slices.is_empty() {
            self.made.insert(service, slices);
        }
    }

    /// Where cluster IPs come from: ServiceCIDR objects if there are any, the one that the API server makes first.
    fn ranges(&self) -> Option<Vec<IpNet>> {
        let configured = self.options.service_cidrs.clone()?;
        if self.cidrs.is_empty() {
            return Some(configured);
        }
        let mut objects: Vec<_> = self.cidrs.values().collect();
        objects.sort_by_key(|cidr| (&*cidr.name != "kubernetes", cidr.name.clone()));
        Some(objects.into_iter().flat_map(|cidr| cidr.cidrs.iter().copied()).collect())
    }
}

/// The part of a map that is of one namespace.
fn namespace<'a, T>(
    map: &'a BTreeMap<ObjectKey, T>,
    namespace: &'a str,
) -> impl Iterator<Item = (&'a ObjectKey, &'a T)> {
    map.range(ObjectKey::new(namespace, "")..).take_while(move |(key, _)| *key.namespace == *namespace)
}

/// Addresses of a family among those of a Service.
fn of_family(ips: &[IpAddr], family: Family) -> Option<IpAddr> {
    ips.iter().copied().find(|ip| Family::of(*ip) == family)
}

#[cfg(test)]
mod tests;
