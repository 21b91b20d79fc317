//! What `deploy/` allows the agent is enough, and nothing that it watches by is too much: a real API server judges.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use svc_tests::cluster::{self, SOON};
use svc_tests::lab::{Config, wait};

const ROLE: &str = "/apis/rbac.authorization.k8s.io/v1/clusterroles/svc-agent";
const EVENTS: &str = "/apis/events.k8s.io/v1/namespaces/default/events";

/// An agent with all of it is heard by the API server and hears it; without one of its watches it says that it misses
/// something, and with it again it does not.
#[test]
fn each_watch_is_needed_and_events_arrive() -> Result<()> {
    cluster::with(Config { nodes: 1, ..Config::default() }, |cluster| {
        cluster.lab.start_agents()?;
        let node = cluster.lab.nodes[0].name.clone();
        let api = cluster.control.api();
        wait::until("the agent's first event", SOON, || {
            let events = api.get(EVENTS)?;
            let of_node = |event: &Value| event["reason"] == "Starting" && event["regarding"]["name"] == node.as_str();
            let events = events["items"].as_array().context("a list has items")?;
            ensure!(events.iter().any(of_node), "{events:?}");
            Ok(())
        })?;

        let role = api.get(ROLE)?;
        let rules = role["rules"].as_array().context("a role has rules")?.clone();
        let watched = |rule: &&Value| rule["verbs"].as_array().is_some_and(|verbs| verbs.contains(&json!("watch")));
        let resources: Vec<Value> = rules
            .iter()
            .filter(watched)
            .flat_map(|rule| rule["resources"].as_array().cloned().unwrap_or_default())
            .collect();
        ensure!(resources.len() == 4, "{resources:?}");
        for resource in resources {
            let mut fewer = rules.clone();
            for rule in &mut fewer {
                let list = rule["resources"].as_array_mut().context("a rule has resources")?;
                list.retain(|other| *other != resource);
            }
            // A rule about nothing is none.
            fewer.retain(|rule| rule["resources"] != json!([]));
            api.patch(ROLE, &json!({ "rules": fewer }))?;
            cluster.lab.agent(0)?.kill()?;
            cluster.lab.agent(0)?.restart()?;
            cluster.until_age(Duration::from_secs(1)).with_context(|| format!("without {resource}"))?;

            api.patch(ROLE, &json!({ "rules": rules }))?;
            cluster.lab.agent(0)?.kill()?;
            cluster.lab.agent(0)?.restart()?;
            cluster.lab.agent(0)?.wait_ready()?;
            let age = cluster.lab.agent(0)?.metric("svc_state_age_seconds")?;
            ensure!(age == 0.0, "with {resource} again it misses something since {age} s");
        }
        Ok(())
    })
}
