//! Debian's kernels: downloaded and unpacked below target/vm, never installed.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::run::{command, find, output, run as run_command};

/// A kernel that lies ready.
pub(crate) struct Kernel {
    /// What the bootloader would load.
    pub(crate) image: PathBuf,
    /// Its modules, by name with underscores.
    modules: BTreeMap<String, PathBuf>,
}

impl Kernel {
    /// The newest of Debian's kernels of a version (`6.1`); downloaded when it is not there yet.
    pub(crate) fn get(version: &str, folder: &Path) -> Result<Self> {
        let tree = folder.join("tree");
        if let Some(kernel) = Self::open(&tree) {
            return Ok(kernel);
        }
        if find("apt-get").is_none() {
            bail!("there is no apt-get here to download Debian's kernel {version} with");
        }
        let names = output(&mut command("apt-cache", &["--names-only", "search", "^linux-image-"]))?;
        let Some(package) = newest(version, &names) else {
            bail!("apt knows no package linux-image-{version}*-cloud-amd64 (apt-cache search linux-image)");
        };
        println!("vm: Debian's {package} is downloaded to {} and not installed", folder.display());
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        // The user that apt-get would rather download as need not be able to reach this folder.
        let apt_get = ["--quiet=2", "--option=APT::Sandbox::User=root", "download", package];
        run_command(command("apt-get", &apt_get).current_dir(folder))?;
        let archive = only_file(folder, "deb")?;
        run_command(command("dpkg-deb", &["--extract"]).arg(&archive).arg(&tree))?;
        fs::remove_file(&archive).with_context(|| format!("cannot remove {}", archive.display()))?;
        Self::open(&tree).with_context(|| format!("{package} holds no kernel"))
    }

    fn open(tree: &Path) -> Option<Self> {
        let image = files(&tree.join("boot")).into_iter().find(|path| name(path).starts_with("vmlinuz-"))?;
        // Debian moves from /lib to /usr/lib.
        let all = [tree.join("lib/modules"), tree.join("usr/lib/modules")].map(|folder| files(&folder)).concat();
        let modules = all.into_iter().filter_map(|path| Some((module_name(&name(&path))?, path))).collect();
        Some(Self { image, modules })
    }

    /// The modules and what they depend on, each after those that it needs. What is not there is built in, or this
    /// kernel does not have it; the tests tell.
    pub(crate) fn with_dependencies(&self, wanted: &[&str]) -> Result<Vec<(String, Vec<u8>)>> {
        let mut order = Vec::new();
        for module in wanted {
            self.add(module, &mut order)?;
        }
        Ok(order)
    }

    fn add(&self, module: &str, order: &mut Vec<(String, Vec<u8>)>) -> Result<()> {
        let Some(path) = self.modules.get(module) else { return Ok(()) };
        if order.iter().any(|(name, _)| name == module) {
            return Ok(());
        }
        let content = if path.extension().is_some_and(|end| end == "xz") {
            let unpacked = command("xz", &["--decompress", "--stdout"]).arg(path).output().context("cannot run xz")?;
            unpacked.stdout
        } else {
            fs::read(path)?
        };
        for needed in dependencies(&content).with_context(|| format!("{} is no module", path.display()))? {
            self.add(&needed, order)?;
        }
        order.push((module.to_owned(), content));
        Ok(())
    }
}

/// The newest package of a version among the lines of `apt-cache search`.
fn newest<'a>(version: &str, names: &'a str) -> Option<&'a str> {
    let numbers = |name: &str| -> Vec<u64> {
        name.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect()
    };
    names
        .lines()
        .filter_map(|line| line.split(' ').next())
        .filter(|name| {
            let rest = name.strip_prefix("linux-image-").and_then(|name| name.strip_prefix(version));
            rest.is_some_and(|rest| rest.starts_with('.') && rest.ends_with("-cloud-amd64"))
        })
        .max_by_key(|name| numbers(name))
}

/// `nft_ct` of "nft-ct.ko.xz".
fn module_name(file: &str) -> Option<String> {
    let (name, end) = file.split_once(".ko")?;
    (end.is_empty() || end.starts_with('.')).then(|| name.replace('-', "_"))
}

/// The line `depends=` of a module's own description.
fn dependencies(module: &[u8]) -> Result<Vec<String>> {
    use object::{Object as _, ObjectSection as _};
    let file = object::File::parse(module)?;
    let info = file.section_by_name(".modinfo").context("it has no .modinfo")?.data()?;
    let lines = info.split(|byte| *byte == 0).map(String::from_utf8_lossy);
    let depends = lines.filter_map(|line| line.strip_prefix("depends=").map(str::to_owned));
    Ok(depends.flat_map(|list| list.split(',').map(|name| name.replace('-', "_")).collect::<Vec<_>>()).collect())
}

/// All files below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => found.extend(files(&path)),
            Ok(kind) if kind.is_file() => found.push(path),
            _ => {}
        }
    }
    found
}

fn only_file(folder: &Path, end: &str) -> Result<PathBuf> {
    let mut found = files(folder).into_iter().filter(|path| path.extension().is_some_and(|e| e == end));
    found.next().with_context(|| format!("apt-get has left no .{end} in {}", folder.display()))
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::{module_name, newest};

    #[test]
    fn the_newest_of_a_version() {
        let names = "linux-image-6.1.0-9-cloud-amd64 - Linux 6.1\nlinux-image-6.1.0-56-cloud-amd64 - Linux 6.1\n\
                     linux-image-6.1.0-56-cloud-amd64-dbg - symbols\nlinux-image-6.12.117+deb12-cloud-amd64 - x\n\
                     linux-image-6.1.0-99-amd64 - not for clouds\nlinux-image-cloud-amd64 - meta\n";
        assert_eq!(newest("6.1", names), Some("linux-image-6.1.0-56-cloud-amd64"));
        assert_eq!(newest("6.12", names), Some("linux-image-6.12.117+deb12-cloud-amd64"));
        assert_eq!(newest("5.15", names), None);
    }

    #[test]
    fn modules_by_name() {
        assert_eq!(module_name("nft-ct.ko.xz").as_deref(), Some("nft_ct"));
        assert_eq!(module_name("veth.ko").as_deref(), Some("veth"));
        assert_eq!(module_name("modules.order"), None);
        assert_eq!(module_name("a.kong"), None);
    }
}
