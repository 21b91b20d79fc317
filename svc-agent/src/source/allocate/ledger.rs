//! Who has which cluster IP and which ports.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::super::wire::service::{Draft, FamilyPolicy};
use super::{of_family, pool};
use crate::model::{Family, ObjectKey, Service, ServiceType, TrafficPolicy};

/// What was given to a Service, besides what it says itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(in crate::source) struct Given {
    /// Cluster IPs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ips: Vec<IpAddr>,
    /// Node ports, by port of the Service: protocols with the same number share theirs.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    node_ports: BTreeMap<u16, u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    health_check: Option<u16>,
}

/// What was given to all Services.
#[derive(Debug)]
pub(super) struct Ledger {
    given: BTreeMap<String, Given>,
    /// Families of each Service, the first one being the first of `clusterIPs`.
    families: BTreeMap<ObjectKey, Vec<Family>>,
}

impl Ledger {
    pub(super) fn new(given: BTreeMap<String, Given>) -> Self {
        Self { given, families: BTreeMap::new() }
    }

    pub(super) fn given(&self) -> &BTreeMap<String, Given> {
        &self.given
    }

    /// The Service with what was given to it.
    pub(super) fn completed(&self, draft: &Draft) -> Service {
        let mut service = draft.service.clone();
        let Some(given) = self.given.get(&service.key.to_string()) else { return service };
        if let Some(families) = self.families.get(&service.key) {
            let both: Vec<IpAddr> = service.cluster_ips.iter().chain(&given.ips).copied().collect();
            service.cluster_ips = families.iter().filter_map(|family| of_family(&both, *family)).collect();
        }
        for port in &mut service.ports {
            port.node_port = port.node_port.or_else(|| given.node_ports.get(&port.port).copied());
        }
        service.health_check_node_port = service.health_check_node_port.or(given.health_check);
        service
    }

    /// Gives out what is wanted: what Services say themselves wins, then who has something keeps it, then the older
    /// Service chooses first. Returns whose share has changed.
    pub(super) fn settle(
        &mut self,
        services: &BTreeMap<ObjectKey, Draft>,
        ranges: &Option<Vec<IpNet>>,
        node_ports: &RangeInclusive<u16>,
        warnings: &mut Vec<String>,
    ) -> BTreeSet<ObjectKey> {
        let before = std::mem::take(&mut self.given);
        self.families.clear();
        let Some(ranges) = ranges else { return BTreeSet::new() };

        let mut taken_ips: HashSet<IpAddr> = HashSet::new();
        let mut taken_ports: HashSet<u16> = HashSet::new();
        for service in services.values().map(|draft| &draft.service) {
            taken_ips.extend(&service.cluster_ips);
            taken_ports.extend(service.ports.iter().filter_map(|port| port.node_port));
            taken_ports.extend(service.health_check_node_port);
        }
        let mut order: Vec<&Draft> = services.values().collect();
        // Stable: Services without a time stay in the order of their names, behind the others.
        order.sort_by_key(|draft| draft.service.created.unwrap_or(i64::MAX));
        let mut wishes: Vec<Wish<'_>> =
            order.into_iter().filter_map(|draft| Wish::of(draft, ranges, warnings)).collect();

        for wish in &mut wishes {
            let Some(old) = before.get(&wish.name) else { continue };
            wish.keep(old, ranges, node_ports, &mut taken_ips, &mut taken_ports);
        }
        for wish in &mut wishes {
            wish.draw(ranges, node_ports, &mut taken_ips, &mut taken_ports, warnings);
        }
        let mut moved = BTreeSet::new();
        for wish in wishes {
            let key = &wish.draft.service.key;
            let old = before.get(&wish.name);
            if old.unwrap_or(&Given::default()) != &wish.given {
                moved.insert(key.clone());
                if old.is_some_and(|old| old.ips.iter().any(|ip| taken_elsewhere(ip, &wish, &taken_ips))) {
                    warnings
                        .push(format!("Service {key}: another Service asks for the address it had; it has a new one"));
                }
            }
            self.families.insert(key.clone(), wish.families);
            if wish.given != Given::default() {
                self.given.insert(wish.name, wish.given);
            }
        }
        moved
    }
}

fn taken_elsewhere(ip: &IpAddr, wish: &Wish<'_>, taken: &HashSet<IpAddr>) -> bool {
    taken.contains(ip) && !wish.given.ips.contains(ip) && !wish.draft.service.cluster_ips.contains(ip)
}

/// What one Service wants and gets.
struct Wish<'a> {
    draft: &'a Draft,
    name: String,
    families: Vec<Family>,
    given: Given,
}

impl<'a> Wish<'a> {
    fn of(draft: &'a Draft, ranges: &[IpNet], warnings: &mut Vec<String>) -> Option<Self> {
        let service = &draft.service;
        if service.kind == ServiceType::ExternalName || service.headless {
            return None;
        }
        let families = families(draft, ranges).unwrap_or_else(|text| {
            warnings.push(format!("Service {}: {text}", service.key));
            service.cluster_ips.iter().copied().map(Family::of).collect()
        });
        let mut given = Given::default();
        // The same number under several protocols shares the node port, as in the API server.
        for port in service.ports.iter().filter(|_| draft.wants_node_ports) {
            given.node_ports.extend(port.node_port.map(|node_port| (port.port, node_port)));
        }
        Some(Self { draft, name: service.key.to_string(), families, given })
    }

