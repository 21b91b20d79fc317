//! `svc.dev/scheduler`, `svc.dev/weights` and `svc.dev/slow-start`: how connections are spread, by the real programs.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{Explain, Folder, NODE};

/// A Service with these annotations and endpoints 10.1.0.1 to 10.1.0.N.
fn service(annotations: &str, endpoints: u8) -> String {
    let list: Vec<_> = (1..=endpoints).map(|n| format!("{{addresses: [10.1.0.{n}], nodeName: n1}}")).collect();
    format!(
        "{NODE}
apiVersion: v1
kind: Service
metadata: {{name: web, annotations: {{{annotations}}}}}
spec: {{clusterIP: 10.96.0.10, ports: [{{port: 80}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: web-1, labels: {{kubernetes.io/service-name: web}}}}
addressType: IPv4
ports: [{{port: 8080}}]
endpoints: [{}]
",
        list.join(", ")
    )
}

/// Connections of each endpoint, by the last number of its address.
fn spread(explain: &mut Explain, from: &str, trials: u32) -> BTreeMap<u8, u32> {
    counts(&explain.ask(
        json!({ "id": "q", "session": "s", "from": from, "via": "uplink", "to": "10.96.0.10:80", "trials": trials }),
    ))
}

fn counts(answer: &Value) -> BTreeMap<u8, u32> {
    let number = |endpoint: &String| {
        let (addr, _) = endpoint.split_once(':').expect("address and port");
        addr.rsplit('.').next().and_then(|number| number.parse().ok()).expect("a number")
    };
    let backends = answer["backends"].as_object().expect("an object");
    backends.iter().map(|(key, count)| (number(key), count.as_u64().expect("a number") as u32)).collect()
}

#[test]
fn least_connections_evens_out() {
    for name in ["lc", "sed"] {
        let mut explain = Explain::start(&service(&format!("svc.dev/scheduler: {name}"), 4), &[]);
        let counts = spread(&mut explain, "203.0.113.9", 4000);
        // Chance alone would leave a standard deviation of 27.
        assert!(counts.values().all(|count| (990..=1010).contains(count)), "{name}: {counts:?}");
    }
}

#[test]
fn connections_are_compared_by_weight() {
    for name in ["wlc", "sed"] {
        let annotations = format!("svc.dev/scheduler: {name}, svc.dev/weights: '10.1.0.1=6, 10.1.0.2=3'");
        let mut explain = Explain::start(&service(&annotations, 3), &[]);
        let counts = spread(&mut explain, "203.0.113.9", 4000);
        let near = |number: u8, wanted: u32| counts[&number].abs_diff(wanted) < 40;
        assert!(near(1, 2400) && near(2, 1200) && near(3, 400), "{name}: {counts:?}");
    }
}

#[test]
fn round_robin_takes_turns_and_weights_are_turns() {
    let mut explain = Explain::start(&service("svc.dev/scheduler: rr, svc.dev/weights: '10.1.0.1=9'", 4), &[]);
    let counts = spread(&mut explain, "203.0.113.9", 1000);
    // Each CPU has a turn of its own, and the process may be moved between them.
    assert!(counts.values().all(|count| (235..=265).contains(count)), "{counts:?}");
    let mut explain = Explain::start(&service("svc.dev/scheduler: wrr, svc.dev/weights: '10.1.0.1=3'", 2), &[]);
    let counts = spread(&mut explain, "203.0.113.9", 1000);
    assert!((735..=765).contains(&counts[&1]), "{counts:?}");
}

#[test]
fn the_default_flag_counts_weights_as_its_name_says() {
    let manifests = service("svc.dev/weights: '10.1.0.1=9'", 2);
    for (name, heavy) in [("rr", 500), ("wrr", 900)] {
        let mut explain = Explain::start(&manifests, &["--scheduler", name]);
        let counts = spread(&mut explain, "203.0.113.9", 1000);
        assert!(counts[&1].abs_diff(heavy) < 40, "{name}: {counts:?}");
    }
}

#[test]
fn hashing_binds_what_it_hashes() {
    let one = |counts: BTreeMap<u8, u32>| counts.len() == 1;
    for (name, by_client, by_connection) in [("sh", true, false), ("dh", false, false), ("mh", true, true)] {
        let mut explain = Explain::start(&service(&format!("svc.dev/scheduler: {name}"), 8), &[]);
        let clients: Vec<_> = (1..=30).map(|n| spread(&mut explain, &format!("203.0.113.{n}"), 20)).collect();
        let chosen: std::collections::BTreeSet<u8> = clients.iter().flat_map(|counts| counts.keys().copied()).collect();
        assert_eq!(chosen.len() > 1, by_client, "{name}: {chosen:?}");
        assert_eq!(!clients.into_iter().all(one), by_connection, "{name}");
    }
}

#[test]
fn an_unknown_scheduler_is_said_and_the_service_served() {
    let folder = Folder::new(&service("svc.dev/scheduler: fastest", 2));
    let output = super::command(folder.path(), &[]).stdin(std::process::Stdio::null()).output().expect("explain");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.contains("default/web") && said.contains("\"fastest\" is unknown"), "{said}");
    let mut explain = Explain::start(&service("svc.dev/scheduler: fastest", 2), &[]);
    assert_eq!(spread(&mut explain, "203.0.113.9", 200).len(), 2);
}

#[test]
fn a_new_endpoint_starts_slowly() {
    let annotation = "svc.dev/slow-start: '3600'";
    let mut explain = Explain::start(&service(annotation, 2), &[]);
    assert!(spread(&mut explain, "203.0.113.9", 2000).values().all(|count| count.abs_diff(1000) < 150));
    let more = Folder::new(&service(annotation, 3));
    explain.ask(json!({ "id": "m", "session": "s", "manifests": more.path() }));
    // In the first of five steps: 5 to 5 to 1.
    let counts = spread(&mut explain, "203.0.113.9", 2200);
    assert!(counts[&3].abs_diff(200) < 70, "{counts:?}");
}

#[test]
fn a_slow_start_ends_by_itself() {
    let annotation = "svc.dev/slow-start: 1s";
    let mut explain = Explain::start(&service(annotation, 1), &[]);
    let more = Folder::new(&service(annotation, 2));
    explain.ask(json!({ "id": "m", "session": "s", "manifests": more.path() }));
    let begun = std::time::Instant::now();
    // What the steps give on the way depends on how fast this machine is; that they end at equal shares does not.
    while begun.elapsed() < std::time::Duration::from_millis(1100) {
        spread(&mut explain, "203.0.113.9", 20);
    }
    // Another client: a fast machine has used up the ports of the first, and what it dials again goes where it went.
    let counts = spread(&mut explain, "203.0.113.10", 2000);
    assert!(counts[&2].abs_diff(1000) < 150, "{counts:?}");
}
