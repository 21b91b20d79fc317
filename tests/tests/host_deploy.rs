//! `deploy/` and the documents against the program: flags that exist, permissions that suffice and are needed, metrics
//! that are shown.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use svc_agent::cli::read;
use svc_agent::model::Kind;
use svc_agent::source::{ControlPlane, manifest};
use svc_common::verdict::{Outcome, Reason};

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

fn text(path: &str) -> String {
    fs::read_to_string(root(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn documents(text: &str) -> Vec<Value> {
    let documents = text.split("\n---\n");
    documents.map(|document| serde_saphyr::from_str(document).unwrap_or_else(|e| panic!("{e}\n{document}"))).collect()
}

/// A template with its instructions taken away: lines of their own vanish, values become a word.
fn rendered(template: &str) -> String {
    let mut out = String::new();
    for line in template.lines().filter(|line| !line.trim().starts_with("{{-") || line.trim().starts_with("- ")) {
        let mut rest = line;
        while let Some((before, after)) = rest.split_once("{{") {
            out.push_str(before);
            out.push_str(if before.ends_with("- ") { "--node=value" } else { "value" });
            rest = after.split_once("}}").expect("an instruction ends on its line").1;
        }
        out.push_str(rest);
        out.push('\n');
    }
    out
}

fn helm(file: &str) -> Vec<Value> {
    documents(&rendered(&text(&format!("deploy/helm/svc/templates/{file}"))))
}

#[test]
fn the_manifests_can_be_read() {
    let plane = ControlPlane {
        service_cidrs: None,
        node_ports: ControlPlane::NODE_PORTS,
        node_name: "n".into(),
        state_file: None,
    };
    for folder in ["deploy/kustomize", "examples"] {
        assert_eq!(manifest::load(&root(folder), &plane).expect("readable").warnings, [""; 0], "{folder}");
    }
}

#[test]
fn what_is_allowed_is_what_is_asked() {
    let rule = |kind: Kind| match kind {
        Kind::Service => ("", "services"),
        Kind::Slice => ("discovery.k8s.io", "endpointslices"),
        Kind::Node => ("", "nodes"),
        Kind::ServiceCidr => ("networking.k8s.io", "servicecidrs"),
    };
    let mut asked: BTreeSet<_> = Kind::ALL
        .into_iter()
        .map(rule)
        .flat_map(|(group, resource)| {
            ["list", "watch"].map(|verb| (group.to_owned(), resource.to_owned(), verb.to_owned()))
        })
        .collect();
    asked.insert(("events.k8s.io".into(), "events".into(), "create".into()));
    for (whose, role) in
        [("kustomize", documents(&text("deploy/kustomize/base/rbac.yaml"))), ("helm", helm("rbac.yaml"))]
    {
        let role = role.into_iter().find(|object| object["kind"] == "ClusterRole").expect("a role");
        let mut allowed = BTreeSet::new();
        let words = |value: &Value| -> Vec<String> {
            value.as_array().expect("a list").iter().map(|word| word.as_str().expect("a word").to_owned()).collect()
        };
        for rule in role["rules"].as_array().expect("rules") {
            for group in words(&rule["apiGroups"]) {
                for resource in words(&rule["resources"]) {
                    for verb in words(&rule["verbs"]) {
                        allowed.insert((group.clone(), resource.clone(), verb));
                    }
                }
            }
        }
        assert_eq!(allowed, asked, "{whose}");
    }
}

#[test]
fn both_ways_to_install_start_the_same_pod() {
    let ours = &documents(&text("deploy/kustomize/base/daemonset.yaml"))[0]["spec"];
    let chart = &helm("daemonset.yaml")[0]["spec"];
    let mut pods = [ours, chart].map(|spec| spec["template"]["spec"].clone());
    for pod in &mut pods {
        for list in ["initContainers", "containers"] {
            let container = &mut pod[list][0];
            let args = container["args"].take();
            let mut words = vec!["svc-agent".to_owned()];
            for word in args.as_array().expect("arguments") {
                // The kubelet fills these in.
                let word = word
                    .as_str()
                    .expect("a word")
                    .replace("$(NODE_NAME)", "n1")
                    .replace("$(CLUSTER_CIDR)", "10.0.0.0/8");
                words.push(word);
            }
            read(&words).unwrap_or_else(|error| panic!("{words:?}: {error}"));
            for field in ["image", "imagePullPolicy", "resources", "env"] {
                container[field].take();
            }
        }
        // Only the chart has this one switched by a value; the other way is an overlay.
        for path in ["/volumes", "/containers/0/volumeMounts"] {
            let list = pod.pointer_mut(path).and_then(Value::as_array_mut).expect("a list");
            list.retain(|item| item["name"] != "kube-proxy");
        }
        for field in ["tolerations", "nodeSelector", "imagePullSecrets"] {
            pod[field].take();
        }
    }
    let without_null = |pod: &Value| {
        let mut pod = pod.clone();
        strip(&mut pod);
        pod
    };
    assert_eq!(without_null(&pods[0]), without_null(&pods[1]));
    assert_eq!(ours["updateStrategy"]["rollingUpdate"]["maxSurge"], json!(0));
    assert_eq!(chart["updateStrategy"]["rollingUpdate"]["maxSurge"], json!(0));
}

fn strip(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, value| !value.is_null());
            fields.values_mut().for_each(strip);
        }
        Value::Array(items) => items.iter_mut().for_each(strip),
        _ => {}
    }
}

