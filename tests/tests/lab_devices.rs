//! Devices of every kind, and devices that come and go.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use svc_tests::lab::cluster::Pod;
use svc_tests::lab::service::TestService;
use svc_tests::lab::{self, At, Config, Lab, Topology, wait};
use svc_tests::traffic::{self, Ask};

/// Questions of each pair.
const FEW: u64 = 20;
/// What a change may take.
const SOON: Duration = Duration::from_secs(1);

/// A tunnel whose packets have no Ethernet header between node-a and node-b, in place of the routes to each other's pods.
fn join_by_layer3(lab: &Lab) -> Result<()> {
    for (own, other) in [(0, 1), (1, 0)] {
        let (n, m) = (own + 1, other + 1);
        let to = lab.nodes[other].ips[0];
        lab.nodes[own].place.ip_batch(&format!(
            "link add over0 type vxlan external gpe dstport 4790\n\
             link set over0 mtu 1430 up\n\
             addr add 10.244.{n}.0/32 dev over0\n\
             addr add fd00:10:244:{n}::/128 dev over0\n\
             route replace 10.244.{m}.0/24 encap ip id 7 dst {to} dev over0\n\
             route replace fd00:10:244:{m}::/64 encap ip id 7 dst {to} dev over0\n"
        ))?;
    }
    Ok(())
}

/// A service with a backend on node-b, and a client's pod on node-a.
fn far_and_client(lab: &mut Lab) -> Result<(TestService, Pod, [svc_tests::lab::place::Job; 2])> {
    let service = TestService::new("far", 1);
    service.publish(lab)?;
    let (_, far) = lab.add_server("far", "far", 1, At::Pod)?;
    let (client, own) = lab.add_server("client", "client", 0, At::Pod)?;
    Ok((service, client, [far, own]))
}

#[test]
fn a_tunnel_without_link_layer() -> Result<()> {
    lab::with(Config::default(), |lab| {
        join_by_layer3(lab)?;
        let (service, client, _jobs) = far_and_client(lab)?;
        lab.start_agents()?;
        for family in 0..2 {
            let nodes = lab.nodes[0].addresses(family)?;
            for ask in [Ask::Tcp, Ask::Udp] {
                for (who, from, to, seen) in [
                    ("pod", &client.place, service.at(family), vec![client.ips[family]]),
                    ("host", &lab.nodes[0].place, service.at(family), nodes.clone()),
                    ("outside", &lab.outside, service.at_node(lab, 0, family), nodes.clone()),
                ] {
                    traffic::ask(from, ask, to, FEW)?
                        .expect_all()
                        .and_then(|report| report.expect_sources(&seen))
                        .with_context(|| format!("{who} to {to} over {}", ask.word()))?;
                }
            }
            for (from, to) in [(&client.place, service.at(family)), (&lab.outside, service.at_node(lab, 0, family))] {
                traffic::transfer(from, to, 20_000_000)?.expect_all().with_context(|| format!("much to {to}"))?;
            }
        }
        // What has no Ethernet header cannot be turned around.
        ensure!(lab.agent(0)?.packets("turned_around")? == 0, "turned around");
        Ok(())
    })
}

