//! `cargo xtask demo | bench | fuzz`: programs of the lab, run with a freshly built agent.
//!
//! They show and measure the product as it is shipped, so they take the release profile.

use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::run::{cargo, command, output, run as run_command};
use crate::{build_ebpf, machine, setup, tools};

/// `demo`, `bench`, `fuzz`: everything is for the program.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// For the program; `-- --help` prints what it takes
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

/// Builds the object, the agent and the lab's programs, then becomes the program.
pub(crate) fn run(program: &str, args: &Args) -> Result<()> {
    if let Some(reason) = machine::no_namespaces() {
        bail!("{program}: {reason}");
    }
    setup::programs(tools::RUN_TIME)?;
    build_ebpf::build()?;
    let mut build = cargo(&["build", "--release", "--package", "svc-agent", "--package", "svc-tests", "--bins"]);
    run_command(&mut build)?;
    let path = target()?.join("release").join(program);
    let error = command(&path, &[]).args(&args.args).exec();
    Err(error).with_context(|| format!("cannot run {}", path.display()))
}

/// Cargo's target folder, wherever it was moved to.
fn target() -> Result<PathBuf> {
    let metadata = output(&mut cargo(&["metadata", "--no-deps", "--offline", "--format-version=1"]))?;
    let metadata: Value = serde_json::from_str(&metadata).context("cargo metadata is no JSON")?;
    Ok(metadata["target_directory"].as_str().context("cargo metadata names no target folder")?.into())
}
