//! `cargo xtask setup`: installs what is missing, and only that.
//!
//! Every other command asks here for what it needs, so that `setup` is a convenience and never a precondition.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::cluster::{self, Release};
use crate::run::{cargo, command, find, is_root, output, run as run_command};
use crate::toolchain::{self, BPF_LINKER, LLVM, Toolchain};
use crate::tools;

/// Debian's compiler with its sources.
const KERNEL_PACKAGES: [&str; 3] = ["rustc-web", "cargo-web", "rust-web-src"];

/// A nightly whose LLVM bpf-linker can read.
const NIGHTLY: &str = "nightly-2026-05-20";
/// The version of cargo-deny to install; another one that is there will do.
const CARGO_DENY: &str = "0.20.2";

/// `setup`
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Also build Kubernetes control planes and kube-proxy from their Go modules; minutes for each release, once
    #[arg(long)]
    cluster: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    programs(tools::BUILD)?;
    let kernel = kernel_toolchain()?;
    programs(tools::RUN_TIME)?;
    println!("kernel object: {}, {}", kernel.toolchain.name(), kernel.linker.display());
    if args.cluster {
        cluster::build(Release::Newest, &[cluster::FOR_TESTS, cluster::FOR_BENCH].concat())?;
        cluster::build(Release::Oldest, cluster::FOR_TESTS)?;
        cluster::deploy()?;
    }
    println!("everything is there: cargo xtask demo | test | bench");
    Ok(())
}

/// What builds the kernel object.
pub(crate) struct Kernel {
    pub(crate) toolchain: Toolchain,
    pub(crate) linker: PathBuf,
}

/// The compiler and the linker for the kernel object; installs what is missing of them.
pub(crate) fn kernel_toolchain() -> Result<Kernel> {
    let toolchain = match Toolchain::find() {
        Some(toolchain) => toolchain,
        None => {
            apt("a compiler with its sources for the kernel object", &KERNEL_PACKAGES)?;
            Toolchain::find().with_context(|| {
                let oldest = env!("CARGO_PKG_RUST_VERSION");
                format!("Debian's rustc does not fit: wanted {oldest} or newer, its sources, LLVM {LLVM} or older")
            })?
        }
    };
    let linker = match toolchain::bpf_linker() {
        Some(linker) => linker,
        None => install_bpf_linker()?,
    };
    Ok(Kernel { toolchain, linker })
}

fn install_bpf_linker() -> Result<PathBuf> {
    let prefix = format!("/usr/lib/llvm-{LLVM}");
    if !Path::new(&prefix).join("bin/llvm-config").exists() {
        apt("the LLVM that bpf-linker links with", &[&format!("llvm-{LLVM}-dev"), "g++", "zlib1g-dev", "libzstd-dev"])?;
    }
    let feature = format!("llvm-{LLVM}");
    let mut install = cargo(&["install", "bpf-linker", "--version", BPF_LINKER, "--no-default-features"]);
    // A newer one may be there for another project; ours is the one that the object was tested with.
    install.args(["--features", &feature, "--force"]).env("LLVM_PREFIX", &prefix);
    println!("setup: bpf-linker {BPF_LINKER} is missing; cargo builds and installs it (a few minutes)");
    run_command(&mut install)?;
    toolchain::bpf_linker().context("bpf-linker is installed but not found: put cargo's bin folder into PATH")
}

/// Clippy for the kernel programs, of the same toolchain; installs it when it is missing.
pub(crate) fn kernel_clippy(toolchain: &Toolchain, args: &[&str]) -> Result<Command> {
    if let Some(clippy) = toolchain.clippy(args) {
        return Ok(clippy);
    }
    if !toolchain.bootstrapped() {
        bail!("the nightly has no clippy; type: rustup component add clippy --toolchain nightly");
    }
    apt("clippy for the kernel programs", &["rust-web-clippy"])?;
    toolchain.clippy(args).context("rust-web-clippy is installed, but not beside its cargo")
}

/// A component of the toolchain that compiles for user space.
pub(crate) fn rustup_component(component: &str, program: &str) -> Result<()> {
    if output(&mut cargo(&[program.trim_start_matches("cargo-"), "--version"])).is_ok() {
        return Ok(());
    }
    let Some(rustup) = find("rustup") else { bail!("{program} is missing, and there is no rustup to install it with") };
    println!("setup: {program} is missing; rustup installs it");
    run_command(&mut command(rustup, &["component", "add", component]))
}