    fn missing_families(&self) -> Vec<Family> {
        let has = |family: &Family| {
            of_family(&self.draft.service.cluster_ips, *family).or(of_family(&self.given.ips, *family)).is_some()
        };
        self.families.iter().copied().filter(|family| !has(family)).collect()
    }

    /// Ports of the Service that still need a node port.
    fn missing_ports(&self) -> Vec<u16> {
        let wanted =
            self.draft.service.ports.iter().filter(|port| self.draft.wants_node_ports && port.node_port.is_none());
        let mut missing: Vec<u16> =
            wanted.map(|port| port.port).filter(|port| !self.given.node_ports.contains_key(port)).collect();
        missing.sort_unstable();
        missing.dedup();
        missing
    }

    fn misses_health_check(&self) -> bool {
        let service = &self.draft.service;
        service.kind == ServiceType::LoadBalancer
            && service.external_policy == TrafficPolicy::Local
            && service.health_check_node_port.is_none()
            && self.given.health_check.is_none()
    }

    fn keep(
        &mut self,
        old: &Given,
        ranges: &[IpNet],
        node_ports: &RangeInclusive<u16>,
        taken_ips: &mut HashSet<IpAddr>,
        taken_ports: &mut HashSet<u16>,
    ) {
        for family in self.missing_families() {
            let Some(ip) = of_family(&old.ips, family) else { continue };
            if ranges.iter().any(|range| range.contains(&ip)) && taken_ips.insert(ip) {
                self.given.ips.push(ip);
            }
        }
        for port in self.missing_ports() {
            let Some(number) = old.node_ports.get(&port).copied() else { continue };
            if node_ports.contains(&number) && taken_ports.insert(number) {
                self.given.node_ports.insert(port, number);
            }
        }
        if self.misses_health_check() {
            let free = |number: &u16| node_ports.contains(number) && taken_ports.insert(*number);
            self.given.health_check = old.health_check.filter(free);
        }
    }

    fn draw(
        &mut self,
        ranges: &[IpNet],
        node_ports: &RangeInclusive<u16>,
        taken_ips: &mut HashSet<IpAddr>,
        taken_ports: &mut HashSet<u16>,
        warnings: &mut Vec<String>,
    ) {
        for family in self.missing_families() {
            let of_family = ranges.iter().filter(|range| Family::of(range.addr()) == family);
            match of_family.filter_map(|range| pool::address(&self.name, range, |ip| !taken_ips.contains(&ip))).next() {
                Some(ip) => {
                    taken_ips.insert(ip);
                    self.given.ips.push(ip);
                }
                None => warnings.push(format!(
                    "Service {}: no {} address is left: give --service-cidr a larger range",
                    self.name,
                    family.name()
                )),
            }
        }
        let mut take = |what: &str| {
            let port = pool::port(&format!("{}:{what}", self.name), node_ports, |port| !taken_ports.contains(&port));
            match port {
                Some(port) => _ = taken_ports.insert(port),
                None => warnings.push(format!(
                    "Service {}: no node port is left: give --service-node-port-range a larger range",
                    self.name
                )),
            }
            port
        };
        if self.misses_health_check() {
            self.given.health_check = take("health");
        }
        for port in self.missing_ports() {
            if let Some(number) = take(&port.to_string()) {
                self.given.node_ports.insert(port, number);
            }
        }
    }
}

/// The families in which a Service wants a cluster IP, in their order.
fn families(draft: &Draft, ranges: &[IpNet]) -> Result<Vec<Family>, String> {
    let available: Vec<Family> = ranges.iter().map(|range| Family::of(range.addr())).collect();
    let own = &draft.service.cluster_ips;
    let mut order: Vec<Family> = Vec::new();
    for family in own.iter().copied().map(Family::of).chain(draft.families.iter().copied()).chain(available.clone()) {
        if !order.contains(&family) {
            order.push(family);
        }
    }
    let asked = own.len().max(draft.families.len()).min(2);
    let (least, most) = match draft.family_policy {
        Some(FamilyPolicy::Single) => (1, own.len().max(1)),
        Some(FamilyPolicy::PreferDual) => (asked.min(1), 2),
        Some(FamilyPolicy::RequireDual) => (2, 2),
        // Who lists two families, or two addresses, means both.
        None => (asked, asked.max(1)),
    };
    let can = |family: &Family| available.contains(family) || of_family(own, *family).is_some();
    order.truncate(most);
    if let Some(family) = order.iter().take(least.max(asked.min(most))).find(|family| !can(family)) {
        return Err(format!("asks for {}, but no service CIDR is of that family", family.name()));
    }
    order.retain(can);
    if order.len() < least {
        return Err("asks for both families, but the service CIDRs are of one".to_owned());
    }
    Ok(order)
}
