//! bpf(2), as far as this project needs it beyond aya: maps by raw descriptor and in batches, pins, links that can be
//! replaced, and what the kernel says about them.
//!
//! Nothing here knows what a map is for. Types come in with [`super::table`].

use std::ffi::CString;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

mod program;

pub(super) use program::program_load;
pub use program::{TestResult, TestRun, test_run, test_run_live};

mod command {
    pub(super) const MAP_CREATE: i32 = 0;
    pub(super) const MAP_LOOKUP_ELEM: i32 = 1;
    pub(super) const MAP_UPDATE_ELEM: i32 = 2;
    pub(super) const MAP_DELETE_ELEM: i32 = 3;
    pub(super) const MAP_GET_NEXT_KEY: i32 = 4;
    pub(super) const PROG_LOAD: i32 = 5;
    pub(super) const OBJ_PIN: i32 = 6;
    pub(super) const OBJ_GET: i32 = 7;
    pub(super) const PROG_TEST_RUN: i32 = 10;
    pub(super) const PROG_GET_FD_BY_ID: i32 = 13;
    pub(super) const OBJ_GET_INFO_BY_FD: i32 = 15;
    pub(super) const PROG_QUERY: i32 = 16;
    pub(super) const MAP_LOOKUP_BATCH: i32 = 24;
    pub(super) const MAP_UPDATE_BATCH: i32 = 26;
    pub(super) const MAP_DELETE_BATCH: i32 = 27;
    pub(super) const LINK_CREATE: i32 = 28;
    pub(super) const LINK_UPDATE: i32 = 29;
    pub(super) const LINK_DETACH: i32 = 34;
}

/// Where a program can be attached by a link: `enum bpf_attach_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u32)]
pub enum AttachType {
    /// connect(2), IPv4.
    Connect4 = 10,
    /// connect(2), IPv6.
    Connect6 = 11,
    /// sendmsg(2) without connection, IPv4.
    Sendmsg4 = 14,
    /// sendmsg(2) without connection, IPv6.
    Sendmsg6 = 15,
    /// recvmsg(2), IPv4.
    Recvmsg4 = 19,
    /// recvmsg(2), IPv6.
    Recvmsg6 = 20,
    /// getpeername(2), IPv4.
    Getpeername4 = 29,
    /// getpeername(2), IPv6.
    Getpeername6 = 30,
    /// XDP.
    Xdp = 37,
    /// TCX, ingress.
    TcxIngress = 46,
    /// TCX, egress.
    TcxEgress = 47,
}

/// What a link is attached to.
#[derive(Clone, Copy, Debug)]
pub enum Target<'a> {
    /// A network device, by index.
    Device(u32),
    /// A cgroup directory.
    Cgroup(BorrowedFd<'a>),
}

/// Calls bpf(2).
///
/// # Safety
///
/// `attr` must be the arm of `union bpf_attr` that belongs to `command`, every pointer in it must be valid for the
/// size that the command implies, and all memory that the kernel writes must admit any bytes.
unsafe fn bpf<T>(command: i32, attr: &mut T) -> io::Result<i32> {
    // SAFETY: `attr` is valid for its own size; the rest is the caller's duty.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}

fn new_fd(raw: i32) -> OwnedFd {
    // SAFETY: only called with what a successful bpf(2) command returned as a new descriptor, which nobody else owns.
    unsafe { OwnedFd::from_raw_fd(raw as RawFd) }
}

/// What a map looks like to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapShape {
    /// `enum bpf_map_type`.
    pub kind: u32,
    /// Size of a key.
    pub key: u32,
    /// Size of a value.
    pub value: u32,
    /// Number of entries.
    pub entries: u32,
    /// `BPF_F_*` of creation.
    pub flags: u32,
}

/// `BPF_MAP_TYPE_HASH`.
pub const HASH: u32 = 1;
/// `BPF_MAP_TYPE_ARRAY`.
pub const ARRAY: u32 = 2;
/// `BPF_MAP_TYPE_PROG_ARRAY`.
pub const PROG_ARRAY: u32 = 3;
/// `BPF_MAP_TYPE_PERCPU_ARRAY`.
pub const PERCPU_ARRAY: u32 = 6;
/// `BPF_MAP_TYPE_LRU_HASH`.
pub const LRU_HASH: u32 = 9;
/// `BPF_MAP_TYPE_LPM_TRIE`.
pub const LPM_TRIE: u32 = 11;

