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

/// Depends on every byte and on its place, whatever pieces the bytes come in. By words: byte by byte it would be the
/// slowest part of a transfer.
#[derive(Debug)]
struct Sum {
    sum: u64,
    /// Bytes of a word that is not complete yet.
    held: Vec<u8>,
}

impl Sum {
    fn new() -> Self {
        Self { sum: 0xcbf2_9ce4_8422_2325, held: Vec::with_capacity(8) }
    }

    fn add(&mut self, mut bytes: &[u8]) {
        if !self.held.is_empty() {
            let (now, rest) = bytes.split_at(bytes.len().min(8 - self.held.len()));
            self.held.extend_from_slice(now);
            bytes = rest;
            if self.held.len() == 8 {
                self.word();
            }
        }
        let mut words = bytes.chunks_exact(8);
        for word in &mut words {
            let mut value = [0; 8];
            value.copy_from_slice(word);
            self.sum = step(self.sum, u64::from_le_bytes(value));
        }
        self.held.extend_from_slice(words.remainder());
    }

    /// Takes the held bytes in, filled up with zeros.
    fn word(&mut self) {
        let mut value = [0; 8];
        value[..self.held.len()].copy_from_slice(&self.held);
        self.held.clear();
        self.sum = step(self.sum, u64::from_le_bytes(value));
    }

    fn finish(mut self) -> u64 {
        self.word();
        self.sum
    }
}

fn step(sum: u64, word: u64) -> u64 {
    (sum.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Sends noise and returns its checksum.
pub fn send(to: &mut impl Write, bytes: u64) -> io::Result<u64> {
    let (mut noise, mut sum) = (Noise(0x9e37_79b9_7f4a_7c15), Sum::new());
    let mut block = vec![0; BLOCK];
    let mut left = bytes;
    while left > 0 {
        let now = usize::try_from(left).map_or(BLOCK, |left| left.min(BLOCK));
        noise.fill(&mut block[..now]);
        sum.add(&block[..now]);
        to.write_all(&block[..now])?;
        left -= now as u64;
    }
    Ok(sum.finish())
}

/// Receives that many bytes and returns their checksum.
pub fn receive(from: &mut impl Read, bytes: u64) -> io::Result<u64> {
    let mut sum = Sum::new();
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
    Ok(sum.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ends_agree_and_a_changed_byte_shows() {
        let mut wire = Vec::new();
        let sent = send(&mut wire, 700_001).expect("a Vec takes everything");
        assert_eq!(receive(&mut wire.as_slice(), 700_001).expect("all there"), sent);
        let mut pieces = Sum::new();
        wire.chunks(13).for_each(|piece| pieces.add(piece));
        assert_eq!(pieces.finish(), sent);
        wire[350_000] ^= 1;
        assert_ne!(receive(&mut wire.as_slice(), 700_001).expect("all there"), sent);
    }
}
