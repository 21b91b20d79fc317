//! `cargo xtask bench`: what the programs cost, against their budgets, and what Services cost end to end, against the
//! same pods without any Service and against nftables rules of kube-proxy's shape.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use svc_tests::bench::load::{self, Exchange};
use svc_tests::bench::report::Report;
use svc_tests::bench::{control, e2e, live, programs, scale};

const USAGE: &str = "usage: bench [--only programs|e2e|scale|control-plane] [--rounds N] [--millis N] [--services N,N] \
                     [--endpoints N] [--hostile] [--json FILE] [--svg FILE]";

struct Args {
    programs: bool,
    e2e: bool,
    scale: bool,
    /// Only on request: it needs a control plane and takes long.
    control: bool,
    endpoints: usize,
    /// Changes at each size, of the control plane.
    changes: Option<usize>,
    plan: e2e::Plan,
    json: Option<PathBuf>,
    svg: Option<PathBuf>,
}

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.first().is_some_and(|word| word == "worker") {
        return worker(&words[1..]);
    }
    let args = parse(&words)?;
    if !svc_tests::lab::tool::is_root() {
        bail!("bench loads programs and builds namespaces: run it as root");
    }
    let say = |what: &str| eprintln!("bench: {what}");
    let mut report = Report { machine: machine()?, ..Report::default() };
    if args.programs {
        programs::run(args.plan.rounds, &mut report, &say)?;
        live::run(args.plan.rounds, &mut report, &say)?;
    }
    if args.e2e {
        e2e::run(&args.plan, &mut report, &say)?;
    }
    if args.scale {
        scale::run(args.plan.rounds, &mut report, &say)?;
    }
    if args.control {
        let services = args.plan.services.clone();
        let plan = control::Plan { services, endpoints: args.endpoints, rounds: args.changes.unwrap_or(20) };
        control::run(&plan, &mut report, &say)?;
    }
    print!("{}", report.table());
    if let Some(file) = &args.json {
        std::fs::write(file, format!("{:#}\n", report.json())).with_context(|| format!("{}", file.display()))?;
    }
    if let Some(file) = &args.svg {
        std::fs::write(file, report.svg()).with_context(|| format!("{}", file.display()))?;
    }
    Ok(())
}

fn parse(words: &[String]) -> Result<Args> {
    let plan = e2e::Plan { services: vec![10, 10_000], rounds: 5, time: Duration::from_millis(200), hostile: false };
    let mut args = Args {
        programs: true,
        e2e: true,
        scale: true,
        control: false,
        endpoints: 10,
        changes: None,
        plan,
        json: None,
        svg: None,
    };
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let mut value = || words.next().with_context(|| format!("{word} wants a value; {USAGE}"));
        match word.as_str() {
            "--only" => match value()?.as_str() {
                "programs" => (args.e2e, args.scale) = (false, false),
                "e2e" => (args.programs, args.scale) = (false, false),
                "scale" => (args.programs, args.e2e) = (false, false),
                "control-plane" => {
                    (args.programs, args.e2e, args.scale, args.control) = (false, false, false, true);
                    args.plan.services = vec![10, 1000, 5000];
                }
                other => bail!("--only {other}: there is programs, e2e, scale and control-plane; {USAGE}"),
            },
            "--rounds" => {
                args.plan.rounds = value()?.parse().context("--rounds wants a number")?;
                args.changes = Some(args.plan.rounds);
            }
            "--millis" => args.plan.time = Duration::from_millis(value()?.parse().context("--millis wants a number")?),
            "--services" => {
                let numbers: Result<_, _> = value()?.split(',').map(str::parse).collect();
                args.plan.services = numbers.context("--services wants numbers")?;
            }
            "--endpoints" => args.endpoints = value()?.parse().context("--endpoints wants a number")?,
            "--hostile" => args.plan.hostile = true,
            "--json" => args.json = Some(value()?.into()),
            "--svg" => args.svg = Some(value()?.into()),
            _ => bail!("{word}: {USAGE}"),
        }
    }
    if args.plan.rounds == 0 {
        bail!("--rounds wants at least 1");
    }
    Ok(args)
}

/// The load, inside a pod.
fn worker(words: &[String]) -> Result<()> {
    match words {
        [programs, cgroup, rounds] if programs == "programs" => {
            let measured = programs::inside(cgroup, rounds.parse()?)?;
            println!("{}", serde_json::to_string(&measured)?);
            Ok(())
        }
        [serve, port] if serve == "serve" => {
            load::pin()?;
            Ok(load::serve(port.parse()?)?)
        }
        [word, to, millis] => {
            load::pin()?;
            let exchange =
                Exchange::ALL.into_iter().find(|exchange| exchange.word() == word).context("no such load")?;
            let sample = load::measure(exchange, to.parse()?, Duration::from_millis(millis.parse()?))?;
            println!("{}", serde_json::to_string(&sample)?);
            Ok(())
        }
        _ => bail!(USAGE),
    }
}

/// One line that says where the figures come from.
fn machine() -> Result<String> {
    let cpus = std::fs::read_to_string("/proc/cpuinfo")?;
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map_or("?", |(_, m)| m);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let count = cpus.lines().filter(|line| line.starts_with("processor")).count();
    Ok(format!("{count} x {model}, Linux {}", kernel.trim()))
}
