//! The agent may die at any moment: nobody notices.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use svc_tests::lab::service::TestService;
use svc_tests::lab::{self, At, Config, Topology, wait};
use svc_tests::traffic::{self, Ask};

/// What a change may take.
const SOON: Duration = Duration::from_secs(1);

/// Rounds of a plain test run; the number in the variable otherwise.
fn rounds() -> usize {
    std::env::var("SVC_LAB_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(5)
}

fn killed_under_load(topology: Topology) -> Result<()> {
    lab::with(Config { topology, ..Config::default() }, |lab| {
        let service = TestService::new("web", 1);
        service.publish(lab)?;
        let mut jobs = Vec::new();
        for (name, node) in [("web-1", 0), ("web-2", 1)] {
            jobs.push(lab.add_server("web", name, node, At::Pod)?.1);
        }
        let (client, job) = lab.add_server("client", "client", 0, At::Pod)?;
        jobs.push(job);
        lab.start_agents()?;

        let mut loads = Vec::new();
        for family in 0..2 {
            let (at, at_node) = (service.at(family), service.at_node(lab, 0, family));
            let node = &lab.nodes[0].place;
            loads.push((format!("pod, {at}"), traffic::load(&client.place, Ask::Tcp, at)?));
            loads.push((format!("host, {at}"), traffic::load(node, Ask::Tcp, at)?));
            loads.push((format!("outside, {at_node}"), traffic::load(&lab.outside, Ask::Tcp, at_node)?));
            loads.push((format!("pod over UDP, {at}"), traffic::load(&client.place, Ask::Udp, at)?));
            loads.push((format!("held, {at}"), traffic::hold(&client.place, at, 4)?));
            loads.push((format!("held from outside, {at_node}"), traffic::hold(&lab.outside, at_node, 4)?));
        }
        for round in 0..rounds() {
            let mut ready = Duration::ZERO;
            for index in 0..lab.nodes.len() {
                lab.agent(index)?.kill()?;
            }
            for index in 0..lab.nodes.len() {
                let agent = lab.agent(index)?;
                agent.restart()?;
                ready = ready.max(agent.wait_ready()?);
            }
            eprintln!("round {}: ready again after {} ms", round + 1, ready.as_millis());
        }
        for (who, load) in loads {
            let report = load.stop()?;
            eprintln!("{who}: {} answered, slowest {} ms", report.ok, report.slowest_ms);
            report.expect_all().context(who)?;
        }
        Ok(())
    })
}

#[test]
fn killed_under_load_over_routed_veths() -> Result<()> {
    killed_under_load(Topology::Routed)
}

#[test]
fn killed_under_load_over_bridge_and_tunnel() -> Result<()> {
    killed_under_load(Topology::Bridge)
}

/// After SIGTERM the datapath serves on; what changed meanwhile is in force soon after the next start.
#[test]
fn serves_without_agent_and_catches_up() -> Result<()> {
    lab::with(Config::default(), |lab| {
        let service = TestService::new("web", 1);
        service.publish(lab)?;
        let (_one, _job1) = lab.add_server("web", "web-1", 0, At::Pod)?;
        let (_two, _job2) = lab.add_server("web", "web-2", 0, At::Pod)?;
        let (client, _job3) = lab.add_server("client", "client", 0, At::Pod)?;
        lab.start_agents()?;
        ensure!(lab.agent(0)?.terminate()?, "the agent ended with an error after SIGTERM");
        traffic::ask(&client.place, Ask::Tcp, service.at(0), 40)?.expect_all()?.expect_spread(&["web-1", "web-2"])?;

        lab.publish_pod("web-1", false)?;
        lab.agent(0)?.restart()?;
        // The tables come first; the programs of this agent replace their predecessors when the verifier has seen them.
        let took = wait::until("a missed change is in force", SOON, || {
            traffic::ask(&client.place, Ask::Tcp, service.at(0), 40)?.expect_all()?.expect_spread(&["web-2"]).map(drop)
        })?;
        let ready = lab.agent(0)?.wait_ready()?;
        eprintln!("in force after {} ms, ready after {} ms more", took.as_millis(), ready.as_millis());
        Ok(())
    })
}

/// `cleanup` is the one that takes things away, and it takes away everything.
#[test]
fn cleanup_leaves_nothing() -> Result<()> {
    lab::with(Config::default(), |lab| {
        let service = TestService::new("web", 1);
        service.publish(lab)?;
        let (_one, _job1) = lab.add_server("web", "web-1", 0, At::Pod)?;
        let (client, _job2) = lab.add_server("client", "client", 0, At::Pod)?;
        lab.start_agents()?;
        traffic::ask(&client.place, Ask::Tcp, service.at(0), 5)?.expect_all()?;
        ensure!(lab.agent(0)?.terminate()?, "the agent ended with an error after SIGTERM");

        let bpffs = lab.nodes[0].bpffs.clone();
        lab.agent(0)?.run(&["cleanup", "--bpffs", &bpffs.display().to_string()])?;
        // The kernel itself puts maps.debug and progs.debug into every bpffs.
        let left: Vec<_> = std::fs::read_dir(&bpffs)?.flatten().map(|entry| entry.path()).collect();
        let left: Vec<_> = left.into_iter().filter(|path| path.extension().is_none_or(|e| e != "debug")).collect();
        ensure!(left.is_empty(), "still pinned: {left:?}");
        let report = traffic::ask(&client.place, Ask::Tcp, service.at(0), 1)?;
        ensure!(report.ok == 0, "the Service is still served");
        let ports = lab.nodes[0].place.output("sysctl", &["-n", "net.ipv4.ip_local_reserved_ports"])?;
        ensure!(ports.trim().is_empty(), "ports are still reserved: {ports}");
        Ok(())
    })
}
