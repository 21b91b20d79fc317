//! `deploy/` as helm and kustomize render it: a real API server accepts both, and both are the same.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use svc_tests::cluster::api::Api;
use svc_tests::cluster::{self, SOON};
use svc_tests::lab::run::Run;
use svc_tests::lab::{Config, tool, wait};

/// Where `cargo xtask` has put helm and kustomize.
const TOOLS: &str = "SVC_CLUSTER_DEPLOY";
const IMAGE: &str = "image=REGISTRY/svc-agent:0.1.0";

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// What the API server makes of each object of a text, by kind.
fn accepted(api: &Api, text: &str) -> Result<BTreeMap<String, Value>> {
    let mut objects = BTreeMap::new();
    for document in format!("\n{text}").split("\n---\n").filter(|document| !document.trim().is_empty()) {
        let object: Value = serde_saphyr::from_str(document)?;
        let word =
            |at: &str| object.pointer(at).and_then(Value::as_str).with_context(|| format!("no {at}: {document}"));
        let (version, kind, name) = (word("/apiVersion")?, word("/kind")?, word("/metadata/name")?);
        let group = if version.contains('/') { format!("/apis/{version}") } else { format!("/api/{version}") };
        let namespace = match kind {
            "ClusterRole" | "ClusterRoleBinding" => String::new(),
            _ => format!("/namespaces/{}", word("/metadata/namespace")?),
        };
        let path = format!("{group}{namespace}/{}s/{name}", kind.to_lowercase());
        let answer = api.would_apply(&path, &object)?;
        ensure!(objects.insert(kind.to_owned(), answer).is_none(), "two objects of kind {kind}");
    }
    Ok(objects)
}

/// Only what says how the agent runs: without what a server notes down, and labels, which each tool has its own of.
fn essence(objects: &mut BTreeMap<String, Value>) -> Result<()> {
    let map = objects.remove("ConfigMap");
    for (kind, object) in objects.iter_mut() {
        object["metadata"] =
            json!({ "name": object["metadata"]["name"], "namespace": object["metadata"]["namespace"] });
        if kind != "DaemonSet" {
            continue;
        }
        object["spec"]["template"]["metadata"]["labels"] =
            json!({ "k8s-app": object["spec"]["template"]["metadata"]["labels"]["k8s-app"] });
        let pod = &mut object["spec"]["template"]["spec"];
        let container = &mut pod["containers"][0];
        // The kubelet's part: a variable that comes from the map becomes its value.
        let (kept, from_map): (Vec<_>, Vec<_>) = container["env"]
            .as_array()
            .context("variables")?
            .iter()
            .cloned()
            .partition(|variable| variable["valueFrom"]["configMapKeyRef"].is_null());
        container["env"] = json!(kept);
        let mut words = Vec::new();
        for word in container["args"].as_array().context("arguments")? {
            let mut word = word.as_str().context("an argument is text")?.replace("--hostname-override=", "--node=");
            for variable in &from_map {
                let name = format!("$({})", variable["name"].as_str().context("a name")?);
                if word.contains(&name) {
                    let source = &variable["valueFrom"]["configMapKeyRef"];
                    let map = map.as_ref().context("no map is rendered")?;
                    ensure!(map["metadata"]["name"] == source["name"], "{source} names another map than {map}");
                    let key = source["key"].as_str().context("a key")?;
                    word = word.replace(&name, map["data"][key].as_str().with_context(|| format!("no {key}: {map}"))?);
                }
            }
            words.push(word);
        }
        words.sort_unstable();
        container["args"] = json!(words);
    }
    Ok(())
}

/// What helm makes of the chart with these values. It writes nothing into the user's own folders.
fn helm(tools: &Path, folder: &Path, values: &[&str]) -> Result<String> {
    let mut helm = Command::new(tools.join("helm"));
    for variable in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
        helm.env(variable, folder);
    }
    helm.args(["template", "svc"]).arg(root("deploy/helm/svc")).args(["--namespace", "kube-system"]);
    for value in [&[IMAGE], values].concat() {
        helm.args(["--set", value]);
    }
    tool::output(&mut helm)
}

