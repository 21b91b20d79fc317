//! What holds for every Service and every set of slices.

use std::collections::{BTreeMap, BTreeSet};

use proptest::collection::vec;
use proptest::prelude::{Just, Strategy, any, prop_oneof};
use proptest::sample::select;
use proptest::{prop_assert, prop_assert_eq, proptest};

use super::*;
use crate::plan::clash::{FrontendAddr, frontend_claims};

fn family() -> impl Strategy<Value = Family> {
    select(&Family::ALL[..])
}

fn names(of: &'static [&'static str]) -> impl Strategy<Value = Vec<&'static str>> {
    vec(select(of), 0..3)
}

fn any_endpoint(family: Family) -> impl Strategy<Value = Endpoint> {
    let hints = prop_oneof![Just(None), (names(&["a", "b"]), names(&["z1", "z2"])).prop_map(Some)];
    let node = select(&[Some("a"), Some("b"), None][..]);
    // Few addresses, so that copies of one endpoint meet.
    (1_u8..4, any::<[bool; 3]>(), node, hints).prop_map(move |(number, [ready, serving, terminating], node, hints)| {
        let endpoint =
            Endpoint { ready, serving, terminating, node: node.map(Into::into), ..endpoint(pod(family, number), "a") };
        match hints {
            Some((nodes, zones)) => hinted(endpoint, &nodes, &zones),
            None => endpoint,
        }
    })
}

fn any_slice() -> impl Strategy<Value = EndpointSlice> {
    let protocol = select(&[Protocol::Tcp, Protocol::Udp][..]);
    let further = (select(&["", "http"][..]), protocol, 8080_u16..8082);
    let further = vec(further.prop_map(|(name, protocol, number)| slice_port(name, protocol, number)), 0..3);
    let endpoints = family().prop_flat_map(|family| (Just(family), vec(any_endpoint(family), 0..6)));
    (endpoints, any::<bool>(), further).prop_map(|((family, endpoints), has_http, mut ports)| {
        if has_http {
            ports.push(slice_port("http", Protocol::Tcp, 8080));
        }
        EndpointSlice { family, ports, ..slice("s", endpoints) }
    })
}

fn any_policy() -> impl Strategy<Value = TrafficPolicy> {
    select(&[TrafficPolicy::Cluster, TrafficPolicy::Local][..])
}

fn any_service() -> impl Strategy<Value = Service> {
    let kind = select(&[ServiceType::ClusterIp, ServiceType::NodePort, ServiceType::LoadBalancer][..]);
    (kind, any_policy(), any_policy(), any::<[bool; 3]>()).prop_map(
        |(kind, internal_policy, external_policy, [external_ips, two_ports, ranges])| {
            let mut service = Service {
                kind,
                internal_policy,
                external_policy,
                health_check_node_port: Some(31000),
                source_ranges: if ranges { vec![net("192.0.2.0/24")] } else { Vec::new() },
                ..web()
            };
            if !external_ips {
                service.external_ips.clear();
            }
            if two_ports {
                service.ports.push(port("", Protocol::Udp, 80));
            }
            service
        },
    )
}

fn any_options() -> impl Strategy<Value = Options> {
    any::<[bool; 2]>().prop_map(|[detector, masquerade_all]| Options {
        detector: if detector { options().detector } else { Detector::default() },
        masquerade_all,
        ..options()
    })
}

/// Deals the endpoints of each slice out anew: reversed and rotated, slices too.
fn shuffled(slices: &[EndpointSlice], turn: usize) -> Vec<EndpointSlice> {
    fn turned<T: Clone>(list: &[T], turn: usize) -> Vec<T> {
        let mut list: Vec<_> = list.iter().rev().cloned().collect();
        let by = if list.is_empty() { 0 } else { turn % list.len() };
        list.rotate_left(by);
        list
    }
    let slice = |slice: EndpointSlice| EndpointSlice {
        endpoints: turned(&slice.endpoints, turn),
        ports: turned(&slice.ports, turn),
        ..slice
    };
    turned(slices, turn).into_iter().map(slice).collect()
}

