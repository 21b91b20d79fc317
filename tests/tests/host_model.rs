//! The model of the specification against the lines of its tables.

use std::collections::BTreeMap;

use svc_tests::model::examples::examples;
use svc_tests::model::generate::{Step, history};
use svc_tests::model::rules::{Facts, Verdict};

#[test]
fn the_model_says_what_the_tables_say() {
    let all = examples();
    let wrong: Vec<String> = all.iter().filter_map(|example| example.check_model().err()).collect();
    assert!(wrong.is_empty(), "{} of {} examples differ:\n{}", wrong.len(), all.len(), wrong.join("\n"));
}

#[test]
fn random_histories_reach_every_verdict_from_everywhere() {
    let mut reached = BTreeMap::new();
    for seed in 0..60 {
        let history = history(seed);
        let mut cluster = &history.start;
        for step in &history.steps {
            let Step::Ask(question, _) = step else {
                let Step::Change(objects, _) = step else { continue };
                cluster = objects;
                continue;
            };
            let facts = Facts { cluster, flags: &history.flags };
            let verdict = match facts.verdict(&question.packet) {
                Verdict::Untouched => "untouched",
                Verdict::Reject => "reject",
                Verdict::Drop => "drop",
                Verdict::Forward(choice) if choice.endpoints.len() == 1 => "forward to one",
                Verdict::Forward(_) => "forward",
            };
            let protocol = question.packet.protocol.name();
            *reached.entry((format!("{:?}", facts.sender(&question.packet)), protocol, verdict)).or_insert(0) += 1;
        }
    }
    // Three senders, three protocols, five verdicts.
    assert_eq!(reached.len(), 45, "{reached:#?}");
    assert!(reached.values().all(|count| *count >= 10), "{reached:#?}");
}
