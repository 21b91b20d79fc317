//! Carries the applier's writes out, and reads back what the tables hold.

use anyhow::Context as _;
use svc_common::tables::{Entry, Settings};

use super::maps::Maps;
use super::table::Table;
use crate::apply::{Capacity, Presence, Present, Sink, Write};

/// Writes into the maps of a datapath.
#[derive(Debug)]
pub struct Writer<'a>(pub &'a Maps);

/// A run of writes to one table, all of them setting or all of them deleting keys.
struct Batch<K, V> {
    keys: Vec<K>,
    values: Vec<V>,
}

impl<K: Entry, V: Entry> Batch<K, V> {
    fn with_room(room: usize) -> Self {
        Self { keys: Vec::with_capacity(room), values: Vec::with_capacity(room) }
    }

    fn set(&mut self, key: K, value: V) {
        self.keys.push(key);
        self.values.push(value);
    }

    fn carry_out(&self, table: &Table<K, V>, delete: bool) -> std::io::Result<()> {
        match (self.keys.as_slice(), self.values.as_slice()) {
            // The usual change is one frontend: no need for the longer way.
            ([key], [value]) => table.set(key, value),
            (keys, _) if delete => table.remove_all(keys),
            (keys, values) => table.set_all(keys, values),
        }
    }
}

/// Puts one run into a batch and carries it out. `$item` binds one write; the arms of `$into` fill the batch.
macro_rules! run {
    ($writes:expr, $table:expr, |$batch:ident| { $($pattern:pat => $into:expr),+ $(,)? }) => {{
        let mut $batch = Batch::with_room($writes.len());
        for write in $writes {
            match write {
                $($pattern => $into,)+
                other => unreachable!("a run has writes of one table, not {other:?}"),
            }
        }
        $batch.carry_out($table, $writes[0].is_deletion())
    }};
}

impl Sink for Writer<'_> {
    fn carry_out(&mut self, writes: &[Write]) -> anyhow::Result<()> {
        let same = |one: &Write, other: &Write| {
            std::mem::discriminant(one) == std::mem::discriminant(other) && one.is_deletion() == other.is_deletion()
        };
        for run in writes.chunk_by(same) {
            self.run(run).with_context(|| format!("cannot write to table {}", run[0].table()))?;
        }
        Ok(())
    }
}

impl Writer<'_> {
    fn run(&self, writes: &[Write]) -> std::io::Result<()> {
        let maps = self.0;
        match &writes[0] {
            Write::BackendV4(..) => {
                run!(writes, &maps.backends_v4, |b| { Write::BackendV4(id, value) => b.set(*id, *value) })
            }
            Write::BackendV6(..) => {
                run!(writes, &maps.backends_v6, |b| { Write::BackendV6(id, value) => b.set(*id, *value) })
            }
            Write::Slots(..) => run!(writes, &maps.slots, |b| {
                Write::Slots(base, ids) => (*base..).zip(ids.iter()).for_each(|(slot, id)| b.set(slot, *id)),
            }),
            Write::FrontendV4(..) => run!(writes, &maps.frontends_v4, |b| {
                Write::FrontendV4(key, Some(value)) => b.set(*key, *value),
                Write::FrontendV4(key, None) => b.keys.push(*key),
            }),
            Write::FrontendV6(..) => run!(writes, &maps.frontends_v6, |b| {
                Write::FrontendV6(key, Some(value)) => b.set(*key, *value),
                Write::FrontendV6(key, None) => b.keys.push(*key),
            }),
            Write::SourceRangeV4(..) => run!(writes, &maps.source_ranges_v4, |b| {
                Write::SourceRangeV4(key, Presence::Present) => b.set(*key, 1),
                Write::SourceRangeV4(key, Presence::Absent) => b.keys.push(*key),
            }),
            Write::SourceRangeV6(..) => run!(writes, &maps.source_ranges_v6, |b| {
                Write::SourceRangeV6(key, Presence::Present) => b.set(*key, 1),
                Write::SourceRangeV6(key, Presence::Absent) => b.keys.push(*key),
            }),
            Write::Filter(..) => run!(writes, &maps.filter, |b| { Write::Filter(word, bits) => b.set(*word, *bits) }),
            Write::Service(..) => {
                run!(writes, &maps.services, |b| { Write::Service(id, record) => b.set(*id, **record) })
            }
            Write::PodPrefixV4(..) => run!(writes, &maps.pod_prefixes_v4, |b| {
                Write::PodPrefixV4(key, Presence::Present) => b.set(*key, 1),
                Write::PodPrefixV4(key, Presence::Absent) => b.keys.push(*key),
            }),
            Write::PodPrefixV6(..) => run!(writes, &maps.pod_prefixes_v6, |b| {
                Write::PodPrefixV6(key, Presence::Present) => b.set(*key, 1),
                Write::PodPrefixV6(key, Presence::Absent) => b.keys.push(*key),
            }),
            Write::NodeAddressV4(..) => run!(writes, &maps.node_addresses_v4, |b| {
                Write::NodeAddressV4(key, Presence::Present) => b.set(*key, 1),
                Write::NodeAddressV4(key, Presence::Absent) => b.keys.push(*key),
            }),
            Write::NodeAddressV6(..) => run!(writes, &maps.node_addresses_v6, |b| {
                Write::NodeAddressV6(key, Presence::Present) => b.set(*key, 1),
                Write::NodeAddressV6(key, Presence::Absent) => b.keys.push(*key),
            }),
            Write::Device(..) => run!(writes, &maps.devices, |b| {
                Write::Device(index, Some(device)) => b.set(*index, *device),
                Write::Device(index, None) => b.keys.push(*index),
            }),
            Write::Settings(..) => {
                run!(writes, &maps.settings, |b| { Write::Settings(settings) => b.set(0, **settings) })
            }
        }
    }
}

