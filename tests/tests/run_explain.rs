//! `svc-agent explain --cases -`: the interface to the letter, and the rules of the specification that are not lines of
//! its big tables (those are in the model's examples), each as manifests, a question and the answer. Needs CAP_BPF.

mod explain;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use explain::{Explain, Folder, NODE, SLICES, agent, command, web};

const DETECTOR: &[&str] = &["--cluster-cidr", "10.1.0.0/16, fd01::/48"];

const BOTH: &str = "10.1.0.5:8080 10.1.1.5:8080";
const BOTH_V6: &str = "[fd01:0:0:1::5]:8080 [fd01:0:0:2::5]:8080";

fn ask(via: &str, from: &str, to: &str, protocol: &str) -> Value {
    json!({ "id": "q", "via": via, "from": from, "to": to, "protocol": protocol, "trials": 40 })
}

#[test]
fn every_protocol_and_family_by_every_way() {
    let mut explain = Explain::start(&web("  type: NodePort"), DETECTOR);
    for protocol in ["TCP", "UDP", "SCTP"] {
        for (via, from, to, expected) in [
            ("pod", "10.1.0.7", "10.96.0.10:80", format!("forward {BOTH} as 10.1.0.7")),
            ("pod", "fd01:0:0:1::7", "[fd00:96::10]:80", format!("forward {BOTH_V6} as fd01:0:0:1::7")),
            ("uplink", "203.0.113.9", "10.96.0.10:80", format!("forward {BOTH} as 192.168.1.10")),
            ("uplink", "2001:db8::9", "[fd00:96::10]:80", format!("forward {BOTH_V6} as fd00:1::10")),
            ("uplink", "203.0.113.9", "192.168.1.10:30080", format!("forward {BOTH} as 192.168.1.10")),
            ("pod", "fd01:0:0:1::7", "[fd00:1::10]:30080", format!("forward {BOTH_V6} as fd00:1::10")),
            ("host", "192.168.1.10", "10.96.0.10:80", format!("forward {BOTH} as 192.168.1.10")),
            ("host", "198.51.100.10", "10.96.0.10:80", format!("forward {BOTH} as 192.168.1.10")),
            ("host", "fd00:1::10", "[fd00:96::10]:80", format!("forward {BOTH_V6} as fd00:1::10")),
            ("host", "192.168.1.10", "192.168.1.10:30080", format!("forward {BOTH} as 192.168.1.10")),
            ("pod", "10.1.0.7", "10.96.0.10:81", "reject".to_owned()),
            ("host", "fd00:1::10", "[fd00:96::10]:81", "reject".to_owned()),
            ("uplink", "203.0.113.9", "192.168.1.10:30081", "untouched".to_owned()),
            ("pod", "10.1.0.7", "198.51.100.10:30080", "untouched".to_owned()),
        ] {
            explain.expect(ask(via, from, to, protocol), &expected);
        }
    }
}

/// Without an address of its own a node cannot stand in for a sender, and that is what is said.
#[test]
fn a_node_without_an_address_is_named_as_the_reason() {
    let mut explain = Explain::start(&web("  type: NodePort").replace(NODE, ""), DETECTOR);
    for (from, to, family) in [("203.0.113.9", "10.96.0.10:80", "IPv4"), ("2001:db8::9", "[fd00:96::10]:80", "IPv6")] {
        let answer = explain.ask(ask("uplink", from, to, "TCP"));
        let reason = answer["reason"].as_str().unwrap_or_default();
        assert_eq!(answer["outcome"], "drop", "{answer}");
        assert!(reason.contains(&format!("has no {family} address")), "{answer}");
    }
}

#[test]
fn hairpin_is_always_translated() {
    let mut explain = Explain::start(&web("  type: NodePort\n  externalTrafficPolicy: Local"), DETECTOR);
    for to in ["10.96.0.10:80", "192.168.1.10:30080"] {
        let answer = explain.ask(ask("pod", "10.1.0.5", to, "TCP"));
        let backends: BTreeMap<String, u32> = serde_json::from_value(answer["backends"].clone()).expect("counts");
        let sources: BTreeMap<String, u32> = serde_json::from_value(answer["sources"].clone()).expect("counts");
        assert_eq!(sources["192.168.1.10"], backends["10.1.0.5:8080"], "{answer}");
        assert_eq!(sources["10.1.0.5"], backends["10.1.1.5:8080"], "{answer}");
        assert_eq!(answer["snat"], "sometimes");
    }
}

