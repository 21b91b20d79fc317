//! The kube-proxy of this node: its process, its flags and file, its rules.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use clap::Parser as _;
use clap::error::{ContextKind, ErrorKind};
use svc_common::tables::Algorithm;

use crate::cli::doctor::netfilter::{self, Chain};
use crate::cli::flags::Flags;
use crate::cli::{Cli, Command, dashed, kube_proxy};
use crate::model::Family;
use crate::plan::NodePortAddresses;
use crate::plan::options::NodePortSet;

/// The modes of kube-proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Iptables,
    Ipvs,
    Nftables,
}

impl Mode {
    fn name(self) -> &'static str {
        match self {
            Self::Iptables => "iptables",
            Self::Ipvs => "ipvs",
            Self::Nftables => "nftables",
        }
    }

    fn named(name: &str) -> Option<Self> {
        [Self::Iptables, Self::Ipvs, Self::Nftables].into_iter().find(|mode| mode.name() == name)
    }
}

/// What was found out.
#[derive(Debug)]
pub(super) struct KubeProxy {
    pid: Option<u32>,
    pub(super) mode: Mode,
    /// Its flags and its file, as if we had been started with them.
    pub(super) flags: Flags,
    /// What of them has no meaning here.
    pub(super) remarks: Vec<String>,
    chains: Vec<Chain>,
}

impl KubeProxy {
    /// Looks for its process in this network namespace, and for its rules.
    pub(super) fn find() -> anyhow::Result<Self> {
        let own = fs::read_link("/proc/self/ns/net").ok();
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten().map(|entry| entry.path());
        let process = processes.into_iter().find(|path| {
            let comm = fs::read_to_string(path.join("comm")).unwrap_or_default();
            comm.trim() == "kube-proxy" && fs::read_link(path.join("ns/net")).ok() == own
        });
        let chains = netfilter::chains().unwrap_or_default();
        let (mut flags, mut remarks) = (unset()?, Vec::new());
        if let Some(path) = &process {
            match started(path) {
                Ok(found) => (flags, remarks) = found,
                Err(error) => remarks.push(format!("its flags cannot be understood: {error:#}")),
            }
        }
        let ipvs = fs::read_to_string("/proc/net/ip_vs").unwrap_or_default();
        let mode = match process.is_some() {
            true => Mode::named(&flags.kube_proxy.settings.mode).unwrap_or(Mode::Iptables),
            false => mode_by_rules(&chains, &ipvs),
        };
        let pid = process.and_then(|path| path.file_name()?.to_str()?.parse().ok());
        Ok(Self { pid, mode, flags, remarks, chains })
    }

    /// One line.
    pub(super) fn described(&self) -> String {
        match self.pid {
            Some(pid) => format!("process {pid}, mode {}", self.mode.name()),
            None if self.has_rules() => format!("no process, but rules of mode {}", self.mode.name()),
            None => format!("no process and no rules; compared with mode {} and its defaults", self.mode.name()),
        }
    }

    fn has_rules(&self) -> bool {
        self.chains.iter().any(Chain::is_kube_proxys)
    }

    /// Where its node ports answer.
    pub(super) fn node_ports(&self, primary: [Option<IpAddr>; 2], addresses: &[IpAddr]) -> [NodePortSet; 2] {
        let unset = self.flags.nodeport_addresses.is_default();
        let localhost =
            self.mode == Mode::Iptables && self.flags.kube_proxy.settings.localhost_node_ports != Some(false);
        Family::ALL.map(|family| {
            let everywhere = NodePortAddresses::default().everywhere();
            let meant = match (unset, self.mode) {
                (false, _) => self.flags.nodeport_addresses.clone(),
                (true, Mode::Nftables) => NodePortAddresses::default(),
                (true, Mode::Iptables | Mode::Ipvs) => everywhere,
            };
            let mut set = meant.resolve(family, primary[family as usize], addresses);
            // Only mode iptables serves loopback, and only IPv4.
            set.loopback &= localhost && family == Family::V4;
            set
        })
    }

