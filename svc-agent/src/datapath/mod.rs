//! The only place that knows aya and bpf(2): maps, programs, links, pins, and what a running datapath needs tending.
//!
//! | file | owns |
//! |---|---|
//! | [`bpf`] | bpf(2) by raw descriptors |
//! | [`table`] | a map as a typed table |
//! | [`maps`] | all maps of the datapath: sizes, pins, shapes, memory |
//! | [`probe`] | what this kernel and this network namespace are like |
#![expect(unsafe_code, reason = "the boundary to the kernel; each block says why it is sound")]

pub mod bpf;
pub mod maps;
pub mod probe;
pub mod table;

pub use maps::{Maps, Sizes};
