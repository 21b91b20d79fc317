//! Where a Service answers: node-port addresses, source ranges, external IPs.

use super::*;
use crate::plan::options::{Addresses, DetectLocalMode};

fn node_ports(flag: &str) -> NodePortAddresses {
    flag.parse().expect("node-port addresses")
}

/// The addresses at which node ports answer with this flag, for a node with two addresses a family.
fn answers_at(flag: &str) -> String {
    let node = Node { external_ips: vec![ip("203.0.113.77"), ip("2001:db8:77::1")], ..node_object() };
    let further = [ip("127.0.0.1"), ip("10.9.0.1"), ip("::1")];
    let options = Options { node_port_addresses: node_ports(flag), ..options() };
    let view = NodeView::new(HERE, Some(&node), &further, &options);
    let planned = service(&web(), everywhere().iter(), &view);
    let frontends =
        planned.ports.iter().flat_map(|port| &port.frontends).filter(|frontend| frontend.kind.is_node_port());
    let text = |frontend: &PlannedFrontend| {
        assert_eq!(frontend.addr.port(), NODE_PORT);
        assert_eq!(frontend.kind == FrontendKind::LocalhostNodePort, frontend.addr.ip().is_loopback());
        frontend.addr.ip().to_string()
    };
    frontends.map(text).collect::<Vec<_>>().join(" ")
}

const ALL_V4: &str = "10.9.0.1 192.0.2.1 203.0.113.77 127.0.0.1";
const ALL_V6: &str = "2001:db8::1 2001:db8:77::1 ::1";

#[test]
fn node_ports_answer_where_the_flag_says() {
    for (flag, v4, v6) in [
        // The default.
        ("primary,localhost", "192.0.2.1 127.0.0.1", "2001:db8::1 ::1"),
        // Words count for both families.
        ("primary", "192.0.2.1", "2001:db8::1"),
        ("localhost", "127.0.0.1", "::1"),
        ("all", ALL_V4, ALL_V6),
        // A family without item: all its addresses.
        ("", ALL_V4, ALL_V6),
        ("10.0.0.0/8", "10.9.0.1", ALL_V6),
        ("2001:db8:77::/48", ALL_V4, "2001:db8:77::1"),
        // An item that matches nothing is an item.
        ("172.16.0.0/12", "", ALL_V6),
        // A zero prefix swallows the others of its family.
        ("0.0.0.0/0,10.0.0.0/8,primary", ALL_V4, "2001:db8::1"),
        ("::/0,10.0.0.0/8", "10.9.0.1", ALL_V6),
        // Loopback counts as an item of its family before it is set apart.
        ("127.0.0.0/8", "127.0.0.1", ALL_V6),
        ("127.0.0.1/32,primary", "192.0.2.1 127.0.0.1", "2001:db8::1"),
        ("::1/128", ALL_V4, "::1"),
        (" 10.0.0.0/8 , fd00::/8 ", "10.9.0.1", ""),
        // Leading zeros are decimal.
        ("010.009.000.000/016,primary", "10.9.0.1 192.0.2.1", "2001:db8::1"),
    ] {
        let wanted = [v4, v6].into_iter().filter(|list| !list.is_empty()).collect::<Vec<_>>().join(" ");
        assert_eq!(answers_at(flag), wanted, "--nodeport-addresses {flag:?}");
    }
}

#[test]
fn the_primary_address_is_the_first_internal_one_of_its_family() {
    let node = Node {
        internal_ips: ["2001:db8::2", "192.0.2.2", "192.0.2.1"].map(ip).to_vec(),
        external_ips: vec![ip("203.0.113.77")],
        ..node_object()
    };
    let view = NodeView::new(HERE, Some(&node), &[ip("10.0.0.1")], &options());
    assert_eq!(view.primary, [Some(ip("192.0.2.2")), Some(ip("2001:db8::2"))]);
    let addresses: Vec<_> = view.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["10.0.0.1", "192.0.2.1", "192.0.2.2", "203.0.113.77", "2001:db8::2"]);
    // Without a Node object there is none.
    assert_eq!(NodeView::new(HERE, None, &[ip("10.0.0.1")], &options()).primary, [None, None]);
}

#[test]
fn a_node_without_an_address_of_a_family_has_no_node_ports_in_it() {
    let node = Node { internal_ips: vec![ip("192.0.2.1")], ..node_object() };
    let options = Options { node_port_addresses: node_ports("primary"), ..options() };
    let view = NodeView::new(HERE, Some(&node), &[], &options);
    let planned = service(&web(), everywhere().iter(), &view);
    let of = |family| {
        let port = planned.ports.iter().find(|port| port.id.family == family).expect("a port");
        port.frontends.iter().filter(|frontend| frontend.kind.is_node_port()).count()
    };
    assert_eq!(Family::ALL.map(of), [1, 0]);
}

