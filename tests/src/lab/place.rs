//! A place is where a program runs: a network namespace and a cgroup.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use anyhow::{Context, Result};

use super::run::Run;
use super::tool;

/// The last step into a place: join the cgroup and become the program.
pub(super) const JOIN: &str = r#"echo $$ > "$0/cgroup.procs" && exec "$@""#;

/// A network namespace and a cgroup; cheap to clone, owned by its run.
#[derive(Clone, Debug)]
pub struct Place {
    netns: String,
    cgroup: PathBuf,
    /// Programs end with the process that started them.
    tether: bool,
}

impl Place {
    /// Makes a namespace with nothing but loopback; `cgroup` is relative to the run's own.
    pub fn make(run: &Run, name: &str, cgroup: &str) -> Result<Self> {
        let netns = run.netns(name);
        tool::output(Command::new("ip").args(["netns", "add", &netns]))?;
        let place = Self { netns, cgroup: run.cgroup(cgroup)?, tether: !run.keep() };
        // Addresses are usable at once: nobody else could have them.
        place.sysctl(&[("net.ipv6.conf.all.accept_dad", "0"), ("net.ipv6.conf.default.accept_dad", "0")])?;
        place.ip(&["link", "set", "lo", "up"])?;
        Ok(place)
    }

    /// The same namespace, another cgroup below the run's own.
    pub fn with_cgroup(&self, run: &Run, cgroup: &str) -> Result<Self> {
        Ok(Self { cgroup: run.cgroup(cgroup)?, ..self.clone() })
    }

    /// Name of the namespace, for `ip netns`.
    pub fn netns(&self) -> &str {
        &self.netns
    }

    /// The cgroup that programs join.
    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// How a person enters.
    pub fn enter_hint(&self) -> String {
        format!("nsenter --net=/run/netns/{}", self.netns)
    }

    /// A program that will run here.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.netns)).arg("--");
        if self.tether {
            command.args(["setpriv", "--pdeathsig", "KILL", "--"]);
        }
        command.args(["sh", "-c", JOIN]).arg(&self.cgroup).arg(program);
        command
    }

    /// Runs a program to its end and returns what it printed.
    pub fn output<S: AsRef<OsStr>>(&self, program: &str, args: &[S]) -> Result<String> {
        tool::output(self.command(program).args(args))
    }

    /// Starts a program that goes on; its output goes to a file.
    pub fn spawn<S: AsRef<OsStr>>(&self, program: impl AsRef<OsStr>, args: &[S], log: &Path) -> Result<Job> {
        let name = program.as_ref().to_string_lossy().into_owned();
        let out = fs::File::options().create(true).append(true).open(log)?;
        let child = self
            .command(program)
            .args(args)
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        Ok(Job { name, child, tether: self.tether })
    }

    /// `ip` for this namespace.
    pub fn ip(&self, args: &[&str]) -> Result<()> {
        tool::output(Command::new("ip").args(["-n", &self.netns]).args(args)).map(drop)
    }

    /// Many `ip` commands, one a line.
    pub fn ip_batch(&self, lines: &str) -> Result<()> {
        let mut command = Command::new("ip");
        command.args(["-n", &self.netns, "-batch", "-"]);
        tool::output_with_input(&mut command, lines).map(drop).with_context(|| format!("in {}:\n{lines}", self.netns))
    }

    /// Writes kernel settings of this namespace.
    pub fn sysctl(&self, settings: &[(&str, &str)]) -> Result<()> {
        let words: Vec<String> = settings.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.netns)).args(["sysctl", "-qw"]).args(words);
        tool::output(&mut command).map(drop)
    }

    /// Switches device features by `ethtool -K`.
    pub fn features(&self, device: &str, features: &[&str]) -> Result<()> {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.netns)).args(["ethtool", "-K", device]).args(features);
        tool::output(&mut command).map(drop)
    }
}

/// A running program; it is killed when dropped, unless the lab is to stay.
#[derive(Debug)]
pub struct Job {
    name: String,
    child: Child,
    tether: bool,
}

impl Job {
    /// Number of the process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Ends it at once, as `kill -9` does.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill().with_context(|| format!("cannot kill {}", self.name))?;
        self.child.wait().map(drop).with_context(|| format!("cannot wait for {}", self.name))
    }

    /// Asks it to end by a signal that `kill` knows, and waits.
    pub fn signal(&mut self, signal: &str) -> Result<ExitStatus> {
        tool::output(Command::new("kill").args([&format!("-{signal}"), &self.id().to_string()]))?;
        Ok(self.child.wait()?)
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        if self.tether {
            // It may have ended by itself; either way nothing of it is left.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
