//! Desired tables minus present tables: an ordered list of writes.
//!
//! [`Applier`] mirrors what the kernel has, gives ids to backends and service ports, has the slot array in its
//! keeping, and turns what a [`Planned`] Service wants into [`Write`]s. It does no IO: a [`Sink`] carries the writes
//! out. What keeps packets whole meanwhile is their order, and that nothing is changed in place:
//!
//! 1. records, backends, slot ranges, source ranges and filter bits that are new: nobody looks at them yet;
//! 2. frontends: one write each flips one from old to new;
//! 3. wildcards of addresses, then deletions: a port is never refused while its Service is still or already there;
//! 4. filter bits, source ranges and records that nobody needs any more.
//!
//! Ids and slots that became free get another meaning only in a later round and after a grace period, when no program
//! run that has read the old frontend can still be under way.

mod backends;
mod compile;
mod filter;
mod globals;
mod ids;
mod ports;
mod ranges;
mod record;
mod restore;
mod sets;
mod stale;
mod write;

#[cfg(test)]
mod memory;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use svc_common::tables::{self, Frontend};

use crate::model::{Family, ObjectKey, Protocol};
use crate::plan::{Planned, PortId};

pub use globals::Globals;
pub use stale::Stale;
pub use write::{Capacity, Passed, Presence, Present, Sink, Write};

use backends::Backends;
use compile::Draft;
use filter::Filter;
use ids::{Ids, Stamp};
use ranges::Ranges;
use record::Name;
use sets::Port;

/// How long after a round that freed something [`Applier::apply`] should be called again, if nothing else calls it.
pub const GRACE: Duration = ids::GRACE;

/// A key of the frontend table, family and wildcards included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Point {
    addr: IpAddr,
    /// 0 in a wildcard.
    port: u16,
    /// 0 in a wildcard.
    protocol: u8,
}

impl Point {
    fn new(addr: SocketAddr, protocol: Protocol) -> Self {
        Self { addr: addr.ip(), port: addr.port(), protocol: protocol as u8 }
    }

    fn wildcard(addr: IpAddr) -> Self {
        Self { addr, port: 0, protocol: 0 }
    }

    fn is_wildcard(self) -> bool {
        self.protocol == 0
    }

    fn family(self) -> usize {
        Family::of(self.addr) as usize
    }
}

/// Who owns a frontend that several Services want.
pub trait Owners {
    /// Whether `service` is the one that `addr` and `protocol` belong to. Asked only for frontends that it wants.
    fn owns(&self, service: &ObjectKey, addr: SocketAddr, protocol: Protocol) -> bool;

    /// The same for the wildcard of an address.
    fn owns_address(&self, service: &ObjectKey, addr: IpAddr) -> bool;
}

/// One Service of a round.
#[derive(Clone, Copy, Debug)]
pub struct Change<'a> {
    /// The Service.
    pub service: &'a ObjectKey,
    /// What it wants from now on; `None`: it is gone.
    pub planned: Option<&'a Planned>,
}

/// What a round has to do.
#[derive(Debug, Default)]
pub struct Round {
    /// To be carried out in this order.
    pub writes: Vec<Write>,
    /// To be swept after the writes.
    pub stale: Vec<Stale>,
    /// What found no room. The Services keep what they had, and are named by [`Applier::unsatisfied`].
    pub full: Vec<Full>,
}

/// A table that has no room for what a Service wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Full {
    /// The Service.
    pub service: ObjectKey,
    /// The table.
    pub table: &'static str,
    /// How many entries it has room for.
    pub capacity: u32,
}

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { service, table, capacity } = self;
        write!(
            f,
            "Service {service}: table {table} is full ({capacity} entries); start with larger --max-services or --max-endpoints"
        )
    }
}

/// How full the tables are, for metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fill {
    /// Entries in use, with those in their grace period.
    pub used: u32,
    /// Room.
    pub capacity: u32,
}

#[derive(Default)]
struct Held {
    ports: Vec<(PortId, Port)>,
    wildcards: Vec<IpAddr>,
}

