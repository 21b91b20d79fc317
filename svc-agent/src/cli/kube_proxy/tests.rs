//! Command lines and files of kube-proxy, and what they come to.

use std::io::Write as _;
use std::path::Path;

use clap::Parser as _;

use super::file::File;
use super::{Instead, complete};
use crate::cli::{Cli, Command, Flags};

fn parse(args: &[&str]) -> Flags {
    match Cli::try_parse_from(["svc-agent", "run"].iter().chain(args)).expect("known flags").command {
        Command::Run(run) => run.flags,
        other => unreachable!("{other:?}"),
    }
}

fn completed(args: &[&str]) -> (Flags, Vec<String>) {
    let mut flags = parse(args);
    let remarks = complete(&mut flags).expect("valid");
    (flags, remarks)
}

fn error(args: &[&str]) -> String {
    complete(&mut parse(args)).expect_err("invalid").to_string()
}

/// A file that is gone when this is dropped.
struct Temporary(std::path::PathBuf);

impl Temporary {
    fn new(name: &str, body: &str) -> Self {
        let path = std::env::temp_dir().join(format!("svc-kube-proxy-{}-{name}.yaml", std::process::id()));
        let mut file = std::fs::File::create(&path).expect("a temporary file");
        write!(file, "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n{body}")
            .expect("written");
        Self(path)
    }

