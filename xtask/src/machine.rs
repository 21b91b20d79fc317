//! What this machine allows: each answer is the reason why not, or nothing.

use std::fs;

use crate::run::{command, find, output};

/// `CAP_NET_ADMIN` and `CAP_SYS_ADMIN`, as bits of `CapEff`.
const CAPABILITIES: u64 = 1 << 12 | 1 << 21;
/// The oldest kernel that the programs are made for.
const KERNEL: (u32, u32) = (5, 15);

/// Why programs cannot be loaded here.
pub(crate) fn no_programs() -> Option<String> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    if capabilities(&status).is_none_or(|have| have & CAPABILITIES != CAPABILITIES) {
        return Some("needs root; type: sudo -E env \"PATH=$PATH\" cargo xtask ..".to_owned());
    }
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    if kernel(&release).is_none_or(|version| version < KERNEL) {
        return Some(format!("needs Linux {}.{}, this is {}", KERNEL.0, KERNEL.1, release.trim()));
    }
    if !fs::exists("/sys/kernel/btf/vmlinux").unwrap_or(false) {
        return Some("the kernel has no BTF (CONFIG_DEBUG_INFO_BTF)".to_owned());
    }
    None
}

/// Why network namespaces cannot be made here.
pub(crate) fn no_namespaces() -> Option<String> {
    if let Some(reason) = no_programs() {
        return Some(reason);
    }
    let tried = output(&mut command("unshare", &["--net", "--mount", "true"]));
    tried.err().map(|error| format!("cannot make network namespaces: {error:#}"))
}

/// Why no Kubernetes control plane can be built here.
pub(crate) fn no_control_plane() -> Option<String> {
    no_namespaces()
        .or_else(|| find("go").is_none().then(|| "needs Go, to build a control plane from its modules".into()))
}

fn capabilities(status: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(value.trim(), 16).ok()
}

fn kernel(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::{capabilities, kernel};

    #[test]
    fn proc_is_read() {
        assert_eq!(capabilities("Name:\tx\nCapEff:\t000001ffffffffff\n"), Some(0x1ff_ffff_ffff));
        assert_eq!(capabilities("Name:\tx\n"), None);
        assert_eq!(kernel("6.18.44-fc-v445\n"), Some((6, 18)));
        assert_eq!(kernel(""), None);
    }
}
