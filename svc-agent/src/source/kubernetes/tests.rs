//! A scripted API server on loopback: lists, watches, and what goes wrong with them.

use std::collections::{HashMap, VecDeque};
use std::sync::Mutex;

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::model::{Kind, ObjectKey, World};

/// What the server says to one request, in order of the requests for a kind.
#[derive(Clone, Debug)]
enum Reply {
    /// Status and body; then the connection is closed.
    Body(u16, String),
    /// Lines of a watch; then the connection stays open.
    Watch(Vec<String>),
    /// Lines of a watch that ends.
    WatchEnds(Vec<String>),
    /// Nothing at all.
    Silence,
}

use Reply::{Body, Silence, Watch, WatchEnds};

#[derive(Default)]
struct Script {
    replies: HashMap<&'static str, VecDeque<Reply>>,
    /// Services that there are when the script has come to its end.
    services: Vec<String>,
    requests: Vec<String>,
}

struct Lab {
    addr: std::net::SocketAddr,
    script: Arc<Mutex<Script>>,
    events: mpsc::Receiver<Vec<Event>>,
    contact: Arc<Contact>,
    world: World,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.tasks.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

const PACE: Pace = Pace {
    first_delay: Duration::from_millis(5),
    longest_delay: Duration::from_millis(50),
    list_stall: Duration::from_millis(300),
    absent: Duration::from_secs(60),
    repeat: Duration::from_secs(60),
};

impl Lab {
    /// Kinds that are not scripted have an empty list.
    async fn new(replies: Vec<(&'static str, Vec<Reply>)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let replies = replies.into_iter().map(|(kind, replies)| (kind, replies.into())).collect();
        let script = Arc::new(Mutex::new(Script { replies, ..Script::default() }));
        let server = tokio::spawn(serve(listener, script.clone()));
        let (tx, events) = mpsc::channel(64);
        let contact = Arc::<Contact>::default();
        let told = Arc::clone(&contact);
        let follower = tokio::spawn(async move {
            let mut config = Config::new(format!("http://{addr}").parse().unwrap());
            limit(&mut config, Duration::from_secs(1));
            follow_all(Client::try_from(config).unwrap(), "n1", tx, PACE, told).await;
        });
        Self { addr, script, events, contact, world: World::default(), tasks: vec![server, follower] }
    }

    /// Folds events until `done`.
    async fn until(&mut self, what: &str, done: impl Fn(&World) -> bool) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
        while !done(&self.world) {
            match tokio::time::timeout_at(deadline, self.events.recv()).await {
                Ok(Some(events)) => events.into_iter().for_each(|event| _ = self.world.fold(event)),
                other => panic!("{what}: {other:?}; {:?}", self.script.lock().unwrap().requests),
            }
        }
    }

    async fn services(&mut self, want: &[&str]) {
        let names =
            |world: &World| -> Vec<String> { world.services().map(|service| service.key.name.to_string()).collect() };
        let ready = |world: &World| world.is_synced() && names(world) == want;
        self.until(&format!("services {want:?}"), ready).await;
    }

    fn requests(&self, kind: &str) -> Vec<String> {
        let of_kind = |request: &&String| request.contains(&format!("/{kind}?"));
        self.script.lock().unwrap().requests.iter().filter(of_kind).cloned().collect()
    }
}

/// Ends with all its connections when it is aborted.
async fn serve(listener: TcpListener, script: Arc<Mutex<Script>>) {
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(answer(stream, script.clone()));
    }
}

async fn answer(mut stream: TcpStream, script: Arc<Mutex<Script>>) -> std::io::Result<()> {
    let mut reader = BufReader::new(&mut stream);
    let mut line = String::new();
    reader.read_line(&mut line).await?;
    let mut header = String::new();
    while reader.read_line(&mut header).await? > 2 {
        header.clear();
    }
    let request = line.split(' ').nth(1).unwrap_or_default().to_owned();
    let kind = request.split('?').next().and_then(|path| path.rsplit('/').next()).unwrap_or_default().to_owned();
    let reply = {
        let mut script = script.lock().unwrap();
        let scripted = script.replies.get_mut(&*kind).and_then(VecDeque::pop_front);
        let items = if kind == "services" { script.services.clone() } else { Vec::new() };
        let usual = match (request.contains("watch=true"), request.contains("sendInitialEvents")) {
            (true, true) => Watch(items.iter().map(|item| event("ADDED", item)).chain([DONE.into()]).collect()),
            (true, false) => Watch(Vec::new()),
            (false, _) => Body(200, list("X", &items, "")),
        };
        script.requests.push(request);
        scripted.unwrap_or(usual)
    };
    let head = |status| format!("HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n");
    let (status, text, stays) = match reply {
        Body(status, text) => (status, text, false),
        Watch(lines) => (200, lines.join("\n") + "\n", true),
        WatchEnds(lines) => (200, lines.join("\n") + "\n", false),
        Silence => return std::future::pending().await,
    };
    stream.write_all((head(status) + &text).as_bytes()).await?;
    stream.flush().await?;
    if stays {
        std::future::pending::<()>().await;
    }
    Ok(())
}

