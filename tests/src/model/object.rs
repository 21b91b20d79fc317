//! Objects of a cluster, as plain values, and their spelling as manifests.

use std::net::IpAddr;

use serde_json::{Map, Value, json};

/// Everything that a node knows: the objects, not what was made of them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cluster {
    /// Services.
    pub services: Vec<Service>,
    /// EndpointSlices.
    pub slices: Vec<Slice>,
    /// The own Node object, if there is one.
    pub node: Option<Node>,
    /// Prefixes of ServiceCIDR objects.
    pub cidrs: Vec<String>,
}

/// IP protocol of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// As Kubernetes spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        }
    }
}

/// `spec.type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// ClusterIP.
    ClusterIp,
    /// NodePort.
    NodePort,
    /// LoadBalancer.
    LoadBalancer,
    /// ExternalName.
    ExternalName,
}

/// A Service. Optional fields are left out of the manifest when they are `None`, empty or false.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// Seconds after a fixed moment; written as `metadata.creationTimestamp`.
    pub created: Option<u32>,
    /// `spec.type`.
    pub kind: Type,
    /// `spec.clusterIP: None`.
    pub headless: bool,
    /// `spec.clusterIPs`.
    pub cluster_ips: Vec<IpAddr>,
    /// Label `service.kubernetes.io/service-proxy-name`.
    pub other_proxy: bool,
    /// Label `service.kubernetes.io/headless`.
    pub headless_label: bool,
    /// `spec.externalIPs`.
    pub external_ips: Vec<IpAddr>,
    /// `status.loadBalancer.ingress`: address and whether `ipMode` is Proxy.
    pub ingress: Vec<(IpAddr, bool)>,
    /// `spec.ports`.
    pub ports: Vec<Port>,
    /// `spec.externalTrafficPolicy` is Local.
    pub external_local: bool,
    /// `spec.internalTrafficPolicy` is Local.
    pub internal_local: bool,
    /// `spec.sessionAffinity` is ClientIP.
    pub affinity: bool,
    /// `spec.sessionAffinityConfig.clientIP.timeoutSeconds`, far longer than a history takes; `None`: the default.
    pub timeout: Option<u32>,
    /// Annotation `svc.dev/scheduler`.
    pub scheduler: Option<&'static str>,
    /// `spec.loadBalancerSourceRanges`.
    pub ranges: Vec<String>,
    /// Addresses are written with leading zeros, prefixes with blanks, as old objects have them.
    pub sloppy: bool,
}

/// One of `spec.ports`.
#[derive(Clone, Debug, PartialEq)]
pub struct Port {
    /// `name`, empty if absent.
    pub name: String,
    /// `protocol`.
    pub protocol: Protocol,
    /// `port`.
    pub port: u16,
    /// `nodePort`.
    pub node_port: Option<u16>,
}

/// An EndpointSlice.
#[derive(Clone, Debug, PartialEq)]
pub struct Slice {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// Label `kubernetes.io/service-name`.
    pub service: Option<String>,
    /// Label `service.kubernetes.io/headless`.
    pub headless_label: bool,
    /// `addressType` is IPv6.
    pub v6: bool,
    /// `ports`: name, protocol, number.
    pub ports: Vec<(String, Protocol, Option<u16>)>,
    /// `endpoints`.
    pub endpoints: Vec<Endpoint>,
    /// As in [`Service::sloppy`].
    pub sloppy: bool,
}

/// One of `endpoints`.
#[derive(Clone, Debug, PartialEq)]
pub struct Endpoint {
    /// `addresses`: the first one counts.
    pub addresses: Vec<IpAddr>,
    /// `conditions.ready`.
    pub ready: Option<bool>,
    /// `conditions.serving`.
    pub serving: Option<bool>,
    /// `conditions.terminating`.
    pub terminating: Option<bool>,
    /// `nodeName`.
    pub node: Option<String>,
    /// `hints.forZones`.
    pub zones: Vec<String>,
    /// `hints.forNodes`.
    pub nodes: Vec<String>,
}

