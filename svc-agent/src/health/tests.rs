//! Over real sockets on loopback: what a probe gets to see, byte for byte.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::node_ports::Listeners;
use super::{Probes, Status, web};
use crate::model::{Family, ObjectKey};
use crate::plan::options::NodePortSet;
use crate::plan::{HealthCheck, NodeView, Planned};

const LOCALHOST: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

/// Asks once and returns the head and the body of the answer.
pub(crate) async fn get(addr: SocketAddr, path: &str) -> (String, String) {
    let mut stream = TcpStream::connect(addr).await.expect("somebody listens");
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("connected");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("an answer in UTF-8");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    (head.to_owned(), body.to_owned())
}

fn status_line(head: &str) -> &str {
    head.lines().next().unwrap_or_default()
}

const OK: &str = "HTTP/1.1 200 OK";
const UNAVAILABLE: &str = "HTTP/1.1 503 Service Unavailable";

/// Serves the probes of `status` on a free port of loopback.
fn probes(status: &Arc<Status>) -> (SocketAddr, web::Served) {
    let listener = web::bind(SocketAddr::new(LOCALHOST[0], 0)).expect("loopback");
    let addr = listener.local_addr().expect("bound");
    (addr, web::Served::start(listener, Arc::new(Probes(Arc::clone(status)))))
}

