//! The actors of packet tests, the same in both families, and what is said about a packet's end.

use svc_common::tables::Rule;
use svc_common::verdict::Reason;

use super::frame::Kind;
use super::node::Ended;

/// TC: to the next program and on.
pub const NEXT: i32 = -1;
/// TC: the packet ends here.
pub const SHOT: i32 = 2;
/// TC: sent elsewhere.
pub const REDIRECT: i32 = 7;

/// Opens a TCP connection.
pub const SYN: Kind = Kind::Tcp(2);
/// A TCP segment.
pub const ACK: Kind = Kind::Tcp(16);
/// The last TCP segment of a side.
pub const FIN: Kind = Kind::Tcp(17);
/// A TCP reset.
pub const RST: Kind = Kind::Tcp(4);

/// Rules of a ClusterIP: pods keep their source, everybody else is translated.
pub const CLUSTER_IP: [u8; 3] = [0, Rule::SNAT, Rule::SNAT];
/// Rules of a NodePort with policy Cluster: everybody is translated.
pub const NODE_PORT: [u8; 3] = [Rule::SNAT; 3];

/// Addresses of a family, as text.
#[derive(Clone, Copy, Debug)]
pub struct Cast {
    /// A Service at its cluster IP.
    pub service: &'static str,
    /// Another one.
    pub other_service: &'static str,
    /// A node port.
    pub node_port: &'static str,
    /// A client in a pod of the node.
    pub pod: &'static str,
    /// Its address.
    pub pod_addr: &'static str,
    /// An endpoint in a pod of the node.
    pub local: &'static str,
    /// An endpoint on another node.
    pub remote: &'static str,
    /// A client that belongs to no cluster.
    pub outside: &'static str,
    /// The node's address.
    pub node: &'static str,
    /// A router somewhere.
    pub router: &'static str,
}

/// One for each family.
pub const CASTS: [Cast; 2] = [
    Cast {
        service: "10.96.0.10:80",
        other_service: "10.96.0.11:80",
        node_port: "192.0.2.1:30080",
        pod: "10.1.0.7:40000",
        pod_addr: "10.1.0.7",
        local: "10.1.0.20:8080",
        remote: "10.2.0.20:8080",
        outside: "203.0.113.9:50000",
        node: "192.0.2.1",
        router: "198.51.100.1",
    },
    Cast {
        service: "[fd96::10]:80",
        other_service: "[fd96::11]:80",
        node_port: "[2001:db8::1]:30080",
        pod: "[fd01::7]:40000",
        pod_addr: "fd01::7",
        local: "[fd01::20]:8080",
        remote: "[fd02::20]:8080",
        outside: "[2001:db8:9::9]:50000",
        node: "2001:db8::1",
        router: "2001:db8:77::1",
    },
];

impl Cast {
    /// Whether this is the family of IPv4.
    pub fn is_v4(&self) -> bool {
        !self.pod.starts_with('[')
    }

    /// The client pod's own address with another port: itself as an endpoint.
    pub fn own(&self) -> String {
        if self.is_v4() { format!("{}:8080", self.pod_addr) } else { format!("[{}]:8080", self.pod_addr) }
    }
}

/// The verdict and the only reason that was counted.
#[track_caller]
pub fn ended(ended: &Ended, verdict: i32, reason: Reason) {
    assert_eq!((ended.verdict, ended.reasons.as_slice()), (verdict, [reason].as_slice()));
}

/// The ends that a packet has now, all checksums verified.
#[track_caller]
pub fn goes(ended: &Ended, from: &str, to: &str) {
    let seen = ended.seen();
    assert_eq!((seen.from.to_string().as_str(), seen.to.to_string().as_str()), (from, to), "{seen}");
}
