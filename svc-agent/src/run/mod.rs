//! `svc-agent run`: a source at one end, the kernel at the other, and the order in which things happen.
//!
//! At the start the pinned maps are opened: what an earlier agent has written goes on serving, by its programs. When
//! Services and EndpointSlices have been listed in full the difference is written. Meanwhile the verifier looks at the
//! programs of this agent, which takes up to a second; those of TC, which are enough by themselves, come first, and are put
//! on, device by device, in place of their predecessors; on maps that replace those of another version only when these
//! hold a full state. With the others the agent is ready. At the end everything stays as it is.

mod attach;
mod collector;
mod observe;
mod sweeper;
mod trace;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use futures_util::FutureExt as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::apply::{self, Applier, Passed, Sink as _};
use crate::cli::flags::{FastPath, Flags, SourceFlag};
use crate::datapath::devices::{Selection, Watch};
use crate::datapath::gc::Collection;
use crate::datapath::maps::Opened;
use crate::datapath::upgrade::Stage;
use crate::datapath::{Maps, Writer, heap, maps, pins, ports};
use crate::engine::Engine;
use crate::model::{Event, Kind};
use crate::source::kubernetes::ClientOptions;
use crate::source::{self, Contact, ControlPlane};

use attach::{Attachments, Loaded};
use collector::Collector;
use observe::Observer;
use sweeper::Sweeper;

/// Changes that follow each other are taken together for as long as this at most.
const BATCHING: Duration = Duration::from_millis(50);
/// How long the Node and the ServiceCIDRs are waited for once Services and EndpointSlices are there.
const PATIENCE: Duration = Duration::from_secs(3);
/// How often programs are looked for that somebody else may have taken away without a word.
const PATROL: Duration = Duration::from_secs(10);
/// How long after a failed write the next attempt comes.
const RETRY: Duration = Duration::from_secs(1);

/// Serves this node until SIGTERM or SIGINT.
pub fn run(flags: &Flags) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(Agent::serve(flags))
}

/// Does what needs more privileges than serving, for a container that then serves with fewer: the ports of translated
/// sources are reserved, and `/proc/sys` can be written only by privileged containers.
pub fn initialise(flags: &Flags) -> anyhow::Result<()> {
    check(flags)?;
    let _lock = pins::lock(&flags.bpffs)?;
    ports::reserve(&flags.bpffs, flags.snat_port_range.first, flags.snat_port_range.last)?;
    tracing::info!("ports {} are reserved for source translation", flags.snat_port_range);
    Ok(())
}

/// The running agent.
struct Agent {
    engine: Engine,
    maps: Arc<Maps>,
    attachments: Attachments,
    /// The maps replace those of another version, by whose programs this node is served until the first full state.
    stage: Option<Stage>,
    /// Programs that wait for that.
    waiting: Vec<Loaded>,
    /// Once the programs are loaded.
    collector: Option<Collector>,
    sweeper: Sweeper,
    observer: Observer,
    /// The start of the agent, and the clock of the applier.
    began: Instant,
    /// When Services and EndpointSlices were both there.
    listed: Option<Instant>,
    /// When to look again although nothing has happened: what has become free may be reused, or a wait is over.
    again: Option<Instant>,
    /// No attempt before this, after a failure.
    blocked: Option<Instant>,
    /// A full state has been written, or found to be there.
    in_force: bool,
}

