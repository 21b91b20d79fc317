//! Endpoints, Services and devices come and go while traffic flows.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use svc_tests::lab::service::TestService;
use svc_tests::lab::{self, At, Config, Topology, wait};
use svc_tests::traffic::{self, Ask, Socket};

/// What a change may take.
const SOON: Duration = Duration::from_secs(1);

#[test]
fn an_endpoint_goes_and_comes_back() -> Result<()> {
    lab::with(Config::default(), |lab| {
        let service = TestService::new("web", 1);
        service.publish(lab)?;
        let (_one, _job1) = lab.add_server("web", "web-1", 0, At::Pod)?;
        let (_two, _job2) = lab.add_server("web", "web-2", 1, At::Pod)?;
        let (client, _job3) = lab.add_server("client", "client", 0, At::Pod)?;
        lab.start_agents()?;
        for family in 0..2 {
            let load = traffic::load(&client.place, Ask::Tcp, service.at(family))?;
            let held = traffic::hold(&client.place, service.at(family), 8)?;
            for (ready, names) in [(false, vec!["web-2"]), (true, vec!["web-1", "web-2"])] {
                lab.publish_pod("web-1", ready)?;
                let took = wait::until("the endpoint follows its pod", SOON, || {
                    let report = traffic::ask(&client.place, Ask::Tcp, service.at(family), 40)?;
                    report.expect_all()?.expect_spread(&names).map(drop)
                })?;
                eprintln!("web-1 ready {ready}: in force after {} ms at most", took.as_millis());
            }
            load.stop()?.expect_all().context("new connections while the endpoint changed")?;
            held.stop()?.expect_all().context("connections from before the change")?;
        }
        Ok(())
    })
}

/// The last endpoint goes: refused at once. It comes back: answered.
#[test]
fn the_last_endpoint_goes_and_comes_back() -> Result<()> {
    lab::with(Config::default(), |lab| {
        let service = TestService::new("web", 1);
        service.publish(lab)?;
        let (_one, _job1) = lab.add_server("web", "web-1", 0, At::Pod)?;
        let (client, _job2) = lab.add_server("client", "client", 0, At::Pod)?;
        lab.start_agents()?;
        traffic::ask(&client.place, Ask::Tcp, service.at(0), 3)?.expect_all()?;
        lab.withdraw_pod("web-1")?;
        wait::until("refused without endpoint", SOON, || {
            traffic::ask(&client.place, Ask::Tcp, service.at(0), 1)?.expect_refused()
        })?;
        lab.publish_pod("web-1", true)?;
        wait::until("served again", SOON, || {
            traffic::ask(&client.place, Ask::Tcp, service.at(0), 1)?.expect_all().map(drop)
        })?;
        // The Service itself goes: nobody answers under its address any more.
        service.withdraw(lab)?;
        wait::until("the Service is gone", SOON, || {
            let report = traffic::ask(&client.place, Ask::Udp, SocketAddr::new(service.ips()[0], 80), 1)?;
            ensure!(report.ok == 0, "still answered");
            Ok(())
        })?;
        Ok(())
    })
}

/// A UDP flow that never pauses leaves a vanished backend within a second; every client kind.
fn udp_leaves(topology: Topology) -> Result<()> {
    lab::with(Config { topology, ..Config::default() }, |lab| {
        let service = TestService::new("dns", 1);
        service.publish(lab)?;
        let (_one, _job1) = lab.add_server("dns", "dns-1", 0, At::Pod)?;
        let (client, _job2) = lab.add_server("client", "client", 0, At::Pod)?;
        lab.start_agents()?;
        // A server lives as long as its job: that of the first family is the one to leave in the second.
        let mut jobs = Vec::new();
        for family in 0..2 {
            let (at, at_node) = (service.at(family), service.at_node(lab, 0, family));
            let flows = [
                ("pod", traffic::flow(&client.place, at, Socket::Connected)?),
                ("host", traffic::flow(&lab.nodes[0].place, at, Socket::Unconnected)?),
                // It is connected to the backend itself: only its owner can move it, who has to be told.
                ("connected host", traffic::flow(&lab.nodes[0].place, at, Socket::Reconnected)?),
                ("outside", traffic::flow(&lab.outside, at_node, Socket::Connected)?),
            ];
            let name = format!("dns-{}", family + 2);
            jobs.push(lab.add_server("dns", &name, 1, At::Pod)?.1);
            wait::until("the new endpoint is in force", SOON, || {
                let report = traffic::ask(&client.place, Ask::Udp, at, 40)?;
                ensure!(report.backends.contains_key(&name), "{:?}", report.backends);
                Ok(())
            })?;
            let gone = format!("dns-{}", family + 1);
            lab.withdraw_pod(&gone)?;
            let deadline = Instant::now() + SOON;
            for (who, flow) in &flows {
                flow.answered_by(&name, deadline).with_context(|| format!("{who}, {at}"))?;
            }
            wait::until("the old endpoint is gone", SOON, || {
                traffic::ask(&client.place, Ask::Udp, at, 40)?.expect_spread(&[&name]).map(drop)
            })?;
            for (who, flow) in flows {
                let report = flow.stop()?;
                let names: Vec<&str> = report.changes.iter().map(|(_, name)| name.as_str()).collect();
                ensure!(names == [gone.as_str(), name.as_str()], "{who}, {at}: answered by {names:?}");
                ensure!(report.failures() <= 20, "{who}, {at}: {:?} unanswered", report.errors);
                let aborted = report.errors.get("aborted").copied().unwrap_or_default();
                ensure!(aborted == u64::from(who == "connected host"), "{who}, {at}: {:?}", report.errors);
            }
        }
        Ok(())
    })
}

#[test]
fn udp_leaves_a_vanished_backend_over_routed_veths() -> Result<()> {
    udp_leaves(Topology::Routed)
}

#[test]
fn udp_leaves_a_vanished_backend_over_bridge_and_tunnel() -> Result<()> {
    udp_leaves(Topology::Bridge)
}

/// A pod that appears while the agent runs is served, as client and as backend, within a second.
#[test]
fn a_new_device_is_served() -> Result<()> {
    for topology in [Topology::Routed, Topology::Bridge] {
        lab::with(Config { topology, ..Config::default() }, |lab| {
            let service = TestService::new("web", 1);
            service.publish(lab)?;
            let (_one, _job1) = lab.add_server("web", "web-1", 1, At::Pod)?;
            lab.start_agents()?;
            let (late, _job2) = lab.add_server("late", "late", 0, At::Pod)?;
            for family in 0..2 {
                let took = wait::until("a new device is served", SOON, || {
                    traffic::ask(&late.place, Ask::Tcp, service.at(family), 5)?.expect_all().map(drop)
                })?;
                eprintln!("{topology:?}: a new pod is served after {} ms at most", took.as_millis());
            }
            Ok(())
        })?;
    }
    Ok(())
}