const DONE: &str = r#"{"type":"BOOKMARK","object":{"kind":"X","apiVersion":"v1","metadata":{"resourceVersion":"9","annotations":{"k8s.io/initial-events-end":"true"}}}}"#;
const GONE: &str = r#"{"type":"ERROR","object":{"kind":"Status","apiVersion":"v1","status":"Failure","message":"too old","reason":"Expired","code":410}}"#;

fn service(name: &str) -> String {
    format!(
        r#"{{"kind":"Service","apiVersion":"v1","metadata":{{"name":"{name}","namespace":"default","resourceVersion":"7","managedFields":[{{"manager":"x"}}]}},"spec":{{"clusterIP":"10.96.0.1","ports":[{{"port":80,"targetPort":"http"}}]}},"status":{{"loadBalancer":{{}}}}}}"#
    )
}

fn event(kind: &str, object: &str) -> String {
    format!(r#"{{"type":"{kind}","object":{object}}}"#)
}

fn added(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| event("ADDED", &service(name))).chain([DONE.into()]).collect()
}

fn list(kind: &str, items: &[String], more: &str) -> String {
    format!(
        r#"{{"kind":"{kind}List","apiVersion":"v1","metadata":{{"resourceVersion":"8","continue":"{more}"}},"items":[{}]}}"#,
        items.join(",")
    )
}

fn failure(code: u16) -> Reply {
    Body(
        code,
        format!(
            r#"{{"kind":"Status","apiVersion":"v1","metadata":{{}},"status":"Failure","message":"no","reason":"X","code":{code}}}"#
        ),
    )
}

#[tokio::test]
async fn a_streaming_list_and_what_follows() {
    let slice = r#"{"metadata":{"name":"a-1","namespace":"default","resourceVersion":"7","labels":{"kubernetes.io/service-name":"a"}},"addressType":"IPv4","endpoints":null,"ports":null}"#;
    let filled = slice.replace(
        r#""endpoints":null"#,
        r#""endpoints":[{"addresses":["10.1.0.1"],"conditions":{},"nodeName":"n1"},{"addresses":["x"]}]"#,
    );
    let node = r#"{"metadata":{"name":"n1","resourceVersion":"7"},"status":{"addresses":[{"type":"InternalIP","address":"192.168.0.1"}]}}"#;
    let cidr = r#"{"metadata":{"name":"kubernetes","resourceVersion":"7"},"spec":{"cidrs":["10.96.0.0/16"]}}"#;
    let stream = |object: &str| Watch(vec![event("ADDED", object), DONE.into()]);
    let mut services = added(&["a", "b"]);
    services.extend([event("MODIFIED", &service("c")), event("DELETED", &service("b"))]);
    let mut lab = Lab::new(vec![
        ("services", vec![Watch(services)]),
        ("endpointslices", vec![Watch(vec![event("ADDED", slice), DONE.into(), event("MODIFIED", &filled)])]),
        ("nodes", vec![stream(node)]),
        ("servicecidrs", vec![stream(cidr)]),
    ])
    .await;
    lab.services(&["a", "c"]).await;
    let web = ObjectKey::new("default", "a");
    // What means nothing is left out, the rest of the object counts.
    lab.until("the endpoint", |world| world.slices(&web).any(|slice| slice.endpoints.len() == 1)).await;
    lab.until("the node", |world| world.node().is_some() && world.service_cidrs().count() == 1).await;

    let slices = lab.requests("endpointslices").remove(0);
    assert!(
        slices.contains(
            "labelSelector=%21service.kubernetes.io%2Fheadless%2C%21service.kubernetes.io%2Fservice-proxy-name"
        ),
        "{slices}"
    );
    assert!(slices.contains("sendInitialEvents=true"), "{slices}");
    let services = lab.requests("services").remove(0);
    assert!(!services.contains("labelSelector") && !services.contains("fieldSelector"), "{services}");
    assert!(lab.requests("nodes")[0].contains("fieldSelector=metadata.name%3Dn1"));
}

