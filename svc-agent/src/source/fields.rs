//! The field names of the kinds that are read, and what a wrong one was meant to be.
//!
//! Kubernetes drops unknown fields unless asked not to; so does this project, but never silently: `clusterIp` is an
//! address that the Service then does not have.

use super::tree::{Node, Value};

/// What may stand at a place.
#[derive(Debug)]
pub(crate) enum Shape {
    /// Not looked into.
    Any,
    /// A map with these fields.
    Map(&'static [(&'static str, Shape)]),
    /// A list of such.
    Each(&'static Shape),
}

use Shape::{Any, Each, Map};

/// A name that is not known: where it stands, and what the person probably meant.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unknown {
    pub(crate) line: usize,
    pub(crate) path: String,
    pub(crate) hint: String,
}

/// Lists the fields of `node` that `shape` does not have.
pub(crate) fn unknown(node: &Node<'_>, shape: &'static Shape) -> Vec<Unknown> {
    let mut found = Vec::new();
    walk(node, shape, shape, &mut found);
    found
}

/// Paths are made on the way back, where something was found: nearly always nothing is.
fn walk(node: &Node<'_>, shape: &'static Shape, root: &'static Shape, found: &mut Vec<Unknown>) {
    match (&node.value, shape) {
        (Value::Map(entries), Map(fields)) => {
            for entry in entries {
                let before = found.len();
                match fields.iter().find(|(name, _)| *name == entry.name) {
                    Some((_, shape)) => walk(&entry.value, shape, root, found),
                    None => {
                        let hint = hint(&entry.name, fields, root);
                        found.push(Unknown { line: entry.line, path: String::new(), hint });
                    }
                }
                found[before..].iter_mut().for_each(|unknown| unknown.lies_below(&entry.name));
            }
        }
        (Value::List(items), Each(shape)) => {
            for (index, item) in items.iter().enumerate() {
                let before = found.len();
                walk(item, shape, root, found);
                found[before..].iter_mut().for_each(|unknown| unknown.lies_below(&format!("[{index}]")));
            }
        }
        _ => {}
    }
}

impl Unknown {
    fn lies_below(&mut self, step: &str) {
        let dot = if self.path.is_empty() || self.path.starts_with('[') { "" } else { "." };
        self.path = format!("{step}{dot}{}", self.path);
    }
}

fn hint(name: &str, here: &[(&'static str, Shape)], root: &'static Shape) -> String {
    if let Some(spelling) = nearest(name, here.iter().map(|(field, _)| *field)) {
        return format!("did you mean {spelling}?");
    }
    match home_of(name, root) {
        Some(home) if home.is_empty() => "it belongs to the outermost level".to_owned(),
        Some(home) => format!("it belongs below {home}"),
        None => "there is no such field".to_owned(),
    }
}

/// The known word that `name` is a misspelling of, if there is one.
pub(crate) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let lower = name.to_ascii_lowercase();
    // A third of the letters wrong is another word.
    let limit = (name.len() / 3).min(3);
    known
        .map(|word| (distance(&lower, &word.to_ascii_lowercase()), word))
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, _)| *distance <= limit)
        .map(|(_, word)| word)
}

/// Path of the map that has a field of this name.
fn home_of(name: &str, shape: &'static Shape) -> Option<String> {
    match shape {
        Map(fields) if fields.iter().any(|(field, _)| *field == name) => Some(String::new()),
        Map(fields) => fields.iter().find_map(|(field, inner)| {
            let below = home_of(name, inner)?;
            Some(if below.is_empty() { (*field).to_owned() } else { format!("{field}.{below}") })
        }),
        Each(inner) => home_of(name, inner),
        Any => None,
    }
}

