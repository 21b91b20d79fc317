//! What a scraper gets to see.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use svc_common::tables::ServiceRecord;

use super::recorder::Pass;
use super::{Port, Recorder, State, port, registry, tables};
use crate::apply::Fill;
use crate::datapath::gc::Collection;
use crate::datapath::sweep::Swept;
use crate::health::tests::get;
use crate::health::{Status, web};
use crate::model::{EndpointSlice, Event, Family, Kind, Object, ObjectKey, World};

/// A recorder, and a port that shows what it records.
struct Bench {
    recorder: Recorder,
    status: Arc<Status>,
    addr: SocketAddr,
    _served: web::Served,
}

impl Bench {
    fn new() -> Self {
        let mut registry = registry();
        let recorder = Recorder::new(&mut registry);
        let status = Arc::new(Status::default());
        registry.register_collector(Box::new(State { status: Arc::clone(&status), contact: Arc::default() }));
        let listener = web::bind((Ipv4Addr::LOCALHOST, 0).into()).expect("loopback");
        let addr = listener.local_addr().expect("bound");
        let served = web::Served::start(listener, Arc::new(Port(Arc::new(registry))));
        Self { recorder, status, addr, _served: served }
    }

    /// The value of one series, written as in the exposition.
    async fn value(&self, series: &str) -> Option<f64> {
        let (_, body) = get(self.addr, "/metrics").await;
        let line = body.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.map(|value| value.parse().expect("a number"))
    }
}

fn slice(triggered: i128) -> Event {
    Event::Applied(Object::Slice(EndpointSlice {
        key: ObjectKey::new("ns", "web-1"),
        service: ObjectKey::new("ns", "web"),
        family: Family::V4,
        ports: Vec::new(),
        endpoints: Vec::new(),
        triggered: Some(triggered),
    }))
}

#[tokio::test]
async fn the_port_answers_as_kube_proxy_does() {
    let bench = Bench::new();
    for (path, content_type, expected) in [
        ("/healthz", "text/plain; charset=utf-8", "ok"),
        ("/proxyMode", "text/plain; charset=utf-8", port::PROXY_MODE),
        ("/metrics/slis", "text/plain; version=0.0.4; charset=utf-8", "# HELP kubernetes_healthcheck "),
        ("/metrics", "text/plain; version=0.0.4; charset=utf-8", "# HELP "),
    ] {
        let (head, body) = get(bench.addr, path).await;
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{path}: {head}");
        assert!(head.contains(&format!("\r\nContent-Type: {content_type}\r\n")), "{path}: {head}");
        assert!(head.contains("\r\nX-Content-Type-Options: nosniff\r\n"), "{path}: {head}");
        assert!(body.starts_with(expected), "{path}: {body}");
    }
    assert!(get(bench.addr, "/metric").await.0.starts_with("HTTP/1.1 404 Not Found\r\n"));
}

