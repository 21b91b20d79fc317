//! The folder of pins: that it is on a BPF file system, and that one agent at a time uses it.

use std::fs::{self, File};
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use anyhow::{Context as _, bail};

/// Magic number of the BPF file system (`BPF_FS_MAGIC`).
const MAGIC: i64 = 0xcafe_4a11;

/// The folder of one datapath, held against other agents until it is dropped.
#[derive(Debug)]
pub struct Lock {
    _folder: File,
}

/// Makes the folder and takes hold of it.
pub fn lock(bpffs: &Path) -> anyhow::Result<Lock> {
    if !is_on_bpffs(bpffs) {
        bail!(
            "{} is not on a BPF file system; mount one (mount -t bpf bpf /sys/fs/bpf) or name another folder with --bpffs",
            bpffs.display()
        );
    }
    fs::create_dir_all(bpffs).with_context(|| format!("cannot make {}", bpffs.display()))?;
    let folder = File::open(bpffs).with_context(|| format!("cannot open {}", bpffs.display()))?;
    // SAFETY: the descriptor is open; flock(2) touches no memory.
    if unsafe { libc::flock(folder.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } != 0 {
        bail!("another svc-agent uses {}; stop it, or give this one another folder with --bpffs", bpffs.display());
    }
    Ok(Lock { _folder: folder })
}

/// Whether an agent holds the folder.
pub fn is_held(bpffs: &Path) -> bool {
    let Ok(folder) = File::open(bpffs) else { return false };
    // SAFETY: the descriptor is open; flock(2) touches no memory.
    let free = unsafe { libc::flock(folder.as_raw_fd(), libc::LOCK_SH | libc::LOCK_NB) } == 0;
    !free
}

/// Whether a folder is, or would be made, on a BPF file system.
pub fn is_on_bpffs(folder: &Path) -> bool {
    folder.ancestors().find(|path| path.exists()).is_some_and(|path| is_bpffs(path).unwrap_or(false))
}

fn is_bpffs(path: &Path) -> anyhow::Result<bool> {
    let name = std::ffi::CString::new(path.as_os_str().as_bytes()).context("a path with a zero byte")?;
    let mut info = std::mem::MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: the path is a C string and the kernel writes one statfs.
    if unsafe { libc::statfs(name.as_ptr(), info.as_mut_ptr()) } != 0 {
        return Err(std::io::Error::last_os_error()).with_context(|| format!("cannot look at {}", path.display()));
    }
    // SAFETY: statfs succeeded, so it has written all of it.
    Ok(unsafe { info.assume_init() }.f_type == MAGIC)
}

/// Root of cgroup v2, wherever it is mounted.
pub fn cgroup_root() -> anyhow::Result<std::path::PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("cannot read /proc/self/mounts")?;
    let root = mounts.lines().find_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let (path, kind) = (fields.nth(1)?, fields.next()?);
        (kind == "cgroup2").then(|| path.into())
    });
    root.context("cgroup v2 is not mounted; mount it, name a folder with --cgroup, or run with --socket-lb off")
}
