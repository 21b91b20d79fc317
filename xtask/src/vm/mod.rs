//! `cargo xtask vm`: the same object and the same agent on the kernels that Debian's nodes run.
//!
//! A machine is QEMU without hardware virtualisation, a kernel of Debian's, and an initramfs that is made here
//! ([`image`]): no disk, no network card, nothing installed. It runs the part of the tests that depends on the kernel, and
//! says how each ended over a serial line.

mod cpio;
mod image;
mod kernel;
mod qemu;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::run::{cargo, find, root, run as run_command};
use crate::test::MEMBERS;
use crate::{build_ebpf, setup, tools};
use kernel::Kernel;

/// Kernels that are tried: of the oldest supported and the present release of Debian.
const KERNELS: [&str; 2] = ["6.1", "6.12"];

/// Tests that run in the machine, in this order, and which parts of them; none: all. Of the tiers above them what depends
/// on the kernel: that it accepts the programs, what they do to packets and calls there, maps, attachments. An emulated
/// processor takes some ten seconds to verify all programs, and each start of an agent asks for it.
const TESTS: [(&str, &[&str]); 5] = [
    ("run_load", &[]),
    ("run_tables", &[]),
    ("run_socket", &[]),
    ("run_datapath", &[]),
    ("lab_kernel", &["everybody_is_served_by_what_the_kernel_has", "filters_of_others"]),
];

/// When a machine is given up: several times what it takes on two idle cores.
const LIMIT: Duration = Duration::from_secs(1800);

/// Debian's tools that make the machine, besides those that the tests run in it.
const PROGRAMS: [(&str, &str); 6] = [
    qemu::PROGRAM,
    image::BUSYBOX,
    ("dpkg-deb", "dpkg"),
    ("xz", "xz-utils"),
    ("strip", "binutils"),
    ("ldd", "libc-bin"),
];

/// `vm`
#[derive(Default, clap::Args)]
pub(crate) struct Args {
    /// Only these kernels, for instance 6.1; may be given several times
    #[arg(long = "kernel", value_name = "X.Y")]
    kernels: Vec<String>,
    /// Only these tests, by the names of their files in tests/tests, and each of them whole
    #[arg(long = "test", value_name = "NAME")]
    tests: Vec<String>,
}

/// Why no machine can be had here.
pub(crate) fn obstacle() -> Option<String> {
    if !cfg!(all(target_arch = "x86_64", target_os = "linux")) {
        return Some("the machines are made of this one's programs, and only for Linux on x86-64".to_owned());
    }
    find("apt-get").is_none().then(|| "needs apt-get, to download Debian's kernels and QEMU with".to_owned())
}

pub(crate) fn run(args: &Args) -> Result<()> {
    if let Some(reason) = obstacle() {
        bail!("{reason}");
    }
    setup::programs(tools::RUN_TIME)?;
    setup::programs(&PROGRAMS)?;
    build_ebpf::build()?;
    let chosen: Vec<(&str, &[&str])> = strs(&args.tests).into_iter().map(|test| (test, [].as_slice())).collect();
    let tests = if chosen.is_empty() { TESTS.to_vec() } else { chosen };
    let programs = build(&tests)?;
    let kernels = if args.kernels.is_empty() { KERNELS.to_vec() } else { strs(&args.kernels) };
    let folder = root().join("target/vm");
    let mut failed = Vec::new();
    for version in kernels {
        println!("\n== kernel {version}");
        let began = Instant::now();
        match machine(version, &folder, &programs, &tests) {
            Ok(()) => println!("kernel {version}: passed, {} s", began.elapsed().as_secs()),
            Err(error) => {
                println!("kernel {version}: FAILED, {} s: {error:#}", began.elapsed().as_secs());
                failed.push(version);
            }
        }
    }
    if !failed.is_empty() {
        bail!("failed on kernel {}", failed.join(", "));
    }
    Ok(())
}

fn strs(strings: &[String]) -> Vec<&str> {
    strings.iter().map(String::as_str).collect()
}