/// Without socket hooks a process of the host is translated where its packet leaves, and the packet goes on by the way of
/// the backend: a pod's device, or a tunnel. Strict reverse path filtering does not allow for that: the reply does not
/// come by the way to the Service.
#[test]
fn a_process_of_the_host_without_socket_hooks() -> Result<()> {
    for topology in [Topology::Routed, Topology::Bridge] {
        let agent_args = vec!["--socket-lb".into(), "off".into()];
        lab::with(Config { topology, hostile: false, agent_args, ..Config::default() }, |lab| {
            let near = TestService::new("near", 2);
            near.publish(lab)?;
            let (_pod, _job) = lab.add_server("near", "near", 0, At::Pod)?;
            let (far, _client, _jobs) = far_and_client(lab)?;
            lab.start_agents()?;
            for family in 0..2 {
                let nodes = lab.nodes[0].addresses(family)?;
                for (service, ask) in [(&near, Ask::Tcp), (&near, Ask::Udp), (&far, Ask::Tcp), (&far, Ask::Udp)] {
                    let at = service.at(family);
                    traffic::ask(&lab.nodes[0].place, ask, at, FEW)?
                        .expect_all()
                        .and_then(|report| report.expect_sources(&nodes))
                        .with_context(|| format!("{} at {at} over {}, {topology:?}", service.name, ask.word()))?;
                }
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// The addresses of the node stand on a bridge, and its uplink is a port of that.
#[test]
fn a_bridge_as_uplink() -> Result<()> {
    lab::with(Config::default(), |lab| {
        for index in 0..2 {
            let [v4, v6] = lab.nodes[index].ips;
            let other = 1 - index;
            let [hop4, hop6] = lab.nodes[other].ips;
            let m = other + 1;
            let place = &lab.nodes[index].place;
            place.ip_batch(&format!(
                "link add br0 type bridge mcast_snooping 0\n\
                 addr flush dev eth0 scope global\n\
                 link set eth0 master br0\n\
                 link set br0 up\n\
                 addr add {v4}/24 dev br0\n\
                 addr add {v6}/64 dev br0\n\
                 route replace default via 192.168.77.1\n\
                 route replace default via fd00:77::1\n\
                 route replace 10.244.{m}.0/24 via {hop4}\n\
                 route replace fd00:10:244:{m}::/64 via {hop6}\n"
            ))?;
            place
                .sysctl(&[("net.bridge.bridge-nf-call-iptables", "1"), ("net.bridge.bridge-nf-call-ip6tables", "1")])?;
        }
        let (service, client, _jobs) = far_and_client(lab)?;
        let near = TestService::new("near", 2);
        near.publish(lab)?;
        let (_pod, _job) = lab.add_server("near", "near", 0, At::Pod)?;
        lab.start_agents()?;
        for family in 0..2 {
            for service in [&service, &near] {
                for ask in [Ask::Tcp, Ask::Udp] {
                    for (who, from, to) in [
                        ("pod", &client.place, service.at(family)),
                        ("host", &lab.nodes[0].place, service.at(family)),
                        ("outside", &lab.outside, service.at_node(lab, 0, family)),
                    ] {
                        traffic::ask(from, ask, to, FEW)?
                            .expect_all()
                            .with_context(|| format!("{who} to {} at {to} over {}", service.name, ask.word()))?;
                    }
                }
            }
        }
        Ok(())
    })
}

/// A pod on macvlan has no device on the host: its sockets are served.
#[test]
fn a_pod_without_a_device_on_the_host() -> Result<()> {
    let config = Config { agent_args: vec!["--socket-lb".into(), "all".into()], ..Config::default() };
    lab::with(config, |lab| {
        let service = TestService::new("web", 1);
        service.publish(lab)?;
        let (_far, _job1) = lab.add_server("web", "web-1", 1, At::Host(8081))?;
        let (client, _job2) = lab.add_server("client", "client", 0, At::Pod)?;
        let device = client.device.as_deref().context("a pod's device")?;
        let node = &lab.nodes[0].place;
        node.ip(&["link", "del", device])?;
        node.ip_batch(&format!(
            "link add link eth0 name mac0 type macvlan mode bridge\n\
             link set mac0 netns {} name eth0\n",
            client.place.netns()
        ))?;
        client.place.ip_batch(
            "addr add 192.168.77.50/24 dev eth0\n\
             addr add fd00:77::50/64 dev eth0\n\
             link set eth0 up\n\
             route add default via 192.168.77.1\n\
             route add default via fd00:77::1\n",
        )?;
        lab.start_agents()?;
        for (family, own) in [(0, "192.168.77.50"), (1, "fd00:77::50")] {
            for ask in [Ask::Tcp, Ask::Udp] {
                traffic::ask(&client.place, ask, service.at(family), FEW)?
                    .expect_all()
                    .and_then(|report| report.expect_sources(&[own.parse()?]))
                    .with_context(|| format!("{own} over {}", ask.word()))?;
            }
        }
        Ok(())
    })
}

/// Interface indices of the devices at which programs of node-a hang.
fn attached(lab: &mut Lab) -> Result<Vec<u64>> {
    let status = lab.agent(0)?.show("status")?;
    let links = status["programs"].as_array().context("status has programs")?;
    let indices = links.iter().filter_map(|link| link["link"].as_str()?.rsplit_once('_')?.1.parse().ok());
    Ok(indices.collect())
}

/// The index of a device of node-a.
fn index(lab: &Lab, device: &str) -> Result<u64> {
    let said = lab.nodes[0].place.output("ip", &["-o", "link", "show", "dev", device])?;
    Ok(said.split(':').next().context("an index")?.trim().parse()?)
}

#[test]
fn devices_come_and_go() -> Result<()> {
    lab::with(Config::default(), |lab| {
        let (service, client, _jobs) = far_and_client(lab)?;
        lab.start_agents()?;
        let asks = |pod: &Pod, family: usize| {
            traffic::ask(&pod.place, Ask::Tcp, service.at(family), 1)?.expect_all().map(drop)
        };

        // Renamed while a connection is open: the same device.
        let held = traffic::hold(&client.place, service.at(0), 4)?;
        let device = client.device.clone().context("a pod's device")?;
        lab.nodes[0].place.ip(&["link", "set", &device, "name", "caliren"])?;
        for family in 0..2 {
            wait::until("the renamed device is served", SOON, || asks(&client, family))?;
        }
        held.stop()?.expect_all().context("a connection over a device that was renamed")?;

        // Later ones are served at once.
        let (later, _job) = lab.add_server("later", "later", 0, At::Pod)?;
        for family in 0..2 {
            let took = wait::until("the new device is served", SOON, || asks(&later, family))?;
            eprintln!("a new device is served after {} ms at most", took.as_millis());
        }

        // Gone: nothing of it stays. Gone while nobody looks: the next agent finds out.
        let gone = later.device.context("a pod's device")?;
        let number = index(lab, &gone)?;
        ensure!(attached(lab)?.contains(&number), "{gone} has programs");
        lab.nodes[0].place.ip(&["link", "del", &gone])?;
        wait::until("the pins of a device go with it", SOON, || {
            ensure!(!attached(lab)?.contains(&number), "{gone} has pins");
            Ok(())
        })?;
        let (last, _job) = lab.add_server("last", "last", 0, At::Pod)?;
        wait::until("the new device is served", SOON, || asks(&last, 0))?;
        let gone = last.device.context("a pod's device")?;
        let number = index(lab, &gone)?;
        lab.agent(0)?.kill()?;
        lab.nodes[0].place.ip(&["link", "del", &gone])?;
        ensure!(attached(lab)?.contains(&number), "a pin outlives its device");
        lab.agent(0)?.restart()?;
        lab.agent(0)?.wait_ready()?;
        wait::until("the next agent removes it", SOON, || {
            ensure!(!attached(lab)?.contains(&number), "{gone} has pins");
            Ok(())
        })?;
        asks(&client, 0)?;
        asks(&client, 1)
    })
}
