//! Manifests as tutorials have them, and what a cluster would have made of them.

use std::path::Path;

use super::super::manifest::{FileContent, read_text};
use super::super::{ControlPlane, Interner};
use super::*;
use crate::model::World;

fn options(cidrs: &str) -> ControlPlane {
    let service_cidrs = (cidrs != "none").then(|| cidrs.split(',').map(|cidr| cidr.parse().unwrap()).collect());
    ControlPlane { service_cidrs, node_ports: ControlPlane::NODE_PORTS, node_name: "n1".into(), state_file: None }
}

fn parse(text: &str) -> Vec<(Id, Option<Parsed>)> {
    let content = read_text(Path::new("t.yaml"), text, &FileContent::default(), &mut Interner::default());
    assert_eq!(content.warnings, [""; 0], "{text}");
    content.objects.into_iter().map(|(id, parsed)| (id, Some(parsed))).collect()
}

/// A cluster and the state that follows from its events.
struct Lab {
    cluster: Cluster,
    world: World,
    warnings: Vec<String>,
}

impl Lab {
    fn new(cidrs: &str, text: &str) -> Self {
        let cluster = Cluster::new(options(cidrs), BTreeMap::new());
        let mut lab = Self { cluster, world: World::default(), warnings: Vec::new() };
        lab.put(text);
        lab
    }

    fn put(&mut self, text: &str) -> Vec<Event> {
        self.change(parse(text))
    }

    fn remove(&mut self, kind: &'static str, name: &str) -> Vec<Event> {
        let namespace = if kind == "ServiceCIDR" || kind == "Node" { "" } else { "default" };
        self.change(vec![((kind, ObjectKey::new(namespace, name)), None)])
    }

    fn change(&mut self, changes: Vec<(Id, Option<Parsed>)>) -> Vec<Event> {
        let (events, warnings) = self.cluster.apply(changes);
        self.warnings.extend(warnings);
        for event in &events {
            self.world.fold(event.clone());
        }
        events
    }

    fn service(&self, name: &str) -> &Service {
        self.world.service(&ObjectKey::new("default", name)).unwrap()
    }

    fn ips(&self, name: &str) -> Vec<String> {
        self.service(name).cluster_ips.iter().map(ToString::to_string).collect()
    }

    /// `ADDRESS:PORT STATE` of all endpoints, per port name.
    fn endpoints(&self, name: &str) -> Vec<String> {
        let mut all = Vec::new();
        for slice in self.world.slices(&ObjectKey::new("default", name)) {
            for endpoint in &slice.endpoints {
                let state = match (endpoint.ready, endpoint.serving, endpoint.terminating) {
                    (true, ..) => "ready",
                    (false, true, true) => "leaving",
                    _ => "no",
                };
                let ports: Vec<_> = slice
                    .ports
                    .iter()
                    .map(|port| format!("{}={}/{}", port.name, port.port, port.protocol.name()))
                    .collect();
                all.push(format!("{} {} {state}", endpoint.addr, ports.join(",")));
            }
        }
        all.sort();
        all
    }
}

fn service_yaml(name: &str, spec: &str) -> String {
    let ports = if spec.contains("ports:") { "" } else { "ports: [{port: 80}], " };
    format!("---\n{{apiVersion: v1, kind: Service, metadata: {{name: {name}}}, spec: {{{ports}{spec}}}}}\n")
}

fn pod_yaml(name: &str, spec: &str, status: &str) -> String {
    format!(
        "---\n{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, labels: {{app: web, pod: {name}}}}}, spec: {{{spec}}}, status: {{{status}}}}}\n"
    )
}

const READY: &str = "conditions: [{type: Ready, status: 'True'}], phase: Running";
const DUAL: &str = "10.96.0.0/12,fd00:10:96::/112";