proptest! {
    #[test]
    fn the_order_of_slices_endpoints_and_ports_never_matters(
        object in any_service(), slices in vec(any_slice(), 0..4), turn in 0_usize..12,
    ) {
        prop_assert_eq!(plan(&object, &slices), plan(&object, &shuffled(&slices, turn)));
    }

    #[test]
    fn cutting_a_slice_in_two_changes_nothing(object in any_service(), whole in any_slice(), at in 0_usize..6) {
        let (left, right) = whole.endpoints.split_at(at.min(whole.endpoints.len()));
        let part = |endpoints: &[Endpoint]| EndpointSlice { endpoints: endpoints.to_vec(), ..whole.clone() };
        let parts = [part(left), part(right)];
        prop_assert_eq!(plan(&object, &parts), plan(&object, &[whole]));
    }

    #[test]
    fn source_translation_follows_frontend_policy_and_sender(
        object in any_service(), slices in vec(any_slice(), 0..4), options in any_options(),
    ) {
        let view = view(&options);
        let planned = service(&object, slices.iter(), &view);
        for port in &planned.ports {
            let detector = view.detector[port.id.family as usize];
            for frontend in &port.frontends {
                let snat = frontend.rules.map(|rule| rule.has(Rule::SNAT));
                let wanted = match (frontend.kind.is_external(), object.external_policy) {
                    (true, TrafficPolicy::Cluster) => [true; 3],
                    (true, TrafficPolicy::Local) => [false, true, false],
                    (false, _) if options.masquerade_all => [true; 3],
                    (false, _) => [false, detector, detector],
                };
                // Nobody is classified as a pod without a detector, so that column has no meaning then.
                prop_assert_eq!(snat[1..].to_vec(), wanted[1..].to_vec());
                prop_assert!(!detector || snat[0] == wanted[0]);
            }
        }
    }

    #[test]
    fn sets_are_sorted_distinct_and_of_endpoints_that_serve(
        object in any_service(), slices in vec(any_slice(), 0..4),
    ) {
        for port in plan(&object, &slices).ports {
            prop_assert!(port.serving.is_sorted_by(|a, b| a < b));
            prop_assert!(port.local.iter().all(|endpoint| endpoint.local));
            for set in [&port.cluster, &port.local] {
                prop_assert!(set.is_sorted_by(|a, b| a.addr < b.addr));
                prop_assert!(set.iter().all(|endpoint| port.serving.contains(&endpoint.addr)));
                prop_assert!(set.iter().all(|endpoint| endpoint.weight >= 1));
                prop_assert!(set.iter().all(|endpoint| Family::of(endpoint.addr.ip()) == port.id.family));
            }
        }
    }

    #[test]
    fn reject_means_nothing_anywhere_and_drop_means_nothing_here(
        object in any_service(), slices in vec(any_slice(), 0..4),
    ) {
        for port in plan(&object, &slices).ports {
            for rule in port.frontends.iter().flat_map(|frontend| frontend.rules) {
                prop_assert!(rule.has(Rule::LOCAL) || !rule.has(Rule::DROP));
                // Whoever may use all endpoints finds one exactly if a Local policy would drop instead of reject.
                let all = port.frontends.iter().flat_map(|frontend| frontend.rules).filter(|rule| !rule.has(Rule::LOCAL));
                if rule.has(Rule::LOCAL) && all.count() > 0 {
                    prop_assert_eq!(rule.has(Rule::DROP), !port.cluster.is_empty());
                }
                if rule.has(Rule::LOCAL) && !rule.has(Rule::DROP) {
                    prop_assert!(port.local.is_empty());
                }
            }
        }
    }

    #[test]
    fn a_plan_has_each_frontend_once(object in any_service(), options in any_options()) {
        let planned = service(&object, std::iter::empty(), &view(&options));
        let keys: Vec<_> = frontend_claims(&planned).map(|claim| claim.key).collect();
        prop_assert_eq!(keys.iter().collect::<BTreeSet<_>>().len(), keys.len());
    }

    #[test]
    fn the_clash_index_names_the_owners_that_a_fresh_look_would_name(
        steps in vec((0_u8..4, prop_oneof![Just(None), (0_i64..3).prop_map(Some)], vec((0_u16..5, any::<bool>()), 0..5)), 1..20),
    ) {
        let mut index = ClashIndex::default();
        let mut state = BTreeMap::new();
        let mut owners = BTreeMap::new();
        for (service, created, claims) in steps {
            let service = ObjectKey::new("ns", format!("s{service}"));
            let claims: Vec<_> = claims.iter().map(|(port, yields)| Claim { key: key(*port), yields: *yields }).collect();
            let changes = index.set(&service, created, claims.clone());
            state.insert(service, (created, claims));

            let fresh = owners_from_scratch(&state);
            let mut wanted = Vec::new();
            for port in 0..5 {
                let (before, after) = (owners.get(&key(port)).cloned(), fresh.get(&key(port)).cloned());
                prop_assert_eq!(index.owner(&key(port)), after.as_ref());
                if before != after {
                    wanted.push(OwnerChange { key: key(port), before, after });
                }
            }
            prop_assert_eq!(changes.owners, wanted);
            owners = fresh;
        }
    }
}

fn key(port: u16) -> FrontendAddr {
    FrontendAddr { addr: SocketAddr::new(ip("192.0.2.1"), port), protocol: Protocol::Tcp }
}

type Claims = (Option<i64>, Vec<Claim<FrontendAddr>>);

/// For each key the least of (yields, age, name) over everything that is claimed.
fn owners_from_scratch(state: &BTreeMap<ObjectKey, Claims>) -> BTreeMap<FrontendAddr, ObjectKey> {
    let mut best = BTreeMap::new();
    for (service, (created, claims)) in state {
        for claim in claims {
            let rank = (claim.yields, created.unwrap_or(i64::MAX), service.clone());
            let entry = best.entry(claim.key).or_insert_with(|| rank.clone());
            *entry = rank.min(entry.clone());
        }
    }
    best.into_iter().map(|(key, (.., service))| (key, service)).collect()
}
