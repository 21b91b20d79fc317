//! One kind, followed for ever.
//!
//! kube's watcher lists and watches; what it cannot know is decided here: when to begin anew with a full list, how long
//! to wait, and what to tell whom.

use std::collections::HashSet;
use std::error::Error as _;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use kube::runtime::watcher::{self, InitialListStrategy, watcher};
use kube::{Api, Client};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::pace::{self, Pace, Pacer};
use super::resource::{Followed, Seen};
use super::trouble::Trouble;
use crate::model::Event;
use crate::source::{Contact, Interner};

/// Objects that have arrived together are handed on together, at most so many.
const BATCH: usize = 512;
/// The server ends a watch after so long, in seconds; a little later the client does. It bounds how long a connection
/// that is dead without a sign goes unnoticed.
pub(super) const WATCH_SECONDS: u32 = 120;
/// A watch that could not be resumed so often is given up for a full list: its place may be one that the server has not
/// reached again, having come back with an older state.
pub(super) const RESUMES: u32 = 4;
/// Different complaints about objects are remembered, so that each is said once.
const COMPLAINTS: usize = 1000;

/// Follows one kind.
pub(super) struct Follower<W: Followed> {
    api: Api<Seen<W>>,
    config: watcher::Config,
    tx: mpsc::Sender<Vec<Event>>,
    pace: Pace,
    may_be_absent: bool,
    names: Interner,
    complaints: HashSet<String>,
    delay: Duration,
    trouble: Arc<Trouble>,
    /// Errors in a row.
    failures: u32,
}

/// What to do after an error.
#[derive(Debug, PartialEq, Eq)]
enum Then {
    /// The watch goes on where it was.
    Resume,
    /// All is listed again.
    Relist,
}

impl<W: Followed> Follower<W> {
    pub(super) fn new(client: Client, tx: mpsc::Sender<Vec<Event>>, pace: Pace, contact: Arc<Contact>) -> Self {
        let trouble = Arc::new(Trouble::new(W::KIND, W::PLURAL, pace, contact));
        Self {
            api: Api::all(Pacer::new(pace, Arc::clone(&trouble)).stand_before(client)),
            config: watcher::Config::default().streaming_lists().timeout(WATCH_SECONDS),
            tx,
            pace,
            may_be_absent: false,
            names: Interner::default(),
            complaints: HashSet::new(),
            delay: pace.first_delay,
            trouble,
            failures: 0,
        }
    }

    pub(super) fn labels(mut self, selector: &str) -> Self {
        self.config = self.config.labels(selector);
        self
    }

    pub(super) fn fields(mut self, selector: &str) -> Self {
        self.config = self.config.fields(selector);
        self
    }

    /// Servers before 1.33 do not have the kind.
    pub(super) fn may_be_absent(mut self) -> Self {
        self.may_be_absent = true;
        self
    }

    /// Returns when nobody listens any more.
    pub(super) async fn run(mut self) {
        while self.follow().await.is_some() {}
    }

    /// From one full list to the error that makes the next one necessary; `None`: nobody listens.
    async fn follow(&mut self) -> Option<()> {
        let mut stream = pin!(watcher(self.api.clone(), self.config.clone()).ready_chunks(BATCH));
        let mut synced = false;
        // A list that breaks off is begun anew by the watcher at once, and without a word.
        let mut listing = false;
        loop {
            let chunk = if synced {
                stream.next().await
            } else {
                match timeout(self.pace.list_stall, stream.next()).await {
                    Ok(chunk) => chunk,
                    Err(_) => {
                        self.trouble.met("the full list does not go on");
                        self.fall_back();
                        self.wait().await;
                        return Some(());
                    }
                }
            };
            // The watcher never ends; if it did, it would be begun anew.
            let Some(chunk) = chunk else { return Some(()) };
            let mut events = Vec::with_capacity(chunk.len());
            let mut failure = None;
            let mut broken = false;
            for item in chunk {
                match item {
                    Ok(event) => {
                        match event {
                            watcher::Event::Init if listing => {
                                broken = true;
                                break;
                            }
                            watcher::Event::Init => (synced, listing) = (false, true),
                            watcher::Event::InitDone => (synced, listing) = (true, false),
                            _ => {}
                        }
                        self.take(event, &mut events);
                    }
                    Err(error) => {
                        // After an error the watcher may list again: that is not the old list broken off.
                        listing = false;
                        failure = Some(error);
                        break;
                    }
                }
            }
            if !events.is_empty() {
                self.tx.send(events).await.ok()?;
                // Half a list is no sign of health.
                if synced {
                    self.recovered();
                }
            }
            if broken {
                self.trouble.met("the full list breaks off");
                self.fall_back();
                self.wait().await;
                return Some(());
            }
            if let Some(error) = failure
                && self.fail(&error).await? == Then::Relist
            {
                return Some(());
            }
        }
    }

