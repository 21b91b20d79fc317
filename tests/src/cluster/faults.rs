//! What stands between an agent and the API server and misbehaves when told to: a proxy for plain HTTP.
//!
//! Each connection carries one request, so that every request meets the fault of its time. [`Faults`] starts the proxy in
//! a namespace (`lab-helper faults`) and tells it what to do, one [`Fault`] a line; it answers when that is in force.

use std::io::{self, BufRead as _, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::lab::place::Place;
use crate::lab::tool;

/// What a request meets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fault {
    /// Nothing: it is passed on.
    #[default]
    None,
    /// All connections are closed, and each new one at once.
    Cut,
    /// Connections stand, and nothing goes through in either direction, on old ones neither.
    Freeze,
    /// Requests wait so many milliseconds.
    Delay(u64),
    /// The API server's way of saying no, by HTTP status.
    Status(u16),
    /// A page for people, as a proxy at a hotel gives it.
    Page,
    /// It is granted, and the answer ends at once, as if all had been said.
    Empty,
    /// The answer ends after so many bytes, without a sign.
    Truncate(usize),
    /// The answer's bytes after so many are others.
    Garble(usize),
}

/// The proxy of a test.
#[derive(Debug)]
pub struct Faults {
    child: Child,
    tell: ChildStdin,
    hear: BufReader<ChildStdout>,
}

impl Faults {
    /// Starts it; requests are passed on.
    pub fn start(place: &Place, listen: &str, upstream: &str) -> Result<Self> {
        let helper = tool::sibling("lab-helper", "SVC_LAB_HELPER")?;
        let mut child = place
            .command(helper)
            .args(["faults", listen, upstream])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start lab-helper")?;
        let tell = child.stdin.take().context("just piped")?;
        let hear = BufReader::new(child.stdout.take().context("just piped")?);
        let mut faults = Self { child, tell, hear };
        faults.set(&Fault::None)?;
        Ok(faults)
    }

    /// What requests meet from now on.
    pub fn set(&mut self, fault: &Fault) -> Result<()> {
        writeln!(self.tell, "{}", serde_json::to_string(fault)?)?;
        let mut said = String::new();
        self.hear.read_line(&mut said)?;
        ensure!(said == "ok\n", "the proxy said {said:?}");
        Ok(())
    }

    /// Closes the connections that stand, and then lets requests meet a fault.
    pub fn cut_then(&mut self, fault: &Fault) -> Result<()> {
        self.set(&Fault::Cut)?;
        self.set(fault)
    }
}

impl Drop for Faults {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[derive(Default)]
struct State {
    fault: Mutex<(Fault, Vec<TcpStream>)>,
    changed: Condvar,
}

impl State {
    fn lock(&self) -> MutexGuard<'_, (Fault, Vec<TcpStream>)> {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, fault: Fault) {
        let mut state = self.lock();
        if fault == Fault::Cut {
            // A connection that is gone already cannot be closed again.
            state.1.drain(..).for_each(|stream| _ = stream.shutdown(Shutdown::Both));
        }
        state.0 = fault;
        self.changed.notify_all();
    }

    /// The fault of now, once it is not `Freeze`.
    fn thawed(&self) -> Fault {
        let mut state = self.lock();
        while state.0 == Fault::Freeze {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.0.clone()
    }

    /// Remembers a connection, so that it can be cut.
    fn register(&self, stream: &TcpStream) -> io::Result<()> {
        self.lock().1.push(stream.try_clone()?);
        Ok(())
    }
}

/// The proxy: faults come in on standard input, until it is closed.
pub fn proxy(listen: SocketAddr, upstream: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(listen).with_context(|| format!("cannot bind {listen}"))?;
    let state = Arc::new(State::default());
    let accepting = Arc::clone(&state);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let state = Arc::clone(&accepting);
            std::thread::spawn(move || {
                // Both ends may go away at any time: that is what this is for.
                let _ = serve(&state, stream, upstream);
            });
        }
    });
    for line in io::stdin().lines() {
        state.set(serde_json::from_str(&line?).context("no fault")?);
        println!("ok");
    }
    Ok(())
}

fn serve(state: &Arc<State>, client: TcpStream, upstream: SocketAddr) -> io::Result<()> {
    state.register(&client)?;
    let mut reader = BufReader::new(client.try_clone()?);
    let head = read_head(&mut reader)?;
    let fault = state.thawed();
    let mut client = client;
    match fault {
        Fault::Cut => return client.shutdown(Shutdown::Both),
        Fault::Delay(millis) => std::thread::sleep(Duration::from_millis(millis)),
        Fault::Status(code) => return client.write_all(status(code).as_bytes()),
        Fault::Empty => {
            let head =
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 0\r\nConnection: close\r\n";
            return client.write_all(format!("{head}\r\n").as_bytes());
        }
        Fault::Page => {
            let page = "<html><body>Please sign in to use this network.</body></html>\n";
            let head = format!("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {}", page.len());
            return client.write_all(format!("{head}\r\nConnection: close\r\n\r\n{page}").as_bytes());
        }
        Fault::None | Fault::Freeze | Fault::Truncate(_) | Fault::Garble(_) => {}
    }
    let mut server = TcpStream::connect(upstream)?;
    state.register(&server)?;
    server.write_all(head.as_bytes())?;
    let mut onward = server.try_clone()?;
    std::thread::spawn(move || _ = io::copy(&mut reader, &mut onward));
    answer(state, &mut server, &mut client, &fault)?;
    client.shutdown(Shutdown::Both)
}

/// Passes an answer on, as far as the fault lets it.
fn answer(state: &State, server: &mut TcpStream, client: &mut TcpStream, fault: &Fault) -> io::Result<()> {
    let mut block = vec![0; 64 * 1024];
    let mut sent = 0;
    loop {
        let got = server.read(&mut block)?;
        if got == 0 {
            return Ok(());
        }
        state.thawed();
        let mut bytes = &mut block[..got];
        match *fault {
            Fault::Truncate(at) if sent + got > at => {
                bytes = &mut bytes[..at.saturating_sub(sent)];
                return client.write_all(bytes);
            }
            Fault::Garble(at) => bytes.iter_mut().skip(at.saturating_sub(sent)).for_each(|byte| *byte ^= 0x15),
            _ => {}
        }
        client.write_all(bytes)?;
        sent += got;
    }
}

/// The head of a request, asking for the end of the connection after the answer.
fn read_head(reader: &mut impl io::BufRead) -> io::Result<String> {
    let mut head = String::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if line == "\r\n" {
            return Ok(head + "Connection: close\r\n\r\n");
        }
        if !line.to_ascii_lowercase().starts_with("connection:") {
            head += &line;
        }
    }
}

fn status(code: u16) -> String {
    let body = format!(
        r#"{{"kind":"Status","apiVersion":"v1","metadata":{{}},"status":"Failure","message":"injected","reason":"Injected","code":{code}}}"#
    );
    format!(
        "HTTP/1.1 {code} Injected\r\nContent-Type: application/json\r\nContent-Length: {}\r\nRetry-After: 1\r\n\
         Connection: close\r\n\r\n{body}",
        body.len()
    )
}
