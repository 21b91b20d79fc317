//! Servers and clients for the lab, run inside its namespaces by the program `lab-helper`.
//!
//! They are a program and not threads of the test, because what a socket hook sees is the cgroup of a process.
//!
//! A server answers in TCP by what the first line asks (`who`, `echo`, `sink N`, `source N`, or an HTTP request), in UDP
//! every datagram, and always says its name and the address it saw as its peer: "NAME PEER".

pub mod client;
pub mod datagram;
pub mod load;
pub mod report;
pub mod server;
pub mod stream;

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::lab::place::{Job, Place};
use crate::lab::tool;
pub use datagram::Heard;
pub use report::Report;

/// How long a load may take to its first answer.
const START: Duration = Duration::from_secs(20);

/// What a client asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// One TCP connection a question.
    Tcp,
    /// One UDP socket a question.
    Udp,
    /// One TCP connection and HTTP request a question, for servers that are not the lab's.
    Http,
}

impl Ask {
    /// The word on the command line.
    pub fn word(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Http => "http",
        }
    }

    /// From the word on the command line.
    pub fn parse(word: &str) -> Result<Self> {
        [Self::Tcp, Self::Udp, Self::Http]
            .into_iter()
            .find(|ask| ask.word() == word)
            .with_context(|| format!("{word}: a client asks tcp, udp or http"))
    }
}

/// The socket of a UDP flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Socket {
    /// Connected, as a resolver's.
    Connected,
    /// Connected; its owner connects anew when, and only when, it is told that the connection was ended.
    Reconnected,
    /// Names the address with each datagram, as a server's.
    Unconnected,
}

impl Socket {
    /// The word on the command line.
    pub fn word(self) -> &'static str {
        match self {
            Self::Connected => "connected",
            Self::Reconnected => "reconnected",
            Self::Unconnected => "unconnected",
        }
    }

    /// From the word on the command line.
    pub fn parse(word: &str) -> Result<Self> {
        [Self::Connected, Self::Reconnected, Self::Unconnected]
            .into_iter()
            .find(|socket| socket.word() == word)
            .with_context(|| format!("{word}: a socket is connected, reconnected or unconnected"))
    }
}

/// Asks `count` times from a place, each time as a new flow, and waits for the report.
pub fn ask(place: &Place, ask: Ask, to: SocketAddr, count: u64) -> Result<Report> {
    run(place, &["ask", ask.word(), &to.to_string(), &count.to_string()])
}

/// Sends and fetches that many bytes over TCP and compares checksums.
pub fn transfer(place: &Place, to: SocketAddr, bytes: u64) -> Result<Report> {
    run(place, &["transfer", &to.to_string(), &bytes.to_string()])
}

/// Starts asking without end; [`Load::stop`] gives the report.
pub fn load(place: &Place, ask: Ask, to: SocketAddr) -> Result<Load> {
    Load::start(place, &["ask", ask.word(), &to.to_string(), "0"])
}

/// Starts TCP connections that are never closed and exchange a line all the time.
pub fn hold(place: &Place, to: SocketAddr, connections: usize) -> Result<Load> {
    Load::start(place, &["hold", &to.to_string(), &connections.to_string()])
}

/// Starts one UDP flow that never pauses; its report says when which backend answered.
pub fn flow(place: &Place, to: SocketAddr, socket: Socket) -> Result<Load> {
    Load::start(place, &["flow", &to.to_string(), socket.word()])
}

/// Starts an echo of datagrams in a place; `order` as in [`datagram::order`].
pub fn echo(place: &Place, order: &str, at: &[SocketAddr], log: &Path) -> Result<Job> {
    let mut args = vec!["echo".to_owned(), order.to_owned()];
    args.extend(at.iter().map(ToString::to_string));
    place.spawn(tool::sibling("lab-helper", "SVC_LAB_HELPER")?, &args, log)
}

/// Sends one datagram of so many bytes, in pieces of that order, and waits for it to come back.
pub fn say(place: &Place, to: SocketAddr, bytes: usize, order: &str) -> Result<()> {
    let helper = tool::sibling("lab-helper", "SVC_LAB_HELPER")?;
    tool::output(place.command(helper).args(["say", &to.to_string(), &bytes.to_string(), order])).map(drop)
}

/// Sends one datagram with so many hops to live and waits for what is said about it.
pub fn hear(place: &Place, to: SocketAddr, hops: u32, bytes: usize) -> Result<Heard> {
    let helper = tool::sibling("lab-helper", "SVC_LAB_HELPER")?;
    let args = ["hear", &to.to_string(), &hops.to_string(), &bytes.to_string()];
    Heard::parse(&tool::output(place.command(helper).args(args))?)
}

fn run(place: &Place, args: &[&str]) -> Result<Report> {
    let helper = tool::sibling("lab-helper", "SVC_LAB_HELPER")?;
    let printed = tool::output(place.command(helper).args(args))?;
    serde_json::from_str(&printed).with_context(|| format!("lab-helper printed {printed}"))
}

/// A client that goes on until it is stopped.
#[derive(Debug)]
pub struct Load {
    child: Child,
    stdin: Option<ChildStdin>,
    /// What it prints, line by line.
    lines: mpsc::Receiver<String>,
}

impl Load {
    fn start(place: &Place, args: &[&str]) -> Result<Self> {
        let helper = tool::sibling("lab-helper", "SVC_LAB_HELPER")?;
        let mut child = place
            .command(helper)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start lab-helper")?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take().context("just piped")?);
        let (sender, lines) = mpsc::channel();
        // Ends with the process, or when nobody listens any more.
        std::thread::spawn(move || {
            BufReader::new(stdout).lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        let load = Self { child, stdin, lines };
        // It says so when the first answer has come: only then there is a load.
        let line = load.line(Instant::now() + START)?;
        if line != "started" {
            bail!("the load {args:?} did not start: {line}");
        }
        Ok(load)
    }

    /// Waits until a flow is answered by the server of this name.
    pub fn answered_by(&self, name: &str, deadline: Instant) -> Result<()> {
        while self.line(deadline).with_context(|| format!("{name} does not answer in time"))? != name {}
        Ok(())
    }

    fn line(&self, deadline: Instant) -> Result<String> {
        Ok(self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now()))?)
    }

    /// Ends it and returns its report: the last line.
    pub fn stop(mut self) -> Result<Report> {
        drop(self.stdin.take());
        let printed = self.lines.iter().last().context("lab-helper printed no report")?;
        serde_json::from_str(&printed).with_context(|| format!("lab-helper printed {printed:?}"))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
