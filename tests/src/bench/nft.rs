//! The thing to compare with: Services as nftables rules of the shape that kube-proxy writes (verdict maps from address,
//! protocol and port to a chain per service, `numgen random` over a chain per endpoint, masquerading by mark).

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

/// One Service: where it answers and who serves it. All addresses of one family.
pub struct NftService {
    /// Cluster IP and port.
    pub frontend: SocketAddr,
    /// Node port, if it has one.
    pub node_port: Option<u16>,
    /// `tcp` or `udp`.
    pub protocol: &'static str,
    /// Endpoints.
    pub backends: Vec<SocketAddr>,
}

/// A ruleset for `nft -f -`: one table of `services`, replacing what an earlier one wrote.
///
/// `pods` is the pod range (a sender outside is masqueraded), `node` the address on which node ports answer.
pub fn ruleset(services: &[NftService], pods: &str, node: IpAddr) -> String {
    let family = if node.is_ipv4() { "ip" } else { "ip6" };
    let addr = if node.is_ipv4() { "ipv4_addr" } else { "ipv6_addr" };
    let mut out = String::new();
    let table = format!("table {family} kube-proxy-shape");
    let _ = writeln!(out, "{table}\ndelete {table}\n{table} {{");
    let _ = writeln!(out, "  chain mark-for-masquerade {{ meta mark set meta mark | 0x4000; }}");
    for (index, service) in services.iter().enumerate() {
        chains(&mut out, index, service, family, pods);
    }
    let _ = write!(out, "  map service-ips {{ type {addr} . inet_proto . inet_service : verdict; elements = {{ ");
    for (index, service) in services.iter().enumerate() {
        let (ip, port) = (service.frontend.ip(), service.frontend.port());
        let _ = write!(out, "{ip} . {} . {port} : goto service-{index}, ", service.protocol);
    }
    let _ = writeln!(out, "}}; }}");
    let _ = write!(out, "  map service-nodeports {{ type inet_proto . inet_service : verdict; ");
    let ports: Vec<_> = services.iter().enumerate().filter_map(|(i, s)| Some((i, s.protocol, s.node_port?))).collect();
    if !ports.is_empty() {
        let _ = write!(out, "elements = {{ ");
        for (index, protocol, port) in ports {
            let _ = write!(out, "{protocol} . {port} : goto external-{index}, ");
        }
        let _ = write!(out, "}}; ");
    }
    let _ = writeln!(out, "}}");
    let _ = write!(
        out,
        "  map no-endpoint-services {{ type {addr} . inet_proto . inet_service : verdict; }}
  set cluster-ips {{ type {addr}; }}
  set nodeport-ips {{ type {addr}; elements = {{ {node} }}; }}
  chain services {{
    {family} daddr . meta l4proto . th dport vmap @service-ips
    {family} daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports
  }}
  chain service-endpoints-check {{ {family} daddr . meta l4proto . th dport vmap @no-endpoint-services; }}
  chain cluster-ips-check {{ {family} daddr @cluster-ips reject; }}
  chain masquerading {{
    meta mark & 0x4000 == 0 return
    meta mark set meta mark ^ 0x4000
    masquerade fully-random
  }}
  chain filter-forward {{ type filter hook forward priority -110; ct state new jump service-endpoints-check; ct state new jump cluster-ips-check; }}
  chain filter-output {{ type filter hook output priority -110; ct state new jump service-endpoints-check; ct state new jump cluster-ips-check; }}
  chain nat-prerouting {{ type nat hook prerouting priority dstnat; jump services; }}
  chain nat-output {{ type nat hook output priority -100; jump services; }}
  chain nat-postrouting {{ type nat hook postrouting priority srcnat; jump masquerading; }}
}}
"
    );
    out
}

fn chains(out: &mut String, index: usize, service: &NftService, family: &str, pods: &str) {
    let protocol = service.protocol;
    for (number, backend) in service.backends.iter().enumerate() {
        let ip = backend.ip();
        let _ = writeln!(
            out,
            "  chain endpoint-{index}-{number} {{ {family} saddr {ip} jump mark-for-masquerade; \
             meta l4proto {protocol} dnat to {backend}; }}"
        );
    }
    let count = service.backends.len();
    let picks: Vec<_> = (0..count).map(|number| format!("{number} : goto endpoint-{index}-{number}")).collect();
    let (ip, port) = (service.frontend.ip(), service.frontend.port());
    let _ = writeln!(
        out,
        "  chain service-{index} {{ {family} daddr {ip} {protocol} dport {port} {family} saddr != {pods} \
         jump mark-for-masquerade; numgen random mod {count} vmap {{ {} }}; }}",
        picks.join(", ")
    );
    if service.node_port.is_some() {
        let _ = writeln!(out, "  chain external-{index} {{ jump mark-for-masquerade; goto service-{index}; }}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_service_is_in_the_maps_and_every_endpoint_has_a_chain() {
        let services: Vec<_> = (0..3u16)
            .map(|n| NftService {
                frontend: SocketAddr::from(([10, 96, 0, n as u8], 80)),
                node_port: (n == 1).then_some(30080),
                protocol: "tcp",
                backends: vec![
                    SocketAddr::from(([10, 1, 0, n as u8], 8080)),
                    SocketAddr::from(([10, 1, 1, n as u8], 8080)),
                ],
            })
            .collect();
        let rules = ruleset(&services, "10.1.0.0/16", IpAddr::from([192, 0, 2, 1]));
        assert_eq!(rules.matches("chain endpoint-").count(), 6);
        assert_eq!(rules.matches("chain external-").count(), 1);
        assert!(rules.contains("10.96.0.2 . tcp . 80 : goto service-2"));
        assert!(rules.contains("tcp . 30080 : goto external-1"));
    }
}
