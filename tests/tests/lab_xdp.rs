//! The external fast path: what comes from outside for another node's pod is turned around at XDP, and nobody can tell
//! except by the counters of the node that it passed.

use anyhow::{Context, Result, ensure};
use svc_tests::lab::service::TestService;
use svc_tests::lab::{self, At, Config, Lab, Topology};
use svc_tests::traffic::{self, Ask};

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

#[test]
#[ignore = "the lab's wires do not take XDP_TX yet: their far ends have no XDP program"]
fn turned_around_before_the_stack() -> Result<()> {
    for (mode, by_stack) in [("xdp", false), ("off", true)] {
        let agent_args = vec!["--external-fast-path".into(), mode.into()];
        let config = Config { agent_args, xdp_wires: true, ..Config::default() };
        lab::with(config, |lab| {
            let service = TestService::new("web", 1);
            service.publish(lab)?;
            let (_far, _job) = lab.add_server("web", "web-1", 1, At::Pod)?;
            lab.start_agents()?;
            for family in 0..2 {
                let at = service.at_node(lab, 0, family);
                let seen = lab.nodes[0].addresses(family)?;
                // The first connection may go through the stack, which has to learn its neighbours.
                traffic::ask(&lab.outside, Ask::Tcp, at, 5)?.expect_all()?;
                let before = forwarded(lab, 0)?;
                for ask in [Ask::Tcp, Ask::Udp] {
                    let report = traffic::ask(&lab.outside, ask, at, 500)?;
                    report.expect_all()?.expect_sources(&seen)?;
                    ensure!(report.slowest_ms < 900, "{} ms: a packet was lost", report.slowest_ms);
                }
                let now = forwarded(lab, 0)? - before;
                ensure!((now > 3000) == by_stack, "{mode}: the stack forwarded {now} packets");
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// A backend on this node, and pods behind a tunnel, go through the stack; the answers are the same.
#[test]
#[ignore = "the lab's wires do not take XDP_TX yet: their far ends have no XDP program"]
fn everything_else_is_passed_on() -> Result<()> {
    for topology in [Topology::Routed, Topology::Bridge] {
        let config = Config {
            topology,
            xdp_wires: true,
            agent_args: vec!["--external-fast-path".into(), "xdp".into()],
            ..Config::default()
        };
        lab::with(config, |lab| {
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
