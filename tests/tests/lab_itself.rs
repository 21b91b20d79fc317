//! The lab before any agent runs in it: everybody reaches whom he should, nobody whom he should not, nothing stays.

use std::net::{IpAddr, SocketAddr};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use svc_tests::lab::cluster::{Pod, PodSpec};
use svc_tests::lab::place::{Job, Place};
use svc_tests::lab::{self, Config, Lab, Topology, tool};
use svc_tests::traffic::{self, Ask};

fn pod(lab: &mut Lab, name: &str, node: usize) -> Result<(Pod, Job)> {
    let pod = lab.make_pod(PodSpec {
        name: name.into(),
        node,
        labels: json!({ "app": name }),
        ports: json!([{ "containerPort": 80 }]),
        host_network: false,
    })?;
    let job = lab.start_server(name, &[80])?;
    Ok((pod, job))
}

fn reaches(from: &Place, to: IpAddr, seen_as: IpAddr) -> Result<()> {
    for ask in [Ask::Tcp, Ask::Udp] {
        let report = traffic::ask(from, ask, SocketAddr::new(to, 80), 4)?;
        report.expect_all()?.expect_sources(&[seen_as])?;
        ensure!(report.slowest_ms < 900, "to {to}: {} ms, a packet was lost", report.slowest_ms);
    }
    Ok(())
}

fn everybody_reaches_pods(topology: Topology) -> Result<()> {
    lab::with(Config { topology, ..Config::default() }, |lab| {
        let (one, _one) = pod(lab, "one", 0)?;
        let (two, _two) = pod(lab, "two", 0)?;
        let (far, _far) = pod(lab, "far", 1)?;
        for family in 0..2 {
            reaches(&one.place, two.ips[family], one.ips[family])?;
            reaches(&one.place, far.ips[family], one.ips[family])?;
            for pod in [&one, &far] {
                let report = traffic::ask(&lab.nodes[0].place, Ask::Tcp, SocketAddr::new(pod.ips[family], 80), 1)?;
                report.expect_all()?;
            }
        }
        Ok(())
    })
}

#[test]
fn everybody_reaches_pods_over_routed_veths() -> Result<()> {
    everybody_reaches_pods(Topology::Routed)
}

#[test]
fn everybody_reaches_pods_over_bridge_and_tunnel() -> Result<()> {
    everybody_reaches_pods(Topology::Bridge)
}

/// Number of packets that a rule or a counter of the node has dropped, from the line that holds a word.
fn dropped(node: &Place, command: &[&str], word: &str) -> Result<u64> {
    let text = node.output(command[0], &command[1..])?;
    let line = text.lines().find(|line| line.contains(word)).with_context(|| format!("no {word} in {text}"))?;
    let mut words = line.split_ascii_whitespace().skip_while(|word| *word != "packets" && !word.starts_with("TcpExt"));
    words.nth(1).and_then(|count| count.parse().ok()).with_context(|| format!("no number in {line}"))
}

/// A sender that does not come back the way it came, and a pair that is nobody's: neither is forwarded.
#[test]
fn the_neighbour_is_hostile() -> Result<()> {
    lab::with(Config::default(), |lab| {
        let (one, _one) = pod(lab, "one", 0)?;
        let (far, _far) = pod(lab, "far", 1)?;
        let node = &lab.nodes[0].place;
        let rules = ["nft", "list", "table", "inet", "hostile"];
        let try_it = |from: &str, to: IpAddr| {
            let url = format!("http://{}/", SocketAddr::new(to, 80));
            one.place.output("curl", &["-sS", "--max-time", "0.5", "--interface", from, &url])
        };
        for (stranger, target, command, word) in [
            ("10.96.0.1", far.ips[0], ["nstat", "-az", "TcpExtIPReversePathFilter"].as_slice(), "ReversePath"),
            ("fd00:10:96::1", far.ips[1], rules.as_slice(), "oif missing"),
        ] {
            // Its gateway is known from an honest connection: the stranger's question for it would not be answered.
            try_it("eth0", target)?;
            one.place.ip(&["addr", "add", stranger, "dev", "eth0"])?;
            ensure!(try_it(stranger, target).is_err(), "{stranger} was let through to {target}");
            ensure!(dropped(node, command, word)? > 0, "{stranger} was not dropped where it should be");
        }
        ensure!(try_it("eth0", "10.96.0.9".parse()?).is_err(), "a service address was answered without any agent");
        ensure!(dropped(node, &rules, "nobody's pair")? > 0, "an untranslated address was forwarded");
        Ok(())
    })
}

#[test]
fn checksums_survive_the_way() -> Result<()> {
    for offloads in [true, false] {
        lab::with(Config { topology: Topology::Bridge, offloads, ..Config::default() }, |lab| {
            let (one, _one) = pod(lab, "one", 0)?;
            let (far, _far) = pod(lab, "far", 1)?;
            for to in far.ips {
                traffic::transfer(&one.place, SocketAddr::new(to, 80), 20_000_000)?.expect_all()?;
            }
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn a_deployment_becomes_pods() -> Result<()> {
    lab::with(Config::default(), |lab| {
        let manifest = include_str!("../../examples/web.yaml");
        let _servers = lab.deploy(manifest)?;
        let names: Vec<_> = lab.pods().iter().map(|pod| pod.name.clone()).collect();
        ensure!(names == ["web-deploy-1", "web-deploy-2", "web-deploy-3"], "{names:?}");
        let node = lab.nodes[1].place.clone();
        for pod in lab.pods() {
            for ip in pod.ips {
                let report = traffic::ask(&node, Ask::Http, SocketAddr::new(ip, 80), 3)?;
                report.expect_all()?.expect_spread(&[&pod.name])?;
            }
        }
        Ok(())
    })
}

#[test]
fn nothing_stays_behind() -> Result<()> {
    let mut made = None;
    lab::with(Config::default(), |lab| {
        let (one, job) = pod(lab, "one", 0)?;
        made = Some((one.place.netns().to_owned(), one.place.cgroup().to_owned(), lab.dir()));
        // As if its owner had forgotten it.
        std::mem::forget(job);
        Ok(())
    })?;
    let Some((netns, cgroup, dir)) = made else { return Ok(()) };
    let left = tool::output(Command::new("ip").args(["netns", "list"]))?;
    ensure!(!left.contains(&netns), "{netns} is still there");
    ensure!(!cgroup.exists(), "{} is still there", cgroup.display());
    ensure!(!dir.exists(), "{} is still there", dir.display());
    Ok(())
}
