//! The kernel programs: thin, one file per hook. What they do with a packet is decided in [`svc_common::datapath`].
#![no_std]
#![no_main]
#![feature(asm_experimental_arch, core_intrinsics)]
#![expect(internal_features, reason = "this target has no atomics in core::sync that compile")]

mod call;
mod env;
mod gc;
mod globals;
mod helpers;
mod hold;
mod icmp;
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
mod trace;
mod xdp;

use aya_ebpf::macros::{classifier, xdp};
use aya_ebpf::programs::{TcContext, XdpContext};

use packet::{Raw, Skb};

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

/// Frames that arrive by an uplink, before there is a socket buffer.
#[xdp]
pub(crate) fn xdp_uplink(context: XdpContext) -> u32 {
    xdp::run(&Raw::new(context.ctx))
}

/// The garbage collector: attached nowhere, run by the agent.
#[classifier]
pub(crate) fn gc(context: TcContext) -> i32 {
    gc::run(&Skb::new(context.skb.skb))
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