    /// How it chooses endpoints.
    pub(super) fn scheduler(&self) -> Algorithm {
        if self.mode == Mode::Ipvs { self.flags.scheduler.algorithm } else { Algorithm::Random }
    }
}

fn unset() -> anyhow::Result<Flags> {
    understand(&[]).map(|(flags, _)| flags)
}

/// The flags as ours. One that is not known is of another release: it is named and passed over.
fn understand(args: &[String]) -> anyhow::Result<(Flags, Vec<String>)> {
    let (mut args, mut unknown) = (args.to_vec(), Vec::new());
    loop {
        let words = ["svc-agent", "run"].into_iter().map(str::to_owned).chain(args.iter().cloned());
        match Cli::try_parse_from(words) {
            Ok(cli) => {
                let Command::Run(mut run) = cli.command else { unreachable!("the command is run") };
                unknown.extend(kube_proxy::complete(&mut run.flags)?);
                return Ok((run.flags, unknown));
            }
            Err(error) => {
                let named = error.get(ContextKind::InvalidArg).map(ToString::to_string);
                let named = named.filter(|_| error.kind() == ErrorKind::UnknownArgument);
                let at = args.iter().position(|arg| named.as_deref().is_some_and(|named| arg.starts_with(named)));
                let Some(at) = at else { return Err(error.into()) };
                unknown.push(format!("{} is not known here", args.remove(at)));
            }
        }
    }
}

/// The flags with which a process was started. Its files are looked for where it sees them.
fn started(process: &Path) -> anyhow::Result<(Flags, Vec<String>)> {
    let cmdline = fs::read(process.join("cmdline"))?;
    let words = cmdline.split(|byte| *byte == 0).filter(|word| !word.is_empty()).skip(1);
    let mut args: Vec<_> = words.map(|word| dashed(&String::from_utf8_lossy(word))).collect();
    let root = process.join("root");
    let mut next_is_file = false;
    for arg in &mut args {
        if let Some(path) = arg.strip_prefix("--config=") {
            *arg = format!("--config={}", inside(&root, path).display());
        } else if next_is_file {
            *arg = inside(&root, arg).display().to_string();
        }
        next_is_file = arg == "--config";
    }
    let (mut flags, remarks) = understand(&args)?;
    flags.kubeconfig = flags.kubeconfig.map(|path| inside(&root, &path.to_string_lossy()));
    Ok((flags, remarks))
}

fn inside(root: &Path, path: &str) -> PathBuf {
    root.join(path.trim_start_matches('/'))
}

fn mode_by_rules(chains: &[Chain], ip_vs: &str) -> Mode {
    let ipvs = ip_vs.lines().any(|line| ["TCP", "UDP", "SCTP"].iter().any(|protocol| line.starts_with(protocol)));
    match chains.iter().find(|chain| chain.is_kube_proxys()) {
        _ if ipvs => Mode::Ipvs,
        Some(chain) if chain.table == "kube-proxy" => Mode::Nftables,
        _ => Mode::Iptables,
    }
}

