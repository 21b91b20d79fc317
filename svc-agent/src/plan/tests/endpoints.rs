//! Which endpoints count: conditions, duplicates, port names, fallback, hints.

use super::*;

/// The Cluster set of [`web`] in IPv4, as addresses.
fn cluster(endpoints: Vec<Endpoint>) -> Vec<String> {
    let planned = plan(&web(), &[slice("s", endpoints)]);
    addrs(&port_v4(&planned).cluster)
}

fn v4(number: u8, node: &str) -> Endpoint {
    endpoint(pod(Family::V4, number), node)
}

#[test]
fn conditions_decide_who_is_normal_a_fallback_or_never_used() {
    // ready, serving, terminating -> chosen beside a ready endpoint, chosen alone, kept by a UDP flow
    let rows = [
        ((true, true, false), (true, true, true)),
        ((true, true, true), (true, true, true)),
        ((true, false, false), (true, true, true)),
        ((true, false, true), (true, true, true)),
        ((false, true, true), (false, true, true)),
        ((false, true, false), (false, false, true)),
        ((false, false, true), (false, false, false)),
        ((false, false, false), (false, false, false)),
    ];
    for ((ready, serving, terminating), (beside, alone, kept)) in rows {
        let one = Endpoint { ready, serving, terminating, ..v4(1, HERE) };
        let what = format!("ready {ready}, serving {serving}, terminating {terminating}");
        assert_eq!(cluster(vec![one.clone(), v4(2, HERE)]).contains(&"10.1.0.1:8080".to_owned()), beside, "{what}");
        assert_eq!(!cluster(vec![one.clone()]).is_empty(), alone, "{what}");
        let planned = plan(&web(), &[slice("s", vec![one, v4(2, HERE)])]);
        assert_eq!(port_v4(&planned).serving.len() == 2, kept, "{what}");
    }
}

#[test]
fn the_fallback_is_decided_for_each_set_by_itself() {
    let object = Service { external_policy: TrafficPolicy::Local, ..web() };
    let dying = Endpoint { ready: false, terminating: true, ..v4(1, HERE) };
    let planned = plan(&object, &[slice("s", vec![dying, v4(3, "b")])]);
    assert_eq!(addrs(&port_v4(&planned).local), ["10.1.0.1:8080"]);
    assert_eq!(addrs(&port_v4(&planned).cluster), ["10.1.0.3:8080"]);
}

#[test]
fn the_local_set_prefers_ready_endpoints() {
    let object = Service { internal_policy: TrafficPolicy::Local, ..web() };
    let dying = Endpoint { ready: false, terminating: true, ..v4(1, HERE) };
    let planned = plan(&object, &[slice("s", vec![dying, v4(2, HERE)])]);
    assert_eq!(addrs(&port_v4(&planned).local), ["10.1.0.2:8080"]);
}

#[test]
fn the_fallback_takes_all_that_terminate_whatever_their_hints() {
    let dying = |number, hint| hinted(Endpoint { ready: false, terminating: true, ..v4(number, "b") }, &[hint], &[]);
    assert_eq!(cluster(vec![dying(1, HERE), dying(2, "b")]), ["10.1.0.1:8080", "10.1.0.2:8080"]);
}

#[test]
fn an_endpoint_without_node_is_remote() {
    let object = Service { internal_policy: TrafficPolicy::Local, ..web() };
    let nowhere = Endpoint { node: None, ..v4(1, HERE) };
    let planned = plan(&object, &[slice("s", vec![nowhere])]);
    assert!(port_v4(&planned).local.is_empty());
    assert_eq!(port_v4(&planned).cluster.iter().map(|endpoint| endpoint.local).collect::<Vec<_>>(), [false]);
}

#[test]
fn the_same_address_in_several_slices_is_one_endpoint() {
    let planned = plan(&web(), &[slice("s", vec![v4(1, HERE)]), slice("t", vec![v4(1, HERE), v4(2, "b")])]);
    assert_eq!(addrs(&port_v4(&planned).cluster), ["10.1.0.1:8080", "10.1.0.2:8080"]);
}

