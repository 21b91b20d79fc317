//! What takes real links and real stacks: datagrams in pieces, the path MTU, hops that run out, sums that a device has
//! made.

use std::fs::File;
use std::io::{ErrorKind, Read as _, Seek as _, SeekFrom};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt as _;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use svc_tests::lab::cluster::{Pod, PodSpec};
use svc_tests::lab::place::Job;
use svc_tests::lab::service::{TestService, pod_ports};
use svc_tests::lab::{self, At, Config, Lab, Topology, topology, wait};
use svc_tests::traffic::{self, Ask};

/// A datagram of this many bytes is cut on every link.
const LARGE: usize = 8000;
/// One that is cut by hand into four pieces.
const FOUR: usize = 4000;

/// A pod that sends datagrams back, in pieces of that order, and its Service.
fn echo(lab: &mut Lab, name: &str, number: u8, node: usize, order: &str) -> Result<(TestService, Pod, Job)> {
    let pod = lab.make_pod(PodSpec {
        name: name.into(),
        node,
        labels: serde_json::json!({ "app": name }),
        ports: pod_ports(80),
        host_network: false,
    })?;
    let at = pod.ips.map(|ip| SocketAddr::new(ip, 80));
    let job = traffic::echo(&pod.place, order, &at, &lab.dir().join(format!("echo-{name}.log")))?;
    wait::until(&format!("{name} listens"), Duration::from_secs(10), || {
        let listening = pod.place.output("ss", &["-Hlun"])?;
        ensure!(listening.matches(":80 ").count() == 2, "nobody listens: {listening}");
        Ok(())
    })?;
    lab.publish_pod(name, true)?;
    let service = TestService::new(name, number);
    service.publish(lab)?;
    Ok((service, pod, job))
}

fn large_datagrams(topology: Topology) -> Result<()> {
    lab::with(Config { topology, ..Config::default() }, |lab| {
        let (near, _pod, _job1) = echo(lab, "near", 1, 0, "-")?;
        let (far, _pod, _job2) = echo(lab, "far", 2, 1, "-")?;
        let (own, client, _job3) = echo(lab, "own", 3, 0, "-")?;
        lab.start_agents()?;
        for family in 0..2 {
            for service in [&near, &far, &own] {
                let (at, at_node) = (service.at(family), service.at_node(lab, 0, family));
                for (who, from, to) in [
                    ("pod", &client.place, at),
                    ("host", &lab.nodes[0].place, at),
                    ("pod, node port", &client.place, at_node),
                    ("outside", &lab.outside, at_node),
                ] {
                    traffic::say(from, to, LARGE, "-")
                        .with_context(|| format!("{who} to {} at {to}, {topology:?}", service.name))?;
                }
            }
        }
        Ok(())
    })
}

#[test]
fn large_datagrams_go_there_and_back_over_routed_veths() -> Result<()> {
    large_datagrams(Topology::Routed)
}

#[test]
fn large_datagrams_go_there_and_back_over_bridge_and_tunnel() -> Result<()> {
    large_datagrams(Topology::Bridge)
}

fn pieces(topology: Topology) -> Result<()> {
    lab::with(Config { topology, ..Config::default() }, |lab| {
        let (near, _pod, _job1) = echo(lab, "near", 1, 0, "3,1,0,2")?;
        let (far, _pod, _job2) = echo(lab, "far", 2, 1, "3,2,1,0")?;
        let (own, client, _job3) = echo(lab, "own", 3, 0, "1,0,3,2")?;
        lab.start_agents()?;
        for family in 0..2 {
            for service in [&near, &far, &own] {
                for order in ["0,1,2,3", "0,3,2,1", "1,0,2,3", "3,2,1,0"] {
                    let at_node = service.at_node(lab, 0, family);
                    for (who, from, to) in
                        [("pod", &client.place, service.at(family)), ("outside", &lab.outside, at_node)]
                    {
                        traffic::say(from, to, FOUR, order)
                            .with_context(|| format!("{who} to {} at {to}, {order}, {topology:?}", service.name))?;
                    }
                }
            }
        }
        let held = lab.agent(0)?.metric_with("svc_verdicts_total", "reason=\"fragment_held\"")?;
        ensure!(held > 0.0, "no piece has waited, so this test has shown nothing");
        Ok(())
    })
}

#[test]
fn pieces_arrive_in_whatever_order_they_come_over_routed_veths() -> Result<()> {
    pieces(Topology::Routed)
}

#[test]
fn pieces_arrive_in_whatever_order_they_come_over_bridge_and_tunnel() -> Result<()> {
    pieces(Topology::Bridge)
}

/// Bytes of a link that is narrower than all others.
const NARROW: &str = "1300";

