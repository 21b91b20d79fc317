//! A real Kubernetes control plane for the lab: etcd, kube-apiserver and kube-controller-manager beside the nodes.
//!
//! The agents follow its API server. There is no scheduler and no kubelet: [`kubelet`] plays both, with the lab's
//! namespaces as pods. [`faults`] stands between an agent and the API server and does what networks and servers do.

pub mod api;
pub mod control;
pub mod faults;
pub mod kubelet;
pub mod look;
pub mod tools;

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::lab::cluster::node_object;
use crate::lab::place::Job;
use crate::lab::service::{self, TestService};
use crate::lab::{self, At, Config, Lab};
use api::Api;
use control::Control;
use tools::Tools;

/// The namespace of all objects of the tests.
const NAMESPACE: &str = "default";

/// A lab whose objects come from a control plane.
#[derive(Debug)]
pub struct Cluster<'a> {
    /// The nodes, pods and wires.
    pub lab: &'a mut Lab,
    /// The control plane.
    pub control: Control,
    /// A client that may do everything.
    pub api: Api,
}

/// Builds a lab with a control plane, hands it to a test, and takes it away. Where the control plane is not built the
/// test is skipped and says so.
pub fn with(config: Config, test: impl FnOnce(&mut Cluster<'_>) -> Result<()>) -> Result<()> {
    let Some(tools) = Tools::find()? else {
        eprintln!("skipped: needs a control plane: run it by `cargo xtask test cluster`");
        return Ok(());
    };
    lab::with(config, |lab| {
        let mut cluster = Cluster::start(lab, tools)?;
        let result = test(&mut cluster);
        if result.is_err() {
            eprintln!("{}", cluster.control.logs());
        }
        result
    })
}

impl<'a> Cluster<'a> {
    /// A control plane that knows the nodes of the lab, and what the agents may do. No agent runs yet.
    pub fn start(lab: &'a mut Lab, tools: Tools) -> Result<Self> {
        let control = Control::start(lab, tools)?;
        let api = control.api();
        for node in &lab.nodes {
            api.post("/api/v1/nodes", &node_object(node))?;
        }
        for object in agent_rules()? {
            let kind = object["kind"].as_str().context("an object has a kind")?.to_lowercase();
            api.post(&format!("/apis/rbac.authorization.k8s.io/v1/{kind}s"), &object)?;
        }
        let server = format!("https://{}", control.server());
        let mut cluster = Self { lab, control, api };
        cluster.follow_by(&server)?;
        Ok(cluster)
    }

    /// The agents that are started from now on reach the API server at this address.
    pub fn follow_by(&mut self, server: &str) -> Result<()> {
        let kubeconfig = self.control.kubeconfig("agent", server)?.display().to_string();
        self.lab.source = ["--source", "kubernetes", "--kubeconfig", &kubeconfig].map(str::to_owned).to_vec();
        Ok(())
    }

    /// Makes a Service.
    pub fn publish(&self, service: &TestService) -> Result<Value> {
        self.api.post(&services(""), &service.object())
    }

    /// Makes an object of another shape in the namespace of the tests.
    pub fn make_service(&self, name: &str, spec: &Value) -> Result<Value> {
        self.api.post(&services(""), &json!({ "metadata": { "name": name }, "spec": spec }))
    }

    /// Merges into a Service.
    pub fn patch_service(&self, name: &str, merge: &Value) -> Result<Value> {
        self.api.patch(&services(name), merge)
    }

    /// Takes a Service away.
    pub fn withdraw_service(&self, name: &str) -> Result<()> {
        self.api.delete(&services(name)).map(drop)
    }

    /// Makes a pod with the lab's server in it and its object, bound to its node, running and ready.
    pub fn add_server(&mut self, app: &str, name: &str, node: usize, at: At) -> Result<Job> {
        self.add_pod(name, node, at, &json!({ "app": app }), &service::pod_ports(at.port()), &[at.port()])
    }

    /// The same with labels and ports of one's own.
    pub fn add_pod(
        &mut self,
        name: &str,
        node: usize,
        at: At,
        labels: &Value,
        ports: &Value,
        listen: &[u16],
    ) -> Result<Job> {
        let object = json!({
            "metadata": { "name": name, "labels": labels },
            "spec": {
                "nodeName": self.lab.nodes[node].name,
                "hostNetwork": at != At::Pod,
                "containers": [{ "name": "main", "image": "lab", "ports": ports }],
            },
        });
        self.api.post(&pods(""), &object)?;
        kubelet::run_pod(self.lab, &self.api, name, node, at != At::Pod, listen)
    }

    /// Makes nothing but the object of a pod that runs, is ready and has these addresses.
    pub fn add_object_of_pod(&self, name: &str, node: usize, labels: &Value, ips: &[IpAddr]) -> Result<()> {
        let object = json!({
            "metadata": { "name": name, "labels": labels },
            "spec": {
                "nodeName": self.lab.nodes[node].name,
                "containers": [{ "name": "main", "image": "lab" }],
            },
        });
        self.api.post(&pods(""), &object)?;
        let status = json!({
            "phase": "Running",
            "podIP": ips.first(),
            "podIPs": ips.iter().map(|ip| json!({ "ip": ip })).collect::<Vec<_>>(),
            "conditions": [{ "type": "Ready", "status": "True" }],
        });
        self.api.patch(&format!("{}/status", pods(name)), &json!({ "status": status })).map(drop)
    }

    /// Says whether a pod is ready, as its kubelet would after a probe.
    pub fn set_ready(&self, name: &str, ready: bool) -> Result<()> {
        kubelet::write_status(self.lab, &self.api, name, ready)
    }

    /// Takes the object of a pod away at once; its processes go on running.
    pub fn withdraw_pod(&self, name: &str) -> Result<()> {
        self.api.delete(&format!("{}?gracePeriodSeconds=0", pods(name))).map(drop)
    }
}

/// What the agents may do, and no more: what `deploy/` gives them in a cluster.
fn agent_rules() -> Result<Vec<Value>> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/kustomize/base/rbac.yaml");
    let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    text.split("\n---\n").map(|object| Ok(serde_saphyr::from_str(object)?)).collect()
}

/// Path of a Service, or of all.
pub fn services(name: &str) -> String {
    path("/api/v1", "services", name)
}

/// Path of a Pod, or of all.
pub fn pods(name: &str) -> String {
    path("/api/v1", "pods", name)
}

/// Path of an EndpointSlice, or of all.
pub fn slices(name: &str) -> String {
    path("/apis/discovery.k8s.io/v1", "endpointslices", name)
}

/// Path of a Deployment, or of all.
pub fn deployments(name: &str) -> String {
    path("/apis/apps/v1", "deployments", name)
}

fn path(group: &str, plural: &str, name: &str) -> String {
    format!("{group}/namespaces/{NAMESPACE}/{plural}/{name}").trim_end_matches('/').to_owned()
}

/// Resident memory of a process, in KiB.
pub fn resident(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// What a change in the API server may take until packets follow it: the controllers' part included, on a busy machine.
pub const SOON: Duration = Duration::from_secs(5);
