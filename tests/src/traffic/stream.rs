//! Many bytes with a checksum at both ends.

use std::io::{self, Read, Write};

const BLOCK: usize = 256 * 1024;

/// Bytes that differ everywhere, and the sum over all of them in order.
#[derive(Debug)]
struct Noise(u64);

impl Noise {
    fn fill(&mut self, block: &mut [u8]) {
        for word in block.chunks_mut(8) {
            // xorshift64: quick, and no stretch of it is like another.
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            word.copy_from_slice(&self.0.to_le_bytes()[..word.len()]);
        }
    }
}

/// Depends on every byte and on its place, whatever pieces the bytes come in.
#[derive(Debug)]
struct Sum(u64);

impl Sum {
    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

/// Sends noise and returns its checksum.
pub fn send(to: &mut impl Write, bytes: u64) -> io::Result<u64> {
    let (mut noise, mut sum) = (Noise(0x9e37_79b9_7f4a_7c15), Sum(0xcbf2_9ce4_8422_2325));
    let mut block = vec![0; BLOCK];
    let mut left = bytes;
    while left > 0 {
        let now = usize::try_from(left).map_or(BLOCK, |left| left.min(BLOCK));
        noise.fill(&mut block[..now]);
        sum.add(&block[..now]);
        to.write_all(&block[..now])?;
        left -= now as u64;
    }
    Ok(sum.0)
}

/// Receives that many bytes and returns their checksum.
pub fn receive(from: &mut impl Read, bytes: u64) -> io::Result<u64> {
    let mut sum = Sum(0xcbf2_9ce4_8422_2325);
    let mut block = vec![0; BLOCK];
    let mut left = bytes;
    while left > 0 {
        let room = usize::try_from(left).map_or(BLOCK, |left| left.min(BLOCK));
        let got = from.read(&mut block[..room])?;
        if got == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        sum.add(&block[..got]);
        left -= got as u64;
    }
    Ok(sum.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ends_agree_and_a_changed_byte_shows() {
        let mut wire = Vec::new();
        let sent = send(&mut wire, 700_001).expect("a Vec takes everything");
        assert_eq!(receive(&mut wire.as_slice(), 700_001).expect("all there"), sent);
        wire[350_000] ^= 1;
        assert_ne!(receive(&mut wire.as_slice(), 700_001).expect("all there"), sent);
    }
}