#[test]
fn families() {
    for (cidrs, spec, want) in [
        (DUAL, "", "4"),
        (DUAL, "clusterIP: ''", "4"),
        ("fd00::/112,10.0.0.0/16", "", "6"),
        (DUAL, "ipFamilies: [IPv6]", "6"),
        (DUAL, "ipFamilyPolicy: SingleStack", "4"),
        (DUAL, "ipFamilyPolicy: PreferDualStack", "46"),
        (DUAL, "ipFamilyPolicy: PreferDualStack, ipFamilies: [IPv6]", "64"),
        (DUAL, "ipFamilyPolicy: RequireDualStack, ipFamilies: [IPv6, IPv4]", "64"),
        (DUAL, "ipFamilies: [IPv4, IPv6]", "46"),
        (DUAL, "clusterIP: 10.96.7.7, ipFamilyPolicy: PreferDualStack", "46"),
        (DUAL, "clusterIP: 'fd00:10:96::7', ipFamilyPolicy: RequireDualStack", "64"),
        (DUAL, "clusterIPs: ['fd00:10:96::7', 10.96.0.7]", "64"),
        (DUAL, "clusterIP: 172.30.0.1", "4"),
        (DUAL, "clusterIP: None", ""),
        (DUAL, "type: ExternalName, externalName: a.example", ""),
        (DUAL, "type: NodePort, ipFamilyPolicy: PreferDualStack", "46"),
        ("10.96.0.0/12", "ipFamilyPolicy: PreferDualStack", "4"),
        ("none", "ipFamilyPolicy: PreferDualStack", ""),
        ("none", "clusterIP: 10.96.7.7", "4"),
    ] {
        let lab = Lab::new(cidrs, &service_yaml("web", spec));
        let got: String =
            lab.service("web").cluster_ips.iter().map(|ip| if ip.is_ipv4() { '4' } else { '6' }).collect();
        assert_eq!(got, want, "{cidrs} {spec}");
        assert_eq!(lab.warnings, [""; 0], "{cidrs} {spec}");
    }
}

#[test]
fn families_that_are_not_there_are_said() {
    for (cidrs, spec, want) in [
        (
            "10.96.0.0/12",
            "ipFamilyPolicy: RequireDualStack",
            "Service default/web: asks for both families, but the service CIDRs are of one",
        ),
        (
            "10.96.0.0/12",
            "ipFamilies: [IPv6]",
            "Service default/web: asks for IPv6, but no service CIDR is of that family",
        ),
        ("10.96.0.0/32", "externalIPs: []", ""),
    ] {
        let lab = Lab::new(cidrs, &service_yaml("web", spec));
        assert_eq!(lab.warnings.join(""), want, "{cidrs} {spec}");
    }
}

#[test]
fn node_ports() {
    let ports = "ports: [{name: a, port: 53}, {name: b, port: 53, protocol: UDP}, {name: c, port: 80}]";
    for (spec, want) in [
        (format!("{ports}, type: ClusterIP"), [false, false, false, false]),
        (format!("{ports}, type: NodePort"), [true, true, true, false]),
        (format!("{ports}, type: LoadBalancer"), [true, true, true, false]),
        (format!("{ports}, type: LoadBalancer, allocateLoadBalancerNodePorts: false"), [false; 4]),
        (format!("{ports}, type: LoadBalancer, externalTrafficPolicy: Local"), [true; 4]),
        (format!("{ports}, type: NodePort, externalTrafficPolicy: Local"), [true, true, true, false]),
        (format!("{ports}, type: ExternalName"), [false; 4]),
    ] {
        let lab = Lab::new(DUAL, &service_yaml("web", &spec));
        let service = lab.service("web");
        let mut got: Vec<_> = service.ports.iter().map(|port| port.node_port).collect();
        got.push(service.health_check_node_port);
        assert_eq!(got.iter().map(Option::is_some).collect::<Vec<_>>(), want, "{spec}");
        assert_eq!(got[0], got[1], "protocols of one number share the node port: {spec}");
        assert!(got[0].is_none() || got[0] != got[2], "{spec}");
    }
    let none = Lab::new("none", &service_yaml("web", "type: LoadBalancer, externalTrafficPolicy: Local"));
    assert_eq!((none.service("web").ports[0].node_port, none.service("web").health_check_node_port), (None, None));
    let mixed = "type: NodePort, ports: [{name: a, port: 53, nodePort: 30053}, {name: b, port: 53, protocol: UDP}]";
    let shared = Lab::new(DUAL, &service_yaml("web", mixed));
    assert!(shared.service("web").ports.iter().all(|port| port.node_port == Some(30053)));
}

#[test]
fn the_order_of_objects_does_not_matter() {
    let texts: Vec<String> = (0..60).map(|i| service_yaml(&format!("s{i}"), "type: NodePort")).collect();
    // A range so small that many names meet.
    let forward = Lab::new("10.0.0.0/25", &texts.concat());
    let backward = Lab::new("10.0.0.0/25", &texts.iter().rev().cloned().collect::<String>());
    assert_eq!(forward.cluster.given(), backward.cluster.given());
    assert_eq!(forward.cluster.given().len(), 60);
    let ips: std::collections::HashSet<_> = (0..60).flat_map(|i| forward.ips(&format!("s{i}"))).collect();
    assert_eq!(ips.len(), 60);
}

