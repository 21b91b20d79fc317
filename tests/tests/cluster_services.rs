//! Services of a real API server with endpoints of the real controllers, served to real clients.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use svc_tests::cluster::look::{cluster_ips, node_port, until_refused, until_spread};
use svc_tests::cluster::{self, Cluster, SOON, services, slices};
use svc_tests::lab::cluster::PodSpec;
use svc_tests::lab::place::{Job, Place};
use svc_tests::lab::{At, Config, wait};
use svc_tests::traffic::{self, Ask};

/// What a load balancer of the tests gives out.
const VIPS: [&str; 2] = ["198.51.100.1", "2001:db8:51::1"];

/// A pod that only asks.
fn client(cluster: &mut Cluster<'_>) -> Result<Place> {
    let spec = PodSpec { name: "client".into(), node: 0, labels: json!({}), ports: json!([]), host_network: false };
    Ok(cluster.lab.make_pod(spec)?.place)
}

fn servers(cluster: &mut Cluster<'_>, app: &str) -> Result<[Job; 2]> {
    Ok([
        cluster.add_server(app, &format!("{app}-1"), 0, At::Pod)?,
        cluster.add_server(app, &format!("{app}-2"), 1, At::Pod)?,
    ])
}

/// One port 80 to the port called `web`, in both families.
fn spec(kind: &str, app: &str) -> Value {
    json!({
        "type": kind, "selector": { "app": app }, "ipFamilyPolicy": "RequireDualStack",
        "ports": [{ "port": 80, "targetPort": "web" }],
    })
}

/// Addresses that the API server gives out are those that answer: at the cluster IPs from a pod and from a host, at the
/// node ports and the load balancer's addresses from outside. The Service `kubernetes` is one of them: the API server
/// behind the address that agents do not need.
#[test]
fn each_type_of_service() -> Result<()> {
    cluster::with(Config::default(), |cluster| {
        let _servers = servers(cluster, "web")?;
        let client = client(cluster)?;
        cluster.lab.start_agents()?;
        let service = cluster.make_service("web", &spec("LoadBalancer", "web"))?;
        let ingress: Vec<Value> = VIPS.iter().map(|ip| json!({ "ip": ip })).collect();
        let status = json!({ "status": { "loadBalancer": { "ingress": ingress } } });
        cluster.api.patch(&format!("{}/status", services("web")), &status)?;
        let outside = cluster.lab.outside.clone();
        for (family, ip) in cluster_ips(&service)?.into_iter().enumerate() {
            let at = SocketAddr::new(ip, 80);
            for from in [&client, &cluster.lab.nodes[1].place] {
                until_spread(from, at, &["web-1", "web-2"])?;
            }
            let port = node_port(&service, 0)?;
            for node in &cluster.lab.nodes {
                until_spread(&outside, SocketAddr::new(node.ips[family], port), &["web-1", "web-2"])?;
            }
            let vip: IpAddr = VIPS[family].parse()?;
            cluster.lab.route_outside(vip, family)?;
            until_spread(&outside, SocketAddr::new(vip, 80), &["web-1", "web-2"])?;
            until_spread(&client, SocketAddr::new(vip, 80), &["web-1", "web-2"])?;
        }
        cluster.set_ready("web-1", false)?;
        let at = SocketAddr::new(cluster_ips(&service)?[0], 80);
        let took = until_spread(&client, at, &["web-2"])?;
        eprintln!("a pod that became unready: in force after {} ms at most", took.as_millis());
        cluster.withdraw_pod("web-2")?;
        until_refused(&client, at)?;
        cluster.set_ready("web-1", true)?;
        until_spread(&client, at, &["web-1"])?;

        let said = client.output("curl", &["-sk", "--max-time", "3", "https://10.96.0.1/livez"])?;
        ensure!(said == "ok", "the API server said {said}");
        Ok(())
    })
}

