//! How fast the API server is asked.
//!
//! What fails is waited for by the follower. A watch that merely ends is resumed by kube's watcher at once and without a
//! word, which is right as long as it ends rarely. A server, or a proxy on the way, that accepts each and ends it at once
//! would be asked thousands of times a second: [`Pacer`] stands in the way of such requests.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http::Uri;
use kube::Client;

use super::follow::RESUMES;
use super::trouble::Trouble;

/// How fast things are tried again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    pub(super) first_delay: Duration,
    pub(super) longest_delay: Duration,
    /// How long a full list may stand still before it is asked for again.
    pub(super) list_stall: Duration,
    /// How often a kind that the server does not have is looked for.
    pub(super) absent: Duration,
    /// How often the same trouble is said.
    pub(super) repeat: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            first_delay: Duration::from_millis(100),
            longest_delay: Duration::from_secs(8),
            list_stall: Duration::from_secs(30),
            absent: Duration::from_secs(300),
            repeat: Duration::from_secs(60),
        }
    }
}

/// Somewhere between half of a delay and all: thousands of nodes see an API server return at the same moment.
pub(super) fn part_of(delay: Duration) -> Duration {
    let dice = RandomState::new().hash_one(0_u8) % 1024;
    delay / 2 + delay / 2 * u32::try_from(dice).unwrap_or_default() / 1024
}

/// Keeps the resumed watches of one kind apart.
pub(super) struct Pacer {
    pace: Pace,
    trouble: Arc<Trouble>,
    state: Mutex<State>,
}

struct State {
    /// When the last watch was asked for.
    asked: Option<Instant>,
    /// How long after that the next one is, at the earliest.
    delay: Duration,
    /// Watches in a row that ended before that.
    short: u32,
}

impl Pacer {
    pub(super) fn new(pace: Pace, trouble: Arc<Trouble>) -> Self {
        let state = Mutex::new(State { asked: None, delay: pace.first_delay, short: 0 });
        Self { pace, trouble, state }
    }

    /// A client whose resumed watches wait for their turn; everything else passes.
    pub(super) fn stand_before(self, client: Client) -> Client {
        let pacer = Arc::new(self);
        let namespace = client.default_namespace().to_owned();
        let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
            let (pacer, client) = (Arc::clone(&pacer), client.clone());
            async move {
                if resumes_watch(request.uri()) {
                    pacer.turn().await;
                }
                client.send(request).await
            }
        });
        Client::new(service, namespace)
    }

    async fn turn(&self) {
        let (wait, short) = self.lock().next(Instant::now(), self.pace);
        if short >= RESUMES {
            self.trouble.met("the API server ends each watch at once");
        }
        tokio::time::sleep(wait).await;
        self.lock().asked = Some(Instant::now());
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// How long the next watch has to wait, and how many before it were short.
    fn next(&mut self, now: Instant, pace: Pace) -> (Duration, u32) {
        let due = self.asked.map(|asked| asked + part_of(self.delay));
        let wait = due.map_or(Duration::ZERO, |due| due.saturating_duration_since(now));
        if wait.is_zero() {
            (self.delay, self.short) = (pace.first_delay, 0);
        } else {
            self.delay = (self.delay * 2).min(pace.longest_delay);
            self.short += 1;
        }
        (wait, self.short)
    }
}

/// A watch that goes on where another one ended: it does not ask for what there is already.
fn resumes_watch(uri: &Uri) -> bool {
    let query = uri.query().unwrap_or_default();
    let has = |name: &str| query.split('&').any(|pair| pair.split('=').next() == Some(name));
    has("watch") && !has("sendInitialEvents")
}