    fn take(&mut self, event: watcher::Event<Seen<W>>, events: &mut Vec<Event>) {
        let (object, listed) = match event {
            watcher::Event::Init => return events.push(Event::Restarted(W::KIND)),
            watcher::Event::InitDone => return events.push(Event::Synced(W::KIND)),
            watcher::Event::Delete(object) => return events.push(Event::Deleted(W::KIND, object.wire.key())),
            watcher::Event::Apply(object) => (object, false),
            watcher::Event::InitApply(object) => (object, true),
        };
        let key = object.wire.key();
        let (object, problems) = object.wire.read(&mut self.names);
        for problem in problems {
            let text = format!("{} {key}: {} {}: ignored", W::NAME, problem.path, problem.text);
            if self.complaints.len() < COMPLAINTS && self.complaints.insert(text.clone()) {
                tracing::warn!("{text}");
            }
        }
        match object {
            Some(object) => events.push(Event::Applied(object)),
            // It may have counted before. In a list, what is not named has vanished anyway.
            None if !listed => events.push(Event::Deleted(W::KIND, key)),
            None => {}
        }
    }

    /// Says what is wrong, waits, and decides how to go on.
    async fn fail(&mut self, error: &watcher::Error) -> Option<Then> {
        let status = status(error);
        if self.may_be_absent && status == Some(404) {
            // Nothing is missing: this server has no such kind.
            tracing::debug!("the API server has no kind {}", W::NAME);
            self.tx.send(vec![Event::Restarted(W::KIND), Event::Synced(W::KIND)]).await.ok()?;
            tokio::time::sleep(self.pace.absent).await;
            return Some(Then::Relist);
        }
        if status == Some(410) {
            // Normal after a long pause; again and again it is trouble like any other.
            self.failures += 1;
            if self.failures < RESUMES {
                tracing::debug!("{}: the API server has forgotten where the watch was", W::NAME);
            } else {
                self.trouble.met("the API server forgets what it has just said");
            }
            // The watcher lists again by itself if the news came inside a watch.
            let inside = matches!(error, watcher::Error::WatchError(_));
            self.wait().await;
            return Some(if inside { Then::Resume } else { Then::Relist });
        }
        self.trouble.met(&chain(error));
        if matches!(status, Some(400 | 403 | 404 | 405 | 415 | 422)) {
            self.fall_back();
        }
        self.wait().await;
        self.failures += 1;
        Some(if self.failures < RESUMES { then(error, status) } else { Then::Relist })
    }

    /// Streaming lists are asked for first; who does not know them gets an ordinary list.
    fn fall_back(&mut self) {
        self.config.initial_list_strategy = match self.config.initial_list_strategy {
            InitialListStrategy::StreamingList => InitialListStrategy::ListWatch,
            // Not that either: so it was something else, and the better way is tried again.
            InitialListStrategy::ListWatch => InitialListStrategy::StreamingList,
        };
    }

    async fn wait(&mut self) {
        let delay = pace::part_of(self.delay);
        self.delay = (self.delay * 2).min(self.pace.longest_delay);
        tokio::time::sleep(delay).await;
    }

    fn recovered(&mut self) {
        self.delay = self.pace.first_delay;
        self.failures = 0;
        self.trouble.over();
    }
}

/// The HTTP status in an error, if the server has answered at all.
fn status(error: &watcher::Error) -> Option<u16> {
    match error {
        watcher::Error::WatchError(status) => Some(status.code),
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status)) => Some(status.code),
        _ => None,
    }
}

/// A watch is resumed while the server is merely busy, or the connection broke. Whoever was away may have come back with
/// an older state, and what could not be decoded is lost: then all is listed again.
fn then(error: &watcher::Error, status: Option<u16>) -> Then {
    match (error, status) {
        (_, Some(429 | 500..)) => Then::Resume,
        (watcher::Error::WatchFailed(kube::Error::SerdeError(_)), _) => Then::Relist,
        (watcher::Error::WatchFailed(_), None) => Then::Resume,
        _ => Then::Relist,
    }
}

/// An error with its causes, on one line: those that repeat what is said already are left out.
fn chain(error: &watcher::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let more = inner.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = inner.source();
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
