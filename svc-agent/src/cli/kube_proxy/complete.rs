//! From kube-proxy's flags and file to ours.

use std::fmt::{Display, Write as _};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use anyhow::{Context as _, anyhow};
use clap::Parser as _;

use super::file::File;
use super::table::{FLAGS, Meaning};
use super::{Instead, KubeProxy};
use crate::cli::flags::{Flags, method};
use crate::cli::listen::{Listen, METRICS_PORT};
use crate::cli::{Cli, Command};
use crate::plan::scheduler;

/// Ours that are kube-proxy's too, and of which a file takes the place: id, and name.
const REPLACED: [(&str, &str); 9] = [
    ("cluster_cidr", "cluster-cidr"),
    ("detect_local_mode", "detect-local-mode"),
    ("healthz_bind_address", "healthz-bind-address"),
    ("kubeconfig", "kubeconfig"),
    ("masquerade_all", "masquerade-all"),
    ("metrics_bind_address", "metrics-bind-address"),
    ("nodeport_addresses", "nodeport-addresses"),
    ("pod_bridge_interface", "pod-bridge-interface"),
    ("pod_interface_name_prefix", "pod-interface-name-prefix"),
];
/// Those of `table` that count although there is a file.
const BESIDE_A_FILE: [&str; 5] = ["cleanup", "init-only", "logging-format", "v", "write-config-to"];

/// Lets what kube-proxy's flags and file say come into force. What has no meaning, is unknown or does not count, one
/// line each; an error is a value that cannot be understood.
pub fn complete(flags: &mut Flags) -> anyhow::Result<Vec<String>> {
    let mut remarks = Vec::new();
    let given = flags.kube_proxy.clone();
    for flag in FLAGS {
        if let (Meaning::Without(why), true) = (flag.meaning, given.values.contains_key(flag.name)) {
            remarks.push(format!("--{} has no meaning here: {why}", flag.name));
        }
    }
    remarks.extend(given.scheduler.as_deref().and_then(substituted).map(|text| format!("--ipvs-scheduler {text}")));
    match &given.config {
        Some(path) => {
            let file = File::read(path)?;
            remarks
                .extend(file.text("ipvs.scheduler").and_then(substituted).map(|text| format!("ipvs.scheduler {text}")));
            forget(flags, &given, &mut remarks)?;
            take_file(flags, &file)?;
            remarks.extend(file.remarks);
        }
        None => take_flags(flags, &given)?,
    }
    let settings = &mut flags.kube_proxy.settings;
    if let Some(level) = given.get::<u8>("v")? {
        settings.verbosity = level;
    }
    if let Some(format) = given.text("logging-format") {
        settings.log_json = is_json(format).map_err(|error| anyhow!("--logging-format: {error}"))?;
    }
    if given.get::<bool>("cleanup")? == Some(true) {
        settings.instead = Some(Instead::Cleanup);
    } else if given.get::<bool>("init-only")? == Some(true) {
        settings.instead = Some(Instead::Initialise);
    }
    if let Some(path) = given.text("write-config-to").filter(|path| !path.is_empty()) {
        let text = written(flags);
        flags.kube_proxy.settings.instead = Some(Instead::Write(path.into(), text));
    }
    Ok(remarks)
}

/// With a file, what kube-proxy's flags say does not count.
fn forget(flags: &mut Flags, given: &KubeProxy, remarks: &mut Vec<String>) -> anyhow::Result<()> {
    let Command::Run(unset) = Cli::try_parse_from(["svc-agent", "run"])?.command else { return Ok(()) };
    let unset = unset.flags;
    let ours = REPLACED.iter().filter(|(id, _)| given.given.contains(*id)).map(|(_, name)| *name);
    let theirs = FLAGS.iter().filter(|flag| flag.meaning == Meaning::Taken && given.values.contains_key(flag.name));
    let theirs = theirs.map(|flag| flag.name).filter(|name| !BESIDE_A_FILE.contains(name));
    remarks
        .extend(ours.chain(theirs).map(|name| {
            format!("--{name} does not count beside --config, as with kube-proxy: write it into the file")
        }));
    // The environment is not the command line.
    if given.given.contains("kubeconfig") {
        flags.kubeconfig = unset.kubeconfig;
    }
    flags.cluster_cidr = unset.cluster_cidr;
    flags.detect_local_mode = unset.detect_local_mode;
    flags.healthz_bind_address = unset.healthz_bind_address;
    flags.masquerade_all = unset.masquerade_all;
    flags.metrics_bind_address = unset.metrics_bind_address;
    flags.nodeport_addresses = unset.nodeport_addresses;
    flags.pod_bridge_interface = unset.pod_bridge_interface;
    flags.pod_interface_name_prefix = unset.pod_interface_name_prefix;
    Ok(())
}

