//! The metrics port: `/metrics`, and what kube-proxy answers beside it.

use std::sync::Arc;

use http::{Request, StatusCode, header};
use prometheus_client::registry::Registry;

use super::text::Format;
use crate::health::web::{Answer, Handler, answer, not_found, text};

/// The word for what this proxy is, where kube-proxy says `nftables` or the like.
pub const PROXY_MODE: &str = "ebpf";

/// The state of the agent's own parts as Kubernetes components show it. There is one part, and it answers.
const SLIS: &str = "# HELP kubernetes_healthcheck [STABLE] This metric records the result of a single healthcheck.
# TYPE kubernetes_healthcheck gauge
kubernetes_healthcheck{name=\"ping\",type=\"healthz\"} 1
";

/// What answers on the metrics port.
#[derive(Debug)]
pub struct Port(pub Arc<Registry>);

impl Handler for Port {
    async fn answer(&self, request: Request<()>) -> Answer {
        match request.uri().path() {
            "/metrics" => {
                let accept = request.headers().get(header::ACCEPT).and_then(|value| value.to_str().ok());
                scrape(Arc::clone(&self.0), Format::accepted(accept)).await
            }
            "/metrics/slis" => answer(StatusCode::OK, Format::Prometheus.content_type(), SLIS),
            "/healthz" => text(StatusCode::OK, "ok"),
            "/proxyMode" => text(StatusCode::OK, PROXY_MODE),
            _ => not_found(),
        }
    }
}

/// Reads the tables beside the thread that answers: with very many Services that takes a moment.
async fn scrape(registry: Arc<Registry>, format: Format) -> Answer {
    match tokio::task::spawn_blocking(move || format.write(&registry)).await {
        Ok(Ok(text)) => answer(StatusCode::OK, format.content_type(), text),
        Ok(Err(_)) | Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "the metrics could not be written\n"),
    }
}
