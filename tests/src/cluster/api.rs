//! A client of the API server for tests: HTTP/1.1 over a Unix socket, JSON in and out.
//!
//! Behind the socket `socat` speaks TLS with the API server inside its namespace, so that the test itself, which lives in
//! the machine's own namespace, sends nothing there.

use std::cell::RefCell;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// A client with one connection that is kept. A clone has its own.
#[derive(Debug)]
pub struct Api {
    socket: PathBuf,
    token: String,
    kept: RefCell<Option<BufReader<UnixStream>>>,
}

/// What a server says.
#[derive(Debug)]
struct Answer {
    status: u16,
    body: Vec<u8>,
    /// Whether the connection can be used again.
    keep: bool,
}

impl Clone for Api {
    fn clone(&self) -> Self {
        Self::new(self.socket.clone(), &self.token)
    }
}

impl Api {
    /// A client that says who it is by a token.
    pub fn new(socket: PathBuf, token: &str) -> Self {
        Self { socket, token: token.into(), kept: RefCell::new(None) }
    }

    /// Reads an object or a list.
    pub fn get(&self, path: &str) -> Result<Value> {
        self.object("GET", path, None)
    }

    /// Makes an object.
    pub fn post(&self, path: &str, object: &Value) -> Result<Value> {
        self.object("POST", path, Some(object))
    }

    /// Replaces an object.
    pub fn put(&self, path: &str, object: &Value) -> Result<Value> {
        self.object("PUT", path, Some(object))
    }

    /// Merges into an object; a field that is null goes.
    pub fn patch(&self, path: &str, merge: &Value) -> Result<Value> {
        self.object("PATCH", path, Some(merge))
    }

    /// What would become of an object if it were applied by the server: checked strictly, defaulted, not stored.
    pub fn would_apply(&self, path: &str, object: &Value) -> Result<Value> {
        let path = format!("{path}?fieldManager=tests&force=true&fieldValidation=Strict&dryRun=All");
        let answer = self.send("PATCH", "application/apply-patch+yaml", &path, Some(object))?;
        serde_json::from_slice(&answer).with_context(|| format!("{path}: no JSON"))
    }

    /// Takes an object away.
    pub fn delete(&self, path: &str) -> Result<Value> {
        self.object("DELETE", path, None)
    }

    /// What the server prints, whatever it is.
    pub fn text(&self, path: &str) -> Result<String> {
        Ok(String::from_utf8(self.body("GET", path, None)?)?)
    }

    fn object(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value> {
        let answer = self.body(method, path, body)?;
        serde_json::from_slice(&answer).with_context(|| format!("{method} {path}: no JSON"))
    }

    fn body(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Vec<u8>> {
        let kind = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        self.send(method, kind, path, body)
    }

    fn send(&self, method: &str, kind: &str, path: &str, body: Option<&Value>) -> Result<Vec<u8>> {
        let text = body.map(ToString::to_string).unwrap_or_default();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: api\r\nAuthorization: Bearer {}\r\nAccept: application/json\r\n\
             Content-Type: {kind}\r\nContent-Length: {}\r\n\r\n{text}",
            self.token,
            text.len()
        );
        let answer = self.exchange(&request).with_context(|| format!("{method} {path}"))?;
        if !(200..300).contains(&answer.status) {
            let said = String::from_utf8_lossy(&answer.body).into_owned();
            let message =
                serde_json::from_str::<Value>(&said).ok().and_then(|v| Some(v["message"].as_str()?.to_owned()));
            bail!("{method} {path}: {}: {}", answer.status, message.unwrap_or(said));
        }
        Ok(answer.body)
    }

    fn exchange(&self, request: &str) -> io::Result<Answer> {
        // A kept connection may have been closed by the server meanwhile: then nothing was done.
        if let Some(kept) = self.kept.take()
            && let Ok(answer) = self.on(kept, request)
        {
            return Ok(answer);
        }
        let stream = UnixStream::connect(&self.socket)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        self.on(BufReader::new(stream), request)
    }

    fn on(&self, mut stream: BufReader<UnixStream>, request: &str) -> io::Result<Answer> {
        stream.get_mut().write_all(request.as_bytes())?;
        let answer = read_answer(&mut stream)?;
        if answer.keep {
            self.kept.replace(Some(stream));
        }
        Ok(answer)
    }
}

fn read_answer(stream: &mut BufReader<UnixStream>) -> io::Result<Answer> {
    let first = line(stream)?;
    let status = first.split(' ').nth(1).and_then(|code| code.parse().ok());
    let status = status.ok_or_else(|| io::Error::other(format!("no answer of a web server: {first:?}")))?;
    let (mut length, mut chunked, mut keep) = (None, false, true);
    loop {
        let header = line(stream)?.to_ascii_lowercase();
        match header.split_once(": ") {
            Some(("content-length", value)) => length = value.parse().ok(),
            Some(("transfer-encoding", "chunked")) => chunked = true,
            Some(("connection", "close")) => keep = false,
            _ if header.is_empty() => break,
            _ => {}
        }
    }
    let mut body = Vec::new();
    if chunked {
        loop {
            let size = line(stream)?;
            let size = u64::from_str_radix(&size, 16).map_err(io::Error::other)?;
            stream.by_ref().take(size).read_to_end(&mut body)?;
            line(stream)?;
            if size == 0 {
                break;
            }
        }
    } else if let Some(length) = length {
        stream.take(length).read_to_end(&mut body)?;
        if body.len() as u64 != length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    } else {
        keep = false;
        stream.read_to_end(&mut body)?;
    }
    Ok(Answer { status, body, keep })
}

/// A line without its end; the connection may not end inside it.
fn line(stream: &mut BufReader<UnixStream>) -> io::Result<String> {
    let mut line = String::new();
    stream.read_line(&mut line)?;
    if !line.ends_with('\n') {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(line.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(text: &str) -> io::Result<Answer> {
        let (ours, mut theirs) = UnixStream::pair()?;
        theirs.write_all(text.as_bytes())?;
        drop(theirs);
        read_answer(&mut BufReader::new(ours))
    }

    #[test]
    fn answers_are_read() -> io::Result<()> {
        let plain = answer("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")?;
        assert_eq!((plain.status, plain.body.as_slice(), plain.keep), (200, b"{}".as_slice(), true));
        let chunked = answer("HTTP/1.1 201 C\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n")?;
        assert_eq!((chunked.status, chunked.body.as_slice()), (201, b"abcd".as_slice()));
        let closed = answer("HTTP/1.1 503 S\r\nConnection: close\r\n\r\ngone")?;
        assert_eq!((closed.status, closed.body.as_slice(), closed.keep), (503, b"gone".as_slice(), false));
        assert!(answer("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf").is_err());
        assert!(answer("").is_err());
        Ok(())
    }
}