/// The mirror of the tables, and the ids.
pub struct Applier {
    capacity: Capacity,
    names: Ids<Name>,
    /// Service ids whose record is in the table.
    recorded: HashSet<u32>,
    backends: Backends,
    ranges: Ranges,
    filter: Filter,
    services: HashMap<ObjectKey, Held>,
    /// Ports that were found in the tables and have not been claimed by a Service yet.
    orphans: HashMap<Name, Port>,
    frontends: HashMap<Point, Frontend>,
    frontend_counts: [u32; 2],
    range_counts: [u32; 2],
    /// Owner and flags of the wildcard of an address.
    wildcards: HashMap<IpAddr, (ObjectKey, u32)>,
    globals: Globals,
    round: u64,
    unsatisfied: BTreeSet<ObjectKey>,
    /// Writes that mend what was found inconsistent on restart.
    repairs: Vec<Write>,
}

impl Applier {
    /// For empty tables of this size.
    pub fn new(capacity: Capacity) -> Self {
        Self {
            capacity,
            names: Ids::new(capacity.services),
            recorded: HashSet::new(),
            backends: Backends::new(capacity.backends),
            ranges: Ranges::new(capacity.slots),
            filter: Filter::default(),
            services: HashMap::new(),
            orphans: HashMap::new(),
            frontends: HashMap::new(),
            frontend_counts: [0; 2],
            range_counts: [0; 2],
            wildcards: HashMap::new(),
            globals: Globals::default(),
            round: 0,
            unsatisfied: BTreeSet::new(),
            repairs: Vec::new(),
        }
    }

