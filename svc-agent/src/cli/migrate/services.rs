//! What a Service gets from kube-proxy, and what it would get here.

use std::collections::BTreeSet;
use std::net::IpAddr;

use svc_common::tables::Algorithm;

use crate::model::{Family, Service};
use crate::plan::options::{NodePortSet, loopback};
use crate::plan::scheduler;

/// What differs between the two on this node.
#[derive(Clone, Debug)]
pub(super) struct Sides {
    /// Where kube-proxy's node ports answer, by family.
    pub(super) old: [NodePortSet; 2],
    /// Where ours would.
    pub(super) new: [NodePortSet; 2],
    /// How kube-proxy chooses endpoints.
    pub(super) old_scheduler: Algorithm,
    /// How we would, for a Service that does not say.
    pub(super) new_scheduler: Algorithm,
}

/// One line a change.
pub(super) fn changes(service: &Service, sides: &Sides) -> Vec<String> {
    let mut changes = Vec::new();
    // Without a cluster IP (headless, ExternalName) neither of the two serves it.
    if service.other_proxy || service.cluster_ips.is_empty() {
        return changes;
    }
    for family in
        Family::ALL.into_iter().filter(|family| service.cluster_ips.iter().any(|ip| Family::of(*ip) == *family))
    {
        let [old, new] = [&sides.old, &sides.new].map(|sets| addresses(family, &sets[family as usize]));
        for (lost_or_new, set) in [
            ("no longer answers at", old.difference(&new).copied().collect::<Vec<_>>()),
            ("also answers at", new.difference(&old).copied().collect()),
        ] {
            if set.is_empty() {
                continue;
            }
            let set: Vec<_> = set.iter().map(ToString::to_string).collect();
            let ports: Vec<_> =
                service.ports.iter().filter_map(|port| port.node_port).map(|port| port.to_string()).collect();
            if !ports.is_empty() {
                changes.push(format!("node port {} {lost_or_new} {}", ports.join(", "), set.join(", ")));
            }
        }
    }
    let own = service.annotations.iter().any(|(key, _)| &**key == "scheduler");
    if !own && sides.old_scheduler != sides.new_scheduler && !service.ports.is_empty() {
        let [old, new] = [sides.old_scheduler, sides.new_scheduler].map(scheduler::name);
        changes.push(format!("endpoints are chosen by {new}, not by {old}; svc.dev/scheduler: {old} keeps it"));
    }
    changes
}

fn addresses(family: Family, set: &NodePortSet) -> BTreeSet<IpAddr> {
    // Nobody dials a node port at a link-local address.
    let linked = |addr: &IpAddr| matches!(addr, IpAddr::V6(addr) if addr.is_unicast_link_local());
    set.addresses.iter().copied().filter(|addr| !linked(addr)).chain(set.loopback.then(|| loopback(family))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Event, Kind, Object, World};
    use crate::source::{ControlPlane, manifest};

    fn service(spec: &str) -> Service {
        let path = std::env::temp_dir().join(format!("svc-migrate-{}-{}.yaml", std::process::id(), spec.len()));
        std::fs::write(&path, format!("apiVersion: v1\nkind: Service\nmetadata: {{name: s}}\nspec: {spec}\n"))
            .expect("written");
        let plane = ControlPlane {
            service_cidrs: None,
            node_ports: ControlPlane::NODE_PORTS,
            node_name: "n".into(),
            state_file: None,
        };
        let loaded = manifest::load(&path, &plane).expect("read");
        std::fs::remove_file(&path).expect("removed");
        let mut world = World::default();
        for object in loaded.objects {
            assert!(matches!(object, Object::Service(_)));
            world.fold(Event::Applied(object));
        }
        world.fold(Event::Synced(Kind::Service));
        let found = world.services().next().cloned();
        found.unwrap_or_else(|| unreachable!("{:?}", loaded.warnings))
    }

    fn sides(old: &[&str], old_loopback: bool, new: &[&str]) -> Sides {
        let set = |addresses: &[&str], loopback| NodePortSet {
            addresses: addresses.iter().map(|addr| addr.parse().expect("an address")).collect(),
            loopback,
            all: false,
        };
        Sides {
            old: [set(old, old_loopback), NodePortSet::default()],
            new: [set(new, true), NodePortSet::default()],
            old_scheduler: Algorithm::Random,
            new_scheduler: Algorithm::Random,
        }
    }

    #[test]
    fn node_ports_move_with_their_addresses() {
        let sides = sides(&["10.0.0.5", "192.0.2.1"], false, &["192.0.2.1"]);
        let node_port = service("{type: NodePort, clusterIP: 10.96.0.1, ports: [{port: 80, nodePort: 30080}]}");
        assert_eq!(
            changes(&node_port, &sides),
            ["node port 30080 no longer answers at 10.0.0.5", "node port 30080 also answers at 127.0.0.1"]
        );
        let inside = service("{clusterIP: 10.96.0.1, ports: [{port: 80}]}");
        assert_eq!(changes(&inside, &sides), [""; 0]);
    }

    #[test]
    fn what_neither_serves_does_not_change() {
        let sides = Sides { old_scheduler: Algorithm::RoundRobin, ..sides(&["10.0.0.5"], true, &[]) };
        let ports = "ports: [{port: 80}]";
        for spec in ["clusterIP: None", "type: ExternalName, externalName: svc.example"] {
            assert_eq!(changes(&service(&format!("{{{spec}, {ports}}}")), &sides), [""; 0], "{spec}");
        }
    }

    #[test]
    fn a_scheduler_is_kept_by_its_annotation() {
        let sides = Sides { old_scheduler: Algorithm::RoundRobin, ..sides(&[], true, &[]) };
        let inside = service("{clusterIP: 10.96.0.1, ports: [{port: 8080}]}");
        assert_eq!(
            changes(&inside, &sides),
            ["endpoints are chosen by random, not by rr; svc.dev/scheduler: rr keeps it"]
        );
    }
}
