//! When the garbage collector runs: seldom while there is room, often when the flow tables fill, so that expired entries
//! go before living ones are evicted. That a table is nearly full is said before it is.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use svc_common::tables::name;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::datapath::Maps;
use crate::datapath::gc::{Collection, Gc};

/// A table that is fuller than this, in percent, is announced.
const NEARLY_FULL: u32 = 80;

/// How long to wait after a walk that left the fullest table so full, in percent.
fn interval(full: u32) -> Duration {
    match full {
        0..50 => Duration::from_secs(10),
        50..70 => Duration::from_secs(2),
        _ => Duration::from_millis(500),
    }
}

/// Runs the collector.
pub(super) struct Collector {
    gc: Arc<Gc>,
    capacity: [u32; 2],
    next: Instant,
    running: Option<JoinHandle<anyhow::Result<Collection>>>,
    /// Tables that have been announced as nearly full, by family.
    announced: [bool; 2],
}

impl Collector {
    pub(super) fn new(gc: Gc, maps: &Maps) -> Self {
        Self {
            gc: Arc::new(gc),
            capacity: [maps.flows_v4.entries(), maps.flows_v6.entries()],
            next: Instant::now() + interval(0),
            running: None,
            announced: [false; 2],
        }
    }

    /// Waits for the next walk and does it. May be dropped and called again at any time.
    pub(super) async fn collected(&mut self) -> Option<Collection> {
        if self.running.is_none() {
            tokio::time::sleep_until(self.next).await;
        }
        let gc = &self.gc;
        let running = self.running.get_or_insert_with(|| {
            let gc = Arc::clone(gc);
            tokio::task::spawn_blocking(move || gc.run())
        });
        let result = running.await.context("the garbage collector broke off").flatten();
        self.running = None;
        let collection = result.inspect_err(|error| tracing::error!("{error:#}")).ok();
        let full = collection.as_ref().map_or(0, |collection| self.judge(collection));
        self.next = Instant::now() + interval(full);
        collection
    }

    /// How full the fuller table is, in percent; says so if it is too full.
    fn judge(&mut self, collection: &Collection) -> u32 {
        let mut fullest = 0;
        for (family, table) in [name::FLOWS_V4, name::FLOWS_V6].into_iter().enumerate() {
            let left = collection.seen[family].saturating_sub(collection.removed[family]);
            let full = (u64::from(left) * 100 / u64::from(self.capacity[family].max(1))) as u32;
            if full >= NEARLY_FULL && !self.announced[family] {
                let capacity = self.capacity[family];
                tracing::warn!(
                    "table {table} is {full} % full ({left} of {capacity}); start with a larger --max-flows"
                );
            }
            self.announced[family] = full >= NEARLY_FULL;
            fullest = fullest.max(full);
        }
        fullest
    }
}
