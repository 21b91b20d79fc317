//! The lab's control plane: the directory of manifests, and a deployment controller and kubelet in the small.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::place::{Job, Place};
use super::{Lab, Node, tool, topology};

/// A directory of manifests. Files appear and change by renaming, so no reader sees half of one.
#[derive(Debug)]
pub struct Manifests {
    dir: PathBuf,
}

impl Manifests {
    /// Makes the directory.
    pub fn new(dir: PathBuf) -> Result<Self> {
        fs::create_dir_all(&dir)?;
        Ok(Self { dir })
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Writes one file.
    pub fn write(&self, file: &str, text: &str) -> Result<()> {
        let hidden = self.dir.join(format!(".{file}.new"));
        fs::write(&hidden, text)?;
        fs::rename(&hidden, self.dir.join(file)).with_context(|| format!("cannot write {file}"))
    }

    /// Writes one object.
    pub fn write_object(&self, file: &str, object: &Value) -> Result<()> {
        self.write(file, &serde_json::to_string_pretty(object)?)
    }

    /// Takes a file away.
    pub fn remove(&self, file: &str) -> Result<()> {
        fs::remove_file(self.dir.join(file)).with_context(|| format!("cannot remove {file}"))
    }
}

/// What runs in a pod and what its object says.
#[derive(Clone, Debug)]
pub struct PodSpec {
    /// Name of the pod.
    pub name: String,
    /// Index of its node.
    pub node: usize,
    /// `metadata.labels`.
    pub labels: Value,
    /// `spec.containers[].ports` of one container.
    pub ports: Value,
    /// In the node's own namespace.
    pub host_network: bool,
}

/// A pod that stands.
#[derive(Clone, Debug)]
pub struct Pod {
    /// What it was made from.
    pub spec: PodSpec,
    /// Name of the pod.
    pub name: String,
    /// Where its programs run.
    pub place: Place,
    /// Its addresses: IPv4, IPv6.
    pub ips: [IpAddr; 2],
    /// The node's end of its veth; none on the host's network.
    pub device: Option<String>,
}

impl Lab {
    /// Makes a pod without telling anybody: no object is written.
    pub fn make_pod(&mut self, spec: PodSpec) -> Result<Pod> {
        let cgroup = format!("{}/{}", self.nodes[spec.node].name, spec.name);
        let pod = if spec.host_network {
            let node = &self.nodes[spec.node];
            let place = node.place.with_cgroup(&self.run, &cgroup)?;
            Pod { name: spec.name.clone(), ips: node.ips, place, device: None, spec }
        } else {
            let place = Place::make(&self.run, &spec.name, &cgroup)?;
            let node = &mut self.nodes[spec.node];
            node.pods += 1;
            let (ips, device) = topology::join_pod(node, &place, node.pods, &self.config)?;
            Pod { name: spec.name.clone(), ips, place, device: Some(device), spec }
        };
        self.pods.push(pod.clone());
        Ok(pod)
    }

    /// Writes the object of a pod, ready or not.
    pub fn publish_pod(&self, name: &str, ready: bool) -> Result<()> {
        let pod = self.pod(name)?;
        self.manifests.write_object(&pod_file(name), &pod_object(pod, &self.nodes[pod.spec.node].name, ready))
    }

    /// Takes the object of a pod away; the pod goes on running.
    pub fn withdraw_pod(&self, name: &str) -> Result<()> {
        self.manifests.remove(&pod_file(name))
    }

    /// Starts one of the lab's own servers in a pod: TCP and UDP on each port, answering with the pod's name.
    pub fn start_server(&self, name: &str, ports: &[u16]) -> Result<Job> {
        let ips = self.pod(name)?.ips;
        // At its addresses, not at all of them: an answer over UDP has to come from the address that was asked.
        let at: Vec<SocketAddr> = ports.iter().flat_map(|port| ips.map(|ip| SocketAddr::new(ip, *port))).collect();
        self.start_server_at(name, &at)
    }

    /// The same at addresses that the pod has been given since.
    pub fn start_server_at(&self, name: &str, at: &[SocketAddr]) -> Result<Job> {
        let pod = self.pod(name)?;
        let helper = tool::sibling("lab-helper", "SVC_LAB_HELPER")?;
        let mut args = vec!["serve".to_owned(), name.to_owned()];
        args.extend(at.iter().map(ToString::to_string));
        let log = self.run.dir().join(format!("pod-{name}.log"));
        let job = pod.place.spawn(helper, &args, &log)?;
        self.wait_listening(pod, &at.iter().map(SocketAddr::port).collect::<Vec<_>>())?;
        Ok(job)
    }

    /// Starts a real nginx in a pod; each page is the pod's name.
    pub fn start_nginx(&self, name: &str, port: u16) -> Result<Job> {
        let pod = self.pod(name)?;
        let dir = self.run.dir().join(format!("nginx-{name}"));
        fs::create_dir_all(&dir)?;
        let config = dir.join("nginx.conf");
        fs::write(&config, nginx_config(&dir, name, port))?;
        let config = config.to_string_lossy().into_owned();
        let log = dir.join("start.log");
        let job = pod.place.spawn("nginx", &["-e", "stderr", "-c", &config], &log)?;
        self.wait_listening(pod, &[port])?;
        Ok(job)
    }

