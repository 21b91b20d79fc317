//! What stands in the image: the agent, the shared libraries that it needs and their loader, the certificates of the
//! usual authorities, and the folders on which a runtime mounts something. No shell, no package manager.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

use super::tar::Archive;
use crate::run::{command, output};

/// Where the agent stands.
pub(super) const AGENT: &str = "usr/bin/svc-agent";
/// Certificates, where the TLS library looks for them. Only a kubeconfig without its own needs them.
const CERTIFICATES: &str = "etc/ssl/certs/ca-certificates.crt";
const FOLDERS: [&str; 7] =
    ["dev", "etc/kubernetes", "proc", "run/svc/cgroup", "sys/fs/bpf", "tmp", "var/lib/kube-proxy"];

/// The layer of the agent's image: the same for the same agent and libraries.
pub(super) fn agent(agent: &Path) -> Result<Vec<u8>> {
    let mut root = Root::default();
    root.program(agent, AGENT)?;
    if let Ok(content) = fs::read(Path::new("/").join(CERTIFICATES)) {
        root.file(CERTIFICATES, content);
    }
    // Root is the only user; programs that ask for a name get one.
    root.file("etc/passwd", b"root:x:0:0:root:/:/sbin/nologin\n".to_vec());
    FOLDERS.iter().for_each(|folder| root.folder(folder));
    root.layer()
}

/// Files and folders of an image.
#[derive(Default)]
pub(crate) struct Root {
    files: BTreeMap<String, (u32, Vec<u8>)>,
    folders: Vec<String>,
}

impl Root {
    /// A program of this machine with the libraries that it needs, which stand where they stand here.
    pub(crate) fn program(&mut self, program: &Path, at: &str) -> Result<()> {
        self.files.insert(at.to_owned(), (0o755, read(program)?));
        for library in libraries(program)? {
            let content = read(Path::new(&library))?;
            self.files.insert(library.trim_start_matches('/').to_owned(), (0o755, content));
        }
        Ok(())
    }

    pub(crate) fn file(&mut self, at: &str, content: Vec<u8>) {
        self.files.insert(at.to_owned(), (0o644, content));
    }

    pub(crate) fn folder(&mut self, at: &str) {
        self.folders.push(at.to_owned());
    }

    /// A tar archive of it.
    pub(crate) fn layer(&self) -> Result<Vec<u8>> {
        let of_files = self.files.keys().filter_map(|path| Some(path.rsplit_once('/')?.0.to_owned()));
        let folders: Vec<String> = self.folders.iter().cloned().chain(of_files).collect();
        let mut archive = Archive::default();
        for folder in with_parents(&folders) {
            archive.folder(&folder)?;
        }
        for (path, (mode, content)) in &self.files {
            archive.file(path, *mode, content)?;
        }
        Ok(archive.finish())
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Paths of the libraries and of the loader, as the program asks for them; none for a static one.
fn libraries(program: &Path) -> Result<Vec<String>> {
    let mut ldd = command("ldd", &[]);
    let listing = match output(ldd.arg(program)) {
        Ok(listing) => listing,
        Err(error) if error.to_string().contains("not a dynamic executable") => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    needed(&listing)
}

/// The paths in what ldd prints: `name => path (address)`, or `path (address)` for the loader.
fn needed(listing: &str) -> Result<Vec<String>> {
    let mut paths = Vec::new();
    for line in listing.lines().map(str::trim) {
        if line.ends_with("not found") {
            bail!("ldd: {line}");
        }
        let path = line.split_once(" => ").map_or(line, |(_, path)| path);
        let path = path.split(' ').next().unwrap_or_default();
        if path.starts_with('/') {
            paths.push(path.to_owned());
        }
    }
    Ok(paths)
}

/// All folders on the way, parents first.
fn with_parents(folders: &[String]) -> Vec<String> {
    let mut all = std::collections::BTreeSet::new();
    for folder in folders {
        let ends = folder.match_indices('/').map(|(at, _)| at).chain([folder.len()]);
        all.extend(ends.map(|end| folder[..end].to_owned()));
    }
    all.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::{needed, with_parents};

    #[test]
    fn what_ldd_prints_is_read() {
        let listing = "\tlinux-vdso.so.1 (0x1)\n\tlibc.so.6 => /lib/x/libc.so.6 (0x2)\n\t/lib64/ld-linux.so.2 (0x3)\n\tstatically linked\n";
        assert_eq!(needed(listing).expect("found"), ["/lib/x/libc.so.6", "/lib64/ld-linux.so.2"]);
        assert!(needed("\tlibx.so => not found").is_err());
    }

    #[test]
    fn parents_come_first() {
        assert_eq!(with_parents(&["a/b/c".into(), "a/b".into(), "d".into()]), ["a", "a/b", "a/b/c", "d"]);
    }
}
