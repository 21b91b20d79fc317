//! etcd, kube-apiserver and kube-controller-manager in a namespace of their own on the nodes' segment.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use super::api::Api;
use super::tools::Tools;
use crate::lab::place::{Job, Place};
use crate::lab::{Lab, tool, wait};

/// Where cluster IPs come from; [`crate::lab::service::TestService`]s have theirs in it.
pub const SERVICE_CIDRS: &str = "10.96.0.0/16,fd00:10:96::/108";
/// The last part of the control plane's address on the segment.
const HOST: u8 = 2;
/// The port of the API server.
const PORT: u16 = 6443;
/// The port at which it is to be had without TLS, inside its namespace and on the segment.
const PLAIN_PORT: u16 = 8080;
/// The controllers that make what a node reads, and those that make pods.
const CONTROLLERS: &str = "endpointslice-controller,endpointslice-mirroring-controller,endpoints-controller,\
                           service-cidr-controller,deployment-controller,replicaset-controller";
/// How long a part may take to come up: seconds on an idle machine.
const START: Duration = Duration::from_secs(90);
/// (token, user, groups). The agents are nobody special: what they may do is said by roles.
const USERS: [(&str, &str, &str); 3] = [
    ("admin", "admin", "system:masters"),
    ("controllers", "controllers", "system:masters"),
    ("agent", "system:serviceaccount:kube-system:svc-agent", "system:serviceaccounts"),
];

/// A control plane whose parts can be stopped and started.
#[derive(Debug)]
pub struct Control {
    place: Place,
    ips: [IpAddr; 2],
    dir: PathBuf,
    tools: Tools,
    etcd: Option<Job>,
    api_server: Option<Job>,
    controllers: Option<Job>,
    /// The tests' way in, and the way without TLS.
    _ways: [Job; 2],
}

impl Control {
    /// Starts all of it and waits until the API server is ready.
    pub fn start(lab: &Lab, tools: Tools) -> Result<Self> {
        let (place, ips) = lab.add_host("control", HOST)?;
        let dir = lab.dir().join("control");
        fs::create_dir_all(&dir)?;
        let key = dir.join("accounts.key");
        tool::output(Command::new("openssl").args(["genrsa", "-out"]).arg(&key).arg("2048"))?;
        let users: String =
            USERS.iter().map(|(token, user, groups)| format!("{token},{user},{user},{groups}\n")).collect();
        fs::write(dir.join("tokens"), users)?;
        let socket = dir.join("api.sock");
        let tls = format!("OPENSSL:127.0.0.1:{PORT},verify=0");
        let way = |listen: String, log: &str| place.spawn("socat", &[listen, tls.clone()], &dir.join(log));
        let ways = [
            way(format!("UNIX-LISTEN:{},fork", socket.display()), "socket.log")?,
            way(format!("TCP-LISTEN:{PLAIN_PORT},fork,reuseaddr,nodelay"), "plain.log")?,
        ];
        let mut control = Self { place, ips, dir, tools, etcd: None, api_server: None, controllers: None, _ways: ways };
        control.start_all()?;
        Ok(control)
    }

    /// Starts all parts and waits until the API server is ready.
    pub fn start_all(&mut self) -> Result<()> {
        self.start_etcd()?;
        self.start_api_server()?;
        self.wait_ready()?;
        self.start_controllers()
    }

    /// Where its programs run.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Its address on the nodes' segment.
    pub fn ip(&self) -> IpAddr {
        self.ips[0]
    }

    /// Address and port of the API server.
    pub fn server(&self) -> String {
        format!("{}:{PORT}", self.ips[0])
    }

    /// Address and port of the API server without TLS.
    pub fn plain_server(&self) -> String {
        format!("127.0.0.1:{PLAIN_PORT}")
    }

    /// A client that may do everything.
    pub fn api(&self) -> Api {
        Api::new(self.dir.join("api.sock"), "admin")
    }

    /// A file with the way to the API server for one of the users, who is called like the file.
    pub fn kubeconfig(&self, user: &str, server: &str) -> Result<PathBuf> {
        let file = self.dir.join(format!("{user}.kubeconfig"));
        // The certificate is made by the API server for itself, and signed by an authority that stands in the same file.
        let trust = if server.starts_with("https:") {
            format!("certificate-authority: {}/certs/apiserver.crt", self.dir.display())
        } else {
            String::new()
        };
        fs::write(
            &file,
            format!(
                "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
                 contexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n\
                 users: [{{name: u, user: {{token: {user}}}}}]\n\
                 clusters:\n- name: c\n  cluster:\n    server: {server}\n    {trust}\n"
            ),
        )?;
        Ok(file)
    }

    /// Starts etcd on what it has stored.
    pub fn start_etcd(&mut self) -> Result<()> {
        let args = [
            format!("--data-dir={}", self.data().display()),
            "--unsafe-no-fsync".into(),
            "--log-level=error".into(),
            "--listen-client-urls=http://127.0.0.1:2379".into(),
            "--advertise-client-urls=http://127.0.0.1:2379".into(),
            "--listen-peer-urls=http://127.0.0.1:2380".into(),
            "--initial-advertise-peer-urls=http://127.0.0.1:2380".into(),
            "--initial-cluster=default=http://127.0.0.1:2380".into(),
        ];
        self.etcd = Some(self.spawn(&self.tools.etcd(), &args, "etcd")?);
        Ok(())
    }

