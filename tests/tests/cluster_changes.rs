//! Deployments and settings change while clients go on: what the controllers write, the agents follow.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use svc_tests::cluster::kubelet::Kubelet;
use svc_tests::cluster::look::{cluster_ips, node_port, until_spread};
use svc_tests::cluster::{self, Cluster, SOON, deployments, services};
use svc_tests::lab::cluster::PodSpec;
use svc_tests::lab::{At, Config, wait};
use svc_tests::traffic::{self, Ask};

fn deployment(name: &str, replicas: u32) -> Value {
    json!({
        "metadata": { "name": name },
        "spec": {
            "replicas": replicas,
            "selector": { "matchLabels": { "app": name } },
            "strategy": { "rollingUpdate": { "maxSurge": 1, "maxUnavailable": 0 } },
            "template": {
                "metadata": { "labels": { "app": name } },
                "spec": { "containers": [{
                    "name": "main", "image": "lab", "ports": [{ "name": "web", "containerPort": 80 }],
                }] },
            },
        },
    })
}

/// Clients of every kind dial all the time while each pod of a Deployment is replaced: none fails. Then it grows and
/// shrinks, and exactly its pods answer.
#[test]
fn a_rolling_update_and_scaling() -> Result<()> {
    cluster::with(Config::default(), |cluster| {
        let pod = PodSpec { name: "client".into(), node: 0, labels: json!({}), ports: json!([]), host_network: false };
        let client = cluster.lab.make_pod(pod)?.place;
        cluster.lab.start_agents()?;
        let mut kubelet = Kubelet::default();
        cluster.api.post(&deployments(""), &deployment("web", 3))?;
        kubelet.roll_out(cluster, "web")?;
        let spec = json!({
            "type": "NodePort", "selector": { "app": "web" }, "ipFamilyPolicy": "RequireDualStack",
            "ports": [{ "port": 80, "targetPort": "web" }],
        });
        let service = cluster.make_service("web", &spec)?;
        let ips = cluster_ips(&service)?;
        let port = node_port(&service, 0)?;
        let ways = |cluster: &Cluster<'_>, family: usize| {
            let at = SocketAddr::new(ips[family], 80);
            [
                (client.clone(), at),
                (cluster.lab.nodes[1].place.clone(), at),
                (cluster.lab.outside.clone(), SocketAddr::new(cluster.lab.nodes[0].ips[family], port)),
            ]
        };
        for family in 0..2 {
            let before: Vec<String> = kubelet.serving().into_iter().map(str::to_owned).collect();
            let mut loads = Vec::new();
            for (from, to) in ways(cluster, family) {
                until_spread(&from, to, &before.iter().map(String::as_str).collect::<Vec<_>>())?;
                loads.push((to, traffic::load(&from, Ask::Tcp, to)?));
            }
            let next = json!({ "metadata": { "annotations": { "round": family.to_string() } } });
            cluster.api.patch(&deployments("web"), &json!({ "spec": { "template": next } }))?;
            let took = kubelet.roll_out(cluster, "web")?;
            let after: Vec<&str> = kubelet.serving();
            ensure!(after.iter().all(|name| !before.iter().any(|old| old == name)), "{before:?}, then {after:?}");
            for (from, to) in ways(cluster, family) {
                until_spread(&from, to, &after)?;
            }
            for (to, load) in loads {
                let report = load.stop()?;
                report.expect_all().with_context(|| format!("new connections to {to} during a rolling update"))?;
                eprintln!(
                    "{to}: {} connections in {:.1} s of rolling update, none failed",
                    report.ok,
                    took.as_secs_f32()
                );
            }
        }
        let (from, to) = (client.clone(), SocketAddr::new(ips[0], 80));
        for replicas in [6, 2, 4] {
            let load = traffic::load(&from, Ask::Tcp, to)?;
            cluster.api.patch(&deployments("web"), &json!({ "spec": { "replicas": replicas } }))?;
            kubelet.roll_out(cluster, "web")?;
            until_spread(&from, to, &kubelet.serving())?;
            load.stop()?.expect_all().with_context(|| format!("new connections while scaled to {replicas}"))?;
        }
        Ok(())
    })
}

/// Affinity is switched on, its time is changed, and it is switched off, all while the Service serves.
#[test]
fn affinity_is_switched() -> Result<()> {
    cluster::with(Config::default(), |cluster| {
        let _one = cluster.add_server("web", "web-1", 0, At::Pod)?;
        let _two = cluster.add_server("web", "web-2", 1, At::Pod)?;
        let (client, _job) = {
            let job = cluster.add_server("client", "client", 0, At::Pod)?;
            (cluster.lab.pod("client")?.place.clone(), job)
        };
        cluster.lab.start_agents()?;
        let spec = json!({
            "selector": { "app": "web" }, "ipFamilyPolicy": "RequireDualStack",
            "ports": [{ "port": 80, "targetPort": "web" }],
        });
        let service = cluster.make_service("web", &spec)?;
        let all = ["web-1", "web-2"];
        for ip in cluster_ips(&service)? {
            let at = SocketAddr::new(ip, 80);
            until_spread(&client, at, &all)?;
            let load = traffic::load(&client, Ask::Tcp, at)?;
            cluster.patch_service("web", &json!({ "spec": { "sessionAffinity": "ClientIP" } }))?;
            wait::until("one endpoint answers all", SOON, || {
                let report = traffic::ask(&client, Ask::Tcp, at, 60)?;
                ensure!(report.expect_all()?.backends.len() == 1, "{:?}", report.backends);
                Ok(())
            })?;
            let second = json!({ "spec": { "sessionAffinityConfig": { "clientIP": { "timeoutSeconds": 1 } } } });
            cluster.patch_service("web", &second)?;
            load.stop()?.expect_all().context("new connections while affinity was switched")?;
            // Whoever pauses for longer than the timeout is free again: sooner or later another endpoint answers.
            let mut seen = std::collections::BTreeSet::new();
            wait::until("affinity ends with its timeout", SOON * 4, || {
                std::thread::sleep(std::time::Duration::from_millis(1500));
                seen.extend(traffic::ask(&client, Ask::Tcp, at, 1)?.expect_all()?.backends.clone().into_keys());
                ensure!(seen.len() == 2, "{seen:?}");
                Ok(())
            })?;
            cluster.patch_service(
                "web",
                &json!({ "spec": { "sessionAffinity": "None", "sessionAffinityConfig": null } }),
            )?;
            until_spread(&client, at, &all)?;
        }
        cluster.api.delete(&services("web"))?;
        Ok(())
    })
}
