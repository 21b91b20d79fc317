//! `cargo xtask upstream`: upstream's own end-to-end tests of services, on a cluster of upstream's own programs.
//!
//! Two nodes with real kubelets, containerd and CNI plugins, each a set of namespaces, and on each the agent or the real
//! kube-proxy. Everything is built from Go modules in `tests/cluster/upstream/`, whose scripts lay the cluster out; what
//! its pods run is made from programs of this machine (`images`). Too long for CI: run by hand.

mod images;

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;

use crate::cluster::{self, How, Release};
use crate::launch::release;
use crate::run::{cargo, command, root, run as run_command};
use crate::{build_ebpf, machine, setup, tools};

/// What is about services and can be answered by a cluster without a cloud.
const FOCUS: &str = r"\[sig-network\] (Services|Conntrack|EndpointSlice|EndpointSliceMirroring|Networking Granular Checks: Services|HostPort|Proxy|Traffic Distribution|Service endpoints latency)|\[sig-network\].*(IPv6DualStack|SCTP)|\[sig-network\] Networking should check kube-proxy";
/// What needs a load balancer, a network policy or a kernel with SCTP, restarts the cluster's own parts through a
/// provider's machines, or asks for what only kube-proxy has.
const SKIP: &str = r"Disruptive|LoadBalancer|KubeProxyNFAcct|LocalhostNodePorts|SCTP HostPort|SCTPConnectivity|NetworkPolicy|restarting";
/// Programs beside those of the lab.
const PROGRAMS: &[(&str, &str)] = &[
    ("pkg-config", "pkg-config"),
    ("cc", "build-essential"),
    ("unshare", "util-linux"),
    ("pgrep", "procps"),
    ("nc.openbsd", "netcat-openbsd"),
    ("conntrack", "conntrack"),
    ("nslookup", "bind9-dnsutils"),
    ("ss", "iproute2"),
    ("bash", "bash"),
];

/// Who serves the Services.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Proxy {
    /// svc-agent
    #[default]
    Svc,
    /// The real kube-proxy, in its nftables mode: what fails with it too is no fault of ours
    KubeProxy,
}

/// `upstream`
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Which tests, a regular expression [default: those of services]
    #[arg(long, value_name = "RE", default_value = FOCUS, hide_default_value = true)]
    focus: String,
    /// Which of them not [default: those that need a cloud]
    #[arg(long, value_name = "RE", default_value = SKIP, hide_default_value = true)]
    skip: String,
    /// Who serves the Services
    #[arg(long, value_enum, default_value_t)]
    proxy: Proxy,
    /// An agent that is already built; without it one is built as a release
    #[arg(long, value_name = "FILE")]
    agent: Option<PathBuf>,
    /// How many tests at a time
    #[arg(long, default_value_t = 5)]
    processes: u32,
    /// For the proxy
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    if let Some(reason) = machine::no_namespaces() {
        bail!("{reason}");
    }
    if !Path::new("/sys/fs/cgroup/memory/tasks").exists() {
        bail!("needs the controllers of cgroup v1: the nodes' kubelets are set up for those");
    }
    setup::programs(tools::RUN_TIME)?;
    setup::programs(PROGRAMS)?;
    if !Path::new("/usr/include/seccomp.h").exists() {
        bail!("runc needs libseccomp's header: apt-get install libseccomp-dev");
    }
    let agent = args.agent.clone().map_or_else(build_agent, Ok)?;
    let agent = agent.canonicalize().with_context(|| format!("cannot read {}", agent.display()))?;
    let control = cluster::build(Release::Newest, &[cluster::FOR_TESTS, cluster::FOR_BENCH].concat())?;
    let kubernetes = |name: &'static str, path: &str| (name, format!("k8s.io/kubernetes/{path}"));
    let programs = [
        ("ginkgo", "github.com/onsi/ginkgo/v2/ginkgo".to_owned()),
        kubernetes("kubelet", "cmd/kubelet"),
        kubernetes("kube-scheduler", "cmd/kube-scheduler"),
        kubernetes("kubectl", "cmd/kubectl"),
        kubernetes("agnhost", "test/images/agnhost"),
        kubernetes("regression-issue-74839", "test/images/regression-issue-74839"),
    ];
    let e2e = cluster::module_with(How::Plain, "upstream/e2e", "k8s.io/kubernetes", &programs)?;
    cluster::module_with(How::Tests, "upstream/e2e", "k8s.io/kubernetes", &[("e2e.test", ".".to_owned())])?;
    let containerd = |name: &'static str| (name, format!("github.com/containerd/containerd/v2/cmd/{name}"));
    let plugin =
        |name: &'static str, path: &str| (name, format!("github.com/containernetworking/plugins/plugins/{path}"));
    let programs = [
        containerd("containerd"),
        containerd("containerd-shim-runc-v2"),
        containerd("ctr"),
        plugin("ptp", "main/ptp"),
        plugin("loopback", "main/loopback"),
        plugin("host-local", "ipam/host-local"),
        plugin("portmap", "meta/portmap"),
    ];
    let runc = [("runc", "github.com/opencontainers/runc".to_owned())];
    cluster::module_with(How::WithC, "upstream/node", "github.com/containerd/containerd/v2", &runc)?;
    let node = cluster::module_with(How::Plain, "upstream/node", "github.com/containerd/containerd/v2", &programs)?;
    let dns = [("dns", ".".to_owned())];
    let dns = cluster::module_with(How::Plain, "upstream/dns", "github.com/coredns/coredns", &dns)?;
    let images = e2e.join("images");
    images::make(&e2e, &images)?;

    let now = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock stands before 1970")?.as_secs();
    let proxy = args.proxy.to_possible_value().context("each has a name")?;
    let report = root().join("target/upstream").join(format!("{}-{now}", proxy.get_name()));
    let mut script = command("bash", &["tests/cluster/upstream/cluster.sh", proxy.get_name()]);
    script.args([&args.focus, &args.skip, &args.processes.to_string()]).args(&args.args);
    script.envs(control.environment()).env("SVC_AGENT", agent);
    script.env("SVC_UPSTREAM_E2E", &e2e).env("SVC_UPSTREAM_NODE", &node).env("SVC_UPSTREAM_DNS", &dns);
    script.env("SVC_UPSTREAM_IMAGES", &images).env("SVC_UPSTREAM_REPORT", &report);
    run_command(&mut script).with_context(|| format!("all logs are in {}", report.display()))
}

fn build_agent() -> Result<PathBuf> {
    build_ebpf::build()?;
    run_command(&mut cargo(&["build", "--release", "--package", "svc-agent"]))?;
    Ok(release()?.join("svc-agent"))
}
