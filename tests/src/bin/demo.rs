//! `cargo xtask demo`: two nodes, three web servers, and every kind of client, before one's eyes.
//!
//! Each step says what it does and what came of it; the first one that fails ends the demo with its reason.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;
use svc_tests::lab::cluster::{Pod, PodSpec};
use svc_tests::lab::place::{Job, Place};
use svc_tests::lab::{Config, Lab, Topology, run, tool, topology, wait};
use svc_tests::traffic::{self, Ask};

const USAGE: &str = "usage: cargo xtask demo [--bridge] [--keep | --remove] [-- FLAG..]
  --bridge   pods on a bridge and VXLAN between the nodes, instead of routed veths
  --keep     leave the nodes standing afterwards and say how to enter them
  --remove   take away what --keep left
  FLAG..     further flags of svc-agent run";

/// Requests of one look at a Service.
const REQUESTS: usize = 30;
const STEPS: usize = 11;
/// All of `examples/`, the Deployment first.
const EXAMPLES: [&str; 9] = [
    "web.yaml",
    "node-port.yaml",
    "dual-stack.yaml",
    "affinity.yaml",
    "several-ports.yaml",
    "policies.yaml",
    "load-balancer.yaml",
    "external-ips.yaml",
    "without-selector.yaml",
];
/// How often the agent is killed under load.
const KILLS: usize = 3;

