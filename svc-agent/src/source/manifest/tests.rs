//! What is read from text, and what is said about text that cannot be read.

use std::net::IpAddr;
use std::time::Duration;

use super::*;
use crate::model::{IpMode, Protocol, ServiceType, TrafficPolicy};

fn read(text: &str) -> FileContent {
    read_text(Path::new("web.yaml"), text, &FileContent::default(), &mut Interner::default())
}

fn service(text: &str) -> Draft {
    let content = read(text);
    assert_eq!(content.warnings, [""; 0]);
    let Some(Parsed::Service(draft)) = content.objects.into_values().next() else { panic!("no Service in {text}") };
    draft
}

fn slice(text: &str) -> ReadSlice {
    let content = read(text);
    assert_eq!(content.warnings, [""; 0]);
    let Some(Parsed::Slice(slice)) = content.objects.into_values().next() else { panic!("no slice in {text}") };
    slice
}

fn ips(list: &[&str]) -> Vec<IpAddr> {
    list.iter().map(|text| text.parse().unwrap()).collect()
}

#[test]
fn service_defaults() {
    let draft = service(
        "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {ports: [{port: 80}], selector: {app: web}}\n",
    );
    let service = &draft.service;
    assert_eq!(service.key.to_string(), "default/web");
    assert_eq!((service.kind, service.external_policy), (ServiceType::ClusterIp, TrafficPolicy::Cluster));
    assert_eq!((service.headless, service.affinity, service.health_check_node_port), (false, None, None));
    assert_eq!(
        (&*service.ports[0].name, service.ports[0].protocol, service.ports[0].node_port),
        ("", Protocol::Tcp, None)
    );
    assert_eq!(draft.targets, [super::super::wire::service::TargetPort::Number(80)]);
    assert!(!draft.wants_node_ports);
}

#[test]
fn every_service_field() {
    let draft = service(
        r#"
apiVersion: v1
kind: Service
metadata:
  name: web
  namespace: shop
  uid: abc
  creationTimestamp: 2024-01-01T00:00:00Z
  labels: {service.kubernetes.io/service-proxy-name: ""}
  annotations: {svc.dev/algorithm: maglev, other: x}
spec:
  type: LoadBalancer
  clusterIP: " 10.96.0.041"
  clusterIPs: [10.96.0.041, "fd00:10:96::0029"]
  externalIPs: [192.0.2.007]
  externalTrafficPolicy: Local
  internalTrafficPolicy: Local
  sessionAffinity: ClientIP
  sessionAffinityConfig: {clientIP: {timeoutSeconds: 60}}
  loadBalancerSourceRanges: [" 10.0.0.0/08 ", "fd00::/064"]
  healthCheckNodePort: 31000
  ports:
  - {name: http, port: 80, targetPort: web, nodePort: 30080}
  - {name: dns, port: 53, protocol: UDP}
status:
  loadBalancer:
    ingress:
    - {ip: 203.0.113.5}
    - {ip: 203.0.113.6, ipMode: Proxy}
    - {hostname: lb.example}
"#,
    );
    let service = draft.service;
    assert_eq!(service.key.to_string(), "shop/web");
    assert_eq!((&*service.uid, service.created, service.other_proxy), ("abc", Some(1_704_067_200), true));
    assert_eq!(service.cluster_ips, ips(&["10.96.0.41", "fd00:10:96::29"]));
    assert_eq!(service.external_ips, ips(&["192.0.2.7"]));
    assert_eq!((service.external_policy, service.internal_policy), (TrafficPolicy::Local, TrafficPolicy::Local));
    assert_eq!(service.affinity, Some(Duration::from_secs(60)));
    let ranges: Vec<_> = service.source_ranges.iter().map(ToString::to_string).collect();
    assert_eq!(ranges, ["10.0.0.0/8", "fd00::/64"]);
    assert_eq!(service.health_check_node_port, Some(31000));
    assert_eq!(service.ports.iter().map(|port| port.node_port).collect::<Vec<_>>(), [Some(30080), None]);
    assert_eq!(service.ingress.iter().map(|entry| entry.mode).collect::<Vec<_>>(), [IpMode::Vip, IpMode::Proxy]);
    assert_eq!(service.annotations, [("algorithm".into(), "maglev".into())]);
}

#[test]
fn cluster_ip_spellings() {
    for (spec, headless, want) in [
        ("clusterIP: None", true, &[][..]),
        ("clusterIPs: [None]", true, &[]),
        ("clusterIP: \"\"", false, &[]),
        ("clusterIP: null", false, &[]),
        ("clusterIPs: null", false, &[]),
        ("clusterIP: 10.0.0.1", false, &["10.0.0.1"]),
        ("clusterIPs: [fd00::1, 10.0.0.1]", false, &["fd00::1", "10.0.0.1"]),
    ] {
        let text = format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: web}}, spec: {{ports: [{{port: 1}}], {spec}}}}}"
        );
        let service = service(&text).service;
        assert_eq!((service.headless, service.cluster_ips), (headless, ips(want)), "{spec}");
    }
}

