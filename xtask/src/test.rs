//! `cargo xtask test`: the tiers, each runnable alone.
//!
//! Without arguments every tier that this machine can run; what is skipped is said, with its reason. A tier that is
//! asked for by name and cannot run is a failure.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;

use crate::cluster::Release;
use crate::run::{cargo, root, run as run_command};
use crate::{build_ebpf, cluster, machine, setup, tools, vm};

/// `test`
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only these tiers
    tiers: Vec<Tier>,
    /// The release of Kubernetes that tier `cluster` runs against
    #[arg(long, value_enum, default_value_t)]
    kubernetes: Release,
    /// For the test programs: part of a test's name, --test-threads=N, --nocapture, ..
    #[arg(last = true)]
    harness: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
enum Tier {
    /// Logic alone: properties and examples, no privileges
    Host,
    /// The real programs, through BPF_PROG_TEST_RUN
    Run,
    /// Nodes and pods as network namespaces, real sockets and clients
    Lab,
    /// A real Kubernetes control plane
    Cluster,
    /// What depends on the kernel, on Debian's kernels under QEMU; only when asked for
    Vm,
}

/// How a tier ended.
enum End {
    Passed,
    Skipped(String),
    Failed(String),
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let chosen: BTreeSet<Tier> = args.tiers.iter().copied().collect();
    let by_name = !chosen.is_empty();
    let mut ends = Vec::new();
    let mut prepared = None;
    for tier in Tier::value_variants().iter().filter(|tier| !by_name || chosen.contains(tier)) {
        // Minutes on a quick machine: for when the kernel programs or their attachments change.
        let unasked = (*tier == Tier::Vm && !by_name).then(|| "takes minutes; type: cargo xtask vm".to_owned());
        let end = match tier.obstacle().or(unasked) {
            Some(reason) if by_name => End::Failed(reason),
            Some(reason) => End::Skipped(reason),
            None => {
                println!("\n== {}: {}", tier.name(), tier.what());
                let ready = if matches!(tier, Tier::Host | Tier::Vm) {
                    &None
                } else {
                    prepared.get_or_insert_with(|| prepare().err())
                };
                match (ready, tier) {
                    (Some(error), _) => End::Failed(format!("{error:#}")),
                    (None, tier) => tier.run(args).map_or_else(|e| End::Failed(format!("{e:#}")), |()| End::Passed),
                }
            }
        };
        ends.push((tier.name(), end));
    }
    println!();
    for (tier, end) in &ends {
        match end {
            End::Passed => println!("{tier:8} passed"),
            End::Skipped(reason) => println!("{tier:8} skipped: {reason}"),
            End::Failed(reason) => println!("{tier:8} FAILED: {reason}"),
        }
    }
    let failed: Vec<&str> =
        ends.iter().filter(|(_, end)| matches!(end, End::Failed(_))).map(|(n, _)| n.as_str()).collect();
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    Ok(())
}

/// What every tier above `host` needs: the tools, the kernel object, and the agent with it inside.
fn prepare() -> Result<()> {
    setup::programs(tools::RUN_TIME)?;
    build_ebpf::build()?;
    run_command(cargo(&["build"]).args(MEMBERS).args(["--bins"]))
}

/// One selection for everything, so that dependencies are built once, with one set of features.
pub(crate) const MEMBERS: [&str; 3] = ["--workspace", "--exclude", "svc-ebpf"];

impl Tier {
    fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    fn what(self) -> String {
        self.to_possible_value().and_then(|value| value.get_help().map(ToString::to_string)).unwrap_or_default()
    }

    /// Why it cannot run here.
    fn obstacle(self) -> Option<String> {
        let obstacle = match self {
            Self::Host => None,
            Self::Run => machine::no_programs(),
            Self::Lab => machine::no_namespaces(),
            Self::Cluster => machine::no_control_plane(),
            Self::Vm => return vm::obstacle(),
        };
        let empty = || (self != Self::Host && !self.has_tests()).then(|| "there are no tests of this tier".to_owned());
        obstacle.or_else(empty)
    }

    fn has_tests(self) -> bool {
        let prefix = format!("{}_", self.name());
        names("tests").is_ok_and(|names| names.iter().any(|name| name.starts_with(&prefix)))
    }

    fn run(self, args: &Args) -> Result<()> {
        if self == Self::Vm {
            return vm::run(&vm::Args::default());
        }
        let mut tests = cargo(&["test"]);
        if self == Self::Cluster {
            tests.envs(cluster::build(args.kubernetes, cluster::FOR_TESTS)?.environment());
            tests.env("SVC_CLUSTER_DEPLOY", cluster::deploy()?);
        }
        tests.args(MEMBERS).arg("--no-fail-fast");
        if self == Self::Host {
            tests.args(["--lib", "--bins"]);
            for (member, prefix) in [("svc-common", ""), ("svc-agent", ""), ("tests", "host_")] {
                for name in names(member)?.iter().filter(|name| name.starts_with(prefix)) {
                    tests.args(["--test", name]);
                }
            }
        } else {
            // Every file of a tier in tests/tests bears its name.
            tests.args(["--test", &format!("{}_*", self.name())]);
        }
        if !args.harness.is_empty() {
            tests.arg("--").args(&args.harness);
        }
        run_command(&mut tests)
    }
}

/// The integration tests of a member.
fn names(member: &str) -> Result<Vec<String>> {
    let folder = root().join(member).join("tests");
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let mut names = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            names.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
        }
    }
    names.sort();
    Ok(names)
}
