//! The garbage collector of the flow tables: a program of the object that the agent runs from time to time. It walks the
//! tables inside the kernel, where an expired entry can be compared and deleted at once.

use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use super::bpf::{self, TestRun};
use super::load::{Hook, Programs};

/// What a walk found and did, by family in the order of [`crate::model::Family::ALL`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collection {
    /// Entries that were there.
    pub seen: [u32; 2],
    /// Entries that had expired and are gone.
    pub removed: [u32; 2],
    /// How long it took.
    pub took: Duration,
}

/// The loaded program; it can be run on any thread.
#[derive(Debug)]
pub struct Gc {
    program: OwnedFd,
}

impl Gc {
    /// Of these programs.
    pub fn new(programs: &Programs) -> anyhow::Result<Self> {
        Ok(Self { program: programs.fd(Hook::Gc)?.try_clone_to_owned()? })
    }

    /// Walks all flow tables once.
    pub fn run(&self) -> anyhow::Result<Collection> {
        // The program writes `svc_common::tables::Collected` over the beginning of a packet of zeros.
        let (packet, mut out) = ([0u8; 64], [0u8; 64]);
        let began = Instant::now();
        let run = TestRun { data_in: &packet, data_out: &mut out, repeat: 1, ..TestRun::default() };
        let result = bpf::test_run(self.program.as_fd(), run).context("cannot run the garbage collector")?;
        if result.verdict != 0 {
            bail!("the garbage collector has failed with {}", result.verdict);
        }
        let word = |index: usize| {
            let bytes = &out[index * 4..];
            u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
        };
        Ok(Collection { seen: [word(0), word(2)], removed: [word(1), word(3)], took: began.elapsed() })
    }
}