#[test]
fn the_chart_brings_the_alert_rules_when_asked() -> Result<()> {
    let Some(tools) = std::env::var_os(TOOLS).map(PathBuf::from) else {
        eprintln!("skipped: needs helm: run it by `cargo xtask test cluster`");
        return Ok(());
    };
    let run = Run::begin(false)?;
    let folder = run.dir().join("helm");
    let rule = |values: &[&str]| -> Result<Option<Value>> {
        let text = helm(&tools, &folder, &[&["apiServer=https://192.0.2.1:6443"], values].concat())?;
        let document = text.split("\n---\n").find(|document| document.contains("kind: PrometheusRule"));
        Ok(document.map(serde_saphyr::from_str).transpose()?)
    };
    ensure!(rule(&[])?.is_none(), "not asked for");
    let rules: Value = serde_saphyr::from_str(&fs::read_to_string(root("deploy/monitoring/alerts.yaml"))?)?;
    let brought = rule(&["prometheusRule=true"])?.context("a PrometheusRule")?;
    ensure!(brought["spec"] == rules, "{brought}");
    Ok(())
}

#[test]
fn both_tools_render_the_same_and_it_is_accepted() -> Result<()> {
    let Some(tools) = std::env::var_os(TOOLS).map(PathBuf::from) else {
        eprintln!("skipped: needs helm and kustomize: run it by `cargo xtask test cluster`");
        return Ok(());
    };
    cluster::with(Config { nodes: 1, ..Config::default() }, |cluster| {
        let api = &cluster.api;
        wait::until("the namespace kube-system", SOON, || api.get("/api/v1/namespaces/kube-system").map(drop))?;
        // The folder that the document describes.
        let document = fs::read_to_string(root("docs/install.md"))?;
        let (_, block) = document.split_once("with this `kustomization.yaml`").context("docs/install.md shows it")?;
        let lines = block.lines().skip(2).map_while(|line| line.strip_prefix("    "));
        let base = lines.collect::<Vec<_>>().join("\n");
        let (before, rest) = base.split_once("configMapGenerator:").context("a map")?;
        let (_, images) = rest.split_once("images:").context("images")?;
        let kubeadm = format!("{}images:{images}", before.replace("kustomize/base", "kustomize/kubeadm"));
        let address = ["apiServer=https://192.0.2.1:6443", "clusterCIDR=10.244.0.0/16"];
        let folder = cluster.lab.dir().join("deploy");
        for (way, kustomization, values) in
            [("base", base, &address[..]), ("kubeadm", kubeadm, &["kubeProxyConfigMap=kube-proxy"])]
        {
            let folder = folder.join(way);
            fs::create_dir_all(&folder)?;
            tool::output(Command::new("cp").arg("-r").arg(root("deploy/kustomize")).arg(&folder))?;
            fs::write(folder.join("kustomization.yaml"), kustomization)?;
            let kustomize = tool::output(Command::new(tools.join("kustomize")).arg("build").arg(&folder))?;
            let helm = helm(&tools, &folder, values)?;
            let mut both = BTreeMap::new();
            for (tool, text) in [("kustomize", &kustomize), ("helm", &helm)] {
                let mut objects = accepted(api, text).with_context(|| format!("{way} by {tool}:\n{text}"))?;
                ensure!(objects.contains_key("DaemonSet"), "{way} by {tool}: no DaemonSet");
                essence(&mut objects).with_context(|| format!("{way} by {tool}"))?;
                both.insert(tool, objects);
            }
            if both["kustomize"] != both["helm"] {
                let [ours, theirs] = ["kustomize", "helm"].map(|tool| serde_json::to_string_pretty(&both[tool]));
                let (ours, theirs) = (ours?, theirs?);
                let differ: Vec<_> = ours.lines().filter(|line| !theirs.lines().any(|other| other == *line)).collect();
                bail!("{way}: kustomize says {differ:?} where helm does not\n{ours}\n{theirs}");
            }
        }
        Ok(())
    })
}
