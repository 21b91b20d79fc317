//! Where programs are attached, in each way that a kernel may offer: by TCX links, and as filters in a clsact qdisc
//! where it has none (before 6.6). The latter is tried on every kernel. `cargo xtask vm` runs this file on others.

use std::collections::BTreeMap;
use std::os::fd::AsFd as _;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use svc_agent::datapath::{bpf, empty, probe};
use svc_tests::lab::place::{Job, Place};
use svc_tests::lab::service::TestService;
use svc_tests::lab::{self, At, Config, Lab, wait};
use svc_tests::traffic::{self, Ask};

const FILTERS: [&str; 2] = ["--tc", "clsact"];
/// `TC_ACT_UNSPEC`: the next filter decides.
const GO_ON: i32 = -1;

fn args(of: &[&str]) -> Vec<String> {
    of.iter().map(ToString::to_string).collect()
}

/// A lab with one endpoint on each node and a client on the first; its agents run.
struct Stage {
    service: TestService,
    client: Place,
    _jobs: Vec<Job>,
}

fn with_stage(agent_args: &[&str], test: impl FnOnce(&mut Lab, &Stage) -> Result<()>) -> Result<()> {
    lab::with(Config { agent_args: args(agent_args), ..Config::default() }, |lab| {
        let service = TestService::new("web", 1);
        service.publish(lab)?;
        let mut jobs = Vec::new();
        for (name, node) in [("web-1", 0), ("web-2", 1)] {
            jobs.push(lab.add_server("web", name, node, At::Pod)?.1);
        }
        let (client, job) = lab.add_server("client", "client", 0, At::Pod)?;
        jobs.push(job);
        lab.start_agents()?;
        test(lab, &Stage { service, client: client.place, _jobs: jobs })
    })
}

fn everybody_is_served(lab: &Lab, stage: &Stage) -> Result<()> {
    for family in 0..2 {
        let (at, at_node) = (stage.service.at(family), stage.service.at_node(lab, 0, family));
        for ask in [Ask::Tcp, Ask::Udp] {
            let served = |who: &Place, to| -> Result<()> {
                let report = traffic::ask(who, ask, to, 40)?;
                report.expect_all()?.expect_spread(&["web-1", "web-2"])?;
                Ok(())
            };
            served(&stage.client, at).with_context(|| format!("a pod, {ask:?} to {at}"))?;
            served(&lab.nodes[0].place, at).with_context(|| format!("the host, {ask:?} to {at}"))?;
            served(&lab.outside, at_node).with_context(|| format!("outside, {ask:?} to {at_node}"))?;
        }
    }
    Ok(())
}

/// Names of programs in the filters of a device, with their number, both directions together.
fn filters(node: &Place, device: &str) -> Result<BTreeMap<String, usize>> {
    let mut found = BTreeMap::new();
    for direction in ["ingress", "egress"] {
        let text = node.output("tc", &["filter", "show", "dev", device, direction])?;
        for line in text.lines() {
            // "filter protocol all pref 5 bpf chain 0 handle 0x5c tc_egress direct-action not_in_hw id 12 ..."
            let mut words = line.split_ascii_whitespace().skip_while(|word| *word != "handle");
            if let Some(name) = words.nth(2) {
                *found.entry(name.to_owned()).or_default() += 1;
            }
        }
    }
    Ok(found)
}

fn ours() -> BTreeMap<String, usize> {
    BTreeMap::from([("tc_egress".to_owned(), 1), ("tc_ingress".to_owned(), 1)])
}

#[test]
fn everybody_is_served_by_what_the_kernel_has() -> Result<()> {
    with_stage(&[], |lab, stage| {
        everybody_is_served(lab, stage)?;
        let found = filters(&lab.nodes[0].place, "eth0")?;
        let expected = if probe::has_tcx() { BTreeMap::new() } else { ours() };
        ensure!(found == expected, "filters: {found:?}, expected {expected:?}");
        Ok(())
    })
}