#[test]
fn loopback_node_ports_follow_the_external_policy() {
    let planned = plan(&Service { external_policy: TrafficPolicy::Local, ..web() }, &elsewhere());
    for (family, loopback) in [(Family::V4, ip("127.0.0.1")), (Family::V6, ip("::1"))] {
        let answer = ask(&planned, Sender::Host, SocketAddr::new(loopback, NODE_PORT));
        assert_eq!(notation(&answer, family), "B+");
    }
}

/// Whether a source reaches the VIP of [`web`] with these ranges.
fn admitted(ranges: &[&str], from: &str) -> bool {
    let planned =
        plan(&Service { source_ranges: ranges.iter().map(|range| net(range)).collect(), ..web() }, &everywhere());
    let from = ip(from);
    let to = SocketAddr::new(vip(Family::of(from)), 80);
    let answers =
        [Sender::Pod, Sender::Host, Sender::Other].map(|sender| ask_from(&planned, sender, from, to, Protocol::Tcp));
    assert!(answers.iter().all(|answer| *answer == answers[0]), "ranges do not ask who is who");
    match &answers[0] {
        Outcome::Drop => false,
        Outcome::Forward(..) => true,
        other => panic!("{other:?}"),
    }
}

#[test]
fn source_ranges_drop_whoever_is_not_listed_also_pods() {
    assert!(admitted(&[], "8.8.8.8"));
    assert!(admitted(&["8.8.8.0/24"], "8.8.8.8"));
    assert!(!admitted(&["8.8.8.0/24"], "8.8.9.8"));
    assert!(!admitted(&["8.8.8.0/24"], "10.1.0.7"));
    assert!(admitted(&["8.8.8.0/24", "10.1.0.0/16"], "10.1.0.7"));
    assert!(admitted(&["0.0.0.0/0"], "8.8.9.8"));
}

#[test]
fn source_ranges_of_the_other_family_do_not_count() {
    assert!(admitted(&["2001:db8:5::/48"], "8.8.8.8"));
    assert!(!admitted(&["2001:db8:5::/48"], "2001:db8:6::1"));
    assert!(admitted(&["8.8.8.0/24"], "2001:db8:6::1"));
    assert!(!admitted(&["8.8.8.0/24", "2001:db8:5::/48"], "8.8.9.8"));
}

