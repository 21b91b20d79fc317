//! This process, under the names that every Prometheus client uses.

use std::fs;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;

use super::Samples;

/// Reads /proc/self at each scrape.
#[derive(Debug)]
pub(super) struct Process;

/// `USER_HZ`, the unit of times in /proc: 100 on every architecture that the agent runs on.
const TICKS: f64 = 100.0;

impl Collector for Process {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        let mut samples = Samples { encoder };
        samples.counter("process_cpu_seconds", "User and system CPU time spent.", cpu_seconds())?;
        samples.gauge("process_resident_memory_bytes", "Resident memory size.", resident_bytes())?;
        let fds = fs::read_dir("/proc/self/fd").ok().map(Iterator::count);
        samples.gauge("process_open_fds", "Number of open file descriptors.", fds)?;
        samples.gauge("process_start_time_seconds", "Start time of the process since unix epoch.", start_seconds())
    }
}

/// The fields of /proc/self/stat after the name of the command, which may hold anything; the first is the third.
fn stat() -> Option<Vec<f64>> {
    let text = fs::read_to_string("/proc/self/stat").ok()?;
    let (_, fields) = text.rsplit_once(") ")?;
    Some(fields.split(' ').map(|field| field.trim().parse().unwrap_or_default()).collect())
}

fn cpu_seconds() -> Option<f64> {
    let stat = stat()?;
    Some((stat.get(11)? + stat.get(12)?) / TICKS)
}

fn start_seconds() -> Option<f64> {
    let since_boot = stat()?.get(19)? / TICKS;
    let text = fs::read_to_string("/proc/stat").ok()?;
    let boot: f64 = text.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    Some(boot + since_boot)
}

fn resident_bytes() -> Option<u64> {
    let text = fs::read_to_string("/proc/self/status").ok()?;
    let kib: u64 =
        text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn the_numbers_are_those_of_a_process_that_just_began() {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs_f64();
        let age = now - start_seconds().expect("/proc");
        assert!((-2.0..3600.0).contains(&age), "{age}");
        assert!(cpu_seconds().expect("/proc") < 3600.0);
        assert!(resident_bytes().expect("/proc") > 1 << 20);
    }
}