#[test]
fn everybody_is_served_by_filters_and_nobody_notices_a_kill() -> Result<()> {
    with_stage(&FILTERS, |lab, stage| {
        everybody_is_served(lab, stage)?;
        let mut loads = Vec::new();
        for family in 0..2 {
            let (at, at_node) = (stage.service.at(family), stage.service.at_node(lab, 0, family));
            loads.push((format!("pod, {at}"), traffic::load(&stage.client, Ask::Tcp, at)?));
            loads.push((format!("outside, {at_node}"), traffic::load(&lab.outside, Ask::Tcp, at_node)?));
            loads.push((format!("held, {at}"), traffic::hold(&stage.client, at, 2)?));
        }
        for _round in 0..3 {
            let agent = lab.agent(0)?;
            agent.kill()?;
            agent.restart()?;
            agent.wait_ready()?;
        }
        for (who, load) in loads {
            load.stop()?.expect_all().context(who)?;
        }
        // Replaced each time, never added.
        for device in ["eth0", "cali1"] {
            let found = filters(&lab.nodes[0].place, device)?;
            ensure!(found == ours(), "{device}: {found:?}");
        }
        Ok(())
    })
}

/// Programs that somebody takes away come back, and everybody is served again; the agent says so once for each device.
fn put_back(agent_args: &[&str], most: Duration, take_away: impl Fn(&Lab, &str) -> Result<f64>) -> Result<()> {
    with_stage(agent_args, |lab, stage| {
        let mut taken = 0.0;
        for device in ["eth0", "cali1"] {
            taken += take_away(lab, device)?;
        }
        let agent = lab.agent(0)?;
        let took = wait::until("the programs are put back", most, || {
            let back = agent.metric("svc_programs_put_back_total")?;
            ensure!(back >= taken, "{back} of {taken} programs are back");
            Ok(())
        })?;
        eprintln!("put back after {} ms", took.as_millis());
        everybody_is_served(lab, stage)?;
        let said = std::fs::read_to_string(lab.dir().join("node-a.log"))?;
        ensure!(said.matches("somebody has taken").count() == 2, "one line a device: {said}");
        Ok(())
    })
}

#[test]
fn filters_that_go_with_their_qdisc_come_back() -> Result<()> {
    put_back(&FILTERS, Duration::from_secs(1), |lab, device| {
        lab.nodes[0].place.output("tc", &["qdisc", "del", "dev", device, "clsact"])?;
        Ok(2.0)
    })
}

/// The kernel says nothing when a link ends: the agent has to look.
#[test]
fn links_that_end_come_back() -> Result<()> {
    if !probe::has_tcx() {
        eprintln!("skipped: this kernel has no TCX");
        return Ok(());
    }
    put_back(&[], Duration::from_secs(15), |lab, device| {
        // "2: eth0@if3: <BROADCAST,..."
        let line = lab.nodes[0].place.output("ip", &["-o", "link", "show", "dev", device])?;
        let index = line.split(':').next().context("ip prints an index")?;
        for program in ["tc_ingress", "tc_egress"] {
            let pin = lab.nodes[0].bpffs.join(format!("links/{program}_{}", index.trim()));
            std::fs::remove_file(&pin).with_context(|| format!("cannot remove {}", pin.display()))?;
        }
        Ok(2.0)
    })
}

