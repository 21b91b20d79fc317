//! The address filter with exact counts: a bit is set while any frontend or wildcard has an address that maps to it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use svc_common::net::{V4, V6};
use svc_common::tables::filter_bit;

/// Mirror of the filter.
#[derive(Default)]
pub(super) struct Filter {
    /// Keys in the frontend tables, by bit (word, mask).
    counts: HashMap<(u32, u64), u32>,
    /// What the kernel has; words that are 0 are left out.
    written: BTreeMap<u32, u64>,
    /// Words whose bits may have to be cleared.
    lowered: BTreeSet<u32>,
}

impl Filter {
    /// Takes over what the kernel has.
    pub(super) fn restore(words: &[u64]) -> Self {
        let written: BTreeMap<_, _> = (0u32..).zip(words.iter().copied()).filter(|(_, word)| *word != 0).collect();
        let lowered = written.keys().copied().collect();
        Self { written, lowered, counts: HashMap::new() }
    }

    /// One more key has this address. The word to write first, if its bit is not yet set.
    pub(super) fn raise(&mut self, addr: IpAddr) -> Option<(u32, u64)> {
        let (word, mask) = bit(addr);
        *self.counts.entry((word, mask)).or_default() += 1;
        let written = self.written.entry(word).or_default();
        if *written & mask != 0 {
            return None;
        }
        *written |= mask;
        Some((word, *written))
    }

    /// One key less has this address.
    pub(super) fn lower(&mut self, addr: IpAddr) {
        let (word, mask) = bit(addr);
        if let Some(count) = self.counts.get_mut(&(word, mask)) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&(word, mask));
                self.lowered.insert(word);
            }
        }
    }

    /// Words to write now that all deletions are done.
    pub(super) fn clear(&mut self) -> Vec<(u32, u64)> {
        let mut words = Vec::new();
        for word in std::mem::take(&mut self.lowered) {
            let Some(written) = self.written.get_mut(&word) else { continue };
            let wanted = (0..64)
                .map(|shift| 1 << shift)
                .filter(|mask| *written & mask != 0 && self.counts.contains_key(&(word, *mask)))
                .sum();
            if *written != wanted {
                *written = wanted;
                words.push((word, wanted));
            }
            if wanted == 0 {
                self.written.remove(&word);
            }
        }
        words
    }
}

fn bit(addr: IpAddr) -> (u32, u64) {
    match addr {
        IpAddr::V4(v4) => filter_bit(V4::new(v4)),
        IpAddr::V6(v6) => filter_bit(V6::new(v6)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bit_lives_as_long_as_its_last_address() {
        let mut filter = Filter::default();
        let addr: IpAddr = "10.96.0.1".parse().expect("address");
        let (word, mask) = bit(addr);
        assert_eq!(filter.raise(addr), Some((word, mask)));
        assert_eq!(filter.raise(addr), None);
        filter.lower(addr);
        assert!(filter.clear().is_empty());
        filter.lower(addr);
        assert_eq!(filter.clear(), [(word, 0)]);
        assert!(filter.clear().is_empty());
    }

    #[test]
    fn bits_that_nobody_claims_after_a_restart_are_cleared() {
        let addr: IpAddr = "fd00::1".parse().expect("address");
        let (word, mask) = bit(addr);
        let stray = if mask == 1 { 2 } else { 1 };
        let mut words = vec![0; word as usize + 1];
        words[word as usize] = mask | stray;
        let mut filter = Filter::restore(&words);
        assert_eq!(filter.raise(addr), None);
        assert_eq!(filter.clear(), [(word, mask)]);
    }
}
