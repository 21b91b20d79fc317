//! `cargo xtask demo | bench | fuzz`: programs of the lab, run with a freshly built agent.
//!
//! They show and measure the product as it is shipped, so they take the release profile.

use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::cluster::Release;
use crate::run::{cargo, command, output, run as run_command};
use crate::{build_ebpf, cluster, machine, setup, tools};

/// `demo`: everything is for the program.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// For the program; `-- --help` prints what it takes
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

/// `bench`
#[derive(clap::Args)]
pub(crate) struct Bench {
    /// How soon a real API server's changes are served, and what that costs, beside the real kube-proxy: nothing else
    #[arg(long)]
    control: bool,
    /// For the program; `-- --help` prints what it takes
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

/// `fuzz`
#[derive(clap::Args)]
pub(crate) struct Fuzz {
    /// How long
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
    /// The first seed; another one each time when it is not given
    #[arg(long)]
    seed: Option<u64>,
}

pub(crate) fn demo(args: &Args) -> Result<()> {
    prepare("demo")?;
    become_program("demo", &args.args)
}

pub(crate) fn bench(args: &Bench) -> Result<()> {
    prepare("bench")?;
    let mut words = args.args.clone();
    let mut tools = None;
    if args.control {
        words.splice(0..0, ["--only", "control-plane"].map(str::to_owned));
        tools = Some(cluster::build(Release::Newest, &[cluster::FOR_TESTS, cluster::FOR_BENCH].concat())?);
    }
    let path = release()?.join("bench");
    let environment = tools.iter().flat_map(cluster::Built::environment);
    let error = command(&path, &[]).args(words).envs(environment).exec();
    Err(error).with_context(|| format!("cannot run {}", path.display()))
}

pub(crate) fn fuzz(args: &Fuzz) -> Result<()> {
    prepare("fuzz")?;
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let seed = args.seed.unwrap_or_else(now);
    println!("fuzz: {} minutes, seeds from {seed}", args.minutes);
    let agent = release()?.join("svc-agent").to_string_lossy().into_owned();
    become_program("fuzz", &[agent, args.minutes.to_string(), seed.to_string()])
}

/// Builds the object, the agent, one program of the lab and what all of those need.
fn prepare(program: &str) -> Result<()> {
    if let Some(reason) = machine::no_namespaces() {
        bail!("{reason}");
    }
    setup::programs(tools::RUN_TIME)?;
    build_ebpf::build()?;
    let packages = ["build", "--release", "--package", "svc-agent", "--package", "svc-tests"];
    let programs = ["--bin", "svc-agent", "--bin", "lab-helper", "--bin", program];
    run_command(&mut cargo(&[packages.as_slice(), programs.as_slice()].concat()))
}

/// Replaces this process, so that signals and the terminal are the program's own.
fn become_program(program: &str, args: &[String]) -> Result<()> {
    let path = release()?.join(program);
    let error = command(&path, &[]).args(args).exec();
    Err(error).with_context(|| format!("cannot run {}", path.display()))
}

/// Where release builds lie, wherever cargo's target folder was moved to.
pub(crate) fn release() -> Result<PathBuf> {
    let metadata = output(&mut cargo(&["metadata", "--no-deps", "--offline", "--format-version=1"]))?;
    let metadata: Value = serde_json::from_str(&metadata).context("cargo metadata is no JSON")?;
    let target = metadata["target_directory"].as_str().context("cargo metadata names no target folder")?;
    Ok(PathBuf::from(target).join("release"))
}