#[test]
fn slice_conditions_and_nulls() {
    let read = slice(
        r#"
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: web-1
  labels: {kubernetes.io/service-name: web}
  annotations: {endpoints.kubernetes.io/last-change-trigger-time: "2024-01-01T00:00:00.5Z"}
addressType: IPv4
ports:
- {name: null, port: 8080}
- {name: gone, port: null}
- {name: udp, port: 53, protocol: UDP}
endpoints:
- addresses: [010.0.0.1, 10.0.0.99]
- {addresses: [10.0.0.2], conditions: null, nodeName: n1}
- {addresses: [10.0.0.3], conditions: {ready: null, serving: false, terminating: true}, hints: {forZones: [{name: z}]}}
- {addresses: [10.0.0.4], conditions: {ready: false}}
"#,
    );
    let slice = read.slice.unwrap();
    assert_eq!(
        (read.service.unwrap().to_string().as_str(), slice.service.to_string().as_str()),
        ("default/web", "default/web")
    );
    assert_eq!(slice.triggered, Some(1_704_067_200_500_000_000));
    let ports: Vec<_> = slice.ports.iter().map(|port| (&*port.name, port.port, port.protocol)).collect();
    assert_eq!(ports, [("", 8080, Protocol::Tcp), ("udp", 53, Protocol::Udp)]);
    let endpoints: Vec<_> = slice
        .endpoints
        .iter()
        .map(|endpoint| (endpoint.addr.to_string(), endpoint.ready, endpoint.serving, endpoint.terminating))
        .collect();
    let want = [
        ("10.0.0.1", true, true, false),
        ("10.0.0.2", true, true, false),
        ("10.0.0.3", true, false, true),
        ("10.0.0.4", false, true, false),
    ];
    assert_eq!(endpoints, want.map(|(addr, a, b, c)| (addr.to_owned(), a, b, c)));
    assert_eq!(slice.endpoints[1].node.as_deref(), Some("n1"));
    assert_eq!(&*slice.endpoints[2].hints.as_ref().unwrap().zones[0], "z");
}

#[test]
fn slices_that_are_not_seen() {
    for (labels, rest, owned) in [
        ("kubernetes.io/service-name: web, service.kubernetes.io/headless: ''", "addressType: IPv4", true),
        ("kubernetes.io/service-name: web, service.kubernetes.io/service-proxy-name: x", "addressType: IPv4", true),
        ("kubernetes.io/service-name: web", "addressType: FQDN, endpoints: [{addresses: [a.example]}]", true),
        ("app: web", "addressType: IPv4", false),
        ("kubernetes.io/service-name: ''", "addressType: IPv4", false),
    ] {
        let read = slice(&format!(
            "{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: a, labels: {{{labels}}}}}, {rest}}}"
        ));
        assert_eq!((read.service.is_some(), read.slice), (owned, None), "{labels} {rest}");
    }
    let empty = slice(
        "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: a, labels: {kubernetes.io/service-name: web}}, addressType: IPv6, endpoints: null, ports: null}",
    );
    assert!(empty.slice.unwrap().endpoints.is_empty());
}

#[test]
fn node_and_cidr() {
    let content = read(
        r#"
apiVersion: v1
kind: Node
metadata: {name: n1, uid: u, labels: {topology.kubernetes.io/zone: z1}, deletionTimestamp: "2024-01-01T00:00:00Z"}
spec: {podCIDR: 10.1.0.0/24, podCIDRs: [10.1.0.0/24, "fd00:1::/64"], taints: [{key: ToBeDeletedByClusterAutoscaler, effect: NoSchedule}]}
status:
  addresses:
  - {type: InternalIP, address: 192.168.0.010}
  - {type: Hostname, address: n1}
  - {type: ExternalIP, address: 203.0.113.1}
  - {type: InternalIP, address: "fd00::10"}
---
apiVersion: networking.k8s.io/v1
kind: ServiceCIDR
metadata: {name: kubernetes}
spec: {cidrs: [10.96.0.0/12, "fd00:10:96::/112"]}
"#,
    );
    assert_eq!(content.warnings, [""; 0]);
    let objects: Vec<_> = content.objects.into_values().collect();
    let [Parsed::Node(node), Parsed::ServiceCidr(cidr)] = objects.as_slice() else {
        panic!("not these kinds");
    };
    assert_eq!(node.internal_ips, ips(&["192.168.0.10", "fd00::10"]));
    assert_eq!(node.external_ips, ips(&["203.0.113.1"]));
    assert_eq!((node.pod_cidrs.len(), node.zone.as_deref()), (2, Some("z1")));
    assert!(node.deleting && node.scaled_down);
    assert_eq!(cidr.cidrs.len(), 2);
}