#[test]
fn without_a_detector_a_cluster_ip_keeps_every_source() {
    let mut explain = Explain::start(&web(""), &[]);
    explain.expect(ask("uplink", "203.0.113.9", "10.96.0.10:80", "TCP"), &format!("forward {BOTH} as 203.0.113.9"));
    explain.expect(ask("pod", "10.1.0.7", "10.96.0.10:80", "UDP"), &format!("forward {BOTH} as 10.1.0.7"));
    let mut explain = Explain::start(&web(""), &["--masquerade-all"]);
    explain.expect(ask("pod", "10.1.0.7", "10.96.0.10:80", "UDP"), &format!("forward {BOTH} as 192.168.1.10"));
}

#[test]
fn the_detectors() {
    let keeps = |source: &str| format!("forward {BOTH} as {source}");
    let mut node = Explain::start(&web(""), &["--detect-local-mode", "NodeCIDR"]);
    node.expect(ask("pod", "10.1.0.7", "10.96.0.10:80", "TCP"), &keeps("10.1.0.7"));
    node.expect(ask("uplink", "10.1.1.7", "10.96.0.10:80", "TCP"), &keeps("192.168.1.10"));
    let bridge = ["--detect-local-mode", "BridgeInterface", "--pod-bridge-interface", "cni0"];
    let mut bridge = Explain::start(&web(""), &bridge);
    let prefix = ["--detect-local-mode", "InterfaceNamePrefix", "--pod-interface-name-prefix", "veth"];
    let mut prefix = Explain::start(&web(""), &prefix);
    let by_device = |device: &str| {
        let mut question = ask("pod", "10.1.0.7", "10.96.0.10:80", "TCP");
        question["device"] = device.into();
        question
    };
    bridge.expect(by_device("cni0"), &keeps("10.1.0.7"));
    bridge.expect(by_device("cni01"), &keeps("192.168.1.10"));
    prefix.expect(by_device("veth1234"), &keeps("10.1.0.7"));
    prefix.expect(by_device("eth0"), &keeps("192.168.1.10"));
    // Without a device the way decides.
    bridge.expect(ask("pod", "172.20.0.1", "10.96.0.10:80", "TCP"), &keeps("172.20.0.1"));
    bridge.expect(ask("uplink", "10.1.0.7", "10.96.0.10:80", "TCP"), &keeps("192.168.1.10"));
}

#[test]
fn an_address_of_the_node_in_the_pod_range_is_a_pod() {
    let flags = [DETECTOR, &["--host-addresses", "10.1.0.1,fd01:0:0:1::1"]].concat();
    let mut explain = Explain::start(&web("  type: NodePort\n  externalTrafficPolicy: Local"), &flags);
    explain.expect(ask("host", "10.1.0.1", "10.96.0.10:80", "TCP"), &format!("forward {BOTH} as 10.1.0.1"));
    explain.expect(ask("host", "10.1.0.1", "192.168.1.10:30080", "TCP"), &format!("forward {BOTH} as 10.1.0.1"));
}

#[test]
fn node_ports_on_loopback_are_for_this_host() {
    let mut explain = Explain::start(&web("  type: NodePort"), DETECTOR);
    for to in ["127.0.0.1:30080", "127.0.0.5:30080"] {
        explain.expect(ask("host", "127.0.0.1", to, "TCP"), &format!("forward {BOTH} as 192.168.1.10"));
        explain.expect(ask("pod", "10.1.0.7", to, "TCP"), "untouched");
        explain.expect(ask("uplink", "203.0.113.9", to, "TCP"), "untouched");
    }
    explain.expect(ask("host", "::1", "[::1]:30080", "UDP"), &format!("forward {BOTH_V6} as fd00:1::10"));
    explain.expect(ask("host", "127.0.0.1", "127.0.0.1:30081", "TCP"), "untouched");
    let mut primary = Explain::start(&web("  type: NodePort"), &["--nodeport-addresses", "primary"]);
    primary.expect(ask("host", "127.0.0.1", "127.0.0.1:30080", "TCP"), "untouched");
}

