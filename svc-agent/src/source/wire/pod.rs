//! The Pod: what makes it an endpoint of a Service.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use serde::Deserialize;

use super::service::TargetPort;
use super::{Meta, Problem, address, nullable, port, protocol};
use crate::model::{ObjectKey, Protocol};
use crate::source::Interner;

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(in crate::source) struct WirePod {
    #[serde(deserialize_with = "nullable")]
    pub(in crate::source) metadata: Meta,
    #[serde(deserialize_with = "nullable")]
    spec: PodSpec,
    #[serde(deserialize_with = "nullable")]
    status: PodStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PodSpec {
    node_name: Option<String>,
    #[serde(deserialize_with = "nullable")]
    containers: Vec<Container>,
    #[serde(deserialize_with = "nullable")]
    init_containers: Vec<Container>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Container {
    restart_policy: Option<String>,
    #[serde(deserialize_with = "nullable")]
    ports: Vec<ContainerPort>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ContainerPort {
    name: Option<String>,
    protocol: Option<String>,
    container_port: Option<i64>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct PodStatus {
    phase: Option<String>,
    #[serde(rename = "podIP")]
    pod_ip: Option<String>,
    #[serde(rename = "podIPs", deserialize_with = "nullable")]
    pod_ips: Vec<PodIp>,
    #[serde(deserialize_with = "nullable")]
    conditions: Vec<Condition>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct PodIp {
    #[serde(deserialize_with = "nullable")]
    ip: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Condition {
    #[serde(deserialize_with = "nullable")]
    r#type: String,
    #[serde(deserialize_with = "nullable")]
    status: String,
}

/// A Pod as far as Services care.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::source) struct Pod {
    pub(in crate::source) key: ObjectKey,
    pub(in crate::source) labels: BTreeMap<String, String>,
    pub(in crate::source) node: Option<Arc<str>>,
    pub(in crate::source) ips: Vec<IpAddr>,
    /// Named ports of all containers that run along with the pod.
    pub(in crate::source) ports: Vec<(String, Protocol, u16)>,
    /// The condition Ready is True.
    pub(in crate::source) ready: bool,
    pub(in crate::source) terminating: bool,
    /// Succeeded or Failed: it will not serve again.
    pub(in crate::source) finished: bool,
}

impl Pod {
    /// The number behind a `targetPort` in this pod.
    pub(in crate::source) fn resolve(&self, target: &TargetPort, protocol: Protocol) -> Option<u16> {
        match target {
            TargetPort::Number(number) => port(*number).ok(),
            TargetPort::Name(name) => {
                self.ports.iter().find(|port| port.0 == *name && port.1 == protocol).map(|port| port.2)
            }
        }
    }
}

impl WirePod {
    /// The Pod; the second part lists what means nothing.
    pub(in crate::source) fn read(self, names: &mut Interner) -> (Pod, Vec<Problem>) {
        let mut problems = Vec::new();
        let Self { metadata, spec, status } = self;
        let mut ips = Vec::new();
        let several = !status.pod_ips.is_empty();
        let texts: Vec<&str> = if several {
            status.pod_ips.iter().map(|pod_ip| &*pod_ip.ip).collect()
        } else {
            status.pod_ip.as_deref().into_iter().collect()
        };
        for (index, text) in texts.into_iter().enumerate().filter(|(_, text)| !text.is_empty()) {
            match address(text) {
                Ok(ip) => ips.push(ip),
                Err(text) => {
                    let path = if several { format!("status.podIPs[{index}].ip") } else { "status.podIP".to_owned() };
                    problems.push(Problem::new(path, text));
                }
            }
        }
        // Sidecars: init containers that are restarted run as long as the pod does.
        let sidecars =
            spec.init_containers.iter().enumerate().filter(|(_, c)| c.restart_policy.as_deref() == Some("Always"));
        let containers = spec.containers.iter().enumerate().map(|(i, c)| ("containers", i, c));
        let mut ports = Vec::new();
        for (list, i, container) in containers.chain(sidecars.map(|(i, c)| ("initContainers", i, c))) {
            for (j, wire) in container.ports.iter().enumerate() {
                let number = wire.container_port.ok_or_else(|| "is missing".to_owned()).and_then(port);
                match (number, protocol(wire.protocol.as_deref())) {
                    (Ok(port), Ok(protocol)) => ports.push((wire.name.clone().unwrap_or_default(), protocol, port)),
                    (Err(text), _) => {
                        problems.push(Problem::new(format!("spec.{list}[{i}].ports[{j}].containerPort"), text));
                    }
                    (_, Err(text)) => {
                        problems.push(Problem::new(format!("spec.{list}[{i}].ports[{j}].protocol"), text));
                    }
                }
            }
        }
        ports.retain(|port| !port.0.is_empty());
        let pod = Pod {
            key: metadata.namespaced(),
            node: spec.node_name.as_deref().filter(|name| !name.is_empty()).map(|name| names.get(name)),
            ips,
            ports,
            ready: status.conditions.iter().any(|condition| condition.r#type == "Ready" && condition.status == "True"),
            terminating: metadata.deletion_timestamp.is_some(),
            finished: matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")),
            labels: metadata.labels,
        };
        (pod, problems)
    }
}
