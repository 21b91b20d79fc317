//! How the agent is.

use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;

use super::Samples;
use crate::health::Status;

/// Shows how the agent is, and what it has answered about that.
#[derive(Debug)]
pub struct State(pub Arc<Status>);

impl Collector for State {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        let mut samples = Samples { encoder };
        for (name, help, answers) in [
            ("kubeproxy_proxy_healthz", "Answers to /healthz, by status code.", &self.0.healthz),
            ("kubeproxy_proxy_livez", "Answers to /livez, by status code.", &self.0.livez),
        ] {
            let by_code = answers.by_code().map(|(code, count)| ([("code", code)], count));
            samples.counters(name, help, by_code)?;
        }
        let report = self.0.report();
        for (name, help, value) in [
            ("svc_healthy", "1 unless a change has been waiting for too long.", report.healthy),
            ("svc_ready", "1 once the tables have been brought up to date.", report.ready),
            ("svc_node_eligible", "1 if load balancers may send traffic to this node.", report.node_eligible),
        ] {
            samples.gauge(name, help, Some(u32::from(value)))?;
        }
        Ok(())
    }
}
