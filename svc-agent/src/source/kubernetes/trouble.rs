//! Trouble with one kind: how long it has lasted, and who is told.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::pace::Pace;
use crate::model::Kind;
use crate::source::Contact;

/// What has gone wrong with the watch of a kind since it was last well.
pub(super) struct Trouble {
    kind: Kind,
    plural: &'static str,
    pace: Pace,
    contact: Arc<Contact>,
    now: Mutex<Option<Lasting>>,
}

struct Lasting {
    since: Instant,
    last: Instant,
    said: Option<Instant>,
}

impl Trouble {
    pub(super) fn new(kind: Kind, plural: &'static str, pace: Pace, contact: Arc<Contact>) -> Self {
        Self { kind, plural, pace, contact, now: Mutex::default() }
    }

    /// There is some: the log and the age of the state say so.
    pub(super) fn met(&self, text: &str) {
        let now = Instant::now();
        let mut lasting = self.lock();
        // A resumed watch on which nothing happens does not show that it is well; long silence does.
        let old = lasting.take().filter(|lasting| now - lasting.last < self.pace.list_stall);
        let mut trouble = old.unwrap_or(Lasting { since: now, last: now, said: None });
        trouble.last = now;
        let reason = format!("{}: {text}", self.plural);
        self.contact.lost(self.kind, trouble.since, now + self.pace.list_stall, reason);
        if trouble.said.is_none_or(|said| now - said >= self.pace.repeat) {
            trouble.said = Some(now);
            let age = (now - trouble.since).as_secs();
            tracing::warn!("watching {}: {text}: the last good state serves since {age} s", self.plural);
        }
        *lasting = Some(trouble);
    }

    /// News have come: whatever it was is over.
    pub(super) fn over(&self) {
        if let Some(trouble) = self.lock().take() {
            self.contact.restored(self.kind);
            tracing::info!("watching {} again after {} s", self.plural, trouble.since.elapsed().as_secs());
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Lasting>> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
