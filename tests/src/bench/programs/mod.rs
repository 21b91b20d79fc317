//! What the programs cost: nanoseconds per packet by `BPF_PROG_TEST_RUN`, net of an empty program of the same type.
//!
//! Measured inside a network namespace that has what a node has (an uplink, a route, a known neighbour), by a process of
//! its own: see [`inside`]. Every measured program runs behind a [`Relay`], which writes the packet anew each time, and
//! so does the empty one it is compared with.
//!
//! The machine is shared and noise only ever adds. So runs are short, measured program and empty program take turns, and
//! the fastest of each counts; a figure is the median of several such rounds.

mod paths;
mod sockets;
mod tables;

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use anyhow::{Context, Result, ensure};
use svc_agent::datapath::Hook;
use svc_agent::datapath::bpf::{self, TestRun};
use svc_agent::datapath::empty::{self, Kind};
use svc_agent::datapath::relay::{Relay, STRANDED};

use super::budget;
use super::report::{Figure, Report};
use crate::lab::place::Place;
use crate::lab::run::Run;

/// What was measured: names of budget rows, each with its rounds.
pub type Rounds = Vec<(String, Vec<f64>)>;

/// Runs a program that hands on to the next.
const NEXT: i32 = -1;
const XDP_PASS: i32 = 2;
/// The uplink of the namespace.
const UPLINK: &str = "uplink";

/// Measures every path and adds it to the report.
pub fn run(rounds: usize, report: &mut Report, say: &dyn Fn(&str)) -> Result<()> {
    say("programs");
    let run = Run::begin(false)?;
    let place = Place::make(&run, "programs", "programs")?;
    place.sysctl(&[("net.ipv4.ip_forward", "1"), ("net.ipv6.conf.all.forwarding", "1")])?;
    place.ip_batch(&format!(
        "link add {UPLINK} type veth peer name wire
         link set {UPLINK} up
         link set wire up
         addr add 10.64.0.1/16 dev {UPLINK}
         addr add fd00:4::1/64 dev {UPLINK}
         addr add 10.16.0.2/32 dev lo
         addr add fd00:1::2/128 dev lo
         neigh add 10.64.255.254 lladdr 02:00:00:00:00:fe dev {UPLINK} nud permanent
         neigh add fd00:4::fe lladdr 02:00:00:00:00:fe dev {UPLINK} nud permanent
         route add default via 10.64.255.254 dev {UPLINK}
         route add ::/0 via fd00:4::fe dev {UPLINK}
         "
    ))?;
    let own = std::env::current_exe().context("where is this program?")?;
    let cgroup = place.cgroup().display().to_string();
    let printed = place.output(&own.to_string_lossy(), &["worker", "programs", &cgroup, &rounds.to_string()])?;
    let measured: Rounds = serde_json::from_str(&printed).context("the process inside printed something else")?;
    for (id, rounds) in measured {
        let row = budget::find(&id).with_context(|| format!("no budget row is called {id}"))?;
        report.budgeted.push(Figure::of(&id, row.path, row.unit, &rounds));
    }
    Ok(())
}

/// The part inside the namespace.
pub fn inside(cgroup: &str, rounds: usize) -> Result<Rounds> {
    let mut measured = paths::measure(rounds)?;
    measured.extend(sockets::measure(cgroup.as_ref(), rounds)?);
    Ok(measured)
}

/// Index of the uplink.
fn uplink() -> Result<u32> {
    let text = std::fs::read_to_string(format!("/sys/class/net/{UPLINK}/ifindex"));
    // sysfs shows the devices of the namespace in which it was mounted, which need not be this one.
    if let Ok(text) = text {
        return Ok(text.trim().parse()?);
    }
    let text = crate::lab::tool::output(std::process::Command::new("ip").args(["-o", "link", "show", UPLINK]))?;
    let index = text.split_once(':').context("ip prints an index")?.0;
    Ok(index.trim().parse()?)
}

/// One packet at one hook.
struct Probe {
    hook: Hook,
    frame: Vec<u8>,
    context: Vec<u8>,
    real: Relay,
    empty: Relay,
    /// Held for the relay.
    _nothing: OwnedFd,
}

impl Probe {
    /// `counted`: offset of a source port that counts up, for connections that are new each time.
    fn new(program: BorrowedFd<'_>, hook: Hook, frame: Vec<u8>, counted: Option<usize>) -> Result<Self> {
        let xdp = hook == Hook::XdpUplink;
        let (kind, verdict) = if xdp { (Kind::Xdp, XDP_PASS) } else { (Kind::Classifier, NEXT) };
        let nothing = empty::load(kind, verdict)?;
        let real = Relay::load(kind, &frame, counted, program).context("a relay to the program")?;
        let empty = Relay::load(kind, &frame, counted, nothing.as_fd()).context("a relay to nothing")?;
        let context = if xdp { xdp_context(frame.len(), uplink()?) } else { skb_context() };
        Ok(Self { hook, frame, context, real, empty, _nothing: nothing })
    }

    fn test(&self, relay: &Relay, repeat: u32) -> Result<(bpf::TestResult, Vec<u8>)> {
        let mut out = vec![0; 256];
        let run = TestRun {
            data_in: &self.frame,
            data_out: &mut out,
            context_in: &self.context,
            context_out: &mut [],
            repeat,
        };
        let result = bpf::test_run(relay.fd(), run).with_context(|| format!("a test run of {}", self.hook.name()))?;
        ensure!(result.verdict != STRANDED, "the relay to {} does not lead on", self.hook.name());
        out.truncate(result.length);
        Ok((result, out))
    }

    /// What becomes of the packet.
    fn once(&self) -> Result<(u32, Vec<u8>)> {
        self.test(&self.real, 1).map(|(result, out)| (result.verdict, out))
    }

    /// One pair of short runs, with and without the program.
    fn pair(&self, repeat: u32) -> Result<[f64; 2]> {
        let [real, empty] = [&self.real, &self.empty].map(|relay| self.test(relay, repeat));
        Ok([f64::from(real?.0.nanoseconds), f64::from(empty?.0.nanoseconds)])
    }

    /// Nanoseconds of a packet: the best of many short runs, less the best of as many of the empty program. `before` is
    /// called before each.
    fn cost(&self, before: &dyn Fn() -> Result<()>) -> Result<f64> {
        let mut best = [f64::MAX; 2];
        for _ in 0..PAIRS {
            before()?;
            for (best, time) in best.iter_mut().zip(self.pair(REPEAT)?) {
                *best = best.min(time);
            }
        }
        Ok(best[0] - best[1])
    }
}

/// Repetitions of one run: about a millisecond, within a time slice.
const REPEAT: u32 = 8_000;
/// Runs of which the best counts.
const PAIRS: usize = 24;

/// `struct xdp_md` of a frame that has come by a device.
fn xdp_context(length: usize, ifindex: u32) -> Vec<u8> {
    [0, length as u32, 0, ifindex, 0, 0].iter().flat_map(|word: &u32| word.to_ne_bytes()).collect()
}

/// `struct __sk_buff` of a forwarded packet at the loopback device: a test run of TC wants a device.
fn skb_context() -> Vec<u8> {
    const CAME_BY: usize = 36;
    const DEVICE: usize = 40;
    let mut context = vec![0u8; 192];
    context[CAME_BY] = 1;
    context[DEVICE] = 1;
    context
}
