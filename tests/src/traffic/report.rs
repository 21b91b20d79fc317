//! What a client saw.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use serde::{Deserialize, Serialize};

/// A packet that is lost is sent again after a second; so much sooner no answer takes that long without.
pub const LATE: Duration = Duration::from_millis(900);

/// Sums over all questions of a client.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// Questions that were answered.
    pub ok: u64,
    /// Failures by kind: refused, reset, timeout, ...
    pub errors: BTreeMap<String, u64>,
    /// Answers by name of the server.
    pub backends: BTreeMap<String, u64>,
    /// Answers by the source address that the server saw.
    pub sources: BTreeMap<String, u64>,
    /// The slowest answer, in milliseconds: about 1,000 and more means that a packet was lost and sent again.
    pub slowest_ms: u64,
    /// Answers for which a packet had to be sent again: they took [`LATE`] or longer.
    pub late: u64,
    /// How long all of it took, in milliseconds.
    pub took_ms: u64,
    /// Of a flow: at which millisecond another server began to answer.
    pub changes: Vec<(u64, String)>,
}

impl Report {
    /// Counts an answer.
    pub fn answered(&mut self, answer: &Answer, took: Duration) {
        self.ok += 1;
        *self.backends.entry(answer.name.clone()).or_default() += 1;
        if let Some(peer) = answer.peer {
            *self.sources.entry(peer.to_string()).or_default() += 1;
        }
        self.slowest_ms = self.slowest_ms.max(millis(took));
        self.late += u64::from(took >= LATE);
    }

    /// Counts a failure.
    pub fn failed(&mut self, error: &io::Error) {
        *self.errors.entry(kind(error)).or_default() += 1;
    }

    /// Adds what another thread saw.
    pub fn add(&mut self, other: Self) {
        self.ok += other.ok;
        for (into, from) in
            [(&mut self.errors, other.errors), (&mut self.backends, other.backends), (&mut self.sources, other.sources)]
        {
            for (key, count) in from {
                *into.entry(key).or_default() += count;
            }
        }
        self.slowest_ms = self.slowest_ms.max(other.slowest_ms);
        self.late += other.late;
        self.took_ms = self.took_ms.max(other.took_ms);
        self.changes.extend(other.changes);
    }

    /// Failures of all kinds.
    pub fn failures(&self) -> u64 {
        self.errors.values().sum()
    }

    /// Fails unless every question was answered.
    pub fn expect_all(&self) -> Result<&Self> {
        ensure!(self.failures() == 0 && self.ok > 0, "{} answered, failures {:?}", self.ok, self.errors);
        Ok(self)
    }

    /// Fails unless every question was refused.
    pub fn expect_refused(&self) -> Result<()> {
        let refused = self.errors.get("refused").copied().unwrap_or_default();
        ensure!(refused > 0 && refused == self.failures() && self.ok == 0, "{self:?}: expected to be refused");
        Ok(())
    }

    /// Fails unless every server saw one of these sources, and no other.
    pub fn expect_sources(&self, allowed: &[IpAddr]) -> Result<&Self> {
        for source in self.sources.keys() {
            let seen: IpAddr = source.parse()?;
            if !allowed.contains(&seen) {
                bail!("the server saw {seen} as its peer, expected {allowed:?}");
            }
        }
        Ok(self)
    }

    /// Fails unless exactly these servers answered, none with less than five standard deviations below its fair share.
    pub fn expect_spread(&self, names: &[&str]) -> Result<&Self> {
        let seen: Vec<&str> = self.backends.keys().map(String::as_str).collect();
        let mut names = names.to_vec();
        names.sort_unstable();
        ensure!(seen == names, "answers came from {seen:?}, expected {names:?}");
        let fair = self.ok / u64::try_from(names.len())?;
        let least = fair.saturating_sub(5 * fair.isqrt());
        for (name, count) in &self.backends {
            ensure!(*count >= least, "{name} answered {count} of {}: not balanced", self.ok);
        }
        Ok(self)
    }
}

/// What a server says of itself and of its client.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Its name.
    pub name: String,
    /// Whom it saw; an HTTP server does not say.
    pub peer: Option<IpAddr>,
}

impl Answer {
    /// Reads "NAME PEER", or "NAME".
    pub fn parse(line: &str) -> io::Result<Self> {
        let mut words = line.split_ascii_whitespace();
        let name = words.next().ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?.to_owned();
        let peer = words.next().and_then(|word| word.parse::<SocketAddr>().ok());
        Ok(Self { name, peer: peer.map(|peer| peer.ip()) })
    }
}

/// Whole milliseconds.
pub fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Whether a connected UDP socket was ended: told when it receives, or, where it sends first, by being connected no more.
pub fn is_aborted(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ECONNABORTED | libc::EDESTADDRREQ))
}

fn kind(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "refused".into(),
        _ if is_aborted(error) => "aborted".into(),
        io::ErrorKind::ConnectionReset => "reset".into(),
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => "timeout".into(),
        io::ErrorKind::UnexpectedEof => "closed without an answer".into(),
        _ => error.to_string(),
    }
}