    /// Starts the API server; it waits for etcd by itself.
    pub fn start_api_server(&mut self) -> Result<()> {
        let dir = self.dir.display();
        let args = [
            "--etcd-servers=http://127.0.0.1:2379".into(),
            format!("--secure-port={PORT}"),
            format!("--cert-dir={dir}/certs"),
            format!("--token-auth-file={dir}/tokens"),
            "--authorization-mode=RBAC".into(),
            format!("--advertise-address={}", self.ips[0]),
            format!("--service-cluster-ip-range={SERVICE_CIDRS}"),
            "--service-account-issuer=https://kubernetes.default.svc".into(),
            format!("--service-account-key-file={dir}/accounts.key"),
            format!("--service-account-signing-key-file={dir}/accounts.key"),
            "--disable-admission-plugins=ServiceAccount".into(),
            // As in every cluster that has kube-proxy as a pod.
            "--allow-privileged=true".into(),
            "--enable-priority-and-fairness=false".into(),
            "--profiling=false".into(),
        ];
        self.api_server = Some(self.spawn(&self.tools.program("kube-apiserver"), &args, "kube-apiserver")?);
        Ok(())
    }

    /// Starts the controllers.
    pub fn start_controllers(&mut self) -> Result<()> {
        let kubeconfig = self.kubeconfig("controllers", &format!("https://{}", self.server()))?;
        let args = [
            format!("--kubeconfig={}", kubeconfig.display()),
            "--leader-elect=false".into(),
            "--use-service-account-credentials=false".into(),
            format!("--controllers={CONTROLLERS}"),
            "--kube-api-qps=1000".into(),
            "--kube-api-burst=1000".into(),
            "--profiling=false".into(),
        ];
        let program = self.tools.program("kube-controller-manager");
        self.controllers = Some(self.spawn(&program, &args, "kube-controller-manager")?);
        Ok(())
    }

    /// Waits until the API server says that it is ready.
    pub fn wait_ready(&mut self) -> Result<Duration> {
        let api = self.api();
        let (etcd, server) = (&mut self.etcd, &mut self.api_server);
        let dir = self.dir.display();
        // Whoever has ended will not become ready.
        let took = wait::until("the API server is ready", START, || {
            for (name, job) in [("etcd", &mut *etcd), ("kube-apiserver", &mut *server)] {
                if let Some(job) = job
                    && let Some(status) = job.ended()?
                {
                    bail!("{name} ended with {status}: see {dir}/{name}.log");
                }
            }
            let said = api.text("/readyz")?;
            ensure!(said == "ok", "it says {said}");
            Ok(())
        })?;
        Ok(took)
    }

    /// Ends the API server at once, as a crash does.
    pub fn stop_api_server(&mut self) -> Result<()> {
        self.api_server.take().context("the API server does not run")?.kill()
    }

    /// Ends the controllers at once.
    pub fn stop_controllers(&mut self) -> Result<()> {
        self.controllers.take().context("the controllers do not run")?.kill()
    }

    /// Ends etcd, and what it has stored is whole.
    pub fn stop_etcd(&mut self) -> Result<()> {
        self.etcd.take().context("etcd does not run")?.signal("TERM").map(drop)
    }

    /// Freezes (`STOP`) or thaws (`CONT`) the API server: connections stand, and nothing comes.
    pub fn signal_api_server(&self, signal: &str) -> Result<()> {
        let job = self.api_server.as_ref().context("the API server does not run")?;
        tool::output(Command::new("kill").args([&format!("-{signal}"), &job.id().to_string()])).map(drop)
    }

    /// Copies what etcd has stored; it has to stand still.
    pub fn save(&self) -> Result<()> {
        ensure!(self.etcd.is_none(), "etcd still runs");
        tool::output(Command::new("cp").arg("-a").arg(self.data()).arg(self.dir.join("saved"))).map(drop)
    }

    /// Puts the copy back.
    pub fn restore(&self) -> Result<()> {
        ensure!(self.etcd.is_none(), "etcd still runs");
        fs::remove_dir_all(self.data())?;
        fs::rename(self.dir.join("saved"), self.data()).context("nothing was saved")
    }

    /// Has etcd forget everything but the present.
    pub fn compact(&self) -> Result<()> {
        let etcd = |path: &str, body: &str| {
            let url = format!("http://127.0.0.1:2379{path}");
            self.place.output("curl", &["-sSf", "--max-time", "5", "-d", body, &url])
        };
        let status: serde_json::Value = serde_json::from_str(&etcd("/v3/maintenance/status", "{}")?)?;
        let revision = status["header"]["revision"].as_str().context("etcd names no revision")?;
        etcd("/v3/kv/compaction", &format!(r#"{{"revision":"{revision}","physical":true}}"#)).map(drop)
    }

    /// Memory that the parts hold, in KiB: (program, resident).
    pub fn memory(&self) -> Result<Vec<(&'static str, u64)>> {
        let jobs = [
            ("etcd", &self.etcd),
            ("kube-apiserver", &self.api_server),
            ("kube-controller-manager", &self.controllers),
        ];
        let running = jobs.into_iter().filter_map(|(name, job)| Some((name, job.as_ref()?)));
        running.map(|(name, job)| Ok((name, super::resident(job.id())?))).collect()
    }

    /// The last lines of what the parts wrote.
    pub fn logs(&self) -> String {
        let tail = |name: &str| {
            let text = fs::read_to_string(self.dir.join(format!("{name}.log"))).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            format!("--- {name}\n{}\n", lines[lines.len().saturating_sub(15)..].join("\n"))
        };
        ["etcd", "kube-apiserver", "kube-controller-manager"].map(tail).concat()
    }

    fn data(&self) -> PathBuf {
        self.dir.join("etcd")
    }

    fn spawn(&self, program: &Path, args: &[String], name: &str) -> Result<Job> {
        self.place.spawn(program, args, &self.dir.join(format!("{name}.log")))
    }
}