#[test]
fn of_two_copies_the_one_that_is_not_terminating_is_taken_whole() {
    // Ready and local, but terminating, against a copy that is not: the latter counts with all it says.
    let dying = Endpoint { terminating: true, ..v4(1, HERE) };
    let unready = Endpoint { ready: false, ..v4(1, "b") };
    assert!(cluster(vec![dying.clone(), unready]).is_empty());
    let remote = v4(1, "b");
    let object = Service { internal_policy: TrafficPolicy::Local, ..web() };
    let planned = plan(&object, &[slice("s", vec![dying]), slice("t", vec![remote])]);
    assert!(port_v4(&planned).local.is_empty());
}

#[test]
fn among_equal_copies_a_ready_one_and_then_a_local_one_counts() {
    let unready_here = Endpoint { ready: false, ..v4(1, HERE) };
    assert_eq!(cluster(vec![unready_here, v4(1, "b")]), ["10.1.0.1:8080"]);
    // Whichever way names of nodes sort.
    for other in ["0", "b"] {
        let planned = plan(&web(), &[slice("s", vec![v4(1, other)]), slice("t", vec![v4(1, HERE)])]);
        assert!(port_v4(&planned).cluster.iter().all(|endpoint| endpoint.local));
    }
}

#[test]
fn which_copy_counts_does_not_depend_on_the_order_of_slices() {
    let dying = Endpoint { ready: false, serving: false, terminating: true, ..v4(1, "b") };
    let other = hinted(v4(2, "b"), &[], &["z2"]);
    for (x, y) in [
        (dying.clone(), Endpoint { serving: true, ..dying }),
        (hinted(v4(1, "b"), &[], &["z1"]), v4(1, "b")),
        (hinted(v4(1, "b"), &[], &["z1"]), hinted(v4(1, "b"), &[], &["z2"])),
        // The node decides about the weight.
        (v4(1, "b"), v4(1, "c")),
    ] {
        let object = Service { annotations: vec![("weights".into(), "b=2,c=3".into())], ..web() };
        let (x, y) = (slice("s", vec![x, other.clone()]), slice("t", vec![y, other.clone()]));
        assert_eq!(plan(&object, &[x.clone(), y.clone()]), plan(&object, &[y, x]));
    }
}

#[test]
fn one_address_with_two_ports_is_two_endpoints() {
    let other_port =
        EndpointSlice { ports: vec![slice_port("http", Protocol::Tcp, 8081)], ..slice("t", vec![v4(1, "b")]) };
    let planned = plan(&web(), &[slice("s", vec![v4(1, "b")]), other_port]);
    assert_eq!(addrs(&port_v4(&planned).cluster), ["10.1.0.1:8080", "10.1.0.1:8081"]);
}

#[test]
fn slice_ports_belong_by_name_and_protocol() {
    let ports = vec![
        port("dns", Protocol::Tcp, 53),
        port("dns-udp", Protocol::Udp, 53),
        port("", Protocol::Tcp, 9153),
        port("unmatched", Protocol::Tcp, 99),
    ];
    let with_ports = |ports| EndpointSlice { ports, ..slice("s", vec![v4(1, "b")]) };
    let slices = [with_ports(vec![
        slice_port("dns", Protocol::Tcp, 1053),
        slice_port("dns-udp", Protocol::Udp, 2053),
        slice_port("", Protocol::Tcp, 3153),
        // The right name under the wrong protocol.
        slice_port("unmatched", Protocol::Udp, 99),
        slice_port("nobody", Protocol::Tcp, 53),
    ])];
    let planned = plan(&Service { ports, ..web() }, &slices);
    let of = |name: &str| {
        let port = planned.ports.iter().find(|port| *port.id.port == *name && port.id.family == Family::V4);
        addrs(&port.expect("a port").cluster)
    };
    assert_eq!(of("dns"), ["10.1.0.1:1053"]);
    assert_eq!(of("dns-udp"), ["10.1.0.1:2053"]);
    assert_eq!(of(""), ["10.1.0.1:3153"]);
    assert!(of("unmatched").is_empty());
    let udp_at_unmatched = SocketAddr::new(cluster_ip(Family::V4), 99);
    assert_eq!(ask(&planned, Sender::Pod, udp_at_unmatched), Outcome::Reject);
}

#[test]
fn endpoints_of_one_family_do_not_serve_the_other() {
    let planned = plan(&web(), &everywhere());
    for port in &planned.ports {
        assert!(port.cluster.iter().all(|endpoint| Family::of(endpoint.addr.ip()) == port.id.family));
        assert_eq!(port.cluster.len(), 3);
    }
}