impl Agent {
    async fn serve(flags: &Flags) -> anyhow::Result<()> {
        let began = Instant::now();
        check(flags)?;
        if let Some(score) = flags.kube_proxy.settings.oom_score_adj {
            std::fs::write("/proc/self/oom_score_adj", score.to_string())
                .unwrap_or_else(|error| tracing::warn!("--oom-score-adj {score} could not be set: {error}"));
        }
        let _lock = pins::lock(&flags.bpffs)?;
        let memory = maps::total_memory(flags.sizes()).context("cannot count the CPUs; is /sys mounted?")?;
        tracing::info!("tables cost {} MiB of kernel memory", memory.div_ceil(1 << 20));
        // Three things take their time at a start, none of which needs the others to begin: the lists of objects, making
        // the tables, and then the verifier's look at the programs.
        let options = flags.options()?;
        let contact = Arc::new(Contact::default());
        let (sender, mut events) = mpsc::channel(16);
        let mut source = tokio::spawn(watch_source(flags.clone(), Arc::clone(&contact), sender));
        let opened = tokio::task::spawn_blocking({
            let (bpffs, sizes) = (flags.bpffs.clone(), flags.sizes());
            move || Maps::open_or_create(&bpffs, sizes)
        });
        let Opened { maps, dir, remarks, fresh, stage } = opened.await.context("making the tables broke off")??;
        remarks.iter().for_each(|remark| tracing::warn!("{remark}"));
        let maps = Arc::new(maps);
        let (done, mut programs) = mpsc::channel(2);
        let mut loading = tokio::task::spawn_blocking({
            let flags = flags.clone();
            move || attach::load(&flags, &dir, &done)
        })
        .fuse();
        let observer = Observer::start(flags, Arc::clone(&maps), contact)?;
        ports::reserve(&flags.bpffs, flags.snat_port_range.first, flags.snat_port_range.last)
            .unwrap_or_else(|error| tracing::warn!("ports for source translation are not reserved: {error:#}"));
        let selection =
            Selection::new(&flags.devices, options.detector.clone(), flags.external_fast_path != FastPath::Off);
        let mut watch = Watch::start(selection).await?;
        let (present, passed) = match &stage {
            Some(stage) => stage.carry(&maps)?,
            None if fresh => Default::default(),
            None => (maps.present()?, Passed::default()),
        };
        let mut applier = Applier::restore(maps.capacity(), &present);
        applier.pass_over(passed);
        let snat_ports = (flags.snat_port_range.first, flags.snat_port_range.last);
        let mut agent = Self {
            engine: Engine::new(&flags.node_name(), options, snat_ports, applier),
            sweeper: Sweeper::new(Arc::clone(&maps)),
            observer,
            maps,
            began,
            listed: None,
            again: None,
            blocked: None,
            in_force: false,
            attachments: Attachments::new(flags)?,
            stage,
            waiting: Vec::new(),
            collector: None,
        };
        agent.network_changed(&mut watch);
        let disturbed = Arc::clone(&watch.disturbed);
        let mut patrol = tokio::time::interval(PATROL);
        patrol.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (mut terminated, mut interrupted) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        loop {
            let again = agent.again.map(tokio::time::Instant::from_std);
            tokio::select! {
                batch = events.recv() => match batch {
                    Some(batch) => agent.take(batch, &mut events).await,
                    None => match (&mut source).await.context("the source broke off")? {
                        Err(error) => return Err(error),
                        Ok(()) => bail!("the source has ended"),
                    },
                },
                changed = watch.network.changed() => {
                    changed.context("the watch on devices and addresses has ended")?;
                    agent.network_changed(&mut watch);
                }
                Some(loaded) = programs.recv() => agent.loaded(loaded),
                loaded = &mut loading => loaded.context("loading the programs broke off")??,
                () = disturbed.notified() => agent.put_back(&watch),
                _ = patrol.tick() => agent.put_back(&watch),
                () = sleep_until(again) => {}
                collection = collected(&mut agent.collector) => agent.observer.collected(collection.as_ref()),
                swept = agent.sweeper.finished() => agent.observer.swept(swept.as_ref()),
                _ = terminated.recv() => break,
                _ = interrupted.recv() => break,
            }
            agent.commit();
            agent.put_on(flags, &mut watch)?;
        }
        tracing::info!("ending; the datapath stays in place");
        agent.sweeper.finish().await;
        Ok(())
    }

