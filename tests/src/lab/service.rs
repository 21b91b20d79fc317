//! Services of the tests: both families, TCP and UDP at one number, cluster IP and node port known beforehand.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::Result;
use serde_json::{Value, json};

use super::Lab;

/// Port at the cluster IP.
pub const PORT: u16 = 80;

/// A Service with selector `app: NAME`, named target ports `web` (TCP) and `web-udp`.
#[derive(Clone, Debug)]
pub struct TestService {
    /// Its name, and the value of the label that its pods carry.
    pub name: String,
    number: u8,
    more: Value,
}

impl TestService {
    /// `number` makes the addresses: 10.96.1.N, fd00:10:96::1:N and node port 30100 + N.
    pub fn new(name: &str, number: u8) -> Self {
        Self { name: name.into(), number, more: json!({}) }
    }

    /// With a further field of `spec`.
    pub fn with(mut self, field: &str, value: Value) -> Self {
        self.more[field] = value;
        self
    }

    /// Cluster IPs: IPv4, IPv6.
    pub fn ips(&self) -> [IpAddr; 2] {
        [
            Ipv4Addr::new(10, 96, 1, self.number).into(),
            Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 1, self.number.into()).into(),
        ]
    }

    /// Cluster IP and port of a family.
    pub fn at(&self, family: usize) -> SocketAddr {
        SocketAddr::new(self.ips()[family], PORT)
    }

    /// Number of the node port, the same for both protocols.
    pub fn node_port(&self) -> u16 {
        30_100 + u16::from(self.number)
    }

    /// Node port of a node in a family.
    pub fn at_node(&self, lab: &Lab, node: usize, family: usize) -> SocketAddr {
        SocketAddr::new(lab.nodes[node].ips[family], self.node_port())
    }

    /// The object.
    pub fn object(&self) -> Value {
        let port = |name: &str, protocol: &str, target: &str| {
            json!({
                "name": name, "protocol": protocol, "port": PORT, "targetPort": target, "nodePort": self.node_port(),
            })
        };
        let mut spec = json!({
            "type": "NodePort",
            "selector": { "app": self.name },
            "ipFamilyPolicy": "RequireDualStack",
            "ipFamilies": ["IPv4", "IPv6"],
            "clusterIP": self.ips()[0],
            "clusterIPs": self.ips(),
            "ports": [port("tcp", "TCP", "web"), port("udp", "UDP", "web-udp")],
        });
        if let (Some(spec), Some(more)) = (spec.as_object_mut(), self.more.as_object()) {
            spec.extend(more.clone());
        }
        json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": self.name, "namespace": "default" }, "spec": spec })
    }

    /// Writes it into the lab's manifests.
    pub fn publish(&self, lab: &Lab) -> Result<()> {
        lab.manifests.write_object(&format!("service-{}.json", self.name), &self.object())
    }

    /// Takes it away again.
    pub fn withdraw(&self, lab: &Lab) -> Result<()> {
        lab.manifests.remove(&format!("service-{}.json", self.name))
    }
}

/// Ports of a test pod that serves `port`, under the names that a [`TestService`] asks for.
pub fn pod_ports(port: u16) -> Value {
    json!([
        { "name": "web", "containerPort": port, "protocol": "TCP" },
        { "name": "web-udp", "containerPort": port, "protocol": "UDP" },
    ])
}
