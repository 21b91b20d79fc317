//! What the datapath has to know about the cluster and this node besides the Services.

use std::net::IpAddr;

use ipnet::IpNet;
use svc_common::tables::SERVICE_CIDRS;

use super::NodeView;
use super::options::{Detector, Options};
use crate::model::{Family, World};

/// Plain values for the settings map, the pod-prefix tries and the node-address maps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Prefixes whose unallocated addresses are dropped, by family: those of the ServiceCIDR objects, merged.
    pub service_cidrs: [Vec<IpNet>; 2],
    /// Primary address of this node, by family.
    pub primary: [Option<IpAddr>; 2],
    /// Addresses of this node without loopback, sorted.
    pub addresses: Vec<IpAddr>,
    /// Prefixes whose addresses are pods, merged.
    pub pod_prefixes: Vec<IpNet>,
    /// How pods are recognised.
    pub detect: Detect,
    /// What could not be followed, one line each.
    pub remarks: Vec<String>,
}

/// How the datapath recognises a pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Detect {
    /// Not at all.
    #[default]
    Nobody,
    /// By [`Settings::pod_prefixes`].
    Prefix,
    /// By the device on which it arrives, see [`Detector::accepts_device`].
    Device,
}

/// The settings that follow from the Node, the ServiceCIDRs and the flags.
pub fn settings(world: &World, node: &NodeView, options: &Options) -> Settings {
    let mut remarks = Vec::new();
    let cidrs: Vec<_> = world.service_cidrs().flat_map(|cidr| &cidr.cidrs).map(IpNet::trunc).collect();
    let cidrs = IpNet::aggregate(&cidrs);
    let service_cidrs = Family::ALL.map(|family| {
        let mut cidrs: Vec<_> = cidrs.iter().copied().filter(|net| Family::of(net.addr()) == family).collect();
        cidrs.sort_unstable();
        for net in cidrs.drain(cidrs.len().min(SERVICE_CIDRS)..) {
            remarks.push(format!(
                "ServiceCIDR {net}: only {SERVICE_CIDRS} a family count, free addresses of it are not dropped"
            ));
        }
        cidrs
    });
    let mut pod_prefixes = IpNet::aggregate(&options.detector.pod_prefixes(world.node()).to_vec());
    pod_prefixes.sort_unstable();
    let detect = match &options.detector {
        Detector::BridgeInterface(_) | Detector::InterfaceNamePrefix(_) => Detect::Device,
        Detector::ClusterCidr(_) | Detector::NodeCidr if pod_prefixes.is_empty() => Detect::Nobody,
        Detector::ClusterCidr(_) | Detector::NodeCidr => Detect::Prefix,
    };
    Settings { service_cidrs, primary: node.primary, addresses: node.addresses.clone(), pod_prefixes, detect, remarks }
}
