//! The kernel programs: thin, one file per hook. What they do with a packet is decided in [`svc_common::datapath`].
#![no_std]
#![no_main]
#![feature(core_intrinsics)]
#![expect(internal_features, reason = "this target has no atomics in core::sync that compile")]

mod call;
mod env;
mod globals;
mod helpers;
mod maps;
mod packet;
mod records;
mod reject;
mod rewrite;
mod route;
mod slow;
mod socket;
mod tc;
mod tc_egress;
mod tc_ingress;

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;

use packet::Skb;

/// Packets that arrive by a device.
#[classifier]
pub(crate) fn tc_ingress(context: TcContext) -> i32 {
    tc_ingress::run(&Skb::new(context.skb.skb))
}

/// Packets that leave by a device.
#[classifier]
pub(crate) fn tc_egress(context: TcContext) -> i32 {
    tc_egress::run(&Skb::new(context.skb.skb))
}

/// No program that the verifier accepts can get here.
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[expect(unsafe_code, reason = "the license section")]
// SAFETY: a section of its own that nothing reads but the loader.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";
