//! What the programs write about packets and socket calls when they are asked to: svc-ebpf/src/trace.rs at this end.
//!
//! Off is the state of a global that the verifier takes for a constant: no instruction of a line is left in the
//! programs. On, a line costs a packet in the order of 100 ns, and lines are lost when nobody reads fast enough.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Mutex};

use anyhow::Context as _;
use aya::{Ebpf, EbpfLoader};
use aya_log::{EbpfLogger, Level};
use log::{Log, Metadata, Record};
use svc_common::line::Line;
use svc_common::net::{Address as _, Port, Protocol, V4, V6};
use svc_common::verdict::Reason;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use zerocopy::FromBytes as _;

use super::Hook;

/// Name of the ring that the programs write to.
const RING: &str = "AYA_LOGS";

/// Switches the lines on or off in an object that is about to be loaded.
pub(super) fn switch(loader: &mut EbpfLoader<'_>, on: bool) {
    const OFF: u8 = 0;
    const ON: u8 = Level::Trace as u8;
    loader.override_global(aya_log::LEVEL, if on { &ON } else { &OFF }, true);
    if !on {
        // Nothing will be in it: the smallest ring that there is (aya rounds up to pages).
        loader.map_max_entries(RING, 4096);
    }
}

/// The lines of loaded programs.
pub struct Trace {
    reader: EbpfLogger<Arc<Written>>,
    lines: Arc<Written>,
}

impl Trace {
    /// Of this object.
    pub(super) fn of(object: &mut Ebpf) -> anyhow::Result<Self> {
        let lines = Arc::new(Written::default());
        let reader = EbpfLogger::init_with_logger(object, Arc::clone(&lines));
        Ok(Self { reader: reader.context("the object has no ring for lines")?, lines })
    }

    /// Lines that were written since the last call.
    pub fn read(&mut self) -> Vec<String> {
        self.reader.flush();
        self.lines.0.lock().map_or_else(|_| Vec::new(), |mut lines| std::mem::take(&mut *lines))
    }
}

impl AsRawFd for Trace {
    /// Readable when there are lines.
    fn as_raw_fd(&self) -> RawFd {
        self.reader.as_raw_fd()
    }
}

/// The lines as they come.
pub struct Lines {
    trace: AsyncFd<Trace>,
}

impl Lines {
    /// Those of `trace`, inside a tokio runtime.
    pub fn follow(trace: Trace) -> io::Result<Self> {
        // SAFETY: the descriptor is that of the ring, which the trace owns and never changes, and the trace lives inside.
        let trace = unsafe { AsyncFd::register_with_interest(trace, Interest::READABLE) };
        Ok(Self { trace: trace.map_err(io::Error::from)? })
    }

    /// Waits for lines.
    pub async fn next(&mut self) -> io::Result<Vec<String>> {
        let mut ready = self.trace.readable_mut().await?;
        let lines = ready.get_inner_mut().read();
        ready.clear_ready();
        Ok(lines)
    }
}

/// Takes what aya-log has read.
#[derive(Default)]
struct Written(Mutex<Vec<String>>);

impl Log for Written {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        if let Ok(mut lines) = self.0.lock() {
            lines.push(worded(&record.args().to_string()));
        }
    }

    fn flush(&self) {}
}

/// A line as the programs hand it over, hexadecimal, in words. What has not changed is not said twice.
fn worded(text: &str) -> String {
    let digits = |at: usize| u8::from_str_radix(text.get(at..at + 2)?, 16).ok();
    let bytes: Option<Vec<u8>> = (0..text.len()).step_by(2).map(digits).collect();
    let line = bytes.and_then(|bytes| Line::read_from_bytes(&bytes).ok());
    line.map_or_else(|| format!("a line of another version of the programs: {text}"), |line| sentence(&line))
}

fn sentence(line: &Line) -> String {
    const AT: [&str; 4] = [Hook::TcIngress.name(), Hook::TcEgress.name(), Hook::XdpUplink.name(), "socket call"];
    let addr = |words| if line.version == 4 { V4::from_wide(words).to_ip() } else { V6::from_wide(words).to_ip() };
    let end = |words, port: Port| SocketAddr::new(addr(words), port.get());
    let [a, b, c, d] = line.ports;
    let before = format!("{} -> {}", end(line.before[0], a), end(line.before[1], b));
    let after = format!("{} -> {}", end(line.after[0], c), end(line.after[1], d));
    let at = AT.get(usize::from(line.at)).copied().unwrap_or("?");
    let device = if line.ifindex == 0 { String::new() } else { format!(" device {}", line.ifindex) };
    let reason = Reason::ALL.get(usize::from(line.reason)).map_or("?", |reason| reason.label());
    let protocol = Protocol::from_number(line.protocol)
        .map_or_else(|| format!("protocol {}", line.protocol), |protocol| protocol.name().to_owned());
    let change = if before == after { String::new() } else { format!(" => {after}") };
    format!("{at}{device} {reason}: {protocol} {before}{change}")
}

#[cfg(test)]
mod tests {
    use svc_common::line::At;
    use svc_common::tuple::{End, Tuple};
    use zerocopy::IntoBytes as _;

    use super::*;

    fn tuple(from: &str, to: &str) -> Tuple<V6> {
        let end = |text: &str| {
            let end: SocketAddr = text.parse().expect("an end");
            End::new(V6::from_ip(end.ip()).expect("IPv6"), Port::new(end.port()))
        };
        Tuple { source: end(from), destination: end(to), protocol: 17 }
    }

    #[test]
    fn bytes_become_words() {
        let mut line = Line::default();
        line.begin(&tuple("[fd01::7]:4", "[fd96::1]:80"));
        line.becomes(&tuple("[fd01::7]:4", "[fd01::8]:8080"));
        (line.reason, line.ifindex) = (Reason::Opened as u8, 5);
        let hex: String = line.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            worded(&hex),
            "tc_ingress device 5 opened: UDP [fd01::7]:4 -> [fd96::1]:80 => [fd01::7]:4 -> [fd01::8]:8080"
        );
        line.stay();
        line.at = At::Egress as u8;
        let hex: String = line.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(worded(&hex), "tc_egress device 5 opened: UDP [fd01::7]:4 -> [fd96::1]:80");
        assert_eq!(worded("00ff"), "a line of another version of the programs: 00ff");
    }
}
