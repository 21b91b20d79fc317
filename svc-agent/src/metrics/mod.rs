//! Numbers for Prometheus: read when somebody asks, counted where something happens, never in anybody's way.
//!
//! Names and meanings for people stand in `docs/metrics.md`; a test holds the two together. What kube-proxy has under a
//! name that does not depend on its mode keeps that name.
//!
//! | file | owns |
//! |---|---|
//! | [`recorder`] | what the loop of the agent counts |
//! | `triggers` | network-programming latency |
//! | `local` | service ports without the local endpoint that a policy asks for |
//! | [`state`] | how the agent is |
//! | [`tables`] | what the kernel's tables hold and count, read at each scrape |
//! | `process` | this process |
//! | `text` | the two text formats |
//! | [`port`] | the HTTP port |

mod local;
pub mod port;
mod process;
pub mod recorder;
pub mod state;
pub mod tables;
#[cfg(test)]
mod tests;
mod text;
mod triggers;

use prometheus_client::encoding::{
    DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, EncodeLabelSet, NoLabelSet,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

pub use port::Port;
pub use recorder::Recorder;
pub use state::State;
pub use tables::Tables;

/// A registry with what does not depend on anything.
pub fn registry() -> Registry {
    let mut registry = Registry::default();
    let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
    registry.register("svc_build", "Version of the agent", build);
    registry.register_collector(Box::new(process::Process));
    registry
}

/// Writes counters and gauges whose values are only known now.
struct Samples<'a> {
    encoder: DescriptorEncoder<'a>,
}

impl Samples<'_> {
    fn counters<L: EncodeLabelSet, N: EncodeCounterValue>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (L, N)>,
    ) -> std::fmt::Result {
        let mut family = self.encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, value) in samples {
            family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&value, None)?;
        }
        Ok(())
    }

    fn gauges<L: EncodeLabelSet, N: EncodeGaugeValue>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (L, N)>,
    ) -> std::fmt::Result {
        let mut family = self.encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in samples {
            family.encode_family(&labels)?.encode_gauge(&value)?;
        }
        Ok(())
    }

    /// One counter without labels; `None`: its value cannot be found out.
    fn counter(&mut self, name: &str, help: &str, value: Option<impl EncodeCounterValue>) -> std::fmt::Result {
        let mut metric = self.encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        value.map_or(Ok(()), |value| metric.encode_counter::<NoLabelSet, _, u64>(&value, None))
    }

    /// One gauge without labels; `None`: its value cannot be found out.
    fn gauge(&mut self, name: &str, help: &str, value: Option<impl EncodeGaugeValue>) -> std::fmt::Result {
        let mut metric = self.encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        value.map_or(Ok(()), |value| metric.encode_gauge(&value))
    }
}
