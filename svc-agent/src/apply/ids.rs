//! Ids that stay with their keys: counted references, and a grace period before an id gets another key.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::hash::Hash;
use std::time::Duration;

/// How long after its release a thing may get another meaning. A program run takes microseconds; the rest is reserve.
pub(super) const GRACE: Duration = Duration::from_secs(1);

/// When something was released: the number of the apply round and the caller's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) round: u64,
    pub(super) at: Duration,
}

impl Stamp {
    /// Whether what was released at `self` may be reused at `now`: in a later round, and after the grace period.
    pub(super) fn is_over(self, now: Self) -> bool {
        now.round > self.round && now.at >= self.at + GRACE
    }
}

struct Entry<K> {
    key: K,
    references: u32,
    /// Number of its last release while nobody refers to the id, else 0. Four bytes instead of a stamp: there may be a
    /// million of these.
    released: u32,
}

/// Ids from 1 on for keys.
pub(super) struct Ids<K> {
    by_key: HashMap<K, u32>,
    entries: Vec<Option<Entry<K>>>,
    free: BTreeSet<u32>,
    released: VecDeque<(u32, u32, Stamp)>,
    releases: u32,
    capacity: u32,
}

impl<K: Clone + Eq + Hash> Ids<K> {
    /// For an array of so many elements, of which number 0 stays unused.
    pub(super) fn new(capacity: u32) -> Self {
        Self {
            by_key: HashMap::new(),
            entries: Vec::from([None]),
            free: BTreeSet::new(),
            released: VecDeque::new(),
            releases: 0,
            capacity,
        }
    }

    /// One more reference to the id of `key`; whether the id is new to the key; `None` if there is no room.
    pub(super) fn acquire(&mut self, key: &K) -> Option<(u32, bool)> {
        if let Some(&id) = self.by_key.get(key) {
            let entry = self.entries[id as usize].as_mut().expect("a key in by_key has an entry");
            entry.references += 1;
            entry.released = 0;
            return Some((id, false));
        }
        let id = match self.free.pop_first() {
            Some(id) => id,
            None if (self.entries.len() as u32) < self.capacity => {
                self.entries.push(None);
                self.entries.len() as u32 - 1
            }
            None => return None,
        };
        self.by_key.insert(key.clone(), id);
        self.entries[id as usize] = Some(Entry { key: key.clone(), references: 1, released: 0 });
        Some((id, true))
    }

    /// One reference less. The id keeps its key until the grace period is over.
    pub(super) fn release(&mut self, id: u32, now: Stamp) {
        let Some(entry) = self.entries.get_mut(id as usize).and_then(Option::as_mut) else { return };
        entry.references = entry.references.saturating_sub(1);
        if entry.references == 0 {
            // It takes four thousand million releases within a grace period to confuse two of them.
            self.releases = self.releases.wrapping_add(1).max(1);
            entry.released = self.releases;
            self.released.push_back((id, self.releases, now));
        }
    }

    /// Ids whose grace period is over, and which are free from now on.
    pub(super) fn reclaim(&mut self, now: Stamp) -> Vec<u32> {
        let mut reclaimed = Vec::new();
        while let Some(&(id, release, stamp)) = self.released.front()
            && stamp.is_over(now)
        {
            self.released.pop_front();
            // It may have been acquired again meanwhile, or acquired and released once more.
            let slot = &mut self.entries[id as usize];
            if slot.as_ref().is_some_and(|entry| entry.released == release)
                && let Some(entry) = slot.take()
            {
                if self.by_key.get(&entry.key) == Some(&id) {
                    self.by_key.remove(&entry.key);
                }
                self.free.insert(id);
                reclaimed.push(id);
            }
        }
        reclaimed
    }

    /// The writes of this round have ended: grace periods begin now.
    pub(super) fn written(&mut self, end: Stamp) {
        let of_round = self.released.iter_mut().rev().take_while(|(_, _, stamp)| stamp.round == end.round);
        of_round.for_each(|(_, _, stamp)| *stamp = end);
    }

    /// Whether an id has no key.
    pub(super) fn is_free(&self, id: u32) -> bool {
        self.entries.get(id as usize).is_none_or(Option::is_none)
    }