#[test]
fn documents_and_lists() {
    let svc = |name: &str| {
        format!(
            "{{\"apiVersion\":\"v1\",\"kind\":\"Service\",\"metadata\":{{\"name\":\"{name}\"}},\"spec\":{{\"ports\":[{{\"port\":80}}]}}}}"
        )
    };
    let bare = "metadata: {name: c}\n    spec: {ports: [{port: 80}]}";
    for (text, want) in [
        (format!("# comment\n---\n{}\n---\n\n--- # two\n{}\n", svc("a"), svc("b")), &["a", "b"][..]),
        (format!("%YAML 1.2\n---\n{}\n...\n", svc("a")), &["a"]),
        (format!("\u{feff}apiVersion: v1\r\nkind: List\r\nitems:\r\n- {}\r\n", svc("a")), &["a"]),
        (format!("apiVersion: v1\nkind: ServiceList\nitems:\n  - {bare}\n"), &["c"]),
        ("apiVersion: v1\nkind: ServiceList\nitems: null\n".to_owned(), &[]),
        (format!("{}\n{}", svc("a"), svc("b")), &["a", "b"]),
        (svc("a").replace(',', ",\n\t"), &["a"]),
        ("apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {name: k}\n".to_owned(), &[]),
        (
            "apiVersion: apps/v1\nkind: Deployment\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\n"
                .to_owned(),
            &[],
        ),
        (
            "apiVersion: v1\nkind: Service\nmetadata: {name: a, labels: {l: &x web}}\nspec: {selector: {l: *x}, ports: [{port: 80}]}".to_owned(),
            &["a"],
        ),
        (String::new(), &[]),
    ] {
        let content = read(&text);
        assert_eq!(content.warnings, [""; 0], "{text}");
        let names: Vec<_> = content.objects.keys().map(|(_, key)| key.name.to_string()).collect();
        assert_eq!(names, want, "{text}");
    }
}

/// One line each: file, line, object, field, and the way out; and whether the object still counts.
#[test]
fn what_is_wrong_is_named() {
    const HEAD: &str = "apiVersion: v1\nkind: Service\nmetadata:\n  name: web\nspec:\n";
    for (text, want, counts) in [
        (
            format!("{HEAD}  clusterIp: 10.0.0.1\n  ports: [{{port: 80}}]\n"),
            "web.yaml:6: Service default/web: unknown field spec.clusterIp: did you mean clusterIP?",
            true,
        ),
        (
            format!("{HEAD}  ports:\n  - port: 80\n    target_port: 8080\n"),
            "web.yaml:8: Service default/web: unknown field spec.ports[0].target_port: did you mean targetPort?",
            true,
        ),
        (
            format!("{HEAD}  ports: [{{port: 80}}]\n  externalname: x\n"),
            "web.yaml:7: Service default/web: unknown field spec.externalname: did you mean externalName?",
            true,
        ),
        (
            format!("{HEAD}  ports: [{{port: 80}}]\n  labels: {{a: b}}\n"),
            "web.yaml:7: Service default/web: unknown field spec.labels: it belongs below metadata",
            true,
        ),
        (
            format!("{HEAD}  ports: [{{port: 80}}]\n  replicas: 3\n"),
            "web.yaml:7: Service default/web: unknown field spec.replicas: there is no such field",
            true,
        ),
        (
            format!("{HEAD}  selector:\n    matchLabels:\n      app: web\n  ports: [{{port: 80}}]\n"),
            "web.yaml:7: Service default/web: spec.selector.matchLabels does not exist: a Service's selector is the labels themselves, right below selector",
            false,
        ),
        (
            format!("{HEAD}  selector:\n    version: 1\n  ports: [{{port: 80}}]\n"),
            "web.yaml:7: Service default/web: spec.selector.version: invalid type: integer `1`, expected a string: put it in quotes",
            false,
        ),
        (
            format!("{HEAD}  ports:\n  - port: 80\n  - port: 70000\n    name: x\n"),
            "web.yaml:8: Service default/web: spec.ports[1].port 70000 is no port: 1 to 65535",
            false,
        ),
        (
            format!("{HEAD}  ports:\n  - port: \"80\"\n"),
            "web.yaml:7: Service default/web: spec.ports[0].port: invalid type: string \"80\", expected a whole number",
            false,
        ),
        (
            format!("{HEAD}  ports:\n  - port: 80\n    targetPort: \"8080\"\n"),
            "web.yaml:8: Service default/web: spec.ports[0].targetPort \"8080\" is a name without a letter: write the number without quotes",
            false,
        ),
        (
            format!("{HEAD}  ports:\n  - port: 80\n  - port: 443\n"),
            "web.yaml:8: Service default/web: spec.ports[1].name is required when there are several ports",
            false,
        ),
        (
            format!("{HEAD}  clusterIP: 10.0.0.300\n  ports: [{{port: 80}}]\n"),
            "web.yaml:6: Service default/web: spec.clusterIP \"10.0.0.300\" is no address",
            false,
        ),
        (
            format!("{HEAD}  type: Nodeport\n  ports: [{{port: 80}}]\n"),
            "web.yaml:6: Service default/web: spec.type \"Nodeport\" is none of ClusterIP, NodePort, LoadBalancer, ExternalName",
            false,
        ),
        (
            format!("{HEAD}  type: NodePort\n"),
            "web.yaml:5: Service default/web: spec.ports a Service without ports answers nowhere: list at least one",
            false,
        ),
        (
            "apiVersion: v1\nkind: Service\nmetadata: {}\nspec: {ports: [{port: 80}]}\n".to_owned(),
            "web.yaml:3: Service without a name: metadata.name is missing or no string",
            false,
        ),
        (
            "apiVersion: v1\nkind: Sevice\nmetadata: {name: a}\n".to_owned(),
            "web.yaml:2: there is no kind \"Sevice\" in v1: did you mean Service?",
            false,
        ),
        (
            "apiVersion: v1\nkind: EndpointSlice\nmetadata: {name: a}\n".to_owned(),
            "web.yaml:1: EndpointSlice is not in v1: write discovery.k8s.io/v1",
            false,
        ),
        ("metadata: {name: a}\n".to_owned(), "web.yaml:1: kind is missing: cannot tell what this is", false),
        ("just text\n".to_owned(), "web.yaml:1: not an object: it should begin with apiVersion and kind", false),
    ] {
        let content = read(&text);
        assert_eq!(content.warnings, [want], "{text}");
        assert_eq!((content.objects.len() == 1, content.broken), (counts, !counts), "{text}");
    }
}

