//! Sweeps in the background, one at a time: a walk over large tables takes a tenth of a second, and no change has to wait
//! for it. What comes meanwhile is swept in one walk afterwards. Sockets of this node's processes that turn out to be
//! connected to an endpoint which is gone are ended.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use tokio::task::JoinHandle;

use crate::apply::Stale;
use crate::datapath::Maps;
use crate::datapath::sock_destroy;
use crate::datapath::sweep::{self, Swept};
use crate::model::Family;

/// What a sweep has done, and how many sockets were ended.
type Done = anyhow::Result<(Swept, io::Result<u64>)>;

/// What is to be swept, and the sweep that is under way.
pub(super) struct Sweeper {
    maps: Arc<Maps>,
    /// The newest word on each service port counts.
    waiting: BTreeMap<(Family, u32), Stale>,
    running: Option<JoinHandle<Done>>,
    /// It has been said that this kernel cannot end sockets.
    warned: bool,
}

impl Sweeper {
    pub(super) fn new(maps: Arc<Maps>) -> Self {
        Self { maps, waiting: BTreeMap::new(), running: None, warned: false }
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
            self.running = Some(tokio::task::spawn_blocking(move || {
                let swept = sweep::sweep(&maps, &stale)?;
                let ended = sock_destroy::destroy(&swept.orphans);
                Ok((swept, ended))
            }));
        }
    }

    /// Waits for the end of a sweep, for ever if there is none, and says what it has done if it succeeded.
    pub(super) async fn finished(&mut self) -> Option<Swept> {
        let Some(running) = &mut self.running else { return std::future::pending().await };
        let result = running.await;
        self.running = None;
        self.start();
        match result {
            Ok(Ok((swept, ended))) => {
                self.ended(ended);
                return Some(swept);
            }
            Ok(Err(error)) => tracing::error!("cannot sweep: {error:#}"),
            Err(error) => tracing::error!("a sweep broke off: {error}"),
        }
        None
    }

    fn ended(&mut self, ended: io::Result<u64>) {
        match ended {
            Ok(0) => {}
            Ok(count) => tracing::info!("{count} UDP sockets were connected to endpoints that are gone: ended"),
            Err(error) if sock_destroy::is_unsupported(&error) => {
                if !self.warned {
                    tracing::warn!(
                        "connected UDP sockets of this node's processes stay with endpoints that are gone: {error}; the \
                         kernel needs CONFIG_INET_UDP_DIAG (modprobe udp_diag) and CONFIG_INET_DIAG_DESTROY"
                    );
                }
                self.warned = true;
            }
            Err(error) => {
                tracing::error!("cannot end UDP sockets that are connected to endpoints that are gone: {error}");
            }
        }
    }

    /// Waits until nothing is left to sweep.
    pub(super) async fn finish(&mut self) {
        while self.running.is_some() {
            self.finished().await;
        }
    }
}
