//! Tables in memory, and a naive interpreter of them: what a packet would find.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};

use svc_common::net::{Address, V4, V6};
use svc_common::slots::id_of;
use svc_common::tables::{Backend, Frontend, FrontendKey, Rule, ServiceRecord, SlotRange, SourcePrefix, filter_bit};

use super::{Presence, Present, Sink, Write, record};

/// The tables.
#[derive(Clone, Default)]
pub(super) struct Memory {
    pub(super) frontends_v4: HashMap<FrontendKey<V4>, Frontend>,
    pub(super) frontends_v6: HashMap<FrontendKey<V6>, Frontend>,
    pub(super) backends_v4: BTreeMap<u32, Backend<V4>>,
    pub(super) backends_v6: BTreeMap<u32, Backend<V6>>,
    pub(super) slots: Vec<u32>,
    pub(super) source_ranges_v4: Vec<SourcePrefix<V4>>,
    pub(super) source_ranges_v6: Vec<SourcePrefix<V6>>,
    pub(super) filter: BTreeMap<u32, u64>,
    pub(super) services: BTreeMap<u32, ServiceRecord>,
}

/// What a packet finds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    Untouched,
    Refused,
    Foreign,
    /// The complete set, with how often each endpoint is in it, and everything else that decides.
    Service {
        set: BTreeMap<SocketAddr, usize>,
        rule: Rule,
        affinity: u32,
        flags: u32,
        algorithm: u8,
        admitted: bool,
    },
}

impl Memory {
    pub(super) fn carry_out_one(&mut self, write: &Write) {
        match write {
            Write::BackendV4(id, backend) => put(&mut self.backends_v4, *id, *backend, Backend::default()),
            Write::BackendV6(id, backend) => put(&mut self.backends_v6, *id, *backend, Backend::default()),
            Write::Slots(base, words) => {
                let end = *base as usize + words.len();
                self.slots.resize(self.slots.len().max(end), 0);
                self.slots[*base as usize..end].copy_from_slice(words);
            }
            Write::FrontendV4(key, value) => set(&mut self.frontends_v4, *key, *value),
            Write::FrontendV6(key, value) => set(&mut self.frontends_v6, *key, *value),
            Write::SourceRangeV4(prefix, presence) => presence_of(&mut self.source_ranges_v4, *prefix, *presence),
            Write::SourceRangeV6(prefix, presence) => presence_of(&mut self.source_ranges_v6, *prefix, *presence),
            Write::Filter(word, bits) => put(&mut self.filter, *word, *bits, 0),
            Write::Service(id, record) => put(&mut self.services, *id, **record, record::free()),
            other => panic!("{other:?} belongs to no Service"),
        }
    }

    pub(super) fn present(&self) -> Present {
        let words = self.filter.last_key_value().map_or(0, |(word, _)| *word as usize + 1);
        let mut filter = vec![0; words];
        for (word, bits) in &self.filter {
            filter[*word as usize] = *bits;
        }
        Present {
            frontends_v4: self.frontends_v4.iter().map(|(key, value)| (*key, *value)).collect(),
            frontends_v6: self.frontends_v6.iter().map(|(key, value)| (*key, *value)).collect(),
            backends_v4: self.backends_v4.iter().map(|(id, backend)| (*id, *backend)).collect(),
            backends_v6: self.backends_v6.iter().map(|(id, backend)| (*id, *backend)).collect(),
            slots: self.slots.clone(),
            source_ranges_v4: self.source_ranges_v4.clone(),
            source_ranges_v6: self.source_ranges_v6.clone(),
            filter,
            services: self.services.iter().map(|(id, record)| (*id, *record)).collect(),
            ..Present::default()
        }
    }

    /// Whether everything but the slots, which are never cleared, is as on the first day.
    pub(super) fn is_empty(&self) -> bool {
        self.frontends_v4.is_empty()
            && self.frontends_v6.is_empty()
            && self.backends_v4.is_empty()
            && self.backends_v6.is_empty()
            && self.source_ranges_v4.is_empty()
            && self.source_ranges_v6.is_empty()
            && self.filter.is_empty()
            && self.services.is_empty()
    }

    pub(super) fn find(&self, to: SocketAddr, protocol: u8, sender: usize, from: IpAddr) -> Found {
        match to.ip() {
            IpAddr::V4(addr) => self.find_in(&self.frontends_v4, V4::new(addr), to, protocol, sender, from),
            IpAddr::V6(addr) => self.find_in(&self.frontends_v6, V6::new(addr), to, protocol, sender, from),
        }
    }

