//! How the agent is.

use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;

use super::Samples;
use crate::health::Status;
use crate::model::Kind;
use crate::source::Contact;

/// Shows how the agent is, what it has answered about that, and whether it hears its source.
#[derive(Debug)]
pub struct State {
    /// How it is.
    pub status: Arc<Status>,
    /// Whether it hears its source.
    pub contact: Arc<Contact>,
}

impl Collector for State {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        let mut samples = Samples { encoder };
        for (name, help, answers) in [
            ("kubeproxy_proxy_healthz", "Answers to /healthz, by status code.", &self.status.healthz),
            ("kubeproxy_proxy_livez", "Answers to /livez, by status code.", &self.status.livez),
        ] {
            let by_code = answers.by_code().map(|(code, count)| ([("code", code)], count));
            samples.counters(name, help, by_code)?;
        }
        let report = self.status.report();
        for (name, help, value) in [
            ("svc_healthy", "1 unless a change has been waiting for too long.", report.healthy),
            ("svc_ready", "1 once the tables have been brought up to date.", report.ready),
            ("svc_node_eligible", "1 if load balancers may send traffic to this node.", report.node_eligible),
        ] {
            samples.gauge(name, help, Some(u32::from(value)))?;
        }
        let ages = || Kind::ALL.map(|kind| (kind_name(kind), self.contact.age(kind)));
        let connected = ages().map(|(kind, age)| ([("kind", kind)], u32::from(age.is_none())));
        samples.gauges("svc_source_connected", "0 while a kind of object cannot be watched.", connected)?;
        let ages = ages().map(|(kind, age)| ([("kind", kind)], age.unwrap_or_default().as_secs_f64()));
        samples.gauges("svc_state_age_seconds", "For how long it could not be watched; 0 while it is.", ages)
    }
}

fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Service => "Service",
        Kind::Slice => "EndpointSlice",
        Kind::Node => "Node",
        Kind::ServiceCidr => "ServiceCIDR",
    }
}
