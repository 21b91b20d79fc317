//! The EndpointSlice object.

use std::net::IpAddr;
use std::sync::Arc;

use super::{Family, ObjectKey, Protocol};

/// One entry of `ports`; entries without a number are not kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlicePort {
    /// Name; empty if null.
    pub name: Arc<str>,
    /// Protocol.
    pub protocol: Protocol,
    /// Port of the endpoints.
    pub port: u16,
}

/// `hints` of an endpoint (KEP-2433, KEP-3015).
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hints {
    /// `forZones[].name`.
    pub zones: Vec<Arc<str>>,
    /// `forNodes[].name`.
    pub nodes: Vec<Arc<str>>,
}

/// One entry of `endpoints`: its first address and its conditions, absent ones read as the API says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The first address.
    pub addr: IpAddr,
    /// Takes new connections.
    pub ready: bool,
    /// Could take new connections if it were not terminating.
    pub serving: bool,
    /// Is on its way out.
    pub terminating: bool,
    /// `nodeName`.
    pub node: Option<Arc<str>>,
    /// Hints; boxed because most endpoints have none and there may be a million endpoints.
    pub hints: Option<Box<Hints>>,
}

/// An EndpointSlice of one address family that belongs to a Service.
#[derive(Clone, Debug, PartialEq)]
pub struct EndpointSlice {
    /// Namespace and name.
    pub key: ObjectKey,
    /// The Service, from the label `kubernetes.io/service-name`.
    pub service: ObjectKey,
    /// Family of all addresses.
    pub family: Family,
    /// Ports that every endpoint has.
    pub ports: Vec<SlicePort>,
    /// Endpoints.
    pub endpoints: Vec<Endpoint>,
    /// `endpoints.kubernetes.io/last-change-trigger-time` in nanoseconds since 1970, for programming latency.
    pub triggered: Option<i128>,
}