/// A narrow link on the way to the backend, known to its node only; and one on the way to the client, known to the
/// router.
#[test]
fn the_path_mtu_is_found_through_a_service() -> Result<()> {
    lab::with(Config::default(), |lab| {
        let (near, near_job) = lab.add_server("near", "near", 0, At::Pod)?;
        let (far, far_job) = lab.add_server("far", "far", 1, At::Pod)?;
        let (client, _job) = lab.add_server("client", "client", 0, At::Pod)?;
        let services = [TestService::new("near", 1), TestService::new("far", 2)];
        for service in &services {
            service.publish(lab)?;
        }
        for (pod, node) in [(&near, 0), (&far, 1)] {
            let device = pod.device.as_deref().context("a pod with a device")?;
            for ip in pod.ips {
                lab.nodes[node].place.ip(&["route", "replace", &ip.to_string(), "dev", device, "mtu", NARROW])?;
            }
        }
        for ip in topology::OUTSIDE {
            lab.router.ip(&["route", "replace", &ip.to_string(), "dev", "out0", "mtu", NARROW])?;
        }
        lab.start_agents()?;
        for family in 0..2 {
            for service in &services {
                let (at, at_node) = (service.at(family), service.at_node(lab, 0, family));
                for (who, from, to) in
                    [("pod", &client.place, at), ("host", &lab.nodes[0].place, at), ("outside", &lab.outside, at_node)]
                {
                    let report = traffic::transfer(from, to, 2_000_000)?;
                    report.expect_all().with_context(|| format!("{who} to {} at {to}", service.name))?;
                }
                for place in [&lab.outside, &client.place] {
                    place.ip(&["route", "flush", "cache"])?;
                    place.ip(&["-6", "route", "flush", "cache"])?;
                }
                // The client hears of the datagram that it has sent, from whoever could not send it on.
                let heard = traffic::hear(&lab.outside, at_node, 64, 1400).context("outside")?;
                ensure!(heard.to == at_node && is_too_big(heard.kind, family), "{heard:?} about {at_node}");
                let heard = traffic::hear(&client.place, at, 64, 1400).context("pod")?;
                ensure!(heard.to == at && is_too_big(heard.kind, family), "{heard:?} about {at}");
                let route = client.place.output("ip", &["route", "get", &at.ip().to_string()])?;
                ensure!(route.contains(&format!("mtu {NARROW}")), "the pod's stack has learnt nothing: {route}");
            }
        }
        drop((near_job, far_job));
        Ok(())
    })
}

fn is_too_big(kind: u8, family: usize) -> bool {
    kind == if family == 0 { 3 } else { 2 }
}

/// Who traces a route through a Service finds routers, and at its end the Service itself.
#[test]
fn a_trace_through_a_service_shows_routers_and_then_the_service() -> Result<()> {
    lab::with(Config::default(), |lab| {
        let (far, _job1) = lab.add_server("far", "far", 1, At::Pod)?;
        let (client, _job2) = lab.add_server("client", "client", 0, At::Pod)?;
        let service = TestService::new("far", 1);
        service.publish(lab)?;
        lab.start_agents()?;
        for family in 0..2 {
            let (at, at_node) = (service.at(family), service.at_node(lab, 0, family));
            let exceeded = if family == 0 { 11 } else { 3 };
            let known: [Vec<IpAddr>; 2] = [lab.nodes[0].addresses(family)?, lab.nodes[1].addresses(family)?];
            for (from, to, hops) in [(&client.place, at, 2), (&lab.outside, at_node, 3)] {
                for hop in 1..=hops {
                    let heard = traffic::hear(from, to, hop, 32).with_context(|| format!("hop {hop} to {to}"))?;
                    ensure!(heard.kind == exceeded && heard.to == to, "hop {hop} to {to}: {heard:?}");
                    ensure!(!far.ips.contains(&heard.from), "hop {hop} to {to} shows the backend");
                }
            }
            // The last node before the backend, and it alone, knows the way there.
            let heard = traffic::hear(&client.place, at, 2, 32)?;
            ensure!(known[1].contains(&heard.from), "{heard:?}: hop 2 is node-b");
        }
        Ok(())
    })
}

/// Text that the kernel logs when a device's sum over a packet is not what the packet sums up to.
const FAULT: &str = "hw csum failure";

/// A tunnel whose outer checksums are real hands the stack a sum over the inner packet: the state that a network card
/// delivers. Whoever changes bytes has to change the sum with them, or the kernel logs it.
#[test]
fn sums_that_a_device_has_made_follow_the_changes() -> Result<()> {
    let config = Config { topology: Topology::Bridge, tunnel_sums: true, ..Config::default() };
    lab::with(config, |lab| {
        let (_far, _job1) = lab.add_server("far", "far", 1, At::Pod)?;
        let (client, _job2) = lab.add_server("client", "client", 0, At::Pod)?;
        let service = TestService::new("far", 1);
        service.publish(lab)?;
        for node in &lab.nodes {
            // The sender finishes every checksum, inner and outer.
            node.place.features("eth0", &["tx", "off", "tso", "off", "gso", "off"])?;
            node.place.features("flannel.1", &["tx", "off", "tso", "off", "gso", "off"])?;
        }
        client.place.features("eth0", &["tx", "off", "tso", "off", "gso", "off"])?;
        lab.start_agents()?;
        let mut log = KernelLog::from_now()?;
        for family in 0..2 {
            for (from, to) in [
                (&client.place, service.at(family)),
                (&lab.outside, service.at_node(lab, 0, family)),
                (&lab.nodes[0].place, service.at(family)),
            ] {
                for ask in [Ask::Tcp, Ask::Udp] {
                    traffic::ask(from, ask, to, 20)?.expect_all()?;
                }
                traffic::transfer(from, to, 500_000)?.expect_all()?;
            }
        }
        let faults: Vec<String> = log.lines()?.into_iter().filter(|line| line.contains(FAULT)).collect();
        ensure!(faults.is_empty(), "the kernel says {faults:?}");
        Ok(())
    })
}

/// What the kernel logs from now on.
struct KernelLog(File);

impl KernelLog {
    fn from_now() -> Result<Self> {
        let mut file = File::options()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open("/dev/kmsg")
            .context("cannot read the kernel's log")?;
        file.seek(SeekFrom::End(0))?;
        Ok(Self(file))
    }

    fn lines(&mut self) -> Result<Vec<String>> {
        let mut lines = Vec::new();
        let mut record = vec![0; 8192];
        loop {
            match self.0.read(&mut record) {
                Ok(length) => lines.push(String::from_utf8_lossy(&record[..length]).into_owned()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(lines),
                // Overwritten before it was read.
                Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
                Err(error) => return Err(error).context("cannot read the kernel's log"),
            }
        }
    }
}