/// The same name is another number in another pod, a number is a number, and each port has its own node port.
#[test]
fn several_ports_and_names() -> Result<()> {
    cluster::with(Config::default(), |cluster| {
        let labels = json!({ "app": "many" });
        let ports = |web: u16| {
            json!([{ "name": "web", "containerPort": web }, { "name": "admin", "containerPort": 9000 },
                   { "name": "dns", "containerPort": 5353, "protocol": "UDP" }])
        };
        let _one = cluster.add_pod("many-1", 0, At::Pod, &labels, &ports(80), &[80, 9000, 5353])?;
        let _two = cluster.add_pod("many-2", 1, At::Pod, &labels, &ports(8080), &[8080, 9000, 5353])?;
        let client = client(cluster)?;
        cluster.lab.start_agents()?;
        let service = cluster.make_service(
            "many",
            &json!({
                "type": "NodePort", "selector": labels, "ipFamilyPolicy": "RequireDualStack",
                "ports": [
                    { "name": "web", "port": 80, "targetPort": "web" },
                    { "name": "admin", "port": 81, "targetPort": 9000 },
                    { "name": "dns", "port": 53, "protocol": "UDP", "targetPort": "dns" },
                ],
            }),
        )?;
        let names = ["many-1", "many-2"];
        for (family, ip) in cluster_ips(&service)?.into_iter().enumerate() {
            until_spread(&client, SocketAddr::new(ip, 80), &names)?;
            until_spread(&client, SocketAddr::new(ip, 81), &names)?;
            wait::until("the UDP port answers", SOON, || {
                traffic::ask(&client, Ask::Udp, SocketAddr::new(ip, 53), 60)?
                    .expect_all()?
                    .expect_spread(&names)
                    .map(drop)
            })?;
            for port in [0, 1] {
                let at = SocketAddr::new(cluster.lab.nodes[0].ips[family], node_port(&service, port)?);
                until_spread(&cluster.lab.outside, at, &names)?;
            }
            // The number of another protocol, and one that is no port of the Service.
            until_refused(&client, SocketAddr::new(ip, 53))?;
            until_refused(&client, SocketAddr::new(ip, 82))?;
        }
        Ok(())
    })
}

/// One family, then both, then one again: the addresses of the other family come and go.
#[test]
fn families_come_and_go() -> Result<()> {
    cluster::with(Config::default(), |cluster| {
        let _servers = servers(cluster, "web")?;
        let client = client(cluster)?;
        cluster.lab.start_agents()?;
        for (first, other) in [("IPv4", "IPv6"), ("IPv6", "IPv4")] {
            let name = first.to_lowercase();
            let mut single = spec("ClusterIP", "web");
            single["ipFamilyPolicy"] = json!("SingleStack");
            single["ipFamilies"] = json!([first]);
            let service = cluster.make_service(&name, &single)?;
            let own = SocketAddr::new(cluster_ips(&service)?[0], 80);
            until_spread(&client, own, &["web-1", "web-2"])?;
            let both = json!({ "spec": { "ipFamilyPolicy": "RequireDualStack", "ipFamilies": [first, other] } });
            let service = cluster.patch_service(&name, &both)?;
            let second = SocketAddr::new(cluster_ips(&service)?[1], 80);
            ensure!(own.is_ipv4() != second.is_ipv4(), "{service}");
            until_spread(&client, second, &["web-1", "web-2"])?;
            cluster.until_frontends(0, &name, &[own, second].into())?;
            let one = json!({
                "spec": { "ipFamilyPolicy": "SingleStack", "ipFamilies": [first], "clusterIPs": [own.ip()] },
            });
            cluster.patch_service(&name, &one)?;
            cluster.until_frontends(0, &name, &[own].into())?;
            until_spread(&client, own, &["web-1", "web-2"])?;
        }
        Ok(())
    })
}

