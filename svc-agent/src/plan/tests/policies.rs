//! What happens to whom: sets, source translation, refusing and dropping by policy and sender.

use super::*;

/// Asserts what pod, host and outsider get at every frontend of [`web`], in both families. A row is the frontend and
/// the three answers; a frontend that no row names is not looked at.
fn expect(object: &Service, slices: &[EndpointSlice], options: &Options, rows: &[(&str, [&str; 3])]) {
    let planned = service(object, slices.iter(), &view(options));
    for family in Family::ALL {
        for (name, to) in frontends_of_web(family) {
            for (_, wanted) in rows.iter().filter(|(row, _)| *row == name) {
                let got =
                    [Sender::Pod, Sender::Host, Sender::Other].map(|who| notation(&ask(&planned, who, to), family));
                assert_eq!(got, *wanted, "{name} in {}: pod, host, other", family.name());
            }
        }
    }
}

fn with_policies(internal_policy: TrafficPolicy, external_policy: TrafficPolicy) -> Service {
    Service { internal_policy, external_policy, ..web() }
}

fn without_detector() -> Options {
    Options { detector: Detector::default(), ..options() }
}

use TrafficPolicy::{Cluster, Local};

#[test]
fn internal_policy_cluster_translates_all_but_pods() {
    for external in [Cluster, Local] {
        expect(&with_policies(Cluster, external), &everywhere(), &options(), &[("CIP", ["B-", "B+", "B+"])]);
    }
}

#[test]
fn internal_policy_local_keeps_to_this_node_whoever_sends() {
    for external in [Cluster, Local] {
        expect(&with_policies(Local, external), &everywhere(), &options(), &[("CIP", ["L-", "L+", "L+"])]);
    }
}

#[test]
fn external_policy_cluster_translates_everybody() {
    let row = ["B+", "B+", "B+"];
    for internal in [Cluster, Local] {
        let object = with_policies(internal, Cluster);
        expect(&object, &everywhere(), &options(), &[("NP", row), ("VIP", row), ("externalIP", row)]);
    }
}

#[test]
fn external_policy_local_splits_by_sender() {
    let row = ["B-", "B+", "L-"];
    for internal in [Cluster, Local] {
        let object = with_policies(internal, Local);
        expect(&object, &everywhere(), &options(), &[("NP", row), ("VIP", row), ("externalIP", row)]);
    }
}

#[test]
fn external_policy_local_takes_pods_for_outsiders_without_a_detector() {
    let row = ["L-", "B+", "L-"];
    let object = with_policies(Cluster, Local);
    expect(&object, &everywhere(), &without_detector(), &[("NP", row), ("VIP", row), ("externalIP", row)]);
}

#[test]
fn cluster_ips_are_never_translated_without_a_detector() {
    expect(&with_policies(Cluster, Cluster), &everywhere(), &without_detector(), &[("CIP", ["B-", "B-", "B-"])]);
    expect(&with_policies(Local, Cluster), &everywhere(), &without_detector(), &[("CIP", ["L-", "L-", "L-"])]);
}

#[test]
fn external_policy_cluster_translates_without_a_detector_too() {
    let row = ["B+", "B+", "B+"];
    let rows = [("NP", row), ("VIP", row), ("externalIP", row)];
    expect(&with_policies(Cluster, Cluster), &everywhere(), &without_detector(), &rows);
}

#[test]
fn masquerade_all_translates_everybody_at_cluster_ips() {
    for detector in [options().detector, Detector::default()] {
        let options = Options { masquerade_all: true, detector, ..options() };
        expect(&with_policies(Cluster, Cluster), &everywhere(), &options, &[("CIP", ["B+", "B+", "B+"])]);
        expect(&with_policies(Local, Cluster), &everywhere(), &options, &[("CIP", ["L+", "L+", "L+"])]);
    }
}

#[test]
fn masquerade_all_concerns_cluster_ips_only() {
    let options = Options { masquerade_all: true, ..options() };
    let row = ["B-", "B+", "L-"];
    let object = with_policies(Cluster, Local);
    expect(&object, &everywhere(), &options, &[("NP", row), ("VIP", row), ("externalIP", row)]);
}

#[test]
fn a_family_without_a_pod_range_has_no_detector() {
    let options = Options { detector: Detector::ClusterCidr(vec![net("10.1.0.0/16")]), ..options() };
    let planned = service(&with_policies(Cluster, Local), everywhere().iter(), &view(&options));
    let pod_at_vip = |family| notation(&ask(&planned, Sender::Pod, SocketAddr::new(vip(family), 80)), family);
    let host_at_cip = |family| notation(&ask(&planned, Sender::Host, SocketAddr::new(cluster_ip(family), 80)), family);
    assert_eq!(Family::ALL.map(pod_at_vip), ["B-", "L-"]);
    assert_eq!(Family::ALL.map(host_at_cip), ["B+", "B-"]);
}

