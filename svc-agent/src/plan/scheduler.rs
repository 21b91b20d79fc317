//! How a Service wants its endpoints chosen: the annotations `svc.dev/scheduler` and `svc.dev/weights`.
//!
//! Schedulers have the names that ipvs gave them. Weights are a list `KEY=WEIGHT`, where a key is the address of an
//! endpoint or the name of a node (for all endpoints there); what is not listed has weight 1.

use std::collections::HashMap;
use std::net::IpAddr;

use svc_common::tables::Algorithm;

use crate::model::{Service, text};

/// The largest weight: weights repeat an endpoint in the slot table, so they cost memory.
pub const MAX_WEIGHT: u16 = 100;

/// A way to choose, as its name says: the algorithm, and whether weights count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Method {
    /// The algorithm.
    pub algorithm: Algorithm,
    /// What it does with `svc.dev/weights`.
    pub weights: Weights,
}

/// What a Service's annotations say.
#[derive(Debug, Default)]
pub(super) struct Scheduler {
    pub(super) algorithm: Algorithm,
    by_address: HashMap<IpAddr, u16>,
    by_node: HashMap<String, u16>,
}

/// The names that `svc.dev/scheduler` knows.
const NAMES: &[(&str, Algorithm, Weights)] = &[
    ("random", Algorithm::Random, Weights::Count),
    ("rr", Algorithm::RoundRobin, Weights::Ignored),
    ("wrr", Algorithm::RoundRobin, Weights::Count),
    ("lc", Algorithm::LeastConnections, Weights::Ignored),
    ("wlc", Algorithm::LeastConnections, Weights::Count),
    ("sed", Algorithm::ShortestDelay, Weights::Count),
    ("sh", Algorithm::SourceHash, Weights::Count),
    ("dh", Algorithm::DestinationHash, Weights::Count),
    ("mh", Algorithm::FlowHash, Weights::Count),
    ("maglev", Algorithm::FlowHash, Weights::Count),
];

/// Whether weights count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Weights {
    /// They do.
    #[default]
    Count,
    /// All endpoints are alike.
    Ignored,
}

/// The method of this name, as `svc.dev/scheduler` and the command line spell it.
pub fn method(name: &str) -> Option<Method> {
    let (_, algorithm, weights) = NAMES.iter().find(|(known, ..)| *known == name)?;
    Some(Method { algorithm: *algorithm, weights: *weights })
}

/// The first name of an algorithm.
pub fn name(algorithm: Algorithm) -> &'static str {
    NAMES.iter().find(|(_, known, _)| *known == algorithm).map_or("random", |(name, ..)| name)
}

/// What takes the place of a scheduler that only ipvs has.
pub fn substitute(name: &str) -> Option<&'static str> {
    match name {
        "nq" => Some("sed"),
        "lblc" | "lblcr" => Some("wlc"),
        "twos" => Some("lc"),
        "fo" | "ovf" => Some("random"),
        _ => None,
    }
}

impl Scheduler {
    /// Reads the annotations; what cannot be understood is remarked upon and has no effect.
    pub(super) fn of(service: &Service, default: Method, remarks: &mut Vec<String>) -> Self {
        let annotation =
            |key: &str| service.annotations.iter().find(|(k, _)| **k == *key).map(|(_, value)| value.trim());
        let mut chosen = default;
        if let Some(name) = annotation("scheduler") {
            match method(name) {
                Some(method) => chosen = method,
                None => {
                    let known: Vec<_> = NAMES.iter().map(|(name, ..)| *name).collect();
                    remarks.push(format!(
                        "svc.dev/scheduler \"{name}\" is unknown, the default is used; known are {}",
                        known.join(", ")
                    ));
                }
            }
        }
        let Method { algorithm, weights } = chosen;
        let mut scheduler = Self { algorithm, ..Self::default() };
        if let Some(list) = annotation("weights").filter(|_| weights == Weights::Count) {
            for item in list.split(',').map(str::trim).filter(|item| !item.is_empty()) {
                if scheduler.add_weight(item).is_none() {
                    remarks.push(format!(
                        "svc.dev/weights: \"{item}\" is ignored; write ADDRESS=WEIGHT or NODE=WEIGHT, 1 to {MAX_WEIGHT}"
                    ));
                }
            }
        }
        scheduler
    }

    fn add_weight(&mut self, item: &str) -> Option<()> {
        let (key, weight) = item.split_once('=')?;
        let weight = weight.trim().parse().ok().filter(|weight| (1..=MAX_WEIGHT).contains(weight))?;
        match (text::address(key), key.trim()) {
            (_, "") => return None,
            (Some(addr), _) => self.by_address.insert(addr, weight),
            (None, node) => self.by_node.insert(node.to_owned(), weight),
        };
        Some(())
    }

    /// The weight of an endpoint: its own, else that of its node, else 1.
    pub(super) fn weight(&self, addr: IpAddr, node: Option<&str>) -> u16 {
        let of_node = || node.and_then(|node| self.by_node.get(node));
        self.by_address.get(&addr).or_else(of_node).copied().unwrap_or(1)
    }
}
