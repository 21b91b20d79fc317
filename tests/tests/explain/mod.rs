//! A dialogue with `svc-agent explain --cases -`, and the objects that most of its tests begin with.

mod balancing;

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};
use svc_tests::lab::tool;

pub(crate) fn agent() -> PathBuf {
    tool::sibling("svc-agent", "SVC_AGENT").expect("svc-agent")
}

/// A folder of manifests that goes with the test.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new(manifests: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("svc-explain-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).expect("folder");
        std::fs::write(folder.join("objects.yaml"), manifests).expect("manifests");
        Self(folder)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

pub(crate) fn command(manifests: &Path, flags: &[&str]) -> Command {
    let mut command = Command::new(agent());
    command.args(["explain", "--node", "n1", "--cases", "-", "-o", "json", "--manifests"]).arg(manifests).args(flags);
    command
}

/// A dialogue.
pub(crate) struct Explain {
    pub(crate) child: Child,
    pub(crate) input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    _folder: Folder,
}

impl Explain {
    pub(crate) fn start(manifests: &str, flags: &[&str]) -> Self {
        let folder = Folder::new(manifests);
        let mut child = command(folder.path(), flags)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("svc-agent explain starts");
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().expect("a pipe"));
        Self { child, input, output, _folder: folder }
    }

    /// One line in, one line out: the answer has to come before anything else is sent.
    pub(crate) fn line(&mut self, line: &str) -> Value {
        let input = self.input.as_mut().expect("open");
        writeln!(input, "{line}").expect("explain reads");
        input.flush().expect("explain reads");
        let mut answer = String::new();
        assert!(self.output.read_line(&mut answer).expect("explain writes") > 0, "no answer to {line}");
        serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{answer} is no JSON: {error}"))
    }

    pub(crate) fn ask(&mut self, question: Value) -> Value {
        let answer = self.line(&question.to_string());
        assert!(answer["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{answer} to {question}");
        answer
    }

    /// Asks and compares outcome, set of endpoints and set of sources.
    pub(crate) fn expect(&mut self, question: Value, expected: &str) {
        let answer = self.ask(question.clone());
        let keys = |field: &str| {
            let map = answer[field].as_object().expect("an object");
            map.keys().cloned().collect::<Vec<_>>().join(" ")
        };
        let text = |field: &str| answer[field].as_str().expect("a string").to_owned();
        let mut got = text("outcome");
        if got == "forward" {
            got = format!("forward {} as {}", keys("backends"), keys("sources"));
        } else {
            assert_eq!((&answer["backends"], &answer["sources"]), (&json!({}), &json!({})), "{answer}");
            assert_eq!(answer["snat"], "never", "{answer}");
        }
        assert_eq!(got, expected, "\nquestion {question}\nanswer   {answer}");
    }
}

impl Drop for Explain {
    fn drop(&mut self) {
        drop(self.input.take());
        drop(self.child.wait());
    }
}

pub(crate) const NODE: &str = "
apiVersion: v1
kind: Node
metadata: {name: n1, labels: {topology.kubernetes.io/zone: z1}}
spec: {podCIDR: 10.1.0.0/24, podCIDRs: [10.1.0.0/24, 'fd01:0:0:1::/64']}
status:
  addresses:
  - {type: InternalIP, address: 192.168.1.10}
  - {type: InternalIP, address: 'fd00:1::10'}
  - {type: ExternalIP, address: 198.51.100.10}
---
";

/// A dual-stack Service `web` with ports for all protocols, and slices with an endpoint here and one elsewhere. `spec`:
/// further fields.
pub(crate) fn web(spec: &str) -> String {
    format!(
        "{NODE}
apiVersion: v1
kind: Service
metadata: {{name: web}}
spec:
  clusterIPs: [10.96.0.10, 'fd00:96::10']
  ipFamilies: [IPv4, IPv6]
  ipFamilyPolicy: RequireDualStack
  ports:
  - {{name: t, port: 80, protocol: TCP, nodePort: 30080}}
  - {{name: u, port: 80, protocol: UDP, nodePort: 30080}}
  - {{name: s, port: 80, protocol: SCTP, nodePort: 30080}}
{spec}
---
{SLICES}"
    )
}

pub(crate) const SLICES: &str = "
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-4, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: t, port: 8080, protocol: TCP}, {name: u, port: 8080, protocol: UDP}, {name: s, port: 8080, protocol: SCTP}]
endpoints:
- {addresses: [10.1.0.5], nodeName: n1}
- {addresses: [10.1.1.5], nodeName: n2}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-6, labels: {kubernetes.io/service-name: web}}
addressType: IPv6
ports: [{name: t, port: 8080, protocol: TCP}, {name: u, port: 8080, protocol: UDP}, {name: s, port: 8080, protocol: SCTP}]
endpoints:
- {addresses: ['fd01:0:0:1::5'], nodeName: n1}
- {addresses: ['fd01:0:0:2::5'], nodeName: n2}
";
