//! What the machine finds at its start: the first process, the programs of this workspace, the tools that they run, the
//! libraries of both, and the modules of its kernel.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::cpio::Archive;
use super::kernel::Kernel;
use crate::run::{command, find, output, root};

/// The first process.
const INIT: &str = include_str!("init.sh");

/// A shell and the small tools around it, linked statically.
pub(crate) const BUSYBOX: (&str, &str) = ("busybox", "busybox-static");

/// What the lab runs. A shell too: that of busybox runs busybox's tools whatever stands in the path.
const TOOLS: [&str; 14] = [
    "sh", "ip", "tc", "bridge", "nft", "ethtool", "ss", "nstat", "sysctl", "nsenter", "setpriv", "curl", "kill",
    "mount",
];

/// Modules that the lab and the agent's programs need where they are not built in; with what these need.
const MODULES: [&str; 15] = [
    "veth",
    "vxlan",
    "dummy",
    "bridge",
    "br_netfilter",
    "sch_ingress",
    "cls_bpf",
    "nf_tables",
    "nft_ct",
    "nft_fib_inet",
    "nft_masq",
    "nft_chain_nat",
    "nft_numgen",
    "nft_reject_inet",
    "sctp",
];

/// Where programs of the workspace lie inside.
pub(crate) const PROGRAMS: &str = "/svc";

/// Writes the initramfs. `programs` are put into [`PROGRAMS`] by name; `files` keep their paths, because tests look for
/// them where they were built. `steps` is the part of the first process that is about this run.
pub(crate) fn write(
    to: &Path,
    kernel: &Kernel,
    programs: &[(String, PathBuf)],
    files: &[PathBuf],
    steps: &str,
) -> Result<()> {
    let mut archive = Archive::new(Vec::new());
    archive.file(Path::new("init"), INIT.as_bytes())?;
    archive.file(Path::new("steps"), steps.as_bytes())?;
    // One place for programs, one for libraries, whatever their old names.
    for (link, target) in [("lib", "usr/lib"), ("lib64", "usr/lib64"), ("sbin", "usr/bin")] {
        archive.link(Path::new(link), target)?;
    }
    let mut libraries = BTreeSet::new();
    let busybox = find(BUSYBOX.0).context("busybox is missing")?;
    archive.file(Path::new("bin/busybox"), &fs::read(&busybox)?)?;
    for tool in TOOLS {
        let path = find(tool).with_context(|| format!("{tool} is missing"))?;
        archive.file(&Path::new("usr/bin").join(tool), &fs::read(&path)?)?;
        libraries.extend(needed(&path)?);
    }
    for (name, path) in programs {
        archive.file(&Path::new(PROGRAMS).join(name), &stripped(path)?)?;
        libraries.extend(needed(path)?);
    }
    for library in libraries {
        let inside = library.strip_prefix("/usr").unwrap_or(&library);
        let inside = inside.strip_prefix("/").unwrap_or(inside);
        archive.file(&Path::new("usr").join(inside), &fs::read(&library)?)?;
    }
    // From here tests name files as they were built: `tests/../FILE`.
    archive.folder(&root().join("tests"))?;
    for file in files {
        archive.file(file, &fs::read(file).with_context(|| format!("cannot read {}", file.display()))?)?;
    }
    let mut order = String::new();
    for (name, content) in kernel.with_dependencies(&MODULES)? {
        archive.file(&Path::new("modules").join(&name), &content)?;
        order += &format!("{name}\n");
    }
    archive.file(Path::new("modules/order"), order.as_bytes())?;
    fs::write(to, archive.finish()?).with_context(|| format!("cannot write {}", to.display()))
}

/// The libraries and the loader of a program; none of a static one.
fn needed(program: &Path) -> Result<Vec<PathBuf>> {
    let said = output(command("ldd", &[]).arg(program))?;
    Ok(libraries(&said))
}

/// Paths of what `ldd` prints.
fn libraries(said: &str) -> Vec<PathBuf> {
    let words = said.lines().filter_map(|line| line.split_ascii_whitespace().find(|word| word.starts_with('/')));
    words.map(PathBuf::from).collect()
}

/// A program without what only a debugger reads: a machine without a disk has it all in memory.
fn stripped(program: &Path) -> Result<Vec<u8>> {
    let name = program.file_name().unwrap_or_default();
    let small = root().join(format!("target/vm/{}-{}", name.to_string_lossy(), std::process::id()));
    output(command("strip", &["--strip-debug", "-o"]).arg(&small).arg(program))?;
    let content = fs::read(&small)?;
    fs::remove_file(&small)?;
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::libraries;

    #[test]
    fn libraries_of_a_program() {
        let said = "\tlinux-vdso.so.1 (0x1)\n\tlibm.so.6 => /lib/x86_64-linux-gnu/libm.so.6 (0x2)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x3)\n";
        let paths: Vec<_> = libraries(said).iter().map(|path| path.display().to_string()).collect();
        assert_eq!(paths, ["/lib/x86_64-linux-gnu/libm.so.6", "/lib64/ld-linux-x86-64.so.2"]);
    }
}
