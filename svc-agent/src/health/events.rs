//! What is worth telling the owner of an object, as Events on it: `kubectl describe` shows them.
//!
//! Everything that is told here stands in the log too, so nothing is waited for or repeated: every node of a large
//! cluster may have the same to say about the same Service, and the API server has better things to do. What comes
//! faster than [`EVERY`], after a burst of [`BURST`], is not sent.

use std::time::{Duration, Instant, SystemTime};

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::mpsc;

use crate::model::ObjectKey;

/// Events that may be sent at once.
pub const BURST: u32 = 10;
/// How often another one may be sent.
pub const EVERY: Duration = Duration::from_secs(10);
/// Events that wait for the API server.
const QUEUE: usize = 64;
/// The API takes no more.
const NOTE: usize = 1024;
/// Who reports.
const CONTROLLER: &str = "svc-agent";

/// What is told about what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// The Service; `None`: the own node.
    pub service: Option<(ObjectKey, String)>,
    /// Nothing is wrong.
    pub normal: bool,
    /// Why, in one word.
    pub reason: &'static str,
    /// What was being done, in one word.
    pub action: &'static str,
    /// What happened, in one sentence.
    pub note: String,
}

/// Where events are handed in. Without an API server nobody reads them.
#[derive(Clone, Debug)]
pub struct Events(Option<mpsc::Sender<Told>>);

impl Events {
    /// Into the void: with a directory of manifests there is nobody to tell.
    pub fn none() -> Self {
        Self(None)
    }

    /// A queue, and its end for [`publish`].
    pub fn queue() -> (Self, mpsc::Receiver<Told>) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        (Self(Some(sender)), receiver)
    }

    /// Tells it if there is room.
    pub fn tell(&self, told: Told) {
        if let Some(sender) = &self.0 {
            // Full: the log has it.
            let _ = sender.try_send(told);
        }
    }
}

/// Sends what is handed in until nobody hands in any more.
pub async fn publish(client: Client, node: &str, mut queue: mpsc::Receiver<Told>) {
    let mut allowance = Allowance { left: BURST, since: Instant::now() };
    while let Some(told) = queue.recv().await {
        if !allowance.take(Instant::now()) {
            continue;
        }
        let event = event(&told, node, SystemTime::now());
        let namespace = event.metadata.namespace.clone().unwrap_or_default();
        let api: Api<Event> = Api::namespaced(client.clone(), &namespace);
        if let Err(error) = api.create(&PostParams::default(), &event).await {
            tracing::debug!("an event could not be sent: {error}");
        }
    }
}

/// How many events may be sent.
#[derive(Debug)]
struct Allowance {
    left: u32,
    /// Since when nothing was added.
    since: Instant,
}

impl Allowance {
    fn take(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.since);
        let earned = u32::try_from(passed.as_nanos() / EVERY.as_nanos()).unwrap_or(u32::MAX);
        if earned > 0 {
            self.left = self.left.saturating_add(earned).min(BURST);
            self.since = if self.left == BURST { now } else { self.since + EVERY * earned };
        }
        let may = self.left > 0;
        self.left -= u32::from(may);
        may
    }
}

fn event(told: &Told, node: &str, now: SystemTime) -> Event {
    let nanoseconds = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    let regarding = match &told.service {
        Some((key, uid)) => ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Service".to_owned()),
            namespace: Some(key.namespace.to_string()),
            name: Some(key.name.to_string()),
            uid: (!uid.is_empty()).then(|| uid.clone()),
            ..ObjectReference::default()
        },
        // Nodes have no namespace, and by custom their name is the uid of what is told about them.
        None => ObjectReference {
            kind: Some("Node".to_owned()),
            name: Some(node.to_owned()),
            uid: Some(node.to_owned()),
            ..ObjectReference::default()
        },
    };
    let namespace = regarding.namespace.clone().unwrap_or_else(|| "default".to_owned());
    let subject = regarding.name.clone().unwrap_or_default();
    let time = i128::try_from(nanoseconds).ok().and_then(|time| Timestamp::from_nanosecond(time).ok());
    Event {
        metadata: ObjectMeta {
            namespace: Some(namespace),
            name: Some(format!("{subject}.{nanoseconds:x}")),
            ..ObjectMeta::default()
        },
        action: Some(told.action.to_owned()),
        event_time: time.map(MicroTime),
        note: Some(told.note[..told.note.floor_char_boundary(NOTE)].to_owned()),
        reason: Some(told.reason.to_owned()),
        regarding: Some(regarding),
        reporting_controller: Some(CONTROLLER.to_owned()),
        reporting_instance: Some(format!("{CONTROLLER}-{node}")),
        type_: Some(if told.normal { "Normal" } else { "Warning" }.to_owned()),
        ..Event::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_burst_one_at_a_time() {
        let began = Instant::now();
        let mut allowance = Allowance { left: BURST, since: began };
        let taken = (0..100).filter(|_| allowance.take(began)).count();
        assert_eq!(taken, BURST as usize);
        assert!(!allowance.take(began + EVERY - Duration::from_millis(1)));
        assert!(allowance.take(began + EVERY));
        assert!(!allowance.take(began + EVERY * 2 - Duration::from_millis(1)), "no time is lost or won");
        assert!(allowance.take(began + EVERY * 2));
        let later = began + EVERY * 1000;
        assert_eq!((0..100).filter(|_| allowance.take(later)).count(), BURST as usize);
    }

    #[test]
    fn an_event_names_its_object_and_fits() {
        let told = Told {
            service: Some((ObjectKey::new("ns", "web"), "1-2-3".to_owned())),
            normal: false,
            reason: "NotServedInFull",
            action: "Plan",
            note: "ä".repeat(NOTE),
        };
        let event = event(&told, "n1", SystemTime::UNIX_EPOCH + Duration::from_micros(1_500_000));
        assert_eq!(event.metadata.namespace.as_deref(), Some("ns"));
        assert_eq!(event.metadata.name.as_deref(), Some("web.59682f00"));
        assert_eq!(event.event_time.map(|time| time.0.to_string()).as_deref(), Some("1970-01-01T00:00:01.5Z"));
        assert_eq!(event.note.map(|note| note.len()), Some(NOTE));
        assert_eq!(event.type_.as_deref(), Some("Warning"));
        let regarding = event.regarding.expect("an object");
        assert_eq!((regarding.kind.as_deref(), regarding.uid.as_deref()), (Some("Service"), Some("1-2-3")));
    }

    #[test]
    fn what_is_told_about_the_node_stands_in_the_default_namespace() {
        let told = Told { service: None, normal: true, reason: "Starting", action: "Start", note: "x".to_owned() };
        let event = event(&told, "n1", SystemTime::now());
        assert_eq!(event.metadata.namespace.as_deref(), Some("default"));
        assert_eq!(event.regarding.and_then(|node| node.name).as_deref(), Some("n1"));
        assert_eq!(event.type_.as_deref(), Some("Normal"));
    }
}
