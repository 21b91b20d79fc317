//! Where objects come from: the API server, or a directory of manifests. Both yield the same [`crate::model::Event`]s.
//!
//! - `wire` knows the shape of the objects as Kubernetes writes them and turns them into those of the model;
//! - `tree` and `fields` read YAML and JSON, and know on which line a field stands and how it is spelled; `block` is the
//!   fast way for the YAML that is usually written;
//! - [`manifest`] reads files and directories once, [`directory`] watches them;
//! - [`kubernetes`] follows the API server;
//! - [`Contact`] says whether the API server is heard;
//! - `allocate` is the small control plane that fills in what manifests leave open.
//!
//! Nothing here knows what becomes of an object.

mod allocate;
mod block;
mod contact;
pub mod directory;
pub(crate) mod fields;
pub mod kubernetes;
pub mod manifest;
pub(crate) mod tree;
mod wire;

pub use contact::Contact;

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;

use ipnet::IpNet;

use crate::model::Object;

/// What the control plane of a cluster would know, for manifests that come without one.
#[derive(Clone, Debug)]
pub struct ControlPlane {
    /// Where cluster IPs are allocated from, the first family being the default one. `None`: nothing is allocated,
    /// node ports neither, and objects are taken as the API server would hand them out.
    pub service_cidrs: Option<Vec<IpNet>>,
    /// Where node ports are allocated from.
    pub node_ports: RangeInclusive<u16>,
    /// The own node: other Node objects are not delivered.
    pub node_name: String,
    /// Where [`directory::watch`] remembers what it has given out, so that a restart gives the same. `None`: the names
    /// of the Services alone decide, and of two that would get the same address the one that is there gets it.
    pub state_file: Option<PathBuf>,
}

impl ControlPlane {
    /// The default of `--service-cidr`.
    pub const SERVICE_CIDRS: &str = "10.96.0.0/12,fd00:10:96::/112";
    /// The default of `--service-node-port-range`.
    pub const NODE_PORTS: RangeInclusive<u16> = 30000..=32767;
}

/// What one reading of manifests gave.
#[derive(Debug, Default)]
pub struct Loaded {
    /// The objects, as the API server would hand them out, in a deterministic order.
    pub objects: Vec<Object>,
    /// What could not be used or looks wrong, one line each.
    pub warnings: Vec<String>,
}

/// Keeps one copy of strings that repeat: a quarter of a million endpoints stand on a few thousand nodes.
#[derive(Debug, Default)]
pub(crate) struct Interner {
    strings: std::collections::HashSet<Arc<str>>,
    /// Size at which strings that nobody holds any more are looked for.
    sweep_at: usize,
}

impl Interner {
    /// The one copy of `text`.
    pub(crate) fn get(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.strings.get(text) {
            return known.clone();
        }
        if self.strings.len() >= self.sweep_at.max(1024) {
            self.strings.retain(|string| Arc::strong_count(string) > 1);
            self.sweep_at = self.strings.len() * 2;
        }
        let new: Arc<str> = text.into();
        self.strings.insert(new.clone());
        new
    }
}
