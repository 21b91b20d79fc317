//! Which objects count, and what their other fields mean: types, labels, affinity, health check, annotations, clashes
//! within a Service.

use svc_common::tables::Algorithm;

use super::*;

#[test]
fn an_external_name_is_ignored_even_with_a_cluster_ip() {
    let planned = plan(&Service { kind: ServiceType::ExternalName, ..web() }, &everywhere());
    assert_eq!(planned, Planned { created: Some(1000), ..Planned::default() });
}

#[test]
fn a_headless_service_is_ignored_in_silence() {
    let planned = plan(&Service { cluster_ips: Vec::new(), headless: true, ..web() }, &everywhere());
    assert_eq!(planned, Planned { created: Some(1000), ..Planned::default() });
}

#[test]
fn a_service_without_cluster_ip_is_ignored_as_a_whole_and_that_is_said() {
    let planned = plan(&Service { cluster_ips: Vec::new(), ..web() }, &everywhere());
    assert!(planned.ports.is_empty() && planned.cluster_ips.is_empty());
    assert_eq!(planned.remarks, ["ignored as a whole, node ports included: it has no cluster IP"]);
}

#[test]
fn a_service_of_another_proxy_leaves_its_addresses_to_it() {
    let planned = plan(&Service { other_proxy: true, ..web() }, &everywhere());
    assert!(planned.ports.is_empty() && planned.cluster_ips.is_empty() && planned.remarks.is_empty());
    for family in Family::ALL {
        for addr in [cluster_ip(family), vip(family), external_ip(family)] {
            assert!(planned.foreign.contains(&addr), "{addr}");
        }
    }
}

#[test]
fn each_type_answers_where_it_should() {
    use FrontendKind::{ClusterIp, ExternalIp, LoadBalancer, LocalhostNodePort, NodePort};
    for (kind, wanted) in [
        (ServiceType::ClusterIp, vec![ClusterIp, ExternalIp]),
        (ServiceType::NodePort, vec![ClusterIp, NodePort, LocalhostNodePort, ExternalIp]),
        (ServiceType::LoadBalancer, vec![ClusterIp, NodePort, LocalhostNodePort, LoadBalancer, ExternalIp]),
    ] {
        let planned = plan(&Service { kind, ..web() }, &everywhere());
        for port in &planned.ports {
            let mut kinds: Vec<_> = port.frontends.iter().map(|frontend| frontend.kind).collect();
            kinds.sort_unstable();
            assert_eq!(kinds, wanted, "{kind:?} in {}", port.id.family.name());
        }
    }
}

#[test]
fn a_load_balancer_without_allocated_node_port_has_none() {
    let planned = plan(&Service { ports: vec![port("http", Protocol::Tcp, 80)], ..web() }, &everywhere());
    assert!(planned.ports.iter().flat_map(|port| &port.frontends).all(|frontend| !frontend.kind.is_node_port()));
}

#[test]
fn a_family_without_cluster_ip_is_not_served_at_all() {
    let planned = plan(&Service { cluster_ips: vec![cluster_ip(Family::V6)], ..web() }, &everywhere());
    assert_eq!(planned.cluster_ips, [cluster_ip(Family::V6)]);
    assert!(planned.ports.iter().all(|port| port.id.family == Family::V6));
    assert_eq!(
        planned.remarks,
        [
            "198.51.100.1 is not served: there is no IPv4 cluster IP",
            "203.0.113.1 is not served: there is no IPv4 cluster IP"
        ]
    );
}

