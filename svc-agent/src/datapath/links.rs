//! Attachments of the programs: made once, pinned, and from then on only ever updated.
//!
//! A link below `--bpffs`/links outlives the agent and every version of it: the next agent opens the pin and replaces
//! the program in one step, so no packet ever passes a device without a program. Links are named by hook and
//! interface index and are independent of the schema of the maps.
//!
//! Where the kernel has no TCX (before 6.6), TC programs are [`filters`], which outlive the agent by themselves.

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::bpf::{self, AttachType, Target};
use super::filters::{self, Direction};
use super::load::{Hook, Programs};

/// The programs that hang at TC.
const TC: [Hook; 2] = [Hook::TcIngress, Hook::TcEgress];

/// How an XDP program is attached: flags of `BPF_LINK_CREATE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum XdpMode {
    /// By the stack: works on every device, and is slow.
    Generic = 1 << 1,
    /// By the driver.
    Driver = 1 << 2,
}

/// What attaching came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attached {
    /// There was nothing before.
    New,
    /// The program of a link that was there has been replaced.
    Replaced,
}

/// The pinned links of one datapath.
#[derive(Debug)]
pub struct Links {
    dir: PathBuf,
    tcx: bool,
}

/// Folder of the links below `--bpffs`.
pub fn link_dir(bpffs: &Path) -> PathBuf {
    bpffs.join("links")
}

impl Links {
    /// Makes the folder. `tcx`: the kernel has TCX.
    pub fn new(bpffs: &Path, tcx: bool) -> anyhow::Result<Self> {
        let dir = link_dir(bpffs);
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        Ok(Self { dir, tcx })
    }

    /// Name of the link of a program on a device.
    pub fn device_link(hook: Hook, index: u32) -> String {
        format!("{}_{index}", hook.name())
    }

    /// Puts a program on a device's TC hook.
    pub fn attach_tc(&self, programs: &Programs, hook: Hook, index: u32, name: &str) -> anyhow::Result<Attached> {
        let program = programs.fd(hook)?;
        // Where kube-proxy would translate: after the programs of others on the way in, before them on the way out.
        let (tcx, direction, order) = match hook {
            Hook::TcEgress => (AttachType::TcxEgress, Direction::Egress, bpf::FIRST),
            _ => (AttachType::TcxIngress, Direction::Ingress, 0),
        };
        let attached = if self.tcx {
            self.attach(&Self::device_link(hook, index), program, Target::Device(index), tcx, order)
        } else {
            filters::put(index, direction, program, hook.name())
        };
        attached.with_context(|| format!("cannot attach {} to {name}", hook.name()))
    }

    /// Puts the XDP program on a device.
    pub fn attach_xdp(&self, programs: &Programs, index: u32, mode: XdpMode) -> anyhow::Result<Attached> {
        let hook = Hook::XdpUplink;
        let name = Self::device_link(hook, index);
        let target = Target::Device(index);
        Ok(self.attach(&name, programs.fd(hook)?, target, AttachType::Xdp, mode as u32)?)
    }

    /// Puts a socket program on a cgroup.
    pub fn attach_socket(
        &self,
        programs: &Programs,
        hook: Hook,
        at: AttachType,
        cgroup: BorrowedFd<'_>,
    ) -> anyhow::Result<Attached> {
        self.attach(hook.name(), programs.fd(hook)?, Target::Cgroup(cgroup), at, 0)
            .with_context(|| format!("cannot attach {}", hook.name()))
    }

    fn attach(
        &self,
        name: &str,
        program: BorrowedFd<'_>,
        target: Target<'_>,
        at: AttachType,
        flags: u32,
    ) -> io::Result<Attached> {
        let path = self.dir.join(name);
        match bpf::open_pin(&path) {
            Ok(link) => {
                let info = bpf::link_info(link.as_fd())?;
                let alive = match target {
                    Target::Device(index) => info.target == index,
                    Target::Cgroup(_) => info.target != 0,
                };
                if alive {
                    bpf::link_update(link.as_fd(), program)?;
                    return Ok(Attached::Replaced);
                }
                fs::remove_file(&path)?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let link = bpf::link_create(program, target, at, flags)?;
        bpf::pin(link.as_fd(), &path)?;
        Ok(Attached::New)
    }

    /// Whether a program is still where it was put on a device's TC hook.
    pub fn has_tc(&self, hook: Hook, index: u32) -> io::Result<bool> {
        if self.tcx {
            return self.has_link(&Self::device_link(hook, index), |target| target == index);
        }
        let direction = if hook == Hook::TcEgress { Direction::Egress } else { Direction::Ingress };
        filters::has(index, direction, hook.name())
    }

    /// Whether a link is still there and holds on to what `target` accepts: the index of a device, or not 0 for a cgroup.
    pub fn has_link(&self, name: &str, target: impl Fn(u32) -> bool) -> io::Result<bool> {
        match bpf::open_pin(&self.dir.join(name)) {
            Ok(link) => Ok(target(bpf::link_info(link.as_fd())?.target)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Takes one attachment away, if it is there.
    pub fn detach(&self, name: &str) -> io::Result<()> {
        remove_pin(&self.dir.join(name))
    }

    /// Removes the pins of links whose device is gone, and all attachments for which `keep` says no; their names.
    pub fn sweep(&self, keep: impl Fn(&str) -> bool) -> anyhow::Result<Vec<String>> {
        let mut removed = Vec::new();
        for (name, info) in list(&self.dir)? {
            // Of TC programs there are links or filters: one of both on a device would translate twice.
            let wrong_kind = !self.tcx && TC.iter().any(|hook| name.starts_with(hook.name()));
            if info.target == 0 || wrong_kind || !keep(&name) {
                self.detach(&name).with_context(|| format!("cannot remove {}", self.dir.join(&name).display()))?;
                removed.push(name);
            }
        }
        for place in filters::find(&TC.map(Hook::name)).context("cannot list the filters of all devices")? {
            let name = format!("{}_{}", place.name, place.index);
            if self.tcx || !keep(&name) {
                filters::remove(place.index, place.direction, &place.name)
                    .with_context(|| format!("cannot remove the filter {} of {}", place.name, place.device))?;
                removed.push(name);
            }
        }
        Ok(removed)
    }
}

fn remove_pin(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The pinned links of a folder, by name.
pub fn list(dir: &Path) -> anyhow::Result<Vec<(String, bpf::LinkInfo)>> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.with_context(|| format!("cannot read {}", dir.display()))?,
    };
    let mut links = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let info = bpf::open_pin(&path).and_then(|link| bpf::link_info(link.as_fd()));
        let info = info.with_context(|| format!("cannot open {}", path.display()))?;
        links.push((path.file_name().unwrap_or_default().to_string_lossy().into_owned(), info));
    }
    links.sort_by(|(one, _), (other, _)| one.cmp(other));
    Ok(links)
}

/// Takes the filters away that stand for links where there is no TCX; one line each.
pub fn remove_filters() -> anyhow::Result<Vec<String>> {
    let mut done = Vec::new();
    for place in filters::find(&TC.map(Hook::name)).context("cannot list the filters of all devices")? {
        filters::remove(place.index, place.direction, &place.name)
            .with_context(|| format!("cannot remove the filter {} of {}", place.name, place.device))?;
        done.push(format!("program {} in the qdisc of {}", place.name, place.device));
    }
    Ok(done)
}