#[test]
fn node_port_addresses() {
    let there = format!("forward {BOTH} as 192.168.1.10");
    let to = |addr: &str| ask("uplink", "203.0.113.9", &format!("{addr}:30080"), "TCP");
    for (list, first, second) in [
        ("primary", true, false),
        ("all", true, true),
        ("198.51.100.0/24", false, true),
        ("0.0.0.0/0", true, true),
        // Nothing of this family is in the list: all addresses of it.
        ("fd00::/8", true, true),
        ("127.0.0.0/8", false, false),
        ("192.168.1.010/32", true, false),
    ] {
        let flags = [DETECTOR, &["--nodeport-addresses", list]].concat();
        let mut explain = Explain::start(&web("  type: NodePort"), &flags);
        explain.expect(to("192.168.1.10"), if first { &there } else { "untouched" });
        explain.expect(to("198.51.100.10"), if second { &there } else { "untouched" });
    }
}

const RANGES: &str = "  type: LoadBalancer
  loadBalancerSourceRanges: [' 203.0.113.0/24 ', '2001:db8:1::/48']
status:
  loadBalancer:
    ingress: [{ip: 198.18.0.1}, {ip: 'fd00:18::1'}, {ip: 198.18.0.2, ipMode: Proxy}, {hostname: example.com}]";

#[test]
fn source_ranges_guard_load_balancer_addresses() {
    let mut explain = Explain::start(&web(RANGES), DETECTOR);
    let there = format!("forward {BOTH} as 192.168.1.10");
    explain.expect(ask("uplink", "203.0.113.9", "198.18.0.1:80", "TCP"), &there);
    explain.expect(ask("uplink", "203.0.114.9", "198.18.0.1:80", "TCP"), "drop");
    explain.expect(ask("pod", "10.1.0.7", "198.18.0.1:80", "UDP"), "drop");
    explain.expect(ask("host", "192.168.1.10", "198.18.0.1:80", "TCP"), "drop");
    explain.expect(ask("uplink", "2001:db8:2::1", "[fd00:18::1]:80", "TCP"), "drop");
    explain
        .expect(ask("uplink", "2001:db8:1::1", "[fd00:18::1]:80", "TCP"), &format!("forward {BOTH_V6} as fd00:1::10"));
    // Node port and cluster IP stay open, other ports of the address are not the Service's.
    explain.expect(ask("uplink", "203.0.114.9", "192.168.1.10:30080", "TCP"), &there);
    explain.expect(ask("pod", "10.1.0.7", "10.96.0.10:80", "TCP"), &format!("forward {BOTH} as 10.1.0.7"));
    explain.expect(ask("uplink", "203.0.114.9", "198.18.0.1:81", "TCP"), "untouched");
    // ipMode Proxy is not captured.
    explain.expect(ask("uplink", "203.0.113.9", "198.18.0.2:80", "TCP"), "untouched");
}

#[test]
fn source_ranges_of_the_other_family_do_not_count() {
    let mut explain = Explain::start(&web(&RANGES.replace("' 203.0.113.0/24 ', ", "")), DETECTOR);
    explain.expect(ask("uplink", "203.0.114.9", "198.18.0.1:80", "TCP"), &format!("forward {BOTH} as 192.168.1.10"));
}

#[test]
fn a_node_in_a_range_reaches_its_address_from_the_address() {
    let ranges = RANGES.replace("203.0.113.0/24", "192.168.0.0/16");
    let mut explain = Explain::start(&web(&ranges), &[DETECTOR, &["--host-addresses", "198.18.0.1"]].concat());
    explain.expect(ask("host", "192.168.1.10", "198.18.0.1:80", "TCP"), &format!("forward {BOTH} as 192.168.1.10"));
    explain.expect(ask("host", "198.18.0.1", "198.18.0.1:80", "TCP"), &format!("forward {BOTH} as 192.168.1.10"));
}

#[test]
fn a_filtered_sender_is_dropped_even_where_nothing_serves() {
    let manifests = web(RANGES);
    let manifests = manifests.split(SLICES).next().expect("the part before the slices");
    let mut explain = Explain::start(manifests, DETECTOR);
    explain.expect(ask("uplink", "203.0.114.9", "198.18.0.1:80", "TCP"), "drop");
    explain.expect(ask("uplink", "203.0.113.9", "198.18.0.1:80", "TCP"), "reject");
    explain.expect(ask("host", "192.168.1.10", "10.96.0.10:80", "TCP"), "reject");
    explain.expect(ask("pod", "10.1.0.7", "10.96.0.10:80", "SCTP"), "reject");
    explain.expect(ask("uplink", "203.0.113.9", "192.168.1.10:30080", "UDP"), "reject");
}

