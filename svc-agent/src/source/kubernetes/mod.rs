//! The API server: Services, EndpointSlices, ServiceCIDRs and the own Node, as events.
//!
//! Each kind is followed by itself (`follow`), not faster than is good for a server in trouble (`pace`, `trouble`), decoded into types that hold no more than what is read (`resource`). The
//! stream never ends and no error ends it: while the API server is away the last good state serves.

mod follow;
mod pace;
mod resource;
#[cfg(test)]
mod tests;
mod trouble;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tokio::sync::mpsc;

use self::follow::Follower;
use self::pace::Pace;
use super::wire::node::{WireNode, WireServiceCidr};
use super::wire::service::WireService;
use super::wire::slice::WireSlice;
use super::wire::{HEADLESS, OTHER_PROXY};
use crate::model::Event;
use crate::source::Contact;

/// Longer than this no answer and no watch is silent: the server itself ends a watch earlier.
const SILENCE: Duration = Duration::from_secs(follow::WATCH_SECONDS as u64 + 10);

/// How to reach the API server.
#[derive(Clone, Debug, Default)]
pub struct ClientOptions {
    /// `--kubeconfig` or `$KUBECONFIG` (several files, separated by colons, are merged). Without it the service account
    /// of the pod is used.
    pub kubeconfig: Option<PathBuf>,
    /// Address of the API server, `https://192.0.2.1:6443`, in place of the one that the configuration names. With the
    /// pod's own account it should be given: the address that a pod is told is that of the Service `kubernetes`, which
    /// is this program's to serve.
    pub server: Option<String>,
}

/// A client that does not hang: requests are not repeated behind our back, and connecting has a limit.
pub async fn connect(options: &ClientOptions) -> anyhow::Result<Client> {
    let mut config = match &options.kubeconfig {
        Some(files) => from_files(files).await?,
        None => Config::incluster().context(
            "no way to reach the API server: give --kubeconfig FILE, or run in a pod that has a service account",
        )?,
    };
    if let Some(server) = &options.server {
        // The certificate may not name the address; this name every API server's does.
        if config.tls_server_name.is_none() && options.kubeconfig.is_none() {
            config.tls_server_name = Some("kubernetes.default.svc".to_owned());
        }
        config.cluster_url = server.parse().with_context(|| format!("{server:?} is no address of an API server"))?;
    } else if options.kubeconfig.is_none() {
        tracing::warn!(
            "the API server is reached at {}, a Service that this node may have to serve first: better name its own address",
            config.cluster_url
        );
    }
    config.connect_timeout = Some(Duration::from_secs(5));
    config.write_timeout = Some(Duration::from_secs(10));
    limit(&mut config, SILENCE);
    Client::try_from(config).context("the configuration of the client of the API server")
}

/// Nothing waits for ever. The watcher knows when a watch has been silent for too long, but a server that takes the
/// request for one and does not answer it is not noticed there.
fn limit(config: &mut Config, silence: Duration) {
    config.default_retry = false;
    config.read_timeout = Some(silence);
    // The silence of a connection that nobody had asked anything does not count.
    config.reset_reader_on_write = true;
}

async fn from_files(files: &Path) -> anyhow::Result<Config> {
    let mut merged: Option<Kubeconfig> = None;
    for file in std::env::split_paths(files).filter(|file| !file.as_os_str().is_empty()) {
        let one = Kubeconfig::read_from(&file).with_context(|| format!("kubeconfig {}", file.display()))?;
        merged = Some(match merged {
            Some(before) => before.merge(one).with_context(|| format!("kubeconfig {}", file.display()))?,
            None => one,
        });
    }
    let Some(kubeconfig) = merged else { bail!("kubeconfig: the name of the file is empty") };
    Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .with_context(|| format!("kubeconfig {}", files.display()))
}

/// Follows all kinds until nobody listens. An error means that there is no way to reach an API server at all.
pub async fn watch(
    options: ClientOptions,
    node_name: String,
    contact: Arc<Contact>,
    tx: mpsc::Sender<Vec<Event>>,
) -> anyhow::Result<()> {
    let client = connect(&options).await?;
    follow_all(client, &node_name, tx, Pace::default(), contact).await;
    Ok(())
}

async fn follow_all(client: Client, node_name: &str, tx: mpsc::Sender<Vec<Event>>, pace: Pace, contact: Arc<Contact>) {
    // Services of another proxy are followed too: their addresses are to be left alone. Hidden slices are not.
    let seen_slices = format!("!{HEADLESS},!{OTHER_PROXY}");
    let own_node = format!("metadata.name={node_name}");
    let services = Follower::<WireService>::new(client.clone(), tx.clone(), pace, Arc::clone(&contact));
    let slices =
        Follower::<WireSlice>::new(client.clone(), tx.clone(), pace, Arc::clone(&contact)).labels(&seen_slices);
    let node = Follower::<WireNode>::new(client.clone(), tx.clone(), pace, Arc::clone(&contact)).fields(&own_node);
    let cidrs = Follower::<WireServiceCidr>::new(client, tx.clone(), pace, Arc::clone(&contact)).may_be_absent();
    tokio::select! {
        _ = futures_util::future::join4(services.run(), slices.run(), node.run(), cidrs.run()) => {}
        // The followers notice it only when they have something to say.
        () = tx.closed() => {}
    }
}
