//! `svc-agent doctor --migrate` asks a real API server: the Services that kube-proxy and the agent treat differently are
//! named, with what differs, and no others.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use svc_tests::cluster::look::node_port;
use svc_tests::cluster::{self, Cluster, services};
use svc_tests::lab::place::Job;
use svc_tests::lab::{Config, tool, wait};

const ROLE: &str = "/apis/rbac.authorization.k8s.io/v1/clusterroles/svc-agent";
const EVENTS: &str = "/apis/events.k8s.io/v1/namespaces/default/events";
/// What no device has and no class of addresses excludes.
const EXTERNAL: [&str; 2] = ["198.51.100.7", "2001:db8:100::7"];
/// Addresses of the node that are not its primary ones.
const SECOND: [&str; 2] = ["203.0.113.77/32", "2001:db8:77::1/128"];

/// `doctor --migrate` on the first node: what it prints, or the error that it ends with.
fn doctor(cluster: &Cluster<'_>, more: &[&str]) -> Result<String> {
    let node = &cluster.lab.nodes[0];
    let agent = tool::sibling("svc-agent", "SVC_AGENT")?;
    let args = [&["doctor", "--migrate", "--node", node.name.as_str()], more].concat();
    node.place.output(&agent.to_string_lossy(), &args)
}

/// The rows of its table: a Service and what would change.
fn table(said: &str) -> Result<BTreeMap<String, BTreeSet<String>>> {
    let (_, table) = said.split_once("WHAT WOULD CHANGE").with_context(|| format!("no table in {said}"))?;
    let (mut rows, mut last) = (BTreeMap::<_, BTreeSet<_>>::new(), String::new());
    for line in table.lines().skip(1).take_while(|line| !line.ends_with("stay as they are")) {
        // The blank before each cell: a row that goes on has an empty first one.
        let (service, change) = line[1..].split_once("  ").with_context(|| format!("no columns in {line:?}"))?;
        if !service.is_empty() {
            service.clone_into(&mut last);
        }
        rows.entry(last.clone()).or_default().insert(change.trim().to_owned());
    }
    Ok(rows)
}

/// A process that is called kube-proxy, has this configuration and does nothing.
fn start_kube_proxy(cluster: &Cluster<'_>, mode: &str, settings: &str) -> Result<Job> {
    let dir = cluster.lab.dir();
    let program = dir.join("kube-proxy");
    if !program.exists() {
        fs::copy(tool::sibling("lab-helper", "SVC_LAB_HELPER")?, &program)?;
    }
    let kubeconfig = cluster.control.kubeconfig("agent", &format!("https://{}", cluster.control.server()))?;
    let config = dir.join("kube-proxy.yaml");
    fs::write(
        &config,
        format!(
            "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nmode: {mode}\n\
             clientConnection: {{kubeconfig: {}}}\n{settings}\n",
            kubeconfig.display()
        ),
    )?;
    let args = [format!("--config={}", config.display())];
    let job = cluster.lab.nodes[0].place.spawn(&program, &args, &dir.join("kube-proxy.log"))?;
    let comm = format!("/proc/{}/comm", job.id());
    wait::until("the process has its name", Duration::from_secs(5), || {
        let name = fs::read_to_string(&comm)?;
        ensure!(name.trim() == "kube-proxy", "it is called {name}");
        Ok(())
    })?;
    Ok(job)
}