#[test]
fn external_ips_have_to_be_allowed() {
    let spec = "  externalIPs: [198.19.0.1, 198.20.0.1]";
    let there = format!("forward {BOTH} as 192.168.1.10");
    let mut closed = Explain::start(&web(spec), DETECTOR);
    closed.expect(ask("uplink", "203.0.113.9", "198.19.0.1:80", "TCP"), "untouched");
    let mut open = Explain::start(&web(spec), &[DETECTOR, &["--allow-external-ips", "198.19.0.0/16"]].concat());
    open.expect(ask("uplink", "203.0.113.9", "198.19.0.1:80", "TCP"), &there);
    open.expect(ask("pod", "10.1.0.7", "198.19.0.1:80", "TCP"), &there);
    open.expect(ask("uplink", "203.0.113.9", "198.20.0.1:80", "TCP"), "untouched");
}

#[test]
fn addresses_without_a_service() {
    let cidr = "
apiVersion: networking.k8s.io/v1
kind: ServiceCIDR
metadata: {name: kubernetes}
spec: {cidrs: [10.96.0.0/12, 'fd00:96::/112']}
---
";
    let mut explain =
        Explain::start(&format!("{cidr}{}", web("")), &[DETECTOR, &["--host-addresses", "10.96.0.77"]].concat());
    for (via, from, v6) in [
        ("pod", "10.1.0.7", "fd01:0:0:1::7"),
        ("host", "192.168.1.10", "fd00:1::10"),
        ("uplink", "203.0.113.9", "2001:db8::1"),
    ] {
        explain.expect(ask(via, from, "10.96.0.99:80", "TCP"), "drop");
        explain.expect(ask(via, v6, "[fd00:96::99]:80", "UDP"), "drop");
        explain.expect(ask(via, from, "10.112.0.99:80", "TCP"), "untouched");
        // Somebody here answers at this one.
        explain.expect(ask(via, from, "10.96.0.77:80", "TCP"), "untouched");
    }
    let mut without = Explain::start(&web(""), DETECTOR);
    without.expect(ask("pod", "10.1.0.7", "10.96.0.99:80", "TCP"), "untouched");
}

