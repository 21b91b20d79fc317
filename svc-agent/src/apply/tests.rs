//! Properties of the applier, over random histories of a small world in which nearly everything collides.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use proptest::prelude::*;
use svc_common::tables::{Algorithm, Rule};

use ipnet::IpNet;

use super::memory::{Found, Memory};
use super::*;
use crate::plan::{FrontendKind, PlannedEndpoint, PlannedFrontend, PlannedPort};

type World = BTreeMap<ObjectKey, Planned>;

/// Among several Services the one whose name sorts first owns a frontend.
struct FirstName<'a>(&'a World);

impl Owners for FirstName<'_> {
    fn owns(&self, service: &ObjectKey, addr: SocketAddr, protocol: Protocol) -> bool {
        let wants = |planned: &Planned| {
            planned
                .ports
                .iter()
                .any(|port| port.id.protocol == protocol && port.frontends.iter().any(|frontend| frontend.addr == addr))
        };
        self.0.iter().find(|(_, planned)| wants(planned)).is_some_and(|(key, _)| key == service)
    }

    fn owns_address(&self, service: &ObjectKey, addr: IpAddr) -> bool {
        let wants = |planned: &Planned| planned.cluster_ips.contains(&addr) || planned.foreign.contains(&addr);
        self.0.iter().find(|(_, planned)| wants(planned)).is_some_and(|(key, _)| key == service)
    }
}

fn key(index: u8) -> ObjectKey {
    ObjectKey::new("ns", format!("svc{index}"))
}

fn addr(family: Family, index: u8) -> IpAddr {
    match family {
        Family::V4 => IpAddr::from([10, 96, 0, index]),
        Family::V6 => IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, u16::from(index)]),
    }
}

fn endpoint(family: Family, index: u8, weight: u16) -> PlannedEndpoint {
    let addr = match family {
        Family::V4 => IpAddr::from([10, 1, 0, index]),
        Family::V6 => IpAddr::from([0xfd01, 0, 0, 0, 0, 0, 0, u16::from(index)]),
    };
    PlannedEndpoint { addr: SocketAddr::new(addr, 8080), local: index.is_multiple_of(2), weight }
}

prop_compose! {
    fn port(service: u8)(
        number in 1u8..4,
        family in prop::sample::select(&Family::ALL[..]),
        protocol in prop::sample::select(&[Protocol::Tcp, Protocol::Udp][..]),
        frontends in prop::collection::btree_set((1u8..5, 1u8..4), 0..4),
        endpoints in prop::collection::btree_map(1u8..12, 1u16..3, 0..6),
        affinity in prop::option::of(1u32..3),
        algorithm in prop::sample::select(&[Algorithm::Random, Algorithm::RoundRobin, Algorithm::SourceHash, Algorithm::ShortestDelay][..]),
        guard in prop::collection::btree_set(1u8..5, 0..3),
    ) -> PlannedPort {
        let cluster: Vec<_> = endpoints.iter().map(|(index, weight)| endpoint(family, *index, *weight)).collect();
        let local = cluster.iter().filter(|endpoint| endpoint.local).cloned().collect();
        let source_ranges: Vec<IpNet> = guard.iter().map(|i| IpNet::from(addr(family, *i))).collect();
        PlannedPort {
            id: PortId { service: key(service), port: number.to_string().into(), protocol, family },
            frontends: frontends.into_iter().map(|(host, port)| PlannedFrontend {
                addr: SocketAddr::new(addr(family, host), port.into()),
                kind: FrontendKind::LoadBalancer,
                rules: [Rule(0), Rule(Rule::SNAT), Rule(Rule::LOCAL)],
                guarded: !source_ranges.is_empty(),
            }).collect(),
            serving: cluster.iter().map(|endpoint| endpoint.addr).collect(),
            cluster, local, affinity, algorithm, source_ranges,
        }
    }
}

fn planned(service: u8) -> impl Strategy<Value = Planned> {
    let wildcards = prop::collection::btree_set((1u8..5, any::<bool>(), any::<bool>()), 0..3);
    (prop::collection::vec(port(service), 0..4), wildcards).prop_map(|(mut ports, wildcards)| {
        ports.sort_by(|a, b| a.id.cmp(&b.id));
        ports.dedup_by(|a, b| a.id == b.id);
        // Within one Service a frontend belongs to one port; the plan sees to that.
        let mut seen = BTreeSet::new();
        for port in &mut ports {
            port.frontends.retain(|frontend| seen.insert((frontend.addr, port.id.protocol)));
        }
        let mut planned = Planned { ports, ..Planned::default() };
        for (host, v4, foreign) in wildcards {
            let addr = addr(if v4 { Family::V4 } else { Family::V6 }, host);
            if foreign { planned.foreign.push(addr) } else { planned.cluster_ips.push(addr) }
        }
        planned
    })
}

