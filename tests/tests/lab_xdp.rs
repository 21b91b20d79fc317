//! The external fast path: what comes from outside for another node's pod is turned around before the stack, and nobody
//! can tell except by the counters of the node that it passed.

use anyhow::{Context, Result, ensure};
use svc_tests::lab::service::TestService;
use svc_tests::lab::{self, At, Config, Lab, Topology};
use svc_tests::traffic::{self, Ask};

/// Connections of each kind.
const MANY: u64 = 300;

/// Packets that the node's stack has forwarded.
fn forwarded(lab: &Lab, node: usize) -> Result<u64> {
    let mut sum = 0;
    for counter in ["IpForwDatagrams", "Ip6OutForwDatagrams"] {
        let text = lab.nodes[node].place.output("nstat", &["-az", counter])?;
        let line = text.lines().find(|line| line.starts_with(counter)).context("nstat does not know its counter")?;
        sum += line.split_ascii_whitespace().nth(1).context("a number")?.parse::<u64>()?;
    }
    Ok(sum)
}

/// A lab with a fast path. Frames of XDP need wires that take them.
fn config(mode: &str, topology: Topology) -> Config {
    let agent_args = vec!["--external-fast-path".into(), mode.into()];
    Config { agent_args, topology, xdp_wires: mode == "xdp", ..Config::default() }
}

/// A client outside asks the node port of node-a, and the only backend is on node-b: node-a's stack forwards nothing of
/// it, and its programs turn all of it around.
fn turned_around(mode: &str, topology: Topology) -> Result<()> {
    lab::with(config(mode, topology), |lab| {
        let service = TestService::new("web", 1);
        service.publish(lab)?;
        let (_far, _job) = lab.add_server("web", "web-1", 1, At::Pod)?;
        lab.start_agents()?;
        for family in 0..2 {
            let at = service.at_node(lab, 0, family);
            let seen = lab.nodes[0].addresses(family)?;
            for ask in [Ask::Tcp, Ask::Udp] {
                let (stack, turned) = (forwarded(lab, 0)?, lab.agent(0)?.packets("turned_around")?);
                let report = traffic::ask(&lab.outside, ask, at, MANY)?;
                report.expect_all()?.expect_sources(&seen)?;
                ensure!(report.slowest_ms < 900, "{} ms: a packet was lost", report.slowest_ms);
                let (stack, turned) = (forwarded(lab, 0)? - stack, lab.agent(0)?.packets("turned_around")? - turned);
                // Question and answer; a TCP connection is some eight packets more.
                let least = if ask == Ask::Tcp { 8 * MANY } else { 2 * MANY };
                if mode == "off" {
                    ensure!(turned == 0 && stack >= least, "off: turned {turned}, through the stack {stack}");
                } else {
                    ensure!(turned >= least, "{mode}, {}: turned {turned} only", ask.word());
                    ensure!(stack < 10, "{mode}, {}: the stack forwarded {stack}, turned {turned}", ask.word());
                }
            }
            traffic::transfer(&lab.outside, at, 20_000_000)?.expect_all()?;
        }
        let status = lab.agent(0)?.show("status")?;
        let uplink = status["devices"].as_array().and_then(|devices| devices.iter().find(|d| d["name"] == "eth0"));
        let expected = match mode {
            "xdp" => "XDP in the driver",
            "off" => "off",
            _ => "TC",
        };
        ensure!(uplink.is_some_and(|device| device["fast_path"] == expected), "{mode}: status says {status:#}");
        Ok(())
    })
}

#[test]
fn by_xdp_over_routes() -> Result<()> {
    turned_around("xdp", Topology::Routed)
}

/// The tunnel's frames are the stack's to wrap: TC hands them over, and takes the answers out of it.
#[test]
fn by_xdp_and_tc_over_a_tunnel() -> Result<()> {
    turned_around("xdp", Topology::Bridge)
}

#[test]
fn by_tc_over_routes() -> Result<()> {
    turned_around("tc", Topology::Routed)
}

#[test]
fn by_tc_over_a_tunnel() -> Result<()> {
    turned_around("tc", Topology::Bridge)
}

/// A veth is no hardware: its frames may lack their checksum, and XDP is not for them unless it is asked for.
#[test]
fn by_default_a_virtual_uplink_is_served_by_tc() -> Result<()> {
    turned_around("auto", Topology::Routed)
}

#[test]
fn by_nobody_if_so_wished() -> Result<()> {
    turned_around("off", Topology::Routed)
}

/// Backends here and there share the connections as they should, and those here are reached through the stack.
#[test]
fn backends_here_are_passed_on() -> Result<()> {
    for topology in [Topology::Routed, Topology::Bridge] {
        lab::with(config("xdp", topology), |lab| {
            let service = TestService::new("web", 1);
            service.publish(lab)?;
            let (_near, _job1) = lab.add_server("web", "web-1", 0, At::Pod)?;
            let (_far, _job2) = lab.add_server("web", "web-2", 1, At::Pod)?;
            lab.start_agents()?;
            for family in 0..2 {
                for ask in [Ask::Tcp, Ask::Udp] {
                    let report = traffic::ask(&lab.outside, ask, service.at_node(lab, 0, family), 500)?;
                    report.expect_all()?.expect_spread(&["web-1", "web-2"])?;
                }
                traffic::transfer(&lab.outside, service.at_node(lab, 0, family), 20_000_000)?.expect_all()?;
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// Connections go on when XDP goes away under them, and when it comes.
#[test]
fn connections_survive_a_change_of_the_way() -> Result<()> {
    lab::with(config("xdp", Topology::Routed), |lab| {
        let service = TestService::new("web", 1);
        service.publish(lab)?;
        let (_far, _job) = lab.add_server("web", "web-1", 1, At::Pod)?;
        lab.start_agents()?;
        let held = [0, 1].map(|family| traffic::hold(&lab.outside, service.at_node(lab, 0, family), 20));
        for mode in ["tc", "off", "auto", "xdp"] {
            let agent = lab.agent(0)?;
            ensure!(agent.terminate()?, "the agent did not end well");
            agent.set_arg("--external-fast-path", mode)?;
            agent.restart()?;
            agent.wait_ready()?;
            for family in 0..2 {
                traffic::ask(&lab.outside, Ask::Tcp, service.at_node(lab, 0, family), 50)?
                    .expect_all()
                    .with_context(|| format!("new connections, {mode}"))?;
            }
        }
        for load in held {
            let report = load?.stop()?;
            report.expect_all().context("held connections")?;
            ensure!(report.slowest_ms < 900, "{} ms: a packet of a held connection was lost", report.slowest_ms);
        }
        Ok(())
    })
}