#[test]
fn addresses_stay_while_others_come_and_go() {
    let name = |i| format!("s{i}");
    let mut lab =
        Lab::new("10.0.0.0/26", &(0..40).map(|i| service_yaml(&name(i), "type: NodePort")).collect::<String>());
    let before: Vec<_> = (0..40).map(|i| (lab.ips(&name(i)), lab.service(&name(i)).ports.clone())).collect();
    for i in (0..40).step_by(2) {
        let events = lab.remove("Service", &name(i));
        assert_eq!(events, [Event::Deleted(Kind::Service, ObjectKey::new("default", name(i)))]);
    }
    let others: String = (100..110).map(|i| service_yaml(&name(i), "")).collect();
    assert_eq!(lab.put(&others).len(), 10, "nothing but the new ones is said");
    let still =
        |lab: &Lab| (1..40).step_by(2).all(|i| before[i] == (lab.ips(&name(i)), lab.service(&name(i)).ports.clone()));
    assert!(still(&lab));

    // A restart that knows what was given out.
    let given = serde_json::to_string(lab.cluster.given()).unwrap();
    let mut again = Lab::new("10.0.0.0/26", "");
    again.cluster = Cluster::new(options("10.0.0.0/26"), serde_json::from_str(&given).unwrap());
    again.put(&((1..40).step_by(2).map(|i| service_yaml(&name(i), "type: NodePort")).collect::<String>() + &others));
    assert!(still(&again));
    assert_eq!(again.cluster.given(), lab.cluster.given());
}

#[test]
fn explicit_values_win() {
    let mut lab = Lab::new(DUAL, &service_yaml("web", "type: NodePort"));
    let ip = lab.ips("web").remove(0);
    let port = lab.service("web").ports[0].node_port.unwrap();
    lab.put(&service_yaml(
        "thief",
        &format!("type: NodePort, clusterIP: {ip}, ports: [{{port: 80, nodePort: {port}}}]"),
    ));
    assert_ne!(lab.ips("web"), lab.ips("thief"));
    assert_eq!(lab.ips("thief"), [ip]);
    assert_ne!(lab.service("web").ports[0].node_port, Some(port));
    assert_eq!(lab.warnings, ["Service default/web: another Service asks for the address it had; it has a new one"]);
}

#[test]
fn a_full_range_is_said() {
    let lab = Lab::new("10.0.0.0/30", &(0..3).map(|i| service_yaml(&format!("s{i}"), "")).collect::<String>());
    assert_eq!(lab.warnings, ["Service default/s2: no IPv4 address is left: give --service-cidr a larger range"]);
}

#[test]
fn service_cidr_objects_take_the_place_of_the_flag() {
    let cidr = "---\n{apiVersion: networking.k8s.io/v1, kind: ServiceCIDR, metadata: {name: kubernetes}, spec: {cidrs: ['fd00:9::/112', 10.9.0.0/16]}}\n";
    let mut lab = Lab::new(DUAL, &(service_yaml("web", "ipFamilyPolicy: PreferDualStack") + cidr));
    let net = |text: &str| text.parse::<IpNet>().unwrap();
    let inside = |lab: &Lab, v6: &str, v4: &str| {
        let ips = &lab.service("web").cluster_ips;
        net(v6).contains(ips.iter().find(|ip| ip.is_ipv6()).unwrap())
            && net(v4).contains(ips.iter().find(|ip| ip.is_ipv4()).unwrap())
    };
    assert!(inside(&lab, "fd00:9::/112", "10.9.0.0/16"));
    assert!(lab.service("web").cluster_ips[0].is_ipv6(), "the first CIDR is the default family");
    lab.remove("ServiceCIDR", "kubernetes");
    assert!(inside(&lab, "fd00:10:96::/112", "10.96.0.0/12"));
    assert_eq!(lab.world.service_cidrs().count(), 0);
}

