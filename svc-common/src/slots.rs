//! Slot tables: how a set of backends with weights becomes the list out of which `slots[base + h % len]` chooses.
//!
//! Written in user space, read by the programs. Everything works on slices of the caller, so that the order of the
//! slots, which all nodes of a cluster have to agree on, is defined once and for all here.

/// More slots than this are not spent on the exact ratio of weights.
const EXACT: u64 = 4_096;

/// Sum of the slots, about, when the exact ratio takes too many.
const SCALED: u64 = 16_384;

/// Bits of a slot that hold the backend id; the others hold its weight where the choice compares weights.
const ID_BITS: u32 = 23;

/// Largest backend id that a slot can hold.
pub const MAX_ID: u32 = (1 << ID_BITS) - 1;

/// Largest weight that a slot can hold.
pub const MAX_SLOT_WEIGHT: u32 = u32::MAX >> ID_BITS;

/// What stands in a slot: a backend id and, for the algorithms that compare endpoints by connections per weight, its
/// weight. For all others the weight is 0 and the slot is the id itself.
pub const fn slot(id: u32, weight: u32) -> u32 {
    id & MAX_ID | weight << ID_BITS
}

/// The backend id of a slot.
#[inline(always)]
pub const fn id_of(slot: u32) -> u32 {
    slot & MAX_ID
}

/// The weight of a slot.
#[inline(always)]
pub const fn weight_of(slot: u32) -> u32 {
    slot >> ID_BITS
}

/// A backend on its way into a slot table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Member {
    /// Backend id; never 0.
    pub id: u32,
    /// Share of the connections relative to the others, at least 1.
    pub weight: u32,
    /// Hash of what names the backend on every node alike: its address and port, not its id.
    pub hash: u64,
    /// Next candidate in the permutation of this member; scratch of [`fill_maglev`].
    next: u32,
    /// Turns that the member has saved up; scratch of [`fill_maglev`].
    credit: u32,
}

impl Member {
    /// A member of the set.
    pub const fn new(id: u32, weight: u32, hash: u64) -> Self {
        Self { id, weight, hash, next: 0, credit: 0 }
    }
}

/// How the weights of a set become numbers of slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Scale {
    multiply: u64,
    divide: u64,
}

impl Scale {
    fn of(members: &[Member]) -> Self {
        let common = members.iter().fold(0, |common, member| gcd(common, u64::from(member.weight.max(1))));
        let total: u64 = members.iter().map(|member| u64::from(member.weight.max(1))).sum();
        if total <= EXACT * common.max(1) {
            Self { multiply: 1, divide: common.max(1) }
        } else {
            Self { multiply: SCALED.max(members.len() as u64), divide: total }
        }
    }

    /// Slots of one member: rounded, and never none, or the member would be out of the set.
    fn slots(self, member: &Member) -> u64 {
        ((u64::from(member.weight.max(1)) * self.multiply + self.divide / 2) / self.divide).max(1)
    }
}

/// Number of slots that [`fill_weighted`] needs. Equal weights take one slot each.
pub fn weighted_len(members: &[Member]) -> usize {
    let scale = Scale::of(members);
    members.iter().map(|member| scale.slots(member) as usize).sum()
}

/// Repeats every id in proportion to its weight, spread evenly, so that taking the slots in turn never gives one member
/// a burst. Equal weights give the list in its order. `slots` must have [`weighted_len`] elements.
pub fn fill_weighted(slots: &mut [u32], members: &[Member]) {
    if slots.len() == members.len() {
        for (slot, member) in slots.iter_mut().zip(members) {
            *slot = member.id;
        }
        return;
    }
    let scale = Scale::of(members);
    // Neighbours in the list of repeated ids land one golden section of the table apart, which spreads every run of
    // them evenly over the table, whatever its length.
    let stride = golden_stride(slots.len());
    let mut place = 0;
    for member in members {
        for _ in 0..scale.slots(member) {
            if let Some(slot) = slots.get_mut(place) {
                *slot = member.id;
            }
            place = (place + stride) % slots.len().max(1);
        }
    }
}

/// Table sizes of Maglev: primes, so that every skip visits every slot.
const PRIMES: [usize; 10] = [127, 251, 509, 1_021, 2_039, 4_093, 8_191, 16_381, 32_749, 65_521];

/// Slots a member that keep Maglev's imbalance below one per cent.
const SLOTS_PER_MEMBER: usize = 100;

/// Number of slots that [`fill_maglev`] needs for so many members: at least a hundred for each while that is possible.
pub fn maglev_len(members: usize) -> usize {
    match members {
        0 | 1 => members,
        _ => {
            let wanted = members.saturating_mul(SLOTS_PER_MEMBER);
            PRIMES.into_iter().find(|prime| *prime >= wanted).unwrap_or(PRIMES[PRIMES.len() - 1])
        }
    }
}