#[test]
fn clashes_go_to_the_older_service() {
    let service = |name: &str, created: &str, endpoint: &str| {
        format!(
            "---
apiVersion: v1
kind: Service
metadata: {{name: {name}, creationTimestamp: '{created}'}}
spec: {{externalIPs: [198.19.0.1], ports: [{{port: 80}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}-1, labels: {{kubernetes.io/service-name: {name}}}}}
addressType: IPv4
ports: [{{port: 8080}}]
endpoints: [{{addresses: [{endpoint}]}}]
"
        )
    };
    let manifests = [
        NODE.to_owned(),
        service("a-young", "2024-01-02T00:00:00Z", "10.1.0.1"),
        service("b-old", "2024-01-01T00:00:00Z", "10.1.0.2"),
    ];
    let mut explain = Explain::start(&manifests.concat(), &[DETECTOR, &["--allow-external-ips", "0.0.0.0/0"]].concat());
    let question = ask("uplink", "203.0.113.9", "198.19.0.1:80", "TCP");
    explain.expect(question.clone(), "forward 10.1.0.2:8080 as 192.168.1.10");
    let other = Folder::new(&manifests[..2].concat());
    let answer = explain.ask(json!({ "id": "m", "manifests": other.path() }));
    assert_eq!(answer["outcome"], "applied");
    explain.expect(question, "forward 10.1.0.1:8080 as 192.168.1.10");
}

#[test]
fn another_proxys_service_is_left_alone() {
    let labelled = web("").replace(
        "metadata: {name: web}",
        "metadata: {name: web, labels: {service.kubernetes.io/service-proxy-name: other}}",
    );
    let cidr = "apiVersion: networking.k8s.io/v1\nkind: ServiceCIDR\nmetadata: {name: k}\nspec: {cidrs: [10.96.0.0/12]}\n---\n";
    let mut explain = Explain::start(&format!("{cidr}{labelled}"), DETECTOR);
    explain.expect(ask("pod", "10.1.0.7", "10.96.0.10:80", "TCP"), "untouched");
    explain.expect(ask("host", "192.168.1.10", "10.96.0.10:81", "TCP"), "untouched");
    explain.expect(ask("pod", "10.1.0.7", "10.96.0.11:80", "TCP"), "drop");
}

const AFFINITY: &str = "  type: NodePort\n  sessionAffinity: ClientIP";

#[test]
fn affinity_binds_a_client_within_a_session() {
    let mut explain = Explain::start(&web(AFFINITY), DETECTOR);
    // Each trial is on empty state.
    explain.expect(ask("pod", "10.1.0.7", "10.96.0.10:80", "TCP"), &format!("forward {BOTH} as 10.1.0.7"));
    let mut question = ask("pod", "10.1.0.7", "10.96.0.10:80", "TCP");
    question["session"] = "s".into();
    let first = explain.ask(question.clone());
    assert_eq!(first["backends"].as_object().expect("an object").len(), 1, "{first}");
    // All frontends of the port share the record.
    question["to"] = "192.168.1.10:30080".into();
    assert_eq!(explain.ask(question.clone())["backends"], first["backends"]);
    question["session"] = "t".into();
    question["trials"] = 1.into();
    let mut seen = std::collections::BTreeSet::new();
    for session in 0..40 {
        question["session"] = session.to_string().into();
        seen.extend(explain.ask(question.clone())["backends"].as_object().expect("an object").keys().cloned());
    }
    assert_eq!(seen.len(), 2, "another session begins on empty state");
}

#[test]
fn the_host_is_one_client() {
    let mut explain = Explain::start(&web(AFFINITY), DETECTOR);
    let mut question = ask("host", "192.168.1.10", "10.96.0.10:80", "TCP");
    question["session"] = "s".into();
    let first = explain.ask(question.clone());
    for (from, to) in [("127.0.0.1", "127.0.0.1:30080"), ("198.51.100.10", "192.168.1.10:30080")] {
        question["from"] = from.into();
        question["to"] = to.into();
        assert_eq!(explain.ask(question.clone())["backends"], first["backends"], "{from}");
    }
}

/// One connection in a session, asked again and again.
fn connection(via: &str, from: &str, protocol: &str) -> Value {
    json!({ "id": "c", "via": via, "from": from, "source_port": 4242, "to": "10.96.0.10:80", "protocol": protocol,
            "session": "s" })
}

fn only_backend(answer: &Value) -> String {
    let backends = answer["backends"].as_object().expect("an object");
    assert_eq!(backends.len(), 1, "{answer}");
    backends.keys().next().cloned().expect("one")
}

#[test]
fn an_endpoint_that_goes_keeps_its_tcp_and_loses_its_udp() {
    for (via, from) in [("pod", "10.1.0.7"), ("host", "192.168.1.10"), ("uplink", "203.0.113.9")] {
        for protocol in ["TCP", "SCTP", "UDP"] {
            let mut explain = Explain::start(&web(""), DETECTOR);
            let question = connection(via, from, protocol);
            let first = only_backend(&explain.ask(question.clone()));
            assert_eq!(only_backend(&explain.ask(question.clone())), first);
            let (addr, _) = first.split_once(':').expect("address and port");
            let without = Folder::new(&web("").replace(
                &format!("- {{addresses: [{addr}]"),
                "- {conditions: {ready: false, serving: false}, addresses: [10.9.9.9]",
            ));
            let changed = explain.ask(json!({ "id": "m", "session": "s", "manifests": without.path() }));
            assert_eq!(changed["outcome"], "applied");
            let then = only_backend(&explain.ask(question));
            assert_eq!(then == first, protocol != "UDP", "{via} {protocol}: {first} and then {then}");
        }
    }
}

#[test]
fn a_refused_packet_is_a_first_packet_again() {
    let empty = NODE.to_owned()
        + "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {clusterIPs: [10.96.0.10], ports: [{name: t, port: 80}, {name: u, port: 80, protocol: UDP}, {name: s, port: 80, protocol: SCTP}]}\n";
    for protocol in ["TCP", "UDP", "SCTP"] {
        let mut explain = Explain::start(&empty, DETECTOR);
        let question = connection("pod", "10.1.0.7", protocol);
        assert_eq!(explain.ask(question.clone())["outcome"], "reject");
        let full = Folder::new(&web(""));
        explain.ask(json!({ "id": "m", "session": "s", "manifests": full.path() }));
        assert_eq!(explain.ask(question)["outcome"], "forward");
    }
}

#[test]
fn manifests_get_addresses_and_endpoints_as_a_control_plane_would_give_them() {
    let manifests = format!(
        "{NODE}
apiVersion: v1
kind: Service
metadata: {{name: web}}
spec: {{selector: {{app: web}}, ports: [{{port: 80, targetPort: http}}]}}
---
apiVersion: v1
kind: Pod
metadata: {{name: web-0, labels: {{app: web}}}}
spec: {{nodeName: n1, containers: [{{name: c, ports: [{{name: http, containerPort: 8000}}]}}]}}
status: {{phase: Running, podIP: 10.1.0.9, podIPs: [{{ip: 10.1.0.9}}], conditions: [{{type: Ready, status: 'True'}}]}}
"
    );
    let folder = Folder::new(&manifests);
    let output = Command::new(agent())
        .args(["services", "--node", "n1", "-o", "json", "--manifests"])
        .arg(folder.path())
        .output()
        .expect("svc-agent services");
    let rows: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let frontend = rows[0]["frontend"].as_str().expect("an address").to_owned();
    assert_eq!(rows[0]["endpoints"], json!(["10.1.0.9:8000"]), "{rows}");
    let mut explain = Explain::start(&manifests, DETECTOR);
    explain.expect(ask("pod", "10.1.0.7", &frontend, "TCP"), "forward 10.1.0.9:8000 as 10.1.0.7");
}

#[test]
fn wrong_lines_are_answered_and_the_next_is_read() {
    let mut explain = Explain::start(&web(""), DETECTOR);
    let id = |answer: Value| {
        assert!(answer["error"].as_str().is_some_and(|error| !error.is_empty()), "{answer}");
        answer["id"].clone()
    };
    assert_eq!(id(explain.line("no JSON")), Value::Null);
    assert_eq!(id(explain.line("")), Value::Null);
    assert_eq!(id(explain.line(r#"{"id":"a"}"#)), "a");
    assert_eq!(id(explain.line(r#"{"id":"b","to":"10.96.0.10:80","colour":"red"}"#)), "b");
    assert_eq!(id(explain.line(r#"{"id":"c","manifests":"/nowhere/at/all"}"#)), "c");
    let answer = explain.line(r#"{"id":"d","to":"10.96.0.10:80"}"#);
    assert_eq!((&answer["id"], &answer["outcome"]), (&json!("d"), &json!("forward")));
}

#[test]
fn defaults_make_a_pod() {
    let mut explain = Explain::start(&web(""), DETECTOR);
    let answer = explain.ask(json!({ "id": "q", "to": "[fd00:96::10]:80" }));
    assert_eq!((&answer["outcome"], &answer["snat"]), (&json!("forward"), &json!("never")), "{answer}");
}

#[test]
fn choice_is_uniform_and_fast() {
    let mut explain = Explain::start(&web(""), DETECTOR);
    let begun = Instant::now();
    let mut question = ask("pod", "10.1.0.7", "10.96.0.10:80", "TCP");
    question["trials"] = 100_000.into();
    let answer = explain.ask(question);
    for count in answer["backends"].as_object().expect("an object").values() {
        let count = count.as_u64().expect("a number");
        assert!((49_000..51_000).contains(&count), "{answer}");
    }
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
}

fn end(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().expect("svc-agent explain")
}

#[test]
fn exit_status() {
    let folder = Folder::new(&web(""));
    let output = end(&mut command(folder.path(), &[]));
    assert_eq!((output.status.code(), output.stdout.len()), (Some(0), 0));
    for (path, flags) in [("/nowhere/at/all", vec![]), (folder.path().to_str().expect("text"), vec!["--no-such-flag"])]
    {
        let output = end(&mut command(Path::new(path), &flags));
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(!output.stderr.is_empty() && output.stdout.is_empty());
    }
}

#[test]
fn a_person_is_told_the_way() {
    let folder = Folder::new(&web("  type: NodePort"));
    let output = Command::new(agent())
        .args(["explain", "203.0.113.9", "192.168.1.10:30080/tcp", "--node", "n1", "--manifests"])
        .arg(folder.path())
        .args(DETECTOR)
        .output()
        .expect("svc-agent explain");
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for part in ["default/web:t NodePort", "externalTrafficPolicy Cluster", "192.168.1.10", "forward to 10.1."] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
}