/// Endpoints that somebody else writes: an EndpointSlice of one's own, and an Endpoints object, which the control plane
/// mirrors.
#[test]
fn services_without_selector() -> Result<()> {
    cluster::with(Config::default(), |cluster| {
        let _servers = servers(cluster, "web")?;
        let client = client(cluster)?;
        cluster.lab.start_agents()?;
        let pods: Vec<_> = cluster.lab.pods().iter().map(|pod| pod.ips).collect();
        for family in 0..2 {
            let word = ["IPv4", "IPv6"][family];
            let name = format!("own-{family}");
            let spec = json!({ "ipFamilies": [word], "ports": [{ "name": "http", "port": 80 }] });
            let service = cluster.make_service(&name, &spec)?;
            let at = SocketAddr::new(cluster_ips(&service)?[0], 80);
            until_refused(&client, at)?;
            let slice = |ip: IpAddr| {
                json!({
                    "metadata": { "name": format!("{name}-x"), "labels": { "kubernetes.io/service-name": name } },
                    "addressType": word, "endpoints": [{ "addresses": [ip] }],
                    "ports": [{ "name": "http", "port": 80 }],
                })
            };
            cluster.api.post(&slices(""), &slice(pods[0][family]))?;
            until_spread(&client, at, &["web-1"])?;
            cluster.api.put(&slices(&format!("{name}-x")), &slice(pods[1][family]))?;
            until_spread(&client, at, &["web-2"])?;

            let name = format!("mirrored-{family}");
            let service = cluster.make_service(&name, &spec)?;
            let endpoints = json!({
                "metadata": { "name": name },
                "subsets": [{
                    "addresses": [{ "ip": pods[0][family] }, { "ip": pods[1][family] }],
                    "ports": [{ "name": "http", "port": 80 }],
                }],
            });
            cluster.api.post("/api/v1/namespaces/default/endpoints", &endpoints)?;
            until_spread(&client, SocketAddr::new(cluster_ips(&service)?[0], 80), &["web-1", "web-2"])?;
        }
        Ok(())
    })
}

/// More endpoints than one slice holds: the controller makes several of a hundred each, and all of them count.
#[test]
fn more_endpoints_than_a_slice_holds() -> Result<()> {
    const MANY: usize = 205;
    cluster::with(Config { nodes: 1, ..Config::default() }, |cluster| {
        let client = client(cluster)?;
        // One namespace answers for all of them: what counts here is what the controllers and the agent make of them.
        let farm = cluster.lab.make_pod(PodSpec {
            name: "farm".into(),
            node: 0,
            labels: json!({}),
            ports: json!([]),
            host_network: false,
        })?;
        let device = farm.device.context("a pod of its own")?;
        let node = &cluster.lab.nodes[0].place;
        node.ip(&["route", "add", "10.244.1.128/25", "dev", &device])?;
        node.ip(&["route", "add", "10.244.2.0/24", "dev", &device])?;
        let mut addresses = Vec::new();
        for n in 0..MANY {
            let ip = if n < 100 { format!("10.244.1.{}", n + 130) } else { format!("10.244.2.{}", n - 99) };
            farm.place.ip(&["addr", "add", &format!("{ip}/32"), "dev", "eth0"])?;
            addresses.push(SocketAddr::new(ip.parse()?, 80));
        }
        let _server = cluster.lab.start_server_at("farm", &addresses)?;
        cluster.lab.start_agents()?;
        let service =
            cluster.make_service("many", &json!({ "selector": { "app": "many" }, "ports": [{ "port": 80 }] }))?;
        for (n, at) in addresses.iter().enumerate() {
            cluster.add_object_of_pod(&format!("many-{n}"), 0, &json!({ "app": "many" }), &[at.ip()])?;
        }
        wait::until("all endpoints are in force", SOON, || {
            let endpoints = cluster.endpoints(0, "many")?;
            ensure!(endpoints == MANY, "{endpoints}");
            Ok(())
        })?;
        let of_service = format!("{}?labelSelector=kubernetes.io/service-name=many", slices(""));
        let slices = cluster.api.get(&of_service)?["items"].as_array().map_or(0, Vec::len);
        ensure!(slices >= 3, "{slices} slices hold {MANY} endpoints");
        let at = SocketAddr::new(cluster_ips(&service)?[0], 80);
        traffic::ask(&client, Ask::Tcp, at, 1000)?.expect_all()?;
        for n in 0..MANY / 2 {
            cluster.withdraw_pod(&format!("many-{n}"))?;
        }
        wait::until("what has gone is gone", SOON, || {
            let endpoints = cluster.endpoints(0, "many")?;
            ensure!(endpoints == MANY - MANY / 2, "{endpoints}");
            Ok(())
        })?;
        traffic::ask(&client, Ask::Tcp, at, 200)?.expect_all()?;
        Ok(())
    })
}

