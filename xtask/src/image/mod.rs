//! `cargo xtask image`: the agent as a container image, an OCI archive. No registry, no engine and no network; the same
//! agent and libraries give the same bytes.
//!
//! `root` says what stands in it, `tar` and `sha256` are the two formats that it takes.

mod root;
mod sha256;
mod tar;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::launch::release;
use crate::run::{cargo, root as workspace, run as run_command};
use crate::{build_ebpf, setup, tools};

use tar::Archive;

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
    let image = archive(root::layer(&agent)?, std::env::consts::ARCH)?;
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

/// An OCI archive, and what its manifest is called.
struct Image {
    archive: Vec<u8>,
    manifest: String,
}

/// An image of one layer.
fn archive(layer: Vec<u8>, arch: &str) -> Result<Image> {
    let architecture = match arch {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let config = json!({
        "architecture": architecture,
        "os": "linux",
        "created": "1970-01-01T00:00:00Z",
        "config": { "Entrypoint": [format!("/{}", root::AGENT)], "Cmd": ["run"], "Env": ["PATH=/usr/bin"] },
        "rootfs": { "type": "layers", "diff_ids": [digest(&layer)] },
        "history": [{ "created": "1970-01-01T00:00:00Z", "created_by": "cargo xtask image" }],
    });
    let config = config.to_string().into_bytes();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", &layer)],
    });
    let manifest = manifest.to_string().into_bytes();
    let mut named = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest);
    named["annotations"] = json!({
        "org.opencontainers.image.ref.name": VERSION,
        "io.containerd.image.name": format!("localhost/svc-agent:{VERSION}"),
    });
    named["platform"] = json!({ "architecture": architecture, "os": "linux" });
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [named],
    });
    let mut out = Archive::default();
    out.file("oci-layout", 0o644, json!({ "imageLayoutVersion": "1.0.0" }).to_string().as_bytes())?;
    out.file("index.json", 0o644, index.to_string().as_bytes())?;
    out.folder("blobs")?;
    out.folder("blobs/sha256")?;
    for blob in [&manifest, &config, &layer] {
        out.file(&format!("blobs/sha256/{}", sha256::hex(blob)), 0o644, blob)?;
    }
    Ok(Image { archive: out.finish(), manifest: digest(&manifest) })
}

fn digest(blob: &[u8]) -> String {
    format!("sha256:{}", sha256::hex(blob))
}

fn descriptor(media_type: &str, blob: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": digest(blob), "size": blob.len() })
}

#[cfg(test)]
mod tests {
    use super::archive;

    #[test]
    fn the_same_layer_gives_the_same_bytes() {
        let [one, two] = [(); 2].map(|()| archive(b"layer".to_vec(), "x86_64").expect("an image"));
        assert_eq!(one.archive, two.archive);
        assert!(one.manifest.starts_with("sha256:"));
        assert_ne!(one.manifest, archive(b"other".to_vec(), "x86_64").expect("an image").manifest);
    }
}
