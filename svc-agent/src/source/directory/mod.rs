//! A directory of manifests, watched: a change is in force within a second.
//!
//! The kernel says when something changes (inotify); twice a second or so the files are compared with what was read,
//! because the kernel does not say it for every file system. What counts is always the state of the files, never what
//! an event says. A file is read when its writer has closed it; a broken file takes nothing away (`files`).

mod files;
mod memory;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use notify::event::{AccessKind, AccessMode, CreateKind, ModifyKind, RenameMode};
use notify::{EventKind, RecursiveMode, Watcher};
use tokio::sync::mpsc;

use self::files::Files;
use super::ControlPlane;
use super::allocate::Cluster;
use crate::model::{Event, Kind};

/// A change is looked at when nothing has happened for so long...
const QUIET: Duration = Duration::from_millis(3);
/// ...a file that is gone, only then: editors and `rm && cp` put another one in its place at once...
const GONE: Duration = Duration::from_millis(100);
/// ...and at the latest so long after the first event of a burst.
const PATIENCE: Duration = Duration::from_millis(250);
/// A file that somebody is writing is read after so long without a write, closed or not.
const OPEN_FOR: Duration = Duration::from_millis(700);
/// How often the files are compared if no event comes.
const POLL: Duration = Duration::from_millis(500);

/// Reads all manifests below `path` (or the file `path`) and goes on to say what changes, until nobody listens. An error
/// means that there was nothing to read at the start.
pub async fn watch(path: PathBuf, control_plane: ControlPlane, tx: mpsc::Sender<Vec<Event>>) -> anyhow::Result<()> {
    let root = std::path::absolute(&path).with_context(|| format!("the manifests in {}", path.display()))?;
    let mut source = tokio::task::spawn_blocking(move || Directory::open(root, control_plane)).await??;
    let mut events = Kind::ALL.map(Event::Restarted).to_vec();
    events.append(&mut source.pending);
    events.extend(Kind::ALL.map(Event::Synced));
    if tx.send(events).await.is_err() {
        return Ok(());
    }
    let (notifier, mut notified) = mpsc::unbounded_channel();
    let mut eyes = Eyes::new(notifier);
    let mut hands = Hands::default();
    loop {
        eyes.look_at(&source.root);
        let wait = source.poll_interval().min(hands.wait().unwrap_or(POLL));
        tokio::select! {
            event = notified.recv() => {
                let Some(event) = event else { return Ok(()) };
                let Some(quiet) = hands.note(event) else { continue };
                settle(&mut notified, &mut hands, quiet).await;
            }
            () = tokio::time::sleep(wait) => {}
            () = tx.closed() => return Ok(()),
        }
        let busy = hands.busy();
        source = tokio::task::spawn_blocking(move || {
            source.scan(&busy);
            source
        })
        .await?;
        if !source.pending.is_empty() && tx.send(std::mem::take(&mut source.pending)).await.is_err() {
            return Ok(());
        }
    }
}

type Notified = notify::Result<notify::Event>;

/// Waits for the end of a burst of events.
async fn settle(notified: &mut mpsc::UnboundedReceiver<Notified>, hands: &mut Hands, mut quiet: Duration) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let until = (tokio::time::Instant::now() + quiet).min(deadline);
        match tokio::time::timeout_at(until, notified.recv()).await {
            Ok(Some(event)) => quiet = hands.note(event).map_or(quiet, |more| quiet.max(more)),
            Ok(None) | Err(_) => return,
        }
    }
}

/// The files, what is made of them, and what has not been sent yet.
struct Directory {
    root: PathBuf,
    files: Files,
    cluster: Cluster,
    state_file: Option<PathBuf>,
    pending: Vec<Event>,
    /// What was said before: a full range is not said at every change.
    said: BTreeSet<String>,
    /// How long it took to compare the files.
    effort: Duration,
}

impl Directory {
    fn open(root: PathBuf, control_plane: ControlPlane) -> anyhow::Result<Self> {
        let state_file = control_plane.state_file.clone();
        let given = state_file.as_deref().map(memory::recall).unwrap_or_default();
        let mut source = Self {
            files: Files::default(),
            cluster: Cluster::new(control_plane, given),
            state_file,
            pending: Vec::new(),
            said: BTreeSet::new(),
            effort: Duration::ZERO,
            root,
        };
        // At the start a missing directory is a mistake to be told; later it may come back.
        super::manifest::files(&source.root).with_context(|| {
            format!("the manifests in {} cannot be read: give --source a directory or a file", source.root.display())
        })?;
        source.scan(&BTreeSet::new());
        Ok(source)
    }

