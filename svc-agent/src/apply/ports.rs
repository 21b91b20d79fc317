//! What one service port holds: ids, slots, source ranges, and how the old is exchanged for the new.

use std::sync::Arc;

use ipnet::IpNet;
use svc_common::tables::{self, Frontend, SlotRange};

use super::compile::Draft;
use super::ids::Stamp;
use super::record::Name;
use super::sets::{Port, Set, distinct, layout};
use super::{Applier, Full, Owners, Point, Stale, Write, new_items};
use crate::model::{Family, Protocol};
use crate::plan::{FrontendKind, PlannedEndpoint, PlannedFrontend, PlannedPort, PortId};

/// What a service port needs in the tables: a port without a frontend of its own holds nothing but its id.
struct Wanted<'a> {
    cluster: &'a [PlannedEndpoint],
    local: &'a [PlannedEndpoint],
    source_ranges: &'a [IpNet],
}

impl<'a> Wanted<'a> {
    fn of(planned: &'a PlannedPort, frontends: &[&PlannedFrontend]) -> Self {
        let (cluster, local): (&[_], &[_]) =
            if frontends.is_empty() { (&[], &[]) } else { (&planned.cluster, &planned.local) };
        let is_guarded = frontends.iter().any(|frontend| frontend.guarded);
        Self { cluster, local, source_ranges: if is_guarded { &planned.source_ranges } else { &[] } }
    }
}

impl Applier {
    /// Gives a service port what it wants. Without room it keeps what it had.
    pub(super) fn apply_port(
        &mut self,
        planned: &PlannedPort,
        old: Option<Port>,
        owners: &impl Owners,
        draft: &mut Draft,
        stamp: Stamp,
    ) -> Option<Port> {
        let family = planned.id.family;
        let service = &planned.id.service;
        let owned = |frontend: &&PlannedFrontend| owners.owns(service, frontend.addr, planned.id.protocol);
        let frontends: Vec<_> = planned.frontends.iter().filter(owned).collect();
        let wanted = Wanted::of(planned, &frontends);
        match self.acquire(planned, &wanted, old.as_ref(), draft, stamp) {
            Err((table, capacity)) => {
                let service = service.clone();
                self.unsatisfied.insert(service.clone());
                draft.full.push(Full { service, table, capacity });
                old
            }
            Ok(mut port) => {
                for frontend in frontends {
                    let point = Point::new(frontend.addr, planned.id.protocol);
                    draft.touched.insert(point, Some((frontend_value(planned, &port, frontend), service.clone())));
                    port.points.push(point);
                }
                port.points.shrink_to_fit();
                self.note_stale(planned, old.as_ref(), &mut port, draft);
                if let Some(old) = old {
                    let keep = [port.cluster.range, port.local.range];
                    self.retire(family, old, &keep, &port.source_ranges, draft, stamp);
                }
                Some(port)
            }
        }
    }

    /// Ids, slots and source ranges for a service port; on failure everything is as before.
    fn acquire(
        &mut self,
        planned: &PlannedPort,
        wanted: &Wanted<'_>,
        old: Option<&Port>,
        draft: &mut Draft,
        stamp: Stamp,
    ) -> Result<Port, (&'static str, u32)> {
        let family = planned.id.family;
        let mut fresh = Vec::new();
        let mut ids = Vec::with_capacity(wanted.cluster.len() + wanted.local.len());
        let result = self.acquire_sets(planned, wanted, old, &mut ids, &mut fresh).and_then(|(cluster, local)| {
            let added: Vec<_> = new_items(wanted.source_ranges, old.map_or(&[], |old| &old.source_ranges)).collect();
            let name = match old {
                _ if self.range_counts[family as usize] + added.len() as u32 > self.capacity.source_ranges => {
                    Err((tables::name::SOURCE_RANGES_V4, self.capacity.source_ranges))
                }
                Some(old) => Ok(old.id),
                None => self.acquire_name(&planned.id, draft).ok_or((tables::name::SERVICES, self.capacity.services)),
            };
            match name {
                Ok(id) => Ok((id, cluster, local, added)),
                Err(full) => {
                    self.undo_set(&cluster, old.map(|old| &old.cluster));
                    self.undo_set(&local, old.map(|old| &old.local));
                    Err(full)
                }
            }
        });
        let (id, cluster, local, added) = match result {
            Ok(acquired) => acquired,
            Err(full) => {
                for id in ids {
                    self.backends.release(family, id, stamp);
                }
                // They have their ids until the grace period is over, so what the ids mean has to be in the table.
                draft.backends.append(&mut fresh);
                return Err(full);
            }
        };
        self.range_counts[family as usize] += added.len() as u32;
        draft.added_ranges.extend(added.into_iter().map(|range| (id, range)));
        for (set, old) in [(&cluster, old.map(|old| &old.cluster)), (&local, old.map(|old| &old.local))] {
            if !set.words.is_empty() && old != Some(set) {
                draft.slots.push((set.range.base, set.words.clone()));
            }
        }
        draft.backends.append(&mut fresh);
        // One reference for each member, however many sets it is in.
        let members = distinct(&ids);
        ids.sort_unstable();
        for pair in ids.windows(2).filter(|pair| pair[0] == pair[1]) {
            self.backends.release(family, pair[0], stamp);
        }
        let mut source_ranges = wanted.source_ranges.to_vec();
        source_ranges.sort_unstable();
        source_ranges.dedup();
        Ok(Port { id, cluster, local, members: members.into(), source_ranges, ..Port::default() })
    }