/// Names of metrics in a text, without what Prometheus adds for histograms.
fn metrics(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let ours = words.filter(|word| ["svc_", "kubeproxy_", "process_"].iter().any(|prefix| word.starts_with(prefix)));
    let bare = |word: &str| {
        let bare = ["_bucket", "_count", "_sum"].iter().find_map(|suffix| word.strip_suffix(suffix));
        bare.unwrap_or(word).to_owned()
    };
    ours.filter(|word| !word.ends_with('_')).map(bare).collect()
}

#[test]
fn dashboards_and_alerts_ask_for_metrics_that_there_are() {
    let documented = metrics(&text("docs/metrics.md"));
    let dashboard: Value = serde_json::from_str(&text("deploy/monitoring/dashboard.json")).expect("JSON");
    for panel in dashboard["panels"].as_array().expect("panels").iter().filter(|panel| panel["type"] != "row") {
        for target in panel["targets"].as_array().expect("targets") {
            let asked = metrics(target["expr"].as_str().expect("an expression"));
            assert!(!asked.is_empty(), "{}", panel["title"]);
            assert_eq!(asked.difference(&documented).collect::<Vec<_>>(), [""; 0], "{}", panel["title"]);
        }
    }
    let alerts = &documents(&text("deploy/monitoring/alerts.yaml"))[0];
    let rules = alerts["groups"][0]["rules"].as_array().expect("rules");
    assert!(rules.len() >= 5);
    for rule in rules {
        let asked = metrics(rule["expr"].as_str().expect("an expression"));
        assert!(!asked.is_empty() && asked.is_subset(&documented), "{}: {asked:?}", rule["alert"]);
    }
}

#[test]
fn every_reason_is_explained() {
    let operate = text("docs/operate.md");
    let outcome = |reason: Reason| match reason.outcome() {
        Outcome::Forward => "forward",
        Outcome::Pass => "pass",
        Outcome::Reject => "reject",
        Outcome::Drop => "drop",
    };
    let rows: Vec<_> = Reason::ALL
        .iter()
        .map(|reason| format!("| `{}` | {} | {} |", reason.label(), outcome(*reason), reason.text()))
        .collect();
    let missing: Vec<_> = rows.iter().filter(|row| !operate.contains(row.as_str())).collect();
    assert_eq!(missing, [""; 0], "the rows of docs/operate.md that are missing or differ");
    let present = operate.lines().filter(|line| line.starts_with("| `") && line.matches('|').count() == 4);
    let reasons =
        present.filter(|line| ["forward", "pass", "reject", "drop"].iter().any(|o| line.contains(&format!("| {o} |"))));
    assert_eq!(reasons.count(), rows.len());
}

#[test]
fn commands_in_the_documents_are_commands() {
    let mut seen = 0;
    for file in ["README.md", "docs/install.md", "docs/migrate.md", "docs/operate.md", "docs/troubleshoot.md"] {
        for line in text(file).lines() {
            let Some(command) = line.strip_prefix("    ").filter(|line| line.starts_with("svc-agent ")) else {
                continue;
            };
            // What follows two blanks says what it does; a pipe leads elsewhere.
            let command = command.split("  ").next().unwrap_or_default().split(" | ").next().unwrap_or_default();
            let words: Vec<_> =
                command.split_ascii_whitespace().map(|word| word.trim_matches('\'').to_owned()).collect();
            read(&words).unwrap_or_else(|error| panic!("{file}: {command}: {error}"));
            seen += 1;
        }
    }
    assert!(seen > 10, "{seen} commands");
}
