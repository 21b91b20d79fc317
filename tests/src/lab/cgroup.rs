//! cgroup v2 directories: one a node, with the node's processes and pods below it.
//!
//! They are where socket programs are attached, and also how a run finds its processes again when it ends.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::wait;

/// The root of cgroup v2, wherever this machine has mounted it.
pub fn root() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("cannot read /proc/self/mounts")?;
    let found = mounts.lines().find_map(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let (path, kind) = (fields.next()?, fields.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(path))
    });
    found.context("cgroup v2 is not mounted: mount -t cgroup2 none /sys/fs/cgroup/unified")
}

/// Makes a directory and its parents.
pub fn make(path: &Path) -> Result<()> {
    fs::create_dir_all(path).with_context(|| format!("cannot make the cgroup {}", path.display()))
}

/// Ends all processes at and below a directory and removes it. Absent is as good as removed.
pub fn remove(path: &Path) -> Result<()> {
    if !path.exists() {
        return Ok(());
    }
    fs::write(path.join("cgroup.kill"), "1").with_context(|| format!("cannot empty {}", path.display()))?;
    wait::until("processes of the lab end", Duration::from_secs(5), || {
        let events = fs::read_to_string(path.join("cgroup.events"))?;
        if events.contains("populated 1") {
            bail!("{} still has processes", path.display());
        }
        Ok(())
    })?;
    remove_tree(path).with_context(|| format!("cannot remove {}", path.display()))
}

fn remove_tree(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(path)
}
