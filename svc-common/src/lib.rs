//! The shared language and the shared logic of the datapath.
//!
//! Everything in this crate compiles into the kernel programs *and* into host tests: the code that runs in the
//! kernel is the code that property tests drive in user space. It does no IO, allocates nothing and knows neither
//! aya nor a kernel helper.
//!
//! | room | owns |
//! |---|---|
//! | [`net`] | addresses, ports, protocols, the two address families |
//! | [`slots`] | how sets and weights become slot tables |
//! | [`tables`] | keys and values of every BPF map, map names and default sizes |
//! | [`header`], [`parse`] | bytes of a packet and what they mean |
//! | [`checksum`], [`crc32c`] | checksums after a change |
//! | [`hash`] | the hash functions that choose slots |
//! | [`tuple`] | five-tuples and the key that both directions share |
//! | [`datapath`] | what happens to a packet: classification, choice, connections, translation |
//! | [`line`](mod@line) | what is said about a packet when a person watches |
//! | [`verdict`] | every reason for which a packet is passed, rewritten, refused or dropped |
#![no_std]

#[cfg(test)]
extern crate std;

pub mod checksum;
pub mod crc32c;
pub mod datapath;
pub mod hash;
pub mod header;
pub mod line;
pub mod net;
pub mod parse;
pub mod slots;
pub mod tables;
pub mod tuple;
pub mod verdict;
