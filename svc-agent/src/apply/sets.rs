//! From a planned set to the words of the slot array, and the record of what a service port holds.

use std::net::SocketAddr;
use std::sync::Arc;

use ipnet::IpNet;
use svc_common::slots::{MAX_SLOT_WEIGHT, Member, fill_maglev, fill_weighted, maglev_len, mix, slot, weighted_len};
use svc_common::tables::{Algorithm, SlotRange};

use crate::plan::PlannedEndpoint;

use super::Point;

/// A set of backends as it stands in the slot array.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Set {
    /// Where it stands.
    pub(super) range: SlotRange,
    /// The slots and, with affinity, what follows them; see [`SlotRange::len`].
    pub(super) words: Box<[u32]>,
}

/// What a service port in one family holds in the tables.
#[derive(Clone, Debug, Default)]
pub(super) struct Port {
    /// Service id.
    pub(super) id: u32,
    /// Keys of the frontend table that it owned when it was last applied.
    pub(super) points: Vec<Point>,
    /// The Cluster set.
    pub(super) cluster: Set,
    /// The Local set.
    pub(super) local: Set,
    /// Ids of all backends in the sets, ascending, each holding one reference.
    pub(super) members: Box<[u32]>,
    /// Source ranges in the tables under the service id, sorted.
    pub(super) source_ranges: Vec<IpNet>,
    /// Endpoints to which UDP flows may stay, if it is a UDP port; `None` after a restart: not known.
    pub(super) serving: Option<Arc<[SocketAddr]>>,
    /// Found in the tables on restart: what the kernel remembers of it has not been looked through.
    pub(super) unswept: bool,
    /// There may be affinity records.
    pub(super) affinity: bool,
    /// Slot ranges that frontends still pointed to when the agent was last killed.
    pub(super) leftovers: Vec<SlotRange>,
}

/// The words of a set and how many of them are slots. `ids` are those of `endpoints`, in their order.
pub(super) fn layout(
    endpoints: &[PlannedEndpoint],
    ids: &[u32],
    algorithm: Algorithm,
    affinity: bool,
) -> (Box<[u32]>, u32) {
    let mut members: Vec<Member> = endpoints
        .iter()
        .zip(ids)
        .map(|(endpoint, id)| Member::new(*id, endpoint.weight.into(), hash(endpoint.addr)))
        .collect();
    let mut words = match algorithm {
        Algorithm::FlowHash | Algorithm::SourceHash | Algorithm::DestinationHash => {
            let mut slots = vec![0; maglev_len(members.len())];
            fill_maglev(&mut slots, &mut members);
            slots
        }
        Algorithm::Random | Algorithm::RoundRobin | Algorithm::LeastConnections | Algorithm::ShortestDelay => {
            let mut slots = vec![0; weighted_len(&members)];
            if matches!(algorithm, Algorithm::LeastConnections | Algorithm::ShortestDelay) {
                // Only after this the slots know their weights: how often one is there follows from the plain weight.
                write_weights(&mut members);
            }
            fill_weighted(&mut slots, &members);
            slots
        }
    };
    let len = words.len() as u32;
    if affinity && len > 0 {
        let members = distinct(ids);
        words.push(members.len() as u32);
        words.extend(members);
    }
    (words.into_boxed_slice(), len)
}

/// Puts the weights into the ids, so that they end up in the slots.
fn write_weights(members: &mut [Member]) {
    let heaviest = members.iter().map(|member| member.weight).max().unwrap_or(1);
    for member in members {
        let fits = if heaviest <= MAX_SLOT_WEIGHT { member.weight } else { member.weight * MAX_SLOT_WEIGHT / heaviest };
        member.id = slot(member.id, fits.max(1));
    }
}

/// Ascending, each once.
pub(super) fn distinct(ids: &[u32]) -> Vec<u32> {
    let mut ids = ids.to_vec();
    ids.sort_unstable();
    ids.dedup();
    ids
}

/// The same on every node and in every release: Maglev tables of all nodes have to agree.
fn hash(addr: SocketAddr) -> u64 {
    let (high, low) = match addr.ip() {
        std::net::IpAddr::V4(v4) => (0, u64::from(v4.to_bits())),
        std::net::IpAddr::V6(v6) => ((v6.to_bits() >> 64) as u64, v6.to_bits() as u64),
    };
    mix(mix(high ^ 0x9e37_79b9_7f4a_7c15) ^ mix(low.wrapping_add(u64::from(addr.port()) << 48)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoints(weights: &[u16]) -> Vec<PlannedEndpoint> {
        (1..)
            .zip(weights)
            .map(|(port, weight)| PlannedEndpoint {
                addr: SocketAddr::from(([10, 1, 0, 1], port)),
                local: false,
                weight: *weight,
            })
            .collect()
    }

    #[test]
    fn affinity_puts_the_members_behind_the_slots() {
        let (words, len) = layout(&endpoints(&[1, 1, 1]), &[9, 4, 7], Algorithm::Random, true);
        assert_eq!((&*words, len), (&[9, 4, 7, 3, 4, 7, 9][..], 3));
        let (words, len) = layout(&endpoints(&[1, 1]), &[9, 4], Algorithm::Random, false);
        assert_eq!((&*words, len), (&[9, 4][..], 2));
        assert_eq!(layout(&[], &[], Algorithm::Random, true), (Box::default(), 0));
    }

    #[test]
    fn slots_know_the_weights_that_are_compared() {
        for algorithm in [Algorithm::LeastConnections, Algorithm::ShortestDelay] {
            let (words, len) = layout(&endpoints(&[2, 1]), &[9, 4], algorithm, true);
            assert_eq!(len, 3);
            let mut slots = words[..3].to_vec();
            slots.sort_unstable();
            assert_eq!(slots, [slot(4, 1), slot(9, 2), slot(9, 2)]);
            assert_eq!(words[3..], [2, 4, 9], "members are ids");
        }
        let (words, _) = layout(&endpoints(&[2, 800]), &[9, 4], Algorithm::LeastConnections, false);
        let heaviest = words.iter().map(|word| svc_common::slots::weight_of(*word)).max();
        assert_eq!(heaviest, Some(MAX_SLOT_WEIGHT), "what does not fit is scaled");
        assert!(words.iter().all(|word| svc_common::slots::weight_of(*word) > 0));
    }

    #[test]
    fn hashing_algorithms_use_a_maglev_table() {
        let (words, len) = layout(&endpoints(&[1, 1]), &[1, 2], Algorithm::SourceHash, true);
        assert_eq!(len, 251);
        assert_eq!(words[len as usize..], [2, 1, 2]);
    }
}
