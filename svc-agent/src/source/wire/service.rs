//! The Service.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, de};

use super::{HEADLESS, Meta, OTHER_PROXY, Problem, address, nullable, port, prefix, protocol};
use crate::model::{Family, IpMode, LoadBalancerIngress, Service, ServicePort, ServiceType, TrafficPolicy};
use crate::source::Interner;

/// Prefix of the annotations that this project reads.
const ANNOTATION_PREFIX: &str = "svc.dev/";

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(in crate::source) struct WireService {
    #[serde(deserialize_with = "nullable")]
    pub(in crate::source) metadata: Meta,
    #[serde(deserialize_with = "nullable")]
    spec: Spec,
    #[serde(deserialize_with = "nullable")]
    status: Status,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    r#type: Option<String>,
    #[serde(rename = "clusterIP")]
    cluster_ip: Option<String>,
    #[serde(rename = "clusterIPs", deserialize_with = "nullable")]
    cluster_ips: Vec<String>,
    #[serde(rename = "externalIPs", deserialize_with = "nullable")]
    external_ips: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    ip_families: Vec<String>,
    ip_family_policy: Option<String>,
    #[serde(deserialize_with = "nullable")]
    ports: Vec<Port>,
    #[serde(deserialize_with = "nullable")]
    selector: BTreeMap<String, String>,
    external_traffic_policy: Option<String>,
    internal_traffic_policy: Option<String>,
    session_affinity: Option<String>,
    #[serde(deserialize_with = "nullable")]
    session_affinity_config: AffinityConfig,
    #[serde(deserialize_with = "nullable")]
    load_balancer_source_ranges: Vec<String>,
    health_check_node_port: Option<i64>,
    allocate_load_balancer_node_ports: Option<bool>,
    #[serde(deserialize_with = "nullable")]
    publish_not_ready_addresses: bool,
    traffic_distribution: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Port {
    name: Option<String>,
    protocol: Option<String>,
    port: Option<i64>,
    node_port: Option<i64>,
    target_port: Option<TargetPort>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct AffinityConfig {
    #[serde(rename = "clientIP", deserialize_with = "nullable")]
    client_ip: ClientIp,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ClientIp {
    timeout_seconds: Option<i64>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Status {
    #[serde(deserialize_with = "nullable")]
    load_balancer: LoadBalancer,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct LoadBalancer {
    #[serde(deserialize_with = "nullable")]
    ingress: Vec<Ingress>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Ingress {
    ip: Option<String>,
    ip_mode: Option<String>,
}

/// `targetPort`: a number, or the name of a port of a container.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(in crate::source) enum TargetPort {
    Number(i64),
    Name(String),
}

impl<'de> Deserialize<'de> for TargetPort {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl de::Visitor<'_> for Either {
            type Value = TargetPort;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number or a name")
            }
            fn visit_i64<E: de::Error>(self, number: i64) -> Result<TargetPort, E> {
                Ok(TargetPort::Number(number))
            }
            fn visit_u64<E: de::Error>(self, number: u64) -> Result<TargetPort, E> {
                Ok(TargetPort::Number(i64::try_from(number).unwrap_or(i64::MAX)))
            }
            fn visit_str<E: de::Error>(self, name: &str) -> Result<TargetPort, E> {
                Ok(TargetPort::Name(name.to_owned()))
            }
        }

        deserializer.deserialize_any(Either)
    }
}

/// What a control plane has to fill in.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::source) struct Draft {
    /// What the object says.
    pub(in crate::source) service: Service,
    /// Pods that become endpoints; empty: none do.
    pub(in crate::source) selector: BTreeMap<String, String>,
    pub(in crate::source) families: Vec<Family>,
    pub(in crate::source) family_policy: Option<FamilyPolicy>,
    /// `targetPort`, in the order of the ports.
    pub(in crate::source) targets: Vec<TargetPort>,
    /// A NodePort Service, or a LoadBalancer that does not decline node ports.
    pub(in crate::source) wants_node_ports: bool,
    pub(in crate::source) publish_not_ready: bool,
    /// The slices that a cluster would make carry a label that hides them.
    pub(in crate::source) hidden_slices: bool,
    pub(in crate::source) distribution: Distribution,
}

/// `ipFamilyPolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::source) enum FamilyPolicy {
    Single,
    PreferDual,
    RequireDual,
}

/// `trafficDistribution`: which hints the slice controller would write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::source) enum Distribution {
    #[default]
    Anywhere,
    SameZone,
    SameNode,
}

