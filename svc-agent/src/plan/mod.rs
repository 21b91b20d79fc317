//! From objects to desired tables: a pure function, without IO, clock or aya. All Kubernetes rules live here.
//!
//! The unit is one Service: [`Planned`] is everything the datapath needs to know about it, by port and family, with
//! addresses instead of ids. The applier gives ids to it and finds the difference to what the kernel has.

pub mod clash;
mod endpoints;
pub mod node;
pub mod options;
pub mod scheduler;
mod service;
pub mod settings;
pub mod slow_start;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use svc_common::tables::{Algorithm, Rule};

pub use clash::{Claim, ClashIndex, OwnerChange};
pub use node::NodeView;
pub use options::{Detector, NodePortAddresses, Options};
pub use service::service;
pub use settings::{Settings, settings};

use crate::model::{Family, ObjectKey, Protocol};

/// Identity of a service port in one family: what keeps its service id across changes and restarts.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortId {
    /// The Service.
    pub service: ObjectKey,
    /// Name of the port.
    pub port: Arc<str>,
    /// Protocol.
    pub protocol: Protocol,
    /// Family.
    pub family: Family,
}

/// Why a frontend exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FrontendKind {
    /// `spec.clusterIPs`.
    ClusterIp,
    /// A node port on an address of this node.
    NodePort,
    /// A node port on loopback: served by socket hooks only.
    LocalhostNodePort,
    /// An address of `status.loadBalancer`.
    LoadBalancer,
    /// `spec.externalIPs`.
    ExternalIp,
}

impl FrontendKind {
    /// A node port, on whichever address. Every other frontend goes before it.
    pub fn is_node_port(self) -> bool {
        matches!(self, Self::NodePort | Self::LocalhostNodePort)
    }

    /// `externalTrafficPolicy` decides, not `internalTrafficPolicy`.
    pub fn is_external(self) -> bool {
        self != Self::ClusterIp
    }
}

/// One address and port at which a service port answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedFrontend {
    /// Address and port.
    pub addr: SocketAddr,
    /// Why.
    pub kind: FrontendKind,
    /// What happens, by [`svc_common::tables::Sender`].
    pub rules: [Rule; 3],
    /// Only sources in [`PlannedPort::source_ranges`] are admitted.
    pub guarded: bool,
}

/// An endpoint to choose.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PlannedEndpoint {
    /// Address and port.
    pub addr: SocketAddr,
    /// It is on this node.
    pub local: bool,
    /// Relative weight, at least 1.
    pub weight: u16,
}

/// One service port in one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedPort {
    /// Identity.
    pub id: PortId,
    /// Where it answers.
    pub frontends: Vec<PlannedFrontend>,
    /// The Cluster set, sorted by address; empty also if no rule asks for it.
    pub cluster: Vec<PlannedEndpoint>,
    /// The Local set, sorted by address; empty also if no rule asks for it.
    pub local: Vec<PlannedEndpoint>,
    /// Endpoints that are ready or serving: a UDP flow to one of these is left alone. Sorted.
    pub serving: Vec<SocketAddr>,
    /// Affinity timeout in seconds.
    pub affinity: Option<u32>,
    /// How to choose.
    pub algorithm: Algorithm,
    /// Sources admitted to guarded frontends.
    pub source_ranges: Vec<IpNet>,
}

/// Everything about one Service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Planned {
    /// When the Service was made (seconds since 1970; `None`: unknown): the older one wins a contested frontend.
    pub created: Option<i64>,
    /// Ports, by family.
    pub ports: Vec<PlannedPort>,
    /// Addresses of which every other port and protocol is refused.
    pub cluster_ips: Vec<IpAddr>,
    /// Addresses that another proxy serves: never dropped as unallocated.
    pub foreign: Vec<IpAddr>,
    /// How long the weight of a new endpoint takes to grow: see [`slow_start`]. The weights here are the final ones.
    pub slow_start: Option<Duration>,
    /// The health-check listener, if the Service has one.
    pub health_check: Option<HealthCheck>,
    /// What is wrong or ignored, one line each and without the name of the Service, for the log and for events on it.
    /// Sorted, and the same in every plan as long as the cause lasts: say what the plan before did not.
    pub remarks: Vec<String>,
}

/// `healthCheckNodePort`: where to listen and what to answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// Port.
    pub port: u16,
    /// Ready local endpoints, by family in the order of [`Family::ALL`].
    pub local_endpoints: [usize; 2],
}

#[cfg(test)]
mod tests;
