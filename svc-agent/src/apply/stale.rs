//! What the kernel remembers beyond the tables of the agent, and what of it an applied change has made worthless.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::model::Family;

/// One service port whose flows or affinity records have to be looked through after the writes were carried out.
/// (Before them a busy client would at once make the same record again.)
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stale {
    /// Service id: field of flows, socket records and affinity keys.
    pub service: u32,
    /// Family of the service port.
    pub family: Family,
    /// UDP only: delete the flows and socket records of this service whose backend (address and port) is none of these.
    /// Sorted, never empty: while a service port has no serving endpoint its flows are left alone.
    pub serving: Option<Arc<[SocketAddr]>>,
    /// Delete the affinity records of this service whose backend id is none of these. Sorted; may be empty.
    pub members: Option<Arc<[u32]>>,
}

impl Stale {
    /// Whether a UDP flow of this service to `backend` has to go.
    pub fn flow_is_stale(&self, backend: SocketAddr) -> bool {
        self.serving.as_ref().is_some_and(|serving| serving.binary_search(&backend).is_err())
    }

    /// Whether an affinity record of this service for the backend of this id has to go.
    pub fn record_is_stale(&self, backend: u32) -> bool {
        self.members.as_ref().is_some_and(|members| members.binary_search(&backend).is_err())
    }
}