impl WireService {
    /// The Service of the model and what is open in it; the second part lists what means nothing.
    pub(in crate::source) fn read(self, names: &mut Interner) -> (Draft, Vec<Problem>) {
        let mut problems = Problems::default();
        let Self { metadata, spec, status } = self;
        let kind = problems.word("spec.type", spec.r#type.as_deref(), &TYPES);
        // A nodePort left over on a plain Service, as changing the type by hand leaves it, is wiped by the API server.
        let wants_ports = matches!(kind, ServiceType::NodePort | ServiceType::LoadBalancer);
        let mut ports = Vec::with_capacity(spec.ports.len());
        let mut targets = Vec::with_capacity(spec.ports.len());
        for (index, wire) in spec.ports.iter().enumerate() {
            let at = |field: &str| format!("spec.ports[{index}].{field}");
            let Some(number) =
                problems.take(&at("port"), wire.port.ok_or_else(|| "is missing".to_owned()).and_then(port))
            else {
                continue;
            };
            let Some(protocol) = problems.take(&at("protocol"), protocol(wire.protocol.as_deref())) else { continue };
            let node_port = wire.node_port.filter(|port| *port != 0).filter(|_| wants_ports);
            let port = ServicePort {
                name: names.get(wire.name.as_deref().unwrap_or_default()),
                protocol,
                port: number,
                node_port: node_port.and_then(|port| problems.take(&at("nodePort"), super::port(port))),
            };
            let target = problems.target(&at("targetPort"), wire.target_port.as_ref(), number);
            if ports.iter().any(|other: &ServicePort| other.name == port.name && other.protocol == port.protocol) {
                let text =
                    if port.name.is_empty() { "is required when there are several ports" } else { "is there twice" };
                problems.add(at("name"), text);
                continue;
            }
            ports.push(port);
            targets.push(target);
        }

        let given = if spec.cluster_ips.is_empty() {
            Vec::from_iter(&spec.cluster_ip)
        } else {
            spec.cluster_ips.iter().collect()
        };
        let headless = given.first().is_some_and(|ip| ip.as_str() == "None");
        let mut cluster_ips: Vec<IpAddr> = Vec::new();
        for (index, text) in
            given.into_iter().enumerate().filter(|(_, text)| !text.trim().is_empty() && *text != "None")
        {
            let path = if spec.cluster_ips.is_empty() {
                "spec.clusterIP".to_owned()
            } else {
                format!("spec.clusterIPs[{index}]")
            };
            let Some(ip) = problems.ip(&path, text) else { continue };
            if cluster_ips.iter().any(|other| other.is_ipv4() == ip.is_ipv4()) {
                problems.add(path, "is a second address of its family");
            } else {
                cluster_ips.push(ip);
            }
        }
        if ports.is_empty() && problems.0.is_empty() && !headless && kind != ServiceType::ExternalName {
            problems.add("spec.ports", "a Service without ports answers nowhere: list at least one");
        }

        let external_ips = spec
            .external_ips
            .iter()
            .enumerate()
            .filter_map(|(i, text)| problems.ip(&format!("spec.externalIPs[{i}]"), text));
        let external_ips = external_ips.collect();
        let mut ingress = Vec::new();
        for (index, entry) in status.load_balancer.ingress.iter().enumerate() {
            let at = |field: &str| format!("status.loadBalancer.ingress[{index}].{field}");
            let Some(text) = entry.ip.as_deref().filter(|text| !text.is_empty()) else { continue };
            let Some(ip) = problems.ip(&at("ip"), text) else { continue };
            ingress
                .push(LoadBalancerIngress { ip, mode: problems.word(&at("ipMode"), entry.ip_mode.as_deref(), &MODES) });
        }
        let ranges = spec.load_balancer_source_ranges.iter().enumerate().filter_map(|(index, text)| {
            let path = format!("spec.loadBalancerSourceRanges[{index}]");
            problems.take(&path, prefix(text, "10.0.0.0/8"))
        });
        let source_ranges = ranges.collect();
        let affinity =
            problems.word("spec.sessionAffinity", spec.session_affinity.as_deref(), &AFFINITIES).then(|| {
                let seconds = spec.session_affinity_config.client_ip.timeout_seconds.unwrap_or(10_800);
                let seconds = u64::try_from(seconds).ok().filter(|seconds| (1..=86_400).contains(seconds));
                let path = "spec.sessionAffinityConfig.clientIP.timeoutSeconds";
                Duration::from_secs(
                    problems.take(path, seconds.ok_or_else(|| "must be 1 to 86400".to_owned())).unwrap_or(10_800),
                )
            });
        let health = spec.health_check_node_port.filter(|port| *port != 0);
        let families = spec
            .ip_families
            .iter()
            .enumerate()
            .filter_map(|(index, text)| problems.take(&format!("spec.ipFamilies[{index}]"), family(text)));
        let families = families.collect();

        let own =
            metadata.annotations.iter().filter_map(|(key, value)| Some((key.strip_prefix(ANNOTATION_PREFIX)?, value)));
        let service = Service {
            key: metadata.namespaced(),
            uid: metadata.uid.as_deref().unwrap_or_default().into(),
            created: metadata.created(),
            kind,
            cluster_ips,
            headless,
            other_proxy: metadata.labels.contains_key(OTHER_PROXY),
            external_ips,
            ingress,
            ports,
            external_policy: problems.word(
                "spec.externalTrafficPolicy",
                spec.external_traffic_policy.as_deref(),
                &POLICIES,
            ),
            internal_policy: problems.word(
                "spec.internalTrafficPolicy",
                spec.internal_traffic_policy.as_deref(),
                &POLICIES,
            ),
            affinity,
            source_ranges,
            health_check_node_port: health.and_then(|number| problems.take("spec.healthCheckNodePort", port(number))),
            annotations: own.map(|(key, value)| (key.into(), value.as_str().into())).collect(),
        };
        let draft = Draft {
            selector: spec.selector,
            families,
            family_policy: problems.word("spec.ipFamilyPolicy", spec.ip_family_policy.as_deref(), &FAMILY_POLICIES),
            targets,
            wants_node_ports: kind == ServiceType::NodePort
                || kind == ServiceType::LoadBalancer && spec.allocate_load_balancer_node_ports != Some(false),
            publish_not_ready: spec.publish_not_ready_addresses,
            hidden_slices: metadata.labels.contains_key(HEADLESS),
            distribution: match spec.traffic_distribution.as_deref() {
                Some("PreferClose" | "PreferSameZone") => Distribution::SameZone,
                Some("PreferSameNode") => Distribution::SameNode,
                _ => Distribution::Anywhere,
            },
            service,
        };
        (draft, problems.0)
    }
}

/// A family by its name in Kubernetes.
pub(super) fn family(name: &str) -> Result<Family, String> {
    Family::ALL
        .into_iter()
        .find(|family| family.name() == name)
        .ok_or_else(|| format!("{name:?} is no family: IPv4 or IPv6"))
}

type Words<T, const N: usize> = [(&'static str, T); N];

const TYPES: Words<ServiceType, 4> = [
    ("ClusterIP", ServiceType::ClusterIp),
    ("NodePort", ServiceType::NodePort),
    ("LoadBalancer", ServiceType::LoadBalancer),
    ("ExternalName", ServiceType::ExternalName),
];
const POLICIES: Words<TrafficPolicy, 2> = [("Cluster", TrafficPolicy::Cluster), ("Local", TrafficPolicy::Local)];
const MODES: Words<IpMode, 2> = [("VIP", IpMode::Vip), ("Proxy", IpMode::Proxy)];
const AFFINITIES: Words<bool, 2> = [("None", false), ("ClientIP", true)];
const FAMILY_POLICIES: Words<Option<FamilyPolicy>, 3> = [
    ("SingleStack", Some(FamilyPolicy::Single)),
    ("PreferDualStack", Some(FamilyPolicy::PreferDual)),
    ("RequireDualStack", Some(FamilyPolicy::RequireDual)),
];

/// Collects what means nothing while the rest is read.
#[derive(Default)]
struct Problems(Vec<Problem>);

impl Problems {
    fn add(&mut self, path: impl Into<String>, text: impl Into<String>) {
        self.0.push(Problem::new(path, text));
    }

    fn take<T>(&mut self, path: &str, result: Result<T, String>) -> Option<T> {
        result.map_err(|text| self.add(path, text)).ok()
    }

    fn ip(&mut self, path: &str, text: &str) -> Option<IpAddr> {
        self.take(path, address(text))
    }

    /// One of a few words; absent or empty is the default.
    fn word<T: Copy + Default, const N: usize>(&mut self, path: &str, text: Option<&str>, words: &Words<T, N>) -> T {
        let Some(text) = text.filter(|text| !text.is_empty()) else { return T::default() };
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return *value;
        }
        let known: Vec<_> = words.iter().map(|(word, _)| *word).collect();
        self.add(path, format!("{text:?} is none of {}", known.join(", ")));
        T::default()
    }

    /// Where a port leads; by default to the same number.
    fn target(&mut self, path: &str, target: Option<&TargetPort>, own: u16) -> TargetPort {
        match target {
            None | Some(TargetPort::Number(0)) => TargetPort::Number(own.into()),
            Some(TargetPort::Name(name)) if name.is_empty() => TargetPort::Number(own.into()),
            Some(TargetPort::Name(name)) if name.bytes().all(|byte| byte.is_ascii_digit()) => {
                self.add(path, format!("{name:?} is a name without a letter: write the number without quotes"));
                TargetPort::Number(own.into())
            }
            Some(TargetPort::Name(name)) => TargetPort::Name(name.clone()),
            Some(TargetPort::Number(number)) => {
                TargetPort::Number(self.take(path, port(*number)).unwrap_or(own).into())
            }
        }
    }
}
