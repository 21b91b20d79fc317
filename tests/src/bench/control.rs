//! What the control plane sees of a node: how soon a change is served, what it costs, how long a cold start takes, and
//! what is kept in memory. Beside it the real kube-proxy in nftables mode: same API server, same objects, same changes, at
//! the same time.

use std::io::{BufRead as _, BufReader};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::report::{Figure, Group, Report};
use crate::cluster::tools::Tools;
use crate::cluster::{Cluster, resident, services, slices};
use crate::lab::place::{Job, Place};
use crate::lab::{self, Config, topology};

/// How long a change or a cold start may take.
const PATIENCE: Duration = Duration::from_secs(300);
/// Between two changes: kube-proxy lets a second pass between two of its own, and that is not what is measured.
const PAUSE: Duration = Duration::from_millis(1100);
/// Connections that fill the API server.
const FILLERS: usize = 4;
/// Clock ticks of `/proc/PID/stat` in a second, on every Linux that there is.
const TICKS: f64 = 100.0;

/// What to measure.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Numbers of Services, ascending.
    pub services: Vec<usize>,
    /// Endpoints of each.
    pub endpoints: usize,
    /// Changes at each size.
    pub rounds: usize,
}

/// Measures all of it.
pub fn run(plan: &Plan, report: &mut Report, say: &dyn Fn(&str)) -> Result<()> {
    let tools = Tools::find()?.context("needs a control plane: run it by `cargo xtask bench --control`")?;
    let proxy = tools.optional("kube-proxy")?;
    // By default there is room for 100,000 endpoints; what it costs is measured with room for what there is.
    let services = plan.services.iter().copied().max().unwrap_or_default() + 100;
    let agent_args = vec![
        format!("--max-services={}", services.max(10_000)),
        format!("--max-endpoints={}", (services * plan.endpoints).max(100_000)),
    ];
    lab::with(Config { hostile: false, agent_args, ..Config::default() }, |lab| {
        say("the control plane starts");
        let mut cluster = Cluster::start(lab, tools)?;
        let result = measure(plan, &mut cluster, proxy, report, say);
        if result.is_err() {
            eprintln!("{}", cluster.control.logs());
        }
        result
    })
}

fn measure(
    plan: &Plan,
    cluster: &mut Cluster<'_>,
    proxy: PathBuf,
    report: &mut Report,
    say: &dyn Fn(&str),
) -> Result<()> {
    // Neither node's own: both have the same way to the servers.
    let (place, ips) = cluster.lab.add_host("servers", 3)?;
    let helper = lab::tool::sibling("lab-helper", "SVC_LAB_HELPER")?.display().to_string();
    let log = cluster.lab.dir().join("servers.log");
    let mut servers = Vec::new();
    for (name, port) in SERVERS {
        let args = ["serve", name, &SocketAddr::new(ips[0], port).to_string()];
        servers.push(place.spawn(&helper, &args, &log)?);
    }
    let probe = json!({ "clusterIP": PROBE, "ports": [{ "name": "p", "port": 80 }] });
    cluster.make_service("probe", &probe)?;
    cluster.api.post(&slices(""), &probe_slice(ips[0], 0))?;
    let mut there = 0;
    for &services in &plan.services {
        say(&format!("{services} Services with {} endpoints each", plan.endpoints));
        fill(cluster, there..services, plan.endpoints)?;
        there = services;
        // An odd number of changes has left the other one: the first change would be none.
        cluster.api.put(&slices("probe-x"), &probe_slice(ips[0], 0))?;
        let mut sides = [Side::agent(cluster)?, Side::proxy(cluster, &proxy)?];
        let mut latencies = [Vec::new(), Vec::new()];
        let before = [sides[0].cpu()?, sides[1].cpu()?];
        for round in 1..=plan.rounds {
            std::thread::sleep(PAUSE);
            let began = SystemTime::now();
            cluster.api.put(&slices("probe-x"), &probe_slice(ips[0], round % 2))?;
            for (side, latencies) in sides.iter_mut().zip(&mut latencies) {
                let at = side.dialer.until(SERVERS[round % 2].0)?;
                latencies.push(at.duration_since(began)?.as_secs_f64() * 1e3);
            }
        }
        for (number, (side, mut latencies)) in sides.into_iter().zip(latencies).enumerate() {
            let cpu = (side.cpu()? - before[number]) * 1e3 / plan.rounds as f64;
            let memory = resident(side.pid)? as f64 / 1024.0;
            latencies.sort_by(f64::total_cmp);
            let figure = |id: &str, unit, rounds: &[f64]| {
                let id = format!("control_{id}_{}_{services}", side.name);
                Figure::of(&id, &format!("{}, {services} Services", side.name), unit, rounds)
            };
            group(report, "cold start until a connection is served", figure("cold", "s", &[side.cold.as_secs_f64()]));
            group(report, "one endpoint changed until a new connection reaches it", figure("change", "ms", &latencies));
            group(report, "processor time for one change", figure("cpu", "ms", &[cpu]));
            group(report, "memory (RSS)", figure("memory", "MiB", &[memory]));
            side.end(cluster)?;
        }
    }
    Ok(())
}

