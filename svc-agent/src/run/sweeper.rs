//! Sweeps in the background, one at a time: a walk over large tables takes a tenth of a second, and no change has to wait
//! for it. What comes meanwhile is swept in one walk afterwards.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::task::JoinHandle;

use crate::apply::Stale;
use crate::datapath::Maps;
use crate::datapath::sweep::{self, Swept};
use crate::model::Family;

/// What is to be swept, and the sweep that is under way.
pub(super) struct Sweeper {
    maps: Arc<Maps>,
    /// The newest word on each service port counts.
    waiting: BTreeMap<(Family, u32), Stale>,
    running: Option<JoinHandle<anyhow::Result<Swept>>>,
}

impl Sweeper {
    pub(super) fn new(maps: Arc<Maps>) -> Self {
        Self { maps, waiting: BTreeMap::new(), running: None }
    }

    /// Sweeps these soon.
    pub(super) fn sweep(&mut self, stale: Vec<Stale>) {
        for stale in stale {
            match self.waiting.entry((stale.family, stale.service)) {
                std::collections::btree_map::Entry::Vacant(entry) => drop(entry.insert(stale)),
                std::collections::btree_map::Entry::Occupied(mut entry) => {
                    let old = entry.get_mut();
                    old.serving = stale.serving.or_else(|| old.serving.take());
                    old.members = stale.members.or_else(|| old.members.take());
                }
            }
        }
        self.start();
    }

    fn start(&mut self) {
        if self.running.is_none() && !self.waiting.is_empty() {
            let maps = Arc::clone(&self.maps);
            let stale: Vec<_> = std::mem::take(&mut self.waiting).into_values().collect();
            self.running = Some(tokio::task::spawn_blocking(move || sweep::sweep(&maps, &stale)));
        }
    }

    /// Waits for the end of a sweep, for ever if there is none, and says what it has done if it succeeded.
    pub(super) async fn finished(&mut self) -> Option<Swept> {
        let Some(running) = &mut self.running else { return std::future::pending().await };
        let result = running.await;
        self.running = None;
        self.start();
        match result {
            Ok(Ok(swept)) => return Some(swept),
            Ok(Err(error)) => tracing::error!("cannot sweep: {error:#}"),
            Err(error) => tracing::error!("a sweep broke off: {error}"),
        }
        None
    }

    /// Waits until nothing is left to sweep.
    pub(super) async fn finish(&mut self) {
        while self.running.is_some() {
            self.finished().await;
        }
    }
}
