//! `/healthz`, `/livez` and `/readyz`, as load balancers and the kubelet ask for them.
//!
//! `/livez` is unhealthy when a change has been waiting for too long: a restart may help. `/healthz` is that, and also
//! whether this node may get traffic at all (KEP-3836). Both are healthy from the start, because a load balancer must
//! not take the node away while the agent restarts: the tables of its predecessor serve. Whether the agent itself has
//! brought them up to date is `/readyz`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use http::{Request, StatusCode};
use k8s_openapi::jiff::Timestamp;
use serde::Serialize;

use super::status::{Report, Status};
use super::web::{Answer, Handler, answer, not_found};
use crate::model::Family;

/// What answers on the health port.
#[derive(Debug)]
pub struct Probes(pub Arc<Status>);

/// Kube-proxy's body, field by field in its order.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body {
    last_updated: String,
    current_time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    node_eligible: Option<bool>,
    healthy: bool,
    status: BTreeMap<&'static str, FamilyBody>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct FamilyBody {
    last_updated: String,
    healthy: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Readiness {
    ready: bool,
    current_time: String,
}

impl Handler for Probes {
    async fn answer(&self, request: Request<()>) -> Answer {
        let report = self.0.report();
        match request.uri().path() {
            "/healthz" => {
                let good = report.healthy && report.node_eligible;
                self.0.healthz.count(good);
                json(good, &body(&report, good, Some(report.node_eligible)))
            }
            "/livez" => {
                self.0.livez.count(report.healthy);
                json(report.healthy, &body(&report, report.healthy, None))
            }
            "/readyz" => {
                json(report.ready, &Readiness { ready: report.ready, current_time: rfc3339(SystemTime::now()) })
            }
            _ => not_found(),
        }
    }
}

fn body(report: &Report, good: bool, node_eligible: Option<bool>) -> Body {
    let now = SystemTime::now();
    // "Recent" while all is well, also if nothing has changed for hours: readers compare it with the present.
    let last_updated = rfc3339(if good { now } else { report.updated });
    // One pass writes both families.
    let family =
        |family: Family| (family.name(), FamilyBody { last_updated: rfc3339(report.updated), healthy: report.healthy });
    Body {
        last_updated,
        current_time: rfc3339(now),
        node_eligible,
        healthy: report.healthy,
        status: Family::ALL.map(family).into(),
    }
}

/// 200 or 503 with a JSON body.
pub(super) fn json(good: bool, body: &impl Serialize) -> Answer {
    let status = if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    answer(status, "application/json", serde_json::to_vec(body).expect("plain values have a JSON form"))
}

fn rfc3339(time: SystemTime) -> String {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    // Beyond the year 9999 nobody cares which.
    let nanoseconds = i128::try_from(since.as_nanos()).unwrap_or(i128::MAX);
    Timestamp::from_nanosecond(nanoseconds).unwrap_or(Timestamp::MAX).to_string()
}
