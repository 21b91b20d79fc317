//! What size costs the agent: a cold start from a directory of YAML, memory, and one changed endpoint among many Services.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use svc_agent::apply::{Applier, Sink as _};
use svc_agent::datapath::{Maps, Sizes, Writer, maps};
use svc_agent::engine::Engine;
use svc_agent::model::{Event, Kind, Object};
use svc_agent::plan::Options;
use svc_agent::source::{ControlPlane, manifest};

use super::report::{Figure, Group, Report};
use crate::cluster::resident;
use crate::lab::cluster::Manifests;
use crate::lab::{Config, Lab};

/// Services of one file, and of one change.
const A_FILE: usize = 100;
/// Changes of which the median and the 99th percentile count.
const CHANGES: usize = 2000;

/// Measures all of it and adds it to the report.
pub fn run(rounds: usize, report: &mut Report, say: &dyn Fn(&str)) -> Result<()> {
    say("one endpoint changed among 50,000 Services");
    let changes = changes(50_000, 2)?;
    report.budgeted.push(Figure::of(
        "scale/change",
        "one endpoint changed among 50,000 services, median",
        "ms",
        &[changes[CHANGES / 2]],
    ));
    report.budgeted.push(Figure::of(
        "scale/change-p99",
        "the same, 99th percentile",
        "ms",
        &[changes[CHANGES * 99 / 100]],
    ));
    for (services, endpoints) in [(10, 10), (5000, 50), (10_000, 10), (100_000, 2)] {
        say(&format!("cold starts with {services} Services of {endpoints} endpoints"));
        // What takes long varies less.
        let rounds = if services < 100_000 { rounds.min(3) } else { 1 };
        let started = (0..rounds).map(|_| start(services, endpoints)).collect::<Result<Vec<_>>>()?;
        let of = |value: fn(&Started) -> f64| started.iter().map(value).collect::<Vec<_>>();
        let what = format!("{services} services x {endpoints} endpoints");
        let bars = [
            ("cold start from YAML until ready", "s", of(|started| started.took.as_secs_f64())),
            ("memory (RSS) after it, source a directory", "MiB", of(|started| started.resident)),
            ("kernel memory of the tables", "MiB", of(|started| started.tables)),
        ];
        for (title, unit, values) in bars {
            let figure = Figure::of(&format!("scale/{services}x{endpoints}/{unit}"), &what, unit, &values);
            match report.groups.iter_mut().find(|group| group.title == title) {
                Some(group) => group.bars.push(figure),
                None => report.groups.push(Group { title: title.into(), bars: vec![figure] }),
            }
        }
        match (services, endpoints) {
            (5000, 50) => {
                let took = of(|started| started.took.as_secs_f64());
                report.budgeted.push(Figure::of(
                    "scale/cold",
                    "cold start, 5,000 services x 50 endpoints, YAML",
                    "s",
                    &took,
                ));
            }
            (10_000, 10) => {
                let memory = of(|started| started.resident);
                let what = "agent memory (RSS), 10,000 services x 10 endpoints, YAML";
                report.budgeted.push(Figure::of("scale/memory", what, "MiB", &memory));
            }
            _ => {}
        }
    }
    Ok(())
}

/// What a start of an agent was like.
struct Started {
    took: Duration,
    /// MiB.
    resident: f64,
    /// MiB.
    tables: f64,
}

fn start(services: usize, endpoints: usize) -> Result<Started> {
    let sizes = sizes(services, endpoints)?;
    let agent_args = vec![format!("--max-services={}", sizes.services), format!("--max-endpoints={}", sizes.endpoints)];
    let mut lab = Lab::build(Config { nodes: 1, hostile: false, agent_args, ..Config::default() })?;
    write(&lab.manifests, services, endpoints)?;
    let began = Instant::now();
    lab.start_agent(0)?;
    lab.agent(0)?.wait_ready()?;
    let took = began.elapsed();
    let resident = resident(lab.agent(0)?.id())? as f64 / 1024.0;
    Ok(Started { took, resident, tables: maps::total_memory(sizes)? as f64 / f64::from(1 << 20) })
}

/// Room for so many, never less than by default.
fn sizes(services: usize, endpoints: usize) -> Result<Sizes> {
    let default = Sizes::default();
    let (services, endpoints) = (u32::try_from(services)?, u32::try_from(services * endpoints)?);
    Ok(Sizes { services: services.max(default.services), endpoints: endpoints.max(default.endpoints), ..default })
}