/// The own Node.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// InternalIP addresses.
    pub internal: Vec<IpAddr>,
    /// ExternalIP addresses.
    pub external: Vec<IpAddr>,
    /// `spec.podCIDRs`.
    pub pod_cidrs: Vec<String>,
    /// Label `topology.kubernetes.io/zone`.
    pub zone: Option<String>,
}

/// Name of the node whose proxy is asked.
pub const NODE: &str = "n1";

impl Cluster {
    /// All objects as one `v1/List`.
    pub fn manifest(&self) -> Value {
        let mut items: Vec<Value> = self.services.iter().map(Service::manifest).collect();
        items.extend(self.slices.iter().map(Slice::manifest));
        items.extend(self.node.iter().map(Node::manifest));
        if !self.cidrs.is_empty() {
            items.push(json!({
                "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
                "metadata": {"name": "kubernetes"}, "spec": {"cidrs": self.cidrs},
            }));
        }
        json!({"apiVersion": "v1", "kind": "List", "items": items})
    }
}

impl Service {
    fn manifest(&self) -> Value {
        let mut metadata = metadata(&self.namespace, &self.name);
        if let Some(created) = self.created {
            let (minute, second) = (created / 60 % 60, created % 60);
            metadata.insert("creationTimestamp".into(), json!(format!("2026-01-01T00:{minute:02}:{second:02}Z")));
        }
        let mut labels = Map::new();
        if self.other_proxy {
            labels.insert("service.kubernetes.io/service-proxy-name".into(), json!(""));
        }
        if self.headless_label {
            labels.insert("service.kubernetes.io/headless".into(), json!(""));
        }
        insert(&mut metadata, "labels", labels.into());
        if let Some(name) = self.scheduler {
            metadata.insert("annotations".into(), json!({"svc.dev/scheduler": name, "svc.dev/weights": "n1=3"}));
        }

        let mut spec = Map::new();
        spec.insert("type".into(), json!(self.kind.name()));
        if self.headless {
            spec.insert("clusterIP".into(), json!("None"));
            spec.insert("clusterIPs".into(), json!(["None"]));
        } else if let Some(first) = self.cluster_ips.first() {
            spec.insert("clusterIP".into(), json!(spell(*first, self.sloppy)));
            insert(&mut spec, "clusterIPs", spell_all(&self.cluster_ips, self.sloppy));
        }
        if self.kind == Type::ExternalName {
            spec.insert("externalName".into(), json!("elsewhere.example"));
        }
        insert(&mut spec, "externalIPs", spell_all(&self.external_ips, self.sloppy));
        insert(&mut spec, "ports", self.ports.iter().map(Port::manifest).collect::<Vec<_>>().into());
        if self.external_local {
            spec.insert("externalTrafficPolicy".into(), json!("Local"));
        }
        if self.internal_local {
            spec.insert("internalTrafficPolicy".into(), json!("Local"));
        }
        if self.affinity {
            spec.insert("sessionAffinity".into(), json!("ClientIP"));
            if let Some(seconds) = self.timeout {
                spec.insert("sessionAffinityConfig".into(), json!({"clientIP": {"timeoutSeconds": seconds}}));
            }
        }
        let ranges =
            self.ranges.iter().map(|range| json!(if self.sloppy { format!(" {range} ") } else { range.clone() }));
        insert(&mut spec, "loadBalancerSourceRanges", ranges.collect::<Vec<_>>().into());

        let ingress = self.ingress.iter().map(|(ip, proxy)| {
            let ip = spell(*ip, self.sloppy);
            if *proxy { json!({"ip": ip, "ipMode": "Proxy"}) } else { json!({"ip": ip}) }
        });
        let mut object = json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec});
        if !self.ingress.is_empty() {
            object["status"] = json!({"loadBalancer": {"ingress": ingress.collect::<Vec<_>>()}});
        }
        object
    }
}

impl Type {
    fn name(self) -> &'static str {
        match self {
            Self::ClusterIp => "ClusterIP",
            Self::NodePort => "NodePort",
            Self::LoadBalancer => "LoadBalancer",
            Self::ExternalName => "ExternalName",
        }
    }
}