#[test]
fn pods_become_endpoints() {
    let pods = [
        pod_yaml("a", "nodeName: n1", &format!("podIP: 10.1.0.1, {READY}")),
        pod_yaml("b", "nodeName: n2", "podIP: 10.1.0.2, phase: Running, conditions: [{type: Ready, status: 'False'}]"),
        pod_yaml("c", "", &format!("podIPs: [{{ip: 'fd00::3'}}, {{ip: 10.1.0.3}}], podIP: 'fd00::3', {READY}")),
        pod_yaml("d", "", "podIP: 10.1.0.4, phase: Succeeded, conditions: [{type: Ready, status: 'True'}]"),
        pod_yaml("e", "", "phase: Pending"),
        pod_yaml("f", "hostNetwork: true, nodeName: n1", &format!("podIP: 192.168.0.1, {READY}")),
        pod_yaml("g", "", &format!("podIP: 10.1.0.7, {READY}"))
            .replace("name: g,", "name: g, deletionTimestamp: '2024-01-01T00:00:00Z',"),
        pod_yaml("h", "", &format!("podIP: 10.1.0.8, {READY}")).replace("app: web", "app: other"),
    ]
    .concat();
    let web = "selector: {app: web}";
    let lab = Lab::new(DUAL, &(service_yaml("web", web) + &pods));
    let want = [
        "10.1.0.1 =80/TCP ready",
        "10.1.0.2 =80/TCP no",
        "10.1.0.3 =80/TCP ready",
        "10.1.0.7 =80/TCP leaving",
        "192.168.0.1 =80/TCP ready",
    ];
    assert_eq!(lab.endpoints("web"), want);
    let all = Lab::new(DUAL, &(service_yaml("web", "selector: {app: web}, publishNotReadyAddresses: true") + &pods));
    assert!(all.endpoints("web").iter().all(|endpoint| endpoint.ends_with("ready")), "{:?}", all.endpoints("web"));
    let dual = Lab::new(DUAL, &(service_yaml("web", "selector: {app: web}, ipFamilyPolicy: PreferDualStack") + &pods));
    assert!(dual.endpoints("web").contains(&"fd00::3 =80/TCP ready".to_owned()));

    for (spec, extra) in [
        ("type: ClusterIP", ""),
        ("selector: {}", ""),
        ("selector: {app: nobody}", ""),
        ("clusterIP: None, selector: {app: web}", ""),
        ("type: ExternalName, externalName: x, selector: {app: web}", ""),
        // A slice of its own, whatever is in it, also one that is not seen.
        (
            web,
            "---\n{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4, metadata: {name: own, labels: {kubernetes.io/service-name: web}}}\n",
        ),
        (
            web,
            "---\n{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: FQDN, metadata: {name: own, labels: {kubernetes.io/service-name: web}}}\n",
        ),
    ] {
        let lab = Lab::new(DUAL, &(service_yaml("web", spec) + &pods + extra));
        assert_eq!(lab.endpoints("web"), [""; 0], "{spec} {extra}");
    }
    let hidden =
        service_yaml("web", web).replace("name: web}", "name: web, labels: {service.kubernetes.io/headless: ''}}");
    assert_eq!(Lab::new(DUAL, &(hidden + &pods)).endpoints("web"), [""; 0]);
}

#[test]
fn target_ports() {
    let container = |ports: &str| format!("containers: [{{name: c, ports: [{ports}]}}]");
    let pods = [
        pod_yaml("a", &container("{name: http, containerPort: 8080}"), &format!("podIP: 10.1.0.1, {READY}")),
        pod_yaml("b", &container("{name: http, containerPort: 9090}, {name: dns, containerPort: 5353, protocol: UDP}"), &format!("podIP: 10.1.0.2, {READY}")),
        pod_yaml(
            "c",
            "containers: [], initContainers: [{name: s, restartPolicy: Always, ports: [{name: http, containerPort: 7070}]}, {name: i, ports: [{name: dns, containerPort: 1, protocol: UDP}]}]",
            &format!("podIP: 10.1.0.3, {READY}"),
        ),
    ]
    .concat();
    for (ports, want) in [
        ("{port: 80}", ["10.1.0.1 =80/TCP ready", "10.1.0.2 =80/TCP ready", "10.1.0.3 =80/TCP ready"]),
        (
            "{port: 80, targetPort: 8000}",
            ["10.1.0.1 =8000/TCP ready", "10.1.0.2 =8000/TCP ready", "10.1.0.3 =8000/TCP ready"],
        ),
        (
            "{port: 80, targetPort: http}",
            ["10.1.0.1 =8080/TCP ready", "10.1.0.2 =9090/TCP ready", "10.1.0.3 =7070/TCP ready"],
        ),
        (
            "{name: w, port: 80, targetPort: http}, {name: d, port: 53, protocol: UDP, targetPort: dns}",
            ["10.1.0.1 w=8080/TCP ready", "10.1.0.2 w=9090/TCP,d=5353/UDP ready", "10.1.0.3 w=7070/TCP ready"],
        ),
        // The protocol belongs to the name.
        ("{port: 80, protocol: UDP, targetPort: http}", ["10.1.0.1  ready", "10.1.0.2  ready", "10.1.0.3  ready"]),
    ] {
        let lab = Lab::new(DUAL, &(service_yaml("web", &format!("selector: {{app: web}}, ports: [{ports}]")) + &pods));
        assert_eq!(lab.endpoints("web"), want, "{ports}");
    }
}

