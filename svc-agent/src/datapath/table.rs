//! A map as a typed table.
//!
//! The types of `svc_common::tables` are plain old data without padding ([`Entry`]), so any bytes that the kernel
//! hands back are a value. What makes the accesses sound besides is that a [`Table`] is only ever made for a map whose
//! key and value sizes have been compared with those of its types.

use std::io;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use svc_common::tables::Entry;

use super::bpf::{self, POSITION};

/// Entries in one batch: large enough that the cost of the call vanishes, small enough to be no memory peak.
const BATCH: usize = 4096;

/// A map with one value per key.
#[derive(Debug)]
pub struct Table<K, V> {
    fd: OwnedFd,
    entries: u32,
    is_array: bool,
    types: PhantomData<fn() -> (K, V)>,
}

/// The sizes of a map are not those of the types it was to be read with.
fn wrong_shape(expected: (u32, u32), found: (u32, u32)) -> io::Error {
    io::Error::other(format!("key and value have {found:?} bytes, expected {expected:?}"))
}

impl<K: Entry, V: Entry> Table<K, V> {
    /// Takes a map over after comparing its sizes with those of the types.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        let (_, shape) = bpf::map_info(fd.as_fd())?;
        let expected = (size_of::<K>() as u32, size_of::<V>() as u32);
        if (shape.key, shape.value) != expected {
            return Err(wrong_shape(expected, (shape.key, shape.value)));
        }
        Ok(Self { fd, entries: shape.entries, is_array: shape.kind == bpf::ARRAY, types: PhantomData })
    }

    /// The descriptor.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// For how many entries there is room.
    pub fn entries(&self) -> u32 {
        self.entries
    }

    /// Reads a value. In an LRU map this marks the entry as used.
    pub fn get(&self, key: &K) -> io::Result<Option<V>> {
        let mut value = MaybeUninit::<V>::uninit();
        // SAFETY: the sizes were compared in `new`.
        let found = unsafe { bpf::map_get(self.fd(), std::ptr::from_ref(key).cast(), value.as_mut_ptr().cast()) }?;
        // SAFETY: the kernel has written the whole value, and any bytes are one.
        Ok(found.then(|| unsafe { value.assume_init() }))
    }

    /// Writes a value.
    pub fn set(&self, key: &K, value: &V) -> io::Result<()> {
        // SAFETY: the sizes were compared in `new`; an `Entry` has no padding, so all its bytes are initialised.
        unsafe { bpf::map_set(self.fd(), std::ptr::from_ref(key).cast(), std::ptr::from_ref(value).cast()) }
    }

    /// Deletes a key; `false` if it was not there.
    pub fn remove(&self, key: &K) -> io::Result<bool> {
        // SAFETY: the sizes were compared in `new`.
        unsafe { bpf::map_delete(self.fd(), std::ptr::from_ref(key).cast()) }
    }

    /// Writes many values, in this order.
    pub fn set_all(&self, keys: &[K], values: &[V]) -> io::Result<()> {
        assert_eq!(keys.len(), values.len(), "a value for each key");
        for (keys, values) in keys.chunks(BATCH).zip(values.chunks(BATCH)) {
            // SAFETY: the sizes were compared in `new`; both slices have `keys.len()` elements.
            let result = unsafe {
                bpf::map_set_batch(self.fd(), keys.as_ptr().cast(), values.as_ptr().cast(), keys.len() as u32)
            };
            match result {
                Err(error) if no_batch(&error) => {
                    keys.iter().zip(values).try_for_each(|(key, value)| self.set(key, value))?;
                }
                other => other?,
            }
        }
        Ok(())
    }

    /// Deletes many keys; those that are not there do not matter.
    pub fn remove_all(&self, keys: &[K]) -> io::Result<()> {
        for keys in keys.chunks(BATCH) {
            // SAFETY: the sizes were compared in `new`.
            let result = unsafe { bpf::map_delete_batch(self.fd(), keys.as_ptr().cast(), keys.len() as u32) };
            match result {
                // A missing key stops the batch: the rest goes one by one.
                Err(error) if no_batch(&error) || error.raw_os_error() == Some(libc::ENOENT) => {
                    keys.iter().try_for_each(|key| self.remove(key).map(drop))?;
                }
                other => other?,
            }
        }
        Ok(())
    }

    /// Shows every entry to `visit`, without marking any as used. Entries that come or go meanwhile may be missed or,
    /// in a hash, be seen twice.
    pub fn for_each(&self, mut visit: impl FnMut(&K, &V)) -> io::Result<()> {
        self.for_each_batch(|keys, values| keys.iter().zip(values).for_each(|(key, value)| visit(key, value)))
    }

    /// The same, many entries at a time: a million of them, looked at one by one, are felt at the start of the agent.
    pub fn for_each_batch(&self, mut visit: impl FnMut(&[K], &[V])) -> io::Result<()> {
        let mut room = BATCH.min(self.entries as usize).max(1);
        let mut keys = Vec::<K>::with_capacity(room);
        let mut values = Vec::<V>::with_capacity(room);
        let mut position: Option<[u8; POSITION]> = None;
        loop {
            let mut next = [0; POSITION];
            let (from, count) = (position.as_ref(), room as u32);
            // SAFETY: the sizes were compared in `new`; both vectors have room for `room` elements.
            let step = unsafe {
                let (keys, values) = (keys.as_mut_ptr().cast(), values.as_mut_ptr().cast());
                bpf::map_walk(self.fd(), from, &mut next, keys, values, count)
            };
            match step {
                // A bucket holds more than there is room for.
                Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => {
                    room *= 2;
                    keys.reserve(room);
                    values.reserve(room);
                }
                Err(error) if no_batch(&error) && position.is_none() => return self.for_each_key(visit),
                Err(error) => return Err(error),
                Ok(step) => {
                    let count = (step.count as usize).min(room);
                    // SAFETY: the kernel has written `count` keys and values, and any bytes are such.
                    unsafe {
                        keys.set_len(count);
                        values.set_len(count);
                    }
                    visit(&keys, &values);
                    keys.clear();
                    values.clear();
                    if step.last {
                        return Ok(());
                    }
                    position = Some(next);
                }
            }
        }
    }

    /// For maps without batch commands on this kernel.
    fn for_each_key(&self, mut visit: impl FnMut(&[K], &[V])) -> io::Result<()> {
        let mut key: Option<K> = None;
        loop {
            let mut next = MaybeUninit::<K>::uninit();
            let from = key.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
            // SAFETY: the sizes were compared in `new`.
            if !unsafe { bpf::map_next_key(self.fd(), from.cast(), next.as_mut_ptr().cast()) }? {
                return Ok(());
            }
            // SAFETY: the kernel has written the whole key, and any bytes are one.
            let next = unsafe { next.assume_init() };
            if let Some(value) = self.get(&next)? {
                visit(&[next], &[value]);
            }
            key = Some(next);
        }
    }

    /// How many entries are in use; `None` for an array, where all are.
    pub fn used(&self) -> io::Result<Option<u32>> {
        if self.is_array {
            return Ok(None);
        }
        let mut count = 0;
        self.for_each(|_, _| count += 1)?;
        Ok(Some(count))
    }

    /// All entries.
    pub fn dump(&self) -> io::Result<Vec<(K, V)>> {
        let mut all = Vec::new();
        self.for_each(|key, value| all.push((*key, *value)))?;
        Ok(all)
    }
}

