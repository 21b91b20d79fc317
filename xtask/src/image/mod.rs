//! `cargo xtask image`: the agent as a container image, an OCI archive. No registry, no engine and no network; the same
//! agent and libraries give the same bytes.
//!
//! `root` says what stands in it, `oci`, `tar` and `sha256` are the formats that it takes.

pub(crate) mod oci;
pub(crate) mod root;
mod sha256;
mod tar;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};

use crate::launch::release;
use crate::run::{cargo, root as workspace, run as run_command};
use crate::{build_ebpf, setup, tools};

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// `image`
#[derive(clap::Args)]
pub(crate) struct Args {
    /// An agent that is already built; without it one is built as a release
    #[arg(long, value_name = "FILE")]
    agent: Option<PathBuf>,
    /// Where the archive goes [default: target/image/svc-agent-VERSION.tar]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let agent = args.agent.clone().map_or_else(build, Ok)?;
    let output = match &args.output {
        Some(path) => path.clone(),
        None => workspace().join("target/image").join(format!("svc-agent-{VERSION}.tar")),
    };
    let config = oci::Config {
        names: &[format!("localhost/svc-agent:{VERSION}")],
        entrypoint: &format!("/{}", root::AGENT),
        command: &["run"],
        arch: std::env::consts::ARCH,
        made_by: "cargo xtask image",
    };
    let image = oci::archive(&root::agent(&agent)?, &config)?;
    if let Some(folder) = output.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    fs::write(&output, &image.archive).with_context(|| format!("cannot write {}", output.display()))?;
    println!("{}: {} MiB, manifest {}", output.display(), image.archive.len().div_ceil(1 << 20), image.manifest);
    println!("on a node:    ctr --namespace k8s.io images import {}", output.display());
    println!("in a registry: skopeo copy oci-archive:{} docker://REGISTRY/svc-agent:{VERSION}", output.display());
    Ok(())
}

fn build() -> Result<PathBuf> {
    setup::programs(tools::BUILD)?;
    build_ebpf::build()?;
    run_command(&mut cargo(&["build", "--release", "--package", "svc-agent"]))?;
    Ok(release()?.join("svc-agent"))
}
