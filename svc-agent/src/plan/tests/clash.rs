//! Who owns what several Services claim.

use super::*;
use crate::plan::clash::{Changes, FrontendAddr, address_claims, frontend_claims};

fn key(name: &str) -> ObjectKey {
    ObjectKey::new("default", name)
}

fn claim(port: u16) -> Claim<FrontendAddr> {
    Claim {
        key: FrontendAddr { addr: SocketAddr::new(ip("203.0.113.1"), port), protocol: Protocol::Tcp },
        yields: false,
    }
}

fn node_port(port: u16) -> Claim<FrontendAddr> {
    Claim { yields: true, ..claim(port) }
}

/// "port: before -> after" of every change of owner.
fn moves(changes: &Changes<FrontendAddr>) -> Vec<String> {
    let name = |owner: &Option<ObjectKey>| owner.as_ref().map_or("-".to_owned(), |key| key.name.to_string());
    let owners = changes.owners.iter();
    owners
        .map(|change| format!("{}: {} -> {}", change.key.addr.port(), name(&change.before), name(&change.after)))
        .collect()
}

#[test]
fn the_older_service_wins_whoever_comes_first() {
    let mut index = ClashIndex::default();
    assert_eq!(moves(&index.set(&key("young"), Some(20), [claim(80)])), ["80: - -> young"]);
    let changes = index.set(&key("old"), Some(10), [claim(80)]);
    assert_eq!(moves(&changes), ["80: young -> old"]);
    let remark = "203.0.113.1:80/TCP is served for default/old, not for default/young: the older wins".to_owned();
    assert_eq!(changes.remarks, [(key("young"), remark)]);
}

#[test]
fn a_newcomer_that_loses_is_told_and_nothing_changes_hands() {
    let mut index = ClashIndex::default();
    index.set(&key("old"), Some(10), [claim(80)]);
    let changes = index.set(&key("young"), Some(20), [claim(80), claim(81)]);
    assert_eq!(moves(&changes), ["81: - -> young"]);
    assert_eq!(changes.remarks.len(), 1);
    // Once: setting the same again says nothing.
    assert_eq!(index.set(&key("young"), Some(20), [claim(80), claim(81)]), Changes { owners: vec![], remarks: vec![] });
}

#[test]
fn the_loser_inherits_when_the_winner_goes() {
    let mut index = ClashIndex::default();
    index.set(&key("old"), Some(10), [claim(80), claim(81)]);
    index.set(&key("young"), Some(20), [claim(80)]);
    assert_eq!(moves(&index.set(&key("old"), Some(10), [])), ["80: old -> young", "81: old -> -"]);
    assert_eq!(moves(&index.set(&key("young"), Some(20), [])), ["80: young -> -"]);
}

#[test]
fn names_decide_between_services_of_one_age_and_no_age_sorts_last() {
    let mut index = ClashIndex::default();
    index.set(&key("b"), Some(10), [claim(80)]);
    let changes = index.set(&key("a"), Some(10), [claim(80)]);
    assert_eq!(moves(&changes), ["80: b -> a"]);
    assert!(changes.remarks[0].1.ends_with("of one age, the first by name wins"));
    assert!(moves(&index.set(&key("0"), None, [claim(80)])).is_empty());
    // A recreated Service of the same name is younger.
    assert_eq!(moves(&index.set(&key("a"), Some(30), [claim(80)])), ["80: a -> b"]);
}

#[test]
fn a_node_port_gives_way_to_a_service_address_however_young() {
    let mut index = ClashIndex::default();
    index.set(&key("old"), Some(10), [node_port(30080)]);
    let changes = index.set(&key("young"), Some(20), [claim(30080)]);
    assert_eq!(moves(&changes), ["30080: old -> young"]);
    assert!(changes.remarks[0].1.ends_with("a node port gives way"));
}

#[test]
fn claims_of_a_plan_are_its_frontends_and_its_addresses() {
    let planned = plan(&web(), &everywhere());
    let yielding = frontend_claims(&planned).filter(|claim| claim.yields).count();
    // A family: cluster IP, VIP, external IP; node port at the node's address and on loopback.
    assert_eq!((frontend_claims(&planned).count(), yielding), (10, 4));
    let addresses: Vec<_> = address_claims(&planned).map(|claim| claim.key).collect();
    assert_eq!(addresses, Family::ALL.map(cluster_ip));
    let foreign = plan(&Service { other_proxy: true, ..web() }, &everywhere());
    assert_eq!(address_claims(&foreign).count(), 6);
}
