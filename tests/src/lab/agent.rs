//! One svc-agent a node.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::place::{Job, Place};
use super::{Node, tool, topology, wait};

/// A running agent, and what is needed to start it again.
#[derive(Debug)]
pub struct Agent {
    node: String,
    place: Place,
    program: PathBuf,
    args: Vec<String>,
    log: PathBuf,
    bpffs: String,
    job: Job,
}

impl Agent {
    /// Starts it; it is not ready yet.
    pub(super) fn start(node: &Node, source: &[String], more: &[String], log: &Path) -> Result<Self> {
        let program = tool::sibling("svc-agent", "SVC_AGENT")?;
        let cgroup = node.place.cgroup().parent().context("a host's cgroup lies below its node's")?;
        let mut args: Vec<String> = vec!["run".into()];
        for (flag, value) in [
            ("--node", node.name.clone()),
            ("--bpffs", node.bpffs.display().to_string()),
            ("--cgroup", cgroup.display().to_string()),
            ("--cluster-cidr", topology::POD_RANGES.join(",")),
        ] {
            args.extend([flag.into(), value]);
        }
        args.extend(source.iter().chain(more).cloned());
        let job = node.place.spawn(&program, &args, log)?;
        Ok(Self {
            node: node.name.clone(),
            place: node.place.clone(),
            program,
            args,
            log: log.into(),
            bpffs: node.bpffs.display().to_string(),
            job,
        })
    }

    /// Waits until it has served its first full state; says why when it ends instead.
    pub fn wait_ready(&mut self) -> Result<Duration> {
        let began = Instant::now();
        let deadline = wait::patience(Duration::from_secs(20));
        loop {
            if let Some(status) = self.job.ended()? {
                bail!("the agent of {} ended with {status}: see {}", self.node, self.log.display());
            }
            match self.http(10256, "/readyz") {
                Ok(_) => return Ok(began.elapsed()),
                Err(error) if began.elapsed() > deadline => {
                    bail!("the agent of {} is not ready within {deadline:?}: {error:#}", self.node);
                }
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    }

    /// Asks one of its HTTP ports; anything but success is an error.
    pub fn http(&self, port: u16, path: &str) -> Result<String> {
        self.place.output("curl", &["-sSf", "--max-time", "2", &format!("http://127.0.0.1:{port}{path}")])
    }

    /// Number of its process.
    pub fn id(&self) -> u32 {
        self.job.id()
    }

    /// Ends it as `kill -9` does.
    pub fn kill(&mut self) -> Result<()> {
        self.job.kill()
    }

    /// Ends it by SIGTERM and returns whether it said goodbye.
    pub fn terminate(&mut self) -> Result<bool> {
        Ok(self.job.signal("TERM")?.success())
    }

    /// Starts it again with the same arguments.
    pub fn restart(&mut self) -> Result<()> {
        self.job = self.place.spawn(&self.program, &self.args, &self.log)?;
        Ok(())
    }

    /// Runs another subcommand of the agent on its node, with the places of its pins.
    pub fn run(&self, args: &[&str]) -> Result<String> {
        self.place.output(&self.program.to_string_lossy(), args)
    }

    /// Changes the value of an argument, for the next start.
    pub fn set_arg(&mut self, flag: &str, value: &str) -> Result<()> {
        let at = self.args.iter().position(|arg| arg == flag).with_context(|| format!("{flag} was not given"))?;
        value.clone_into(self.args.get_mut(at + 1).context("a flag has a value")?);
        Ok(())
    }

    /// What a command that shows the datapath says as JSON.
    pub fn show(&self, command: &str) -> Result<Value> {
        let said = self.run(&[command, "--bpffs", &self.bpffs, "-o", "json"])?;
        serde_json::from_str(&said).with_context(|| format!("`{command}` said {said}"))
    }

    /// Packets that ended with a reason, so far.
    pub fn packets(&self, reason: &str) -> Result<u64> {
        let status = self.show("status")?;
        let rows = status["reasons"].as_array().context("status has reasons")?;
        Ok(rows.iter().find(|row| row["reason"] == reason).and_then(|row| row["packets"].as_u64()).unwrap_or(0))
    }

    /// A sum over the lines of a metric, whatever their labels.
    pub fn metric(&self, name: &str) -> Result<f64> {
        self.metric_with(name, "")
    }

    /// A sum over the lines of a metric that have a label, written `name="value"`.
    pub fn metric_with(&self, name: &str, label: &str) -> Result<f64> {
        let text = self.http(10249, "/metrics")?;
        let mut sum = None;
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((left, value)) = line.rsplit_once(' ') else { continue };
            if left.split('{').next() == Some(name) && left.contains(label) {
                *sum.get_or_insert(0.0) += value.parse::<f64>()?;
            }
        }
        sum.with_context(|| format!("{name}{{{label}}} is no metric of the agent of {}", self.node))
    }
}