    fn find_in<A: Address + std::hash::Hash>(
        &self,
        frontends: &HashMap<FrontendKey<A>, Frontend>,
        addr: A,
        to: SocketAddr,
        protocol: u8,
        sender: usize,
        from: IpAddr,
    ) -> Found {
        let (word, mask) = filter_bit(addr);
        if self.filter.get(&word).copied().unwrap_or(0) & mask == 0 {
            return Found::Untouched;
        }
        let key = FrontendKey { addr, port: svc_common::net::Port::new(to.port()), protocol, zero: 0 };
        if let Some(value) = frontends.get(&key) {
            return self.resolve(value, sender, from);
        }
        match frontends.get(&FrontendKey { addr, ..FrontendKey::default() }) {
            Some(wildcard) if wildcard.has(Frontend::CLUSTER_IP) => Found::Refused,
            Some(_) => Found::Foreign,
            None => Found::Untouched,
        }
    }

    /// What a program finds that has read this frontend, maybe some writes ago.
    pub(super) fn resolve(&self, value: &Frontend, sender: usize, from: IpAddr) -> Found {
        let rule = value.rules[sender];
        let range = if rule.has(Rule::LOCAL) { value.local } else { value.cluster };
        let slots = &self.slots[range.base as usize..(range.base + range.len) as usize];
        let slots: Vec<u32> = slots.iter().copied().map(id_of).collect();
        let mut set = BTreeMap::new();
        for id in &slots {
            *set.entry(self.backend(*id, from.is_ipv4())).or_default() += 1;
        }
        if value.affinity > 0 && range.len > 0 {
            self.check_members(range, &slots);
        }
        let admitted = !value.has(Frontend::SOURCE_RANGES) || self.admits(value.service, from);
        let Frontend { affinity, flags, algorithm, .. } = *value;
        Found::Service { set, rule, affinity, flags, algorithm, admitted }
    }

    /// Behind the slots stand the number of members and the members, ascending.
    fn check_members(&self, range: SlotRange, slots: &[u32]) {
        let tail = (range.base + range.len) as usize;
        let count = self.slots[tail] as usize;
        let mut members = slots.to_vec();
        members.sort_unstable();
        members.dedup();
        assert_eq!(self.slots[tail + 1..tail + 1 + count], members);
    }

    fn admits(&self, service: u32, from: IpAddr) -> bool {
        let inside =
            |addr: IpAddr, len: u32| ipnet::IpNet::new(addr, (len - 32) as u8).is_ok_and(|net| net.contains(&from));
        self.source_ranges_v4.iter().any(|range| range.service == service && inside(range.addr.to_ip(), range.len))
            || self
                .source_ranges_v6
                .iter()
                .any(|range| range.service == service && inside(range.addr.to_ip(), range.len))
    }

    fn backend(&self, id: u32, v4: bool) -> SocketAddr {
        let (addr, port) = if v4 {
            let backend = self.backends_v4.get(&id).unwrap_or_else(|| panic!("slot with free backend {id}"));
            (backend.addr.to_ip(), backend.port)
        } else {
            let backend = self.backends_v6.get(&id).unwrap_or_else(|| panic!("slot with free backend {id}"));
            (backend.addr.to_ip(), backend.port)
        };
        SocketAddr::new(addr, port.get())
    }
}

impl Sink for Memory {
    fn carry_out(&mut self, writes: &[Write]) -> anyhow::Result<()> {
        writes.iter().for_each(|write| self.carry_out_one(write));
        Ok(())
    }
}

fn put<V: PartialEq>(table: &mut BTreeMap<u32, V>, id: u32, value: V, free: V) {
    if value == free {
        table.remove(&id)
    } else {
        table.insert(id, value)
    };
}

fn set<K: Eq + std::hash::Hash>(table: &mut HashMap<K, Frontend>, key: K, value: Option<Frontend>) {
    match value {
        Some(value) => table.insert(key, value),
        None => table.remove(&key),
    };
}

fn presence_of<T: PartialEq>(table: &mut Vec<T>, item: T, presence: Presence) {
    table.retain(|other| *other != item);
    if presence == Presence::Present {
        table.push(item);
    }
}