    /// Folds a batch of events and whatever else comes until there is a moment of quiet.
    async fn take(&mut self, batch: Vec<Event>, events: &mut mpsc::Receiver<Vec<Event>>) {
        self.fold(batch);
        let deadline = Instant::now() + BATCHING;
        while Instant::now() < deadline {
            // The source lives on the same thread: it may have more as soon as it is let.
            tokio::task::yield_now().await;
            match events.try_recv() {
                Ok(batch) => self.fold(batch),
                Err(_) => return,
            }
        }
    }

    fn fold(&mut self, batch: Vec<Event>) {
        for event in batch {
            self.observer.event(&event, &self.engine);
            self.engine.fold(event);
        }
    }

    fn loaded(&mut self, loaded: Loaded) {
        if matches!(loaded, Loaded::Rest(_)) && self.must_wait() {
            tracing::info!("programs are loaded and wait for the first full state; those of the other version serve");
        }
        self.waiting.push(loaded);
    }

    /// Whether the predecessors' tables are still better than ours.
    fn must_wait(&self) -> bool {
        self.stage.is_some() && !self.in_force
    }

    /// Puts programs in place that are loaded, as soon as their maps hold what those of their predecessors do.
    fn put_on(&mut self, flags: &Flags, watch: &mut Watch) -> anyhow::Result<()> {
        // Programs that are here have opened their maps, whose folder may be renamed from then on.
        if self.waiting.is_empty() || self.must_wait() {
            return Ok(());
        }
        if let Some(stage) = self.stage.take() {
            stage.take_over()?;
            tracing::info!("the tables of this version replace those of another");
        }
        for loaded in std::mem::take(&mut self.waiting) {
            self.attach(loaded, flags, watch)?;
        }
        Ok(())
    }

    /// Puts programs in place.
    fn attach(&mut self, loaded: Loaded, flags: &Flags, watch: &mut Watch) -> anyhow::Result<()> {
        match loaded {
            Loaded::Tc(programs, trace) => {
                self.attachments.add(programs);
                trace.map_or(Ok(()), |trace| trace::follow(*trace))?;
                self.network_changed(watch);
            }
            Loaded::Rest(programs) => {
                self.attachments.add(programs);
                self.attachments.attach_sockets(flags)?;
                if self.attachments.serve_uplinks(&watch.network.borrow().devices) {
                    watch.look_again();
                }
                self.collector = self.attachments.gc()?.map(|gc| Collector::new(gc, &self.maps));
                self.attachments.forget_others()?;
                self.observer.attached();
                // The object has been given up.
                heap::give_back();
            }
        }
        Ok(())
    }

    /// Puts back what somebody else has taken away.
    fn put_back(&mut self, watch: &Watch) {
        let missing = self.attachments.put_back(&watch.network.borrow().devices);
        self.observer.put_back(missing);
    }

    fn network_changed(&mut self, watch: &mut Watch) {
        let network = watch.network.borrow_and_update().clone();
        let devices = network.devices.iter().map(|(index, served)| (*index, served.entry)).collect();
        if self.attachments.serve(&self.maps, &network.devices) {
            watch.look_again();
        }
        self.engine.set_devices(devices);
        self.engine.set_addresses(network.addresses);
        self.engine.set_primary(network.primary);
    }

    /// Whether enough is known to write. Services and EndpointSlices are waited for, however long it takes. Without the
    /// Node and the ServiceCIDRs the plan would only lack what depends on them, but a restart must not take that away
    /// for the moment until they arrive.
    fn is_listed(&mut self) -> bool {
        let world = self.engine.world();
        if !world.is_synced() {
            return false;
        }
        let since = *self.listed.get_or_insert_with(Instant::now);
        let complete = Kind::ALL.iter().all(|kind| world.has_listed(*kind));
        if !complete && since.elapsed() < PATIENCE {
            self.again = Some(since + PATIENCE);
            return false;
        }
        true
    }