#[tokio::test]
async fn a_server_without_streaming_lists() {
    let pages = [list("Service", &[service("a")], "next"), list("Service", &[service("b")], "")];
    let [first, second] = pages.map(|page| Body(200, page));
    let watch = Watch(vec![event("ADDED", &service("c"))]);
    let mut lab = Lab::new(vec![("services", vec![failure(422), first, second, watch])]).await;
    lab.services(&["a", "b", "c"]).await;
    assert!(lab.requests("services")[2].contains("continue=next"));
    assert!(lab.requests("services")[3].contains("resourceVersion=8"));
}

/// Old servers take the parameters for something else and never say that the list is complete.
#[tokio::test]
async fn a_streaming_list_that_never_ends() {
    let list = Body(200, list("Service", &[service("a")], ""));
    let mut lab = Lab::new(vec![("services", vec![Watch(vec![event("ADDED", &service("a"))]), list])]).await;
    lab.services(&["a"]).await;
}

#[tokio::test]
async fn a_new_list_removes_what_has_vanished() {
    let mut first = added(&["a", "b"]);
    first.push(GONE.into());
    let mut lab = Lab::new(vec![("services", vec![Watch(first), Watch(added(&["b", "c"]))])]).await;
    lab.services(&["b", "c"]).await;
    assert_eq!(lab.requests("services").len(), 2);
}

