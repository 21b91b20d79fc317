//! The Service object.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use super::{ObjectKey, Protocol};

/// `spec.sessionAffinityConfig.clientIP.timeoutSeconds`.
pub type AffinityTimeout = Duration;

/// `spec.type`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ServiceType {
    /// Only a cluster IP (and external IPs).
    #[default]
    ClusterIp,
    /// Also a port on node addresses.
    NodePort,
    /// Also addresses of a load balancer.
    LoadBalancer,
    /// A DNS alias: nothing for a proxy to do.
    ExternalName,
}

/// `externalTrafficPolicy` and `internalTrafficPolicy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TrafficPolicy {
    /// All endpoints of the cluster.
    #[default]
    Cluster,
    /// Only endpoints on the node that handles the packet.
    Local,
}

/// `status.loadBalancer.ingress[].ipMode` (KEP-1860).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IpMode {
    /// The proxy answers for the address on every node.
    #[default]
    Vip,
    /// The load balancer rewrites the destination; the proxy must not capture the address.
    Proxy,
}

/// One address of `status.loadBalancer.ingress`; entries with a host name only are not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadBalancerIngress {
    /// The address.
    pub ip: IpAddr,
    /// How the load balancer delivers.
    pub mode: IpMode,
}

/// One entry of `spec.ports`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Name; empty if there is none.
    pub name: Arc<str>,
    /// Protocol.
    pub protocol: Protocol,
    /// Port of the Service.
    pub port: u16,
    /// Port on node addresses, if one is allocated.
    pub node_port: Option<u16>,
}

/// A Service, with the defaults of the API server filled in.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// Namespace and name.
    pub key: ObjectKey,
    /// `metadata.uid`; empty for objects that have none. Needed to attach events to the object.
    pub uid: Arc<str>,
    /// `metadata.creationTimestamp` in seconds since 1970; `None` sorts after every time.
    pub created: Option<i64>,
    /// Type.
    pub kind: ServiceType,
    /// `spec.clusterIPs` without "None" and "": at most one per family.
    pub cluster_ips: Vec<IpAddr>,
    /// `spec.clusterIP` is "None".
    pub headless: bool,
    /// The label `service.kubernetes.io/service-proxy-name` is present, with whatever value.
    pub other_proxy: bool,
    /// `spec.externalIPs`.
    pub external_ips: Vec<IpAddr>,
    /// `status.loadBalancer.ingress`.
    pub ingress: Vec<LoadBalancerIngress>,
    /// Ports.
    pub ports: Vec<ServicePort>,
    /// For node ports, load-balancer addresses and external IPs.
    pub external_policy: TrafficPolicy,
    /// For cluster IPs.
    pub internal_policy: TrafficPolicy,
    /// `sessionAffinity: ClientIP` with its timeout.
    pub affinity: Option<AffinityTimeout>,
    /// `spec.loadBalancerSourceRanges`.
    pub source_ranges: Vec<IpNet>,
    /// `spec.healthCheckNodePort`, if not 0.
    pub health_check_node_port: Option<u16>,
    /// Annotations under this project's own prefix `svc.dev/`, prefix removed; sorted by key.
    pub annotations: Vec<(Arc<str>, Arc<str>)>,
}
