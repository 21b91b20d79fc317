//! What the datapath learns besides the Services.

use super::*;
use crate::model::{Event, Object, ServiceCidr, World};
use crate::plan::settings::Detect;

fn cidrs(name: &str, cidrs: &[&str]) -> Event {
    let cidrs = cidrs.iter().map(|cidr| net(cidr)).collect();
    Event::Applied(Object::ServiceCidr(ServiceCidr { name: name.into(), cidrs }))
}

fn made(events: Vec<Event>, options: &Options) -> Settings {
    let mut world = World::default();
    world.fold(Event::Applied(Object::Node(Node {
        pod_cidrs: vec![net("10.1.7.0/24"), net("fd00:1:7::/64")],
        ..node_object()
    })));
    for event in events {
        world.fold(event);
    }
    let view = NodeView::new(HERE, world.node(), &[ip("10.9.0.1"), ip("127.0.0.1")], options);
    settings(&world, &view, options)
}

fn text<T: ToString>(list: &[T]) -> Vec<String> {
    list.iter().map(ToString::to_string).collect()
}

#[test]
fn service_cidrs_come_from_objects_only_and_are_merged() {
    assert_eq!(made(Vec::new(), &options()).service_cidrs, [Vec::new(), Vec::new()]);
    let events = vec![
        cidrs("default", &["10.96.0.0/12", "fd00:96::/112"]),
        cidrs("more", &["10.112.0.0/12", "10.96.3.0/24", "192.168.0.0/24"]),
    ];
    let [v4, v6] = made(events, &options()).service_cidrs;
    assert_eq!(text(&v4), ["10.96.0.0/11", "192.168.0.0/24"]);
    assert_eq!(text(&v6), ["fd00:96::/112"]);
}

#[test]
fn service_cidrs_beyond_the_table_are_named() {
    let many: Vec<_> = (0..10).map(|n| cidrs(&format!("c{n}"), &[&format!("10.{}.0.0/16", 2 * n)])).collect();
    let settings = made(many, &options());
    assert_eq!(settings.service_cidrs[0].len(), 8);
    assert_eq!(settings.remarks.len(), 2);
    assert!(settings.remarks[0].starts_with("ServiceCIDR 10.16.0.0/16: "), "{:?}", settings.remarks);
}

#[test]
fn pods_are_recognised_by_what_the_mode_says() {
    let with = |detector| {
        let settings = made(Vec::new(), &Options { detector, ..options() });
        (settings.detect, text(&settings.pod_prefixes))
    };
    let nothing = Vec::<String>::new();
    assert_eq!(with(Detector::default()), (Detect::Nobody, nothing.clone()));
    assert_eq!(with(Detector::ClusterCidr(vec![net("10.1.0.0/16")])), (Detect::Prefix, vec!["10.1.0.0/16".to_owned()]));
    let of_node = ["10.1.7.0/24", "fd00:1:7::/64"].map(str::to_owned).to_vec();
    assert_eq!(with(Detector::NodeCidr), (Detect::Prefix, of_node));
    assert_eq!(with(Detector::BridgeInterface("br0".to_owned())), (Detect::Device, nothing.clone()));
    assert_eq!(with(Detector::InterfaceNamePrefix("cali".to_owned())), (Detect::Device, nothing));
}

#[test]
fn addresses_are_those_of_the_node_without_loopback() {
    let settings = made(Vec::new(), &options());
    assert_eq!(settings.primary, Family::ALL.map(|family| Some(node_ip(family))));
    assert_eq!(text(&settings.addresses), ["10.9.0.1", "192.0.2.1", "2001:db8::1"]);
}
