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

impl Kind {
    /// Loads a program of this type.
    pub(super) fn load(self, instructions: &[u64]) -> io::Result<OwnedFd> {
        let attach = match self {
            Self::Classifier => 0,
            // A relay and where it leads must agree in this.
            Self::Xdp => bpf::AttachType::Xdp as u32,
        };
        bpf::program_load(self as u32, attach, instructions)
    }
}

/// Loads a program that returns `verdict` and does nothing else.
pub fn load(kind: Kind, verdict: i32) -> io::Result<OwnedFd> {
    /// `BPF_ALU64 | BPF_MOV | BPF_K` into register 0, and `BPF_JMP | BPF_EXIT` (RFC 9669).
    const MOVE: u64 = 0xb7;
    const EXIT: u64 = 0x95;
    kind.load(&[MOVE | u64::from(verdict.cast_unsigned()) << 32, EXIT])
}