fn keys<K: Entry, V: Entry>(table: &Table<K, V>) -> std::io::Result<Vec<K>> {
    let mut keys = Vec::new();
    table.for_each(|key, _| keys.push(*key))?;
    Ok(keys)
}

/// The elements of an array that are not free.
pub(super) fn used<V: Entry>(table: &Table<u32, V>, is_free: impl Fn(&V) -> bool) -> std::io::Result<Vec<(u32, V)>> {
    let mut all = Vec::new();
    table.for_each(|index, value| {
        if !is_free(value) {
            all.push((*index, *value));
        }
    })?;
    Ok(all)
}

/// An array from index 0 on, without the zeros at its end.
fn array<V: Entry + Default + PartialEq>(table: &Table<u32, V>) -> std::io::Result<Vec<V>> {
    let (mut all, mut end) = (Vec::new(), 0);
    let mut zeros = Vec::new();
    table.for_each_batch(|_, values| {
        zeros.resize(values.len().max(zeros.len()), V::default());
        all.extend_from_slice(values);
        // Nearly all batches of a large array are empty, and are compared as bytes.
        if *values != zeros[..values.len()] {
            end = all.iter().rposition(|value| *value != V::default()).map_or(0, |last| last + 1);
        }
    })?;
    all.truncate(end);
    Ok(all)
}

impl Maps {
    /// What the tables of the agent hold.
    pub fn present(&self) -> anyhow::Result<Present> {
        let read = || -> std::io::Result<Present> {
            Ok(Present {
                frontends_v4: self.frontends_v4.dump()?,
                frontends_v6: self.frontends_v6.dump()?,
                backends_v4: used(&self.backends_v4, |backend| *backend == Default::default())?,
                backends_v6: used(&self.backends_v6, |backend| *backend == Default::default())?,
                slots: array(&self.slots)?,
                source_ranges_v4: keys(&self.source_ranges_v4)?,
                source_ranges_v6: keys(&self.source_ranges_v6)?,
                filter: array(&self.filter)?,
                services: used(&self.services, |record| record.family == 0)?,
                pod_prefixes_v4: keys(&self.pod_prefixes_v4)?,
                pod_prefixes_v6: keys(&self.pod_prefixes_v6)?,
                node_addresses_v4: keys(&self.node_addresses_v4)?,
                node_addresses_v6: keys(&self.node_addresses_v6)?,
                devices: self.devices.dump()?,
                settings: self.settings.get(&0)?.unwrap_or_else(Settings::default),
            })
        };
        read().context("cannot read the tables back")
    }

    /// For how many entries the tables of the applier have room.
    pub fn capacity(&self) -> Capacity {
        Capacity {
            frontends: self.frontends_v4.entries().min(self.frontends_v6.entries()),
            backends: self.backends_v4.entries().min(self.backends_v6.entries()),
            slots: self.slots.entries(),
            source_ranges: self.source_ranges_v4.entries().min(self.source_ranges_v6.entries()),
            services: self.services.entries(),
        }
    }
}
