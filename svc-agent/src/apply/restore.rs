//! After a restart: the mirror is read back from the tables that the last agent has left.

use std::collections::{BTreeSet, HashMap};

use ipnet::IpNet;
use svc_common::net::Address;
use svc_common::slots::id_of;
use svc_common::tables::{Frontend, FrontendKey, SlotRange, SourcePrefix};

use super::compile::{Draft, source_range};
use super::filter::Filter;
use super::ids::Stamp;
use super::record::Name;
use super::sets::{Port, Set, distinct};
use super::{Applier, Capacity, Globals, Passed, Point, Presence, Present, Write, record};
use crate::model::Family;

impl Present {
    /// What the node itself, not a Service, has put into the tables.
    pub fn globals(&self) -> Globals {
        Globals {
            settings: self.settings,
            pod_prefixes: sorted(
                self.pod_prefixes_v4.iter().filter_map(|prefix| net(prefix.addr, prefix.len)),
                self.pod_prefixes_v6.iter().filter_map(|prefix| net(prefix.addr, prefix.len)),
            ),
            node_addresses: sorted(
                self.node_addresses_v4.iter().map(|addr| addr.to_ip()),
                self.node_addresses_v6.iter().map(|addr| addr.to_ip()),
            ),
            devices: self.devices.iter().copied().collect(),
        }
    }

    /// Writes that fill empty tables with the same.
    pub fn to_writes(&self) -> Vec<Write> {
        let mut writes = Vec::new();
        writes.extend(self.services.iter().map(|(id, record)| Write::Service(*id, Box::new(*record))));
        writes.extend(self.backends_v4.iter().map(|(id, backend)| Write::BackendV4(*id, *backend)));
        writes.extend(self.backends_v6.iter().map(|(id, backend)| Write::BackendV6(*id, *backend)));
        writes.push(Write::Slots(0, self.slots.clone().into()));
        writes.extend(self.source_ranges_v4.iter().map(|range| Write::SourceRangeV4(*range, Presence::Present)));
        writes.extend(self.source_ranges_v6.iter().map(|range| Write::SourceRangeV6(*range, Presence::Present)));
        writes.extend(
            (0..).zip(&self.filter).filter(|(_, bits)| **bits != 0).map(|(word, bits)| Write::Filter(word, *bits)),
        );
        writes.extend(self.frontends_v4.iter().map(|(key, value)| Write::FrontendV4(*key, Some(*value))));
        writes.extend(self.frontends_v6.iter().map(|(key, value)| Write::FrontendV6(*key, Some(*value))));
        writes.extend(self.pod_prefixes_v4.iter().map(|prefix| Write::PodPrefixV4(*prefix, Presence::Present)));
        writes.extend(self.pod_prefixes_v6.iter().map(|prefix| Write::PodPrefixV6(*prefix, Presence::Present)));
        writes.extend(self.node_addresses_v4.iter().map(|addr| Write::NodeAddressV4(*addr, Presence::Present)));
        writes.extend(self.node_addresses_v6.iter().map(|addr| Write::NodeAddressV6(*addr, Presence::Present)));
        writes.extend(self.devices.iter().map(|(index, device)| Write::Device(*index, Some(*device))));
        writes.push(Write::Settings(Box::new(self.settings)));
        writes
    }
}

impl Applier {
    /// Takes over tables as they are. Service ports get their ids back by name, backends by address, and what the last
    /// agent left half done is mended by the first [`Applier::apply_all`]; nothing is taken away before that.
    pub fn restore(capacity: Capacity, present: &Present) -> Self {
        let mut applier = Self::new(capacity);
        applier.filter = Filter::restore(&present.filter);
        applier.restore_frontends(&present.frontends_v4);
        applier.restore_frontends(&present.frontends_v6);
        applier.backends.restore(present);
        let mut ranges: HashMap<u32, Vec<IpNet>> = HashMap::new();
        nets(&present.source_ranges_v4, &mut ranges);
        nets(&present.source_ranges_v6, &mut ranges);
        applier.restore_ports(present, ranges);
        applier.globals = present.globals();
        applier
    }

    /// Leaves ids out that flows and records may still name although nobody knows what for. Right after
    /// [`Applier::restore`]; not when that would take more than half of all.
    pub fn pass_over(&mut self, passed: Passed) {
        self.names.pass_over(passed.services);
        self.backends.pass_over(passed.backends);
    }

    fn restore_frontends<A: Address>(&mut self, frontends: &[(FrontendKey<A>, Frontend)]) {
        for (key, value) in frontends {
            let point = Point { addr: key.addr.to_ip(), port: key.port.get(), protocol: key.protocol };
            self.frontends.insert(point, *value);
            self.frontend_counts[point.family()] += 1;
            self.repairs.extend(self.filter.raise(point.addr).map(|(word, bits)| Write::Filter(word, bits)));
        }
    }