/// A range of addresses that is added while all runs: Services in it are served, and what nobody has of it is dropped.
#[test]
fn a_new_range_of_cluster_ips() -> Result<()> {
    cluster::with(Config::default(), |cluster| {
        let _servers = servers(cluster, "web")?;
        let client = client(cluster)?;
        cluster.lab.start_agents()?;
        for (name, range, ip, nobody) in [
            ("second-v4", "10.112.0.0/24", "10.112.0.5", "10.112.0.6:80"),
            ("second-v6", "fd00:10:112::/112", "fd00:10:112::5", "[fd00:10:112::6]:80"),
        ] {
            let dropped = |cluster: &mut Cluster<'_>| {
                cluster.lab.agent(0)?.metric_with("svc_verdicts_total", r#"reason="unallocated_address""#)
            };
            let ranges = json!({ "metadata": { "name": name }, "spec": { "cidrs": [range] } });
            cluster.api.post("/apis/networking.k8s.io/v1/servicecidrs", &ranges)?;
            // Taken from it by hand: the API server refuses that until its own allocator knows the range.
            let spec = json!({ "clusterIP": ip, "selector": { "app": "web" }, "ports": [{ "port": 80 }] });
            wait::until("the API server gives out addresses of the new range", SOON, || {
                cluster.make_service(name, &spec).map(drop)
            })?;
            until_spread(&client, SocketAddr::new(ip.parse()?, 80), &["web-1", "web-2"])?;
            let before = dropped(cluster)?;
            wait::until("what nobody has is dropped", SOON, || {
                let url = format!("http://{nobody}/");
                ensure!(client.output("curl", &["-s", "--max-time", "0.3", &url]).is_err(), "answered");
                let after = dropped(cluster)?;
                ensure!(after > before, "dropped {before}, then {after}");
                Ok(())
            })?;
        }
        Ok(())
    })
}

/// From each type to each other, by changing one object: at every step exactly the addresses answer that it has then.
#[test]
fn from_each_type_to_each_other() -> Result<()> {
    // Every ordered pair of two types, once.
    const WALK: [&str; 13] = ["C", "N", "C", "L", "C", "E", "N", "L", "N", "E", "L", "E", "C"];
    cluster::with(Config { nodes: 1, ..Config::default() }, |cluster| {
        let _one = cluster.add_server("web", "web-1", 0, At::Pod)?;
        let _two = cluster.add_server("web", "web-2", 0, At::Pod)?;
        let client = client(cluster)?;
        cluster.lab.start_agents()?;
        let mut service = cluster.make_service("web", &spec("ClusterIP", "web"))?;
        for step in WALK {
            let merge = match step {
                "C" => json!({ "type": "ClusterIP", "externalName": null, "ipFamilyPolicy": "RequireDualStack" }),
                "N" => json!({ "type": "NodePort", "externalName": null, "ipFamilyPolicy": "RequireDualStack" }),
                "L" => json!({ "type": "LoadBalancer", "externalName": null, "ipFamilyPolicy": "RequireDualStack" }),
                _ => json!({ "type": "ExternalName", "externalName": "example.org" }),
            };
            service = cluster.patch_service("web", &json!({ "spec": merge }))?;
            let vips: &[&str] = if step == "L" { &VIPS } else { &[] };
            let ingress: Vec<Value> = vips.iter().map(|ip| json!({ "ip": ip })).collect();
            let status = json!({ "status": { "loadBalancer": { "ingress": ingress } } });
            cluster.api.patch(&format!("{}/status", services("web")), &status)?;

            let mut wanted = BTreeSet::new();
            if step != "E" {
                wanted.extend(cluster_ips(&service)?.into_iter().map(|ip| SocketAddr::new(ip, 80)));
            }
            if step == "N" || step == "L" {
                let port = node_port(&service, 0)?;
                wanted.extend(cluster.lab.nodes[0].ips.map(|ip| SocketAddr::new(ip, port)));
            }
            for vip in vips {
                wanted.insert(SocketAddr::new(vip.parse()?, 80));
            }
            cluster.until_frontends(0, "web", &wanted).with_context(|| format!("as {step} of {WALK:?}"))?;
            for at in wanted {
                until_spread(&client, at, &["web-1", "web-2"]).with_context(|| format!("as {step} of {WALK:?}"))?;
            }
        }
        drop(service);
        Ok(())
    })
}

