//! Programs that do nothing: what running any program costs by itself, for measurements.

use std::io;
use std::os::fd::OwnedFd;

use super::bpf;

/// Types of [`load`]ed programs, by their numbers in `enum bpf_prog_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    /// TC.
    Classifier = 3,
    /// XDP.
    Xdp = 6,
}

/// Loads a program that returns `verdict` and does nothing else.
pub fn load(kind: Kind, verdict: i32) -> io::Result<OwnedFd> {
    /// `BPF_ALU64 | BPF_MOV | BPF_K` into register 0, and `BPF_JMP | BPF_EXIT` (RFC 9669).
    const MOVE: u64 = 0xb7;
    const EXIT: u64 = 0x95;
    bpf::program_load(kind as u32, &[MOVE | u64::from(verdict.cast_unsigned()) << 32, EXIT])
}