/// Builds the agent, the lab's helper and the tests; each with the name that it bears in the machine.
fn build(tests: &[(&str, &[&str])]) -> Result<Vec<(String, PathBuf)>> {
    run_command(cargo(&["build"]).args(MEMBERS).arg("--bins"))?;
    let mut build = cargo(&["test"]);
    build.args(MEMBERS).arg("--no-run");
    for (test, _) in tests {
        build.args(["--test", test]);
    }
    // Faults of the compiler go to the terminal as usual.
    let built = build.arg("--message-format=json-render-diagnostics").stderr(Stdio::inherit()).output()?;
    if !built.status.success() {
        bail!("the tests do not compile");
    }
    let mut programs = Vec::new();
    for line in String::from_utf8_lossy(&built.stdout).lines() {
        let message: Value = serde_json::from_str(line).context("cargo's messages are no JSON")?;
        if let (Some(name), Some(path)) = (message["target"]["name"].as_str(), message["executable"].as_str())
            && tests.iter().any(|(test, _)| *test == name)
        {
            programs.push((name.to_owned(), PathBuf::from(path)));
        }
    }
    let target = programs.first().and_then(|(_, path)| path.parent()?.parent()).context("cargo has built no test")?;
    let more = ["svc-agent", "lab-helper"].map(|name| (name.to_owned(), target.join(name)));
    programs.extend(more);
    Ok(programs)
}

/// Boots one kernel and runs the tests there.
fn machine(version: &str, folder: &Path, programs: &[(String, PathBuf)], tests: &[(&str, &[&str])]) -> Result<()> {
    let kernel = Kernel::get(version, &folder.join(format!("kernel-{version}")))?;
    let initramfs = folder.join(format!("{version}.initramfs"));
    let budget = root().join("xtask/budget.json");
    image::write(&initramfs, &kernel, programs, &[budget], &steps(tests))?;
    let log = folder.join(format!("{version}.log"));
    let began = Instant::now();
    let mut failed = Vec::new();
    let mut left = tests.len() + 1;
    let ended = qemu::run(&kernel.image, &initramfs, &log, LIMIT, |line| {
        println!("{:4} s  {}", began.elapsed().as_secs(), shown(line));
        if let Some((name, status)) = step(line) {
            left -= 1;
            if status != 0 {
                failed.push(name.to_owned());
            }
        }
    });
    // It holds all programs once more.
    fs::remove_file(&initramfs).with_context(|| format!("cannot remove {}", initramfs.display()))?;
    ended?;
    if left != 0 || !failed.is_empty() {
        let missing = if left == 0 { String::new() } else { format!(" and {left} that did not run") };
        bail!("{}{missing}; what they said: {}", failed.join(", "), log.display());
    }
    Ok(())
}

/// The part of the first process that is about these tests.
fn steps(tests: &[(&str, &[&str])]) -> String {
    let at = image::PROGRAMS;
    let mut script = format!(
        "export SVC_AGENT={at}/svc-agent SVC_LAB_HELPER={at}/lab-helper SVC_LAB_PATIENCE=10 RUST_BACKTRACE=0\n\
         sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1\n\
         step doctor {at}/svc-agent doctor\n\
         grep -E '^ *(ok|note|FAIL) +(TC|programs?) ' /tmp/out | while read -r line; do say \"found $line\"; done\n"
    );
    for (test, parts) in tests {
        // Two at a time: that is how many processors there are.
        script += &format!("step {test} {at}/{test} --test-threads=2 {}\n", parts.join(" "));
    }
    script
}

/// A line of the machine for people.
fn shown(line: &str) -> String {
    let words: Vec<&str> = line.split_ascii_whitespace().collect();
    match words[..] {
        ["step", name, status, seconds] => {
            let verdict = if status == "0" { "passed" } else { "FAILED" };
            format!("{name:14} {verdict} ({seconds} s)")
        }
        ["found", _, ref rest @ ..] => rest.join(" "),
        _ => words.join(" "),
    }
}

/// Name and exit status of a step that has ended.
fn step(line: &str) -> Option<(&str, i32)> {
    let mut words = line.strip_prefix("step ")?.split(' ');
    Some((words.next()?, words.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_s_lines_are_read() {
        assert_eq!(step("step run_load 101 17"), Some(("run_load", 101)));
        assert_eq!(step("booted 6.1.0-56-cloud-amd64"), None);
        assert_eq!(shown("step run_load 101 17"), "run_load       FAILED (17 s)");
        assert_eq!(shown("found ok   programs   the kernel accepts all 13"), "programs the kernel accepts all 13");
        assert_eq!(shown("booted 6.1.0-56-cloud-amd64"), "booted 6.1.0-56-cloud-amd64");
    }

    #[test]
    fn every_test_is_a_file() {
        for (test, _) in TESTS {
            assert!(root().join(format!("tests/tests/{test}.rs")).is_file(), "{test}");
        }
    }
}
