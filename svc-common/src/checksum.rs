//! Internet checksum arithmetic (RFC 1071, RFC 1624).
//!
//! One's complement sums do not care about byte order, so everything here works on words as they stand in memory.

use crate::net::{Address, V4, V6};

/// A one's complement sum that has not been folded yet. Wide enough for thousands of words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum(u64);

impl Sum {
    /// Nothing summed yet.
    pub const ZERO: Self = Self(0);

    /// With a 32-bit word added.
    #[inline(always)]
    pub const fn add(self, word: u32) -> Self {
        Self(self.0 + word as u64)
    }

    /// With a 32-bit word taken away: its complement added.
    #[inline(always)]
    pub const fn sub(self, word: u32) -> Self {
        Self(self.0 + !word as u64)
    }

    /// With another sum added.
    #[inline(always)]
    pub const fn plus(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }

    /// With another sum taken away.
    #[inline(always)]
    pub const fn minus(self, other: Self) -> Self {
        self.sub(other.word())
    }

    /// Whether a checksum field that is not complemented holds this sum. Zero has two representations.
    #[inline(always)]
    pub const fn is_equal(self, field: u16) -> bool {
        self.sub(field as u32).folded() == 0xffff
    }

    /// With an address added.
    #[inline(always)]
    pub fn add_addr<A: Summed>(self, addr: A) -> Self {
        addr.add_to(self)
    }

    /// With an address taken away.
    #[inline(always)]
    pub fn sub_addr<A: Summed>(self, addr: A) -> Self {
        addr.sub_from(self)
    }

    /// Folded to 32 bits, as the kernel's checksum helpers take it.
    #[inline(always)]
    pub const fn word(self) -> u32 {
        let once = (self.0 & 0xffff_ffff) + (self.0 >> 32);
        ((once & 0xffff_ffff) + (once >> 32)) as u32
    }

    /// Folded to 16 bits, not complemented.
    #[inline(always)]
    pub const fn folded(self) -> u16 {
        let word = self.word();
        let once = (word & 0xffff) + (word >> 16);
        ((once & 0xffff) + (once >> 16)) as u16
    }

    /// The checksum field of data with this sum.
    #[inline(always)]
    pub const fn checksum(self) -> u16 {
        !self.folded()
    }

    /// The checksum field `old` after this difference (new words added, old ones taken away): RFC 1624, equation 3.
    #[inline(always)]
    pub const fn update(self, old: u16) -> u16 {
        !self.add(!old as u32).folded()
    }

    /// The same for a checksum that the sender left to the device: the field holds the sum of the pseudo header.
    #[inline(always)]
    pub const fn update_partial(self, old: u16) -> u16 {
        self.add(old as u32).folded()
    }
}

/// Addresses as summands.
pub trait Summed: Address {
    /// `sum` with `self` added.
    fn add_to(self, sum: Sum) -> Sum;
    /// `sum` with `self` taken away.
    fn sub_from(self, sum: Sum) -> Sum;
}

impl Summed for V4 {
    #[inline(always)]
    fn add_to(self, sum: Sum) -> Sum {
        sum.add(self.bits())
    }

    #[inline(always)]
    fn sub_from(self, sum: Sum) -> Sum {
        sum.sub(self.bits())
    }
}

impl Summed for V6 {
    #[inline(always)]
    fn add_to(self, sum: Sum) -> Sum {
        let [a, b, c, d] = self.words();
        sum.add(a).add(b).add(c).add(d)
    }

    #[inline(always)]
    fn sub_from(self, sum: Sum) -> Sum {
        let [a, b, c, d] = self.words();
        sum.sub(a).sub(b).sub(c).sub(d)
    }
}

/// Sum of the pseudo header of a TCP or UDP segment of `length` bytes (RFC 9293 3.1, RFC 8200 8.1).
#[inline(always)]
pub fn pseudo_header<A: Summed>(source: A, destination: A, protocol: u8, length: u32) -> Sum {
    Sum::ZERO.add_addr(source).add_addr(destination).add(u32::from(u16::from(protocol).to_be())).add(length.to_be())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The checksum as RFC 1071 words it, byte by byte.
    fn naive(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    fn word(bytes: &[u8], at: usize) -> u32 {
        u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
    }

    proptest! {
        #[test]
        fn an_update_equals_a_fresh_sum(mut bytes in prop::collection::vec(any::<u8>(), 64), new in any::<[u8; 4]>(), at in 0usize..16) {
            // A packet whose words are all zero has no checksum to speak of.
            bytes[63] |= 1;
            let before = u16::from_be(naive(&bytes).to_be());
            let old = word(&bytes, at * 4);
            bytes[at * 4..at * 4 + 4].copy_from_slice(&new);
            let updated = Sum::ZERO.sub(old).add(u32::from_ne_bytes(new)).update(before.to_be());
            prop_assert_eq!(u16::from_be(updated), naive(&bytes));
        }

        #[test]
        fn partial_and_full_agree(a in any::<u32>(), b in any::<u32>(), length in any::<u32>(), new in any::<u32>()) {
            let (a, b, new) = (V4::from_bits(a), V4::from_bits(b), V4::from_bits(new));
            let field = pseudo_header(a, b, 6, length).folded();
            let moved = Sum::ZERO.sub_addr(b).add_addr(new).update_partial(field);
            let fresh = pseudo_header(a, new, 6, length).folded();
            // Zero has two representations in one's complement.
            prop_assert_eq!(moved % 0xffff, fresh % 0xffff);
        }
    }
}
