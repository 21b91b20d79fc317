//! The compiler for the kernel object: a nightly or a bootstrapped rustc with its sources, and bpf-linker.
//!
//! `core` has to be built for the BPF target, which needs the compiler's sources and an unstable flag. Two toolchains
//! can do that: a rustup nightly with the component rust-src, and Debian's rustc with its source package, told by
//! `RUSTC_BOOTSTRAP` to accept unstable flags.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::run::{command, find, output};

/// The LLVM that bpf-linker is built with. It reads bitcode of this major version and older, so that no compiler with a
/// newer one will do.
pub(crate) const LLVM: u32 = 22;
/// bpf-linker's version. A release of it once broke BTF: it is pinned, and changed together with a test run.
pub(crate) const BPF_LINKER: &str = "0.13.0";

/// A compiler that can build `core` for the kernel.
pub(crate) struct Toolchain {
    rustc: PathBuf,
    cargo: PathBuf,
    bootstrap: bool,
}

impl Toolchain {
    /// The toolchain to use, if the machine has one: a nightly first, then the distribution's.
    pub(crate) fn find() -> Option<Self> {
        Self::nightly().or_else(Self::distribution)
    }

    fn nightly() -> Option<Self> {
        let rustup = find("rustup")?;
        let ask = |args: &[&str]| output(command(&rustup, args).env_remove("RUSTUP_TOOLCHAIN")).ok();
        // Only those that are installed are asked for: rustup may fetch one that it is asked for and has not.
        let installed = ask(&["toolchain", "list"])?;
        let nightlies =
            installed.lines().filter_map(|line| line.split(' ').next()).filter(|n| n.starts_with("nightly"));
        nightlies.into_iter().find_map(|name| {
            let which = |program| ask(&["which", "--toolchain", name, program]).map(|path| PathBuf::from(path.trim()));
            Self { rustc: which("rustc")?, cargo: which("cargo")?, bootstrap: false }.usable()
        })
    }

    fn distribution() -> Option<Self> {
        Self { rustc: "/usr/bin/rustc".into(), cargo: "/usr/bin/cargo".into(), bootstrap: true }.usable()
    }

    fn usable(self) -> Option<Self> {
        let version = output(self.clean(&self.rustc).arg("-vV")).ok()?;
        let sysroot = output(self.clean(&self.rustc).args(["--print", "sysroot"])).ok()?;
        let sources = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core/Cargo.toml");
        let fits = llvm_major(&version)? <= LLVM && release(&version)? >= minor(env!("CARGO_PKG_RUST_VERSION"))?;
        (fits && sources.is_file() && self.cargo.is_file()).then_some(self)
    }

    /// A run of this toolchain's cargo.
    pub(crate) fn cargo(&self, args: &[&str]) -> Command {
        self.run(&self.cargo, args)
    }

    /// A run of this toolchain's clippy; its program lies beside cargo, if it is installed.
    pub(crate) fn clippy(&self, args: &[&str]) -> Option<Command> {
        let path = self.cargo.with_file_name("cargo-clippy");
        path.is_file().then(|| {
            // Called by its path and not through `cargo clippy`, which would take rustup's from cargo's bin folder.
            let mut clippy = self.run(&path, &[&["clippy"], args].concat());
            clippy.env("CARGO", &self.cargo);
            clippy
        })
    }

    /// Is it the distribution's?
    pub(crate) fn bootstrapped(&self) -> bool {
        self.bootstrap
    }

    fn run(&self, program: &Path, args: &[&str]) -> Command {
        let mut cargo = self.clean(program);
        cargo.args(args).env("RUSTC", &self.rustc);
        if self.bootstrap {
            cargo.env("RUSTC_BOOTSTRAP", "1");
        }
        cargo
    }

    /// A program of this toolchain, without what the outer cargo, of another toolchain, has put into the environment.
    fn clean(&self, program: &Path) -> Command {
        let mut command = command(program, &[]);
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            let foreign = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_PROFILE_", "CARGO_BUILD_"];
            let exact = ["CARGO", "RUSTC", "RUSTDOC", "RUSTFLAGS", "RUSTUP_TOOLCHAIN", "LD_LIBRARY_PATH"];
            if exact.contains(&&*text) || text.starts_with("RUSTC_") || foreign.iter().any(|f| text.starts_with(f)) {
                command.env_remove(&name);
            }
        }
        command
    }

    /// For the line that says what is used.
    pub(crate) fn name(&self) -> String {
        self.rustc.display().to_string()
    }
}

/// The `LLVM version:` line of `rustc -vV`.
fn llvm_major(version: &str) -> Option<u32> {
    version.lines().find_map(|line| line.strip_prefix("LLVM version: "))?.split('.').next()?.parse().ok()
}

/// The minor version of the `release:` line of `rustc -vV`.
fn release(version: &str) -> Option<u32> {
    minor(version.lines().find_map(|line| line.strip_prefix("release: "))?)
}

/// 95 of "1.95.0".
fn minor(version: &str) -> Option<u32> {
    version.strip_prefix("1.")?.split('.').next()?.parse().ok()
}

/// bpf-linker, if the machine has the version that we pin.
pub(crate) fn bpf_linker() -> Option<PathBuf> {
    let path = find("bpf-linker")?;
    let version = output(&mut command(&path, &["--version"])).ok()?;
    (version.trim() == format!("bpf-linker {BPF_LINKER}")).then_some(path)
}

#[cfg(test)]
mod tests {
    use super::{llvm_major, release};

    #[test]
    fn versions_are_read_from_rustc() {
        let text = "rustc 1.96.0\nrelease: 1.97.0-nightly\nLLVM version: 22.1.8\n";
        assert_eq!(llvm_major(text), Some(22));
        assert_eq!(release(text), Some(97));
        assert_eq!(llvm_major("rustc 1.96.0\n"), None);
    }
}