#[tokio::test]
async fn healthz_is_healthy_from_the_first_moment_and_says_so_as_kube_proxy_does() {
    let status = Arc::new(Status::default());
    let (addr, _served) = probes(&status);
    let began = SystemTime::now();
    let (head, body) = get(addr, "/healthz").await;
    assert_eq!(status_line(&head), OK);
    assert!(head.contains("\r\nContent-Type: application/json\r\n"), "{head}");
    assert!(head.contains("\r\nX-Content-Type-Options: nosniff\r\n"), "{head}");
    assert!(body.starts_with(r#"{"lastUpdated":""#), "{body}");
    let body: Value = serde_json::from_str(&body).expect("JSON");
    let time = |value: &Value| -> SystemTime {
        value.as_str().and_then(|text| text.parse::<Timestamp>().ok()).map(SystemTime::from).expect("RFC 3339")
    };
    assert!(time(&body["lastUpdated"]) >= began, "while healthy it is now");
    assert_eq!(body["lastUpdated"], body["currentTime"]);
    assert_eq!(body["nodeEligible"], json!(true));
    assert_eq!(body["healthy"], json!(true));
    for family in ["IPv4", "IPv6"] {
        assert_eq!(body["status"][family]["healthy"], json!(true));
        assert!(time(&body["status"][family]["lastUpdated"]) <= SystemTime::now());
    }
    assert_eq!(body.as_object().map(serde_json::Map::len), Some(5));
}

#[tokio::test]
async fn a_node_on_its_way_out_is_not_healthy_but_alive() {
    let status = Arc::new(Status::default());
    let (addr, _served) = probes(&status);
    status.set_node_eligible(false);
    let (head, body) = get(addr, "/healthz").await;
    assert_eq!(status_line(&head), UNAVAILABLE);
    let body: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!((&body["nodeEligible"], &body["healthy"]), (&json!(false), &json!(true)));
    let (head, body) = get(addr, "/livez").await;
    assert_eq!(status_line(&head), OK);
    let body: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(body.get("nodeEligible"), None);
    assert_eq!(body["healthy"], json!(true));
    status.set_node_eligible(true);
    assert_eq!(status_line(&get(addr, "/healthz").await.0), OK);
    assert_eq!(status.healthz.by_code(), [("200", 1), ("503", 1)]);
    assert_eq!(status.livez.by_code(), [("200", 1), ("503", 0)]);
}

#[tokio::test]
async fn a_change_that_waits_too_long_is_unhealthy_until_it_is_written() {
    let patient = Status::default();
    patient.queued();
    assert!(patient.report().healthy);
    let status = Arc::new(Status::new(Duration::ZERO));
    let (addr, _served) = probes(&status);
    assert_eq!(status_line(&get(addr, "/livez").await.0), OK);
    status.queued();
    for path in ["/healthz", "/livez"] {
        let (head, body) = get(addr, path).await;
        assert_eq!(status_line(&head), UNAVAILABLE);
        let body: Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!((&body["healthy"], &body["status"]["IPv6"]["healthy"]), (&json!(false), &json!(false)));
        assert_ne!(body["lastUpdated"], body["currentTime"]);
    }
    status.updated();
    assert_eq!(status_line(&get(addr, "/healthz").await.0), OK);
}

#[tokio::test]
async fn readiness_comes_with_the_first_pass() {
    let status = Arc::new(Status::default());
    let (addr, _served) = probes(&status);
    let (head, body) = get(addr, "/readyz").await;
    assert_eq!(status_line(&head), UNAVAILABLE);
    assert!(body.starts_with(r#"{"ready":false,"#), "{body}");
    status.updated();
    let (head, body) = get(addr, "/readyz").await;
    assert_eq!(status_line(&head), OK);
    assert!(body.starts_with(r#"{"ready":true,"#), "{body}");
    assert_eq!(status_line(&get(addr, "/").await.0), "HTTP/1.1 404 Not Found");
}

#[test]
fn the_wildcard_of_either_family_means_both() {
    let both = ["0.0.0.0:10256", "[::]:10256"].map(|addr| addr.parse().expect("address"));
    for addr in both {
        assert_eq!(web::both_families(addr), both);
    }
    let one = "127.0.0.1:10249".parse().expect("address");
    assert_eq!(web::both_families(one), [one]);
}

#[tokio::test]
async fn wildcards_of_both_families_are_two_listeners_of_one_port() {
    let v4 = web::bind("0.0.0.0:0".parse().expect("address")).expect("free");
    let port = v4.local_addr().expect("bound").port();
    let v6 = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port);
    web::bind(v6).expect("the other family is free");
}

/// Health checks on loopback of both families.
struct Bench {
    status: Arc<Status>,
    listeners: Listeners,
    said: Mutex<Vec<String>>,
}

impl Bench {
    fn new() -> Self {
        let status = Arc::new(Status::default());
        Self { listeners: Listeners::new(Arc::clone(&status)), status, said: Mutex::default() }
    }

    fn set(&mut self, service: &str, check: Option<HealthCheck>) -> bool {
        self.announce(service, check);
        self.follow()
    }

    fn announce(&self, service: &str, check: Option<HealthCheck>) {
        let node_ports = NodePortSet { loopback: true, ..NodePortSet::default() };
        let node = NodeView { node_ports: [node_ports.clone(), node_ports], ..NodeView::default() };
        let planned = check.map(|check| Planned { health_check: Some(check), ..Planned::default() });
        self.status.set_checks(&node, &[(ObjectKey::new("ns", service), planned)]);
    }

    fn follow(&mut self) -> bool {
        let checks = self.status.checks().borrow().clone();
        let complain = |key: &ObjectKey, text| {
            self.said.lock().expect("not poisoned").push(format!("{key}: {text}"));
        };
        self.listeners.follow(&checks, &complain)
    }
}

fn check(port: u16, local_endpoints: [usize; 2]) -> Option<HealthCheck> {
    Some(HealthCheck { port, local_endpoints })
}

/// A port that is free in both families.
fn free_port() -> u16 {
    let taken = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).expect("a free port");
    taken.local_addr().expect("bound").port()
}

#[tokio::test]
async fn a_health_check_port_answers_with_the_count_of_its_family() {
    let mut bench = Bench::new();
    let port = free_port();
    assert!(!bench.set("web", check(port, [2, 0])));
    let (head, body) = get((LOCALHOST[0], port).into(), "/any/path").await;
    assert_eq!(status_line(&head), OK);
    for header in
        ["Content-Type: application/json", "X-Content-Type-Options: nosniff", "X-Load-Balancing-Endpoint-Weight: 2"]
    {
        assert!(head.contains(&format!("\r\n{header}")), "{head}");
    }
    let expected = "{\n\t\"service\": {\n\t\t\"namespace\": \"ns\",\n\t\t\"name\": \"web\"\n\t},\n\
                    \t\"localEndpoints\": 2,\n\t\"serviceProxyHealthy\": true\n}";
    assert_eq!(body, expected);
    let (head, body) = get((LOCALHOST[1], port).into(), "/").await;
    assert_eq!(status_line(&head), UNAVAILABLE, "no endpoint of the other family");
    assert!(head.contains("\r\nX-Load-Balancing-Endpoint-Weight: 0"), "{head}");
    assert!(body.contains("\"localEndpoints\": 0"), "{body}");
}

#[tokio::test]
async fn a_health_check_port_says_503_while_the_proxy_is_not_well() {
    let status = Arc::new(Status::new(Duration::ZERO));
    let mut bench = Bench { listeners: Listeners::new(Arc::clone(&status)), status, said: Mutex::default() };
    let port = free_port();
    bench.set("web", check(port, [1, 1]));
    bench.status.set_node_eligible(false);
    assert_eq!(status_line(&get((LOCALHOST[0], port).into(), "/").await.0), OK, "eligibility is another question");
    bench.status.queued();
    let (head, body) = get((LOCALHOST[0], port).into(), "/").await;
    assert_eq!(status_line(&head), UNAVAILABLE);
    assert!(body.contains("\"localEndpoints\": 1,\n\t\"serviceProxyHealthy\": false"), "{body}");
}

#[tokio::test]
async fn listeners_follow_their_objects() {
    let mut bench = Bench::new();
    let (one, other) = (free_port(), free_port());
    bench.set("web", check(one, [0, 0]));
    assert_eq!(status_line(&get((LOCALHOST[0], one).into(), "/").await.0), UNAVAILABLE);
    bench.set("web", check(one, [1, 0]));
    assert_eq!(status_line(&get((LOCALHOST[0], one).into(), "/").await.0), OK);
    bench.set("web", check(other, [1, 0]));
    assert_eq!(status_line(&get((LOCALHOST[0], other).into(), "/").await.0), OK);
    // An aborted task drops its listener when the runtime comes to it.
    tokio::task::yield_now().await;
    for addr in LOCALHOST {
        web::bind((addr, one).into()).expect("the old port is free again");
    }
    bench.set("web", None);
    tokio::task::yield_now().await;
    assert!(TcpStream::connect((LOCALHOST[0], other)).await.is_err());
}

#[tokio::test]
async fn the_loop_notices_changes_by_itself() {
    let bench = Bench::new();
    let follower = tokio::spawn(super::node_ports::serve(Arc::clone(&bench.status), |_, _| {}));
    let port = free_port();
    // Only says what is wanted: `bench` itself listens to nothing.
    bench.announce("web", check(port, [1, 0]));
    let listens = async {
        while TcpStream::connect((LOCALHOST[0], port)).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(1), listens).await.expect("within a second");
    assert_eq!(status_line(&get((LOCALHOST[0], port).into(), "/").await.0), OK);
    bench.announce("web", None);
    let closes = async {
        while TcpStream::connect((LOCALHOST[0], port)).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(1), closes).await.expect("within a second");
    follower.abort();
}

#[tokio::test]
async fn a_port_that_is_taken_is_said_once_and_tried_again() {
    let taken = web::bind((LOCALHOST[0], 0).into()).expect("loopback");
    let port = taken.local_addr().expect("bound").port();
    let mut bench = Bench::new();
    assert!(bench.set("web", check(port, [1, 1])));
    assert!(bench.follow());
    let said = bench.said.lock().expect("not poisoned").clone();
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].starts_with(&format!("ns/web: cannot listen on 127.0.0.1:{port}")), "{said:?}");
    assert_eq!(status_line(&get((LOCALHOST[1], port).into(), "/").await.0), OK, "the other family serves");
    drop(taken);
    assert!(!bench.follow());
    assert_eq!(status_line(&get((LOCALHOST[0], port).into(), "/").await.0), OK);
}

#[tokio::test]
async fn of_two_services_with_one_port_the_first_has_it_until_it_goes() {
    let mut bench = Bench::new();
    let port = free_port();
    bench.set("one", check(port, [1, 1]));
    assert!(bench.set("two", check(port, [1, 1])));
    assert!(get((LOCALHOST[0], port).into(), "/").await.1.contains("\"one\""));
    bench.set("one", None);
    tokio::task::yield_now().await;
    assert!(!bench.follow());
    assert!(get((LOCALHOST[0], port).into(), "/").await.1.contains("\"two\""));
}

#[test]
fn where_to_listen_is_where_node_ports_answer() {
    let primary = "192.168.0.5".parse().expect("address");
    let node = NodeView {
        node_ports: [
            NodePortSet { addresses: vec![primary], loopback: true, all: false },
            NodePortSet { addresses: Vec::new(), loopback: true, all: true },
        ],
        ..NodeView::default()
    };
    let status = Status::default();
    status.set_checks(&node, &[]);
    let addresses = status.checks().borrow().addresses.clone();
    assert_eq!(addresses[Family::V4 as usize], [primary, LOCALHOST[0]]);
    assert_eq!(addresses[Family::V6 as usize], [IpAddr::V6(Ipv6Addr::UNSPECIFIED)]);
}
