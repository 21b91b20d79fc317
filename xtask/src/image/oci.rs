//! The OCI format: an archive with an image of one layer.

use anyhow::Result;
use serde_json::{Value, json};

use super::sha256;
use super::tar::Archive;

/// What an image is called, and what runs in it when nobody says otherwise.
pub(crate) struct Config<'a> {
    /// Names with which `ctr` imports it: `registry/name:tag`.
    pub(crate) names: &'a [String],
    pub(crate) entrypoint: &'a str,
    pub(crate) command: &'a [&'a str],
    /// The machine's architecture, as Rust calls it.
    pub(crate) arch: &'a str,
    /// The command that made it.
    pub(crate) made_by: &'a str,
}

/// An OCI archive, and what its manifest is called.
pub(crate) struct Image {
    pub(crate) archive: Vec<u8>,
    pub(crate) manifest: String,
}

/// An image of one layer.
pub(crate) fn archive(layer: &[u8], config: &Config<'_>) -> Result<Image> {
    let architecture = match config.arch {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let settings = json!({
        "architecture": architecture,
        "os": "linux",
        "created": "1970-01-01T00:00:00Z",
        "config": {
            "Entrypoint": [config.entrypoint], "Cmd": config.command, "Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"],
        },
        "rootfs": { "type": "layers", "diff_ids": [digest(layer)] },
        "history": [{ "created": "1970-01-01T00:00:00Z", "created_by": config.made_by }],
    });
    let settings = settings.to_string().into_bytes();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json", &settings),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", layer)],
    });
    let manifest = manifest.to_string().into_bytes();
    let named = |name: &String| {
        let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest);
        entry["annotations"] = json!({
            "org.opencontainers.image.ref.name": name.rsplit(':').next(),
            "io.containerd.image.name": name,
        });
        entry["platform"] = json!({ "architecture": architecture, "os": "linux" });
        entry
    };
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": config.names.iter().map(named).collect::<Vec<_>>(),
    });
    let mut out = Archive::default();
    out.file("oci-layout", 0o644, json!({ "imageLayoutVersion": "1.0.0" }).to_string().as_bytes())?;
    out.file("index.json", 0o644, index.to_string().as_bytes())?;
    out.folder("blobs")?;
    out.folder("blobs/sha256")?;
    for blob in [manifest.as_slice(), settings.as_slice(), layer] {
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
    use super::{Config, archive};

    #[test]
    fn the_same_layer_gives_the_same_bytes() {
        let names = ["localhost/a:1".to_owned()];
        let config = Config { names: &names, entrypoint: "/a", command: &[], arch: "x86_64", made_by: "a test" };
        let [one, two] = [(); 2].map(|()| archive(b"layer", &config).expect("an image"));
        assert_eq!(one.archive, two.archive);
        assert!(one.manifest.starts_with("sha256:"));
        assert_ne!(one.manifest, archive(b"other", &config).expect("an image").manifest);
    }
}