/// cargo-deny; installs it when it is missing.
pub(crate) fn cargo_deny() -> Result<PathBuf> {
    if let Some(path) = find("cargo-deny") {
        return Ok(path);
    }
    println!("setup: cargo-deny is missing; cargo builds and installs it (a few minutes)");
    run_command(&mut cargo(&["install", "cargo-deny", "--version", CARGO_DENY, "--locked"]))?;
    find("cargo-deny").context("cargo-deny is installed but not found: put cargo's bin folder into PATH")
}

/// Installs the packages of those programs that are not there.
pub(crate) fn programs(wanted: &[(&str, &str)]) -> Result<()> {
    let missing: Vec<_> = wanted.iter().filter(|(program, _)| find(program).is_none()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = missing.iter().map(|(program, _)| *program).collect();
    let packages: BTreeSet<&str> = missing.iter().map(|(_, package)| *package).collect();
    apt(&names.join(", "), &packages.into_iter().collect::<Vec<_>>())
}

/// Says what it is going to do, then has apt-get do it. On other machines: one line with what to type.
fn apt(what: &str, packages: &[&str]) -> Result<()> {
    let list = packages.join(" ");
    if find("apt-get").is_none() {
        bail!("missing: {what}; there is no apt-get here. {}", by_hand(what));
    }
    let sudo = match (is_root(), find("sudo")) {
        (true, _) => None,
        (false, Some(sudo)) => Some(sudo),
        (false, None) => bail!("missing: {what}; as root: apt-get update && apt-get install {list}"),
    };
    println!("setup: missing: {what}; apt-get installs {list}");
    let privileged = Privileged(sudo);
    let apt_get = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "--yes", "--quiet=2"];
    // The lists of a new image are empty or old, and an old rustc-web is not the one we need. When an update fails,
    // the installation says what is not to be had.
    let _ = privileged.run(&[&apt_get[..], &["update"]].concat());
    let _quiet = NoAutostart::new(&privileged);
    privileged.run(&[&apt_get[..], &["install", "--no-install-recommends"], packages].concat())?;
    if packages.contains(&"nginx-light") && Path::new("/run/systemd/system").exists() {
        // The tests start their own; the machine did not ask for a web server.
        privileged.run(&["systemctl", "disable", "--quiet", "nginx"])?;
    }
    Ok(())
}

/// Runs commands as root, through sudo where this process is not.
struct Privileged(Option<PathBuf>);

impl Privileged {
    fn run(&self, words: &[&str]) -> Result<()> {
        let run = match &self.0 {
            Some(sudo) => &mut command(sudo, words),
            None => &mut command(words[0], &words[1..]),
        };
        // apt-get and dpkg say little on a terminal and everything elsewhere; what goes wrong they say on stderr.
        run_command(run.stdout(Stdio::null()))
    }
}

/// What a person types on a machine without apt-get.
fn by_hand(what: &str) -> String {
    if what.contains("kernel object") || what.contains("bpf-linker") {
        format!(
            "Type: rustup toolchain install {NIGHTLY} --component rust-src && \
             cargo install bpf-linker --version {BPF_LINKER} --no-default-features --features llvm-{LLVM} \
             (with the development files of LLVM {LLVM} and LLVM_PREFIX set to their folder)"
        )
    } else {
        format!("Install with your package manager: {what}")
    }
}

/// Keeps Debian's packages from starting the servers that they bring (nginx) while one of these lives.
struct NoAutostart<'a>(Option<&'a Privileged>);

/// Debian's scripts ask it before they start a server; 101 is no.
const POLICY: &str = "/usr/sbin/policy-rc.d";

impl<'a> NoAutostart<'a> {
    fn new(privileged: &'a Privileged) -> Self {
        let no = format!("printf '#!/bin/sh\\nexit 101\\n' > {POLICY} && chmod 755 {POLICY}");
        // A machine with a policy of its own keeps it. Where none can be made the server starts: a nuisance, no error.
        let made = !Path::new(POLICY).exists() && privileged.run(&["sh", "-c", &no]).is_ok();
        Self(made.then_some(privileged))
    }
}

impl Drop for NoAutostart<'_> {
    fn drop(&mut self) {
        if let Some(privileged) = self.0 {
            let _ = privileged.run(&["rm", POLICY]);
        }
    }
}
