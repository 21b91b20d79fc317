//! Every flag and field of kube-proxy: taken, or without a meaning here and why.
//!
//! `upstream.txt` is what upstream has; a test holds the two together.

/// What becomes of a flag or a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// It does here what it does there.
    Taken,
    /// There is nothing here that it could set; why, as the end of a sentence.
    Without(&'static str),
}

use Meaning::{Taken, Without};

const AT_ONCE: &str = "changes are written one by one, as soon as they come";
const NO_RESYNC: &str = "there is nothing to be written again from time to time";
const OWN_FLOWS: &str = "connections are kept in tables of their own, for --max-flows of each family";
const LIFETIMES: &str =
    "flows live as long as the kernel's defaults have it: established TCP 24 h, UDP 30 s until a reply, then 120 s";
const NO_IPVS: &str = "ipvs is not used";
const NO_CHECK: &str = "no connection is judged by its sequence numbers";
const LOG: &str = "the log goes to standard error, line by line";
const WATCHES: &str = "there are four watches, and they are all that is asked of the API server";
const WINDOWS: &str = "it is for Windows";
const UPSTREAM: &str = "kube-proxy has no use for it any more either";

/// A flag that clap does not know as one of ours.
#[derive(Debug)]
pub(super) struct Flag {
    pub(super) name: &'static str,
    /// It needs no value: `--name` is `--name=true`.
    pub(super) switch: bool,
    pub(super) meaning: Meaning,
}

const fn flag(name: &'static str, meaning: Meaning) -> Flag {
    Flag { name, switch: false, meaning }
}

const fn switch(name: &'static str, meaning: Meaning) -> Flag {
    Flag { name, switch: true, meaning }
}

/// Flags of kube-proxy besides those that `Flags` has under the same name.
pub(super) const FLAGS: &[Flag] = &[
    flag("bind-address", Taken),
    switch("bind-address-hard-fail", Taken),
    switch("cleanup", Taken),
    flag("healthz-port", Taken),
    switch("init-only", Taken),
    switch("iptables-localhost-nodeports", Taken),
    flag("logging-format", Taken),
    flag("metrics-port", Taken),
    flag("oom-score-adj", Taken),
    flag("proxy-mode", Taken),
    flag("v", Taken),
    flag("write-config-to", Taken),
    flag("config-sync-period", Without(NO_RESYNC)),
    flag("conntrack-max-per-core", Without(OWN_FLOWS)),
    flag("conntrack-min", Without(OWN_FLOWS)),
    switch("conntrack-tcp-be-liberal", Without(NO_CHECK)),
    flag("conntrack-tcp-timeout-close-wait", Without(LIFETIMES)),
    flag("conntrack-tcp-timeout-established", Without(LIFETIMES)),
    flag("conntrack-udp-timeout", Without(LIFETIMES)),
    flag("conntrack-udp-timeout-stream", Without(LIFETIMES)),
    flag("feature-gates", Without("there are no feature gates")),
    flag("iptables-min-sync-period", Without(AT_ONCE)),
    flag("iptables-sync-period", Without(NO_RESYNC)),
    flag("ipvs-exclude-cidrs", Without(NO_IPVS)),
    flag("ipvs-min-sync-period", Without(AT_ONCE)),
    switch("ipvs-strict-arp", Without("no Service address is bound to a device, so none answers ARP")),
    flag("ipvs-sync-period", Without(NO_RESYNC)),
    flag("ipvs-tcp-timeout", Without(NO_IPVS)),
    flag("ipvs-tcpfin-timeout", Without(NO_IPVS)),
    flag("ipvs-udp-timeout", Without(NO_IPVS)),
    flag("kube-api-burst", Without(WATCHES)),
    flag("kube-api-content-type", Without("the API server is asked for JSON")),
    flag("kube-api-qps", Without(WATCHES)),
    flag("log-flush-frequency", Without(LOG)),
    flag("log-json-info-buffer-size", Without(LOG)),
    switch("log-json-split-stream", Without(LOG)),
    flag("log-text-info-buffer-size", Without(LOG)),
    switch("log-text-split-stream", Without(LOG)),
    switch("profiling", Without("there are no profiling handlers")),
    flag("show-hidden-metrics-for-version", Without("no metrics are hidden")),
    flag("vmodule", Without("RUST_LOG=MODULE=LEVEL does that")),
    // What older releases had.
    switch("add-dir-header", Without(UPSTREAM)),
    switch("alsologtostderr", Without(UPSTREAM)),
    flag("boot-id-file", Without(UPSTREAM)),
    switch("cleanup-ipvs", Without(UPSTREAM)),
    flag("log-backtrace-at", Without(UPSTREAM)),
    flag("log-dir", Without(UPSTREAM)),
    flag("log-file", Without(UPSTREAM)),
    flag("log-file-max-size", Without(UPSTREAM)),
    switch("logtostderr", Without(UPSTREAM)),
    flag("machine-id-file", Without(UPSTREAM)),
    switch("one-output", Without(UPSTREAM)),
    flag("proxy-port-range", Without(UPSTREAM)),
    switch("skip-headers", Without(UPSTREAM)),
    switch("skip-log-headers", Without(UPSTREAM)),
    flag("stderrthreshold", Without(UPSTREAM)),
    flag("udp-timeout", Without(UPSTREAM)),
];