    /// Writes what has changed, if there is anything.
    fn commit(&mut self) {
        self.observer.changed(&self.engine);
        let now = Instant::now();
        let due = self.again.is_some_and(|again| again <= now);
        if self.blocked.is_some_and(|until| now < until) || !(due || self.engine.is_dirty()) || !self.is_listed() {
            return;
        }
        (self.again, self.blocked) = (None, None);
        let mut commit = self.engine.commit(self.began.elapsed());
        for (service, remark) in &commit.remarks {
            match service {
                Some(service) => {
                    tracing::warn!("Service {service}: {remark}");
                    self.observer.remark(&self.engine, service, remark);
                }
                None => tracing::warn!("{remark}"),
            }
        }
        commit.full.iter().for_each(|full| tracing::error!("{full}"));
        if let Err(error) = Writer(&self.maps).carry_out(&commit.writes) {
            tracing::error!("{error:#}; reading the tables back and trying again");
            self.observer.failed();
            self.recover();
            return;
        }
        self.engine.written(self.began.elapsed());
        if !commit.writes.is_empty() {
            let (services, writes) = (commit.planned.len(), commit.writes.len());
            tracing::debug!("{services} services, {writes} writes in {:?}", now.elapsed());
            self.again = Some(Instant::now() + apply::GRACE);
        }
        if let Some(at) = commit.again.map(|at| self.began + at) {
            self.again = Some(self.again.map_or(at, |again| again.min(at)));
        }
        if !std::mem::replace(&mut self.in_force, true) {
            tracing::info!("the state is in force {} ms after the start", self.began.elapsed().as_millis());
        }
        self.observer.committed(&self.engine, &commit, now.elapsed());
        let everything = commit.everything;
        self.sweeper.sweep(std::mem::take(&mut commit.stale));
        drop(commit);
        if everything {
            heap::give_back();
        }
    }

    fn recover(&mut self) {
        let retry = Instant::now() + RETRY;
        (self.again, self.blocked) = (Some(retry), Some(retry));
        match self.maps.present() {
            Ok(present) => self.engine.recover(Applier::restore(self.maps.capacity(), &present)),
            Err(error) => tracing::error!("{error:#}"),
        }
    }
}

async fn collected(collector: &mut Option<Collector>) -> Option<Collection> {
    match collector {
        Some(collector) => collector.collected().await,
        None => std::future::pending().await,
    }
}

async fn sleep_until(deadline: Option<tokio::time::Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

async fn watch_source(flags: Flags, contact: Arc<Contact>, sender: mpsc::Sender<Vec<Event>>) -> anyhow::Result<()> {
    match &flags.source {
        SourceFlag::Directory(path) => {
            let control_plane = ControlPlane { state_file: Some(state_file(&flags.bpffs)), ..flags.control_plane() };
            source::directory::watch(path.clone(), control_plane, sender).await
        }
        SourceFlag::Kubernetes => {
            source::kubernetes::watch(client_options(&flags), flags.node_name(), contact, sender).await
        }
    }
}

/// How to reach the API server.
fn client_options(flags: &Flags) -> ClientOptions {
    ClientOptions { kubeconfig: flags.kubeconfig.clone(), server: flags.api_server.clone() }
}

/// Where addresses given out for manifests are remembered: for as long as the pins live, and they end with the machine.
pub fn state_file(bpffs: &Path) -> PathBuf {
    let name = bpffs.to_string_lossy().trim_matches('/').replace('/', "-");
    Path::new("/run/svc-agent").join(format!("{name}.json"))
}

/// What flags say together.
fn check(flags: &Flags) -> anyhow::Result<()> {
    let (snat, nodes) = (flags.snat_port_range, flags.service_node_port_range);
    if snat.overlaps(nodes) {
        bail!("--snat-port-range {snat} overlaps --service-node-port-range {nodes}; choose others");
    }
    Ok(())
}
