//! Translation ports: more connections than there are ports, faster than the backend forgets them.

use std::thread;

use anyhow::{Context, Result, anyhow, ensure};
use svc_tests::lab::place::Place;
use svc_tests::lab::service::TestService;
use svc_tests::lab::{self, At, Config, Lab};
use svc_tests::traffic::{self, Ask, Report};

/// So few ports come round many times before the backend has forgotten one of them.
const PORTS: &str = "20000-22047";
/// Connections of each client.
const EACH: u64 = 5_000;
/// Names and addresses of the clients. Each has a clock of its own in its timestamps, as every address has.
const CLIENTS: [(&str, u8); 4] = [("client-1", 101), ("client-2", 102), ("client-3", 103), ("client-4", 104)];

fn all_at_once(clients: &[Place], to: std::net::SocketAddr) -> Result<Report> {
    thread::scope(|scope| {
        let asking: Vec<_> =
            clients.iter().map(|client| scope.spawn(move || traffic::ask(client, Ask::Tcp, to, EACH))).collect();
        let mut sum = Report::default();
        for client in asking {
            sum.add(client.join().map_err(|_| anyhow!("a client panicked"))??);
        }
        Ok(sum)
    })
}

fn busy(lab: &mut Lab) -> Result<()> {
    let service = TestService::new("far", 1);
    service.publish(lab)?;
    let (_pod, _job) = lab.add_server("far", "far", 1, At::Pod)?;
    let clients: Vec<Place> =
        CLIENTS.iter().map(|(name, host)| Ok(lab.add_host(name, *host)?.0)).collect::<Result<_>>()?;
    lab.start_agents()?;
    for family in 0..2 {
        let at = service.at_node(lab, 0, family);
        let report = all_at_once(&clients, at)?;
        let (ok, late, slowest, took) = (report.ok, report.late, report.slowest_ms, report.took_ms);
        eprintln!("{at}: {ok} answers in {took} ms, {late} late, slowest {slowest} ms");
        report.expect_all().with_context(|| at.to_string())?;
        let nodes = lab.nodes[0].addresses(family)?;
        report.expect_sources(&nodes)?;
        // A busy machine may hold last packets back for longer than a port rests at this rate.
        ensure!(late * 500 <= ok, "{at}: {late} of {ok} connections met what the backend remembered of others");
    }
    Ok(())
}

/// From several clients to a node port whose backend is on the other node, turned around at the uplink.
#[test]
fn ports_come_round_before_they_are_forgotten() -> Result<()> {
    let agent_args = ["--snat-port-range", PORTS].map(String::from).to_vec();
    lab::with(Config { agent_args, ..Config::default() }, busy)
}

/// The same through the stack of the node.
#[test]
fn ports_come_round_through_the_stack() -> Result<()> {
    let agent_args = ["--snat-port-range", PORTS, "--external-fast-path", "off"].map(String::from).to_vec();
    lab::with(Config { agent_args, ..Config::default() }, busy)
}
