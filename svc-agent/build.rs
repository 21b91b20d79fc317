//! Finds the kernel object that the agent embeds, `$SVC_EBPF_OBJECT` or `target/bpf/svc-ebpf` of the workspace, and hands
//! its path to the compiler as `SVC_EBPF_EMBEDDED`.
//!
//! Without an object the build goes on with an empty one, so that `cargo check` works on a machine that cannot compile
//! for the kernel; the agent says at start that it has none.

use std::path::{Path, PathBuf};
use std::{env, fs, io};

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=SVC_EBPF_OBJECT");
    let object = match env::var_os("SVC_EBPF_OBJECT") {
        Some(path) => PathBuf::from(path),
        None => {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bpf");
            // Cargo runs this script again when the folder changes. A path that is missing it would call changed
            // each time; a folder that cannot be made costs just that.
            let _ = fs::create_dir_all(&folder);
            println!("cargo::rerun-if-changed={}", folder.display());
            folder.join("svc-ebpf")
        }
    };
    let embedded = if object.is_file() {
        println!("cargo::rerun-if-changed={}", object.display());
        fs::canonicalize(object)?
    } else {
        println!("cargo::warning=no kernel object at {}: run cargo xtask build-ebpf", object.display());
        let empty =
            PathBuf::from(env::var_os("OUT_DIR").ok_or_else(|| io::Error::other("OUT_DIR is not set"))?).join("empty");
        fs::write(&empty, [])?;
        empty
    };
    println!("cargo::rustc-env=SVC_EBPF_EMBEDDED={}", embedded.display());
    Ok(())
}