/// (name, port) of the servers that the probed Service has in turn.
const SERVERS: [(&str, u16); 2] = [("one", 8001), ("two", 8002)];
/// Its address.
const PROBE: &str = "10.96.200.1";

fn probe_slice(ip: IpAddr, server: usize) -> Value {
    json!({
        "metadata": { "name": "probe-x", "labels": { "kubernetes.io/service-name": "probe" } },
        "addressType": "IPv4", "endpoints": [{ "addresses": [ip] }],
        "ports": [{ "name": "p", "port": SERVERS[server].1 }],
    })
}

fn group(report: &mut Report, title: &str, figure: Figure) {
    match report.groups.iter_mut().find(|group| group.title == title) {
        Some(group) => group.bars.push(figure),
        None => report.groups.push(Group { title: title.into(), bars: vec![figure] }),
    }
}

/// Makes Services, each with a slice, by several connections.
pub fn fill(cluster: &Cluster<'_>, numbers: std::ops::Range<usize>, endpoints: usize) -> Result<()> {
    std::thread::scope(|scope| {
        let mut threads = Vec::new();
        for part in 0..FILLERS {
            let api = cluster.api.clone();
            let numbers = numbers.clone();
            threads.push(scope.spawn(move || -> Result<()> {
                for number in numbers.filter(|number| number % FILLERS == part) {
                    let name = format!("f-{number}");
                    let spec = json!({ "ports": [{ "name": "p", "port": 80 }] });
                    api.post(&services(""), &json!({ "metadata": { "name": name }, "spec": spec }))?;
                    let addresses: Vec<Value> = (0..endpoints).map(|n| filler(number, n)).collect();
                    let slice = json!({
                        "metadata": { "name": name, "labels": { "kubernetes.io/service-name": name } },
                        "addressType": "IPv4", "endpoints": addresses, "ports": [{ "name": "p", "port": 8080 }],
                    });
                    api.post(&slices(""), &slice)?;
                }
                Ok(())
            }));
        }
        threads.into_iter().try_for_each(|thread| match thread.join() {
            Ok(done) => done,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })
}

/// As the controllers write an endpoint. Nobody has the address.
fn filler(service: usize, number: usize) -> Value {
    let (high, low) = (number * 37 + service / 250, service % 250 + 1);
    json!({
        "addresses": [format!("10.{}.{}.{low}", 128 + (high >> 8) % 100, high & 255)],
        "conditions": { "ready": true, "serving": true, "terminating": false },
        "nodeName": format!("node-{}", service % 100),
        "targetRef": { "kind": "Pod", "namespace": "default", "name": format!("f-{service}-{number}") },
    })
}

/// One of the two that are compared, running.
struct Side {
    name: &'static str,
    pid: u32,
    dialer: Dialer,
    cold: Duration,
    job: Option<Job>,
}

impl Side {
    fn agent(cluster: &mut Cluster<'_>) -> Result<Self> {
        let began = Instant::now();
        cluster.lab.start_agent(0)?;
        let pid = cluster.lab.agent(0)?.id();
        let (dialer, cold) = Self::dial(&cluster.lab.nodes[0].place, began)?;
        Ok(Self { name: "svc", pid, dialer, cold, job: None })
    }

    fn proxy(cluster: &mut Cluster<'_>, program: &std::path::Path) -> Result<Self> {
        let server = format!("https://{}", cluster.control.server());
        let node = &cluster.lab.nodes[1];
        let args = [
            format!("--kubeconfig={}", cluster.control.kubeconfig("controllers", &server)?.display()),
            "--proxy-mode=nftables".into(),
            format!("--hostname-override={}", node.name),
            format!("--cluster-cidr={}", topology::POD_RANGES.join(",")),
            "--conntrack-max-per-core=0".into(),
            "--conntrack-min=0".into(),
        ];
        let began = Instant::now();
        let job = node.place.spawn(program, &args, &cluster.lab.dir().join("kube-proxy.log"))?;
        let (dialer, cold) = Self::dial(&node.place, began)?;
        Ok(Self { name: "kube-proxy", pid: job.id(), dialer, cold, job: Some(job) })
    }

    fn dial(place: &Place, began: Instant) -> Result<(Dialer, Duration)> {
        let mut dialer = Dialer::start(place, SocketAddr::new(PROBE.parse()?, 80))?;
        dialer.until_any()?;
        Ok((dialer, began.elapsed()))
    }

    /// Processor time so far, in seconds.
    fn cpu(&self) -> Result<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid))?;
        let (_, after) = stat.rsplit_once(')').context("a name in parentheses")?;
        let times: Vec<f64> = after.split_ascii_whitespace().skip(11).take(2).filter_map(|t| t.parse().ok()).collect();
        ensure!(times.len() == 2, "/proc/{}/stat has no times", self.pid);
        Ok((times[0] + times[1]) / TICKS)
    }

    /// Ends it and takes away what it has set up, so that the next start is a cold one.
    fn end(self, cluster: &mut Cluster<'_>) -> Result<()> {
        drop(self.dialer);
        if let Some(mut job) = self.job {
            job.kill()?;
            for family in ["ip", "ip6"] {
                cluster.lab.nodes[1].place.output("nft", &["delete", "table", family, "kube-proxy"])?;
            }
            return Ok(());
        }
        let bpffs = cluster.lab.nodes[0].bpffs.display().to_string();
        cluster.lab.agent(0)?.kill()?;
        cluster.lab.agent(0)?.run(&["cleanup", "--bpffs", &bpffs]).map(drop)
    }
}

