//! Who has which part of the slot array. Best fit, with neighbours joined when they become free.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::ids::Stamp;

/// Lengths are rounded up to a multiple of this, so that a set that grows and shrinks by one leaves no useless gaps.
const QUANTUM: u32 = 4;

/// Free parts of the slot array, and parts that become free after their grace period.
pub(super) struct Ranges {
    /// Base to length.
    free: BTreeMap<u32, u32>,
    /// The same by length, then base: the best fit is the first that is long enough.
    by_length: BTreeSet<(u32, u32)>,
    released: VecDeque<(u32, u32, Stamp)>,
    capacity: u32,
    used: u32,
}

impl Ranges {
    /// For an array of so many slots.
    pub(super) fn new(capacity: u32) -> Self {
        let capacity = capacity / QUANTUM * QUANTUM;
        let mut ranges =
            Self { free: BTreeMap::new(), by_length: BTreeSet::new(), released: VecDeque::new(), capacity, used: 0 };
        ranges.put(0, capacity);
        ranges
    }

    /// Room for `length` slots; its base. `None` if there is none.
    pub(super) fn allocate(&mut self, length: u32) -> Option<u32> {
        let wanted = rounded(length)?;
        if wanted == 0 {
            return Some(0);
        }
        let (found, base) = *self.by_length.range((wanted, 0)..).next()?;
        self.take(base, found);
        self.put(base + wanted, found - wanted);
        self.used += wanted;
        Some(base)
    }

    /// Gives a range back; others get it after the grace period.
    pub(super) fn release(&mut self, base: u32, length: u32, now: Stamp) {
        if length > 0 {
            self.released.push_back((base, length, now));
        }
    }

    /// The writes of this round have ended: grace periods begin now.
    pub(super) fn written(&mut self, end: Stamp) {
        let of_round = self.released.iter_mut().rev().take_while(|(_, _, stamp)| stamp.round == end.round);
        of_round.for_each(|(_, _, stamp)| *stamp = end);
    }

    /// Gives back at once what was allocated in this round and never written.
    pub(super) fn undo(&mut self, base: u32, length: u32) {
        if let Some(length) = rounded(length).filter(|length| *length > 0) {
            self.used -= length;
            self.join(base, length);
        }
    }

    /// Frees what has been released long enough ago.
    pub(super) fn reclaim(&mut self, now: Stamp) {
        while let Some(&(base, length, stamp)) = self.released.front()
            && stamp.is_over(now)
        {
            self.released.pop_front();
            self.undo(base, length);
        }
    }

    /// Takes over a range as it was found in the tables. `false` if part of it is taken or outside.
    pub(super) fn restore(&mut self, base: u32, length: u32) -> bool {
        let Some(wanted) = rounded(length) else { return false };
        if wanted == 0 {
            return true;
        }
        let Some((&free, &found)) = self.free.range(..=base).next_back() else { return false };
        let end = u64::from(base) + u64::from(wanted);
        if !base.is_multiple_of(QUANTUM) || end > u64::from(free) + u64::from(found) {
            return false;
        }
        self.take(free, found);
        self.put(free, base - free);
        self.put(base + wanted, free + found - base - wanted);
        self.used += wanted;
        true
    }

    /// Slots in use, those in their grace period included.
    pub(super) fn used(&self) -> u32 {
        self.used
    }

    /// All slots.
    pub(super) fn capacity(&self) -> u32 {
        self.capacity
    }

    fn join(&mut self, mut base: u32, mut length: u32) {
        if let Some((&before, &found)) = self.free.range(..base).next_back()
            && before + found == base
        {
            self.take(before, found);
            base = before;
            length += found;
        }
        if let Some(&found) = self.free.get(&(base + length)) {
            self.take(base + length, found);
            length += found;
        }
        self.put(base, length);
    }

    fn put(&mut self, base: u32, length: u32) {
        if length > 0 {
            self.free.insert(base, length);
            self.by_length.insert((length, base));
        }
    }

    fn take(&mut self, base: u32, length: u32) {
        self.free.remove(&base);
        self.by_length.remove(&(length, base));
    }
}

fn rounded(length: u32) -> Option<u32> {
    length.checked_next_multiple_of(QUANTUM)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn stamp(round: u64) -> Stamp {
        Stamp { round, at: Duration::from_secs(round * 2) }
    }

    #[test]
    fn a_released_range_is_reused_after_the_grace_period() {
        let mut ranges = Ranges::new(8);
        assert_eq!(ranges.allocate(5), Some(0));
        assert_eq!(ranges.allocate(1), None);
        ranges.release(0, 5, stamp(1));
        ranges.reclaim(stamp(1));
        assert_eq!(ranges.allocate(5), None);
        ranges.reclaim(stamp(2));
        assert_eq!(ranges.allocate(5), Some(0));
        assert_eq!(ranges.allocate(0), Some(0));
    }

    proptest! {
        /// No two ranges overlap, and when all are given back the whole array is one range again.
        #[test]
        fn ranges_never_overlap(steps in prop::collection::vec((any::<bool>(), 0u32..40), 1..200)) {
            let mut ranges = Ranges::new(512);
            let mut held: Vec<(u32, u32)> = Vec::new();
            for (round, (allocate, number)) in steps.into_iter().enumerate() {
                let now = stamp(round as u64);
                ranges.reclaim(now);
                if allocate {
                    if let Some(base) = ranges.allocate(number) {
                        for (other, length) in &held {
                            prop_assert!(number == 0 || *length == 0 || base + number <= *other || other + length <= base);
                        }
                        prop_assert!(base + number <= 512);
                        held.push((base, number));
                    }
                } else if !held.is_empty() {
                    let (base, length) = held.swap_remove(number as usize % held.len());
                    ranges.release(base, length, now);
                }
            }
            for (base, length) in held {
                ranges.release(base, length, stamp(1_000));
            }
            ranges.reclaim(stamp(2_000));
            prop_assert_eq!(ranges.used(), 0);
            prop_assert_eq!(ranges.allocate(512), Some(0));
        }
    }
}
