//! Scheduler and kubelets in the small: pods of the API server become namespaces of the lab, and their status is written.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::api::Api;
use super::{Cluster, deployments, pods};
use crate::lab::Lab;
use crate::lab::cluster::{PodSpec, pod_object};
use crate::lab::place::Job;

/// How often the pods are looked through.
const STEP: Duration = Duration::from_millis(20);
/// How long a Deployment may take.
const ROLLOUT: Duration = Duration::from_secs(90);

/// Makes the namespace of a pod whose object is there, starts the lab's server in it, and writes its status.
pub(super) fn run_pod(
    lab: &mut Lab,
    api: &Api,
    name: &str,
    node: usize,
    host_network: bool,
    listen: &[u16],
) -> Result<Job> {
    let object = api.get(&pods(name))?;
    lab.make_pod(PodSpec {
        name: name.into(),
        node,
        labels: object["metadata"]["labels"].clone(),
        ports: object["spec"]["containers"][0]["ports"].clone(),
        host_network,
    })?;
    let job = lab.start_server(name, listen)?;
    write_status(lab, api, name, true)?;
    Ok(job)
}

/// Writes the status of a pod: running, with its addresses, ready or not.
pub(super) fn write_status(lab: &Lab, api: &Api, name: &str, ready: bool) -> Result<()> {
    let pod = lab.pod(name)?;
    let object = pod_object(pod, &lab.nodes[pod.spec.node].name, ready);
    api.patch(&format!("{}/status", pods(name)), &json!({ "status": object["status"] })).map(drop)
}

/// No agent chooses a pod any more, and who had been sent there is done.
fn is_left(cluster: &mut Cluster<'_>, name: &str) -> Result<bool> {
    let pod = cluster.lab.pod(name)?;
    let (place, ips) = (pod.place.clone(), pod.ips);
    for node in 0..cluster.lab.nodes.len() {
        if cluster.chooses(node, &ips)? {
            return Ok(false);
        }
    }
    Ok(place.output("ss", &["-Htn", "state", "established"])?.trim().is_empty())
}

/// Carries out what Deployments ask for.
#[derive(Debug, Default)]
pub struct Kubelet {
    running: BTreeMap<String, Running>,
    /// Pods that were placed so far.
    placed: usize,
}

#[derive(Debug)]
struct Running {
    _server: Job,
    /// It has been told to end.
    ending: bool,
}

impl Kubelet {
    /// Looks through the pods once. A pod's server listens on its first container port.
    pub fn step(&mut self, cluster: &mut Cluster<'_>) -> Result<()> {
        let list = cluster.api.get(&pods(""))?;
        for pod in list["items"].as_array().context("a list has items")? {
            let owned = pod["metadata"]["ownerReferences"].is_array();
            let name = pod["metadata"]["name"].as_str().context("a pod has a name")?;
            if owned && !self.running.contains_key(name) && pod["metadata"]["deletionTimestamp"].is_null() {
                self.begin(cluster, pod, name)?;
            } else if let Some(running) = self.running.get_mut(name)
                && !pod["metadata"]["deletionTimestamp"].is_null()
            {
                // Told to end: it goes on serving for as long as anybody comes, as every careful pod does, and is then
                // confirmed as gone.
                running.ending = true;
                if is_left(cluster, name)? {
                    self.running.remove(name);
                    cluster.withdraw_pod(name)?;
                }
            }
        }
        Ok(())
    }

    fn begin(&mut self, cluster: &mut Cluster<'_>, pod: &Value, name: &str) -> Result<()> {
        let node = self.placed % cluster.lab.nodes.len();
        self.placed += 1;
        let target = json!({ "kind": "Node", "name": cluster.lab.nodes[node].name });
        let binding = json!({ "metadata": { "name": name }, "target": target });
        cluster.api.post(&format!("{}/binding", pods(name)), &binding)?;
        let port = pod["spec"]["containers"][0]["ports"][0]["containerPort"].as_u64().context("no containerPort")?;
        let server = run_pod(cluster.lab, &cluster.api, name, node, false, &[u16::try_from(port)?])?;
        self.running.insert(name.into(), Running { _server: server, ending: false });
        Ok(())
    }

    /// Names of the pods that serve and were not told to end.
    pub fn serving(&self) -> Vec<&str> {
        self.running.iter().filter(|(_, pod)| !pod.ending).map(|(name, _)| name.as_str()).collect()
    }

    /// Goes on until a Deployment has what it asks for, and nothing of what it asked for before.
    pub fn roll_out(&mut self, cluster: &mut Cluster<'_>, deployment: &str) -> Result<Duration> {
        let began = Instant::now();
        loop {
            self.step(cluster)?;
            let object = cluster.api.get(&deployments(deployment))?;
            let (wanted, status) = (&object["spec"]["replicas"], &object["status"]);
            let observed = status["observedGeneration"] == object["metadata"]["generation"];
            let zero = json!(0);
            let settled = ["replicas", "updatedReplicas", "readyReplicas"]
                .iter()
                .all(|count| status.get(count).unwrap_or(&zero) == wanted);
            let running = self.running.len();
            if observed && settled && Some(running as u64) == wanted.as_u64() {
                return Ok(began.elapsed());
            }
            ensure!(
                began.elapsed() < ROLLOUT,
                "the Deployment {deployment} has not rolled out within {ROLLOUT:?}: {running} pods run, status {status}"
            );
            std::thread::sleep(STEP);
        }
    }
}