/// Milliseconds from the event until the kernel has it, sorted.
fn changes(services: usize, endpoints: usize) -> Result<Vec<f64>> {
    let dir = std::env::temp_dir().join(format!("svc-bench-{}", std::process::id()));
    let manifests = Manifests::new(dir.clone())?;
    let loaded = write(&manifests, services, endpoints).and_then(|()| {
        let options = ControlPlane {
            service_cidrs: None,
            node_ports: ControlPlane::NODE_PORTS,
            node_name: "bench".into(),
            state_file: None,
        };
        Ok(manifest::load(&dir, &options)?)
    });
    std::fs::remove_dir_all(&dir)?;
    let loaded = loaded?;
    ensure!(loaded.warnings.is_empty(), "{}", loaded.warnings[0]);
    let mut slices = Vec::new();
    for object in &loaded.objects {
        if let Object::Slice(slice) = object {
            slices.push(slice.clone());
        }
    }
    let maps = Maps::private(Default::default(), sizes(services, endpoints)?)?;
    let mut engine = Engine::new("bench", Options::default(), (10_000, 29_999), Applier::new(maps.capacity()));
    loaded.objects.into_iter().for_each(|object| engine.fold(Event::Applied(object)));
    Kind::ALL.into_iter().for_each(|kind| engine.fold(Event::Synced(kind)));
    let began = Instant::now();
    Writer(&maps).carry_out(&engine.commit(began.elapsed()).writes)?;
    let mut took = Vec::with_capacity(CHANGES);
    for round in 0..CHANGES {
        let mut slice = slices[round * 7919 % slices.len()].clone();
        let endpoint = slice.endpoints.first_mut().context("a slice has endpoints")?;
        endpoint.addr = [10, 250, (round >> 8) as u8, round as u8].into();
        let change = Instant::now();
        engine.fold(Event::Applied(Object::Slice(slice)));
        let commit = engine.commit(began.elapsed());
        Writer(&maps).carry_out(&commit.writes)?;
        took.push(change.elapsed().as_secs_f64() * 1e3);
        ensure!(!commit.writes.is_empty(), "a changed endpoint is written");
    }
    took.sort_by(f64::total_cmp);
    Ok(took)
}

/// Services and their EndpointSlices, as `kubectl get -o yaml` prints them.
fn write(manifests: &Manifests, services: usize, endpoints: usize) -> Result<()> {
    for file in 0..services.div_ceil(A_FILE) {
        let mut text = String::from("apiVersion: v1\nitems:\n");
        for service in file * A_FILE..services.min((file + 1) * A_FILE) {
            object(&mut text, service, endpoints)?;
        }
        text.push_str("kind: List\nmetadata:\n  resourceVersion: \"\"\n");
        manifests.write(&format!("part-{file}.yaml"), &text)?;
    }
    Ok(())
}

fn object(text: &mut String, service: usize, endpoints: usize) -> Result<()> {
    let number = u32::try_from(service + 256)?;
    let [_, high, mid, low] = number.to_be_bytes();
    write!(
        text,
        "- apiVersion: v1
  kind: Service
  metadata:
    annotations:
      kubectl.kubernetes.io/last-applied-configuration: |
        {{\"apiVersion\":\"v1\",\"kind\":\"Service\",\"metadata\":{{\"name\":\"svc-{service}\",\"namespace\":\"shop\"}}}}
    creationTimestamp: \"2026-01-02T03:04:05Z\"
    labels:
      app.kubernetes.io/name: svc-{service}
    name: svc-{service}
    namespace: shop
    resourceVersion: \"{number}\"
    uid: 5e3a0c1d-12ab-4e5f-8a9b-0123{service:08}
  spec:
    clusterIP: 10.{}.{mid}.{low}
    clusterIPs:
    - 10.{}.{mid}.{low}
    internalTrafficPolicy: Cluster
    ipFamilies:
    - IPv4
    ipFamilyPolicy: SingleStack
    ports:
    - name: http
      port: 80
      protocol: TCP
      targetPort: 8080
    selector:
      app.kubernetes.io/name: svc-{service}
    sessionAffinity: None
    type: ClusterIP
  status:
    loadBalancer: {{}}
- addressType: IPv4
  apiVersion: discovery.k8s.io/v1
  endpoints:
",
        96 + high,
        96 + high
    )?;
    for endpoint in 0..endpoints {
        let number = u32::try_from(service * endpoints + endpoint)?;
        let [_, high, mid, low] = number.to_be_bytes();
        write!(
            text,
            "  - addresses:
    - 10.{}.{mid}.{low}
    conditions:
      ready: true
      serving: true
      terminating: false
    nodeName: node-{}
    targetRef:
      kind: Pod
      name: svc-{service}-6d4cf56db6-{endpoint:05}
      namespace: shop
      uid: 0a3a0c1d-12ab-4e5f-8a9b-{number:012}
    zone: zone-{}
",
            128 + high,
            number % 500,
            number % 3
        )?;
    }
    write!(
        text,
        "  kind: EndpointSlice
  metadata:
    annotations:
      endpoints.kubernetes.io/last-change-trigger-time: \"2026-01-02T03:04:06Z\"
    creationTimestamp: \"2026-01-02T03:04:05Z\"
    generateName: svc-{service}-
    generation: 1
    labels:
      endpointslice.kubernetes.io/managed-by: endpointslice-controller.k8s.io
      kubernetes.io/service-name: svc-{service}
    name: svc-{service}-abcde
    namespace: shop
    resourceVersion: \"{number}\"
    uid: 6e3a0c1d-12ab-4e5f-8a9b-0123{service:08}
  ports:
  - name: http
    port: 8080
    protocol: TCP
"
    )?;
    Ok(())
}
