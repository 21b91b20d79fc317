//! What tests look at: fields of objects, what an agent has in force, and what clients see, waited for.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::{Cluster, SOON};
use crate::lab::place::Place;
use crate::lab::wait;
use crate::traffic::{self, Ask};

/// What an agent may take to notice that nothing comes any more: a list that stands still is given up after half a
/// minute, a watch after two.
const SILENCE: Duration = Duration::from_secs(150);
/// Questions for each server that is expected to answer.
const ASKED: u64 = 30;

/// The cluster IPs of a Service, as the API server hands it out.
pub fn cluster_ips(service: &Value) -> Result<Vec<IpAddr>> {
    let ips = service["spec"]["clusterIPs"].as_array().context("a Service without cluster IP")?;
    ips.iter().map(|ip| Ok(ip.as_str().context("an address is text")?.parse()?)).collect()
}

/// The number of a node port.
pub fn node_port(service: &Value, port: usize) -> Result<u16> {
    let number = service["spec"]["ports"][port]["nodePort"].as_u64().context("a Service without node port")?;
    Ok(u16::try_from(number)?)
}

/// Waits until exactly these servers answer, all of them; returns how long that took.
pub fn until_spread(from: &Place, to: SocketAddr, names: &[&str]) -> Result<Duration> {
    wait::until(&format!("{names:?} answer at {to}"), SOON, || {
        let report = traffic::ask(from, Ask::Tcp, to, ASKED * names.len() as u64)?;
        report.expect_all()?.expect_spread(names).map(drop)
    })
}

/// Waits until an address refuses.
pub fn until_refused(from: &Place, to: SocketAddr) -> Result<Duration> {
    wait::until(&format!("{to} refuses"), SOON, || traffic::ask(from, Ask::Tcp, to, 1)?.expect_refused())
}

impl Cluster<'_> {
    /// Where a Service answers on a node, loopback left out, from the tables that are in force.
    pub fn frontends(&mut self, node: usize, service: &str) -> Result<BTreeSet<SocketAddr>> {
        let mut frontends = BTreeSet::new();
        for row in self.rows(node, service)? {
            let at: SocketAddr = row["frontend"].as_str().context("a row without frontend")?.parse()?;
            if !at.ip().is_loopback() {
                frontends.insert(at);
            }
        }
        Ok(frontends)
    }

    /// Waits until the agent of the first node says that it has not heard the API server for so long.
    pub fn until_age(&mut self, age: Duration) -> Result<Duration> {
        wait::until("the agent misses the API server", SILENCE, || {
            let longest = self.lab.agent(0)?.metric("svc_state_age_seconds")?;
            ensure!(longest >= age.as_secs_f64(), "silent for {longest} s");
            Ok(())
        })
    }

    /// The endpoints of a Service at its cluster IPs on a node.
    pub fn endpoints(&mut self, node: usize, service: &str) -> Result<usize> {
        let rows = self.rows(node, service)?;
        let of_cluster_ips = rows.iter().filter(|row| row["kind"] == "ClusterIP");
        Ok(of_cluster_ips.filter_map(|row| Some(row["endpoints"].as_array()?.len())).sum())
    }

    /// Whether a node has any of these addresses as an endpoint, for new connections.
    pub fn chooses(&mut self, node: usize, ips: &[IpAddr]) -> Result<bool> {
        for row in self.all_rows(node)? {
            for endpoint in row["endpoints"].as_array().context("a row has endpoints")? {
                let endpoint: SocketAddr = endpoint.as_str().context("an endpoint is text")?.parse()?;
                if ips.contains(&endpoint.ip()) {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    fn rows(&mut self, node: usize, service: &str) -> Result<Vec<Value>> {
        let mut rows = self.all_rows(node)?;
        rows.retain(|row| row["service"] == format!("default/{service}"));
        Ok(rows)
    }

    fn all_rows(&mut self, node: usize) -> Result<Vec<Value>> {
        let bpffs = self.lab.nodes[node].bpffs.display().to_string();
        let said = self.lab.agent(node)?.run(&["services", "--bpffs", &bpffs, "-o", "json"])?;
        serde_json::from_str(&said).with_context(|| format!("`services` said {said}"))
    }

    /// Waits until a Service answers on a node at exactly these addresses.
    pub fn until_frontends(&mut self, node: usize, service: &str, wanted: &BTreeSet<SocketAddr>) -> Result<Duration> {
        wait::until(&format!("{service} answers at {wanted:?}"), SOON, || {
            let frontends = self.frontends(node, service)?;
            ensure!(frontends == *wanted, "it answers at {frontends:?}");
            Ok(())
        })
    }
}
