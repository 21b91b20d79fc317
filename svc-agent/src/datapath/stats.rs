//! Reads what the programs count, and what the maps cost. Nothing here writes.

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};

use svc_common::tables::{BackendStats, ServiceRecord, Stats};
use svc_common::verdict::Reason;

use super::maps::Maps;
use crate::model::Family;

/// Totals over all CPUs of one service id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceTotals {
    /// Who it is.
    pub record: ServiceRecord,
    /// What was counted since the id was given out.
    pub stats: Stats,
}

impl Maps {
    /// The counters of all Services that ever had a packet.
    pub fn service_totals(&self) -> io::Result<Vec<ServiceTotals>> {
        let mut records = Vec::new();
        self.services.for_each(|id, record| {
            if record.family != 0 {
                records.push((*id, *record));
            }
        })?;
        records.sort_unstable_by_key(|(id, _)| *id);
        let end = records.last().map_or(0, |(id, _)| id + 1);
        let mut records = records.into_iter().peekable();
        let mut totals = Vec::new();
        self.service_stats.for_each(end, |id, by_cpu| {
            while records.next_if(|(other, _)| *other < id).is_some() {}
            let Some((_, record)) = records.next_if(|(other, _)| *other == id) else { return };
            let stats = sum(by_cpu);
            if stats != Stats::default() {
                totals.push(ServiceTotals { record, stats });
            }
        })?;
        Ok(totals)
    }

    /// How often programs ended with each reason.
    pub fn reason_totals(&self) -> io::Result<Vec<(Reason, u64)>> {
        let total = |reason: &Reason| -> io::Result<_> {
            let by_cpu = self.reasons.get(*reason as u32)?;
            Ok((*reason, by_cpu.iter().fold(0u64, |sum, count| sum.wrapping_add(*count))))
        };
        Reason::ALL.iter().map(total).collect()
    }

    /// Family, id and counters of all backends that ever had a connection.
    pub fn backend_totals(&self) -> io::Result<Vec<(Family, u32, BackendStats)>> {
        let mut totals = Vec::new();
        self.backend_stats.for_each(|index, stats| {
            if *stats != BackendStats::default() {
                // The families take turns: see `backend_stats_index`.
                let family = Family::ALL[(index % 2) as usize];
                totals.push((family, index / 2, *stats));
            }
        })?;
        Ok(totals)
    }

    /// Kernel memory of each map, in bytes, as the kernel itself accounts for it.
    pub fn memory(&self) -> io::Result<Vec<(&'static str, u64)>> {
        self.descriptors().into_iter().map(|(name, fd)| Ok((name, memory(fd.as_fd().as_raw_fd())?))).collect()
    }
}

fn sum(by_cpu: &[Stats]) -> Stats {
    by_cpu.iter().fold(Stats::default(), |sum, stats| Stats {
        connections: sum.connections.wrapping_add(stats.connections),
        request_packets: sum.request_packets.wrapping_add(stats.request_packets),
        request_bytes: sum.request_bytes.wrapping_add(stats.request_bytes),
        reply_packets: sum.reply_packets.wrapping_add(stats.reply_packets),
        reply_bytes: sum.reply_bytes.wrapping_add(stats.reply_bytes),
    })
}

fn memory(fd: i32) -> io::Result<u64> {
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{fd}"))?;
    let bytes = text.lines().find_map(|line| line.strip_prefix("memlock:")?.trim().parse().ok());
    bytes.ok_or_else(|| io::Error::other("the kernel does not say how much memory a map takes"))
}
