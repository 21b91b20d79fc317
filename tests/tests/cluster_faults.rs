//! The API server goes away, comes back with another state, forgets, freezes, and a proxy on the way sends garbage:
//! what has served goes on serving, and what changed meanwhile is in force soon after.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use svc_tests::cluster::faults::{Fault, Faults};
use svc_tests::cluster::look::{cluster_ips, until_spread};
use svc_tests::cluster::{self, Cluster};
use svc_tests::lab::place::{Job, Place};
use svc_tests::lab::{At, Config, wait};
use svc_tests::traffic::{self, Ask};

/// What the agent may take after a fault has ended: its longest pause between two attempts is 8 s.
const RECOVERY: Duration = Duration::from_secs(30);
/// Metric: for how long the API server is not heard.
const AGE: &str = "svc_state_age_seconds";

/// One node, two pods behind a Service in both families, a pod that asks.
struct Stage {
    client: Place,
    at: Vec<SocketAddr>,
    _jobs: Vec<Job>,
}

impl Stage {
    /// The same with a proxy between the agents and the API server.
    fn behind_faults(cluster: &mut Cluster<'_>) -> Result<(Self, Faults)> {
        let address = format!("{}:8081", cluster.control.ip());
        let faults = Faults::start(cluster.control.place(), &address, &cluster.control.plain_server())?;
        cluster.follow_by(&format!("http://{address}"))?;
        Ok((Self::serving(cluster)?, faults))
    }

    /// With an agent that has the Service in force.
    fn serving(cluster: &mut Cluster<'_>) -> Result<Self> {
        let mut jobs = Vec::new();
        for name in ["web-1", "web-2"] {
            jobs.push(cluster.add_server("web", name, 0, At::Pod)?);
        }
        jobs.push(cluster.add_server("client", "client", 0, At::Pod)?);
        let spec = json!({
            "selector": { "app": "web" }, "ipFamilyPolicy": "RequireDualStack",
            "ports": [{ "port": 80, "targetPort": "web" }],
        });
        let service = cluster.make_service("web", &spec)?;
        let at = cluster_ips(&service)?.into_iter().map(|ip| SocketAddr::new(ip, 80)).collect();
        let stage = Self { client: cluster.lab.pod("client")?.place.clone(), at, _jobs: jobs };
        cluster.lab.start_agents()?;
        stage.until(&["web-1", "web-2"])?;
        Ok(stage)
    }

    fn until(&self, names: &[&str]) -> Result<()> {
        self.at.iter().try_for_each(|at| until_spread(&self.client, *at, names).map(drop))
    }

    /// Like `until`, when an agent may be waiting before its next attempt.
    fn until_recovered(&self, names: &[&str]) -> Result<Duration> {
        wait::until("what changed meanwhile is in force", RECOVERY, || self.until(names))
    }

    /// What serves now, without waiting.
    fn expect(&self, names: &[&str]) -> Result<()> {
        for at in &self.at {
            traffic::ask(&self.client, Ask::Tcp, *at, 60)?.expect_all()?.expect_spread(names)?;
        }
        Ok(())
    }
}

fn one_node() -> Config {
    Config { nodes: 1, ..Config::default() }
}