fn take_file(flags: &mut Flags, file: &File) -> anyhow::Result<()> {
    let given = flags.kube_proxy.given.clone();
    let mode = file.read_with("mode", mode)?.unwrap_or_default();
    let of_mode = |field: &str| format!("{}.{field}", if mode == "nftables" { "nftables" } else { "iptables" });
    flags.kubeconfig = file.get("clientConnection.kubeconfig")?.or_else(|| flags.kubeconfig.take());
    flags.pod_bridge_interface = file.get("detectLocal.bridgeInterface")?;
    flags.pod_interface_name_prefix = file.get("detectLocal.interfaceNamePrefix")?;
    set(&mut flags.cluster_cidr, file.get("clusterCIDR")?);
    set(&mut flags.detect_local_mode, file.get("detectLocalMode")?);
    set(&mut flags.nodeport_addresses, file.get("nodePortAddresses")?);
    set(&mut flags.masquerade_all, file.get(&of_mode("masqueradeAll"))?);
    if !given.contains("masquerade_bit") {
        set(&mut flags.masquerade_bit, file.read_with(&of_mode("masqueradeBit"), bit)?);
    }
    if flags.node.is_none() {
        flags.node = file.text("hostnameOverride").map(str::to_lowercase);
    }
    if mode == "ipvs" && !given.contains("scheduler") {
        let named = file.read_with("ipvs.scheduler", method)?;
        flags.scheduler = named.or_else(|| scheduler::method("rr")).unwrap_or(flags.scheduler);
    }
    let localhost = file.get("iptables.localhostNodePorts")?;
    if localhost == Some(false) {
        flags.nodeport_addresses = flags.nodeport_addresses.clone().without_loopback();
    }
    let bind_address = file.get::<IpAddr>("bindAddress")?;
    set(&mut flags.healthz_bind_address, file.read_with("healthzBindAddress", Listen::healthz)?);
    match file.read_with("metricsBindAddress", Listen::metrics)? {
        Some(listen) => flags.metrics_bind_address = listen,
        None => metrics_follow(flags, bind_address),
    }
    let settings = &mut flags.kube_proxy.settings;
    mode.clone_into(&mut settings.mode);
    settings.localhost_node_ports = localhost;
    settings.bind_address = bind_address.filter(|addr| !addr.is_unspecified());
    set(&mut settings.bind_hard_fail, file.get("bindAddressHardFail")?);
    settings.oom_score_adj = file.read_with("oomScoreAdj", score)?;
    set(&mut settings.verbosity, file.get("logging.verbosity")?);
    set(&mut settings.log_json, file.read_with("logging.format", is_json)?);
    Ok(())
}

fn take_flags(flags: &mut Flags, given: &KubeProxy) -> anyhow::Result<()> {
    let mode = given.read_with("proxy-mode", mode)?.unwrap_or_default();
    if mode == "ipvs" && !given.given.contains("scheduler") {
        set(&mut flags.scheduler, scheduler::method("rr"));
    }
    let localhost = given.get("iptables-localhost-nodeports")?;
    if localhost == Some(false) {
        flags.nodeport_addresses = flags.nodeport_addresses.clone().without_loopback();
    }
    let bind_address = given.get::<IpAddr>("bind-address")?;
    if !given.given.contains("metrics_bind_address") {
        metrics_follow(flags, bind_address);
    }
    for (name, port, listen) in [
        ("healthz_bind_address", given.get::<u16>("healthz-port")?, &mut flags.healthz_bind_address),
        ("metrics_bind_address", given.get::<u16>("metrics-port")?, &mut flags.metrics_bind_address),
    ] {
        // An address that says its port knows better; 0 closes the port in any case.
        match port {
            Some(port) if port == 0 || !given.given.contains(name) => *listen = listen.with_port(port),
            _ => {}
        }
    }
    let settings = &mut flags.kube_proxy.settings;
    mode.clone_into(&mut settings.mode);
    settings.localhost_node_ports = localhost;
    settings.bind_address = bind_address.filter(|addr| !addr.is_unspecified());
    set(&mut settings.bind_hard_fail, given.get("bind-address-hard-fail")?);
    settings.oom_score_adj = given.read_with("oom-score-adj", score)?;
    Ok(())
}

