//! Keeps the ports of translated sources out of the host's own use: `net.ipv4.ip_local_reserved_ports`, which counts
//! for both families.
//!
//! What this project has reserved itself is remembered as an empty folder below `--bpffs`, so that cleanup gives back
//! that and nothing else.

use std::fs;
use std::io;
use std::path::Path;

use anyhow::Context as _;

const SYSCTL: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";
const MARKER: &str = "reserved-ports-";

/// Sorted ranges of ports, both ends included, neighbours joined.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Ranges(Vec<(u16, u16)>);

impl Ranges {
    /// As the kernel prints them, `1-3,8`.
    fn parse(text: &str) -> Option<Self> {
        let mut ranges = Self::default();
        for item in text.trim().split(',').filter(|item| !item.is_empty()) {
            let (first, last) = item.split_once('-').unwrap_or((item, item));
            ranges.add(first.parse().ok()?, last.parse().ok()?);
        }
        Some(ranges)
    }

    fn print(&self) -> String {
        let items: Vec<_> = self.0.iter().map(|(first, last)| format!("{first}-{last}")).collect();
        items.join(",")
    }

    fn contains(&self, first: u16, last: u16) -> bool {
        self.0.iter().any(|range| range.0 <= first && last <= range.1)
    }

    fn add(&mut self, first: u16, last: u16) {
        self.0.push((first, last));
        self.0.sort_unstable();
        let mut joined: Vec<(u16, u16)> = Vec::new();
        for range in self.0.drain(..) {
            match joined.last_mut() {
                Some(before) if range.0 <= before.1.saturating_add(1) => before.1 = before.1.max(range.1),
                _ => joined.push(range),
            }
        }
        self.0 = joined;
    }

    fn remove(&mut self, first: u16, last: u16) {
        let mut left = Vec::new();
        for (from, to) in self.0.drain(..) {
            if from < first {
                left.push((from, to.min(first - 1)));
            }
            if to > last {
                left.push((from.max(last + 1), to));
            }
        }
        self.0 = left;
    }
}

fn present() -> anyhow::Result<Ranges> {
    let text = fs::read_to_string(SYSCTL).with_context(|| format!("cannot read {SYSCTL}"))?;
    Ranges::parse(&text).with_context(|| format!("cannot understand {SYSCTL}: {text:?}"))
}

/// Whether the host keeps off these ports.
pub fn is_reserved(first: u16, last: u16) -> anyhow::Result<bool> {
    Ok(present()?.contains(first, last))
}

/// Reserves the ports; those that somebody else has reserved stay reserved.
pub fn reserve(bpffs: &Path, first: u16, last: u16) -> anyhow::Result<()> {
    let marker = format!("{MARKER}{first}-{last}");
    for (other, range) in markers(bpffs)? {
        if other != marker {
            release_one(bpffs, &other, range)?;
        }
    }
    let mut ranges = present()?;
    if ranges.contains(first, last) {
        return Ok(());
    }
    let path = bpffs.join(marker);
    match fs::create_dir(&path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(error).with_context(|| format!("cannot make {}", path.display()));
        }
        _ => {}
    }
    ranges.add(first, last);
    fs::write(SYSCTL, ranges.print())
        .with_context(|| format!("cannot reserve ports {first}-{last} in {SYSCTL}; is /proc/sys mounted writable?"))
}

/// Gives back what [`reserve`] took.
pub fn release(bpffs: &Path) -> anyhow::Result<()> {
    for (marker, range) in markers(bpffs)? {
        release_one(bpffs, &marker, range)?;
    }
    Ok(())
}

fn release_one(bpffs: &Path, marker: &str, (first, last): (u16, u16)) -> anyhow::Result<()> {
    let mut ranges = present()?;
    ranges.remove(first, last);
    // An empty list is a line of its own: a write of no bytes changes nothing.
    fs::write(SYSCTL, ranges.print() + "\n").with_context(|| format!("cannot write {SYSCTL}"))?;
    fs::remove_dir(bpffs.join(marker)).with_context(|| format!("cannot remove {}", bpffs.join(marker).display()))
}

fn markers(bpffs: &Path) -> anyhow::Result<Vec<(String, (u16, u16))>> {
    let entries = match fs::read_dir(bpffs) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.with_context(|| format!("cannot read {}", bpffs.display()))?,
    };
    let mut markers = Vec::new();
    for entry in entries {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let range = name.strip_prefix(MARKER).and_then(|range| range.split_once('-'));
        if let Some((first, last)) = range
            && let (Ok(first), Ok(last)) = (first.parse(), last.parse())
        {
            markers.push((name, (first, last)));
        }
    }
    Ok(markers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(text: &str) -> Ranges {
        Ranges::parse(text).expect("ranges")
    }

    #[test]
    fn ranges_are_joined_and_cut() {
        let mut list = ranges("8080,20010-20020\n");
        list.add(20000, 29999);
        assert_eq!(list.print(), "8080-8080,20000-29999");
        assert!(list.contains(20000, 29999) && !list.contains(8080, 8081));
        list.remove(20000, 29999);
        assert_eq!(list.print(), "8080-8080");
        list.add(1, 10);
        list.remove(3, 5);
        assert_eq!(list, ranges("1-2,6-10,8080"));
        list.remove(0, u16::MAX);
        assert_eq!(list.print(), "");
        assert_eq!(Ranges::parse("a-b"), None);
    }

    #[test]
    fn the_last_port_is_a_port() {
        let mut list = ranges("65535");
        list.add(60000, 65534);
        assert_eq!(list.print(), "60000-65535");
        list.remove(60000, 65535);
        assert_eq!(list.print(), "");
    }
}
