//! The Node and the ServiceCIDR.

use serde::Deserialize;

use super::{Meta, Problem, address, nullable, prefix};
use crate::model::{Node, ServiceCidr};

const ZONE: &str = "topology.kubernetes.io/zone";
/// The autoscaler is about to take the node away (KEP-3836).
const SCALED_DOWN: &str = "ToBeDeletedByClusterAutoscaler";

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(in crate::source) struct WireNode {
    #[serde(deserialize_with = "nullable")]
    pub(in crate::source) metadata: Meta,
    #[serde(deserialize_with = "nullable")]
    spec: NodeSpec,
    #[serde(deserialize_with = "nullable")]
    status: NodeStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct NodeSpec {
    #[serde(rename = "podCIDR")]
    pod_cidr: Option<String>,
    #[serde(rename = "podCIDRs", deserialize_with = "nullable")]
    pod_cidrs: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    taints: Vec<Taint>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Taint {
    #[serde(deserialize_with = "nullable")]
    key: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct NodeStatus {
    #[serde(deserialize_with = "nullable")]
    addresses: Vec<NodeAddress>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct NodeAddress {
    #[serde(deserialize_with = "nullable")]
    r#type: String,
    #[serde(deserialize_with = "nullable")]
    address: String,
}

impl WireNode {
    /// The Node of the model; the second part lists what means nothing.
    pub(in crate::source) fn read(self) -> (Node, Vec<Problem>) {
        let mut problems = Vec::new();
        let meta = &self.metadata;
        let mut node = Node {
            name: meta.name.as_deref().unwrap_or_default().into(),
            uid: meta.uid.as_deref().unwrap_or_default().into(),
            zone: meta.labels.get(ZONE).filter(|zone| !zone.is_empty()).map(|zone| zone.as_str().into()),
            deleting: meta.deletion_timestamp.is_some(),
            scaled_down: self.spec.taints.iter().any(|taint| taint.key == SCALED_DOWN),
            ..Node::default()
        };
        for (index, entry) in self.status.addresses.iter().enumerate() {
            let list = match entry.r#type.as_str() {
                "InternalIP" => &mut node.internal_ips,
                "ExternalIP" => &mut node.external_ips,
                _ => continue,
            };
            match address(&entry.address) {
                Ok(ip) => list.push(ip),
                Err(text) => problems.push(Problem::new(format!("status.addresses[{index}].address"), text)),
            }
        }
        let (field, cidrs) = match self.spec.pod_cidr {
            Some(cidr) if self.spec.pod_cidrs.is_empty() => ("spec.podCIDR", vec![cidr]),
            _ => ("spec.podCIDRs", self.spec.pod_cidrs),
        };
        for text in cidrs.iter().filter(|text| !text.is_empty()) {
            match prefix(text, "10.0.0.0/24") {
                Ok(prefix) => node.pod_cidrs.push(prefix),
                Err(text) => problems.push(Problem::new(field, text)),
            }
        }
        (node, problems)
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(in crate::source) struct WireServiceCidr {
    #[serde(deserialize_with = "nullable")]
    pub(in crate::source) metadata: Meta,
    #[serde(deserialize_with = "nullable")]
    spec: CidrSpec,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct CidrSpec {
    #[serde(deserialize_with = "nullable")]
    cidrs: Vec<String>,
}

impl WireServiceCidr {
    /// The ServiceCIDR of the model; the second part lists what means nothing.
    pub(in crate::source) fn read(self) -> (ServiceCidr, Vec<Problem>) {
        let mut problems = Vec::new();
        let mut cidrs = Vec::new();
        for (index, text) in self.spec.cidrs.iter().enumerate() {
            match prefix(text, "10.96.0.0/16") {
                Ok(prefix) => cidrs.push(prefix),
                Err(text) => problems.push(Problem::new(format!("spec.cidrs[{index}]"), text)),
            }
        }
        (ServiceCidr { name: self.metadata.name.as_deref().unwrap_or_default().into(), cidrs }, problems)
    }
}
