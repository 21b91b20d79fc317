//! Programs by raw descriptors: loading a small one, and running one on a packet of one's own.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};

use super::{bpf, command, new_fd};

/// Loads a program of a few instructions, each in one word, without type information. `attach`: where it may be attached
/// (`enum bpf_attach_type`), 0 if that is not fixed.
pub(in crate::datapath) fn program_load(kind: u32, attach: u32, instructions: &[u64]) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Attr {
        kind: u32,
        count: u32,
        instructions: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log: u64,
        kernel_version: u32,
        flags: u32,
        name: [u8; 16],
        ifindex: u32,
        attach: u32,
    }
    let mut attr = Attr {
        kind,
        count: instructions.len() as u32,
        instructions: instructions.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
        name: [0; 16],
        ifindex: 0,
        attach,
    };
    // SAFETY: the arm of PROG_LOAD up to the attach type; the pointers outlive the call.
    unsafe { bpf(command::PROG_LOAD, &mut attr) }.map(new_fd)
}

/// A test run of a program: a packet and a context in, and what becomes of them.
#[derive(Debug, Default)]
pub struct TestRun<'a> {
    /// The packet.
    pub data_in: &'a [u8],
    /// Room for the packet afterwards.
    pub data_out: &'a mut [u8],
    /// The context (`__sk_buff`, `xdp_md`), or empty.
    pub context_in: &'a [u8],
    /// Room for the context afterwards, or empty.
    pub context_out: &'a mut [u8],
    /// How often to run it.
    pub repeat: u32,
}

/// What a test run came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TestResult {
    /// What the program returned.
    pub verdict: u32,
    /// Mean time of a run.
    pub nanoseconds: u32,
    /// Length of the packet afterwards.
    pub length: usize,
}

/// Runs a program on a packet of one's own.
pub fn test_run(program: BorrowedFd<'_>, run: TestRun<'_>) -> io::Result<TestResult> {
    run_with(program, run, 0)
}

/// Runs an XDP program on real frames, `batch` of them at a time, and does with them what it says: 5.18. The frames are
/// used again as the program has left them. `run` has no room for a packet or context afterwards.
pub fn test_run_live(program: BorrowedFd<'_>, run: TestRun<'_>, batch: u32) -> io::Result<TestResult> {
    run_with(program, run, batch)
}

fn run_with(program: BorrowedFd<'_>, run: TestRun<'_>, batch: u32) -> io::Result<TestResult> {
    /// `BPF_F_TEST_XDP_LIVE_FRAMES`.
    const LIVE_FRAMES: u32 = 1 << 1;
    #[repr(C)]
    struct Attr {
        program: u32,
        verdict: u32,
        data_size_in: u32,
        data_size_out: u32,
        data_in: u64,
        data_out: u64,
        repeat: u32,
        duration: u32,
        context_size_in: u32,
        context_size_out: u32,
        context_in: u64,
        context_out: u64,
        flags: u32,
        cpu: u32,
        batch_size: u32,
        pad: u32,
    }
    let pointer = |empty: bool, address: u64| if empty { 0 } else { address };
    let mut attr = Attr {
        program: program.as_raw_fd() as u32,
        verdict: 0,
        data_size_in: run.data_in.len() as u32,
        data_size_out: run.data_out.len() as u32,
        data_in: pointer(run.data_in.is_empty(), run.data_in.as_ptr() as u64),
        data_out: pointer(run.data_out.is_empty(), run.data_out.as_mut_ptr() as u64),
        repeat: run.repeat,
        duration: 0,
        context_size_in: run.context_in.len() as u32,
        context_size_out: run.context_out.len() as u32,
        context_in: pointer(run.context_in.is_empty(), run.context_in.as_ptr() as u64),
        context_out: pointer(run.context_out.is_empty(), run.context_out.as_mut_ptr() as u64),
        flags: if batch > 0 { LIVE_FRAMES } else { 0 },
        cpu: 0,
        batch_size: batch,
        pad: 0,
    };
    // SAFETY: the arm of PROG_TEST_RUN; every pointer goes with the length of its slice.
    unsafe { bpf(command::PROG_TEST_RUN, &mut attr) }?;
    Ok(TestResult { verdict: attr.verdict, nanoseconds: attr.duration, length: attr.data_size_out as usize })
}