/// Letters to add, to take away or to change (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, letter) in a.chars().enumerate() {
        let mut corner = row[0];
        row[0] = i + 1;
        for (j, other) in b.iter().enumerate() {
            let changed = corner + usize::from(letter != *other);
            corner = row[j + 1];
            row[j + 1] = changed.min(corner + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

const META: Shape = Map(&[
    ("annotations", Any),
    ("creationTimestamp", Any),
    ("deletionGracePeriodSeconds", Any),
    ("deletionTimestamp", Any),
    ("finalizers", Any),
    ("generateName", Any),
    ("generation", Any),
    ("labels", Any),
    ("managedFields", Any),
    ("name", Any),
    ("namespace", Any),
    ("ownerReferences", Any),
    ("resourceVersion", Any),
    ("selfLink", Any),
    ("uid", Any),
]);

/// `v1/Service`.
pub(crate) static SERVICE: Shape = Map(&[
    ("apiVersion", Any),
    ("kind", Any),
    ("metadata", META),
    (
        "spec",
        Map(&[
            ("allocateLoadBalancerNodePorts", Any),
            ("clusterIP", Any),
            ("clusterIPs", Any),
            ("externalIPs", Any),
            ("externalName", Any),
            ("externalTrafficPolicy", Any),
            ("healthCheckNodePort", Any),
            ("internalTrafficPolicy", Any),
            ("ipFamilies", Any),
            ("ipFamilyPolicy", Any),
            ("loadBalancerClass", Any),
            ("loadBalancerIP", Any),
            ("loadBalancerSourceRanges", Any),
            (
                "ports",
                Each(&Map(&[
                    ("appProtocol", Any),
                    ("name", Any),
                    ("nodePort", Any),
                    ("port", Any),
                    ("protocol", Any),
                    ("targetPort", Any),
                ])),
            ),
            ("publishNotReadyAddresses", Any),
            ("selector", Any),
            ("sessionAffinity", Any),
            ("sessionAffinityConfig", Map(&[("clientIP", Map(&[("timeoutSeconds", Any)]))])),
            ("trafficDistribution", Any),
            ("type", Any),
        ]),
    ),
    (
        "status",
        Map(&[
            ("conditions", Any),
            (
                "loadBalancer",
                Map(&[("ingress", Each(&Map(&[("hostname", Any), ("ip", Any), ("ipMode", Any), ("ports", Any)])))]),
            ),
        ]),
    ),
]);

/// `discovery.k8s.io/v1/EndpointSlice`.
pub(crate) static SLICE: Shape = Map(&[
    ("addressType", Any),
    ("apiVersion", Any),
    (
        "endpoints",
        Each(&Map(&[
            ("addresses", Any),
            ("conditions", Map(&[("ready", Any), ("serving", Any), ("terminating", Any)])),
            ("deprecatedTopology", Any),
            ("hints", Map(&[("forNodes", Each(&Map(&[("name", Any)]))), ("forZones", Each(&Map(&[("name", Any)])))])),
            ("hostname", Any),
            ("nodeName", Any),
            ("targetRef", Any),
            ("zone", Any),
        ])),
    ),
    ("kind", Any),
    ("metadata", META),
    ("ports", Each(&Map(&[("appProtocol", Any), ("name", Any), ("port", Any), ("protocol", Any)]))),
]);

/// `v1/Node`.
pub(crate) static NODE: Shape = Map(&[
    ("apiVersion", Any),
    ("kind", Any),
    ("metadata", META),
    (
        "spec",
        Map(&[
            ("configSource", Any),
            ("externalID", Any),
            ("podCIDR", Any),
            ("podCIDRs", Any),
            ("podPreemptionPolicy", Any),
            ("providerID", Any),
            ("taints", Each(&Map(&[("effect", Any), ("key", Any), ("timeAdded", Any), ("value", Any)]))),
            ("unschedulable", Any),
        ]),
    ),
    (
        "status",
        Map(&[
            ("addresses", Each(&Map(&[("address", Any), ("type", Any)]))),
            ("allocatable", Any),
            ("capacity", Any),
            ("conditions", Any),
            ("config", Any),
            ("daemonEndpoints", Any),
            ("declaredFeatures", Any),
            ("features", Any),
            ("images", Any),
            ("nodeInfo", Any),
            ("phase", Any),
            ("runtimeHandlers", Any),
            ("volumesAttached", Any),
            ("volumesInUse", Any),
        ]),
    ),
]);

/// `networking.k8s.io/v1/ServiceCIDR`.
pub(crate) static SERVICE_CIDR: Shape = Map(&[
    ("apiVersion", Any),
    ("kind", Any),
    ("metadata", META),
    ("spec", Map(&[("cidrs", Any)])),
    ("status", Map(&[("conditions", Any)])),
]);

const CONTAINER: Shape = Map(&[
    ("args", Any),
    ("command", Any),
    ("env", Any),
    ("envFrom", Any),
    ("image", Any),
    ("imagePullPolicy", Any),
    ("lifecycle", Any),
    ("livenessProbe", Any),
    ("name", Any),
    (
        "ports",
        Each(&Map(&[("containerPort", Any), ("hostIP", Any), ("hostPort", Any), ("name", Any), ("protocol", Any)])),
    ),
    ("readinessProbe", Any),
    ("resizePolicy", Any),
    ("resources", Any),
    ("restartPolicy", Any),
    ("restartPolicyRules", Any),
    ("securityContext", Any),
    ("startupProbe", Any),
    ("stdin", Any),
    ("stdinOnce", Any),
    ("terminationMessagePath", Any),
    ("terminationMessagePolicy", Any),
    ("tty", Any),
    ("volumeDevices", Any),
    ("volumeMounts", Any),
    ("workingDir", Any),
]);

/// `v1/Pod`.
pub(crate) static POD: Shape = Map(&[
    ("apiVersion", Any),
    ("kind", Any),
    ("metadata", META),
    (
        "spec",
        Map(&[
            ("activeDeadlineSeconds", Any),
            ("affinity", Any),
            ("automountServiceAccountToken", Any),
            ("containers", Each(&CONTAINER)),
            ("dnsConfig", Any),
            ("dnsPolicy", Any),
            ("enableServiceLinks", Any),
            ("ephemeralContainers", Any),
            ("evictionResponders", Any),
            ("hostAliases", Any),
            ("hostIPC", Any),
            ("hostNetwork", Any),
            ("hostPID", Any),
            ("hostUsers", Any),
            ("hostname", Any),
            ("hostnameOverride", Any),
            ("imagePullSecrets", Any),
            ("initContainers", Each(&CONTAINER)),
            ("nodeName", Any),
            ("nodeSelector", Any),
            ("os", Any),
            ("overhead", Any),
            ("preemptionPolicy", Any),
            ("priority", Any),
            ("priorityClassName", Any),
            ("readinessGates", Any),
            ("resourceClaims", Any),
            ("resources", Any),
            ("restartPolicy", Any),
            ("runtimeClassName", Any),
            ("schedulerName", Any),
            ("schedulingGates", Any),
            ("schedulingGroup", Any),
            ("securityContext", Any),
            ("serviceAccount", Any),
            ("serviceAccountName", Any),
            ("setHostnameAsFQDN", Any),
            ("shareProcessNamespace", Any),
            ("subdomain", Any),
            ("terminationGracePeriodSeconds", Any),
            ("tolerations", Any),
            ("topologySpreadConstraints", Any),
            ("volumes", Any),
        ]),
    ),
    (
        "status",
        Map(&[
            ("allocatedResources", Any),
            ("conditions", Any),
            ("containerStatuses", Any),
            ("ephemeralContainerStatuses", Any),
            ("extendedResourceClaimStatus", Any),
            ("hostIP", Any),
            ("hostIPs", Any),
            ("initContainerStatuses", Any),
            ("message", Any),
            ("nodeAllocatableResourceClaimStatuses", Any),
            ("nominatedNodeName", Any),
            ("observedGeneration", Any),
            ("phase", Any),
            ("podIP", Any),
            ("podIPs", Each(&Map(&[("ip", Any)]))),
            ("qosClass", Any),
            ("reason", Any),
            ("resize", Any),
            ("resourceClaimStatuses", Any),
            ("resources", Any),
            ("startTime", Any),
            ("volumeHealth", Any),
        ]),
    ),
]);
