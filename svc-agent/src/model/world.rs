//! The present state of all objects, folded from events.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::{EndpointSlice, Event, Kind, Node, Object, ObjectKey, Service, ServiceCidr};

/// What an event concerns, so that the plan looks at no more than that.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Change {
    /// A Service or one of its slices.
    Service(ObjectKey),
    /// The own Node: zone, addresses, pod ranges or its existence.
    Node,
    /// The ServiceCIDRs.
    ServiceCidrs,
}

/// All objects that count, and which kinds have been listed in full.
#[derive(Debug, Default)]
pub struct World {
    services: BTreeMap<ObjectKey, Service>,
    slices: HashMap<ObjectKey, EndpointSlice>,
    /// Names of the slices of each Service: an ordered set, so that every walk is deterministic.
    by_service: HashMap<ObjectKey, BTreeSet<ObjectKey>>,
    node: Option<Node>,
    node_was_there: bool,
    cidrs: BTreeMap<ObjectKey, ServiceCidr>,
    /// Objects not yet seen again since a list of their kind began.
    unseen: HashMap<Kind, HashSet<ObjectKey>>,
    synced: BTreeSet<Kind>,
}

impl World {
    /// Takes one event in and says what it concerns. An event that changes nothing concerns nothing.
    pub fn fold(&mut self, event: Event) -> Vec<Change> {
        match event {
            Event::Restarted(kind) => {
                self.unseen.insert(kind, self.keys(kind));
                Vec::new()
            }
            Event::Applied(object) => {
                let (kind, key) = object.id();
                if let Some(unseen) = self.unseen.get_mut(&kind) {
                    unseen.remove(&key);
                }
                self.apply(object)
            }
            Event::Deleted(kind, key) => self.delete(kind, &key),
            Event::Synced(kind) => {
                self.synced.insert(kind);
                let vanished = self.unseen.remove(&kind).unwrap_or_default();
                vanished.iter().flat_map(|key| self.delete(kind, key)).collect()
            }
        }
    }

    /// Whether Services and EndpointSlices have both been listed in full: nothing may be written before.
    pub fn is_synced(&self) -> bool {
        self.synced.contains(&Kind::Service) && self.synced.contains(&Kind::Slice)
    }

    /// Whether a kind has been listed in full.
    pub fn has_listed(&self, kind: Kind) -> bool {
        self.synced.contains(&kind)
    }

    /// All Services, by name.
    pub fn services(&self) -> impl Iterator<Item = &Service> {
        self.services.values()
    }

    /// One Service.
    pub fn service(&self, key: &ObjectKey) -> Option<&Service> {
        self.services.get(key)
    }

    /// The slices of a Service, in the order of their names.
    pub fn slices(&self, service: &ObjectKey) -> impl Iterator<Item = &EndpointSlice> {
        self.by_service.get(service).into_iter().flatten().filter_map(|name| self.slices.get(name))
    }

    /// One slice.
    pub fn slice(&self, key: &ObjectKey) -> Option<&EndpointSlice> {
        self.slices.get(key)
    }

    /// The own Node.
    pub fn node(&self) -> Option<&Node> {
        self.node.as_ref()
    }

    /// Whether the own Node was deleted after it had been there (a node without an object is eligible for traffic).
    pub fn node_is_gone(&self) -> bool {
        self.node.is_none() && self.node_was_there
    }

    /// All ServiceCIDRs, by name.
    pub fn service_cidrs(&self) -> impl Iterator<Item = &ServiceCidr> {
        self.cidrs.values()
    }

    fn keys(&self, kind: Kind) -> HashSet<ObjectKey> {
        match kind {
            Kind::Service => self.services.keys().cloned().collect(),
            Kind::Slice => self.slices.keys().cloned().collect(),
            Kind::Node => self.node.iter().map(|node| ObjectKey::new("", node.name.clone())).collect(),
            Kind::ServiceCidr => self.cidrs.keys().cloned().collect(),
        }
    }

    fn apply(&mut self, object: Object) -> Vec<Change> {
        match object {
            Object::Service(service) => {
                let key = service.key.clone();
                if self.services.get(&key) == Some(&service) {
                    return Vec::new();
                }
                self.services.insert(key.clone(), service);
                vec![Change::Service(key)]
            }
            Object::Slice(slice) => self.apply_slice(slice),
            Object::Node(node) => {
                self.node_was_there = true;
                if self.node.as_ref() == Some(&node) {
                    return Vec::new();
                }
                self.node = Some(node);
                vec![Change::Node]
            }
            Object::ServiceCidr(cidr) => {
                let key = ObjectKey::new("", cidr.name.clone());
                if self.cidrs.get(&key) == Some(&cidr) {
                    return Vec::new();
                }
                self.cidrs.insert(key, cidr);
                vec![Change::ServiceCidrs]
            }
        }
    }

    fn apply_slice(&mut self, slice: EndpointSlice) -> Vec<Change> {
        let key = slice.key.clone();
        let mut changes = Vec::new();
        if let Some(old) = self.slices.get(&key) {
            if *old == slice {
                return changes;
            }
            // A slice whose label was changed moves from one Service to another.
            if old.service != slice.service {
                changes.extend(self.delete(Kind::Slice, &key));
            }
        }
        changes.push(Change::Service(slice.service.clone()));
        self.by_service.entry(slice.service.clone()).or_default().insert(key.clone());
        self.slices.insert(key, slice);
        changes
    }

    fn delete(&mut self, kind: Kind, key: &ObjectKey) -> Vec<Change> {
        match kind {
            Kind::Service => self.services.remove(key).map(|service| Change::Service(service.key)),
            Kind::Slice => self.slices.remove(key).map(|slice| {
                if let Some(names) = self.by_service.get_mut(&slice.service) {
                    names.remove(key);
                    if names.is_empty() {
                        self.by_service.remove(&slice.service);
                    }
                }
                Change::Service(slice.service)
            }),
            Kind::Node => self.node.take_if(|node| node.name == key.name).map(|_| Change::Node),
            Kind::ServiceCidr => self.cidrs.remove(key).map(|_| Change::ServiceCidrs),
        }
        .into_iter()
        .collect()
    }
}