    /// Brings some Services up to date. Whoever gains or loses a contested frontend has to be among the changes.
    /// `now` is any clock that never goes back.
    pub fn apply(&mut self, changes: &[Change<'_>], owners: &impl Owners, now: Duration) -> Round {
        let (mut draft, stamp) = self.begin(now);
        for change in changes {
            self.apply_service(change, owners, &mut draft, stamp);
        }
        self.compile(draft)
    }

    /// Brings everything up to date: a Service that is not among `all` is gone. The first call after a restart.
    pub fn apply_all(&mut self, all: &[Change<'_>], owners: &impl Owners, now: Duration) -> Round {
        let (mut draft, stamp) = self.begin(now);
        let named: HashSet<&ObjectKey> = all.iter().map(|change| change.service).collect();
        let mut gone: Vec<_> = self.services.keys().filter(|key| !named.contains(key)).cloned().collect();
        gone.sort_unstable();
        for change in all.iter().copied().chain(gone.iter().map(|service| Change { service, planned: None })) {
            self.apply_service(&change, owners, &mut draft, stamp);
        }
        let mut orphans: Vec<_> = std::mem::take(&mut self.orphans).into_iter().collect();
        orphans.sort_unstable_by_key(|(_, port)| port.id);
        for (name, port) in orphans {
            self.drop_port(name.family(), port, &mut draft, stamp);
        }
        self.forget_strangers(&mut draft, stamp);
        self.compile(draft)
    }

    /// The writes of the last round have been carried out. What it has released waits from now on: until the last write
    /// packets found it, and a round may take longer than the whole grace period.
    pub fn written(&mut self, now: Duration) {
        let end = Stamp { round: self.round, at: now };
        self.ranges.written(end);
        self.names.written(end);
        self.backends.written(end);
    }

    /// Services that wanted more than there was room for: to be planned and applied again with the next change.
    pub fn unsatisfied(&self) -> impl Iterator<Item = &ObjectKey> {
        self.unsatisfied.iter()
    }

    /// Service id of a service port, if it has one.
    pub fn service_id(&self, id: &PortId) -> Option<u32> {
        let held = self.services.get(&id.service)?;
        held.ports.iter().find(|(other, _)| other == id).map(|(_, port)| port.id)
    }

    /// Address, port and locality of a backend id.
    pub fn backend(&self, family: Family, id: u32) -> Option<(SocketAddr, bool)> {
        self.backends.get(family, id)
    }

    /// How full each table is.
    pub fn fill(&self) -> [(&'static str, Fill); 8] {
        let fill = |used, capacity| Fill { used, capacity };
        let capacity = &self.capacity;
        [
            (tables::name::FRONTENDS_V4, fill(self.frontend_counts[0], capacity.frontends)),
            (tables::name::FRONTENDS_V6, fill(self.frontend_counts[1], capacity.frontends)),
            (tables::name::BACKENDS_V4, fill(self.backends.len(Family::V4), capacity.backends)),
            (tables::name::BACKENDS_V6, fill(self.backends.len(Family::V6), capacity.backends)),
            (tables::name::SLOTS, fill(self.ranges.used(), self.ranges.capacity())),
            (tables::name::SOURCE_RANGES_V4, fill(self.range_counts[0], capacity.source_ranges)),
            (tables::name::SOURCE_RANGES_V6, fill(self.range_counts[1], capacity.source_ranges)),
            (tables::name::SERVICES, fill(self.names.len(), capacity.services)),
        ]
    }

    fn begin(&mut self, now: Duration) -> (Draft, Stamp) {
        self.round += 1;
        let stamp = Stamp { round: self.round, at: now };
        self.ranges.reclaim(stamp);
        self.names.reclaim(stamp);
        let draft = Draft { reclaimed: self.backends.reclaim(stamp), ..Draft::default() };
        (draft, stamp)
    }

    fn apply_service(&mut self, change: &Change<'_>, owners: &impl Owners, draft: &mut Draft, stamp: Stamp) {
        let key = change.service;
        self.unsatisfied.remove(key);
        let old = self.services.remove(key).unwrap_or_default();
        let mut old_ports: Vec<_> = old.ports.into_iter().map(Some).collect();
        let mut held = Held::default();
        for planned in change.planned.iter().flat_map(|planned| &planned.ports) {
            let known = old_ports.iter_mut().find(|port| port.as_ref().is_some_and(|(id, _)| *id == planned.id));
            let old = match known {
                Some(port) => port.take().map(|(_, port)| port),
                None if self.orphans.is_empty() => None,
                None => self.orphans.remove(&Name::of(&planned.id)),
            };
            if let Some(port) = self.apply_port(planned, old, owners, draft, stamp) {
                held.ports.push((planned.id.clone(), port));
            }
        }
        for (id, port) in old_ports.into_iter().flatten() {
            self.drop_port(id.family, port, draft, stamp);
        }
        self.apply_wildcards(key, &old.wildcards, change.planned, owners, &mut held, draft);
        if !held.ports.is_empty() || !held.wildcards.is_empty() {
            // Most Services have one port: what a growing list keeps in reserve would be most of the memory.
            held.ports.shrink_to_fit();
            held.wildcards.shrink_to_fit();
            self.services.insert(key.clone(), held);
        }
    }

    fn apply_wildcards(
        &mut self,
        key: &ObjectKey,
        old: &[IpAddr],
        planned: Option<&Planned>,
        owners: &impl Owners,
        held: &mut Held,
        draft: &mut Draft,
    ) {
        for addr in old {
            draft.wildcards.insert(*addr);
            if self.wildcards.get(addr).is_some_and(|(owner, _)| owner == key) {
                self.wildcards.remove(addr);
            }
        }
        let Some(planned) = planned else { return };
        let cluster_ips = planned.cluster_ips.iter().map(|addr| (*addr, Frontend::CLUSTER_IP));
        let foreign = planned.foreign.iter().map(|addr| (*addr, Frontend::FOREIGN));
        for (addr, flags) in cluster_ips.chain(foreign).filter(|(addr, _)| owners.owns_address(key, *addr)) {
            self.wildcards.insert(addr, (key.clone(), flags));
            held.wildcards.push(addr);
            draft.wildcards.insert(addr);
        }
    }
}

/// The items of `wanted`, each once, that are not in `present`.
fn new_items<T: Copy + Ord>(wanted: &[T], present: &[T]) -> impl Iterator<Item = T> {
    let present: BTreeSet<T> = present.iter().copied().collect();
    let wanted: BTreeSet<T> = wanted.iter().copied().collect();
    wanted.into_iter().filter(move |item| !present.contains(item))
}