#[test]
fn the_same_number_under_three_protocols_is_three_ports() {
    let protocols = [("t", Protocol::Tcp), ("u", Protocol::Udp), ("s", Protocol::Sctp)];
    let ports = protocols.map(|(name, protocol)| port(name, protocol, 53)).to_vec();
    let slice_ports =
        protocols.iter().enumerate().map(|(n, (name, protocol))| slice_port(name, *protocol, 1000 + n as u16));
    let slices =
        [EndpointSlice { ports: slice_ports.collect(), ..slice("s", vec![endpoint(pod(Family::V4, 1), "b")]) }];
    let planned = plan(&Service { ports, ..web() }, &slices);
    let to = SocketAddr::new(cluster_ip(Family::V4), 53);
    let chosen = protocols.map(|(_, protocol)| ask_from(&planned, Sender::Pod, to.ip(), to, protocol));
    let wanted =
        [1000, 1001, 1002].map(|port| Outcome::Forward(vec![SocketAddr::new(pod(Family::V4, 1), port)], false));
    assert_eq!(chosen, wanted);
}

#[test]
fn affinity_is_seconds_of_the_service() {
    let timeout = |affinity| port_v4(&plan(&Service { affinity, ..web() }, &everywhere())).affinity;
    assert_eq!(timeout(None), None);
    assert_eq!(timeout(affinity(10800)), Some(10800));
    assert_eq!(timeout(affinity(0)), Some(1));
}

#[test]
fn the_health_check_counts_distinct_ready_local_addresses_by_family() {
    let object = Service {
        external_policy: TrafficPolicy::Local,
        health_check_node_port: Some(31000),
        ports: vec![port("http", Protocol::Tcp, 80), port("https", Protocol::Tcp, 443)],
        ..web()
    };
    let v4 = |number, node| endpoint(pod(Family::V4, number), node);
    let two_ports = EndpointSlice {
        ports: vec![slice_port("http", Protocol::Tcp, 8080), slice_port("https", Protocol::Tcp, 8443)],
        ..slice(
            "s",
            vec![
                v4(1, HERE),
                v4(2, HERE),
                v4(3, "b"),
                // Gets traffic if nothing else does, but does not count.
                Endpoint { ready: false, terminating: true, ..v4(4, HERE) },
                // Published although it is not ready: the slice says ready, so it counts.
                Endpoint { ready: true, serving: false, terminating: true, ..v4(5, HERE) },
            ],
        )
    };
    let again = slice("t", vec![v4(1, HERE), endpoint(pod(Family::V4, 6), HERE)]);
    let v6 = slice("u", vec![endpoint(pod(Family::V6, 1), HERE)]);
    let planned = plan(&object, &[two_ports, again, v6]);
    assert_eq!(planned.health_check, Some(HealthCheck { port: 31000, local_endpoints: [4, 1] }));
    assert_eq!(plan(&object, &[]).health_check, Some(HealthCheck { port: 31000, local_endpoints: [0, 0] }));
}

#[test]
fn the_health_check_needs_a_load_balancer_with_policy_local_and_a_port() {
    let local = Service { external_policy: TrafficPolicy::Local, health_check_node_port: Some(31000), ..web() };
    assert!(plan(&local, &[]).health_check.is_some());
    for object in [
        Service { external_policy: TrafficPolicy::Cluster, ..local.clone() },
        Service { kind: ServiceType::NodePort, ..local.clone() },
        Service { health_check_node_port: None, ..local.clone() },
        Service { cluster_ips: Vec::new(), ..local },
    ] {
        assert_eq!(plan(&object, &[]).health_check, None);
    }
}

fn annotated(annotations: &[(&str, &str)]) -> Planned {
    let annotations = annotations.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
    plan(&Service { annotations, ..web() }, &everywhere())
}

#[test]
fn schedulers_go_by_the_names_of_ipvs() {
    for (name, algorithm) in [
        ("random", Algorithm::Random),
        ("rr", Algorithm::RoundRobin),
        ("wrr", Algorithm::RoundRobin),
        ("lc", Algorithm::LeastConnections),
        ("wlc", Algorithm::LeastConnections),
        ("sed", Algorithm::ShortestDelay),
        ("sh", Algorithm::SourceHash),
        ("dh", Algorithm::DestinationHash),
        ("mh", Algorithm::FlowHash),
        ("maglev", Algorithm::FlowHash),
    ] {
        let planned = annotated(&[("scheduler", name)]);
        assert_eq!(port_v4(&planned).algorithm, algorithm, "{name}");
        assert!(planned.remarks.is_empty());
        assert_eq!(scheduler::method(name).map(|method| method.algorithm), Some(algorithm));
    }
}