/// One step of a history: this Service becomes this, or goes.
fn step() -> impl Strategy<Value = (u8, Option<Planned>)> {
    (0u8..4).prop_flat_map(|service| (Just(service), prop::option::weighted(0.8, planned(service))))
}

/// What every packet finds.
fn survey(tables: &Memory) -> Vec<Found> {
    let mut found = Vec::new();
    for family in Family::ALL {
        for (host, port) in (1..5).flat_map(|host| (1..5).map(move |port| (host, port))) {
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                for (sender, from) in (0..3).flat_map(|sender| [1, 9].map(|from| (sender, from))) {
                    let to = SocketAddr::new(addr(family, host), port);
                    found.push(tables.find(to, protocol as u8, sender, addr(family, from)));
                }
            }
        }
    }
    found
}

/// A complete service, old or new; who is admitted to it, which is a table of its own, old or new as well. A frontend
/// that is about to go may admit by the new ranges until then, so that one that comes never admits by the old.
fn is_old_or_new(found: &Found, before: &Found, after: &Found) -> bool {
    let open = |found: &Found| match found.clone() {
        Found::Service { set, rule, affinity, flags, algorithm, .. } => {
            Found::Service { set, rule, affinity, flags, algorithm, admitted: true }
        }
        other => other,
    };
    let admitted = |found: &Found| match found {
        Found::Service { admitted, .. } => Some(*admitted),
        _ => None,
    };
    let set = [before, after].map(open).contains(&open(found));
    let goes = admitted(after).is_none();
    set && (goes || [before, after].map(admitted).contains(&admitted(found)))
}

/// The changes that bring `old` to `new`: the Service itself, and all that share a frontend with it before or after.
fn changes<'a>(old: &'a World, new: &'a World, service: &'a ObjectKey) -> Vec<Change<'a>> {
    let points = |planned: &Planned| -> BTreeSet<_> {
        let frontends = planned
            .ports
            .iter()
            .flat_map(|port| port.frontends.iter().map(|it| (it.addr.ip(), it.addr.port(), Some(port.id.protocol))));
        let addresses = planned.cluster_ips.iter().chain(&planned.foreign).map(|addr| (*addr, 0, None));
        frontends.chain(addresses).collect()
    };
    let mine: BTreeSet<_> = [old, new].iter().flat_map(|world| world.get(service)).flat_map(points).collect();
    let others = new.iter().filter(|(key, planned)| *key == service || !mine.is_disjoint(&points(planned)));
    let mut changes: Vec<_> = others.map(|(service, planned)| Change { service, planned: Some(planned) }).collect();
    if !new.contains_key(service) {
        changes.push(Change { service, planned: None });
    }
    changes
}

fn all(world: &World) -> Vec<Change<'_>> {
    world.iter().map(|(service, planned)| Change { service, planned: Some(planned) }).collect()
}

/// A world, its tables and its applier.
struct Lab {
    world: World,
    tables: Memory,
    applier: Applier,
    now: Duration,
}

impl Lab {
    fn new() -> Self {
        let applier = Applier::new(Capacity::default());
        Self { world: World::new(), tables: Memory::default(), applier, now: Duration::ZERO }
    }

    fn prepare(&mut self, service: u8, planned: Option<Planned>) -> Round {
        self.now += Duration::from_millis(400);
        let old = self.world.clone();
        match planned {
            Some(planned) => self.world.insert(key(service), planned),
            None => self.world.remove(&key(service)),
        };
        let service = key(service);
        self.applier.apply(&changes(&old, &self.world, &service), &FirstName(&self.world), self.now)
    }

    fn step(&mut self, service: u8, planned: Option<Planned>) -> Round {
        let round = self.prepare(service, planned);
        self.tables.carry_out(&round.writes).expect("memory takes all");
        round
    }

    fn from_scratch(world: &World) -> Memory {
        let mut tables = Memory::default();
        let round = Applier::new(Capacity::default()).apply_all(&all(world), &FirstName(world), Duration::ZERO);
        tables.carry_out(&round.writes).expect("memory takes all");
        tables
    }

    fn resync(&mut self) -> Round {
        self.applier = Applier::restore(Capacity::default(), &self.tables.present());
        self.applier.apply_all(&all(&self.world), &FirstName(&self.world), self.now)
    }