#[test]
fn interface_and_node_range_detectors_split_senders_alike() {
    let row = ["B-", "B+", "L-"];
    let object = with_policies(Cluster, Local);
    for detector in [Detector::BridgeInterface("br0".to_owned()), Detector::InterfaceNamePrefix("cali".to_owned())] {
        let options = Options { detector, ..options() };
        expect(&object, &everywhere(), &options, &[("VIP", row), ("CIP", ["B-", "B+", "B+"])]);
    }
    // By node range: present in the family in which the Node object has one.
    let node = Node { pod_cidrs: vec![net("fd00:1::/64")], ..node_object() };
    let options = Options { detector: Detector::NodeCidr, ..options() };
    assert_eq!(NodeView::new(HERE, Some(&node), &[], &options).detector, [false, true]);
    assert_eq!(NodeView::new(HERE, None, &[], &options).detector, [false, false]);
}

#[test]
fn no_usable_endpoint_anywhere_rejects_everybody_under_every_policy() {
    let row = ["reject", "reject", "reject"];
    let rows = [("CIP", row), ("NP", row), ("VIP", row), ("externalIP", row)];
    let unusable = |family| vec![Endpoint { ready: false, serving: true, ..endpoint(pod(family, 1), HERE) }];
    for slices in [Vec::new(), dual(|_| Vec::new()), dual(unusable)] {
        for (internal, external) in [(Cluster, Cluster), (Local, Cluster), (Cluster, Local), (Local, Local)] {
            expect(&with_policies(internal, external), &slices, &options(), &rows);
            expect(&with_policies(internal, external), &slices, &without_detector(), &rows);
        }
    }
}

#[test]
fn internal_policy_local_without_local_endpoint_drops_for_everybody() {
    expect(&with_policies(Local, Cluster), &elsewhere(), &options(), &[("CIP", ["drop", "drop", "drop"])]);
    let row = ["B+", "B+", "B+"];
    let rows = [("NP", row), ("VIP", row), ("externalIP", row)];
    expect(&with_policies(Local, Cluster), &elsewhere(), &options(), &rows);
}

#[test]
fn external_policy_local_without_local_endpoint_drops_for_outsiders_only() {
    let row = ["B-", "B+", "drop"];
    let rows = [("CIP", ["B-", "B+", "B+"]), ("NP", row), ("VIP", row), ("externalIP", row)];
    expect(&with_policies(Cluster, Local), &elsewhere(), &options(), &rows);
    let row = ["drop", "B+", "drop"];
    let rows = [("NP", row), ("VIP", row), ("externalIP", row)];
    expect(&with_policies(Cluster, Local), &elsewhere(), &without_detector(), &rows);
}

#[test]
fn a_terminating_endpoint_elsewhere_makes_local_drop_and_not_reject() {
    let dying = |family| vec![Endpoint { ready: false, terminating: true, ..endpoint(pod(family, 3), "b") }];
    expect(
        &with_policies(Local, Local),
        &dual(dying),
        &options(),
        &[("CIP", ["drop", "drop", "drop"]), ("VIP", ["B-", "B+", "drop"])],
    );
}

#[test]
fn external_policy_is_ignored_without_external_frontend() {
    let object = Service {
        kind: ServiceType::ClusterIp,
        external_ips: Vec::new(),
        ingress: Vec::new(),
        ..with_policies(Cluster, Local)
    };
    let planned = plan(&object, &everywhere());
    assert!(planned.ports.iter().all(|port| port.local.is_empty() && port.frontends.len() == 1));
}

#[test]
fn sets_that_no_rule_asks_for_are_left_empty() {
    let internal_only =
        Service { kind: ServiceType::ClusterIp, external_ips: Vec::new(), ..with_policies(Local, Cluster) };
    let planned = plan(&internal_only, &everywhere());
    assert!(planned.ports.iter().all(|port| port.cluster.is_empty() && port.local.len() == 2));
    let planned = plan(&with_policies(Cluster, Cluster), &everywhere());
    assert!(planned.ports.iter().all(|port| port.local.is_empty() && port.cluster.len() == 3));
}

#[test]
fn unknown_ports_are_rejected_at_cluster_ips_and_untouched_elsewhere() {
    let planned = plan(&web(), &everywhere());
    for family in Family::ALL {
        for sender in [Sender::Pod, Sender::Host, Sender::Other] {
            let at = |addr, port, protocol| ask_from(&planned, sender, addr, SocketAddr::new(addr, port), protocol);
            assert_eq!(at(cluster_ip(family), 81, Protocol::Tcp), Outcome::Reject);
            assert_eq!(at(cluster_ip(family), 80, Protocol::Udp), Outcome::Reject);
            assert_eq!(at(vip(family), 81, Protocol::Tcp), Outcome::Untouched);
            assert_eq!(at(external_ip(family), 80, Protocol::Udp), Outcome::Untouched);
            assert_eq!(at(node_ip(family), NODE_PORT + 1, Protocol::Tcp), Outcome::Untouched);
            assert_eq!(at(node_ip(family), NODE_PORT, Protocol::Udp), Outcome::Untouched);
        }
    }
}

#[test]
fn families_have_verdicts_of_their_own() {
    let slices: Vec<_> = everywhere().into_iter().filter(|slice| slice.family == Family::V6).collect();
    let planned = plan(&web(), &slices);
    let answer = |family| notation(&ask(&planned, Sender::Pod, SocketAddr::new(cluster_ip(family), 80)), family);
    assert_eq!(Family::ALL.map(answer), ["reject", "B-"]);
}
