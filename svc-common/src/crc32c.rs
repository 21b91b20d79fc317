//! The checksum of SCTP (CRC32c, RFC 9260 appendix A) after a change of ports.
//!
//! CRCs are linear: the checksums of two packets that differ by `d` differ by the CRC (without inversions) of `d`. A
//! change of ports touches the first four bytes only, so the difference is those four bytes followed by zeros, and
//! appending zeros is a multiplication by a power of x modulo the polynomial: no need to read the packet.

/// The Castagnoli polynomial, bits reflected.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// Product of two polynomials modulo [`POLYNOMIAL`], reflected.
#[inline(always)]
const fn multiply(mut a: u32, mut b: u32) -> u32 {
    let mut product = 0;
    let mut bit = 0;
    while bit < 32 {
        // Masks, not branches: the verifier then follows one path through the loop.
        product ^= b & (0u32.wrapping_sub(a >> 31));
        a <<= 1;
        b = (b >> 1) ^ (POLYNOMIAL & (0u32.wrapping_sub(b & 1)));
        bit += 1;
    }
    product
}

/// x^(8 * 2^k) modulo the polynomial, for each bit k of a length in bytes.
const POWERS: [u32; 16] = {
    let mut powers = [0; 16];
    let mut power = 1 << 23;
    let mut bit = 0;
    while bit < 16 {
        powers[bit] = power;
        power = multiply(power, power);
        bit += 1;
    }
    powers
};

/// The checksum field `old` of an SCTP packet of `length` bytes after its first four bytes changed from `before` to
/// `after` (words as they stand in memory; the field too, which RFC 9260 puts least significant byte first).
///
/// A field of zero stays zero: the sender left the checksum to the device.
#[inline(always)]
pub fn update(old: u32, before: u32, after: u32, length: u16) -> u32 {
    if old == 0 || before == after {
        return old;
    }
    // The polynomial of the four changed bytes, moved up by as many places as all bytes of the packet make: 32 for the
    // register, as in every CRC, and eight for each byte behind the four.
    let mut difference = u32::from_le(before ^ after);
    for (bit, power) in POWERS.iter().enumerate() {
        if length >> bit & 1 != 0 {
            difference = multiply(difference, *power);
        }
    }
    old ^ difference.to_le()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn naive(bytes: &[u8]) -> u32 {
        let mut crc = !0u32;
        for &byte in bytes {
            crc ^= u32::from(byte);
            for _ in 0..8 {
                crc = if crc & 1 == 1 { (crc >> 1) ^ POLYNOMIAL } else { crc >> 1 };
            }
        }
        !crc
    }

    #[test]
    fn known_answer() {
        assert_eq!(naive(b"123456789"), 0xe306_9283);
    }

    proptest! {
        #[test]
        fn an_update_equals_a_fresh_crc(mut bytes in prop::collection::vec(any::<u8>(), 12..1600), ports in any::<[u8; 4]>()) {
            let old = naive(&bytes);
            prop_assume!(old != 0);
            let before = u32::from_ne_bytes(bytes[..4].try_into().expect("four bytes"));
            bytes[..4].copy_from_slice(&ports);
            let new = update(old.to_le(), before, u32::from_ne_bytes(ports), bytes.len() as u16);
            prop_assert_eq!(u32::from_le(new), naive(&bytes));
        }
    }
}