/// `BPF_F_NO_PREALLOC`.
pub const NO_PREALLOC: u32 = 1;

/// Creates a map.
pub fn map_create(name: &str, shape: MapShape) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Attr {
        shape: [u32; 5],
        inner_map_fd: u32,
        numa_node: u32,
        name: [u8; 16],
    }
    let mut attr = Attr {
        shape: [shape.kind, shape.key, shape.value, shape.entries, shape.flags],
        inner_map_fd: 0,
        numa_node: 0,
        name: [0; 16],
    };
    // The kernel keeps 15 characters; the pin has the whole name.
    let short = name.len().min(15);
    attr.name[..short].copy_from_slice(&name.as_bytes()[..short]);
    // SAFETY: the arm of MAP_CREATE; it holds no pointers.
    unsafe { bpf(command::MAP_CREATE, &mut attr) }.map(new_fd)
}

#[repr(C)]
struct Element {
    map: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

fn element(map: BorrowedFd<'_>, key: *const u8, value: u64) -> Element {
    Element { map: map.as_raw_fd() as u32, pad: 0, key: key as u64, value, flags: 0 }
}

/// Reads one value. `false` if there is none.
///
/// # Safety
///
/// `key` and `value` must be valid for the sizes that the map was made with (per-CPU: times the possible CPUs), and
/// `value` must admit any bytes.
pub unsafe fn map_get(map: BorrowedFd<'_>, key: *const u8, value: *mut u8) -> io::Result<bool> {
    // SAFETY: the arm of MAP_LOOKUP_ELEM; the pointers are the caller's duty.
    found(unsafe { bpf(command::MAP_LOOKUP_ELEM, &mut element(map, key, value as u64)) })
}

/// Writes one value.
///
/// # Safety
///
/// As for [`map_get`], the value being read.
pub unsafe fn map_set(map: BorrowedFd<'_>, key: *const u8, value: *const u8) -> io::Result<()> {
    // SAFETY: the arm of MAP_UPDATE_ELEM; the pointers are the caller's duty.
    unsafe { bpf(command::MAP_UPDATE_ELEM, &mut element(map, key, value as u64)) }.map(drop)
}

/// Deletes one key. `false` if it was not there.
///
/// # Safety
///
/// `key` must be valid for the key size of the map.
pub unsafe fn map_delete(map: BorrowedFd<'_>, key: *const u8) -> io::Result<bool> {
    // SAFETY: the arm of MAP_DELETE_ELEM; the pointer is the caller's duty.
    found(unsafe { bpf(command::MAP_DELETE_ELEM, &mut element(map, key, 0)) })
}

/// The key after `key`, or the first one for a null pointer. `false` at the end.
///
/// # Safety
///
/// `key` (unless null) and `next` must be valid for the key size of the map; `next` must admit any bytes.
pub unsafe fn map_next_key(map: BorrowedFd<'_>, key: *const u8, next: *mut u8) -> io::Result<bool> {
    // SAFETY: the arm of MAP_GET_NEXT_KEY; the pointers are the caller's duty.
    found(unsafe { bpf(command::MAP_GET_NEXT_KEY, &mut element(map, key, next as u64)) })
}

fn found(result: io::Result<i32>) -> io::Result<bool> {
    match result {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Number of bytes that hold the position in a batch walk: at least the longest key.
pub const POSITION: usize = 64;

/// A step of a batch walk: what came back, and whether it was the last.
pub struct Step {
    /// Number of entries written.
    pub count: u32,
    /// There are no more.
    pub last: bool,
}

#[repr(C)]
struct Batch {
    from: u64,
    to: u64,
    keys: u64,
    values: u64,
    count: u32,
    map: u32,
    element_flags: u64,
    flags: u64,
}

/// Copies up to `count` entries from a position on (`None`: from the start) without marking them as used.
///
/// # Safety
///
/// `keys` and `values` must be valid for `count` times the sizes of the map and admit any bytes.
pub unsafe fn map_walk(
    map: BorrowedFd<'_>,
    from: Option<&[u8; POSITION]>,
    to: &mut [u8; POSITION],
    keys: *mut u8,
    values: *mut u8,
    count: u32,
) -> io::Result<Step> {
    let mut attr = Batch {
        from: from.map_or(0, |from| from.as_ptr() as u64),
        to: to.as_mut_ptr() as u64,
        keys: keys as u64,
        values: values as u64,
        count,
        map: map.as_raw_fd() as u32,
        element_flags: 0,
        flags: 0,
    };
    // SAFETY: the arm of MAP_LOOKUP_BATCH; positions are shorter than POSITION; keys and values are the caller's duty.
    match unsafe { bpf(command::MAP_LOOKUP_BATCH, &mut attr) } {
        Ok(_) => Ok(Step { count: attr.count, last: false }),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(Step { count: attr.count, last: true }),
        Err(error) => Err(error),
    }
}

/// Writes `count` entries.
///
/// # Safety
///
/// `keys` and `values` must be valid for `count` times the sizes of the map.
pub unsafe fn map_set_batch(map: BorrowedFd<'_>, keys: *const u8, values: *const u8, count: u32) -> io::Result<()> {
    let map = map.as_raw_fd() as u32;
    let mut attr =
        Batch { from: 0, to: 0, keys: keys as u64, values: values as u64, count, map, element_flags: 0, flags: 0 };
    // SAFETY: the arm of MAP_UPDATE_BATCH; the pointers are the caller's duty.
    unsafe { bpf(command::MAP_UPDATE_BATCH, &mut attr) }.map(drop)
}

/// Deletes `count` keys; the error of a key that is not there stops the batch.
///
/// # Safety
///
/// `keys` must be valid for `count` times the key size of the map.
pub unsafe fn map_delete_batch(map: BorrowedFd<'_>, keys: *const u8, count: u32) -> io::Result<()> {
    let map = map.as_raw_fd() as u32;
    let mut attr = Batch { from: 0, to: 0, keys: keys as u64, values: 0, count, map, element_flags: 0, flags: 0 };
    // SAFETY: the arm of MAP_DELETE_BATCH; the pointer is the caller's duty.
    unsafe { bpf(command::MAP_DELETE_BATCH, &mut attr) }.map(drop)
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))
}

#[repr(C)]
struct Pin {
    path: u64,
    fd: u32,
    flags: u32,
}

/// Pins a map, link or program.
pub fn pin(fd: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    let mut attr = Pin { path: path.as_ptr() as u64, fd: fd.as_raw_fd() as u32, flags: 0 };
    // SAFETY: the arm of OBJ_PIN; the path lives until after the call.
    unsafe { bpf(command::OBJ_PIN, &mut attr) }.map(drop)
}

/// Opens a pin.
pub fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    let mut attr = Pin { path: path.as_ptr() as u64, fd: 0, flags: 0 };
    // SAFETY: the arm of OBJ_GET; the path lives until after the call.
    unsafe { bpf(command::OBJ_GET, &mut attr) }.map(new_fd)
}