    fn wait_listening(&self, pod: &Pod, ports: &[u16]) -> Result<()> {
        super::wait::until(&format!("{} listens", pod.name), std::time::Duration::from_secs(10), || {
            let listening = pod.place.output("ss", &["-Hltn"])?;
            // Once a family: servers open one after the other, and UDP before TCP.
            match ports.iter().find(|port| listening.matches(&format!(":{port} ")).count() < pod.ips.len()) {
                None => Ok(()),
                Some(port) => bail!("not both families listen on port {port} of {}", pod.name),
            }
        })
        .map(drop)
    }

    /// Carries out the Deployments of a manifest: for each replica a pod on the next node, an nginx on its first
    /// container port, and the Pod object. Returns what keeps the servers alive.
    pub fn deploy(&mut self, manifest: &str) -> Result<Vec<Job>> {
        let mut jobs = Vec::new();
        for object in serde_saphyr::from_multiple::<Value>(manifest).context("the manifest is no YAML")? {
            if object["kind"] != "Deployment" {
                continue;
            }
            let name = object["metadata"]["name"].as_str().context("a Deployment without a name")?.to_owned();
            let replicas = object["spec"]["replicas"].as_u64().unwrap_or(1);
            let template = &object["spec"]["template"];
            let ports = template["spec"]["containers"][0]["ports"].clone();
            let port = ports[0]["containerPort"].as_u64().with_context(|| format!("{name}: no containerPort"))?;
            for replica in 1..=replicas {
                let pod = format!("{name}-{replica}");
                self.make_pod(PodSpec {
                    name: pod.clone(),
                    node: usize::try_from(replica - 1)? % self.nodes.len(),
                    labels: template["metadata"]["labels"].clone(),
                    ports: ports.clone(),
                    host_network: false,
                })?;
                jobs.push(self.start_nginx(&pod, u16::try_from(port)?)?);
                self.publish_pod(&pod, true)?;
            }
        }
        Ok(jobs)
    }

    /// Writes the Node objects.
    pub(super) fn write_nodes(&self) -> Result<()> {
        for node in &self.nodes {
            self.manifests.write_object(&format!("node-{}.json", node.name), &node_object(node))?;
        }
        Ok(())
    }
}

/// A Node object as the API server would hand it out.
pub fn node_object(node: &Node) -> Value {
    let n = node.index + 1;
    let [v4, v6] = node.ips;
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": { "name": node.name, "labels": { "kubernetes.io/hostname": node.name } },
        "spec": {
            "podCIDR": format!("10.244.{n}.0/24"),
            "podCIDRs": [format!("10.244.{n}.0/24"), format!("fd00:10:244:{n}::/64")],
        },
        "status": { "addresses": [
            { "type": "InternalIP", "address": v4 },
            { "type": "InternalIP", "address": v6 },
            { "type": "Hostname", "address": node.name },
        ] },
    })
}

fn pod_file(name: &str) -> String {
    format!("pod-{name}.json")
}

/// A Pod object as the API server would hand it out.
pub fn pod_object(pod: &Pod, node: &str, ready: bool) -> Value {
    let [v4, v6] = pod.ips;
    let status = if ready { "True" } else { "False" };
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": pod.name, "namespace": "default", "labels": pod.spec.labels },
        "spec": {
            "nodeName": node,
            "hostNetwork": pod.spec.host_network,
            "containers": [{ "name": "main", "image": "lab", "ports": pod.spec.ports }],
        },
        "status": {
            "phase": "Running",
            "conditions": [
                { "type": "Ready", "status": status },
                { "type": "ContainersReady", "status": status },
            ],
            "hostIP": pod_host_ip(pod),
            "podIP": v4,
            "podIPs": [{ "ip": v4 }, { "ip": v6 }],
        },
    })
}

fn pod_host_ip(pod: &Pod) -> String {
    format!("192.168.77.{}", pod.spec.node + 11)
}

/// One worker in the foreground, nothing outside its directory.
fn nginx_config(dir: &Path, name: &str, port: u16) -> String {
    let dir = dir.display();
    format!(
        "daemon off;\nworker_processes 1;\npid {dir}/nginx.pid;\nerror_log {dir}/error.log;\n\
         events {{ worker_connections 1024; }}\n\
         http {{\n\
         \x20 access_log {dir}/access.log;\n\
         \x20 client_body_temp_path {dir}/body;\n  proxy_temp_path {dir}/proxy;\n  fastcgi_temp_path {dir}/fastcgi;\n\
         \x20 uwsgi_temp_path {dir}/uwsgi;\n  scgi_temp_path {dir}/scgi;\n\
         \x20 server {{\n\
         \x20   listen {port} backlog=4096;\n    listen [::]:{port} backlog=4096;\n\
         \x20   location / {{ default_type text/plain; return 200 \"{name}\\n\"; }}\n\
         \x20 }}\n\
         }}\n"
    )
}