#[test]
fn hints_for_this_node_go_before_hints_for_its_zone() {
    let endpoints = vec![
        hinted(v4(1, "b"), &[HERE], &["z2"]),
        hinted(v4(2, "b"), &["b"], &["z1"]),
        hinted(v4(3, "b"), &["b", HERE], &["z1"]),
    ];
    assert_eq!(cluster(endpoints), ["10.1.0.1:8080", "10.1.0.3:8080"]);
}

#[test]
fn hints_for_the_zone_count_when_none_names_this_node() {
    let endpoints = vec![hinted(v4(1, "b"), &["b"], &["z1"]), hinted(v4(2, "b"), &["b"], &["z2", "z3"])];
    assert_eq!(cluster(endpoints), ["10.1.0.1:8080"]);
}

#[test]
fn hints_that_name_neither_node_nor_zone_are_ignored() {
    let endpoints = vec![hinted(v4(1, "b"), &["b"], &["z2"]), hinted(v4(2, "b"), &["c"], &["z3"])];
    assert_eq!(cluster(endpoints).len(), 2);
}

#[test]
fn one_ready_endpoint_without_a_hint_switches_that_kind_off() {
    // Kind node is off, kind zone is on.
    let endpoints = vec![hinted(v4(1, "b"), &[HERE], &["z2"]), hinted(v4(2, "b"), &[], &["z1"])];
    assert_eq!(cluster(endpoints), ["10.1.0.2:8080"]);
    // Both are off.
    assert_eq!(cluster(vec![hinted(v4(1, "b"), &[HERE], &["z1"]), v4(2, "b")]).len(), 2);
}

#[test]
fn unready_endpoints_have_no_say_in_hints() {
    let unready = Endpoint { ready: false, ..v4(2, "b") };
    let endpoints = vec![hinted(v4(1, "b"), &[], &["z1"]), hinted(v4(3, "b"), &[], &["z2"]), unready.clone()];
    assert_eq!(cluster(endpoints), ["10.1.0.1:8080"]);
    // Nor do they make the hint of this zone count.
    let endpoints = vec![hinted(unready, &[], &["z1"]), hinted(v4(3, "b"), &[], &["z2"])];
    assert_eq!(cluster(endpoints), ["10.1.0.3:8080"]);
}

#[test]
fn zone_hints_need_a_node_with_a_zone() {
    let endpoints = vec![hinted(v4(1, "b"), &[], &["z1"]), hinted(v4(2, "b"), &[], &["", "z2"])];
    for zone in [None, Some("".into())] {
        let node = Node { zone, ..node_object() };
        let view = NodeView::new(HERE, Some(&node), &[], &options());
        let planned = service(&web(), [slice("s", endpoints.clone())].iter(), &view);
        assert_eq!(port_v4(&planned).cluster.len(), 2);
    }
}

#[test]
fn hints_never_narrow_the_local_set() {
    let object = Service { internal_policy: TrafficPolicy::Local, ..web() };
    let endpoints = vec![hinted(v4(1, HERE), &["b"], &["z2"]), hinted(v4(2, HERE), &[HERE], &["z1"])];
    let planned = plan(&object, &[slice("s", endpoints)]);
    assert_eq!(port_v4(&planned).local.len(), 2);
    assert_eq!(addrs(&port_v4(&planned).cluster), ["10.1.0.2:8080"]);
}

#[test]
fn a_udp_flow_may_stay_on_whatever_serves_whatever_policy_and_hints_say() {
    let object = Service { internal_policy: TrafficPolicy::Local, external_policy: TrafficPolicy::Local, ..web() };
    let endpoints = vec![
        hinted(v4(1, HERE), &[HERE], &["z1"]),
        hinted(v4(2, "b"), &["b"], &["z2"]),
        Endpoint { ready: false, terminating: true, ..v4(3, "b") },
        Endpoint { ready: false, serving: false, terminating: true, ..v4(4, "b") },
    ];
    let planned = plan(&object, &[slice("s", endpoints)]);
    let serving: Vec<_> = port_v4(&planned).serving.iter().map(ToString::to_string).collect();
    assert_eq!(serving, ["10.1.0.1:8080", "10.1.0.2:8080", "10.1.0.3:8080"]);
}
