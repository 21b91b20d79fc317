//! A line of input: a question about a packet, or a change of the objects.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use serde::Deserialize;
use serde_json::Value;

use super::walk::Packet;
use crate::model::{Protocol, text};

/// Where the packet enters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Via {
    /// Sent by a pod of this node.
    #[default]
    Pod,
    /// Sent by a process in this node's own network.
    Host,
    /// Arrives from outside, over an uplink or a tunnel.
    Uplink,
}

/// What happens to such a packet?
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Question {
    pub(super) id: Value,
    pub(super) via: Via,
    pub(super) device: Option<String>,
    pub(super) from: Option<IpAddr>,
    pub(super) source_port: Option<u16>,
    pub(super) to: SocketAddr,
    pub(super) protocol: Protocol,
    pub(super) trials: u32,
    pub(super) session: Option<String>,
}

impl From<Packet> for Question {
    fn from(Packet { via, from, to, protocol, .. }: Packet) -> Self {
        let (source_port, from) = (Some(from.port()), Some(from.ip()));
        Self { id: Value::Null, via, device: None, from, source_port, to, protocol, trials: 1, session: None }
    }
}

/// A valid line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Line {
    Ask(Question),
    /// From now on the objects are those of another path.
    Change {
        id: Value,
        session: Option<String>,
        manifests: PathBuf,
    },
}

/// A line that is no valid question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Invalid {
    /// Null if the line has none.
    pub(super) id: Value,
    pub(super) error: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WireQuestion {
    #[serde(default)]
    via: Via,
    device: Option<String>,
    from: Option<String>,
    source_port: Option<u16>,
    to: String,
    protocol: Option<String>,
    trials: Option<u32>,
    session: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WireChange {
    session: Option<String>,
    manifests: PathBuf,
}

/// Reads a line.
pub(super) fn parse(line: &str) -> Result<Line, Invalid> {
    let invalid = |id: &Value, error: String| Invalid { id: id.clone(), error };
    let value: Value =
        serde_json::from_str(line).map_err(|error| invalid(&Value::Null, format!("no JSON: {error}")))?;
    let Value::Object(mut fields) = value else {
        return Err(invalid(&Value::Null, "a question is a JSON object".to_owned()));
    };
    let id = fields.remove("id").unwrap_or(Value::Null);
    let line = if !id.is_string() && !id.is_null() {
        Err("id is a string".to_owned())
    } else if fields.contains_key("manifests") {
        let wire = serde_json::from_value(fields.into());
        wire.map(|WireChange { session, manifests }| Line::Change { id: id.clone(), session, manifests })
            .map_err(|error| error.to_string())
    } else {
        let wire = serde_json::from_value(fields.into()).map_err(|error| error.to_string());
        wire.and_then(|wire| question(id.clone(), wire)).map(Line::Ask)
    };
    line.map_err(|error| invalid(&id, error))
}

fn question(id: Value, wire: WireQuestion) -> Result<Question, String> {
    let from = match wire.from.as_deref() {
        None => None,
        Some(from) => Some(text::address(from).ok_or_else(|| format!("from: {from:?} is no address"))?),
    };
    let to = destination(&wire.to)
        .ok_or_else(|| format!("to: {:?} is no ADDRESS:PORT (an IPv6 address stands in brackets)", wire.to))?;
    if from.is_some_and(|from| from.is_ipv4() != to.is_ipv4()) {
        return Err("from and to are of different address families".to_owned());
    }
    if wire.source_port == Some(0) {
        return Err("source_port is 1 to 65535".to_owned());
    }
    let trials = wire.trials.unwrap_or(1);
    if !(1..=100_000).contains(&trials) {
        return Err(format!("trials is 1 to 100000, not {trials}"));
    }
    let protocol = protocol(wire.protocol.as_deref().unwrap_or("TCP"))?;
    let WireQuestion { via, device, source_port, session, .. } = wire;
    Ok(Question { id, via, device, from, source_port, to, protocol, trials, session })
}

/// `TCP`, `UDP` or `SCTP`.
pub(super) fn protocol(name: &str) -> Result<Protocol, String> {
    [Protocol::Tcp, Protocol::Udp, Protocol::Sctp]
        .into_iter()
        .find(|protocol| protocol.name() == name)
        .ok_or_else(|| format!("protocol: {name:?} is none of TCP, UDP, SCTP"))
}

/// `ADDRESS:PORT`, IPv6 in brackets.
pub(super) fn destination(text: &str) -> Option<SocketAddr> {
    let (addr, port) = text.trim().rsplit_once(':')?;
    let addr = match addr.strip_prefix('[') {
        Some(addr) => text::address(addr.strip_suffix(']')?).filter(IpAddr::is_ipv6)?,
        None => text::address(addr).filter(IpAddr::is_ipv4)?,
    };
    let port = port.parse().ok().filter(|port| *port != 0)?;
    Some(SocketAddr::new(addr, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(line: &str) -> Question {
        match parse(line) {
            Ok(Line::Ask(question)) => question,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn defaults_are_filled_in() {
        let question = ask(r#"{"id":"q","to":"10.96.0.10:53"}"#);
        assert_eq!((question.via, question.protocol, question.trials), (Via::Pod, Protocol::Tcp, 1));
        assert_eq!((question.from, question.source_port, question.session), (None, None, None));
    }

    #[test]
    fn everything_is_read() {
        let question =
            ask(r#"{"id":"q","via":"uplink","device":"eth0","from":"fd00::7","source_port":4000,"to":"[fd00::1]:80",
                "protocol":"SCTP","trials":64,"session":"s"}"#);
        assert_eq!(question.to, "[fd00::1]:80".parse().expect("address"));
        assert_eq!((question.via, question.protocol, question.trials), (Via::Uplink, Protocol::Sctp, 64));
        assert_eq!(question.session.as_deref(), Some("s"));
    }

    #[test]
    fn a_change_is_told_from_a_question() {
        let line = parse(r#"{"id":"m1","session":"s","manifests":"/tmp/x"}"#);
        let wanted = Line::Change { id: "m1".into(), session: Some("s".into()), manifests: "/tmp/x".into() };
        assert_eq!(line, Ok(wanted));
        assert!(parse(r#"{"id":"m1","manifests":"/tmp/x","to":"10.0.0.1:80"}"#).is_err());
    }

    #[test]
    fn wrong_lines_keep_their_id() {
        let id = |line: &str| parse(line).expect_err("invalid").id;
        assert_eq!(id("{"), Value::Null);
        assert_eq!(id("[]"), Value::Null);
        for rest in [
            r#""to":"10.0.0.1""#,
            r#""to":"10.0.0.1:0""#,
            r#""to":"fd00::1:80""#,
            r#""to":"[10.0.0.1]:80""#,
            r#""to":"10.0.0.1:80","from":"fd00::1""#,
            r#""to":"10.0.0.1:80","from":"x""#,
            r#""to":"10.0.0.1:80","trials":0"#,
            r#""to":"10.0.0.1:80","trials":100001"#,
            r#""to":"10.0.0.1:80","source_port":0"#,
            r#""to":"10.0.0.1:80","source_port":65536"#,
            r#""to":"10.0.0.1:80","protocol":"ICMP""#,
            r#""to":"10.0.0.1:80","via":"bridge""#,
            r#""to":"10.0.0.1:80","colour":"red""#,
            r#""via":"pod""#,
        ] {
            assert_eq!(id(&format!(r#"{{"id":"q",{rest}}}"#)), "q", "{rest}");
        }
    }
}
