//! The order of the writes of a round.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use svc_common::net::{Port, V4, V6};
use svc_common::tables::{Frontend, FrontendKey, ServiceRecord, SourcePrefix, name};

use super::{Applier, Full, Point, Presence, Round, Stale, Write, record};
use crate::model::{Family, ObjectKey};

/// What a round has gathered, before it is put in order.
#[derive(Default)]
pub(super) struct Draft {
    pub(super) records: Vec<(u32, ServiceRecord)>,
    pub(super) backends: Vec<Write>,
    pub(super) slots: Vec<(u32, Box<[u32]>)>,
    pub(super) added_ranges: Vec<(u32, IpNet)>,
    /// Frontends of the Services of the round, with who wants them; `None`: nobody has wanted it so far.
    pub(super) touched: BTreeMap<Point, Option<(Frontend, ObjectKey)>>,
    /// Addresses whose wildcard may have changed.
    pub(super) wildcards: BTreeSet<IpAddr>,
    /// Ranges of ports that stay guarded: gone after the frontends that are or were theirs have been written, and before
    /// a new frontend could admit by them.
    pub(super) replaced_ranges: Vec<(u32, IpNet)>,
    /// Ranges of ports that are open from now on: gone after the frontends have been opened.
    pub(super) removed_ranges: Vec<(u32, IpNet)>,
    pub(super) freed_records: Vec<u32>,
    /// Backend ids whose grace period is over, by family.
    pub(super) reclaimed: [Vec<u32>; 2],
    pub(super) stale: Vec<Stale>,
    pub(super) full: Vec<Full>,
}

impl Applier {
    pub(super) fn compile(&mut self, mut draft: Draft) -> Round {
        let mut writes = std::mem::take(&mut self.repairs);
        writes.extend(draft.records.drain(..).map(|(id, record)| Write::Service(id, Box::new(record))));
        writes.append(&mut draft.backends);
        writes.extend(draft.slots.drain(..).map(|(base, words)| Write::Slots(base, words)));
        writes.extend(draft.added_ranges.iter().map(|(id, range)| source_range(*id, *range, Presence::Present)));
        self.compile_frontends(&mut draft, &mut writes);
        writes.extend(self.filter.clear().into_iter().map(|(word, bits)| Write::Filter(word, bits)));
        writes.extend(draft.removed_ranges.iter().map(|(id, range)| source_range(*id, *range, Presence::Absent)));
        writes.extend(draft.freed_records.iter().map(|id| Write::Service(*id, Box::new(record::free()))));
        for family in Family::ALL {
            let reclaimed = draft.reclaimed[family as usize].iter();
            writes.extend(reclaimed.filter_map(|id| self.backends.clear(family, *id)));
        }
        Round { writes, stale: draft.stale, full: draft.full }
    }

    fn compile_frontends(&mut self, draft: &mut Draft, writes: &mut Vec<Write>) {
        let mut wildcards = BTreeMap::new();
        for addr in std::mem::take(&mut draft.wildcards) {
            let wanted = self.wildcards.get(&addr);
            let value = wanted.map(|(_, flags)| Frontend { flags: *flags, ..Frontend::default() });
            wildcards.insert(Point::wildcard(addr), value);
        }
        let replaced = std::mem::take(&mut draft.replaced_ranges);
        let guards_anew = |service: u32| replaced.iter().any(|(id, _)| *id == service);
        let (mut bits, mut set, mut entering) = (Vec::new(), Vec::new(), Vec::new());
        let touched = std::mem::take(&mut draft.touched);
        let mut gone: Vec<Point> = Vec::new();
        for (point, wanted) in touched {
            match wanted {
                None => gone.push(point),
                Some((value, service)) => {
                    let enters = self.frontends.get(&point).is_none_or(|present| present.service != value.service);
                    let late = enters && guards_anew(value.service);
                    let set = if late { &mut entering } else { &mut set };
                    if !self.set_frontend(point, value, &mut bits, set) {
                        self.unsatisfied.insert(service.clone());
                        let table = [name::FRONTENDS_V4, name::FRONTENDS_V6][point.family()];
                        draft.full.push(Full { service, table, capacity: self.capacity.frontends });
                    }
                }
            }
        }
        set.extend(replaced.iter().map(|(id, range)| source_range(*id, *range, Presence::Absent)));
        set.append(&mut entering);
        // After the ports of an address, or they would be refused for a moment ...
        for (point, value) in &wildcards {
            if let Some(value) = value {
                // Without room other ports of the address stay what they are: a pity, but no Service suffers.
                self.set_frontend(*point, *value, &mut bits, &mut set);
            }
        }
        writes.append(&mut bits);
        writes.append(&mut set);
        // ... and before them, for the same reason.
        let unwanted = wildcards.into_iter().filter(|(_, value)| value.is_none()).map(|(point, _)| point);
        for point in unwanted.chain(gone) {
            if self.frontends.remove(&point).is_some() {
                self.frontend_counts[point.family()] -= 1;
                self.filter.lower(point.addr);
                writes.push(frontend(point, None));
            }
        }
    }

    /// `false` if there is no room.
    fn set_frontend(&mut self, point: Point, value: Frontend, bits: &mut Vec<Write>, set: &mut Vec<Write>) -> bool {
        let count = &mut self.frontend_counts[point.family()];
        match self.frontends.get_mut(&point) {
            Some(present) if *present == value => return true,
            Some(present) => *present = value,
            None if *count >= self.capacity.frontends => return false,
            None => {
                *count += 1;
                self.frontends.insert(point, value);
                bits.extend(self.filter.raise(point.addr).map(|(word, bits)| Write::Filter(word, bits)));
            }
        }
        set.push(frontend(point, Some(value)));
        true
    }
}

fn frontend(point: Point, value: Option<Frontend>) -> Write {
    match point.addr {
        IpAddr::V4(addr) => Write::FrontendV4(key(V4::new(addr), point), value),
        IpAddr::V6(addr) => Write::FrontendV6(key(V6::new(addr), point), value),
    }
}

fn key<A>(addr: A, point: Point) -> FrontendKey<A> {
    FrontendKey { addr, port: Port::new(point.port), protocol: point.protocol, zero: 0 }
}

pub(super) fn source_range(service: u32, range: IpNet, presence: Presence) -> Write {
    let len = 32 + u32::from(range.prefix_len());
    match range.trunc() {
        IpNet::V4(net) => Write::SourceRangeV4(SourcePrefix { len, service, addr: V4::new(net.addr()) }, presence),
        IpNet::V6(net) => Write::SourceRangeV6(SourcePrefix { len, service, addr: V6::new(net.addr()) }, presence),
    }
}
