//! A line of output.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use serde::Serialize;
use serde_json::Value;

use super::question::Invalid;

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Outcome {
    /// To this endpoint, with this source.
    Forward { backend: SocketAddr, source: IpAddr },
    /// The sender is told at once.
    Reject,
    /// Silence.
    Drop,
    /// Goes on as it came.
    Untouched,
}

impl Outcome {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Forward { .. } => "forward",
            Self::Reject => "reject",
            Self::Drop => "drop",
            Self::Untouched => "untouched",
        }
    }
}

/// Gathers the outcomes of the trials of one question.
#[derive(Debug, Default)]
pub(super) struct Tally {
    outcomes: BTreeMap<&'static str, u32>,
    backends: BTreeMap<SocketAddr, u32>,
    sources: BTreeMap<IpAddr, u32>,
}

impl Tally {
    pub(super) fn add(&mut self, outcome: Outcome) {
        *self.outcomes.entry(outcome.name()).or_default() += 1;
        if let Outcome::Forward { backend, source } = outcome {
            *self.backends.entry(backend).or_default() += 1;
            *self.sources.entry(source).or_default() += 1;
        }
    }

    /// `forward 3, drop 1`, for trials that differ.
    pub(super) fn differences(&self) -> Option<String> {
        let parts: Vec<_> = self.outcomes.iter().map(|(name, count)| format!("{name} {count}")).collect();
        (parts.len() > 1).then(|| parts.join(", "))
    }

    pub(super) fn into_answer(self, id: Value, from: IpAddr, reason: String) -> Answer {
        let snat = match (self.sources.contains_key(&from), self.sources.keys().any(|source| *source != from)) {
            (_, false) => "never",
            (false, true) => "always",
            (true, true) => "sometimes",
        };
        let mut names = self.outcomes.keys();
        let outcome = match (names.next(), names.next()) {
            (Some(name), None) => name,
            _ => "mixed",
        };
        Answer {
            id,
            outcome,
            backends: self.backends.into_iter().map(|(addr, count)| (addr.to_string(), count)).collect(),
            sources: self.sources.into_iter().map(|(addr, count)| (addr.to_string(), count)).collect(),
            snat,
            reason,
        }
    }
}

/// The answer to a question.
#[derive(Debug, Serialize)]
pub(super) struct Answer {
    id: Value,
    outcome: &'static str,
    backends: BTreeMap<String, u32>,
    sources: BTreeMap<String, u32>,
    snat: &'static str,
    reason: String,
}

/// A line of output, fields in the order of the interface's description.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(super) enum Reply {
    /// To a question.
    Answer(Answer),
    /// To a change of the objects.
    Applied { id: Value, outcome: &'static str, reason: String },
    /// To a line that is no valid question, or that could not be carried out.
    Error { id: Value, error: String },
}

impl Reply {
    pub(super) fn applied(id: Value, reason: String) -> Self {
        Self::Applied { id, outcome: "applied", reason }
    }

    /// As one line for people.
    pub(super) fn in_words(&self) -> String {
        let name = |id: &Value| id.as_str().unwrap_or("-").to_owned();
        match self {
            Self::Answer(Answer { id, outcome, reason, .. }) => format!("{}: {outcome}: {reason}", name(id)),
            Self::Applied { id, outcome, reason } => format!("{}: {outcome}: {reason}", name(id)),
            Self::Error { id, error } => format!("{}: error: {error}", name(id)),
        }
    }
}

impl From<Invalid> for Reply {
    fn from(Invalid { id, error }: Invalid) -> Self {
        Self::Error { id, error }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn forward(backend: &str, source: &str) -> Outcome {
        Outcome::Forward { backend: backend.parse().expect("address"), source: source.parse().expect("address") }
    }

    fn answer(outcomes: &[Outcome]) -> Value {
        let mut tally = Tally::default();
        outcomes.iter().for_each(|outcome| tally.add(*outcome));
        let answer = tally.into_answer("q".into(), "10.1.0.7".parse().expect("address"), "why".to_owned());
        serde_json::to_value(answer).expect("an answer is JSON")
    }

    #[test]
    fn trials_are_counted() {
        let there = forward("10.1.0.20:53", "10.1.0.7");
        let answer = answer(&[there, there, forward("[fd00::1]:53", "10.0.0.1")]);
        assert_eq!(answer["outcome"], "forward");
        assert_eq!(answer["backends"], json!({ "10.1.0.20:53": 2, "[fd00::1]:53": 1 }));
        assert_eq!(answer["sources"], json!({ "10.0.0.1": 1, "10.1.0.7": 2 }));
        assert_eq!(answer["snat"], "sometimes");
    }

    #[test]
    fn what_is_not_forwarded_has_no_backends() {
        let answer = answer(&[Outcome::Reject]);
        assert_eq!(answer["outcome"], "reject");
        assert_eq!((&answer["backends"], &answer["sources"]), (&json!({}), &json!({})));
        assert_eq!(answer["snat"], "never");
    }

    #[test]
    fn trials_that_differ_are_mixed() {
        assert_eq!(answer(&[Outcome::Drop, Outcome::Untouched])["outcome"], "mixed");
        assert_eq!(answer(&[forward("10.1.0.20:53", "10.0.0.1")])["snat"], "always");
    }
}
