//! Objects as Kubernetes writes them, and how they become those of the model.
//!
//! The types hold only what this project reads; everything in them may be absent or null, as the API server sends
//! `null` for empty lists. What decodes but means nothing is a [`Problem`]: manifests refuse the object and say where,
//! the watch of the API server goes on with the rest of it.

pub(super) mod node;
pub(super) mod pod;
pub(super) mod service;
pub(super) mod slice;

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::jiff::Timestamp;
use serde::{Deserialize, Deserializer};

use crate::model::{ObjectKey, Protocol, text};

/// Label of a Service that another proxy serves.
pub(super) const OTHER_PROXY: &str = "service.kubernetes.io/service-proxy-name";
/// Label that hides the slices of a Service.
pub(super) const HEADLESS: &str = "service.kubernetes.io/headless";
/// Label that says whose slice it is.
pub(super) const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Something that decodes and means nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    /// The field, `spec.ports[0].port`.
    pub(super) path: String,
    /// What is wrong with it.
    pub(super) text: String,
}

impl Problem {
    pub(super) fn new(path: impl Into<String>, text: impl Into<String>) -> Self {
        Self { path: path.into(), text: text.into() }
    }
}

/// `null` is the same as absent.
pub(super) fn nullable<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// `metadata`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Meta {
    pub(super) name: Option<String>,
    pub(super) namespace: Option<String>,
    pub(super) uid: Option<String>,
    pub(super) resource_version: Option<String>,
    pub(super) creation_timestamp: Option<String>,
    pub(super) deletion_timestamp: Option<String>,
    #[serde(deserialize_with = "nullable")]
    pub(super) labels: BTreeMap<String, String>,
    #[serde(deserialize_with = "nullable")]
    pub(super) annotations: BTreeMap<String, String>,
}

impl Meta {
    /// Name in a namespace; an absent namespace is `default`.
    pub(super) fn namespaced(&self) -> ObjectKey {
        let namespace = self.namespace.as_deref().filter(|namespace| !namespace.is_empty()).unwrap_or("default");
        ObjectKey::new(namespace, self.name.as_deref().unwrap_or_default())
    }

    /// Name of an object without a namespace.
    pub(super) fn cluster_wide(&self) -> ObjectKey {
        ObjectKey::new("", self.name.as_deref().unwrap_or_default())
    }

    /// `creationTimestamp` in seconds since 1970.
    pub(super) fn created(&self) -> Option<i64> {
        self.creation_timestamp.as_deref()?.parse::<Timestamp>().ok().map(Timestamp::as_second)
    }
}

/// A prefix; unlike in flags an address alone is none.
pub(super) fn prefix(text: &str, example: &str) -> Result<IpNet, String> {
    let prefix = text.contains('/').then(|| text::prefix(text)).flatten();
    prefix.ok_or_else(|| format!("{text:?} is no prefix like {example}"))
}

/// An address.
pub(super) fn address(text: &str) -> Result<IpAddr, String> {
    text::address(text).ok_or_else(|| format!("{text:?} is no address"))
}

/// A protocol by its name in Kubernetes; absent is TCP.
pub(super) fn protocol(name: Option<&str>) -> Result<Protocol, String> {
    match name {
        None | Some("" | "TCP") => Ok(Protocol::Tcp),
        Some("UDP") => Ok(Protocol::Udp),
        Some("SCTP") => Ok(Protocol::Sctp),
        Some(other) => Err(format!("{other:?} is no protocol of a port: TCP, UDP or SCTP")),
    }
}

/// A port number.
pub(super) fn port(number: i64) -> Result<u16, String> {
    u16::try_from(number).ok().filter(|port| *port != 0).ok_or_else(|| format!("{number} is no port: 1 to 65535"))
}