/// An agent that reaches the API server through a proxy meets each fault in turn: at its first list, and in a watch that
/// runs. Nothing that served is interrupted, nothing is taken away, and the change of that time is in force after it.
#[test]
fn faults_on_the_way() -> Result<()> {
    cluster::with(one_node(), |cluster| {
        let (stage, mut faults) = Stage::behind_faults(cluster)?;
        let mut there = true;
        for fault in [
            Fault::Cut,
            Fault::Freeze,
            Fault::Delay(700),
            Fault::Status(410),
            Fault::Status(429),
            Fault::Status(503),
            Fault::Status(403),
            Fault::Page,
            Fault::Empty,
            Fault::Truncate(1000),
            Fault::Garble(400),
        ] {
            for restart in [false, true] {
                let what = format!("{fault:?}, {}", if restart { "a new agent" } else { "a watch that runs" });
                let load = traffic::load(&stage.client, Ask::Tcp, stage.at[0])?;
                faults.cut_then(&fault)?;
                if restart {
                    cluster.lab.agent(0)?.kill()?;
                    cluster.lab.agent(0)?.restart()?;
                }
                let before: &[&str] = if there { &["web-1", "web-2"] } else { &["web-1"] };
                // Delay keeps nothing back, silence is noticed after minutes only, and the answer to a watch that is
                // resumed is so short that its end is out of reach while nothing changes.
                let hidden = match fault {
                    Fault::Delay(_) | Fault::Freeze => true,
                    Fault::Truncate(_) | Fault::Garble(_) => !restart,
                    _ => false,
                };
                if !hidden {
                    cluster.until_age(Duration::from_secs(1)).with_context(|| what.clone())?;
                    stage.expect(before).with_context(|| what.clone())?;
                }
                cluster.set_ready("web-2", !there)?;
                there = !there;
                faults.set(&Fault::None)?;
                let after: &[&str] = if there { &["web-1", "web-2"] } else { &["web-1"] };
                let took = stage.until_recovered(after).with_context(|| what.clone())?;
                load.stop()?.expect_all().with_context(|| format!("new connections: {what}"))?;
                cluster.lab.agent(0)?.wait_ready()?;
                eprintln!("{what}: the change is in force {:.1} s after it", took.as_secs_f32());
            }
        }
        wait::until("the API server is heard", RECOVERY, || {
            let age = cluster.lab.agent(0)?.metric(AGE)?;
            ensure!(age == 0.0, "silent for {age} s");
            Ok(())
        })?;
        Ok(())
    })
}

/// The API server itself: away, frozen, and back with an older state.
#[test]
fn an_api_server_that_goes_and_comes() -> Result<()> {
    cluster::with(one_node(), |cluster| {
        let stage = Stage::serving(cluster)?;
        let load = traffic::load(&stage.client, Ask::Tcp, stage.at[0])?;

        // What is stored now is what it comes back with later.
        cluster.control.stop_controllers()?;
        cluster.control.stop_api_server()?;
        cluster.control.stop_etcd()?;
        cluster.control.save()?;
        cluster.until_age(Duration::from_secs(2))?;
        stage.expect(&["web-1", "web-2"]).context("while the API server is away")?;
        cluster.control.start_all()?;
        stage.until_recovered(&["web-1", "web-2"])?;

        let third = cluster.add_server("web", "web-3", 0, At::Pod)?;
        stage.until_recovered(&["web-1", "web-2", "web-3"])?;
        cluster.control.signal_api_server("STOP")?;
        stage.expect(&["web-1", "web-2", "web-3"]).context("while the API server is frozen")?;
        cluster.control.signal_api_server("CONT")?;

        cluster.control.stop_controllers()?;
        cluster.control.stop_api_server()?;
        cluster.control.stop_etcd()?;
        cluster.control.restore()?;
        cluster.control.start_all()?;
        // web-3 has never been, as far as the API server knows.
        let took = stage.until_recovered(&["web-1", "web-2"]).context("after an older state")?;
        eprintln!("an API server with an older state: followed {:.1} s after it was ready", took.as_secs_f32());
        drop(third);
        load.stop()?.expect_all().context("new connections while the API server went and came")?;
        Ok(())
    })
}

/// An agent was away for so long that the API server has forgotten what it missed.
#[test]
fn history_that_is_forgotten() -> Result<()> {
    cluster::with(one_node(), |cluster| {
        let (stage, mut faults) = Stage::behind_faults(cluster)?;
        cluster.make_service("gone", &json!({ "clusterIP": "10.96.7.7", "ports": [{ "port": 80 }] }))?;
        cluster.until_frontends(0, "gone", &[SocketAddr::from(([10, 96, 7, 7], 80))].into())?;

        faults.cut_then(&Fault::Freeze)?;
        cluster.withdraw_service("gone")?;
        cluster.set_ready("web-2", false)?;
        // The API server keeps some history in memory beside etcd's: it begins anew when it is started again.
        cluster.control.compact()?;
        cluster.control.stop_api_server()?;
        cluster.control.start_api_server()?;
        cluster.control.wait_ready()?;
        cluster.control.compact()?;
        faults.cut_then(&Fault::None)?;
        let took = stage.until_recovered(&["web-1"])?;
        wait::until("what vanished meanwhile is gone", RECOVERY, || {
            let frontends = cluster.frontends(0, "gone")?;
            ensure!(frontends.is_empty(), "{frontends:?}");
            Ok(())
        })?;
        eprintln!("history forgotten: followed after {:.1} s", took.as_secs_f32());
        Ok(())
    })
}