/// Filters of others, at the places that ours would take first, stay what they are; `cleanup` takes only ours.
#[test]
fn filters_of_others_are_left_alone() -> Result<()> {
    let others = |node: &Place| -> Result<Vec<String>> {
        let mut all = Vec::new();
        for direction in ["ingress", "egress"] {
            let text = node.output("tc", &["filter", "show", "dev", "eth0", direction])?;
            // As tc calls a program that it has from a pin.
            all.extend(text.lines().filter(|line| line.contains("*fsobj")).map(|l| format!("{direction} {l}")));
        }
        Ok(all)
    };
    lab::with(Config { nodes: 1, agent_args: args(&FILTERS), ..Config::default() }, |lab| {
        let node = lab.nodes[0].place.clone();
        node.output("tc", &["qdisc", "add", "dev", "eth0", "clsact"])?;
        let pin = lab.nodes[0].bpffs.join("stranger");
        let stranger = empty::load(empty::Kind::Classifier, GO_ON).context("cannot load an empty TC program")?;
        bpf::pin(stranger.as_fd(), &pin).context("cannot pin an empty TC program")?;
        for (direction, priority) in [("ingress", "60000"), ("egress", "5"), ("egress", "7")] {
            let filter = ["filter", "add", "dev", "eth0", direction, "pref", priority];
            let program = ["bpf", "direct-action", "object-pinned", &pin.to_string_lossy()];
            node.output("tc", &[&filter[..], &program[..]].concat())?;
        }
        let before = others(&node)?;
        ensure!(before.len() == 3, "{before:?}");

        let service = TestService::new("web", 1);
        service.publish(lab)?;
        let (_web, _job1) = lab.add_server("web", "web-1", 0, At::Pod)?;
        lab.start_agents()?;
        for family in 0..2 {
            traffic::ask(&lab.outside, Ask::Tcp, service.at_node(lab, 0, family), 10)?.expect_all()?;
        }
        let running = (others(&node)?, filters(&node, "eth0")?);
        ensure!(running.0 == before, "{before:?} has become {:?}", running.0);
        ensure!(ours().iter().all(|one| running.1.get(one.0) == Some(one.1)), "{:?}", running.1);

        ensure!(lab.agent(0)?.terminate()?, "the agent ended with an error after SIGTERM");
        let bpffs = lab.nodes[0].bpffs.display().to_string();
        let said = lab.agent(0)?.run(&["cleanup", "--bpffs", &bpffs])?;
        ensure!(said.contains("tc_ingress in the qdisc of eth0"), "cleanup says: {said}");
        ensure!(others(&node)? == before, "{before:?} has become {:?}", others(&node)?);
        let left = filters(&node, "eth0")?;
        ensure!(ours().keys().all(|name| !left.contains_key(name)), "{left:?}");
        Ok(())
    })
}

/// A device that is served no more loses its filters, and one way of attaching gives way to the other, under load.
#[test]
fn what_an_earlier_agent_attached_is_taken_over() -> Result<()> {
    with_stage(&FILTERS, |lab, stage| {
        let load = traffic::load(&stage.client, Ask::Tcp, stage.service.at(0))?;
        let again = |lab: &mut Lab, with: &[&str]| -> Result<()> {
            lab.agent(0)?.kill()?;
            lab.config.agent_args = args(with);
            lab.start_agent(0)?;
            lab.agent(0)?.wait_ready().map(drop)
        };
        let node = lab.nodes[0].place.clone();
        again(lab, &[&FILTERS[..], &["--devices", "default,!eth0"]].concat())?;
        let (uplink, pod) = (filters(&node, "eth0")?, filters(&node, "cali1")?);
        ensure!(uplink.is_empty() && pod == ours(), "eth0: {uplink:?}, cali1: {pod:?}");

        again(lab, &[])?;
        for device in ["eth0", "cali1"] {
            let found = filters(&node, device)?;
            let expected = if probe::has_tcx() { BTreeMap::new() } else { ours() };
            ensure!(found == expected, "{device}: {found:?}, expected {expected:?}");
        }
        everybody_is_served(lab, stage)?;
        again(lab, &FILTERS)?;
        let found = filters(&node, "eth0")?;
        ensure!(found == ours(), "eth0: {found:?}");
        everybody_is_served(lab, stage)?;
        load.stop()?.expect_all()?;
        Ok(())
    })
}
