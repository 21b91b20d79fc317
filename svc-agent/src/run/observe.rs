//! What the loop lets others know: health and metrics read here and never steer it.
//!
//! The HTTP ports live on a thread of their own, so that an answer does not wait for a pass over the tables, nor a
//! change for an answer.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::{mpsc, oneshot};

use crate::cli::flags::{Flags, SourceFlag};
use crate::datapath::Maps;
use crate::datapath::gc::Collection;
use crate::datapath::sweep::Swept;
use crate::engine::{Commit, Engine};
use crate::health::events::{self, Told};
use crate::health::{Events, Probes, Status, node_ports, web};
use crate::metrics::{self, Port, Recorder, State, Tables, recorder::Pass};
use crate::model::{Event, ObjectKey, World};
use crate::source::{Contact, kubernetes};

/// The HTTP ports; they are closed when this is dropped.
pub(super) struct Observer {
    status: Arc<Status>,
    recorder: Recorder,
    events: Events,
    /// The programs are in place: without them what is written serves nobody who was not served before.
    attached: bool,
    /// Everything that had arrived was written.
    written: bool,
    _until: oneshot::Sender<()>,
}

impl Observer {
    /// Opens the ports. One that is taken is tried again until it is free. `contact` is written by the source.
    pub(super) fn start(flags: &Flags, maps: Arc<Maps>, contact: Arc<Contact>) -> anyhow::Result<Self> {
        if flags.kube_proxy.settings.bind_hard_fail {
            for addr in listens(flags).into_iter().flatten() {
                match web::bind(addr) {
                    Err(error) if !web::has_no_family(&error) => {
                        return Err(error)
                            .with_context(|| format!("--bind-address-hard-fail: cannot listen on {addr}"));
                    }
                    _ => {}
                }
            }
        }
        let status = Arc::new(Status::default());
        let mut registry = metrics::registry();
        let recorder = Recorder::new(&mut registry);
        registry.register_collector(Box::new(State { status: Arc::clone(&status), contact }));
        registry.register_collector(Box::new(Tables { maps, backends: flags.metrics_of_backends }));
        let (until, ended) = oneshot::channel::<()>();
        let (events, queue) = match flags.source {
            SourceFlag::Kubernetes => {
                let (events, queue) = Events::queue();
                (events, Some(queue))
            }
            SourceFlag::Directory(_) => (Events::none(), None),
        };
        events.tell(Told {
            service: None,
            normal: true,
            reason: "Starting",
            action: "StartKubeProxy",
            note: String::new(),
        });
        let ports = serve(flags.clone(), Arc::clone(&status), Port(Arc::new(registry)), events.clone());
        let told = publish(flags.clone(), queue);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new()
            .name("http".to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    tokio::select! {
                        _ = futures_util::future::join(ports, told) => {}
                        // The sender is dropped, never used.
                        _ = ended => {}
                    }
                });
            })
            .context("cannot start the thread of the HTTP ports")?;
        Ok(Self { status, recorder, events, attached: false, written: false, _until: until })
    }

    /// An event arrives that the engine has not taken in yet.
    pub(super) fn event(&mut self, event: &Event, engine: &Engine) {
        self.recorder.event(event, engine.world());
    }

    /// Events were taken in, or a change was not written.
    pub(super) fn changed(&self, engine: &Engine) {
        self.status.set_node_eligible(is_eligible(engine.world()));
        if engine.world().is_synced() && engine.is_dirty() {
            self.status.queued();
            self.recorder.queued();
        }
    }

    /// All that was there is written.
    pub(super) fn committed(&mut self, engine: &Engine, commit: &Commit, took: Duration) {
        let fill = engine.applier().fill();
        self.recorder.passed(Pass { planned: &commit.planned, full: commit.everything, took, fill: &fill });
        self.status.set_checks(engine.node(), &commit.planned);
        self.written = true;
        self.in_force();
    }

    /// The programs are in place.
    pub(super) fn attached(&mut self) {
        self.attached = true;
        self.in_force();
    }

    fn in_force(&self) {
        if self.attached && self.written {
            self.status.updated();
        }
    }

    /// What the owner of a Service should know.
    pub(super) fn remark(&self, engine: &Engine, service: &ObjectKey, remark: &str) {
        let uid = engine.world().service(service).map(|service| service.uid.to_string()).unwrap_or_default();
        self.events.tell(Told {
            service: Some((service.clone(), uid)),
            normal: false,
            reason: "NotServedInFull",
            action: "Plan",
            note: remark.to_owned(),
        });
    }

    /// What was there could not be written.
    pub(super) fn failed(&self) {
        self.recorder.failed();
    }

    /// So many programs had been taken away by somebody else.
    pub(super) fn put_back(&self, missing: u64) {
        self.recorder.put_back(missing);
    }

    /// The flow tables have been walked; `None`: that failed.
    pub(super) fn collected(&self, collection: Option<&Collection>) {
        collection.into_iter().for_each(|collection| self.recorder.collected(collection));
    }

    /// A sweep has ended; `None`: it failed.
    pub(super) fn swept(&self, swept: Option<&Swept>) {
        swept.into_iter().for_each(|swept| self.recorder.swept(swept));
    }
}