    /// Takes everything away and checks that nothing is left.
    fn assert_no_leak(mut self) {
        self.world.clear();
        let round = self.applier.apply_all(&[], &FirstName(&self.world), self.now);
        self.tables.carry_out(&round.writes).expect("memory takes all");
        let later = self.now + GRACE * 3;
        let round = self.applier.apply(&[], &FirstName(&self.world), later);
        self.tables.carry_out(&round.writes).expect("memory takes all");
        assert!(self.tables.is_empty());
        for (table, fill) in self.applier.fill() {
            assert_eq!(fill.used, 0, "{table}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_prefix_is_old_or_new(history in prop::collection::vec(step(), 1..12)) {
        let mut lab = Lab::new();
        for (service, planned) in history {
            let before = survey(&lab.tables);
            let round = lab.prepare(service, planned);
            let mut prefixes = Vec::new();
            let start = lab.tables.clone();
            for write in &round.writes {
                lab.tables.carry_out_one(write);
                prefixes.push(survey(&lab.tables));
            }
            let after = survey(&lab.tables);
            for (count, prefix) in prefixes.iter().enumerate() {
                for (index, found) in prefix.iter().enumerate() {
                    prop_assert!(
                        is_old_or_new(found, &before[index], &after[index]),
                        "after {} of {:#?}\nfound {found:?}\nbefore {:?}\nafter {:?}",
                        count + 1, round.writes, before[index], after[index]
                    );
                }
            }
            // A program that has read a frontend before the round still finds the old set after it.
            for value in start.frontends_v4.values().filter(|value| value.service != 0) {
                for sender in 0..3 {
                    let set = |tables: &Memory| match tables.resolve(value, sender, addr(Family::V4, 1)) {
                        Found::Service { set, .. } => set,
                        _ => BTreeMap::new(),
                    };
                    prop_assert_eq!(set(&start), set(&lab.tables));
                }
            }
        }
        lab.assert_no_leak();
    }

    #[test]
    fn a_history_ends_where_a_fresh_build_does(history in prop::collection::vec(step(), 1..20)) {
        let mut lab = Lab::new();
        for (service, planned) in history {
            lab.step(service, planned);
        }
        prop_assert_eq!(survey(&lab.tables), survey(&Lab::from_scratch(&lab.world)));
    }

    /// The writes of a round may take longer than the grace period.
    #[test]
    fn what_a_round_releases_is_kept_until_its_writes_are_grace_old(planned in planned(0)) {
        let mut lab = Lab::new();
        let slots = |lab: &Lab| lab.applier.fill()[4].1.used;
        lab.step(0, Some(planned));
        let in_use = slots(&lab);
        lab.step(0, None);
        lab.now += GRACE * 2;
        lab.applier.written(lab.now);
        lab.applier.apply(&[], &FirstName(&lab.world), lab.now + GRACE / 2);
        prop_assert_eq!(slots(&lab), in_use, "a packet may have found them half a second ago");
        lab.applier.apply(&[], &FirstName(&lab.world), lab.now + GRACE);
        prop_assert_eq!(slots(&lab), 0);
    }

    #[test]
    fn a_restart_writes_nothing_and_keeps_ids(history in prop::collection::vec(step(), 1..12)) {
        let mut lab = Lab::new();
        for (service, planned) in history {
            lab.step(service, planned);
        }
        // What is in its grace period is freed first: a restart does it too.
        lab.now += GRACE * 2;
        let round = lab.applier.apply(&[], &FirstName(&lab.world), lab.now);
        lab.tables.carry_out(&round.writes).expect("memory takes all");
        let ids: Vec<_> = lab.tables.services.keys().copied().collect();
        let round = lab.resync();
        prop_assert_eq!(round.writes, []);
        prop_assert_eq!(ids, lab.tables.services.keys().copied().collect::<Vec<_>>());
        lab.assert_no_leak();
    }

    #[test]
    fn a_kill_between_two_writes_is_mended(
        history in prop::collection::vec(step(), 1..8),
        cut in any::<prop::sample::Index>(),
        after in step(),
    ) {
        let mut lab = Lab::new();
        let last = history.len() - 1;
        for (index, (service, planned)) in history.into_iter().enumerate() {
            let round = lab.prepare(service, planned);
            let count = if index == last { cut.index(round.writes.len() + 1) } else { round.writes.len() };
            lab.tables.carry_out(&round.writes[..count]).expect("memory takes all");
        }
        let round = lab.resync();
        lab.tables.carry_out(&round.writes).expect("memory takes all");
        prop_assert_eq!(survey(&lab.tables), survey(&Lab::from_scratch(&lab.world)));
        lab.step(after.0, after.1);
        prop_assert_eq!(survey(&lab.tables), survey(&Lab::from_scratch(&lab.world)));
        lab.assert_no_leak();
    }

    #[test]
    fn without_room_a_service_keeps_what_it_had(history in prop::collection::vec(step(), 1..12)) {
        let tight = Capacity { frontends: 4, backends: 6, slots: 40, source_ranges: 3, services: 6 };
        let mut lab = Lab { applier: Applier::new(tight), ..Lab::new() };
        for (service, planned) in history {
            let round = lab.step(service, planned);
            for full in &round.full {
                prop_assert!(lab.applier.unsatisfied().any(|key| *key == full.service), "{full}");
            }
            survey(&lab.tables);
        }
        lab.assert_no_leak();
    }
}

fn simple(endpoints: impl IntoIterator<Item = u8>) -> Planned {
    let cluster: Vec<_> = endpoints.into_iter().map(|index| endpoint(Family::V4, index, 1)).collect();
    let id = PortId { service: key(0), port: "dns".into(), protocol: Protocol::Udp, family: Family::V4 };
    let frontend = PlannedFrontend {
        addr: SocketAddr::new(addr(Family::V4, 1), 53),
        kind: FrontendKind::ClusterIp,
        rules: [Rule(0); 3],
        guarded: false,
    };
    let port = PlannedPort {
        id,
        frontends: vec![frontend],
        serving: cluster.iter().map(|endpoint| endpoint.addr).collect(),
        cluster,
        local: Vec::new(),
        affinity: Some(10),
        algorithm: Algorithm::Random,
        source_ranges: Vec::new(),
    };
    Planned { ports: vec![port], cluster_ips: vec![addr(Family::V4, 1)], ..Planned::default() }
}

#[test]
fn the_cost_follows_the_change() {
    let mut lab = Lab::new();
    // Record, three backends, slots, filter bit, frontend, wildcard.
    assert_eq!(lab.step(0, Some(simple([2, 4, 6]))).writes.len(), 8);
    // One backend, slots, one flip.
    assert_eq!(lab.step(0, Some(simple([2, 4, 6, 8]))).writes.len(), 3);
    // Slots and one flip; the backend is cleared after its grace period.
    assert_eq!(lab.step(0, Some(simple([2, 4, 6]))).writes.len(), 2);
    assert_eq!(lab.step(0, Some(simple([2, 4, 6]))).writes.len(), 0);
    lab.now += GRACE * 2;
    assert_eq!(lab.step(0, Some(simple([2, 4, 6]))).writes.len(), 1);
    // Wildcard, frontend, filter bit, record.
    assert_eq!(lab.step(0, None).writes.len(), 4);
}

#[test]
fn what_a_change_makes_stale_is_named() {
    let mut lab = Lab::new();
    let serving = |round: &Round| round.stale.iter().find_map(|stale| stale.serving.clone()).map(|it| it.len());
    let members = |round: &Round| round.stale.iter().find_map(|stale| stale.members.clone()).map(|it| it.len());
    // A service port that appears may have flows of an earlier life.
    let round = lab.step(0, Some(simple([2, 4, 6])));
    assert_eq!((serving(&round), members(&round)), (Some(3), None));
    let round = lab.step(0, Some(simple([2, 4])));
    assert_eq!((serving(&round), members(&round)), (Some(2), Some(2)));
    let gone = endpoint(Family::V4, 6, 1).addr;
    assert!(round.stale[0].flow_is_stale(gone) && !round.stale[0].flow_is_stale(endpoint(Family::V4, 2, 1).addr));
    assert!(round.stale[0].record_is_stale(3) && !round.stale[0].record_is_stale(1));
    // Without a serving endpoint flows are left alone; affinity records are worthless all the same.
    let round = lab.step(0, Some(simple([])));
    assert_eq!((serving(&round), members(&round)), (None, Some(0)));
    let round = lab.step(0, None);
    assert_eq!((serving(&round), members(&round)), (None, Some(0)));
    assert!(lab.step(0, None).stale.is_empty());
}

#[test]
fn globals_are_written_once() {
    let mut applier = Applier::new(Capacity::default());
    let mut wanted = Globals {
        pod_prefixes: vec!["10.1.0.7/16".parse().expect("prefix"), "fd01::/48".parse().expect("prefix")],
        node_addresses: vec![addr(Family::V4, 9)],
        ..Globals::default()
    };
    wanted.settings.flags = tables::settings::DETECT_PREFIX;
    assert_eq!(applier.apply_globals(&wanted).len(), 4);
    assert!(applier.apply_globals(&wanted).is_empty());
    wanted.pod_prefixes.pop();
    wanted.node_addresses.clear();
    let writes = applier.apply_globals(&wanted);
    assert_eq!(writes.len(), 2);
    assert!(writes.iter().all(Write::is_deletion));
}
