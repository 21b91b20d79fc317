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
//! | [`verdict`] | every reason for which a packet is passed, rewritten, refused or dropped |
#![no_std]

#[cfg(test)]
extern crate std;

pub mod net;
pub mod slots;
pub mod tables;
pub mod verdict;
