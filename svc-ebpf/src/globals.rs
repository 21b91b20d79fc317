//! What the agent sets when it loads the object. Constants to the verifier, which removes the code that they switch off.
#![expect(unsafe_code, reason = "the loader finds globals by their names")]

use aya_ebpf::Global;
use svc_common::datapath::env::Timeouts;

/// Jiffies in a second.
#[unsafe(no_mangle)]
static HZ: Global<u32> = Global::new(250);

/// Bit of the packet mark that says "translate my source".
#[unsafe(no_mangle)]
static MARK: Global<u32> = Global::new(0x4000);

/// Cookie of the node's own network namespace: processes there are the host.
#[unsafe(no_mangle)]
static NETNS_COOKIE: Global<u64> = Global::new(0);

/// Whether socket programs also serve other namespaces (1).
#[unsafe(no_mangle)]
static SOCKET_ALL: Global<u32> = Global::new(0);

/// Whether this kernel lets a program choose the error of a call: bpf_set_retval, 5.18 (1).
#[unsafe(no_mangle)]
static CAN_REFUSE: Global<u32> = Global::new(0);

/// Whether fragments wait for the first of their datagram (1). Not in trials: what is sent on then leaves for good.
#[unsafe(no_mangle)]
static HOLD_FRAGMENTS: Global<u32> = Global::new(0);

/// Lifetimes of flows in seconds, see [`Timeouts`].
#[unsafe(no_mangle)]
static TIMEOUT_OPENING: Global<u32> = Global::new(Timeouts::DEFAULT.opening);
#[unsafe(no_mangle)]
static TIMEOUT_ESTABLISHED: Global<u32> = Global::new(Timeouts::DEFAULT.established);
#[unsafe(no_mangle)]
static TIMEOUT_CLOSING: Global<u32> = Global::new(Timeouts::DEFAULT.closing);
#[unsafe(no_mangle)]
static TIMEOUT_RESET: Global<u32> = Global::new(Timeouts::DEFAULT.reset);
#[unsafe(no_mangle)]
static TIMEOUT_DATAGRAM: Global<u32> = Global::new(Timeouts::DEFAULT.datagram);
#[unsafe(no_mangle)]
static TIMEOUT_STREAM: Global<u32> = Global::new(Timeouts::DEFAULT.stream);

#[inline(always)]
pub(crate) fn hz() -> u32 {
    HZ.load()
}

#[inline(always)]
pub(crate) fn mark() -> u32 {
    MARK.load()
}

#[inline(always)]
pub(crate) fn netns_cookie() -> u64 {
    NETNS_COOKIE.load()
}

#[inline(always)]
pub(crate) fn socket_all() -> bool {
    SOCKET_ALL.load() != 0
}

#[inline(always)]
pub(crate) fn can_refuse() -> bool {
    CAN_REFUSE.load() != 0
}

#[inline(always)]
pub(crate) fn hold_fragments() -> bool {
    HOLD_FRAGMENTS.load() != 0
}

#[inline(always)]
pub(crate) fn timeouts() -> Timeouts {
    Timeouts {
        opening: TIMEOUT_OPENING.load(),
        established: TIMEOUT_ESTABLISHED.load(),
        closing: TIMEOUT_CLOSING.load(),
        reset: TIMEOUT_RESET.load(),
        datagram: TIMEOUT_DATAGRAM.load(),
        stream: TIMEOUT_STREAM.load(),
    }
}
