//! `cargo xtask build-ebpf`: the kernel object.
//!
//! It has a target folder of its own, since its flags and its compiler differ from those of the user-space build, and
//! neither may invalidate the other.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::run::{root, run as run_command};
use crate::setup;

/// Where the finished object lies, relative to the workspace; svc-agent embeds it from there.
const OBJECT: &str = "target/bpf/svc-ebpf";
const TARGET: &str = "bpfel-unknown-none";

/// `build-ebpf`
#[derive(clap::Args)]
pub(crate) struct Args {}

pub(crate) fn run(_args: &Args) -> Result<()> {
    build().map(drop)
}

/// Builds the object if its sources have changed; its path.
pub(crate) fn build() -> Result<PathBuf> {
    let kernel = setup::kernel_toolchain()?;
    let mut cargo = kernel.toolchain.cargo(&["build"]);
    cargo.args(WHAT);
    run_command(&mut with_flags(cargo, &kernel)?)?;
    let built = root().join("target/ebpf").join(TARGET).join("ebpf/svc-ebpf");
    let object = root().join(OBJECT);
    publish(&built, &object)?;
    let size = fs::metadata(&object)?.len();
    eprintln!("{OBJECT}: {} KiB", size.div_ceil(1024));
    Ok(object)
}

/// Clippy on svc-ebpf, for its own target.
pub(crate) fn clippy() -> Result<Command> {
    let kernel = setup::kernel_toolchain()?;
    let clippy = setup::kernel_clippy(&kernel.toolchain, &WHAT)?;
    with_flags(clippy, &kernel)
}

/// What is built, and where.
const WHAT: [&str; 8] = [
    "--package=svc-ebpf",
    "--profile=ebpf",
    "--target",
    TARGET,
    "-Zbuild-std=core",
    "--target-dir",
    "target/ebpf",
    "--quiet",
];

/// What every build for the kernel has in common.
fn with_flags(mut cargo: Command, kernel: &setup::Kernel) -> Result<Command> {
    let arch = match std::env::consts::ARCH {
        arch @ ("x86_64" | "aarch64") => arch,
        other => bail!("no kernel object for {other}: known are x86_64 and aarch64"),
    };
    let flags = [
        // aya-ebpf chooses the layout of registers in `pt_regs` by it.
        &format!("--cfg=bpf_target_arch=\"{arch}\""),
        // 32-bit registers, jumps and atomics with fetch: kernel 5.12 and newer.
        "-Ctarget-cpu=v3",
        "-Clink-arg=--btf",
        // Without it LLVM never inlines a memset or memcpy, and each padding byte becomes a call to a byte loop.
        "-Clink-arg=--disable-expand-memcpy-in-order",
        // BTF is made from debug info, and `core` needs it too: the verifier refuses functions without.
        "-Cdebuginfo=2",
        "-Cpanic=abort",
    ];
    cargo
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"))
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &kernel.linker);
    Ok(cargo)
}

/// Puts the object where the agent's build looks for it; an equal one is not touched, so that nothing is rebuilt.
fn publish(built: &Path, object: &Path) -> Result<()> {
    let new = fs::read(built).with_context(|| format!("cannot read {}", built.display()))?;
    if fs::read(object).is_ok_and(|old| old == new) {
        return Ok(());
    }
    let folder = object.parent().context("the object's path has no folder")?;
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let temporary = object.with_extension("new");
    fs::write(&temporary, new).with_context(|| format!("cannot write {}", temporary.display()))?;
    fs::rename(&temporary, object).with_context(|| format!("cannot write {}", object.display()))
}
