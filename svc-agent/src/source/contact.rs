//! Whether the source is heard: the last good state serves while it is not, and somebody may want to know since when.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::model::Kind;

/// Kinds that cannot be watched right now. A directory of manifests is always within reach.
#[derive(Debug, Default)]
pub struct Contact(Mutex<BTreeMap<Kind, Lost>>);

#[derive(Debug)]
struct Lost {
    since: Instant,
    /// Silence until then says that all is well: a watch on which nothing happens says nothing.
    until: Instant,
    /// What was said last.
    reason: String,
}

impl Contact {
    /// A kind cannot be watched since some time, for this reason; without another failure `until` then it can.
    pub(super) fn lost(&self, kind: Kind, since: Instant, until: Instant, reason: String) {
        self.lock().insert(kind, Lost { since, until, reason });
    }

    /// It can again.
    pub(super) fn restored(&self, kind: Kind) {
        self.lock().remove(&kind);
    }

    /// For how long the state of a kind may have been old; `None`: it is watched.
    pub fn age(&self, kind: Kind) -> Option<Duration> {
        let lost = self.lock();
        let lost = lost.get(&kind)?;
        (Instant::now() < lost.until).then(|| lost.since.elapsed())
    }

    /// Why something has not been watched for longer than `patience`: one line that names it.
    pub fn trouble(&self, patience: Duration) -> Option<String> {
        let now = Instant::now();
        let lost = self.lock();
        let mut lasting = lost.values().filter(|lost| now < lost.until && now - lost.since > patience);
        lasting.next().map(|lost| lost.reason.clone())
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Kind, Lost>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_until_restored_or_silent() {
        let contact = Contact::default();
        let now = Instant::now();
        let hour = Duration::from_secs(3600);
        contact.lost(Kind::Service, now, now + hour, "services: 403".into());
        contact.lost(Kind::Slice, now, now, "endpointslices: 403".into());
        assert!(contact.age(Kind::Service).is_some());
        assert_eq!(contact.trouble(Duration::ZERO).as_deref(), Some("services: 403"));
        assert_eq!(contact.trouble(hour), None, "it may pass");
        assert_eq!(contact.age(Kind::Slice), None, "no failure for long enough");
        assert_eq!(contact.age(Kind::Node), None);
        contact.restored(Kind::Service);
        assert_eq!(contact.age(Kind::Service), None);
        assert_eq!(contact.trouble(Duration::ZERO), None);
    }
}