fn main() -> ExitCode {
    let mut config = Config::default();
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--bridge" => config.topology = Topology::Bridge,
            "--keep" => config.keep = true,
            // Further flags for the agents, after a "--".
            "--" => config.agent_args = words.by_ref().collect(),
            "--remove" => {
                let removed = run::remove_kept();
                println!(
                    "removed: {}",
                    if removed.is_empty() { "nothing was kept".into() } else { removed.join(", ") }
                );
                return ExitCode::SUCCESS;
            }
            _ => {
                eprintln!("{USAGE}");
                return ExitCode::from(2);
            }
        }
    }
    if !tool::is_root() {
        eprintln!("the demo needs root: it makes network namespaces and loads eBPF programs");
        return ExitCode::from(2);
    }
    // examples/external-ips.yaml asks for it.
    config.agent_args.extend(["--allow-external-ips".to_owned(), "198.51.100.0/24".to_owned()]);
    match demo(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nthe demo failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn demo(config: Config) -> Result<()> {
    let began = Instant::now();
    let steps = Steps::default();
    println!("svc demo: real nginx, curl and wget; nodes and pods are network namespaces\n");

    steps.next("two nodes, a router between them and a client outside, strict firewall rules on the nodes");
    let mut lab = Lab::build(config)?;
    let result = show(&steps, &mut lab);
    if result.is_err() {
        eprintln!("{}", lab.agent_logs());
    }
    // What serves has to outlive the steps when the lab is to stay.
    let _servers = result?;
    println!("\nall of it worked, in {:.0} s", began.elapsed().as_secs_f32());
    if lab.config.keep {
        say_how_to_enter(&lab);
    }
    Ok(())
}

/// Runs the steps; returns the web servers.
fn show(steps: &Steps, lab: &mut Lab) -> Result<Vec<Job>> {
    for node in &lab.nodes {
        steps.say(&format!("{}: {} and {}", node.name, node.ips[0], node.ips[1]));
    }
    let [v4, v6] = topology::OUTSIDE;
    steps.say(&format!("outside: {v4} and {v6}"));

    steps.next("Deployment web-deploy: three pods with nginx, each page is the pod's name");
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let mut web = String::new();
    for file in EXAMPLES {
        let text = std::fs::read_to_string(examples.join(file)).with_context(|| format!("examples/{file}"))?;
        lab.manifests.write(file, &text)?;
        if file == "web.yaml" {
            web = text;
        }
    }
    let servers = lab.deploy(&web)?;
    for pod in lab.pods() {
        steps.say(&format!("{} on {}: {} and {}", pod.name, lab.nodes[pod.spec.node].name, pod.ips[0], pod.ips[1]));
    }
    let client = lab.make_pod(PodSpec {
        name: "client".into(),
        node: 0,
        labels: json!({ "app": "client" }),
        ports: json!([]),
        host_network: false,
    })?;

    steps.next("one agent a node, reading the manifests of examples/");
    let started = Instant::now();
    lab.start_agents()?;
    steps.say(&format!("both ready after {} ms", started.elapsed().as_millis()));
    let web_service = lab.cluster_ips("web-service")?[0];
    let dual = lab.cluster_ips("web-dual")?;
    steps.say(&format!("web-service got {web_service}; web-dual got {} and {}", dual[0], dual[1]));
    let service = format!("http://{web_service}/");
    let all = names(lab, |_| true);

    steps.next("balanced over the pods, whoever asks");
    let (node, other) = (lab.nodes[0].place.clone(), lab.nodes[1].place.clone());
    for (who, place) in [("pod", &client.place), ("node-a", &node), ("node-b", &other)] {
        for fetch in [Fetch::Curl, Fetch::Wget] {
            steps.fetch(who, place, fetch, &service, &all)?;
        }
    }
    steps.fetch("pod", &client.place, Fetch::Curl, &format!("http://[{}]/", dual[1]), &all)?;

    steps.next("from outside through the node port 30080, at either node");
    for index in 0..2 {
        let [v4, v6] = lab.nodes[index].ips;
        steps.fetch("outside", &lab.outside, Fetch::Curl, &format!("http://{v4}:30080/"), &all)?;
        steps.fetch("outside", &lab.outside, Fetch::Wget, &format!("http://[{v6}]:30086/"), &all)?;
    }

    steps.next("each other kind of Service in examples/");
    let _database = other_kinds(steps, lab, &client)?;

    steps.next("refused at the cluster IP under the node port's number");
    let node_port = lab.cluster_ips("node-port")?[0];
    steps.refused("pod", &client.place, &format!("http://{node_port}:30080/"))?;
    steps.refused("node-a", &node, &format!("http://{node_port}:30080/"))?;

    steps.next("a backend is taken away, and brought back");
    take_away_and_bring_back(steps, lab, &client, &service)?;

    steps.next("both agents are killed with -9 and started again under load");
    kill_under_load(steps, lab, &client, SocketAddr::new(web_service, 80))?;

    steps.next("what explain says");
    explain(steps, lab, &client, web_service)?;

    steps.next("what status says");
    let bpffs = lab.nodes[0].bpffs.display().to_string();
    steps.block(&lab.agent(0)?.run(&["status", "--bpffs", &bpffs])?);
    Ok(servers)
}

/// What the other manifests of `examples/` are about; returns the database.
fn other_kinds(steps: &Steps, lab: &mut Lab, client: &Pod) -> Result<Job> {
    let all = names(lab, |_| true);
    let on = |lab: &Lab, node: usize| {
        let here = lab.pods().iter().filter(|pod| pod.spec.node == node && pod.name.starts_with("web-deploy"));
        here.map(|pod| pod.name.clone()).collect::<Vec<_>>()
    };
    let (on_a, on_b) = (on(lab, 0), on(lab, 1));
    let url = |lab: &mut Lab, service: &str, port: u16| -> Result<String> {
        Ok(format!("http://{}/", SocketAddr::new(lab.cluster_ips(service)?[0], port)))
    };
    let [a, b] = [0, 1].map(|index| (lab.nodes[index].place.clone(), lab.nodes[index].ips[0]));

    steps.say("affinity.yaml: a client stays with its pod");
    let sticky = url(lab, "web-sticky", 80)?;
    for (who, place) in [("pod", &client.place), ("node-b", &b.0)] {
        steps.stays(who, place, &sticky)?;
    }
    steps.say("several-ports.yaml: two ports, one by the name of the container's port");
    for port in [80, 8080] {
        let at = url(lab, "several-ports", port)?;
        steps.fetch("pod", &client.place, Fetch::Curl, &at, &all)?;
    }
    steps.say("policies.yaml: only pods of the node that handles the packet");
    let inside = url(lab, "web-inside-local", 80)?;
    steps.fetch("pod", &client.place, Fetch::Curl, &inside, &on_a)?;
    steps.fetch("node-b", &b.0, Fetch::Curl, &inside, &on_b)?;
    steps.fetch("outside", &lab.outside, Fetch::Curl, &format!("http://{}:30081/", b.1), &on_b)?;

    steps.say("load-balancer.yaml: its address, and its node port; who is in no listed range hears nothing");
    let vip: IpAddr = [198, 51, 100, 10].into();
    lab.route_outside(vip, 0)?;
    steps.fetch("outside", &lab.outside, Fetch::Curl, &format!("http://{vip}/"), &on_a)?;
    steps.fetch("outside", &lab.outside, Fetch::Curl, &format!("http://{}:30088/", a.1), &on_a)?;
    steps.silent("node-b", &b.0, &format!("http://{vip}/"))?;
    let health = lab.outside.output("curl", &["-sS", "--max-time", "2", &format!("http://{}:30089/", a.1)])?;
    steps.say(&format!("{:>7}$ curl http://{}:30089/ says {}", "outside", a.1, one_line(&health)));

    steps.say("external-ips.yaml: an address that the operator has allowed");
    let external: IpAddr = [198, 51, 100, 20].into();
    lab.route_outside(external, 1)?;
    steps.fetch("outside", &lab.outside, Fetch::Curl, &format!("http://{external}/"), &all)?;

    steps.say("without-selector.yaml: a database outside of the cluster");
    let at = SocketAddr::new(topology::OUTSIDE[0], 5432).to_string();
    let helper = tool::sibling("lab-helper", "SVC_LAB_HELPER")?;
    let database = lab.outside.spawn(helper, &["serve", "database", &at], &lab.dir().join("database.log"))?;
    let to = SocketAddr::new(lab.cluster_ips("database")?[0], 5432);
    wait::until("the database listens", Duration::from_secs(5), || {
        traffic::ask(&client.place, Ask::Tcp, to, 5)?.expect_all().map(drop)
    })?;
    steps.say(&format!("    pod$ 5 connections to {to}: answered by the database at {at}"));
    Ok(database)
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn take_away_and_bring_back(steps: &Steps, lab: &Lab, client: &Pod, service: &str) -> Result<()> {
    let away = "web-deploy-2";
    for (ready, wanted) in [(false, names(lab, |name| name != away)), (true, names(lab, |_| true))] {
        lab.publish_pod(away, ready)?;
        let took = wait::until("the change is in force", Duration::from_secs(5), || {
            let seen = fetch_many(&client.place, Fetch::Curl, service, REQUESTS)?;
            ensure!(seen.contains_key(away) == ready, "{}", shown(&seen));
            Ok(())
        })?;
        steps.say(&format!(
            "{away} is {}ready: seen after {} ms at most",
            if ready { "" } else { "not " },
            took.as_millis()
        ));
        steps.fetch("pod", &client.place, Fetch::Curl, service, &wanted)?;
    }
    Ok(())
}

fn kill_under_load(steps: &Steps, lab: &mut Lab, client: &Pod, service: SocketAddr) -> Result<()> {
    let node_port = SocketAddr::new(lab.nodes[0].ips[0], 30080);
    let loads = [
        ("pod", traffic::load(&client.place, Ask::Http, service)?),
        ("node-a", traffic::load(&lab.nodes[0].place, Ask::Http, service)?),
        ("outside", traffic::load(&lab.outside, Ask::Http, node_port)?),
    ];
    for round in 1..=KILLS {
        for index in 0..lab.nodes.len() {
            lab.agent(index)?.kill()?;
        }
        let mut slowest = Duration::ZERO;
        for index in 0..lab.nodes.len() {
            let agent = lab.agent(index)?;
            agent.restart()?;
            slowest = slowest.max(agent.wait_ready()?);
        }
        steps.say(&format!("round {round} of {KILLS}: killed, started, ready again after {} ms", slowest.as_millis()));
    }
    for (who, load) in loads {
        let report = load.stop()?;
        steps.say(&format!("{who}: {} requests, {} failed", report.ok, report.failures()));
        report.expect_all().with_context(|| format!("requests of {who} failed while the agents restarted"))?;
    }
    Ok(())
}

fn explain(steps: &Steps, lab: &mut Lab, client: &Pod, service: IpAddr) -> Result<()> {
    let manifests = lab.manifests.dir().display().to_string();
    let from = client.ips[0].to_string();
    let to = format!("{service}:80/tcp");
    let cidr = topology::POD_RANGES.join(",");
    let args = [
        "explain",
        "--manifests",
        &manifests,
        "--node",
        "node-a",
        "--cluster-cidr",
        &cidr,
        "--allow-external-ips",
        "198.51.100.0/24",
        from.as_str(),
        to.as_str(),
    ];
    steps.say(&format!("svc-agent explain {from} {to}"));
    let said = lab.agent(0)?.run(&args)?;
    ensure!(!said.trim().is_empty(), "explain said nothing");
    steps.block(&said);
    Ok(())
}

/// Names of the web pods that a filter takes.
fn names(lab: &Lab, keep: impl Fn(&str) -> bool) -> Vec<String> {
    let web = lab.pods().iter().filter(|pod| pod.name.starts_with("web-deploy"));
    web.map(|pod| pod.name.clone()).filter(|name| keep(name)).collect()
}

/// The client program.
#[derive(Clone, Copy)]
enum Fetch {
    Curl,
    Wget,
}

impl Fetch {
    /// The command line, one connection each.
    fn line(self, url: &str) -> String {
        match self {
            Self::Curl => format!("curl -sS --max-time 5 {url}"),
            Self::Wget => format!("wget -q -O - -T 5 -t 1 {url}"),
        }
    }
}

/// Fetches a page many times and counts who answered.
fn fetch_many(place: &Place, fetch: Fetch, url: &str, times: usize) -> Result<BTreeMap<String, usize>> {
    let script = format!("set -e; for i in $(seq {times}); do {}; done", fetch.line(url));
    let mut seen = BTreeMap::new();
    for page in place.output("sh", &["-c", &script])?.lines() {
        *seen.entry(page.to_owned()).or_default() += 1;
    }
    Ok(seen)
}

fn shown(seen: &BTreeMap<String, usize>) -> String {
    let parts: Vec<String> = seen.iter().map(|(name, count)| format!("{name} {count}")).collect();
    parts.join(", ")
}

/// Prints steps and what came of them.
#[derive(Default)]
struct Steps {
    done: Cell<usize>,
}

impl Steps {
    fn next(&self, title: &str) {
        self.done.set(self.done.get() + 1);
        println!("[{}/{STEPS}] {title}", self.done.get());
    }

    fn say(&self, line: &str) {
        println!("       {line}");
    }

    fn block(&self, text: &str) {
        for line in text.lines() {
            self.say(line);
        }
    }

    /// Fetches many times; fails unless exactly the wanted pods answer.
    fn fetch(&self, who: &str, place: &Place, fetch: Fetch, url: &str, wanted: &[String]) -> Result<()> {
        let line = fetch.line(url);
        let seen = fetch_many(place, fetch, url, REQUESTS).with_context(|| format!("{who}$ {line}"))?;
        self.say(&format!("{who:>7}$ {line:<58} {}", shown(&seen)));
        let names: Vec<&String> = seen.keys().collect();
        ensure!(names.iter().copied().eq(wanted.iter()), "{who}$ {line}: answered by {names:?}, expected {wanted:?}");
        Ok(())
    }

    /// Fetches many times; fails unless one pod answers all of it.
    fn stays(&self, who: &str, place: &Place, url: &str) -> Result<()> {
        let line = Fetch::Curl.line(url);
        let seen = fetch_many(place, Fetch::Curl, url, REQUESTS).with_context(|| format!("{who}$ {line}"))?;
        self.say(&format!("{who:>7}$ {line:<58} {}", shown(&seen)));
        ensure!(seen.len() == 1, "{who}$ {line}: answered by {}", shown(&seen));
        Ok(())
    }

    /// Fetches once; fails unless nothing comes back.
    fn silent(&self, who: &str, place: &Place, url: &str) -> Result<()> {
        let line = format!("curl -sS --max-time 1 {url}");
        match place.output("sh", &["-c", &line]) {
            Ok(page) => bail!("{who}$ {line}: answered by {page}"),
            Err(error) if error.to_string().contains("exit status: 28") => {
                self.say(&format!("{who:>7}$ {line:<58} nothing within 1 s"));
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Fetches once; fails unless the connection is refused at once.
    fn refused(&self, who: &str, place: &Place, url: &str) -> Result<()> {
        let line = Fetch::Curl.line(url);
        let began = Instant::now();
        match place.output("sh", &["-c", &line]) {
            Ok(page) => bail!("{who}$ {line}: answered by {page}"),
            // curl's exit status 7: failed to connect; after a timeout it is 28.
            Err(error) if error.to_string().contains("exit status: 7") => {
                self.say(&format!("{who:>7}$ {line:<58} refused after {} ms", began.elapsed().as_millis()));
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}

fn say_how_to_enter(lab: &Lab) {
    println!("\nthe lab stays, until `cargo xtask demo --remove`. To enter:");
    for node in &lab.nodes {
        println!("  {:<14} {}", node.name, node.place.enter_hint());
    }
    for pod in lab.pods() {
        println!("  {:<14} {}", pod.name, pod.place.enter_hint());
    }
    println!("  {:<14} {}", "outside", lab.outside.enter_hint());
    println!("manifests, watched by both agents: {}", lab.manifests.dir().display());
    for node in &lab.nodes {
        println!("maps and links of {}: --bpffs {}", node.name, node.bpffs.display());
    }
}