#[test]
fn endpoints_follow_their_pods() {
    let mut lab = Lab::new(DUAL, &service_yaml("web", "selector: {app: web}"));
    lab.put(&service_yaml("other", "selector: {app: other}"));
    let pod = |name: &str, ip: &str, status: &str| pod_yaml(name, "nodeName: n1", &format!("podIP: {ip}, {status}"));
    lab.put(&pod("a", "10.1.0.1", READY));
    assert_eq!(lab.endpoints("web"), ["10.1.0.1 =80/TCP ready"]);
    let events = lab.put(&pod("a", "10.1.0.1", "phase: Running"));
    assert_eq!(lab.endpoints("web"), ["10.1.0.1 =80/TCP no"]);
    assert!(!format!("{events:?}").contains("default/other"), "only the Service that selects the pod: {events:?}");
    lab.put(&pod("a", "10.1.0.1", READY).replace("app: web", "app: other"));
    assert_eq!((lab.endpoints("web").len(), lab.endpoints("other").len()), (0, 1));
    lab.remove("Pod", "a");
    assert_eq!(lab.endpoints("other"), [""; 0]);

    // A slice of its own takes the place of the pods, and gives it back.
    lab.put(&pod("b", "10.1.0.2", READY));
    lab.put("{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4, metadata: {name: own, labels: {kubernetes.io/service-name: web}}, ports: [{port: 1}], endpoints: [{addresses: [10.9.9.9]}]}");
    assert_eq!(lab.endpoints("web"), ["10.9.9.9 =1/TCP ready"]);
    lab.remove("EndpointSlice", "own");
    assert_eq!(lab.endpoints("web"), ["10.1.0.2 =80/TCP ready"]);
    lab.remove("Service", "web");
    assert_eq!(lab.endpoints("web"), [""; 0]);
}

#[test]
fn hints_from_the_distribution() {
    let node = |name: &str, zone: &str| {
        format!(
            "---\n{{apiVersion: v1, kind: Node, metadata: {{name: {name}, labels: {{topology.kubernetes.io/zone: {zone}}}}}}}\n"
        )
    };
    let pods = [("a", "n1"), ("b", "n2")]
        .map(|(name, node)| {
            pod_yaml(name, &format!("nodeName: {node}"), &format!("podIP: 10.1.0.{}, {READY}", &node[1..]))
        })
        .concat();
    for (distribution, zones, nodes) in [
        ("PreferClose", true, false),
        ("PreferSameZone", true, false),
        ("PreferSameNode", true, true),
        ("null", false, false),
    ] {
        let spec = format!("selector: {{app: web}}, trafficDistribution: {distribution}");
        let lab = Lab::new(DUAL, &(service_yaml("web", &spec) + &pods + &node("n1", "z1") + &node("n2", "z2")));
        let slice = lab.world.slices(&ObjectKey::new("default", "web")).next().unwrap();
        for (endpoint, index) in slice.endpoints.iter().zip(["1", "2"]) {
            let hints = endpoint.hints.as_deref().cloned().unwrap_or_default();
            let want = |there: bool, letter: &str| {
                if there { vec![format!("{letter}{index}").as_str().into()] } else { Vec::<std::sync::Arc<str>>::new() }
            };
            assert_eq!((hints.zones, hints.nodes), (want(zones, "z"), want(nodes, "n")), "{distribution}");
        }
        assert_eq!(lab.world.node().unwrap().zone.as_deref(), Some("z1"), "only the own node is delivered");
    }
}
