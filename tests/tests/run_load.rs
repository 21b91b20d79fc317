//! The kernel accepts every program of the object. Needs CAP_BPF and CAP_NET_ADMIN.

use svc_agent::datapath::{Globals, Hook, Programs, Sizes};

#[test]
fn the_kernel_accepts_the_packet_programs() {
    let sizes = Sizes { services: 100, endpoints: 1000, flows: 10_000 };
    let globals = Globals { hold_fragments: true, trace: true, ..Globals::TRIAL };
    for hook in [Hook::Gc, Hook::XdpUplink, Hook::TcIngress, Hook::TcEgress] {
        if let Err(error) = Programs::load_private(sizes, &globals, &[hook]) {
            panic!("{}: {error:#}", hook.name());
        }
    }
}
