//! The ages of endpoints, and the weights that follow from them.

use super::*;
use crate::plan::slow_start::Ages;

/// A Service with this annotation, planned and weighed at some second with endpoints of these numbers.
struct Clocked {
    object: Service,
    ages: Ages,
}

impl Clocked {
    fn new(slow_start: &str) -> Self {
        let annotations = vec![("slow-start".into(), slow_start.into()), ("weights".into(), "b=3".into())];
        Self { object: Service { annotations, ..web() }, ages: Ages::default() }
    }

    /// Weights in the order of the addresses, and the second at which they change next.
    fn at(&mut self, second: u64, numbers: &[u8]) -> (Vec<u16>, Option<u64>) {
        let node = |number: u8| if number < 9 { HERE } else { "b" };
        let endpoints = |family| numbers.iter().map(|n| endpoint(pod(family, *n), node(*n))).collect();
        let mut planned = plan(&self.object, &dual(endpoints));
        self.ages.lower(&self.object.key, Some(&mut planned), Duration::from_secs(second));
        let weights = port_v4(&planned).cluster.iter().map(|endpoint| endpoint.weight).collect();
        (weights, self.ages.next().map(|at| at.as_secs()))
    }
}

#[test]
fn the_weight_of_a_new_endpoint_grows() {
    let mut service = Clocked::new("10");
    assert_eq!(service.at(100, &[1, 2]), (vec![1, 1], None), "of a Service that appears nobody is ahead");
    assert_eq!(service.at(200, &[1, 2, 3]), (vec![5, 5, 1], Some(202)));
    assert_eq!(service.at(201, &[1, 2, 3]), (vec![5, 5, 1], Some(202)), "another change does not make it new again");
    assert_eq!(service.at(202, &[1, 2, 3]), (vec![5, 5, 2], Some(204)));
    assert_eq!(service.at(207, &[1, 2, 3]), (vec![5, 5, 4], Some(208)));
    assert_eq!(service.at(208, &[1, 2, 3]), (vec![5, 5, 5], Some(210)));
    assert_eq!(service.at(210, &[1, 2, 3]), (vec![1, 1, 1], None));
}

#[test]
fn weights_are_what_grows() {
    let mut service = Clocked::new("10s");
    service.at(0, &[1]);
    // One of weight 3, on the other node.
    assert_eq!(service.at(4, &[1, 9]).0, [5, 3]);
    assert_eq!(service.at(9, &[1, 9]).0, [5, 9]);
    assert_eq!(service.at(14, &[1, 9]).0, [1, 3]);
}

#[test]
fn who_comes_back_is_new_and_who_comes_later_is_younger() {
    let mut service = Clocked::new("10");
    service.at(0, &[1, 2]);
    assert_eq!(service.at(100, &[1]).0, [1]);
    assert_eq!(service.at(101, &[1, 2]), (vec![5, 1], Some(103)));
    assert_eq!(service.at(104, &[1, 2, 3]), (vec![5, 2, 1], Some(105)));
}

#[test]
fn services_are_due_one_by_one_and_forgotten_with_their_annotation() {
    let mut service = Clocked::new("10");
    service.at(0, &[1]);
    service.at(50, &[1, 2]);
    let due = |ages: &Ages, second| ages.due(Duration::from_secs(second)).count();
    assert_eq!((due(&service.ages, 51), due(&service.ages, 52)), (0, 1));
    service.object.annotations.clear();
    assert_eq!(service.at(53, &[1, 2]), (vec![1, 1], None));
    service.object.annotations = vec![("slow-start".into(), "10".into())];
    assert_eq!(service.at(54, &[1, 2]).0, [1, 1], "it begins with those that are there");
    service.at(55, &[1, 2, 3]);
    service.ages.lower(&service.object.key, None, Duration::from_secs(56));
    assert_eq!(service.ages.next(), None, "the Service is gone");
}

#[test]
fn what_is_no_number_of_seconds_is_named() {
    for text in ["fast", "-1", "3601", "1.5", ""] {
        let mut service = Clocked::new(text);
        let planned = plan(&service.object, &[]);
        let wanted = format!("svc.dev/slow-start: \"{text}\" is ignored; write seconds, 0 to 3600");
        assert_eq!((planned.slow_start, planned.remarks), (None, vec![wanted]));
        service.at(0, &[1]);
        assert_eq!(service.at(1, &[1, 2]).0, [1, 1]);
    }
    assert_eq!(plan(&Clocked::new("0").object, &[]).slow_start, None);
    assert_eq!(plan(&Clocked::new(" 30 s ").object, &[]).slow_start, Some(Duration::from_secs(30)));
}
