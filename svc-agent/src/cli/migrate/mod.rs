//! `svc-agent doctor --migrate`: what would change if this program took kube-proxy's place. It looks and changes nothing.
//!
//! | file | owns |
//! |---|---|
//! | `node` | the kube-proxy of this node: how it was started, in which mode, what it has left in the kernel |
//! | `services` | what each Service gets from one and from the other |

mod node;
mod services;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::sync::mpsc;

use super::flags::Flags;
use super::{DoctorArgs, out, show};
use crate::apply::{Applier, Capacity};
use crate::datapath::devices::{Selection, Watch};
use crate::engine::{Commit, Engine};
use crate::model::{Event, Kind};
use crate::source::kubernetes::{self, ClientOptions};
use crate::source::{Contact, manifest};

use node::KubeProxy;
use services::Sides;

/// How long the API server may take to list everything.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long it may refuse or be away: a way of listing that it does not know is replaced by another within that.
const TROUBLE: Duration = Duration::from_secs(3);
/// How often that is looked at.
const STEP: Duration = Duration::from_millis(100);
/// What can be done about it.
const WAY_OUT: &str = "give --kubeconfig FILE with one who may list Services, EndpointSlices, Nodes and ServiceCIDRs, or \
                       --manifests PATH";

/// Looks, compares and reports.
pub(super) fn run(args: &DoctorArgs) -> anyhow::Result<()> {
    let kube_proxy = KubeProxy::find()?;
    let silent = args.flags.kube_proxy.is_silent();
    let mut ours = if silent { kube_proxy.flags.clone() } else { args.flags.clone() };
    if silent {
        ours.node = args.flags.node.clone().or(ours.node);
    }
    out::line(format_args!("kube-proxy on this node: {}", kube_proxy.described()))?;
    kube_proxy.remarks.iter().try_for_each(|remark| out::line(format_args!("  {remark}")))?;
    let like = if silent { "with the same flags" } else { "with the flags of this command line" };
    out::line(format_args!("compared with: svc-agent run {like}, node {}\n", ours.node_name()))?;

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut engine = runtime.block_on(objects(args, &ours))?;
    let commit = engine.commit(Duration::ZERO);
    let (rows, same) = report(&engine, &commit, &sides(&kube_proxy, &ours, &engine));
    if rows.is_empty() {
        out::line("no Service would be served differently")?;
    } else {
        out::line(show::table(["SERVICE", "WHAT WOULD CHANGE"], rows))?;
    }
    out::line(format_args!("{same} Services stay as they are\n\nfor all Services:"))?;
    node::for_all(&kube_proxy).into_iter().try_for_each(|line| out::line(format_args!("- {line}")))?;
    out::line("\nnothing was changed; docs/migrate.md has the steps, and the way back")
}

/// All objects, planned with our flags.
async fn objects(args: &DoctorArgs, flags: &Flags) -> anyhow::Result<Engine> {
    let ports = (flags.snat_port_range.first, flags.snat_port_range.last);
    let options = flags.options()?;
    // Only addresses are looked at.
    let watch = Watch::start(Selection::new(&flags.devices, options.detector.clone(), false)).await?;
    let network = watch.network.borrow().clone();
    let mut engine = Engine::new(&flags.node_name(), options, ports, Applier::new(Capacity::default()));
    engine.set_addresses(network.addresses);
    engine.set_primary(network.primary);
    if let Some(path) = &args.manifests {
        let loaded =
            manifest::load(path, &flags.control_plane()).with_context(|| format!("cannot read {}", path.display()))?;
        loaded.warnings.iter().for_each(|warning| eprintln!("svc-agent: {warning}"));
        loaded.objects.into_iter().for_each(|object| engine.fold(Event::Applied(object)));
        Kind::ALL.into_iter().for_each(|kind| engine.fold(Event::Synced(kind)));
        return Ok(engine);
    }
    let server = args.flags.api_server.clone().or_else(|| flags.api_server.clone());
    let kubeconfig = args.flags.kubeconfig.clone().or_else(|| flags.kubeconfig.clone());
    let (sender, mut events) = mpsc::channel(16);
    let contact = Arc::<Contact>::default();
    let client = ClientOptions { kubeconfig, server };
    let source = kubernetes::watch(client, flags.node_name(), Arc::clone(&contact), sender);
    let trouble = async {
        loop {
            tokio::time::sleep(STEP).await;
            if let Some(reason) = contact.trouble(TROUBLE) {
                return reason;
            }
        }
    };
    let listing = async {
        while let Some(batch) = events.recv().await {
            batch.into_iter().for_each(|event| engine.fold(event));
            if Kind::ALL.iter().all(|kind| engine.world().has_listed(*kind)) {
                return;
            }
        }
    };
    tokio::select! {
        () = listing => {}
        Err(error) = source => bail!("{error:#}; or give --manifests PATH"),
        reason = trouble => bail!("the API server does not list {reason}; {WAY_OUT}"),
        () = tokio::time::sleep(PATIENCE) => {
            bail!("the API server has not listed everything within {} s; {WAY_OUT}", PATIENCE.as_secs());
        }
    }
    Ok(engine)
}

/// Where each of the two answers on this node, once `engine` has looked at it.
fn sides(kube_proxy: &KubeProxy, ours: &Flags, engine: &Engine) -> Sides {
    let node = engine.node();
    Sides {
        old: kube_proxy.node_ports(node.primary, &node.addresses),
        new: node.node_ports.clone(),
        old_scheduler: kube_proxy.scheduler(),
        new_scheduler: ours.scheduler.algorithm,
    }
}

/// A row for each difference, and how many Services have none.
fn report(engine: &Engine, commit: &Commit, sides: &Sides) -> (Vec<[String; 2]>, usize) {
    let (mut rows, mut same) = (Vec::new(), 0);
    let mut keys: Vec<_> = engine.world().services().map(|service| service.key.clone()).collect();
    keys.sort_unstable();
    for key in keys {
        let Some(service) = engine.world().service(&key) else { continue };
        let said = commit.remarks.iter().filter(|(about, _)| about.as_ref() == Some(&key));
        let mut changes = services::changes(service, sides);
        changes.extend(said.map(|(_, text)| text.clone()));
        same += usize::from(changes.is_empty());
        for (index, change) in changes.into_iter().enumerate() {
            rows.push([if index == 0 { key.to_string() } else { String::new() }, change]);
        }
    }
    (rows, same)
}
