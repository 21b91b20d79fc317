//! The types that are decoded from the API server: ours, dressed as resources of kube.
//!
//! The full types of Kubernetes cost seven times the memory and more than twice the time.

use std::borrow::Cow;
use std::fmt;

use k8s_openapi::ClusterResourceScope;
use kube::Resource;
use kube::core::ObjectMeta;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};

use crate::model::{Kind, Object, ObjectKey};
use crate::source::Interner;
use crate::source::wire::node::{WireNode, WireServiceCidr};
use crate::source::wire::service::WireService;
use crate::source::wire::slice::WireSlice;
use crate::source::wire::{Meta, Problem};

/// A kind that is followed.
pub(super) trait Followed: DeserializeOwned + Clone + fmt::Debug + Send + 'static {
    const KIND: Kind;
    const NAME: &'static str;
    const GROUP: &'static str;
    const PLURAL: &'static str;

    fn meta(&self) -> &Meta;

    fn key(&self) -> ObjectKey;

    /// The object of the model, if it is one that counts, and what in it means nothing.
    fn read(self, names: &mut Interner) -> (Option<Object>, Vec<Problem>);
}

impl Followed for WireService {
    const KIND: Kind = Kind::Service;
    const NAME: &'static str = "Service";
    const GROUP: &'static str = "";
    const PLURAL: &'static str = "services";

    fn meta(&self) -> &Meta {
        &self.metadata
    }

    fn key(&self) -> ObjectKey {
        self.metadata.namespaced()
    }

    fn read(self, names: &mut Interner) -> (Option<Object>, Vec<Problem>) {
        let (draft, problems) = self.read(names);
        (Some(Object::Service(draft.service)), problems)
    }
}

impl Followed for WireSlice {
    const KIND: Kind = Kind::Slice;
    const NAME: &'static str = "EndpointSlice";
    const GROUP: &'static str = "discovery.k8s.io";
    const PLURAL: &'static str = "endpointslices";

    fn meta(&self) -> &Meta {
        &self.metadata
    }

    fn key(&self) -> ObjectKey {
        self.metadata.namespaced()
    }

    fn read(self, names: &mut Interner) -> (Option<Object>, Vec<Problem>) {
        let (read, problems) = self.read(names);
        (read.slice.map(Object::Slice), problems)
    }
}

impl Followed for WireNode {
    const KIND: Kind = Kind::Node;
    const NAME: &'static str = "Node";
    const GROUP: &'static str = "";
    const PLURAL: &'static str = "nodes";

    fn meta(&self) -> &Meta {
        &self.metadata
    }

    fn key(&self) -> ObjectKey {
        self.metadata.cluster_wide()
    }

    fn read(self, _: &mut Interner) -> (Option<Object>, Vec<Problem>) {
        let (node, problems) = self.read();
        (Some(Object::Node(node)), problems)
    }
}

impl Followed for WireServiceCidr {
    const KIND: Kind = Kind::ServiceCidr;
    const NAME: &'static str = "ServiceCIDR";
    const GROUP: &'static str = "networking.k8s.io";
    const PLURAL: &'static str = "servicecidrs";

    fn meta(&self) -> &Meta {
        &self.metadata
    }

    fn key(&self) -> ObjectKey {
        self.metadata.cluster_wide()
    }

    fn read(self, _: &mut Interner) -> (Option<Object>, Vec<Problem>) {
        let (cidr, problems) = self.read();
        (Some(Object::ServiceCidr(cidr)), problems)
    }
}

/// An object of a kind, with the metadata that kube wants to see: the resource version, nothing else.
#[derive(Clone, Debug)]
pub(super) struct Seen<W> {
    meta: ObjectMeta,
    pub(super) wire: W,
}

impl<'de, W: Followed> Deserialize<'de> for Seen<W> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let wire = W::deserialize(deserializer)?;
        let meta = ObjectMeta { resource_version: wire.meta().resource_version.clone(), ..ObjectMeta::default() };
        Ok(Self { meta, wire })
    }
}

impl<W: Followed> Resource for Seen<W> {
    type DynamicType = ();
    type Scope = ClusterResourceScope;

    fn kind(_: &()) -> Cow<'_, str> {
        W::NAME.into()
    }

    fn group(_: &()) -> Cow<'_, str> {
        W::GROUP.into()
    }

    fn version(_: &()) -> Cow<'_, str> {
        "v1".into()
    }

    fn plural(_: &()) -> Cow<'_, str> {
        W::PLURAL.into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.meta
    }
}