/// Sends events if there is somebody to send them to.
async fn publish(flags: Flags, queue: Option<mpsc::Receiver<Told>>) {
    let Some(queue) = queue else { return };
    // Without a way to the API server there is no agent either: its source says so.
    if let Ok(client) = kubernetes::connect(&super::client_options(&flags)).await {
        events::publish(client, &flags.node_name(), queue).await;
    }
}

/// Where `/healthz` and `/metrics` answer.
fn listens(flags: &Flags) -> [Vec<SocketAddr>; 2] {
    [flags.healthz_bind_address, flags.metrics_bind_address]
        .map(|listen| listen.0.map(web::both_families).unwrap_or_default())
}

async fn serve(flags: Flags, status: Arc<Status>, metrics: Port, events: Events) {
    let [health, metrics_at] = listens(&flags);
    let probes = Arc::new(Probes(Arc::clone(&status)));
    let node = flags.node_name();
    let complain = |service: &ObjectKey, text| {
        tracing::warn!("Service {service}: {text}");
        events.tell(Told {
            service: Some((service.clone(), String::new())),
            normal: false,
            reason: "FailedToStartServiceHealthcheck",
            action: "Listen",
            note: format!("node {node} {text}"),
        });
    };
    tokio::join!(
        web::listen("/healthz", health, probes),
        web::listen("/metrics", metrics_at, Arc::new(metrics)),
        node_ports::serve(status, complain),
    );
}

/// Whether load balancers may send traffic to this node (KEP-3836). A node without an object may have it.
fn is_eligible(world: &World) -> bool {
    !world.node_is_gone() && world.node().is_none_or(|node| !node.deleting && !node.scaled_down)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::{Event, Kind, Node, Object, ObjectKey};

    #[test]
    fn a_node_is_eligible_until_its_object_is_going_or_gone() {
        let node = |deleting, scaled_down| {
            Event::Applied(Object::Node(Node { name: Arc::from("n"), deleting, scaled_down, ..Node::default() }))
        };
        let mut world = World::default();
        world.fold(Event::Synced(Kind::Node));
        assert!(is_eligible(&world), "no object, as with a directory of manifests");
        for (event, eligible) in [
            (node(false, false), true),
            (node(false, true), false),
            (node(false, false), true),
            (node(true, false), false),
            (node(false, false), true),
            (Event::Deleted(Kind::Node, ObjectKey::new("", "n")), false),
            (node(false, false), true),
        ] {
            world.fold(event.clone());
            assert_eq!(is_eligible(&world), eligible, "{event:?}");
        }
    }
}