#[test]
fn source_ranges_with_this_node_in_them_admit_every_vip_of_the_service() {
    let second = [LoadBalancerIngress { ip: ip("203.0.113.2"), mode: IpMode::Vip }];
    let proxied = LoadBalancerIngress { ip: ip("203.0.113.3"), mode: IpMode::Proxy };
    let ingress = [web().ingress, second.to_vec(), vec![proxied]].concat();
    let ranges = |ranges: &[&str]| {
        let source_ranges = ranges.iter().map(|range| net(range)).collect();
        let planned = plan(&Service { source_ranges, ingress: ingress.clone(), ..web() }, &everywhere());
        port_v4(&planned).source_ranges.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(ranges(&["192.0.2.0/24"]), ["192.0.2.0/24", "203.0.113.1/32", "203.0.113.2/32"]);
    assert_eq!(ranges(&["192.0.3.0/24"]), ["192.0.3.0/24"]);
    // The primary address of the family decides.
    assert_eq!(ranges(&["2001:db8::/64"]), Vec::<String>::new());
    assert!(admitted(&["2001:db8::/64"], "2001:db8:113::1"));
}

#[test]
fn source_ranges_guard_load_balancer_addresses_only() {
    let planned = plan(&Service { source_ranges: vec![net("8.8.8.0/24")], ..web() }, &everywhere());
    for frontend in planned.ports.iter().flat_map(|port| &port.frontends) {
        let is_v4_vip = frontend.kind == FrontendKind::LoadBalancer && frontend.addr.is_ipv4();
        assert_eq!(frontend.guarded, is_v4_vip, "{frontend:?}");
    }
}

#[test]
fn source_ranges_come_before_missing_endpoints() {
    let planned = plan(&Service { source_ranges: vec![net("8.8.8.0/24")], ..web() }, &[]);
    let to = SocketAddr::new(vip(Family::V4), 80);
    assert_eq!(ask_from(&planned, Sender::Other, ip("8.8.9.9"), to, Protocol::Tcp), Outcome::Drop);
    assert_eq!(ask_from(&planned, Sender::Other, ip("8.8.8.8"), to, Protocol::Tcp), Outcome::Reject);
}

#[test]
fn an_address_with_two_roles_is_guarded_if_one_of_them_is() {
    let source_ranges = vec![net("8.8.8.0/24")];
    let as_cluster_ip = LoadBalancerIngress { ip: cluster_ip(Family::V4), mode: IpMode::Vip };
    let external = Service { external_ips: vec![vip(Family::V4)], source_ranges: source_ranges.clone(), ..web() };
    let internal = Service { ingress: vec![as_cluster_ip], source_ranges, ..web() };
    for (object, addr) in [(external, vip(Family::V4)), (internal, cluster_ip(Family::V4))] {
        let planned = plan(&object, &everywhere());
        let to = SocketAddr::new(addr, 80);
        assert_eq!(ask_from(&planned, Sender::Other, ip("8.8.9.9"), to, Protocol::Tcp), Outcome::Drop);
        assert_ne!(ask_from(&planned, Sender::Other, ip("8.8.8.8"), to, Protocol::Tcp), Outcome::Drop);
    }
}

#[test]
fn addresses_of_mode_proxy_are_not_captured() {
    let mut object = web();
    object.ingress[0].mode = IpMode::Proxy;
    let planned = plan(&object, &everywhere());
    assert_eq!(ask(&planned, Sender::Pod, SocketAddr::new(vip(Family::V4), 80)), Outcome::Untouched);
    assert_ne!(ask(&planned, Sender::Pod, SocketAddr::new(vip(Family::V6), 80)), Outcome::Untouched);
}

#[test]
fn external_ips_outside_the_allowed_prefixes_are_not_captured_and_named() {
    let allow = |list: &str| Options { allow_external_ips: list.parse::<Prefixes>().expect("prefixes").0, ..options() };
    let answers = |options: &Options| {
        let planned = service(&web(), everywhere().iter(), &view(options));
        let at = |family| ask(&planned, Sender::Other, SocketAddr::new(external_ip(family), 80)) != Outcome::Untouched;
        (Family::ALL.map(at), planned.remarks)
    };
    let (captured, remarks) = answers(&allow(""));
    assert_eq!((captured, remarks.len()), ([false, false], 2));
    let (captured, remarks) = answers(&allow("198.51.100.0/24"));
    assert_eq!(captured, [true, false]);
    assert_eq!(remarks, ["external IP 2001:db8:100::1 is not served: --allow-external-ips does not name it"]);
}

#[test]
fn external_ips_work_on_every_type_and_are_open_to_all() {
    for kind in [ServiceType::ClusterIp, ServiceType::NodePort, ServiceType::LoadBalancer] {
        let planned = plan(&Service { kind, source_ranges: vec![net("8.8.8.0/24")], ..web() }, &everywhere());
        for family in Family::ALL {
            let to = SocketAddr::new(external_ip(family), 80);
            assert_eq!(notation(&ask(&planned, Sender::Other, to), family), "B+");
        }
    }
}

#[test]
fn addresses_that_cannot_be_a_services_are_not_captured() {
    let object = Service { external_ips: ["127.0.0.1", "0.0.0.0", "224.0.0.1", "::"].map(ip).to_vec(), ..web() };
    let planned = plan(&object, &everywhere());
    assert!(planned.ports.iter().flat_map(|port| &port.frontends).all(|f| f.kind != FrontendKind::ExternalIp));
    assert_eq!(planned.remarks.len(), 4);
}

#[test]
fn flags_that_cannot_be_understood_are_named() {
    let error = |text: &str| text.parse::<Prefixes>().expect_err("an error").to_string();
    assert_eq!(error("10.0.0.0/8, 10.0.0.0/99"), "\"10.0.0.0/99\" is no prefix; write it like 10.0.0.0/8 or fd00::/64");
    assert!("primary,10.0.0".parse::<NodePortAddresses>().is_err());
    assert!("Primary".parse::<NodePortAddresses>().is_err());
    assert!("10.0.0.0/8".parse::<Addresses>().is_err());
    assert!("clustercidr".parse::<DetectLocalMode>().is_err());
    let no_bridge = Detector::new(DetectLocalMode::BridgeInterface, Prefixes::default(), None, None);
    assert_eq!(
        no_bridge.expect_err("an error").to_string(),
        "--detect-local-mode BridgeInterface needs --pod-bridge-interface"
    );
}

#[test]
fn lists_mix_families_and_tolerate_blanks() {
    let list: Prefixes = " 10.0.0.1/8 ,fd00::/8,, 192.0.2.7 ".parse().expect("prefixes");
    assert_eq!(list.0, [net("10.0.0.0/8"), net("fd00::/8"), net("192.0.2.7/32")]);
    let list: Addresses = "192.0.2.010, fd00::1".parse().expect("addresses");
    assert_eq!(list.0, [ip("192.0.2.10"), ip("fd00::1")]);
}

#[test]
fn interface_detectors_know_their_devices() {
    let bridge = Detector::BridgeInterface("br0".to_owned());
    assert!(bridge.accepts_device("br0") && !bridge.accepts_device("br01"));
    let prefix = Detector::InterfaceNamePrefix("cali".to_owned());
    assert!(prefix.accepts_device("cali1234") && !prefix.accepts_device("eth0"));
    assert!(!options().detector.accepts_device("br0"));
}
