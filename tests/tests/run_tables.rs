//! The typed tables on real maps: single writes, batches, walks. Needs CAP_BPF.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use svc_agent::datapath::{Maps, Sizes, probe};
use svc_common::net::{Port, V4};
use svc_common::tables::{Flow, FlowKey, Frontend, FrontendKey, Prefix};

fn maps() -> Maps {
    Maps::private(HashMap::new(), Sizes { services: 100, endpoints: 1000, flows: 10_000 }).expect("needs CAP_BPF")
}

fn flow_key(port: u16) -> FlowKey<V4> {
    FlowKey {
        low: V4::new(Ipv4Addr::new(10, 0, 0, 1)),
        high: V4::new(Ipv4Addr::new(10, 0, 0, 2)),
        low_port: Port::new(port),
        high_port: Port::new(80),
        protocol: 17,
        zero: [0; 3],
    }
}

#[test]
fn a_table_holds_what_was_written() {
    let maps = maps();
    let key = FrontendKey { addr: V4::from_bits(1), port: Port::new(80), protocol: 6, zero: 0 };
    let value = Frontend { service: 7, ..Frontend::default() };
    assert_eq!(maps.frontends_v4.get(&key).expect("get"), None);
    maps.frontends_v4.set(&key, &value).expect("set");
    assert_eq!(maps.frontends_v4.get(&key).expect("get"), Some(value));
    assert!(maps.frontends_v4.remove(&key).expect("remove"));
    assert!(!maps.frontends_v4.remove(&key).expect("remove"));
}

#[test]
fn batches_write_walk_and_delete() {
    let maps = maps();
    let keys: Vec<_> = (1..=9000).map(flow_key).collect();
    let values: Vec<_> = (1..=9000).map(|service| Flow { service, ..Flow::default() }).collect();
    maps.flows_v4.set_all(&keys, &values).expect("set");
    let mut services: Vec<_> = maps.flows_v4.dump().expect("dump").iter().map(|(_, flow)| flow.service).collect();
    services.sort_unstable();
    assert_eq!(services, (1..=9000).collect::<Vec<_>>());
    // A key that is missing in the middle does not keep the rest alive.
    assert!(maps.flows_v4.remove(&keys[100]).expect("remove"));
    maps.flows_v4.remove_all(&keys).expect("remove");
    assert_eq!(maps.flows_v4.dump().expect("dump"), []);
}

#[test]
fn arrays_and_tries_in_batches() {
    let maps = maps();
    let keys: Vec<u32> = (5..6000).collect();
    let values: Vec<u32> = keys.iter().map(|key| key * 2).collect();
    maps.slots.set_all(&keys, &values).expect("set");
    let slots = maps.slots.dump().expect("dump");
    assert_eq!(slots.len(), maps.slots.entries() as usize);
    assert!(slots[5..6000].iter().all(|(key, value)| *value == key * 2));

    let prefixes: Vec<_> =
        (0..100).map(|net| Prefix { len: 24, addr: V4::new(Ipv4Addr::new(10, 0, net, 0)) }).collect();
    maps.pod_prefixes_v4.set_all(&prefixes, &[1; 100]).expect("set");
    assert_eq!(maps.pod_prefixes_v4.dump().expect("dump").len(), 100);
    maps.pod_prefixes_v4.remove_all(&prefixes).expect("remove");
    assert_eq!(maps.pod_prefixes_v4.dump().expect("dump"), []);
}

#[test]
fn per_cpu_values_are_read_for_all_cpus() {
    let maps = maps();
    let cpus = probe::possible_cpus().expect("CPUs");
    let mut seen = 0;
    maps.reasons
        .for_each(100, |index, values| {
            assert_eq!((index, values.len()), (seen, cpus));
            seen += 1;
        })
        .expect("walk");
    assert_eq!(seen, 100);
    maps.service_stats.clear(3).expect("clear");
    assert_eq!(maps.service_stats.get(3).expect("get").len(), cpus);
}