/// Fills `slots` by Maglev hashing (Eisenbud et al., NSDI 2016): shares in proportion to the weights, and a change of
/// one member moves little beside that member's own share. `slots` must have [`maglev_len`] elements, and the members
/// must come in an order that all nodes agree on.
pub fn fill_maglev(slots: &mut [u32], members: &mut [Member]) {
    slots.fill(0);
    let size = slots.len() as u64;
    let heaviest = members.iter().map(|member| member.weight.max(1)).max().unwrap_or(1);
    for member in &mut *members {
        member.next = (mix(member.hash) % size.max(1)) as u32;
        member.credit = 0;
    }
    let mut free = slots.len();
    while free > 0 && !members.is_empty() {
        for member in &mut *members {
            member.credit += member.weight.max(1);
            if member.credit < heaviest {
                continue;
            }
            member.credit -= heaviest;
            let skip = 1 + mix(member.hash ^ 0x5bd1_e995) % (size - 1).max(1);
            loop {
                let place = member.next as usize;
                member.next = ((u64::from(member.next) + skip) % size) as u32;
                if let Some(slot) = slots.get_mut(place)
                    && *slot == 0
                {
                    *slot = member.id;
                    break;
                }
            }
            free -= 1;
            if free == 0 {
                return;
            }
        }
    }
}

/// The finisher of splitmix64: every bit of the input reaches every bit of the output.
pub const fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

fn gcd(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// The number nearest below `len` times the golden section that has no factor in common with `len`.
fn golden_stride(len: usize) -> usize {
    let mut stride = (len as u64 * 618 / 1_000).max(1);
    while gcd(stride, len as u64) > 1 {
        stride -= 1;
    }
    stride as usize
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::vec;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    fn members(weights: &[u32]) -> Vec<Member> {
        weights.iter().enumerate().map(|(i, weight)| Member::new(i as u32 + 1, *weight, mix(i as u64 + 1))).collect()
    }

    fn count(slots: &[u32]) -> BTreeMap<u32, usize> {
        let mut counts = BTreeMap::new();
        for slot in slots {
            *counts.entry(*slot).or_default() += 1;
        }
        counts
    }

    fn weighted(members: &[Member]) -> Vec<u32> {
        let mut slots = vec![0; weighted_len(members)];
        fill_weighted(&mut slots, members);
        slots
    }

    fn maglev(members: &mut [Member]) -> Vec<u32> {
        let mut slots = vec![0; maglev_len(members.len())];
        fill_maglev(&mut slots, members);
        slots
    }

    /// Every share is within one per cent of the table, or one slot, of what its weight asks for.
    fn assert_shares(slots: &[u32], members: &[Member], slack: f64) {
        let counts = count(slots);
        let total: u32 = members.iter().map(|member| member.weight).sum();
        assert_eq!(counts.len(), members.len(), "every member and nobody else has a slot");
        for member in members {
            let wanted = f64::from(member.weight) / f64::from(total) * slots.len() as f64;
            let got = counts[&member.id] as f64;
            assert!((got - wanted).abs() <= slots.len() as f64 / 100.0 + slack, "{got} slots instead of {wanted}");
        }
    }

    #[test]
    fn equal_weights_are_the_list_itself() {
        assert_eq!(weighted(&members(&[1, 1, 1])), [1, 2, 3]);
        assert_eq!(weighted(&members(&[7, 7, 7])), [1, 2, 3]);
        assert!(weighted(&[]).is_empty());
    }

    #[test]
    fn heavy_members_are_spread() {
        let slots = weighted(&members(&[3, 1]));
        assert_eq!(count(&slots), BTreeMap::from([(1, 3), (2, 1)]));
        let slots = weighted(&members(&[5, 5, 10]));
        // In any window of four a member of weight one half has at least one slot.
        for start in 0..slots.len() {
            assert!((0..4).any(|i| slots[(start + i) % slots.len()] == 3), "burst in {slots:?}");
        }
    }

    #[test]
    fn one_maglev_member_needs_one_slot() {
        assert_eq!(maglev(&mut members(&[4])), [1]);
        assert!(maglev(&mut []).is_empty());
    }

    proptest! {
        #[test]
        fn weights_are_kept(weights in prop::collection::vec(1u32..=65_535, 1..60)) {
            let members = members(&weights);
            assert_shares(&weighted(&members), &members, 1.0);
        }

        #[test]
        fn maglev_keeps_weights(weights in prop::collection::vec(50u32..=100, 2..60)) {
            let mut members = members(&weights);
            let slots = maglev(&mut members);
            assert_shares(&slots, &members, 2.0);
        }

        #[test]
        fn maglev_moves_little(size in 3usize..80, gone in 0usize..80) {
            let gone = gone % size;
            let mut before = members(&vec![1; size]);
            let old = maglev(&mut before);
            let mut after = before.clone();
            let victim = after.remove(gone).id;
            // The same table size on both sides: what a change of size moves is not what is measured here.
            let mut new = vec![0; old.len()];
            fill_maglev(&mut new, &mut after);
            let moved = old.iter().zip(&new).filter(|(old, new)| **old != victim && old != new).count();
            prop_assert!(moved * 100 <= old.len() * 15, "{moved} of {} moved", old.len());
        }
    }
}