/// A node of IPv6 shows its metrics on loopback of that family.
fn metrics_follow(flags: &mut Flags, bind_address: Option<IpAddr>) {
    if bind_address.is_some_and(|addr| addr.is_ipv6()) {
        flags.metrics_bind_address = Listen(Some(SocketAddr::new(Ipv6Addr::LOCALHOST.into(), METRICS_PORT)));
    }
}

fn set<T>(place: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *place = value;
    }
}

impl KubeProxy {
    fn text(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    fn read_with<T, E: Display>(
        &self,
        name: &str,
        read: impl FnOnce(&str) -> Result<T, E>,
    ) -> anyhow::Result<Option<T>> {
        self.text(name).map(|value| read(value).map_err(|error| anyhow!("--{name} {value}: {error}"))).transpose()
    }

    fn get<T: FromStr<Err: Display>>(&self, name: &str) -> anyhow::Result<Option<T>> {
        self.read_with(name, T::from_str)
    }
}

/// A mode of kube-proxy. Which one it is decides which of its settings count.
fn mode(text: &str) -> Result<&'static str, String> {
    let known = ["iptables", "ipvs", "nftables", ""];
    known
        .into_iter()
        .find(|known| *known == text)
        .ok_or_else(|| format!("\"{text}\" is no mode of kube-proxy on Linux; those are iptables, ipvs and nftables"))
}

fn substituted(name: &str) -> Option<String> {
    Some(format!("{name} is not offered: {} takes its place", scheduler::substitute(name)?))
}

fn bit(text: &str) -> Result<u8, String> {
    text.parse().ok().filter(|bit| *bit <= 31).ok_or_else(|| format!("\"{text}\" is no bit; write 0 to 31"))
}

fn score(text: &str) -> Result<i16, String> {
    let score = text.parse().ok().filter(|score| (-1000..=1000).contains(score));
    score.ok_or_else(|| format!("\"{text}\" is no score; write -1000 to 1000"))
}

fn is_json(format: &str) -> Result<bool, String> {
    match format {
        "json" => Ok(true),
        "text" | "" => Ok(false),
        _ => Err(format!("\"{format}\" is no format of the log; write text or json")),
    }
}

/// The flags that stand in a KubeProxyConfiguration, as one.
fn written(flags: &Flags) -> String {
    let mut text = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n".to_owned();
    let quoted = |value: String| serde_json::Value::from(value).to_string();
    let list = |values: &[ipnet::IpNet]| values.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let path = |path: &Option<std::path::PathBuf>| path.as_ref().map_or_else(String::new, |p| p.display().to_string());
    let fields = [
        ("bindAddress", flags.kube_proxy.settings.bind_address.map_or("0.0.0.0".to_owned(), |addr| addr.to_string())),
        ("healthzBindAddress", flags.healthz_bind_address.to_string()),
        ("metricsBindAddress", flags.metrics_bind_address.to_string()),
        ("hostnameOverride", flags.node.clone().unwrap_or_default()),
        ("clusterCIDR", list(&flags.cluster_cidr.0)),
        ("detectLocalMode", flags.detect_local_mode.name().to_owned()),
    ];
    for (name, value) in fields {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name}: {}", quoted(value));
    }
    let (bridge, prefix) = (flags.pod_bridge_interface.clone(), flags.pod_interface_name_prefix.clone());
    let _ = write!(
        text,
        "detectLocal:\n  bridgeInterface: {}\n  interfaceNamePrefix: {}\nclientConnection:\n  kubeconfig: {}\n\
         nodePortAddresses: [{}]\niptables:\n  masqueradeAll: {}\n  masqueradeBit: {}\n",
        quoted(bridge.unwrap_or_default()),
        quoted(prefix.unwrap_or_default()),
        quoted(path(&flags.kubeconfig)),
        flags.nodeport_addresses,
        flags.masquerade_all,
        flags.masquerade_bit,
    );
    text
}

impl Instead {
    /// Does what does not need the rest of the agent.
    pub(in crate::cli) fn write(path: &std::path::Path, text: &str) -> anyhow::Result<()> {
        std::fs::write(path, text).with_context(|| format!("--write-config-to {}", path.display()))
    }
}