#[tokio::test]
async fn a_change_is_pending_until_its_pass_and_then_a_sample() {
    let mut bench = Bench::new();
    let mut world = World::default();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_nanos() as i128;
    for event in [slice(now + 1), slice(now + 1), slice(now + 2)] {
        bench.recorder.event(&event, &world);
        world.fold(event);
    }
    bench.recorder.queued();
    assert_eq!(bench.value("kubeproxy_sync_proxy_rules_endpoint_changes_pending").await, Some(2.0), "one is no news");
    assert_eq!(bench.value("kubeproxy_sync_proxy_rules_endpoint_changes_total").await, Some(2.0));
    let last = r#"kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family="IPv6"}"#;
    assert_eq!(bench.value(last).await, Some(0.0));
    let fill = [("SLOTS", Fill { used: 7, capacity: 9 })];
    bench.recorder.passed(Pass { planned: &[], full: true, took: Duration::from_millis(3), fill: &fill });
    assert!(bench.value(last).await > Some(1e9));
    for (series, value) in [
        ("kubeproxy_sync_proxy_rules_endpoint_changes_pending", 0.0),
        ("kubeproxy_sync_proxy_rules_endpoint_changes_total", 2.0),
        ("kubeproxy_sync_proxy_rules_service_changes_total", 0.0),
        (r#"kubeproxy_network_programming_duration_seconds_count{ip_family="IPv4"}"#, 2.0),
        (r#"kubeproxy_network_programming_duration_seconds_count{ip_family="IPv6"}"#, 0.0),
        (r#"kubeproxy_sync_proxy_rules_duration_seconds_bucket{le="0.004",ip_family="IPv4"}"#, 1.0),
        (r#"kubeproxy_sync_full_proxy_rules_duration_seconds_count{ip_family="IPv6"}"#, 1.0),
        (r#"kubeproxy_sync_partial_proxy_rules_duration_seconds_count{ip_family="IPv6"}"#, 0.0),
        (r#"kubeproxy_sync_proxy_rules_no_local_endpoints_total{ip_family="IPv4",traffic_policy="internal"}"#, 0.0),
        (r#"svc_table_entries{table="SLOTS"}"#, 7.0),
    ] {
        assert_eq!(bench.value(series).await, Some(value), "{series}");
    }
    bench.recorder.event(&Event::Deleted(Kind::Slice, ObjectKey::new("ns", "web-1")), &world);
    bench.recorder.event(&Event::Deleted(Kind::Slice, ObjectKey::new("ns", "unknown")), &world);
    assert_eq!(bench.value("kubeproxy_sync_proxy_rules_endpoint_changes_total").await, Some(3.0));
}

#[tokio::test]
async fn answers_and_states_are_shown() {
    let bench = Bench::new();
    bench.status.healthz.count(true);
    bench.status.set_node_eligible(false);
    bench.recorder.swept(&Swept { flows: [1, 0], sockets: [2, 0], affinity: [0, 4], ..Swept::default() });
    bench.recorder.failed();
    bench.recorder.collected(&Collection { seen: [9, 5], removed: [2, 5], took: Duration::from_millis(3) });
    for (series, value) in [
        (r#"kubeproxy_proxy_healthz_total{code="200"}"#, 1.0),
        (r#"kubeproxy_proxy_healthz_total{code="503"}"#, 0.0),
        (r#"kubeproxy_proxy_livez_total{code="200"}"#, 0.0),
        ("svc_healthy", 1.0),
        ("svc_ready", 0.0),
        ("svc_node_eligible", 0.0),
        ("svc_write_failures_total", 1.0),
        (r#"svc_table_entries{table="FLOWS_V4"}"#, 7.0),
        (r#"svc_flow_entries_expired_total{ip_family="IPv6"}"#, 5.0),
        ("svc_gc_duration_seconds_count", 1.0),
        (r#"svc_source_connected{kind="EndpointSlice"}"#, 1.0),
        (r#"svc_state_age_seconds{kind="Service"}"#, 0.0),
        (r#"kubeproxy_conntrack_reconciler_deleted_entries_total{ip_family="IPv4"}"#, 3.0),
        (r#"kubeproxy_conntrack_reconciler_deleted_entries_total{ip_family="IPv6"}"#, 4.0),
    ] {
        assert_eq!(bench.value(series).await, Some(value), "{series}");
    }
}

#[tokio::test]
async fn every_metric_stands_in_the_documents() {
    let bench = Bench::new();
    // A family without a label yet would not be shown.
    bench.recorder.collected(&Collection::default());
    let (_, body) = get(bench.addr, "/metrics").await;
    let documents = include_str!("../../../docs/metrics.md");
    let names = body.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    let missing: BTreeSet<_> = names.filter(|name| !documents.contains(&format!("`{name}`"))).collect();
    assert_eq!(missing, BTreeSet::new());
}

#[test]
fn a_record_says_who_a_service_id_is() {
    let record = |text: &str, protocol, family| {
        let mut name = [0; ServiceRecord::NAME];
        name[..text.len()].copy_from_slice(text.as_bytes());
        ServiceRecord { name, protocol, family, zero: 0, reserved: 0 }
    };
    let values = |record| tables::labels(&record).map(|(_, value)| value);
    assert_eq!(values(record("kube-system/dns:dns-tcp", 6, 4)), ["kube-system", "dns", "dns-tcp", "TCP", "IPv4"]);
    assert_eq!(values(record("ns/web:", 132, 6)), ["ns", "web", "", "SCTP", "IPv6"]);
}
