//! Listeners and connections: as little of HTTP as a probe needs.
//!
//! A listener belongs to one family, also where it listens on the wildcard. When a listener is dropped its connections
//! end with it: an answer never outlives the object that it speaks of.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

/// Connections of one listener at a time: a port that the world can reach must not eat the agent's memory.
const CONNECTIONS: usize = 128;
/// How long a connection may be idle, or take to say what it wants.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long to wait when no descriptor is left for a new connection.
const BREATH: Duration = Duration::from_millis(100);
/// How long after a failure a listener is tried again.
pub const RETRY: Duration = Duration::from_secs(1);

/// A whole answer.
pub type Answer = Response<Full<Bytes>>;

/// Answers requests of any method. Bodies of requests are not looked at.
pub trait Handler: Send + Sync + 'static {
    /// The answer.
    fn answer(&self, request: Request<()>) -> impl Future<Output = Answer> + Send;
}

/// An answer with a body of this type that no browser shall take for something else.
pub fn answer(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer
}

/// Plain text.
pub fn text(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    answer(status, "text/plain; charset=utf-8", body)
}

/// There is nothing at this path.
pub fn not_found() -> Answer {
    text(StatusCode::NOT_FOUND, "404 page not found\n")
}

/// Adds a header with a number.
pub fn with_number(mut answer: Answer, name: &'static str, number: usize) -> Answer {
    answer.headers_mut().insert(HeaderName::from_static(name), HeaderValue::from(number));
    answer
}

/// What is listened on for an address from the command line: the wildcard of either family means both.
pub fn both_families(addr: SocketAddr) -> Vec<SocketAddr> {
    match addr.ip().is_unspecified() {
        true => [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)]
            .map(|ip| SocketAddr::new(ip, addr.port()))
            .to_vec(),
        false => vec![addr],
    }
}

/// Binds an address of one family only.
pub fn bind(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    if addr.is_ipv6() {
        // The other family has a listener of its own.
        socket.set_only_v6(true)?;
    }
    socket.bind(&addr.into())?;
    socket.listen(1024)?;
    TcpListener::from_std(socket.into())
}

/// A listener that serves until it is dropped.
#[derive(Debug)]
pub struct Served(JoinHandle<()>);

impl Served {
    /// Serves `listener` on the present runtime.
    pub fn start(listener: TcpListener, handler: Arc<impl Handler>) -> Self {
        Self(tokio::spawn(accept(listener, handler)))
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Listens on all of `addrs` for as long as it is polled. What cannot be bound is said once and tried again.
pub async fn listen(what: &str, addrs: Vec<SocketAddr>, handler: Arc<impl Handler>) {
    let mut waiting = addrs;
    let mut served = Vec::new();
    let mut said = false;
    loop {
        let mut failures = Vec::new();
        waiting.retain(|addr| match bind(*addr) {
            Ok(listener) => {
                served.push(Served::start(listener, Arc::clone(&handler)));
                false
            }
            // A machine without IPv6: there is nobody whom the listener could hear.
            Err(error) if has_no_family(&error) => false,
            Err(error) => {
                failures.push(format!("{addr}: {error}"));
                true
            }
        });
        if !failures.is_empty() && !said {
            tracing::warn!("{what} cannot listen on {}; trying on", failures.join(", "));
            said = true;
        }
        if waiting.is_empty() {
            if said {
                tracing::info!("{what} listens now");
            }
            return std::future::pending().await;
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// The kernel has no such address family, or none of its addresses.
pub fn has_no_family(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EAFNOSUPPORT)
}

async fn accept(listener: TcpListener, handler: Arc<impl Handler>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < CONNECTIONS => match accepted {
                Ok((stream, _)) => drop(connections.spawn(converse(stream, Arc::clone(&handler)))),
                // The client is gone already, or there are no descriptors; neither is a reason to end.
                Err(_) => tokio::time::sleep(BREATH).await,
            },
            _ = connections.join_next(), if !connections.is_empty() => {}
        }
    }
}

async fn converse(stream: TcpStream, handler: Arc<impl Handler>) {
    let service = service_fn(|request: Request<Incoming>| {
        let handler = Arc::clone(&handler);
        async move { Ok::<_, Infallible>(handler.answer(request.map(drop)).await) }
    });
    let mut server = hyper::server::conn::http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(PATIENCE).title_case_headers(true);
    // A broken connection is the client's affair.
    let _ = server.serve_connection(TokioIo::new(stream), service).await;
}