    fn arg(&self) -> String {
        format!("--config={}", self.0.display())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn flags_do_what_they_say() {
    let (flags, remarks) = completed(&[
        "--bind-address=192.0.2.1",
        "--bind-address-hard-fail",
        "--healthz-port=1256",
        "--metrics-port",
        "0",
        "--oom-score-adj=-999",
        "--proxy-mode=ipvs",
        "--iptables-localhost-nodeports=false",
        "-v=4",
        "--logging-format=json",
    ]);
    assert_eq!(remarks, [""; 0]);
    assert_eq!(flags.healthz_bind_address.to_string(), "0.0.0.0:1256");
    assert_eq!(flags.metrics_bind_address.0, None);
    assert_eq!(flags.nodeport_addresses.to_string(), "primary");
    assert_eq!(Some(flags.scheduler), crate::plan::scheduler::method("rr"), "what ipvs does unless told");
    let settings = flags.kube_proxy.settings;
    assert_eq!(settings.bind_address, Some([192, 0, 2, 1].into()));
    assert!(settings.bind_hard_fail && settings.log_json);
    assert_eq!((settings.oom_score_adj, settings.verbosity, settings.instead), (Some(-999), 4, None));
}

#[test]
fn an_address_knows_its_port_better_than_the_old_flags() {
    let (flags, _) = completed(&["--healthz-bind-address=127.0.0.1", "--healthz-port=1", "--bind-address=::"]);
    assert_eq!(flags.healthz_bind_address.to_string(), "127.0.0.1:10256");
    assert_eq!(flags.metrics_bind_address.to_string(), "[::1]:10249", "follows the family");
}

#[test]
fn what_has_no_meaning_is_named_and_no_error() {
    let (_, remarks) = completed(&["--conntrack-min=7", "--ipvs-strict-arp", "--profiling=true"]);
    assert_eq!(remarks.len(), 3);
    assert!(remarks.iter().all(|remark| remark.starts_with("--") && remark.contains(" has no meaning here: ")));
}

#[test]
fn what_is_to_be_done_instead() {
    assert_eq!(completed(&["--cleanup"]).0.kube_proxy.settings.instead, Some(Instead::Cleanup));
    assert_eq!(completed(&["--cleanup=false"]).0.kube_proxy.settings.instead, None);
    assert_eq!(completed(&["--init-only"]).0.kube_proxy.settings.instead, Some(Instead::Initialise));
    let instead = completed(&["--write-config-to=/x", "--cluster-cidr=10.1.0.0/16"]).0.kube_proxy.settings.instead;
    let Some(Instead::Write(path, text)) = instead else { unreachable!("{instead:?}") };
    let file = File::parse(&path, &text).expect("our own");
    assert_eq!((file.text("clusterCIDR"), file.remarks.len()), (Some("10.1.0.0/16"), 0));
}

#[test]
fn nonsense_is_refused_by_name() {
    assert!(error(&["--proxy-mode=userspace"]).starts_with("--proxy-mode userspace: "));
    assert!(error(&["--oom-score-adj=2000"]).contains("-1000 to 1000"));
    let wrong = Cli::try_parse_from(["svc-agent", "run", "--clustr-cidr=10.0.0.0/8"]).expect_err("unknown");
    assert!(wrong.to_string().contains("--cluster-cidr"), "{wrong}");
}

#[test]
fn a_file_is_taken_whole() {
    let file = Temporary::new(
        "whole",
        "bindAddress: 2001:db8::1\nhealthzBindAddress: \"\"\nmetricsBindAddress: 0.0.0.0\nclusterCIDR: 10.2.0.0/16,fd00::/64\n\
         clientConnection:\n  kubeconfig: /k\nhostnameOverride: Node-1\nmode: nftables\nnodePortAddresses: [10.0.0.0/8, fd00::/8]\n\
         nftables: {masqueradeAll: true, masqueradeBit: 15}\niptables: {masqueradeBit: 3, localhostNodePorts: false}\n\
         detectLocalMode: InterfaceNamePrefix\ndetectLocal:\n  interfaceNamePrefix: veth\noomScoreAdj: -5\nlogging: {verbosity: 6, format: json}\n",
    );
    let (flags, remarks) = completed(&[&file.arg()]);
    assert_eq!(remarks, [""; 0]);
    assert_eq!(flags.healthz_bind_address.to_string(), "0.0.0.0:10256");
    assert_eq!(flags.metrics_bind_address.to_string(), "0.0.0.0:10249");
    assert_eq!(flags.cluster_cidr.0.len(), 2);
    assert_eq!((flags.node_name().as_str(), flags.masquerade_mark()), ("node-1", 0x8000));
    assert_eq!(flags.kubeconfig.as_deref(), Some(Path::new("/k")));
    assert_eq!(flags.nodeport_addresses.to_string(), "10.0.0.0/8,fd00::/8");
    assert!(flags.masquerade_all);
    assert!(flags.options().expect("complete").detector.accepts_device("veth1"));
    let settings = flags.kube_proxy.settings;
    assert_eq!((settings.oom_score_adj, settings.verbosity, settings.log_json), (Some(-5), 6, true));
}

#[test]
fn beside_a_file_the_flags_of_kube_proxy_do_not_count_and_ours_do() {
    let file =
        Temporary::new("beside", "clusterCIDR: 10.2.0.0/16\nhostnameOverride: a\nmode: ipvs\nipvs: {scheduler: sh}\n");
    let args = ["--cluster-cidr=10.9.0.0/16", "--masquerade-all", "--hostname-override=b", "--proxy-mode=iptables"];
    let (flags, remarks) = completed(&[&[file.arg().as_str(), "--socket-lb=off", "-v=5"], &args[..]].concat());
    assert_eq!(flags.cluster_cidr.0.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.2.0.0/16"]);
    assert!(!flags.masquerade_all);
    assert_eq!((flags.node_name().as_str(), flags.kube_proxy.settings.verbosity), ("b", 5));
    assert_eq!(Some(flags.scheduler), crate::plan::scheduler::method("sh"));
    assert_eq!(flags.socket_lb, crate::cli::flags::SocketLb::Off);
    assert_eq!(remarks.len(), 3, "{remarks:?}");
    assert!(remarks[0].starts_with("--cluster-cidr does not count beside --config"));
}

#[test]
fn the_file_is_judged_line_by_line() {
    let file = Temporary::new(
        "judged",
        "clusterCidr: 10.0.0.0/8\niptables:\n  masqueradeAll: false\n  syncPeriod: 5s\n  scheduler: rr\nconntrack:\n  min: 0\nfeatureGates: {A: true}\nzzz: 1\n",
    );
    let (_, remarks) = completed(&[&file.arg()]);
    let remarks: Vec<_> =
        remarks.iter().filter_map(|remark| remark.split_once(".yaml:")).map(|(_, rest)| rest).collect();
    assert_eq!(
        remarks,
        [
            "3: unknown field clusterCidr: did you mean clusterCIDR?",
            "6: iptables.syncPeriod has no meaning here: there is nothing to be written again from time to time",
            "7: unknown field iptables.scheduler: did you mean ipvs.scheduler?",
            "10: featureGates has no meaning here: there are no feature gates",
            "11: unknown field zzz: there is no such field",
        ]
    );
    let wrong = Temporary::new("wrong", "mode: iptables\nclusterCIDR: ten\n");
    assert!(
        error(&[&wrong.arg()])
            .ends_with(".yaml:4: clusterCIDR: \"ten\" is no prefix; write it like 10.0.0.0/8 or fd00::/64")
    );
    let other = File::parse(Path::new("f"), "apiVersion: v1\nkind: Pod\n").expect_err("another kind").to_string();
    assert!(other.starts_with("f: this is \"Pod\" of \"v1\""), "{other}");
    assert!(error(&["--config=/no/such"]).starts_with("--config /no/such"));
}