/// Each of these is followed by a good list: the stream never ends and nothing is lost meanwhile.
#[tokio::test]
async fn nothing_ends_the_stream() {
    for (what, trouble) in [
        ("500", vec![failure(500)]),
        ("429 again and again", vec![failure(429); 6]),
        ("403", vec![failure(403), failure(403)]),
        ("410 as an answer", vec![failure(410)]),
        ("410 again and again", vec![failure(410); 6]),
        ("garbage", vec![Body(200, "<html>welcome</html>\n".into())]),
        ("half a line", vec![Body(200, r#"{"type":"ADDED","object":{"meta"#.into())]),
        ("closed at once", vec![Body(200, String::new()); 2]),
        ("another shape", vec![Watch(vec![event("ADDED", r#"{"metadata":{"name":["x"]}}"#)])]),
        ("an answer for a proxy", vec![Body(502, "bad gateway".into())]),
        ("silence", vec![Silence]),
        ("half a list", vec![WatchEnds(vec![event("ADDED", &service("x"))])]),
    ] {
        let mut lab = Lab::new(vec![("services", trouble)]).await;
        lab.script.lock().unwrap().services = vec![service("a"), service("b")];
        let names = |world: &World| world.services().map(|service| service.key.name.to_string()).collect::<Vec<_>>();
        lab.until(what, |world| world.is_synced() && names(world) == ["a", "b"]).await;
    }
}

/// Trouble that does not end is noticed, and the server is not asked faster and faster.
#[tokio::test]
async fn trouble_without_end() {
    for (what, reply) in [
        ("half a list", WatchEnds(vec![event("ADDED", &service("x"))])),
        ("an empty list without an end", Body(200, String::new())),
        ("410", failure(410)),
        ("watches that end at once", WatchEnds(Vec::new())),
    ] {
        // A watch needs a list before it.
        let list = if what.starts_with("watches") { vec![WatchEnds(added(&["a"]))] } else { Vec::new() };
        let mut lab = Lab::new(vec![("services", [list, vec![reply; 10_000]].concat())]).await;
        let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
        while lab.contact.age(Kind::Service).is_none_or(|age| age < Duration::from_millis(500)) {
            // Whatever comes meanwhile: it has to be taken, or nothing more comes.
            let _ = tokio::time::timeout(Duration::from_millis(20), lab.events.recv()).await;
            assert!(tokio::time::Instant::now() < deadline, "{what}: not noticed");
        }
        let asked = lab.requests("services").len();
        assert!(asked < 100, "{what}: asked {asked} times");
    }
}

/// A watch that breaks goes on where it was; one that could not be decoded begins anew; nothing is taken away between.
#[tokio::test]
async fn a_watch_that_breaks() {
    let mut lab = Lab::new(vec![(
        "services",
        vec![
            WatchEnds(added(&["a", "b"])),
            WatchEnds(vec![event("MODIFIED", &service("c"))]),
            Watch(vec![event("DELETED", &service("a")), "garbage".into()]),
            Watch(added(&["c", "d"])),
        ],
    )])
    .await;
    lab.services(&["a", "b", "c"]).await;
    lab.services(&["c", "d"]).await;
    let requests = lab.requests("services");
    assert!(requests[1].contains("resourceVersion=9") && !requests[1].contains("sendInitialEvents"), "{}", requests[1]);
    assert!(requests[2].contains("resourceVersion=7") && !requests[2].contains("sendInitialEvents"), "{}", requests[2]);
    assert!(requests[3].contains("sendInitialEvents=true"), "{}", requests[3]);
}

/// The request for the next watch is taken and not answered: a connection that leads nowhere is given up.
#[tokio::test]
async fn a_watch_that_is_not_answered() {
    let more = Watch(vec![event("ADDED", &service("c"))]);
    let mut lab = Lab::new(vec![("services", vec![WatchEnds(added(&["a", "b"])), Silence, more])]).await;
    lab.services(&["a", "b", "c"]).await;
}

/// While it is away nothing changes; what it says afterwards counts, also if it has forgotten something.
#[tokio::test]
async fn a_server_that_comes_back_with_an_older_state() {
    let mut lab = Lab::new(vec![("services", vec![Watch(added(&["a", "b"]))])]).await;
    lab.services(&["a", "b"]).await;
    lab.tasks[0].abort();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(
        std::iter::from_fn(|| lab.events.try_recv().ok())
            .flatten()
            .all(|event| !matches!(event, Event::Deleted(..) | Event::Synced(Kind::Service)))
    );
    lab.script.lock().unwrap().services = vec![service("a")];
    let listener = TcpListener::bind(lab.addr).await.unwrap();
    lab.tasks.push(tokio::spawn(serve(listener, lab.script.clone())));
    lab.services(&["a"]).await;
}

#[tokio::test]
async fn a_server_without_service_cidrs() {
    let mut lab = Lab::new(vec![("servicecidrs", vec![failure(404)])]).await;
    let mut synced = Vec::new();
    while !synced.contains(&Kind::ServiceCidr) {
        let events = timeout(&mut lab).await;
        synced.extend(
            events.into_iter().filter_map(|event| if let Event::Synced(kind) = event { Some(kind) } else { None }),
        );
    }
    assert_eq!(lab.requests("servicecidrs").len(), 1);
}

async fn timeout(lab: &mut Lab) -> Vec<Event> {
    tokio::time::timeout(Duration::from_secs(5), lab.events.recv()).await.unwrap().unwrap()
}

/// A slice that gets the label of another proxy leaves the selection: the server says DELETED. One that loses its Service
/// is still selected and is taken away here.
#[tokio::test]
async fn a_slice_that_no_longer_counts() {
    let slice = |labels: &str| {
        format!(
            r#"{{"metadata":{{"name":"s","namespace":"default","resourceVersion":"7","labels":{{{labels}}}}},"addressType":"IPv4","endpoints":[{{"addresses":["10.1.0.1"]}}]}}"#
        )
    };
    let named = r#""kubernetes.io/service-name":"a""#;
    let lines = vec![event("ADDED", &slice(named)), DONE.into(), event("MODIFIED", &slice(""))];
    let mut lab = Lab::new(vec![("endpointslices", vec![Watch(lines)])]).await;
    let web = ObjectKey::new("default", "a");
    lab.until("the slice is gone", |world| world.is_synced() && world.slices(&web).count() == 0).await;
}

#[tokio::test]
async fn the_way_to_the_server() {
    let missing = ClientOptions { kubeconfig: Some("/nowhere/config".into()), server: None };
    let text = format!("{:#}", connect(&missing).await.err().unwrap());
    assert!(text.starts_with("kubeconfig /nowhere/config: "), "{text}");
    if std::env::var_os("KUBERNETES_SERVICE_HOST").is_none() {
        let text = format!("{:#}", connect(&ClientOptions::default()).await.err().unwrap());
        assert!(text.starts_with("no way to reach the API server: give --kubeconfig FILE"), "{text}");
    }

    let file = std::env::temp_dir().join(format!("svc-kubeconfig-{}", std::process::id()));
    std::fs::write(&file, "apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters: [{name: k, cluster: {server: 'http://127.0.0.1:1'}}]\ncontexts: [{name: c, context: {cluster: k, user: u}}]\nusers: [{name: u, user: {}}]\n").unwrap();
    let good = ClientOptions { kubeconfig: Some(file.clone()), server: None };
    assert!(connect(&good).await.is_ok());
    let bad = ClientOptions { kubeconfig: Some(file.clone()), server: Some("not an address".into()) };
    let text = format!("{:#}", connect(&bad).await.err().unwrap());
    assert!(text.starts_with("\"not an address\" is no address of an API server"), "{text}");
    std::fs::remove_file(file).unwrap();
}