#[test]
fn a_broken_document_does_not_spoil_the_others() {
    let good = |name: &str| {
        format!("apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{ports: [{{port: 80}}]}}\n")
    };
    let content = read(&format!("{}---\nkind: Service\nmetadata: [\n---\n{}", good("a"), good("b")));
    assert_eq!(content.objects.len(), 2);
    assert!(content.broken);
    let [warning] = content.warnings.try_into().unwrap();
    assert!(
        warning.starts_with("web.yaml:7: not readable as YAML: ") || warning.starts_with("web.yaml:8: "),
        "{warning}"
    );
    assert!(!warning.contains('\n'), "{warning}");
}

#[test]
fn documents_that_have_not_changed_are_not_read_again() {
    let doc = |name: &str, port: u16| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{ports: [{{port: {port}}}], x: 1}}\n---\n"
        )
    };
    let mut names = Interner::default();
    let mut read = |text: &str, before: &FileContent| read_text(Path::new("web.yaml"), text, before, &mut names);
    let old = read(&(doc("a", 1) + &doc("b", 1) + &doc("c", 1)), &FileContent::default());
    // A mark on what was read before shows whether it is read again.
    let mut marked = old;
    for parsed in marked.objects.values_mut() {
        let Parsed::Service(draft) = parsed else { panic!("only Services") };
        draft.publish_not_ready = true;
    }
    let new = read(&(doc("c", 1) + &doc("b", 2) + &doc("d", 1)), &marked);
    let marks: Vec<_> = new
        .objects
        .values()
        .map(|parsed| matches!(parsed, Parsed::Service(draft) if draft.publish_not_ready))
        .collect();
    assert_eq!(marks, [false, true, false], "b, c, d");
    assert_eq!(new.warnings.len(), 3);
    assert!(new.warnings[0].starts_with("web.yaml:4: Service default/c: unknown field spec.x"), "{}", new.warnings[0]);

    // Of two with one name the later one counts, also when it goes.
    let twice = read(&(doc("a", 1) + &doc("a", 2)), &FileContent::default());
    assert!(
        twice.warnings.iter().any(
            |warning| warning.ends_with("web.yaml:6: Service default/a is in this file twice: the last one counts")
        ),
        "{:?}",
        twice.warnings
    );
    let once = read(&doc("a", 1), &twice);
    assert!(matches!(once.objects.values().next(), Some(Parsed::Service(draft)) if draft.service.ports[0].port == 1));
}
