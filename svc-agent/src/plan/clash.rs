//! Who owns what several Services claim: the older one, then the one whose namespace and name come first.
//!
//! [`ClashIndex`] is used twice: for frontends (address, port, protocol) and for addresses as such (the wildcard
//! entries of cluster IPs). It is told the claims of one Service at a time and answers with what changes hands; the
//! cost follows the size of the change.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::hash::Hash;
use std::net::{IpAddr, SocketAddr};

use super::Planned;
use crate::model::{ObjectKey, Protocol};

/// What a frontend is found by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FrontendAddr {
    /// Address and port.
    pub addr: SocketAddr,
    /// Protocol.
    pub protocol: Protocol,
}

impl fmt::Display for FrontendAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.protocol.name())
    }
}

/// One thing that a Service claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Claim<K> {
    /// What is claimed.
    pub key: K,
    /// A claim that gives way to every other, whatever the ages: a node port on an address that a Service has.
    pub yields: bool,
}

/// What a Service claims, frontend by frontend.
pub fn frontend_claims(planned: &Planned) -> impl Iterator<Item = Claim<FrontendAddr>> {
    planned.ports.iter().flat_map(|port| {
        port.frontends.iter().map(|frontend| Claim {
            key: FrontendAddr { addr: frontend.addr, protocol: port.id.protocol },
            yields: frontend.kind.is_node_port(),
        })
    })
}

/// The addresses as such that a Service claims: its cluster IPs, and those that another proxy serves.
pub fn address_claims(planned: &Planned) -> impl Iterator<Item = Claim<IpAddr>> {
    planned.cluster_ips.iter().chain(&planned.foreign).map(|addr| Claim { key: *addr, yields: false })
}

/// What changed hands: `before` and `after` differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnerChange<K> {
    /// What is claimed.
    pub key: K,
    /// Who had it.
    pub before: Option<ObjectKey>,
    /// Who has it now.
    pub after: Option<ObjectKey>,
}

/// What [`ClashIndex::set`] answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changes<K> {
    /// In the order of the keys.
    pub owners: Vec<OwnerChange<K>>,
    /// What Services have newly lost: the loser, and a line that names both.
    pub remarks: Vec<(ObjectKey, String)>,
}

/// One Service that claims a key. The order of the fields is the order of precedence.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Claimant {
    yields: bool,
    /// `None` sorts after every time.
    created: (bool, Option<i64>),
    service: ObjectKey,
}

/// Every claim of every Service.
#[derive(Debug)]
pub struct ClashIndex<K> {
    /// Never empty lists, sorted: the first one owns the key.
    claimants: HashMap<K, Vec<Claimant>>,
    /// What each Service claims, so that a change can be told from the present state.
    claims: HashMap<ObjectKey, Held<K>>,
}

#[derive(Debug)]
struct Held<K> {
    created: Option<i64>,
    /// In order, with whether the claim of the key yields. A slice, because there is one for every Service.
    keys: Box<[(K, bool)]>,
}

impl<K> Default for ClashIndex<K> {
    fn default() -> Self {
        Self { claimants: HashMap::new(), claims: HashMap::new() }
    }
}

impl<K: Clone + Ord + Hash + fmt::Display> ClashIndex<K> {
    /// Who owns a key.
    pub fn owner(&self, key: &K) -> Option<&ObjectKey> {
        self.claimants.get(key).and_then(|claimants| claimants.first()).map(|claimant| &claimant.service)
    }

    /// Replaces all claims of a Service; none: it is gone. A key claimed twice is claimed once, firmly if either is.
    pub fn set(
        &mut self,
        service: &ObjectKey,
        created: Option<i64>,
        claims: impl IntoIterator<Item = Claim<K>>,
    ) -> Changes<K> {
        let mut new = BTreeMap::new();
        for claim in claims {
            let yields = new.entry(claim.key).or_insert(claim.yields);
            *yields &= claim.yields;
        }
        let old = self.claims.remove(service);
        let (old_created, old_keys) = old.map_or((created, Box::default()), |old| (old.created, old.keys));
        let old_claim = |key: &K| {
            let at = old_keys.binary_search_by(|(other, _)| other.cmp(key)).ok()?;
            old_keys.get(at).map(|(_, yields)| yields)
        };

        let mut changes = Changes { owners: Vec::new(), remarks: Vec::new() };
        let gone = old_keys.iter().filter(|(key, _)| !new.contains_key(key));
        let changed = new.iter().filter(|(key, yields)| old_created != created || old_claim(key) != Some(yields));
        let mut touched: Vec<&K> = gone.map(|(key, _)| key).chain(changed.map(|(key, _)| key)).collect();
        touched.sort_unstable();
        for key in touched {
            let claimant =
                |yields: &bool, created| Claimant { yields: *yields, created: age(created), service: service.clone() };
            let before = old_claim(key).map(|yields| claimant(yields, old_created));
            let after = new.get(key).map(|yields| claimant(yields, created));
            self.replace(key, before, after, &mut changes);
        }
        if !new.is_empty() {
            self.claims.insert(service.clone(), Held { created, keys: new.into_iter().collect() });
        }
        changes
    }

    fn replace(&mut self, key: &K, old: Option<Claimant>, new: Option<Claimant>, changes: &mut Changes<K>) {
        let claimants = self.claimants.entry(key.clone()).or_default();
        let owner_before = claimants.first().map(|claimant| claimant.service.clone());
        if let Some(at) = old.and_then(|old| claimants.binary_search(&old).ok()) {
            claimants.remove(at);
        }
        if let Some(new) = &new
            && let Err(at) = claimants.binary_search(new)
        {
            // Nearly every key has one claimant, and there may be a million keys.
            claimants.reserve_exact(1);
            claimants.insert(at, new.clone());
        }
        let owner = claimants.first().map(|claimant| claimant.service.clone());
        if let Some((winner, losers)) = claimants.split_first() {
            for loser in losers {
                // Of the losers, those are told who have just lost: the newcomer, or whoever had the key before.
                let is_new = new.as_ref().is_some_and(|new| new.service == loser.service);
                if is_new || owner_before.as_ref() == Some(&loser.service) {
                    let why = match () {
                        () if loser.yields != winner.yields => "a node port gives way",
                        () if loser.created != winner.created => "the older wins",
                        () => "of one age, the first by name wins",
                    };
                    let text = format!("{key} is served for {}, not for {}: {why}", winner.service, loser.service);
                    changes.remarks.push((loser.service.clone(), text));
                }
            }
        }
        if claimants.is_empty() {
            self.claimants.remove(key);
        }
        if owner_before != owner {
            changes.owners.push(OwnerChange { key: key.clone(), before: owner_before, after: owner });
        }
    }
}

fn age(created: Option<i64>) -> (bool, Option<i64>) {
    (created.is_none(), created)
}