/// The map has no batch commands on this kernel (524 is the kernel's own ENOTSUPP).
fn no_batch(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP | 524))
}

/// A per-CPU array: one value per index and possible CPU.
#[derive(Debug)]
pub struct PerCpuTable<V> {
    fd: OwnedFd,
    entries: u32,
    cpus: usize,
    types: PhantomData<fn() -> V>,
}

impl<V: Entry> PerCpuTable<V> {
    /// The kernel rounds the values of a CPU up to eight bytes; all types here are multiples of it.
    const ALIGNED: () = assert!(size_of::<V>().is_multiple_of(8));

    /// Takes a map over after comparing its sizes with those of the type.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        let () = Self::ALIGNED;
        let (_, shape) = bpf::map_info(fd.as_fd())?;
        let expected = (size_of::<u32>() as u32, size_of::<V>() as u32);
        if (shape.key, shape.value) != expected {
            return Err(wrong_shape(expected, (shape.key, shape.value)));
        }
        Ok(Self { fd, entries: shape.entries, cpus: super::probe::possible_cpus()?, types: PhantomData })
    }

    /// For how many indices there is room.
    pub fn entries(&self) -> u32 {
        self.entries
    }

    /// The descriptor.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// All entries of an array are in use, so there is nothing to count.
    pub fn used(&self) -> io::Result<Option<u32>> {
        Ok(None)
    }

    /// The values of one index, one per possible CPU.
    pub fn get(&self, index: u32) -> io::Result<Vec<V>> {
        let mut values = vec![V::new_zeroed(); self.cpus];
        let key = std::ptr::from_ref(&index).cast();
        // SAFETY: the sizes were compared in `new`; the kernel writes one value for each possible CPU.
        let found = unsafe { bpf::map_get(self.fd(), key, values.as_mut_ptr().cast()) }?;
        if found { Ok(values) } else { Err(io::Error::from(io::ErrorKind::NotFound)) }
    }

    /// Sets the values of one index to zero on all CPUs.
    pub fn clear(&self, index: u32) -> io::Result<()> {
        let values = vec![V::new_zeroed(); self.cpus];
        // SAFETY: the sizes were compared in `new`; there is one value for each possible CPU.
        unsafe { bpf::map_set(self.fd(), std::ptr::from_ref(&index).cast(), values.as_ptr().cast()) }
    }

    /// Shows the values of each index below `end` to `visit`.
    pub fn for_each(&self, end: u32, mut visit: impl FnMut(u32, &[V])) -> io::Result<()> {
        let end = end.min(self.entries);
        let room = BATCH.min(self.entries as usize).max(1);
        let mut keys = vec![0u32; room];
        let mut values = vec![V::new_zeroed(); room * self.cpus];
        let mut position: Option<[u8; POSITION]> = None;
        loop {
            let mut next = [0; POSITION];
            // SAFETY: the sizes were compared in `new`; there is room for `room` keys with a value for each CPU.
            let step = unsafe {
                let (keys, values) = (keys.as_mut_ptr().cast(), values.as_mut_ptr().cast());
                bpf::map_walk(self.fd(), position.as_ref(), &mut next, keys, values, room as u32)
            };
            let step = match step {
                Err(error) if no_batch(&error) => {
                    let start = position.map_or(0, |_| keys[room - 1] + 1);
                    return (start..end).try_for_each(|index| self.get(index).map(|values| visit(index, &values)));
                }
                other => other?,
            };
            let count = (step.count as usize).min(room);
            for (index, values) in keys[..count].iter().zip(values.chunks_exact(self.cpus)) {
                if *index < end {
                    visit(*index, values);
                }
            }
            if step.last || keys[..count].last().is_none_or(|last| last + 1 >= end) {
                return Ok(());
            }
            position = Some(next);
        }
    }
}
