//! Kernel helpers that change nothing in memory of this program, as safe functions.
#![expect(unsafe_code, reason = "helper bindings")]

use core::ffi::c_void;
use core::ptr;

use aya_ebpf::bindings::{bpf_fib_lookup as Lookup, bpf_redir_neigh, bpf_redir_neigh__bindgen_ty_1};
use aya_ebpf::helpers::generated::{
    bpf_fib_lookup, bpf_get_prandom_u32, bpf_jiffies64, bpf_redirect, bpf_redirect_neigh,
};

/// Low 32 bits of jiffies.
#[inline(always)]
pub(crate) fn jiffies() -> u32 {
    // SAFETY: the helper reads a kernel variable.
    unsafe { bpf_jiffies64() as u32 }
}

/// Thirty-two random bits.
#[inline(always)]
pub(crate) fn random() -> u32 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_get_prandom_u32() }
}

/// An empty routing question.
#[inline(always)]
pub(crate) fn no_question() -> Lookup {
    // SAFETY: the type consists of integers.
    unsafe { core::mem::zeroed() }
}

/// Asks the routing table. `context` is that of the running program.
#[inline(always)]
pub(crate) fn ask_route(context: *mut c_void, question: &mut Lookup) -> i64 {
    // SAFETY: the kernel checks that the context is this program's; the question is a valid place of its size.
    unsafe { bpf_fib_lookup(context, question, size_of::<Lookup>() as i32, 0) }
}

/// Sends the packet out by a device, as it is: the verdict to return.
#[inline(always)]
pub(crate) fn redirect(ifindex: u32, into_stack: bool) -> i32 {
    const INGRESS: u64 = 1;
    // SAFETY: the helper only notes the device for when the program has ended.
    unsafe { bpf_redirect(ifindex, if into_stack { INGRESS } else { 0 }) as i32 }
}

/// Sends the packet out by a device, with the link addresses of its next hop: the verdict to return.
#[inline(always)]
pub(crate) fn redirect_to_neighbour(ifindex: u32) -> i32 {
    // SAFETY: the helper only notes the device for when the program has ended; without parameters the kernel asks the
    // routing table for the next hop.
    unsafe { bpf_redirect_neigh(ifindex, ptr::null_mut(), 0, 0) as i32 }
}

/// Sends the packet out by the way that the routing table has answered: the verdict to return.
#[inline(always)]
pub(crate) fn redirect_to_next_hop(way: &Lookup) -> i32 {
    let mut hop = bpf_redir_neigh {
        nh_family: way.family.into(),
        // SAFETY: integers, of which those of IPv4 are the first; the question began with zeros everywhere.
        __bindgen_anon_1: bpf_redir_neigh__bindgen_ty_1 { ipv6_nh: unsafe { way.__bindgen_anon_4.ipv6_dst } },
    };
    // SAFETY: the helper notes device and next hop for when the program has ended; both are the kernel's own answers.
    unsafe { bpf_redirect_neigh(way.ifindex, &raw mut hop, size_of::<bpf_redir_neigh>() as i32, 0) as i32 }
}