/// Before all other programs of a TCX hook, instead of after them (`BPF_F_BEFORE` without a reference).
pub const FIRST: u32 = 1 << 3;

/// Attaches a program by a link. `flags` are the mode of XDP, or the order of TCX; 0 elsewhere.
pub fn link_create(program: BorrowedFd<'_>, target: Target<'_>, at: AttachType, flags: u32) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Attr {
        program: u32,
        target: u32,
        attach_type: u32,
        flags: u32,
        order: [u64; 2],
    }
    let target = match target {
        Target::Device(index) => index,
        Target::Cgroup(fd) => fd.as_raw_fd() as u32,
    };
    let program = program.as_raw_fd() as u32;
    let mut attr = Attr { program, target, attach_type: at as u32, flags, order: [0; 2] };
    // SAFETY: the arm of LINK_CREATE; it holds no pointers.
    unsafe { bpf(command::LINK_CREATE, &mut attr) }.map(new_fd)
}

/// Replaces the program of a link in one step: no packet sees none or both.
pub fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr: [u32; 4] = [link.as_raw_fd() as u32, program.as_raw_fd() as u32, 0, 0];
    // SAFETY: the arm of LINK_UPDATE (link, program, flags, old program); it holds no pointers.
    unsafe { bpf(command::LINK_UPDATE, &mut attr) }.map(drop)
}

/// Detaches a link, whoever else holds it.
pub fn link_detach(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr: [u32; 1] = [link.as_raw_fd() as u32];
    // SAFETY: the arm of LINK_DETACH; it holds no pointers.
    unsafe { bpf(command::LINK_DETACH, &mut attr) }.map(drop)
}

