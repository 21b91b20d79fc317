//! The programs, asked through `svc-agent explain`, against the model of the specification.

use std::path::PathBuf;

use anyhow::Result;
use svc_tests::model::differential::Differential;
use svc_tests::model::examples::{Example, examples};
use svc_tests::model::generate::{History, Step};
use svc_tests::model::object::Cluster;
use svc_tests::model::session::Question;

/// Histories of the fixed budget: seconds here, hours with `cargo xtask fuzz`.
const SEEDS: u64 = 8;

/// The agent's binary, or `None` with a line that says why the test is skipped.
fn agent() -> Result<Option<PathBuf>> {
    if std::fs::metadata("/proc/self").map(|own| std::os::unix::fs::MetadataExt::uid(&own) != 0)? {
        eprintln!("skipped: running programs in the kernel needs root");
        return Ok(None);
    }
    svc_tests::lab::tool::sibling("svc-agent", "SVC_AGENT").map(Some)
}

#[test]
fn every_line_of_the_tables_holds_in_the_kernel() -> Result<()> {
    let Some(agent) = agent()? else { return Ok(()) };
    let differential = Differential::new(&agent)?;
    let all = examples();
    let mut wrong = Vec::new();
    // Loading the programs takes longer than a hundred questions: examples with the same flags share a process.
    let mut rest: Vec<&Example> = all.iter().collect();
    while let Some(first) = rest.first().copied() {
        let (group, others): (Vec<_>, Vec<_>) = rest.into_iter().partition(|example| example.flags == first.flags);
        rest = others;
        let history = |examples: &[&Example]| History {
            flags: first.flags.clone(),
            start: Cluster::default(),
            steps: examples.iter().flat_map(|example| steps(example)).collect(),
        };
        if differential.play(&history(&group))?.is_err() {
            for example in group {
                if let Err(what) = differential.play(&history(&[example]))? {
                    wrong.push(format!("{}: {what}", example.name));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {} examples differ:\n{}", wrong.len(), all.len(), wrong.join("\n"));
    Ok(())
}

fn steps(example: &Example) -> [Step; 2] {
    let question = Question { packet: example.packet.clone(), source_port: None, trials: 128 };
    [Step::Change(example.cluster.clone(), false), Step::Ask(question, false)]
}

#[test]
fn random_histories_agree_with_the_model() -> Result<()> {
    let Some(agent) = agent()? else { return Ok(()) };
    let differential = Differential::new(&agent)?;
    for seed in 0..SEEDS {
        if let Err(difference) = differential.run(seed)? {
            panic!("{difference}");
        }
    }
    Ok(())
}