#[test]
fn what_would_change_is_read_from_the_api_server() -> Result<()> {
    cluster::with(Config { nodes: 1, ..Config::default() }, |cluster| {
        let web = json!([{ "name": "web", "port": 80 }]);
        let dual = "RequireDualStack";
        let make = |name: &str, spec: serde_json::Value| cluster.make_service(name, &spec);
        make("plain", json!({ "ipFamilyPolicy": dual, "ports": web }))?;
        make("headless", json!({ "clusterIP": "None", "ports": web }))?;
        make("elsewhere", json!({ "type": "ExternalName", "externalName": "svc.example", "ports": web }))?;
        make("outer", json!({ "ipFamilyPolicy": dual, "ports": web, "externalIPs": EXTERNAL }))?;
        // Both are of another proxy, and of no interest: kube-proxy does not serve them either.
        make("theirs", json!({ "type": "NodePort", "ports": web, "externalIPs": EXTERNAL }))?;
        let label = json!({ "metadata": { "labels": { "service.kubernetes.io/service-proxy-name": "other" } } });
        cluster.patch_service("theirs", &label)?;
        let ported = make("ported", json!({ "type": "NodePort", "ipFamilyPolicy": dual, "ports": web }))?;
        // A load balancer without node ports is the same with both.
        let balanced = json!({
            "type": "LoadBalancer", "ipFamilyPolicy": dual, "ports": web, "allocateLoadBalancerNodePorts": false,
        });
        make("balanced", balanced)?;
        let ingress = ["198.51.100.8", "2001:db8:100::8"].map(|ip| json!({ "ip": ip }));
        let status = json!({ "status": { "loadBalancer": { "ingress": ingress } } });
        cluster.api.patch(&format!("{}/status", services("balanced")), &status)?;
        make("chosen", json!({ "ports": web }))?;
        cluster.patch_service("chosen", &json!({ "metadata": { "annotations": { "svc.dev/scheduler": "rr" } } }))?;
        let before = cluster.api.get(&services(""))?["items"].clone();

        let port = node_port(&ported, 0)?;
        let node = &cluster.lab.nodes[0];
        node.place.ip(&["link", "add", "second", "type", "veth", "peer", "name", "third"])?;
        for address in SECOND {
            node.place.ip(&["addr", "add", address, "dev", "second"])?;
        }
        let (mut others, mut localhost) = (BTreeSet::new(), BTreeSet::new());
        for family in 0..2 {
            let all = node.addresses(family)?;
            let rest: Vec<_> = all.iter().filter(|ip| **ip != node.ips[family]).map(ToString::to_string).collect();
            if !rest.is_empty() {
                others.insert(format!("node port {port} no longer answers at {}", rest.join(", ")));
            }
            localhost.insert(format!("node port {port} also answers at {}", ["127.0.0.1", "::1"][family]));
        }
        ensure!(others.len() == 2, "the node has no other addresses, so that nothing would differ: {others:?}");
        let outer: BTreeSet<_> =
            EXTERNAL.map(|ip| format!("external IP {ip} is not served: --allow-external-ips does not name it")).into();
        let v6_localhost = format!("node port {port} also answers at ::1");
        let rows = |ported: BTreeSet<String>| {
            BTreeMap::from([("default/outer".to_owned(), outer.clone()), ("default/ported".to_owned(), ported)])
        };
        let expect = |more: &[&str], wanted: BTreeMap<String, BTreeSet<String>>, same: usize| {
            let said = doctor(cluster, more)?;
            let rows = table(&said)?;
            ensure!(rows == wanted, "{more:?}: {rows:#?}\nwanted {wanted:#?}\n{said}");
            ensure!(said.contains(&format!("\n{same} Services stay as they are")), "{same} stay: {said}");
            Ok(said)
        };

        // Mode iptables, the default: every address, and IPv4's localhost. Nothing runs that could say where the API
        // server is.
        let kubeconfig = cluster.control.kubeconfig("agent", &format!("https://{}", cluster.control.server()))?;
        let by_file = ["--kubeconfig", &kubeconfig.to_string_lossy()].map(str::to_owned);
        let by_file = by_file.each_ref().map(String::as_str);
        let mut iptables = others.clone();
        iptables.insert(v6_localhost);
        let said = expect(&by_file, rows(iptables), 7)?;
        ensure!(said.contains("no process and no rules; compared with mode iptables"), "{said}");

        // Mode nftables: the primary addresses, no localhost. The API server is the one of kube-proxy's own file.
        let job = start_kube_proxy(cluster, "nftables", "")?;
        expect(&[], rows(localhost.clone()), 7)?;
        // An allowed address is served, by both.
        let allowed = [&by_file[..], &["--allow-external-ips=198.51.100.0/24,2001:db8:100::/64"]].concat();
        expect(&allowed, BTreeMap::from([("default/ported".to_owned(), localhost.clone())]), 8)?;
        drop(job);

        // Mode ipvs: every address and no localhost; its scheduler comes with its file.
        let job = start_kube_proxy(cluster, "ipvs", "ipvs: {scheduler: sh}")?;
        expect(&[], rows(others.union(&localhost).cloned().collect()), 7)?;
        // With another scheduler each Service changes but those that have their own or no endpoints to choose.
        let rr = "endpoints are chosen by rr, not by sh; svc.dev/scheduler: sh keeps it".to_owned();
        let mut wanted = rows(localhost.clone());
        wanted.get_mut("default/ported").context("it is there")?.extend(others.clone());
        for name in ["balanced", "kubernetes", "outer", "plain", "ported"] {
            wanted.entry(format!("default/{name}")).or_default().insert(rr.clone());
        }
        expect(&[&by_file[..], &["--scheduler=rr"]].concat(), wanted, 4)?;
        drop(job);

        ensure!(cluster.api.get(&services(""))?["items"] == before, "something was changed");
        let events = cluster.api.get(EVENTS)?["items"].to_string();
        ensure!(!events.contains("svc-agent"), "{events}");
        Ok(())
    })
}

/// What cannot be read is named at once, with the way out.
#[test]
fn what_cannot_be_read_is_named() -> Result<()> {
    cluster::with(Config { nodes: 1, ..Config::default() }, |cluster| {
        let server = format!("https://{}", cluster.control.server());
        let refused = |user: &str, server: &str, words: &[&str]| {
            let file = cluster.control.kubeconfig(user, server)?;
            let began = Instant::now();
            let Err(error) = doctor(cluster, &["--kubeconfig", &file.to_string_lossy()]) else {
                anyhow::bail!("{user} at {server} was answered")
            };
            let said = format!("{error:#}");
            let missing: Vec<_> = words.iter().filter(|word| !said.contains(**word)).collect();
            ensure!(missing.is_empty(), "{missing:?} is not in: {said}");
            ensure!(began.elapsed() < Duration::from_secs(10), "only after {:?}: {said}", began.elapsed());
            Ok(())
        };
        refused("nobody", &server, &["401", "or --manifests PATH"])?;
        refused("agent", &format!("https://{}:1", cluster.control.ip()), &["refused", "or --manifests PATH"])?;
        let rules = cluster.api.get(ROLE)?["rules"].clone();
        let mut fewer = rules;
        fewer.as_array_mut().context("a role has rules")?.retain(|rule| rule["resources"] != json!(["endpointslices"]));
        cluster.api.patch(ROLE, &json!({ "rules": fewer }))?;
        wait::until("the role is in force", Duration::from_secs(10), || {
            refused("agent", &server, &["endpointslices", "403", "or --manifests PATH"])
        })
        .map(drop)
    })
}
