//! The manifests of `examples/`, all of them at once, do what their comments say.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use svc_tests::lab::cluster::{Pod, PodSpec};
use svc_tests::lab::place::{Job, Place};
use svc_tests::lab::{self, Config, Lab, topology};
use svc_tests::traffic::{self, Ask, Report};

const ALL: [&str; 3] = ["web-deploy-1", "web-deploy-2", "web-deploy-3"];
const ON_A: [&str; 2] = ["web-deploy-1", "web-deploy-3"];
const ON_B: [&str; 1] = ["web-deploy-2"];

struct Examples {
    client: Pod,
    _servers: Vec<Job>,
}

fn begin(lab: &mut Lab) -> Result<Examples> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let mut servers = Vec::new();
    for entry in std::fs::read_dir(&folder)? {
        let path = entry?.path();
        let text = std::fs::read_to_string(&path)?;
        let name = path.file_name().context("a file has a name")?.to_string_lossy().into_owned();
        lab.manifests.write(&name, &text)?;
        servers.extend(lab.deploy(&text)?);
    }
    let client = lab.make_pod(PodSpec {
        name: "client".into(),
        node: 0,
        labels: json!({}),
        ports: json!([]),
        host_network: false,
    })?;
    lab.start_agents()?;
    Ok(Examples { client, _servers: servers })
}

fn http(from: &Place, to: SocketAddr, names: &[&str]) -> Result<()> {
    let report = traffic::ask(from, Ask::Http, to, 40)?;
    report.expect_all().and_then(|report| report.expect_spread(names)).map(drop).with_context(|| format!("{to}"))
}

/// Client addresses in the access log of an nginx.
fn seen_by(lab: &Lab, pod: &str) -> Result<Vec<String>> {
    let log = std::fs::read_to_string(lab.dir().join(format!("nginx-{pod}/access.log")))?;
    Ok(log.lines().filter_map(|line| line.split_ascii_whitespace().next().map(str::to_owned)).collect())
}

fn lost(report: &Report) -> Result<()> {
    ensure!(report.ok == 0 && report.errors.contains_key("timeout"), "expected silence: {report:?}");
    Ok(())
}

#[test]
fn examples_do_what_they_say() -> Result<()> {
    let config =
        Config { agent_args: vec!["--allow-external-ips".into(), "198.51.100.0/24".into()], ..Config::default() };
    lab::with(config, |lab| {
        let examples = begin(lab)?;
        let pod = &examples.client.place;
        let at = |lab: &mut Lab, name: &str, port: u16| -> Result<SocketAddr> {
            Ok(SocketAddr::new(lab.cluster_ips(name)?[0], port))
        };
        let (node_a, node_b) = (lab.nodes[0].place.clone(), lab.nodes[1].place.clone());
        let ips = [lab.nodes[0].ips, lab.nodes[1].ips];

        // web.yaml, node-port.yaml, dual-stack.yaml
        http(pod, at(lab, "web-service", 80)?, &ALL)?;
        http(pod, at(lab, "node-port", 8080)?, &ALL)?;
        http(&lab.outside, SocketAddr::new(ips[1][0], 30080), &ALL)?;
        for (family, ip) in lab.cluster_ips("web-dual")?.into_iter().enumerate() {
            http(pod, SocketAddr::new(ip, 80), &ALL)?;
            http(&lab.outside, SocketAddr::new(ips[0][family], 30086), &ALL)?;
        }

        // several-ports.yaml: the pods listen on 80 only, so who asks their port 53 is told so, through the Service.
        http(pod, at(lab, "several-ports", 80)?, &ALL)?;
        http(pod, at(lab, "several-ports", 8080)?, &ALL)?;
        for ask in [Ask::Tcp, Ask::Udp] {
            traffic::ask(pod, ask, at(lab, "several-ports", 53)?, 5)?.expect_refused().context("port 53")?;
        }

        // affinity.yaml
        for client in [pod, &node_b] {
            let report = traffic::ask(client, Ask::Http, at(lab, "web-sticky", 80)?, 40)?;
            ensure!(report.expect_all()?.backends.len() == 1, "one client, but {:?}", report.backends);
        }

        // policies.yaml
        let inside = at(lab, "web-inside-local", 80)?;
        http(pod, inside, &ON_A)?;
        http(&node_b, inside, &ON_B)?;
        http(&lab.outside, SocketAddr::new(ips[1][0], 30081), &ON_B)?;
        let outside = topology::OUTSIDE[0].to_string();
        ensure!(seen_by(lab, ON_B[0])?.contains(&outside), "externalTrafficPolicy Local did not keep the source");

        // load-balancer.yaml
        let vip = SocketAddr::new("198.51.100.10".parse()?, 80);
        lab.route_outside(vip.ip(), 0)?;
        http(&lab.outside, vip, &ON_A)?;
        http(pod, vip, &ALL).context("a pod reaches all backends, its range is listed")?;
        http(&lab.outside, SocketAddr::new(ips[0][0], 30088), &ON_A)?;
        lost(&traffic::ask(&node_b, Ask::Http, vip, 1)?).context("a node is in no listed range")?;
        let health =
            lab.outside.output("curl", &["-sS", "--max-time", "2", &format!("http://{}:30089/", ips[0][0])])?;
        ensure!(health.contains("\"localEndpoints\":2") || health.contains("\"localEndpoints\": 2"), "{health}");

        // external-ips.yaml
        let external = SocketAddr::new("198.51.100.20".parse()?, 80);
        lab.route_outside(external.ip(), 1)?;
        http(&lab.outside, external, &ALL)?;
        http(&node_a, external, &ALL)?;

        // without-selector.yaml: the database outside sees a node, because what leaves the cluster is masqueraded.
        let database = SocketAddr::new(topology::OUTSIDE[0], 5432).to_string();
        let helper = lab::tool::sibling("lab-helper", "SVC_LAB_HELPER")?;
        let _database =
            lab.outside.spawn(helper, &["serve", "database", &database], &lab.dir().join("database.log"))?;
        let to = at(lab, "database", 5432)?;
        lab::wait::until("the database answers", std::time::Duration::from_secs(5), || {
            let report = traffic::ask(pod, Ask::Tcp, to, 5)?;
            report.expect_all()?.expect_sources(&lab.nodes[0].addresses(0)?).map(drop)
        })?;
        Ok(())
    })
}