    /// Compares the files with what was read of them and takes the changes in.
    fn scan(&mut self, busy: &BTreeSet<PathBuf>) {
        let begin = Instant::now();
        let (changes, mut warnings) = self.files.scan(&self.root, busy);
        self.effort = begin.elapsed();
        if !changes.is_empty() {
            let before = self.cluster.given().clone();
            let (events, more) = self.cluster.apply(changes);
            self.pending.extend(events);
            let more: BTreeSet<String> = more.into_iter().collect();
            warnings.extend(more.difference(&self.said).cloned());
            self.said = more;
            if let Some(path) = &self.state_file
                && *self.cluster.given() != before
                && let Err(error) = memory::keep(path, self.cluster.given())
            {
                warnings.push(format!("{}: cannot remember addresses for a restart: {error}", path.display()));
            }
        }
        for warning in warnings {
            tracing::warn!("{warning}");
        }
    }

    /// Comparing takes at most a hundredth of the time.
    fn poll_interval(&self) -> Duration {
        POLL.max(self.effort * 100)
    }
}

/// What watches for us. Without it (no inotify instance left) the files are compared at intervals only.
struct Eyes {
    watcher: Option<notify::RecommendedWatcher>,
    /// Which directory is watched: another one may have come under the same name.
    watched: Option<(PathBuf, Option<files::Stamp>)>,
}

impl Eyes {
    fn new(notifier: mpsc::UnboundedSender<Notified>) -> Self {
        let watcher = notify::recommended_watcher(move |event| {
            // Nobody listens any more: the source has ended.
            let _ = notifier.send(event);
        });
        let watcher = watcher
            .inspect_err(|error| tracing::warn!("changes of manifests are noticed by polling only: {error}"))
            .ok();
        Self { watcher, watched: None }
    }

    fn look_at(&mut self, root: &Path) {
        let Some(watcher) = &mut self.watcher else { return };
        // Of a file the directory is watched: editors replace files.
        let is_file = root.is_file();
        let target = if is_file { root.parent().unwrap_or(root) } else { root };
        let target = (target.to_owned(), files::Stamp::identity(target));
        if self.watched.as_ref() == Some(&target) || target.1.is_none() {
            return;
        }
        if let Some((old, _)) = self.watched.take() {
            // It may be gone already, and its watch with it.
            let _ = watcher.unwatch(&old);
        }
        let mode = if is_file { RecursiveMode::NonRecursive } else { RecursiveMode::Recursive };
        match watcher.watch(&target.0, mode) {
            Ok(()) => self.watched = Some(target),
            Err(error) => {
                tracing::warn!("{}: changes are noticed by polling only: {error}", target.0.display());
                self.watcher = None;
            }
        }
    }
}

/// Files that somebody is writing, and when he last did.
#[derive(Default)]
struct Hands(HashMap<PathBuf, Instant>);

impl Hands {
    /// Takes an event in. If files may have changed, says how long it has to be quiet before they are looked at.
    fn note(&mut self, event: Notified) -> Option<Duration> {
        // An error is an overflow or the like: compare everything.
        let Ok(event) = event else { return Some(QUIET) };
        let mut quiet = QUIET;
        for path in event.paths {
            match event.kind {
                // Files are also opened by ourselves.
                EventKind::Access(AccessKind::Open(_) | AccessKind::Close(AccessMode::Read)) => return None,
                EventKind::Create(CreateKind::File) | EventKind::Modify(ModifyKind::Data(_)) => {
                    self.0.insert(path, Instant::now());
                }
                EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(RenameMode::From)) => {
                    if super::manifest::is_manifest(&path) {
                        quiet = GONE;
                    }
                    self.0.remove(&path);
                }
                EventKind::Access(AccessKind::Close(AccessMode::Write)) | EventKind::Modify(ModifyKind::Name(_)) => {
                    self.0.remove(&path);
                }
                _ => {}
            }
        }
        Some(quiet)
    }

    fn busy(&mut self) -> BTreeSet<PathBuf> {
        self.0.retain(|_, last| last.elapsed() < OPEN_FOR);
        self.0.keys().cloned().collect()
    }

    /// When the next of them counts as written.
    fn wait(&self) -> Option<Duration> {
        self.0.values().map(|last| OPEN_FOR.saturating_sub(last.elapsed())).min()
    }
}