#[test]
fn an_unknown_scheduler_is_named_and_the_default_used() {
    let object = Service { annotations: vec![("scheduler".into(), "nq".into())], ..web() };
    let options = Options { scheduler: scheduler::method("sh").expect("known"), ..options() };
    let planned = service(&object, everywhere().iter(), &view(&options));
    assert_eq!(port_v4(&planned).algorithm, Algorithm::SourceHash);
    assert_eq!(
        planned.remarks,
        ["svc.dev/scheduler \"nq\" is unknown, the default is used; \
         known are random, rr, wrr, lc, wlc, sed, sh, dh, mh, maglev"]
    );
}

#[test]
fn weights_are_by_address_then_by_node_and_only_where_they_count() {
    let weights = |scheduler: &str| {
        let planned = annotated(&[("scheduler", scheduler), ("weights", "a=3, 10.1.0.002=5")]);
        port_v4(&planned).cluster.iter().map(|endpoint| endpoint.weight).collect::<Vec<_>>()
    };
    assert_eq!(weights("wrr"), [3, 5, 1]);
    assert_eq!(weights("rr"), [1, 1, 1]);
    let planned = annotated(&[("weights", "a=0,b,=2,b=101,b=100")]);
    assert_eq!(port_v4(&planned).cluster.iter().map(|endpoint| endpoint.weight).collect::<Vec<_>>(), [1, 1, 100]);
    assert_eq!(planned.remarks.len(), 4);
}

#[test]
fn a_node_port_gives_way_to_a_service_address_of_another_port() {
    let ports = vec![
        ServicePort { node_port: Some(NODE_PORT), ..port("http", Protocol::Tcp, 80) },
        port("admin", Protocol::Tcp, NODE_PORT),
    ];
    let planned = plan(&Service { ports, external_ips: vec![node_ip(Family::V4)], ..web() }, &everywhere());
    let to = SocketAddr::new(node_ip(Family::V4), NODE_PORT);
    let (port, frontend) = frontend(&planned, to, Protocol::Tcp).expect("a frontend");
    assert_eq!((&*port.id.port, frontend.kind), ("admin", FrontendKind::ExternalIp));
    assert_eq!(planned.remarks, ["192.0.2.1:30080/TCP of port \"http\" gives way to another frontend of the Service"]);
}

#[test]
fn of_two_ports_with_one_number_the_first_counts() {
    let ports = vec![port("a", Protocol::Tcp, 80), port("b", Protocol::Tcp, 80), port("a", Protocol::Tcp, 81)];
    let planned = plan(&Service { ports, kind: ServiceType::ClusterIp, external_ips: Vec::new(), ..web() }, &[]);
    let frontends: Vec<_> = planned.ports.iter().map(|port| (&*port.id.port, port.frontends.len())).collect();
    assert_eq!(frontends, [("a", 1), ("b", 0), ("a", 1), ("b", 0)]);
    assert_eq!(planned.remarks.len(), 3);
}

#[test]
fn every_address_in_one_service_is_one_frontend() {
    let object = Service { external_ips: vec![cluster_ip(Family::V4), vip(Family::V4), vip(Family::V4)], ..web() };
    let planned = plan(&object, &everywhere());
    let mut seen = std::collections::HashSet::new();
    assert!(planned.ports.iter().flat_map(|port| &port.frontends).all(|frontend| seen.insert(frontend.addr)));
    let (_, at_cip) =
        frontend(&planned, SocketAddr::new(cluster_ip(Family::V4), 80), Protocol::Tcp).expect("a frontend");
    assert_eq!(at_cip.kind, FrontendKind::ClusterIp);
}