impl Port {
    fn manifest(&self) -> Value {
        let mut port = Map::new();
        port.insert("port".into(), json!(self.port));
        port.insert("protocol".into(), json!(self.protocol.name()));
        if !self.name.is_empty() {
            port.insert("name".into(), json!(self.name));
        }
        if let Some(number) = self.node_port {
            port.insert("nodePort".into(), json!(number));
        }
        port.into()
    }
}

impl Slice {
    fn manifest(&self) -> Value {
        let mut metadata = metadata(&self.namespace, &self.name);
        let mut labels = Map::new();
        if let Some(service) = &self.service {
            labels.insert("kubernetes.io/service-name".into(), json!(service));
        }
        if self.headless_label {
            labels.insert("service.kubernetes.io/headless".into(), json!(""));
        }
        insert(&mut metadata, "labels", labels.into());
        let ports = self.ports.iter().map(|(name, protocol, number)| {
            let name = if name.is_empty() { Value::Null } else { json!(name) };
            json!({"name": name, "protocol": protocol.name(), "port": number})
        });
        let endpoints: Vec<Value> = self.endpoints.iter().map(|endpoint| endpoint.manifest(self.sloppy)).collect();
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": metadata,
            "addressType": if self.v6 { "IPv6" } else { "IPv4" },
            "ports": ports.collect::<Vec<_>>(),
            "endpoints": if endpoints.is_empty() { Value::Null } else { endpoints.into() },
        })
    }
}

impl Endpoint {
    fn manifest(&self, sloppy: bool) -> Value {
        let mut object = Map::new();
        object.insert("addresses".into(), spell_all(&self.addresses, sloppy));
        let mut conditions = Map::new();
        for (name, value) in [("ready", self.ready), ("serving", self.serving), ("terminating", self.terminating)] {
            if let Some(value) = value {
                conditions.insert(name.into(), json!(value));
            }
        }
        insert(&mut object, "conditions", conditions.into());
        if let Some(node) = &self.node {
            object.insert("nodeName".into(), json!(node));
        }
        let mut hints = Map::new();
        let named = |names: &[String]| names.iter().map(|name| json!({"name": name})).collect::<Vec<_>>();
        insert(&mut hints, "forZones", named(&self.zones).into());
        insert(&mut hints, "forNodes", named(&self.nodes).into());
        insert(&mut object, "hints", hints.into());
        object.into()
    }
}

impl Node {
    fn manifest(&self) -> Value {
        let mut metadata = Map::new();
        metadata.insert("name".into(), json!(NODE));
        if let Some(zone) = &self.zone {
            metadata.insert("labels".into(), json!({"topology.kubernetes.io/zone": zone}));
        }
        let internal = self.internal.iter().map(|ip| json!({"type": "InternalIP", "address": ip}));
        let external = self.external.iter().map(|ip| json!({"type": "ExternalIP", "address": ip}));
        let hostname = std::iter::once(json!({"type": "Hostname", "address": NODE}));
        json!({
            "apiVersion": "v1", "kind": "Node", "metadata": metadata,
            "spec": {"podCIDR": self.pod_cidrs.first(), "podCIDRs": self.pod_cidrs},
            "status": {"addresses": hostname.chain(internal).chain(external).collect::<Vec<_>>()},
        })
    }
}

fn metadata(namespace: &str, name: &str) -> Map<String, Value> {
    let mut metadata = Map::new();
    metadata.insert("name".into(), json!(name));
    if namespace != "default" {
        metadata.insert("namespace".into(), json!(namespace));
    }
    metadata
}

/// Leaves out what is empty: an absent field and an empty one mean the same.
fn insert(object: &mut Map<String, Value>, name: &str, value: Value) {
    let empty = value.as_array().is_some_and(Vec::is_empty) || value.as_object().is_some_and(Map::is_empty);
    if !empty {
        object.insert(name.into(), value);
    }
}

fn spell_all(addresses: &[IpAddr], sloppy: bool) -> Value {
    addresses.iter().map(|addr| json!(spell(*addr, sloppy))).collect::<Vec<_>>().into()
}

fn spell(addr: IpAddr, sloppy: bool) -> String {
    match addr {
        IpAddr::V4(v4) if sloppy => v4.octets().map(|octet| format!("{octet:03}")).join("."),
        _ => addr.to_string(),
    }
}
