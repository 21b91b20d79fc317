//! Services, endpoints and nodes as this project understands them: parsed once, valid from then on.
//!
//! Nothing here knows where an object came from or what becomes of it. [`World`] folds the events of a source into the
//! present state and says which Services an event concerns.

pub mod node;
pub mod service;
pub mod slice;
pub mod text;
pub mod world;

use std::fmt;
use std::sync::Arc;

pub use node::{Node, ServiceCidr};
pub use service::{AffinityTimeout, IpMode, LoadBalancerIngress, Service, ServicePort, ServiceType, TrafficPolicy};
pub use slice::{Endpoint, EndpointSlice, Hints, SlicePort};
pub use svc_common::net::Protocol;
pub use world::{Change, World};

/// Namespace and name of an object; for kinds without a namespace the namespace is empty.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    /// The namespace.
    pub namespace: Arc<str>,
    /// The name.
    pub name: Arc<str>,
}

impl ObjectKey {
    /// From two strings.
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() { f.write_str(&self.name) } else { write!(f, "{}/{}", self.namespace, self.name) }
    }
}

impl fmt::Debug for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both, in the order in which reports name them.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The family of an address.
    pub fn of(addr: std::net::IpAddr) -> Self {
        if addr.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// As metric labels and Kubernetes spell it.
    pub fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }
}

/// An object that a source delivers.
#[derive(Clone, Debug, PartialEq)]
pub enum Object {
    /// A Service of any type, also those that this proxy ignores: whether it counts is a question of the plan.
    Service(Service),
    /// An EndpointSlice of an address family (FQDN slices are not delivered).
    Slice(EndpointSlice),
    /// The own Node; others are not delivered.
    Node(Node),
    /// A ServiceCIDR.
    ServiceCidr(ServiceCidr),
}

/// Kinds of [`Object`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// `v1/Service`.
    Service,
    /// `discovery.k8s.io/v1/EndpointSlice`.
    Slice,
    /// `v1/Node`, own.
    Node,
    /// `networking.k8s.io/v1/ServiceCIDR`.
    ServiceCidr,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 4] = [Self::Service, Self::Slice, Self::Node, Self::ServiceCidr];
}

impl Object {
    /// Kind and name.
    pub fn id(&self) -> (Kind, ObjectKey) {
        match self {
            Self::Service(service) => (Kind::Service, service.key.clone()),
            Self::Slice(slice) => (Kind::Slice, slice.key.clone()),
            Self::Node(node) => (Kind::Node, ObjectKey::new("", node.name.clone())),
            Self::ServiceCidr(cidr) => (Kind::ServiceCidr, ObjectKey::new("", cidr.name.clone())),
        }
    }
}

/// What a source says. The API server and a directory of manifests yield the same events.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "nearly all events are objects: a box for each would save nothing")]
pub enum Event {
    /// A full list of this kind begins: what is not applied before the next [`Event::Synced`] of the kind has vanished.
    Restarted(Kind),
    /// An object is new or has changed.
    Applied(Object),
    /// An object is gone.
    Deleted(Kind, ObjectKey),
    /// The list of this kind is complete.
    Synced(Kind),
}
