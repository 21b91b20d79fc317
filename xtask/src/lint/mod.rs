//! `cargo xtask lint`: everything that can be judged without running the programs.
//!
//! The steps go on after a failure, so that one run shows all there is to mend.

mod documents;
mod imports;
mod object;
mod source;
mod tidy;

use std::collections::BTreeSet;

use anyhow::{Result, bail};
use clap::ValueEnum;

use crate::run::{cargo, command, run as run_command};
use crate::{build_ebpf, machine, setup};

/// `lint`
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only these steps
    steps: Vec<Step>,
    /// Set each program's budget to what it needs now (the verifier's share as root); the difference is for review
    #[arg(long)]
    write_budget: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
enum Step {
    /// Formatting
    Fmt,
    /// House rules that no other tool knows
    Tidy,
    /// Compiler and clippy warnings of what runs in user space
    Clippy,
    /// The same for the kernel programs, on their own target
    Kernel,
    /// The kernel object: no memory calls, no panics, within its budget
    Object,
    /// Licences, sources and bans of dependencies
    Deny,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    if args.write_budget {
        object::write_budget(&build_ebpf::build()?)?;
        if let Some(reason) = machine::no_programs() {
            bail!("the verified instructions are left as they are: {reason}");
        }
        // Only the kernel knows them; the test that asserts them writes them when it is told to.
        let test = ["test", "--workspace", "--exclude", "svc-ebpf", "--test", "run_budget"];
        return run_command(cargo(&test).env("SVC_WRITE_BUDGET", "1"));
    }
    let chosen: BTreeSet<Step> = args.steps.iter().copied().collect();
    let mut failed = Vec::new();
    for step in Step::value_variants() {
        if !chosen.is_empty() && !chosen.contains(step) {
            continue;
        }
        if let Err(error) = step.run() {
            eprintln!("lint {}: {error:#}", step.name());
            failed.push(step.name());
        }
    }
    if !failed.is_empty() {
        bail!("lint found something in: {}", failed.join(", "));
    }
    println!("lint: nothing to mend");
    Ok(())
}

impl Step {
    fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    fn run(self) -> Result<()> {
        match self {
            Self::Fmt => {
                setup::rustup_component("rustfmt", "cargo-fmt")?;
                run_command(&mut cargo(&["fmt", "--all", "--check"]))
            }
            Self::Tidy => report(&[tidy::check()?, imports::check()?, documents::check()?].concat()),
            Self::Clippy => {
                setup::rustup_component("clippy", "cargo-clippy")?;
                let workspace = ["--workspace", "--exclude", "svc-ebpf", "--all-targets", "--quiet"];
                run_command(cargo(&["clippy"]).args(workspace).args(["--", "-Dwarnings"]))
            }
            Self::Kernel => run_command(build_ebpf::clippy()?.args(["--", "-Dwarnings"])),
            Self::Object => report(&object::check(&build_ebpf::build()?)?),
            Self::Deny => {
                let deny = setup::cargo_deny()?;
                // Advisories need a database from the network; CI machines have none.
                let checks = ["check", "bans", "licenses", "sources"];
                run_command(command(deny, &["--log-level", "error", "--workspace"]).args(checks))
            }
        }
    }
}

/// Prints each problem on its line.
fn report(problems: &[String]) -> Result<()> {
    for problem in problems {
        eprintln!("{problem}");
    }
    if problems.is_empty() {
        return Ok(());
    }
    bail!("{} to mend", problems.len())
}