/// Another proxy's Service is not there at all, from the moment when its label says so until it no longer does.
#[test]
fn a_service_of_another_proxy() -> Result<()> {
    cluster::with(Config { nodes: 1, ..Config::default() }, |cluster| {
        let _one = cluster.add_server("web", "web-1", 0, At::Pod)?;
        let client = client(cluster)?;
        cluster.lab.start_agents()?;
        let service = cluster.make_service("web", &spec("ClusterIP", "web"))?;
        let own: Vec<SocketAddr> = cluster_ips(&service)?.into_iter().map(|ip| SocketAddr::new(ip, 80)).collect();
        let label =
            |value: Value| json!({ "metadata": { "labels": { "service.kubernetes.io/service-proxy-name": value } } });
        for value in ["another", ""] {
            for at in &own {
                until_spread(&client, *at, &["web-1"])?;
            }
            cluster.patch_service("web", &label(json!(value)))?;
            cluster.until_frontends(0, "web", &BTreeSet::new())?;
            cluster.patch_service("web", &label(Value::Null))?;
        }
        own.iter().try_for_each(|at| until_spread(&client, *at, &["web-1"]).map(drop))
    })
}

/// A slice that is labelled as headless is not seen; a Service that is called so and has an address is served, since the
/// control plane does not hand that label on to its slices.
#[test]
fn what_is_labelled_as_headless() -> Result<()> {
    cluster::with(Config { nodes: 1, ..Config::default() }, |cluster| {
        let _one = cluster.add_server("web", "web-1", 0, At::Pod)?;
        let client = client(cluster)?;
        cluster.lab.start_agents()?;
        let ip = cluster.lab.pod("web-1")?.ips[0];
        let service = cluster.make_service("own", &json!({ "ports": [{ "name": "http", "port": 80 }] }))?;
        let at = SocketAddr::new(cluster_ips(&service)?[0], 80);
        let slice = json!({
            "metadata": { "name": "own-x", "labels": { "kubernetes.io/service-name": "own" } },
            "addressType": "IPv4", "endpoints": [{ "addresses": [ip] }], "ports": [{ "name": "http", "port": 80 }],
        });
        cluster.api.post(&slices(""), &slice)?;
        let label = |value: Value| json!({ "metadata": { "labels": { "service.kubernetes.io/headless": value } } });
        for _ in 0..2 {
            until_spread(&client, at, &["web-1"])?;
            cluster.api.patch(&slices("own-x"), &label(json!("")))?;
            until_refused(&client, at)?;
            cluster.api.patch(&slices("own-x"), &label(Value::Null))?;
        }
        until_spread(&client, at, &["web-1"])?;

        let service = cluster.make_service("web", &spec("ClusterIP", "web"))?;
        cluster.patch_service("web", &label(json!("")))?;
        for ip in cluster_ips(&service)? {
            until_spread(&client, SocketAddr::new(ip, 80), &["web-1"])?;
        }
        Ok(())
    })
}
