//! The Node and ServiceCIDR objects.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

/// The own Node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Node {
    /// Name.
    pub name: Arc<str>,
    /// `metadata.uid`, for events.
    pub uid: Arc<str>,
    /// InternalIP addresses in the order of the object: the first of each family is the primary one.
    pub internal_ips: Vec<IpAddr>,
    /// ExternalIP addresses.
    pub external_ips: Vec<IpAddr>,
    /// `spec.podCIDRs`.
    pub pod_cidrs: Vec<IpNet>,
    /// Label `topology.kubernetes.io/zone`, if not empty.
    pub zone: Option<Arc<str>>,
    /// Has a deletion timestamp.
    pub deleting: bool,
    /// Has the taint `ToBeDeletedByClusterAutoscaler` (KEP-3836).
    pub scaled_down: bool,
}

/// A ServiceCIDR (KEP-1880).
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceCidr {
    /// Name.
    pub name: Arc<str>,
    /// `spec.cidrs`.
    pub cidrs: Vec<IpNet>,
}
