//! The agent's writes in their order, against a packet between any two of them: all short histories of a small world; and
//! that the checker finds an order that is wrong.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use stateright::{Checker as _, Model as _};
use svc_agent::model::{Family, ObjectKey, Protocol};
use svc_agent::plan::{FrontendKind, Planned, PlannedEndpoint, PlannedFrontend, PlannedPort, PortId};
use svc_common::net::{Port, V4};
use svc_common::tables::{Algorithm, Rule};
use svc_common::tuple::{End, Tuple};
use svc_tests::checker::updates::{Encounter, History, Mutation, World};

const TCP: u8 = 6;

fn ip(third: u8, fourth: u8) -> IpAddr {
    IpAddr::from([10, 0, third, fourth])
}

/// A Service at 10.0.96.N:80 with these endpoints.
fn service(number: u8, endpoints: &[u8]) -> (ObjectKey, Planned) {
    let key = ObjectKey::new("default", format!("service-{number}"));
    let cluster: Vec<PlannedEndpoint> = endpoints
        .iter()
        .map(|host| PlannedEndpoint { addr: SocketAddr::new(ip(1, *host), 8080), local: false, weight: 1 })
        .collect();
    let port = PlannedPort {
        id: PortId { service: key.clone(), port: "80".into(), protocol: Protocol::Tcp, family: Family::V4 },
        frontends: vec![PlannedFrontend {
            addr: SocketAddr::new(ip(96, number), 80),
            kind: FrontendKind::ClusterIp,
            rules: [Rule(0); 3],
            guarded: false,
        }],
        serving: cluster.iter().map(|endpoint| endpoint.addr).collect(),
        cluster,
        local: Vec::new(),
        affinity: None,
        algorithm: Algorithm::Random,
        source_ranges: Vec::new(),
    };
    (key, Planned { ports: vec![port], cluster_ips: vec![ip(96, number)], ..Planned::default() })
}

/// Two Services, there or not, with none, one or two of their endpoints; they have none in common.
fn worlds() -> Vec<World> {
    let mut worlds = Vec::new();
    for first in [None, Some(&[][..]), Some(&[1][..]), Some(&[2][..]), Some(&[1, 2][..])] {
        for second in [None, Some(&[3][..])] {
            let first = first.map(|endpoints| service(1, endpoints));
            worlds.push(first.into_iter().chain(second.map(|endpoints| service(2, endpoints))).collect());
        }
    }
    worlds
}

fn packet(service: u8) -> Tuple<V4> {
    let end = |third, fourth, port| End::new(V4::new(Ipv4Addr::new(10, 0, third, fourth)), Port::new(port));
    Tuple { source: end(7, 1, 40_000), destination: end(96, service, 80), protocol: TCP }
}

/// Checks every order of one encounter; its number of states, or the order that goes wrong.
fn check(encounter: Encounter) -> Result<usize, String> {
    let checker = encounter.checker().spawn_bfs().join();
    match checker.discoveries().into_values().next() {
        None => Ok(checker.unique_state_count()),
        Some(path) => Err(format!("{:?}: {:?}", path.clone().into_actions(), path.last_state())),
    }
}

/// All histories of three worlds, with and without a grace period before the second and the third. The number of their
/// states, or the first that goes wrong.
fn check_all(mutation: Option<Mutation>) -> Result<usize, String> {
    let worlds = worlds();
    let mut states = 0;
    for first in &worlds {
        for second in &worlds {
            for third in &worlds {
                for waits in 0..4 {
                    let steps =
                        [(first.clone(), false), (second.clone(), waits & 1 != 0), (third.clone(), waits & 2 != 0)];
                    let history = Arc::new(History::new(&steps, mutation));
                    // The second Service has one endpoint, whatever the die shows.
                    for (service, die) in [(1, 0), (1, 1), (2, 0)] {
                        let encounter = Encounter { history: Arc::clone(&history), packet: packet(service), die };
                        states += check(encounter).map_err(|error| format!("{steps:#?}\n{error}"))?;
                    }
                }
            }
        }
    }
    Ok(states)
}

#[test]
fn a_packet_finds_a_complete_service_whatever_is_written_meanwhile() {
    match check_all(None) {
        Ok(states) => println!("{states} states"),
        Err(order) => panic!("{order}"),
    }
}

#[test]
fn a_wrong_order_is_found() {
    for mutation in [Mutation::FrontendsFirst, Mutation::Backwards, Mutation::NoGrace] {
        assert!(check_all(Some(mutation)).is_err(), "{mutation:?}");
    }
}
