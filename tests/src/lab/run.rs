//! One run of the lab: its name, its directory, and the promise that nothing of it stays behind.
//!
//! Everything a run makes is found again by its name alone: namespaces `svc-lab-ID-*`, the cgroup `svc-lab-ID`, and the
//! directory `/run/svc-lab/ID` with the bpffs mounts. A janitor process holds the read end of a pipe; when the run
//! ends, in whatever way, the pipe closes and the janitor takes all of it away. Should even the janitor die, the next
//! run sweeps up what belongs to dead processes.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result};

use super::{cgroup, tool};

const STATE: &str = "/run/svc-lab";
const NETNS: &str = "/run/netns";
const KEEP: &str = "keep";

/// A run that stands until it is dropped.
#[derive(Debug)]
pub struct Run {
    id: String,
    janitor: Option<Child>,
    keep: bool,
}

impl Run {
    /// Takes a name that nobody has and starts the janitor.
    pub fn begin(keep: bool) -> Result<Self> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let pid = std::process::id();
        let id = format!("{pid}-{}", COUNT.fetch_add(1, Ordering::SeqCst));
        let dir = directory(&id);
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        fs::write(dir.join("owner"), owner(pid).context("cannot read the own start time")?)?;
        cgroup::make(&cgroup_of(&id)?)?;
        let janitor = Command::new(tool::sibling("lab-helper", "SVC_LAB_HELPER")?)
            .args(["janitor", &id])
            .stdin(Stdio::piped())
            // Its own group: an interrupt typed at the terminal must not reach it.
            .process_group(0)
            .spawn()
            .context("cannot start the janitor of the lab")?;
        Ok(Self { id, janitor: Some(janitor), keep })
    }

    /// The directory of this run.
    pub fn dir(&self) -> PathBuf {
        directory(&self.id)
    }

    /// Full name of a namespace of this run.
    pub fn netns(&self, name: &str) -> String {
        format!("{}{name}", netns_prefix(&self.id))
    }

    /// A cgroup of this run, made on the way.
    pub fn cgroup(&self, name: &str) -> Result<PathBuf> {
        let path = cgroup_of(&self.id)?.join(name);
        cgroup::make(&path)?;
        Ok(path)
    }

    /// Whether the lab is to stay.
    pub fn keep(&self) -> bool {
        self.keep
    }

    /// Mounts a bpffs of its own for a node.
    pub fn bpffs(&self, node: &str) -> Result<PathBuf> {
        let path = self.dir().join("bpf").join(node);
        fs::create_dir_all(&path)?;
        tool::output(Command::new("mount").args(["-t", "bpf", "bpf"]).arg(&path))?;
        Ok(path)
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let Some(mut janitor) = self.janitor.take() else { return };
        if let Some(mut pipe) = janitor.stdin.take()
            && self.keep
        {
            // If it cannot be told it takes the lab away, which is the safe side.
            let _ = pipe.write_all(KEEP.as_bytes());
        }
        let _ = janitor.wait();
    }
}

/// The janitor: waits until its run has ended and takes it away, unless it is told to leave it.
pub fn janitor(id: &str) -> Result<()> {
    let mut said = String::new();
    std::io::stdin().read_to_string(&mut said).context("the janitor's pipe broke")?;
    if said == KEEP {
        return fs::write(directory(id).join(KEEP), "").context("cannot mark the lab as kept");
    }
    destroy(id)
}

/// Takes away what belongs to processes that are gone. Kept labs stay.
pub fn sweep() {
    for id in ids() {
        let dir = directory(&id);
        let marked = fs::read_to_string(dir.join("owner")).unwrap_or_default();
        let pid = id.split('-').next().and_then(|pid| pid.parse().ok());
        let alive = pid.and_then(owner).is_some_and(|now| now == marked);
        if !alive && !dir.join(KEEP).exists() {
            report(&id, destroy(&id));
        }
    }
}

/// Takes away the labs that were kept; returns their names.
pub fn remove_kept() -> Vec<String> {
    let kept: Vec<String> = ids().into_iter().filter(|id| directory(id).join(KEEP).exists()).collect();
    for id in &kept {
        report(id, destroy(id));
    }
    kept
}

fn report(id: &str, result: Result<()>) {
    if let Err(error) = result {
        eprintln!("lab {id}: cannot take everything away: {error:#}");
    }
}

fn ids() -> Vec<String> {
    let entries = fs::read_dir(STATE).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Takes a run away, from what its name says alone. Each step goes on where an earlier attempt ended.
fn destroy(id: &str) -> Result<()> {
    let dir = directory(id);
    cgroup::remove(&cgroup_of(id)?)?;
    for entry in fs::read_dir(dir.join("bpf")).into_iter().flatten().flatten() {
        if is_mounted(&entry.path()) {
            tool::output(Command::new("umount").arg(entry.path()))?;
        }
    }
    let prefix = netns_prefix(id);
    for entry in fs::read_dir(NETNS).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with(&prefix) {
            tool::output(Command::new("ip").args(["netns", "del", &name]))?;
        }
    }
    match fs::remove_dir_all(&dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

fn is_mounted(path: &Path) -> bool {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    mounts.lines().any(|line| line.split_ascii_whitespace().nth(1).is_some_and(|at| Path::new(at) == path))
}

fn directory(id: &str) -> PathBuf {
    Path::new(STATE).join(id)
}

fn netns_prefix(id: &str) -> String {
    format!("svc-lab-{id}-")
}

fn cgroup_of(id: &str) -> Result<PathBuf> {
    Ok(cgroup::root()?.join(format!("svc-lab-{id}")))
}

/// Number and start time of a process: together they are never given out twice.
fn owner(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold blanks; the start time is the 20th field after it.
    let (_, after) = stat.rsplit_once(')')?;
    Some(format!("{pid} {}", after.split_ascii_whitespace().nth(19)?))
}