/// What is true of every Service.
pub(super) fn for_all(kube_proxy: &KubeProxy) -> Vec<String> {
    let mut lines = vec![
        "TCP connections that kube-proxy has translated are reset when the agent starts, and clients dial again; to \
         spare them that, drain the node first"
            .to_owned(),
        "session affinity begins anew: a client may get another endpoint once".to_owned(),
    ];
    lines.push(
        match kube_proxy.mode {
            Mode::Iptables => {
                "a port that a cluster IP does not have is refused; kube-proxy lets such packets go on to the default route"
            }
            Mode::Ipvs => {
                "a port that a cluster IP does not have is refused; with ipvs such packets reach processes of the node"
            }
            Mode::Nftables => "a port that a cluster IP does not have is refused, as it is now",
        }
        .to_owned(),
    );
    if kube_proxy.mode == Mode::Ipvs {
        lines.push("cluster IPs no longer answer ping: they are not bound to a device".to_owned());
    }
    if sysctl("net/ipv4/conf/all/route_localnet").as_deref() == Some("1") {
        lines.push(
            "net.ipv4.conf.all.route_localnet is 1, which node ports on localhost no longer need: set it to 0"
                .to_owned(),
        );
    }
    if kube_proxy.has_rules() || kube_proxy.mode == Mode::Ipvs {
        lines.push(match kube_proxy.mode {
            Mode::Nftables => "the tables ip kube-proxy and ip6 kube-proxy have to be removed".to_owned(),
            Mode::Iptables => "the chains KUBE-* have to be removed".to_owned(),
            Mode::Ipvs => {
                "the virtual servers, the device kube-ipvs0 and the chains KUBE-* have to be removed".to_owned()
            }
        });
    }
    lines
}

fn sysctl(name: &str) -> Option<String> {
    fs::read_to_string(format!("/proc/sys/{name}")).ok().map(|value| value.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kube_proxy(mode: Mode, args: &[&str]) -> KubeProxy {
        let args: Vec<_> = args.iter().map(|arg| (*arg).to_owned()).collect();
        let (flags, remarks) = understand(&args).expect("valid");
        KubeProxy { pid: None, mode, flags, remarks, chains: Vec::new() }
    }

    fn answers(mode: Mode, args: &[&str]) -> [(usize, bool); 2] {
        let [v4, v6] = ["192.0.2.1", "2001:db8::1"].map(|addr| addr.parse::<IpAddr>().expect("an address"));
        let addresses = [v4, "10.0.0.1".parse().expect("an address"), v6];
        kube_proxy(mode, args)
            .node_ports([Some(v4), Some(v6)], &addresses)
            .map(|set| (set.addresses.len(), set.loopback))
    }

    #[test]
    fn where_node_ports_answer_depends_on_the_mode() {
        assert_eq!(answers(Mode::Iptables, &[]), [(2, true), (1, false)]);
        assert_eq!(answers(Mode::Iptables, &["--iptables-localhost-nodeports=false"]), [(2, false), (1, false)]);
        assert_eq!(answers(Mode::Ipvs, &[]), [(2, false), (1, false)]);
        assert_eq!(answers(Mode::Nftables, &[]), [(1, false), (1, false)]);
        assert_eq!(answers(Mode::Iptables, &["--nodeport-addresses=10.0.0.0/8"]), [(1, false), (1, false)]);
    }

    #[test]
    fn the_mode_follows_from_what_was_left() {
        let chain = |table: &str, name: &str| Chain {
            family: 2,
            table: table.into(),
            name: name.into(),
            drops_forwarded: false,
        };
        assert_eq!(mode_by_rules(&[], ""), Mode::Iptables);
        assert_eq!(mode_by_rules(&[chain("kube-proxy", "services")], ""), Mode::Nftables);
        assert_eq!(mode_by_rules(&[chain("nat", "KUBE-SERVICES")], ""), Mode::Iptables);
        assert_eq!(mode_by_rules(&[chain("nat", "KUBE-SERVICES")], "IP\nTCP  0A600001:0050 rr\n"), Mode::Ipvs);
    }

    #[test]
    fn a_flag_of_another_release_is_passed_over() {
        let remarks = kube_proxy(Mode::Iptables, &["--brand-new=1", "--masquerade-all"]).remarks;
        assert_eq!(remarks, ["--brand-new=1 is not known here"]);
    }

    #[test]
    fn only_ipvs_has_schedulers() {
        let args = ["--proxy-mode=ipvs", "--ipvs-scheduler=sh"];
        assert_eq!(kube_proxy(Mode::Ipvs, &args).scheduler(), Algorithm::SourceHash);
        assert_eq!(kube_proxy(Mode::Nftables, &args).scheduler(), Algorithm::Random);
    }
}