/// Dials all the time and says when another server answers.
struct Dialer {
    child: Child,
    answers: Receiver<(SystemTime, String)>,
}

impl Dialer {
    fn start(place: &Place, to: SocketAddr) -> Result<Self> {
        let helper = lab::tool::sibling("lab-helper", "SVC_LAB_HELPER")?;
        let mut command: Command = place.command(helper);
        let mut child = command.args(["dial", &to.to_string()]).stdout(Stdio::piped()).spawn()?;
        let stdout = BufReader::new(child.stdout.take().context("just piped")?);
        let (sender, answers) = channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let Some((micros, name)) = line.split_once(' ') else { continue };
                let Ok(micros) = micros.parse() else { continue };
                if sender.send((UNIX_EPOCH + Duration::from_micros(micros), name.to_owned())).is_err() {
                    return;
                }
            }
        });
        Ok(Self { child, answers })
    }

    fn until_any(&mut self) -> Result<SystemTime> {
        Ok(self.answers.recv_timeout(PATIENCE).context("nobody answers")?.0)
    }

    fn until(&mut self, name: &str) -> Result<SystemTime> {
        loop {
            let (at, who) = self.answers.recv_timeout(PATIENCE).with_context(|| format!("{name} does not answer"))?;
            if who == name {
                return Ok(at);
            }
        }
    }
}

impl Drop for Dialer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
