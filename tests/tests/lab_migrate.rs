//! A node that kube-proxy serves, looked at before anything is changed.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use svc_tests::lab::{self, Config, tool};

/// Tables of the shape that kube-proxy writes in mode nftables.
const TABLES: &str = "
table ip kube-proxy {
  map service-ips { type ipv4_addr . inet_proto . inet_service : verdict; }
  chain services { ip daddr . meta l4proto . th dport vmap @service-ips; }
  chain nat-prerouting { type nat hook prerouting priority dstnat; jump services; }
}
table ip6 kube-proxy { chain services { }; }
";

#[test]
fn what_would_change_is_said_before_anything_is() -> Result<()> {
    lab::with(Config { nodes: 1, hostile: false, ..Config::default() }, |lab| {
        let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
        let examples = examples.to_string_lossy();
        let dir = lab.dir();
        let place = lab.nodes[0].place.clone();
        let agent = tool::sibling("svc-agent", "SVC_AGENT")?;
        let doctor = |more: &[&str]| {
            let args = [&["doctor", "--migrate", "--manifests", &examples, "--node", "node-a"], more].concat();
            place.output(&agent.to_string_lossy(), &args)
        };

        let clean = doctor(&[])?;
        ensure!(clean.contains("no process and no rules; compared with mode iptables"), "{clean}");

        let rules = dir.join("kube-proxy.nft");
        fs::write(&rules, TABLES)?;
        place.output("nft", &["-f", &rules.to_string_lossy()])?;
        let left = doctor(&[])?;
        ensure!(left.contains("no process, but rules of mode nftables"), "{left}");
        ensure!(left.contains("the tables ip kube-proxy and ip6 kube-proxy have to be removed"), "{left}");
        ensure!(left.contains("node port 30080 also answers at 127.0.0.1"), "{left}");

        // Any program of that name will do; this one takes what it is given and waits.
        let program = dir.join("kube-proxy");
        fs::copy(tool::sibling("lab-helper", "SVC_LAB_HELPER")?, &program)?;
        let config = dir.join("kube-proxy.yaml");
        fs::write(
            &config,
            "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nmode: ipvs\n\
             ipvs: {scheduler: sh, strictARP: true}\nnodePortAddresses: [203.0.113.0/24]\n",
        )?;
        let file = format!("--config={}", config.display());
        let log = dir.join("kube-proxy.log");
        let job =
            place.spawn(&program, &[file.as_str(), "--hostname_override=node-a", "--of-another-release=1"], &log)?;
        let asked = lab::wait::until("the process has its name", std::time::Duration::from_secs(5), || {
            let said = doctor(&["--nodeport-addresses=primary"])?;
            ensure!(said.contains("mode ipvs"), "{said}");
            Ok(())
        });
        asked.with_context(|| fs::read_to_string(&log).unwrap_or_default())?;
        let said = doctor(&[])?;
        ensure!(said.contains("ipvs.strictARP has no meaning here"), "{said}");
        ensure!(said.contains("--of-another-release=1 is not known here"), "{said}");
        ensure!(!said.contains("endpoints are chosen"), "with its own flags nothing is chosen otherwise: {said}");
        let said = doctor(&["--scheduler=rr", "--nodeport-addresses=primary"])?;
        ensure!(said.contains("endpoints are chosen by rr, not by sh"), "{said}");
        ensure!(said.contains(&format!("node port 30080 also answers at {}", lab.nodes[0].ips[0])), "{said}");
        drop(job);
        let chains = place.output("nft", &["list", "tables"])?;
        ensure!(chains.contains("ip kube-proxy"), "nothing is changed: {chains}");
        Ok(())
    })
}
