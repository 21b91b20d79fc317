//! Takes a datapath away: the one thing that ever does.

use std::fs;
use std::io;
use std::path::Path;

use anyhow::Context as _;

use super::{links, pins, ports, upgrade};

/// Detaches all programs, frees all maps and gives back the reserved ports. What was taken away, one line each. Refused
/// while an agent runs.
pub fn cleanup(bpffs: &Path) -> anyhow::Result<Vec<String>> {
    if !bpffs.exists() {
        return Ok(Vec::new());
    }
    let _lock = pins::lock(bpffs)?;
    let mut done = Vec::new();
    // First the programs: without them nobody looks at the maps.
    done.extend(empty(&links::link_dir(bpffs), "program")?);
    done.extend(links::remove_filters()?);
    for entry in fs::read_dir(bpffs).with_context(|| format!("cannot read {}", bpffs.display()))? {
        let path = entry?.path();
        if path.is_dir() && upgrade::is_map_dir(&path) {
            done.extend(empty(&path, "table")?);
        }
    }
    ports::release(bpffs)?;
    // The folder itself stays if somebody else has put something into it.
    match fs::remove_dir(bpffs) {
        Err(error) if !matches!(error.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::ResourceBusy) => {
            Err(error).with_context(|| format!("cannot remove {}", bpffs.display()))
        }
        _ => Ok(done),
    }
}

/// Removes the pins of a folder and the folder.
fn empty(dir: &Path, what: &str) -> anyhow::Result<Vec<String>> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.with_context(|| format!("cannot read {}", dir.display()))?,
    };
    let mut done = Vec::new();
    for entry in entries {
        let path = entry?.path();
        fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        done.push(format!("{what} {}", path.file_name().unwrap_or_default().to_string_lossy()));
    }
    fs::remove_dir(dir).with_context(|| format!("cannot remove {}", dir.display()))?;
    done.sort();
    Ok(done)
}