/// Fills `info` as far as the kernel knows the object; all fields are plain numbers and bytes.
fn info<const WORDS: usize>(fd: BorrowedFd<'_>) -> io::Result<[u64; WORDS]> {
    #[repr(C)]
    struct Attr {
        fd: u32,
        len: u32,
        info: u64,
    }
    let mut info = [0; WORDS];
    let len = size_of::<[u64; WORDS]>() as u32;
    let mut attr = Attr { fd: fd.as_raw_fd() as u32, len, info: info.as_mut_ptr() as u64 };
    // SAFETY: the arm of OBJ_GET_INFO_BY_FD; the kernel writes at most `len` bytes, and any bytes are valid words.
    unsafe { bpf(command::OBJ_GET_INFO_BY_FD, &mut attr) }?;
    Ok(info)
}

fn half(words: &[u64], index: usize) -> u32 {
    let bytes = words[index / 2].to_ne_bytes();
    let at = (index % 2) * 4;
    u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Id and shape of a map.
pub fn map_info(map: BorrowedFd<'_>) -> io::Result<(u32, MapShape)> {
    // type, id, key_size, value_size, max_entries, map_flags, ...
    let words = info::<10>(map)?;
    let shape = MapShape {
        kind: half(&words, 0),
        key: half(&words, 2),
        value: half(&words, 3),
        entries: half(&words, 4),
        flags: half(&words, 5),
    };
    Ok((half(&words, 1), shape))
}

/// What the kernel says about a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkInfo {
    /// Id of the link.
    pub id: u32,
    /// Id of the program.
    pub program: u32,
    /// For TCX and XDP the device, 0 once it is gone; for a cgroup the low half of its id, 0 once it is gone.
    pub target: u32,
}

/// What the kernel says about a link.
pub fn link_info(link: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    // type, id, prog_id, padding, then by type: cgroup { u64 id, .. }, xdp { u32 ifindex }, tcx { u32 ifindex, .. }.
    let words = info::<10>(link)?;
    Ok(LinkInfo { id: half(&words, 1), program: half(&words, 2), target: half(&words, 4) })
}

/// What the kernel says about a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramInfo {
    /// Id.
    pub id: u32,
    /// Name, cut to 15 characters by the kernel.
    pub name: String,
    /// Hash of its instructions.
    pub tag: [u8; 8],
    /// Length of its instructions after the verifier has removed what cannot be reached, in bytes.
    pub translated: u32,
}

/// What the kernel says about a program.
pub fn program_info(program: BorrowedFd<'_>) -> io::Result<ProgramInfo> {
    // type, id, tag[8], lengths, pointers (zero: not wanted), load time, uid, map count, map ids, name[16].
    let words = info::<10>(program)?;
    let name: Vec<u8> = words[8..10].iter().flat_map(|word| word.to_ne_bytes()).take_while(|byte| *byte != 0).collect();
    let name = String::from_utf8_lossy(&name).into_owned();
    Ok(ProgramInfo { id: half(&words, 1), name, tag: words[1].to_ne_bytes(), translated: half(&words, 5) })
}

/// Opens a program by id.
pub fn program_by_id(id: u32) -> io::Result<OwnedFd> {
    let mut attr: [u32; 3] = [id, 0, 0];
    // SAFETY: the arm of PROG_GET_FD_BY_ID (id, next id, flags); it holds no pointers.
    unsafe { bpf(command::PROG_GET_FD_BY_ID, &mut attr) }.map(new_fd)
}

/// Ids of the programs attached to a device or cgroup, in the order in which they run.
pub fn programs_at(target: Target<'_>, at: AttachType) -> io::Result<Vec<u32>> {
    #[repr(C)]
    struct Attr {
        target: u32,
        attach_type: u32,
        query_flags: u32,
        attach_flags: u32,
        ids: u64,
        count: u32,
        pad: u32,
        rest: [u64; 4],
    }
    let mut ids = vec![0u32; 64];
    let target = match target {
        Target::Device(index) => index,
        Target::Cgroup(fd) => fd.as_raw_fd() as u32,
    };
    let mut attr = Attr {
        target,
        attach_type: at as u32,
        query_flags: 0,
        attach_flags: 0,
        ids: ids.as_mut_ptr() as u64,
        count: ids.len() as u32,
        pad: 0,
        rest: [0; 4],
    };
    // SAFETY: the arm of PROG_QUERY; the kernel writes at most `count` ids.
    unsafe { bpf(command::PROG_QUERY, &mut attr) }?;
    ids.truncate(attr.count as usize);
    Ok(ids)
}