/// Fields of KubeProxyConfiguration v1alpha1, by their path.
pub(super) const FIELDS: &[(&str, Meaning)] = &[
    ("apiVersion", Taken),
    ("kind", Taken),
    ("bindAddress", Taken),
    ("bindAddressHardFail", Taken),
    ("clientConnection.acceptContentTypes", Without("the API server is asked for JSON")),
    ("clientConnection.burst", Without(WATCHES)),
    ("clientConnection.contentType", Without("the API server is asked for JSON")),
    ("clientConnection.kubeconfig", Taken),
    ("clientConnection.qps", Without(WATCHES)),
    ("clusterCIDR", Taken),
    ("configSyncPeriod", Without(NO_RESYNC)),
    ("conntrack.maxPerCore", Without(OWN_FLOWS)),
    ("conntrack.min", Without(OWN_FLOWS)),
    ("conntrack.tcpBeLiberal", Without(NO_CHECK)),
    ("conntrack.tcpCloseWaitTimeout", Without(LIFETIMES)),
    ("conntrack.tcpEstablishedTimeout", Without(LIFETIMES)),
    ("conntrack.udpStreamTimeout", Without(LIFETIMES)),
    ("conntrack.udpTimeout", Without(LIFETIMES)),
    ("detectLocal.bridgeInterface", Taken),
    ("detectLocal.interfaceNamePrefix", Taken),
    ("detectLocalMode", Taken),
    ("enableProfiling", Without("there are no profiling handlers")),
    ("featureGates", Without("there are no feature gates")),
    ("healthzBindAddress", Taken),
    ("hostnameOverride", Taken),
    ("iptables.localhostNodePorts", Taken),
    ("iptables.masqueradeAll", Taken),
    ("iptables.masqueradeBit", Taken),
    ("iptables.minSyncPeriod", Without(AT_ONCE)),
    ("iptables.syncPeriod", Without(NO_RESYNC)),
    ("ipvs.excludeCIDRs", Without(NO_IPVS)),
    ("ipvs.minSyncPeriod", Without(AT_ONCE)),
    ("ipvs.scheduler", Taken),
    ("ipvs.strictARP", Without("no Service address is bound to a device, so none answers ARP")),
    ("ipvs.syncPeriod", Without(NO_RESYNC)),
    ("ipvs.tcpFinTimeout", Without(NO_IPVS)),
    ("ipvs.tcpTimeout", Without(NO_IPVS)),
    ("ipvs.udpTimeout", Without(NO_IPVS)),
    ("logging.flushFrequency", Without(LOG)),
    ("logging.format", Taken),
    ("logging.options.json.infoBufferSize", Without(LOG)),
    ("logging.options.json.splitStream", Without(LOG)),
    ("logging.options.text.infoBufferSize", Without(LOG)),
    ("logging.options.text.splitStream", Without(LOG)),
    ("logging.verbosity", Taken),
    ("logging.vmodule", Without("RUST_LOG=MODULE=LEVEL does that")),
    ("metricsBindAddress", Taken),
    ("mode", Taken),
    ("nftables.masqueradeAll", Taken),
    ("nftables.masqueradeBit", Taken),
    ("nftables.minSyncPeriod", Without(AT_ONCE)),
    ("nftables.syncPeriod", Without(NO_RESYNC)),
    ("nodePortAddresses", Taken),
    ("oomScoreAdj", Taken),
    ("portRange", Without(UPSTREAM)),
    ("showHiddenMetricsForVersion", Without("no metrics are hidden")),
    ("windowsRunAsService", Without(WINDOWS)),
    ("winkernel.enableDSR", Without(WINDOWS)),
    ("winkernel.forwardHealthCheckVip", Without(WINDOWS)),
    ("winkernel.networkName", Without(WINDOWS)),
    ("winkernel.rootHnsEndpointName", Without(WINDOWS)),
    ("winkernel.sourceVip", Without(WINDOWS)),
];

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;
    use crate::cli::Cli;

    fn upstream() -> impl Iterator<Item = &'static str> {
        include_str!("upstream.txt").lines().filter(|line| !line.starts_with('#'))
    }

    #[test]
    fn every_flag_of_upstream_is_one_of_run() {
        let mut cli = Cli::command();
        cli.build();
        let run = cli.find_subcommand("run").expect("a command");
        let known = |name: &str| {
            run.get_arguments().any(|arg| {
                let long = arg.get_long_and_visible_aliases().unwrap_or_default();
                long.contains(&name) || arg.get_all_aliases().unwrap_or_default().contains(&name)
            })
        };
        let flags: Vec<_> = upstream().filter_map(|line| line.strip_prefix("--")).collect();
        assert_eq!(flags.len(), 57, "nothing was lost in reading");
        let unknown: Vec<_> = flags.into_iter().filter(|name| !known(name)).collect();
        assert_eq!(unknown, [""; 0]);
    }

    #[test]
    fn every_field_of_upstream_is_known_and_no_other() {
        let mut fields: Vec<_> = upstream().filter(|line| !line.starts_with("--")).collect();
        fields.sort_unstable();
        let mut known: Vec<_> = FIELDS.iter().map(|(path, _)| *path).collect();
        known.sort_unstable();
        assert_eq!(known, fields);
    }
}