    /// Takes over an id as it was found in the tables, without a reference. `false` if the key has an id already: then
    /// this one lives on as long as it is held, and is not given out again.
    pub(super) fn restore(&mut self, id: u32, key: K) -> bool {
        if id == 0 || id >= self.capacity || !self.is_free(id) {
            return false;
        }
        while self.entries.len() <= id as usize {
            self.free.insert(self.entries.len() as u32);
            self.entries.push(None);
        }
        self.free.remove(&id);
        let is_first = !self.by_key.contains_key(&key);
        if is_first {
            self.by_key.insert(key.clone(), id);
        }
        self.entries[id as usize] = Some(Entry { key, references: 0, released: 0 });
        is_first
    }

    /// Leaves ids up to `last` out, as long as that leaves half of all.
    pub(super) fn pass_over(&mut self, last: u32) {
        if last < self.capacity / 2 {
            while self.entries.len() as u32 <= last {
                self.entries.push(None);
            }
        }
    }

    /// One more reference to an id that was restored.
    pub(super) fn hold(&mut self, id: u32) {
        if let Some(entry) = self.entries.get_mut(id as usize).and_then(Option::as_mut) {
            entry.references += 1;
        }
    }

    /// Releases what was restored and has not been acquired since.
    pub(super) fn release_unused(&mut self, now: Stamp) {
        for (id, entry) in (0..).zip(&mut self.entries) {
            if let Some(entry) = entry
                && entry.references == 0
                && entry.released == 0
            {
                self.releases = self.releases.wrapping_add(1).max(1);
                entry.released = self.releases;
                self.released.push_back((id, self.releases, now));
            }
        }
    }

    /// Ids in use, those in their grace period included.
    pub(super) fn len(&self) -> u32 {
        self.entries.len() as u32 - 1 - self.free.len() as u32
    }

    /// The key of an id.
    pub(super) fn key(&self, id: u32) -> Option<&K> {
        self.entries.get(id as usize)?.as_ref().map(|entry| &entry.key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(round: u64, seconds: u64) -> Stamp {
        Stamp { round, at: Duration::from_secs(seconds) }
    }

    #[test]
    fn a_grace_period_begins_when_the_writes_have_ended() {
        let mut ids = Ids::new(8);
        assert_eq!(ids.acquire(&"a"), Some((1, true)));
        ids.release(1, stamp(1, 0));
        ids.written(stamp(1, 5));
        assert!(ids.reclaim(stamp(2, 5)).is_empty());
        assert_eq!(ids.reclaim(stamp(3, 6)), [1]);
    }

    #[test]
    fn an_id_stays_with_its_key_through_the_grace_period() {
        let mut ids = Ids::new(8);
        assert_eq!(ids.acquire(&"a"), Some((1, true)));
        assert_eq!(ids.acquire(&"a"), Some((1, false)));
        ids.release(1, stamp(1, 0));
        ids.release(1, stamp(1, 0));
        assert!(ids.reclaim(stamp(1, 9)).is_empty(), "the same round is too early");
        assert!(ids.reclaim(stamp(2, 0)).is_empty(), "a later round in the same moment is too early");
        assert_eq!(ids.acquire(&"a"), Some((1, false)), "it comes back with its id");
        ids.release(1, stamp(2, 0));
        assert_eq!(ids.acquire(&"b"), Some((2, true)));
        assert_eq!(ids.reclaim(stamp(3, 1)), [1]);
        assert_eq!(ids.acquire(&"c"), Some((1, true)));
    }

    #[test]
    fn a_full_table_gives_no_id() {
        let mut ids = Ids::new(2);
        assert!(ids.acquire(&"a").is_some());
        assert!(ids.acquire(&"b").is_none());
    }

    #[test]
    fn ids_that_are_passed_over_are_not_given_out() {
        let mut ids = Ids::new(8);
        ids.pass_over(3);
        assert_eq!(ids.acquire(&"a"), Some((4, true)));
        let mut full = Ids::new(8);
        full.pass_over(4);
        assert_eq!(full.acquire(&"a"), Some((1, true)), "too many to do without");
    }

    #[test]
    fn restored_ids_are_kept_until_they_prove_unused() {
        let mut ids = Ids::new(8);
        assert!(ids.restore(3, "a"));
        assert!(ids.restore(4, "b"));
        assert!(!ids.restore(4, "c") && !ids.restore(0, "d"));
        assert!(!ids.restore(5, "b"), "a second id of a key is kept, but is not given out");
        assert_eq!(ids.acquire(&"a"), Some((3, false)));
        assert_eq!(ids.acquire(&"new"), Some((1, true)));
        ids.release_unused(stamp(1, 0));
        assert_eq!(ids.reclaim(stamp(2, 5)), [4, 5]);
        assert_eq!(ids.len(), 2);
        assert_eq!(ids.key(3), Some(&"a"));
    }
}