    fn restore_ports(&mut self, present: &Present, mut ranges: HashMap<u32, Vec<IpNet>>) {
        let mut points: HashMap<u32, BTreeSet<Point>> = HashMap::new();
        for (point, value) in self.frontends.iter().filter(|(point, _)| !point.is_wildcard()) {
            points.entry(value.service).or_default().insert(*point);
        }
        for (id, record) in &present.services {
            let Some(name) = Name::read(record) else { continue };
            if !self.names.restore(*id, name.clone()) {
                self.repairs.push(Write::Service(*id, Box::new(record::free())));
                continue;
            }
            self.recorded.insert(*id);
            let points: Vec<_> = points.remove(id).unwrap_or_default().into_iter().collect();
            let source_ranges = ranges.remove(id).unwrap_or_default();
            if points.is_empty() && source_ranges.is_empty() {
                continue;
            }
            self.names.hold(*id);
            let port = self.restore_port(*id, name.family(), points, source_ranges, &present.slots);
            self.orphans.insert(name, port);
        }
        // Ranges of ids without a record: whoever gets the id must not inherit them.
        let strays = ranges.into_iter().flat_map(|(id, ranges)| ranges.into_iter().map(move |range| (id, range)));
        self.repairs.extend(strays.map(|(id, range)| source_range(id, range, Presence::Absent)));
    }

    fn restore_port(
        &mut self,
        id: u32,
        family: Family,
        points: Vec<Point>,
        mut source_ranges: Vec<IpNet>,
        slots: &[u32],
    ) -> Port {
        source_ranges.sort_unstable();
        self.range_counts[family as usize] += source_ranges.len() as u32;
        let mut port = Port { id, source_ranges, unswept: true, ..Port::default() };
        // Usually all frontends of a port agree. If the last agent was killed between two flips there are two states:
        // one is taken for the present one, the ranges of the other are given back with the next change.
        let values: Vec<Frontend> = points.iter().filter_map(|point| self.frontends.get(point).copied()).collect();
        let mut seen = BTreeSet::new();
        for (index, value) in values.iter().enumerate() {
            port.affinity |= value.affinity > 0;
            for (range, is_cluster) in [(value.cluster, true), (value.local, false)] {
                if range.len == 0 || !seen.insert((range.base, range.len)) {
                    continue;
                }
                let Some(words) = words(slots, range, value.affinity > 0) else { continue };
                if !self.ranges.restore(range.base, words.len() as u32) {
                    continue;
                }
                if index == 0 {
                    let set = if is_cluster { &mut port.cluster } else { &mut port.local };
                    *set = Set { range, words: words.into() };
                } else {
                    port.leftovers.push(SlotRange { base: range.base, len: words.len() as u32 });
                }
            }
        }
        let slots_of = |set: &Set| set.words[..set.range.len as usize].iter().copied().map(id_of).collect::<Vec<_>>();
        let members = distinct(&[slots_of(&port.cluster), slots_of(&port.local)].concat());
        if members.iter().all(|id| self.backends.get(family, *id).is_some()) {
            members.iter().for_each(|id| self.backends.hold(family, *id));
            port.members = members.into();
        } else {
            // A slot without a backend: such a set is not kept but written anew.
            for set in [&mut port.cluster, &mut port.local] {
                let set = std::mem::take(set);
                port.leftovers.push(SlotRange { base: set.range.base, len: set.words.len() as u32 });
            }
        }
        port.points = points;
        port
    }

    /// The end of the first full round: what nobody has claimed goes.
    pub(super) fn forget_strangers(&mut self, draft: &mut Draft, stamp: Stamp) {
        let claimed: BTreeSet<u32> =
            self.services.values().flat_map(|held| held.ports.iter().map(|(_, port)| port.id)).collect();
        for (point, value) in &self.frontends {
            if point.is_wildcard() {
                draft.wildcards.insert(point.addr);
            } else if !claimed.contains(&value.service) {
                draft.touched.entry(*point).or_insert(None);
            }
        }
        let unclaimed: Vec<u32> = self.recorded.iter().copied().filter(|id| !claimed.contains(id)).collect();
        for id in unclaimed {
            self.recorded.remove(&id);
            draft.freed_records.push(id);
        }
        self.names.release_unused(stamp);
        self.backends.release_unused(stamp);
    }
}

/// The slots of a range and, with affinity, the members after them; `None` if they are not what the agent writes.
fn words(slots: &[u32], range: SlotRange, affinity: bool) -> Option<&[u32]> {
    let start = range.base as usize;
    let end = start.checked_add(range.len as usize)?;
    let rest = slots.get(end..)?;
    let tail = if affinity { 1 + *rest.first()? as usize } else { 0 };
    slots.get(start..end.checked_add(tail)?)
}

fn nets<A: Address>(prefixes: &[SourcePrefix<A>], ranges: &mut HashMap<u32, Vec<IpNet>>) {
    for prefix in prefixes {
        ranges.entry(prefix.service).or_default().extend(net(prefix.addr, prefix.len.saturating_sub(32)));
    }
}

fn net<A: Address>(addr: A, len: u32) -> Option<IpNet> {
    IpNet::new(addr.to_ip(), u8::try_from(len).ok()?).ok()
}

fn sorted<T: Ord>(v4: impl Iterator<Item = T>, v6: impl Iterator<Item = T>) -> Vec<T> {
    let mut all: Vec<T> = v4.chain(v6).collect();
    all.sort_unstable();
    all
}