    fn acquire_sets(
        &mut self,
        planned: &PlannedPort,
        wanted: &Wanted<'_>,
        old: Option<&Port>,
        ids: &mut Vec<u32>,
        fresh: &mut Vec<Write>,
    ) -> Result<(Set, Set), (&'static str, u32)> {
        let family = planned.id.family as usize;
        for PlannedEndpoint { addr, local, .. } in wanted.cluster.iter().chain(wanted.local) {
            let full = ([tables::name::BACKENDS_V4, tables::name::BACKENDS_V6][family], self.capacity.backends);
            let (id, write) = self.backends.acquire(*addr, *local).ok_or(full)?;
            ids.push(id);
            fresh.extend(write);
        }
        let (cluster_ids, local_ids) = ids.split_at(wanted.cluster.len());
        let cluster = self.acquire_set(planned, wanted.cluster, cluster_ids, old.map(|old| &old.cluster))?;
        match self.acquire_set(planned, wanted.local, local_ids, old.map(|old| &old.local)) {
            Ok(local) => Ok((cluster, local)),
            Err(full) => {
                self.undo_set(&cluster, old.map(|old| &old.cluster));
                Err(full)
            }
        }
    }

    /// The old set if it is the one that is wanted, else a new range.
    fn acquire_set(
        &mut self,
        planned: &PlannedPort,
        endpoints: &[PlannedEndpoint],
        ids: &[u32],
        old: Option<&Set>,
    ) -> Result<Set, (&'static str, u32)> {
        let (words, len) = layout(endpoints, ids, planned.algorithm, planned.affinity.is_some());
        if let Some(old) = old
            && old.words == words
            && old.range.len == len
        {
            return Ok(old.clone());
        }
        if words.is_empty() {
            return Ok(Set::default());
        }
        let base = self.ranges.allocate(words.len() as u32).ok_or((tables::name::SLOTS, self.capacity.slots))?;
        Ok(Set { range: SlotRange { base, len }, words })
    }

    fn undo_set(&mut self, set: &Set, old: Option<&Set>) {
        if old.is_none_or(|old| old.range != set.range) {
            self.ranges.undo(set.range.base, set.words.len() as u32);
        }
    }

    fn acquire_name(&mut self, id: &PortId, draft: &mut Draft) -> Option<u32> {
        let name = Name::of(id);
        let (id, _) = self.names.acquire(&name)?;
        if self.recorded.insert(id) {
            draft.records.push((id, name.record()));
            draft.freed_records.retain(|freed| *freed != id);
        }
        Some(id)
    }

    /// What the kernel remembers of this port that is wrong from now on.
    fn note_stale(&self, planned: &PlannedPort, old: Option<&Port>, port: &mut Port, draft: &mut Draft) {
        let udp = planned.id.protocol == Protocol::Udp && !planned.serving.is_empty();
        let before = old.and_then(|old| old.serving.as_ref());
        if udp {
            port.serving = Some(match before {
                Some(before) if **before == *planned.serving => Arc::clone(before),
                _ => planned.serving.as_slice().into(),
            });
        }
        let serving = port.serving.clone().filter(|_| before.is_none_or(|before| **before != *planned.serving));
        // Records may outlive the switch that allowed them.
        port.affinity = planned.affinity.is_some() || old.is_some_and(|old| old.affinity);
        let lost = old.is_some_and(|old| old.unswept || new_items(&old.members, &port.members).next().is_some());
        let members = (port.affinity && lost).then(|| Arc::from(&*port.members));
        if serving.is_some() || members.is_some() {
            draft.stale.push(Stale { service: port.id, family: planned.id.family, serving, members });
        }
    }

    pub(super) fn drop_port(&mut self, family: Family, port: Port, draft: &mut Draft, stamp: Stamp) {
        if port.affinity {
            draft.stale.push(Stale { service: port.id, family, serving: None, members: Some(Arc::default()) });
        }
        self.names.release(port.id, stamp);
        if self.recorded.remove(&port.id) {
            draft.freed_records.push(port.id);
        }
        self.retire(family, port, &[], &[], draft, stamp);
    }

    /// Gives back what a port held, but for the slot ranges and source ranges that its new state still uses.
    fn retire(
        &mut self,
        family: Family,
        old: Port,
        keep: &[SlotRange],
        keep_ranges: &[IpNet],
        draft: &mut Draft,
        stamp: Stamp,
    ) {
        for point in old.points {
            if self.frontends.get(&point).is_some_and(|present| present.service == old.id) {
                draft.touched.entry(point).or_insert(None);
            }
        }
        for set in [old.cluster, old.local] {
            if !keep.contains(&set.range) {
                self.ranges.release(set.range.base, set.words.len() as u32, stamp);
            }
        }
        for range in old.leftovers {
            self.ranges.release(range.base, range.len, stamp);
        }
        for id in old.members {
            self.backends.release(family, id, stamp);
        }
        for range in new_items(&old.source_ranges, keep_ranges) {
            let list = if keep_ranges.is_empty() { &mut draft.removed_ranges } else { &mut draft.replaced_ranges };
            list.push((old.id, range));
            self.range_counts[family as usize] -= 1;
        }
    }
}

fn frontend_value(planned: &PlannedPort, port: &Port, frontend: &PlannedFrontend) -> Frontend {
    let external = match frontend.kind {
        FrontendKind::ClusterIp => 0,
        FrontendKind::NodePort | FrontendKind::LoadBalancer | FrontendKind::ExternalIp => Frontend::EXTERNAL,
        FrontendKind::LocalhostNodePort => Frontend::LOOPBACK,
    };
    let guarded = if frontend.guarded { Frontend::SOURCE_RANGES } else { 0 };
    Frontend {
        service: port.id,
        flags: external | guarded,
        affinity: planned.affinity.unwrap_or(0),
        cluster: port.cluster.range,
        local: port.local.range,
        rules: frontend.rules,
        algorithm: planned.algorithm as u8,
    }
}
