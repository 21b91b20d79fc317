//! What this kernel and this network namespace are like, found by asking and never by version numbers.

use std::fs;
use std::io;
use std::net::UdpSocket;
use std::os::fd::AsRawFd as _;

use super::bpf::{self, AttachType, Target};

/// Number of possible CPUs: that many values a per-CPU map has for each key.
pub fn possible_cpus() -> io::Result<usize> {
    let text = fs::read_to_string("/sys/devices/system/cpu/possible")?;
    parse_cpus(&text).ok_or_else(|| io::Error::other(format!("cannot read {text:?} as a list of CPUs")))
}

/// The highest number of a list like `0-3,8`, plus one.
fn parse_cpus(text: &str) -> Option<usize> {
    text.trim()
        .split(',')
        .filter_map(|range| range.rsplit('-').next()?.parse::<usize>().ok())
        .max()
        .map(|last| last + 1)
}

/// Jiffies in a second: the tick is the resolution of the coarse clock.
pub fn ticks_per_second() -> io::Result<u32> {
    let mut resolution = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes one timespec.
    if unsafe { libc::clock_getres(libc::CLOCK_MONOTONIC_COARSE, &mut resolution) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let nanoseconds = resolution.tv_sec * 1_000_000_000 + resolution.tv_nsec;
    u32::try_from((1_000_000_000 + nanoseconds / 2) / nanoseconds.max(1)).map_err(io::Error::other)
}

/// Low 32 bits of jiffies: the time that flow entries carry.
pub fn jiffies() -> io::Result<u32> {
    // The kernel prints its own counter for root; otherwise it is within a few ticks of the monotonic clock, counted
    // from five minutes before the wrap at boot.
    if let Ok(text) = fs::read_to_string("/proc/timer_list")
        && let Some(value) = text.lines().find_map(|line| line.strip_prefix("jiffies: "))
        && let Ok(value) = value.trim().parse::<u64>()
    {
        return Ok(value as u32);
    }
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes one timespec.
    if unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let hz = u64::from(ticks_per_second()?);
    let ticks = now.tv_sec as u64 * hz + now.tv_nsec as u64 * hz / 1_000_000_000;
    Ok((ticks as u32).wrapping_sub(300 * hz as u32))
}

/// Cookie of this process's network namespace, by which socket programs tell the host's sockets from those of pods.
pub fn netns_cookie() -> io::Result<u64> {
    /// `include/uapi/asm-generic/socket.h`; newer than the libc crate's list for some targets.
    const SO_NETNS_COOKIE: libc::c_int = 71;
    let socket = UdpSocket::bind("127.0.0.1:0").or_else(|_| UdpSocket::bind("[::1]:0"))?;
    let mut cookie = 0u64;
    let mut len = size_of::<u64>() as libc::socklen_t;
    let out = std::ptr::from_mut(&mut cookie).cast();
    // SAFETY: the kernel writes at most `len` bytes, which is the size of the cookie.
    if unsafe { libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, SO_NETNS_COOKIE, out, &mut len) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(cookie)
}

/// Whether the kernel has TCX (6.6); before, TC programs hang in a clsact qdisc.
pub fn has_tcx() -> bool {
    // Asking who is attached to the loopback device tells whether the question is known.
    match bpf::programs_at(Target::Device(1), AttachType::TcxIngress) {
        Ok(_) => true,
        // No such device in this namespace, but the kernel got as far as looking for it.
        Err(error) => error.raw_os_error() == Some(libc::ENODEV),
    }
}

/// Whether socket programs can say which error a refused call returns (`bpf_set_retval`, 5.18).
pub fn has_set_retval() -> bool {
    use aya::programs::ProgramType;
    use aya::sys::{BpfHelper, is_helper_supported};
    is_helper_supported(ProgramType::CgroupSockAddr, BpfHelper::BPF_FUNC_set_retval).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cpus() {
        assert_eq!(parse_cpus("0\n"), Some(1));
        assert_eq!(parse_cpus("0-3\n"), Some(4));
        assert_eq!(parse_cpus("0-1,8-11\n"), Some(12));
        assert_eq!(parse_cpus("\n"), None);
    }

    #[test]
    fn the_tick_is_one_that_linux_has() {
        let hz = ticks_per_second().expect("a clock");
        assert!([100, 250, 300, 1000].contains(&hz), "{hz}");
    }
}
