//! How many service ports lack a local endpoint that a traffic policy asks for.

use std::collections::HashMap;

use svc_common::tables::{Rule, Sender};

use crate::model::{Family, ObjectKey};
use crate::plan::{Planned, PlannedPort};

/// Numbers of service ports, by policy (internal, external) and by family in the order of [`Family::ALL`].
pub(super) type Counts = [[i64; 2]; 2];

/// The Services that count, and their sum.
#[derive(Debug, Default)]
pub(super) struct WithoutLocal {
    by_service: HashMap<ObjectKey, Counts>,
    total: Counts,
}

impl WithoutLocal {
    /// Takes over a new plan of a Service; `None`: it is gone.
    pub(super) fn set(&mut self, service: &ObjectKey, planned: Option<&Planned>) {
        let new = planned.map_or_else(Counts::default, counts);
        let old = match new == Counts::default() {
            true => self.by_service.remove(service),
            false => self.by_service.insert(service.clone(), new),
        };
        let old = old.unwrap_or_default();
        for (policy, families) in self.total.iter_mut().enumerate() {
            for (family, total) in families.iter_mut().enumerate() {
                *total += new[policy][family] - old[policy][family];
            }
        }
    }

    pub(super) fn total(&self) -> Counts {
        self.total
    }
}

fn counts(planned: &Planned) -> Counts {
    let mut counts = Counts::default();
    for (policy, families) in counts.iter_mut().enumerate() {
        for family in Family::ALL {
            let lacking = |port: &&PlannedPort| port.id.family == family && lacks_local(port, policy == 1);
            families[family as usize] = planned.ports.iter().filter(lacking).count() as i64;
        }
    }
    counts
}

/// A policy Local has nothing to choose from though there are endpoints elsewhere: then the plan drops. Endpoints that
/// only serve while they terminate are a choice.
fn lacks_local(port: &PlannedPort, external: bool) -> bool {
    let mut frontends = port.frontends.iter().filter(|frontend| frontend.kind.is_external() == external);
    let drops = |rules: &[Rule; 3]| rules[Sender::Other as usize].has(Rule::LOCAL | Rule::DROP);
    port.local.is_empty() && frontends.any(|frontend| drops(&frontend.rules))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Endpoint, ServiceType, SlicePort};
    use crate::model::{EndpointSlice, Event, Object, Protocol, Service, ServicePort, TrafficPolicy, World};
    use crate::plan::{self, NodeView, Options};

    fn planned(external: TrafficPolicy, internal: TrafficPolicy, endpoint: Option<(&str, bool)>) -> Planned {
        let key = ObjectKey::new("ns", "web");
        let service = Service {
            key: key.clone(),
            uid: "".into(),
            created: None,
            kind: ServiceType::NodePort,
            cluster_ips: vec!["10.96.0.9".parse().expect("address"), "fd00::9".parse().expect("address")],
            headless: false,
            other_proxy: false,
            external_ips: Vec::new(),
            ingress: Vec::new(),
            ports: vec![ServicePort { name: "".into(), protocol: Protocol::Tcp, port: 80, node_port: Some(30000) }],
            external_policy: external,
            internal_policy: internal,
            affinity: None,
            source_ranges: Vec::new(),
            health_check_node_port: None,
            annotations: Vec::new(),
        };
        let endpoint = endpoint.map(|(node, ready)| Endpoint {
            addr: "10.1.0.1".parse().expect("address"),
            ready,
            serving: true,
            terminating: !ready,
            node: Some(node.into()),
            hints: None,
        });
        let slice = EndpointSlice {
            key: ObjectKey::new("ns", "web-1"),
            service: key.clone(),
            family: Family::V4,
            ports: vec![SlicePort { name: "".into(), protocol: Protocol::Tcp, port: 80 }],
            endpoints: endpoint.into_iter().collect(),
            triggered: None,
        };
        let mut world = World::default();
        world.fold(Event::Applied(Object::Slice(slice)));
        plan::service(&service, world.slices(&key), &NodeView::new("n1", None, &[], &Options::default()))
    }

    #[test]
    fn ports_count_whose_endpoints_are_all_elsewhere() {
        use TrafficPolicy::{Cluster, Local};
        for (external, internal, endpoint, expected) in [
            (Local, Local, Some(("n2", true)), [[1, 0], [1, 0]]),
            (Local, Cluster, Some(("n2", true)), [[0, 0], [1, 0]]),
            (Cluster, Local, Some(("n2", true)), [[1, 0], [0, 0]]),
            (Cluster, Cluster, Some(("n2", true)), [[0, 0], [0, 0]]),
            (Local, Local, Some(("n1", true)), [[0, 0], [0, 0]]),
            // It serves while it terminates: that is a local endpoint.
            (Local, Local, Some(("n1", false)), [[0, 0], [0, 0]]),
            // No endpoint anywhere is another matter.
            (Local, Local, None, [[0, 0], [0, 0]]),
        ] {
            let planned = planned(external, internal, endpoint);
            assert_eq!(counts(&planned), expected, "{external:?} {internal:?} {endpoint:?}");
        }
    }

    #[test]
    fn the_sum_follows_services_that_come_change_and_go() {
        use TrafficPolicy::{Cluster, Local};
        let mut sum = WithoutLocal::default();
        let [one, two] = ["one", "two"].map(|name| ObjectKey::new("ns", name));
        let elsewhere = Some(("n2", true));
        sum.set(&one, Some(&planned(Local, Local, elsewhere)));
        sum.set(&two, Some(&planned(Local, Cluster, elsewhere)));
        assert_eq!(sum.total(), [[1, 0], [2, 0]]);
        sum.set(&one, Some(&planned(Cluster, Local, elsewhere)));
        assert_eq!(sum.total(), [[1, 0], [1, 0]]);
        sum.set(&two, None);
        sum.set(&one, Some(&planned(Cluster, Cluster, elsewhere)));
        assert_eq!(sum.total(), [[0, 0], [0, 0]]);
        assert!(sum.by_service.is_empty());
    }
}
