//! Questions in great number or without end.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::report::{Report, is_aborted, millis};
use super::{Ask, Socket, client};

/// Clients at a time.
const THREADS: u64 = 4;
/// Pause of a UDP flow between two datagrams.
const BEAT: Duration = Duration::from_millis(5);

/// Asks `count` times; 0 means until standard input is closed.
pub fn ask(ask: Ask, to: SocketAddr, count: u64) -> Report {
    let endless = count == 0;
    let left = AtomicU64::new(if endless { u64::MAX } else { count });
    let take = || left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
    many(endless, usize::try_from(THREADS.min(count.max(1)).max(if endless { 2 } else { 1 })).unwrap_or(1), |stop| {
        let mut report = Report::default();
        while !stop() && take() {
            let began = Instant::now();
            match client::ask(ask, to) {
                Ok(answer) => report.answered(&answer, began.elapsed()),
                Err(error) => {
                    report.failed(&error);
                    // Silence costs patience: one question lost is answer enough for a test that counts.
                    if !endless && matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock) {
                        break;
                    }
                }
            }
            if endless {
                if report.ok > 0 {
                    started();
                }
                // A load is to be there all the time, not to take all of it: an agent wants to start meanwhile.
                std::thread::sleep(BEAT);
            }
        }
        report
    })
}

/// Keeps connections open and exchanges a line over each all the time, until standard input is closed.
pub fn hold(to: SocketAddr, connections: usize) -> Report {
    many(true, connections, |stop| {
        let mut report = Report::default();
        if let Err(error) = hold_one(to, stop, &mut report) {
            report.failed(&error);
        }
        report
    })
}

fn hold_one(to: SocketAddr, stop: &(dyn Fn() -> bool + Sync), report: &mut Report) -> io::Result<()> {
    let mut stream = client::connect(to)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    stream.write_all(b"echo\n")?;
    let mut hello = String::new();
    reader.read_line(&mut hello)?;
    let answer = super::report::Answer::parse(&hello)?;
    let mut line = String::new();
    while !stop() {
        let began = Instant::now();
        stream.write_all(b"still there\n")?;
        line.clear();
        if reader.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        report.answered(&answer, began.elapsed());
        started();
        std::thread::sleep(BEAT);
    }
    Ok(())
}

/// One UDP flow without pause, until standard input is closed; prints who answers whenever that changes. A datagram without an answer is a failure, and the next
/// one is sent at the next beat all the same.
pub fn flow(to: SocketAddr, socket: Socket) -> Report {
    many(true, 1, |stop| {
        let mut report = Report::default();
        if let Err(error) = flow_one(to, socket, stop, &mut report) {
            report.failed(&error);
        }
        report
    })
}

fn flow_one(to: SocketAddr, how: Socket, stop: &(dyn Fn() -> bool + Sync), report: &mut Report) -> io::Result<()> {
    let open = || {
        let socket = if how == Socket::Unconnected { client::unconnected(to)? } else { client::udp(to)? };
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        io::Result::Ok(socket)
    };
    let mut socket = open()?;
    let began = Instant::now();
    while !stop() {
        let asked = Instant::now();
        match client::ask_again(&socket, (how == Socket::Unconnected).then_some(to)) {
            Ok(answer) => {
                started();
                if report.changes.last().is_none_or(|(_, last)| *last != answer.name) {
                    report.changes.push((millis(began.elapsed()), answer.name.clone()));
                    println!("{}", answer.name);
                }
                report.answered(&answer, asked.elapsed());
            }
            Err(error) => {
                report.failed(&error);
                // Silence is no reason: who is moved without being told would be no test of being told.
                if how == Socket::Reconnected && is_aborted(&error) {
                    socket = open()?;
                }
            }
        }
        std::thread::sleep(BEAT);
    }
    Ok(())
}

/// Says once that the load runs.
fn started() {
    static SAID: AtomicBool = AtomicBool::new(false);
    if !SAID.swap(true, Ordering::SeqCst) {
        println!("started");
    }
}

/// Runs threads until each is done; an endless one is told when standard input is closed.
fn many(endless: bool, threads: usize, work: impl Fn(&(dyn Fn() -> bool + Sync)) -> Report + Sync) -> Report {
    let began = Instant::now();
    let ended = AtomicBool::new(false);
    let stop = || ended.load(Ordering::SeqCst);
    let mut report = Report::default();
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(|| work(&stop))).collect();
        if endless {
            // What is written there has no meaning: its end has.
            let _ = io::stdin().read_to_end(&mut Vec::new());
            ended.store(true, Ordering::SeqCst);
        }
        for thread in running {
            match thread.join() {
                Ok(part) => report.add(part),
                Err(_) => report.failed(&io::Error::other("a client thread panicked")),
            }
        }
    });
    report.took_ms = millis(began.elapsed());
    report
}
