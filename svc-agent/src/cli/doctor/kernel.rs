//! What the kernel offers.

use std::fs;
use std::path::Path;

use super::Report;
use crate::cli::flags::{Flags, SocketLb};
use crate::datapath::{Globals, Hook, Programs, Sizes, maps, pins, probe, sock_destroy};

pub(super) fn examine(flags: &Flags, report: &mut Report) {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    report.note("kernel", release.trim());
    match maps::total_memory(flags.sizes()) {
        Ok(bytes) => report.note("tables", format!("cost {} MiB of kernel memory", bytes.div_ceil(1 << 20))),
        Err(error) => report.bad("tables", format!("cannot count the CPUs: {error}")),
    }
    if pins::is_on_bpffs(&flags.bpffs) {
        report.good("pins", format!("{} is on a BPF file system", flags.bpffs.display()));
    } else {
        report.bad(
            "pins",
            format!("{} is not on a BPF file system: mount -t bpf bpf /sys/fs/bpf", flags.bpffs.display()),
        );
    }
    if probe::has_tcx() {
        report.good("TC", "TCX: programs are attached by links that outlive the agent");
    } else {
        report.note(
            "TC",
            "no TCX (kernel 6.6): programs are filters in a clsact qdisc, and go when somebody deletes that",
        );
    }
    sockets(flags, report);
    programs(report);
}

fn sockets(flags: &Flags, report: &mut Report) {
    if flags.socket_lb == SocketLb::Off {
        report.note("sockets", "--socket-lb off: processes of this host are served at TC, not on loopback node ports");
        return;
    }
    match flags.cgroup.clone().map_or_else(pins::cgroup_root, Ok) {
        Ok(path) if Path::new(&path).is_dir() => report.good("sockets", format!("cgroup v2 at {}", path.display())),
        Ok(path) => report.bad("sockets", format!("--cgroup {} is no folder", path.display())),
        Err(error) => report.bad("sockets", format!("{error:#}")),
    }
    if probe::has_set_retval() {
        report.good("sockets", "a refused call fails with \"connection refused\"");
    } else {
        report
            .note("sockets", "no bpf_set_retval (kernel 5.18): calls to a Service without endpoints are refused at TC");
    }
    match sock_destroy::probe() {
        Ok(()) => report.good("sockets", "a connected UDP socket is ended when its endpoint is gone"),
        Err(error) => report.warn(
            "sockets",
            format!(
                "connected UDP sockets cannot be ended and stay with endpoints that are gone: {error}; it takes \
                 CONFIG_INET_UDP_DIAG (modprobe udp_diag), CONFIG_INET_DIAG_DESTROY and CAP_NET_ADMIN"
            ),
        ),
    }
    if let Err(error) = probe::netns_cookie() {
        report.bad("sockets", format!("no cookie of the network namespace (kernel 5.14): {error}"));
    }
}

/// Whether the verifier of this kernel accepts the programs, on tables of their own.
fn programs(report: &mut Report) {
    let globals = Globals { socket_all: true, hold_fragments: true, ..Globals::TRIAL };
    let sizes = Sizes { services: 1, endpoints: 1, flows: 1 };
    let (mut accepted, mut verified) = (0, Some(0));
    for hook in Hook::ALL {
        match Programs::load_private(sizes, &globals, &[hook]) {
            Ok((programs, _maps)) => {
                accepted += 1;
                let walked = programs.verified(hook).ok().flatten();
                verified = verified.zip(walked).map(|(sum, walked)| sum + walked);
            }
            Err(error) => {
                // The log of the verifier is for developers; its cause is in the first lines.
                let text = format!("{error:#}");
                report.bad(format!("program {}", hook.name()), text.lines().next().unwrap_or_default());
            }
        }
    }
    if accepted == Hook::ALL.len() {
        let walked = verified.map(|walked| format!(" ({walked} instructions verified)")).unwrap_or_default();
        report.good("programs", format!("the kernel accepts all {accepted}{walked}"));
    }
}
