//! Where an HTTP port answers, as kube-proxy lets people write it.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// Port of `--healthz-bind-address` where none is written.
pub const HEALTHZ_PORT: u16 = 10256;
/// Port of `--metrics-bind-address` where none is written.
pub const METRICS_PORT: u16 = 10249;

/// An address and a port, or nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listen(pub Option<SocketAddr>);

impl Listen {
    /// `ADDR:PORT`, `ADDR` with this port, or nothing at all: no such port is opened.
    pub fn parse(text: &str, port: u16) -> Result<Self, String> {
        let text = text.trim();
        if text.is_empty() {
            return Ok(Self(None));
        }
        let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
        let addr = text.parse().or_else(|_| bare.parse().map(|addr: IpAddr| SocketAddr::new(addr, port)));
        addr.map(|addr| Self(Some(addr)))
            .map_err(|_| format!("\"{text}\" is no address and port; write it like 0.0.0.0:{port} or [::]:{port}"))
    }

    /// For `--healthz-bind-address`.
    pub fn healthz(text: &str) -> Result<Self, String> {
        Self::parse(text, HEALTHZ_PORT)
    }

    /// For `--metrics-bind-address`.
    pub fn metrics(text: &str) -> Result<Self, String> {
        Self::parse(text, METRICS_PORT)
    }

    /// The same address with another port; 0: nowhere.
    pub fn with_port(self, port: u16) -> Self {
        Self(self.0.filter(|_| port != 0).map(|addr| SocketAddr::new(addr.ip(), port)))
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |addr| write!(f, "{addr}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_may_be_missing_and_so_may_all_of_it() {
        for (text, addr) in [
            ("0.0.0.0:1", Some("0.0.0.0:1")),
            ("127.0.0.1", Some("127.0.0.1:10256")),
            ("[::1]", Some("[::1]:10256")),
            ("::", Some("[::]:10256")),
            ("", None),
        ] {
            assert_eq!(Listen::healthz(text), Ok(Listen(addr.map(|addr| addr.parse().expect("valid")))), "{text}");
        }
        assert!(Listen::metrics("localhost").is_err());
        assert_eq!(Listen::metrics("[::1]:7").map(|at| at.with_port(9).to_string()), Ok("[::1]:9".to_owned()));
        assert_eq!(Listen::metrics("[::1]:7").map(|at| at.with_port(0)), Ok(Listen(None)));
    }
}
