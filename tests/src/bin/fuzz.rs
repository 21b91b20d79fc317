//! Random histories through `svc-agent explain` and through the model of the specification, for as long as asked.
//!
//! `fuzz AGENT MINUTES SEED`: run by `cargo xtask fuzz`. The first difference ends it, shrunk and printed with its seed.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use svc_tests::model::differential::Differential;

fn main() -> Result<ExitCode> {
    let mut arguments = std::env::args().skip(1);
    let usage = "usage: fuzz AGENT MINUTES SEED";
    let agent = PathBuf::from(arguments.next().context(usage)?);
    let minutes: f64 = arguments.next().context(usage)?.parse().context(usage)?;
    let first: u64 = arguments.next().context(usage)?.parse().context(usage)?;

    let differential = Differential::new(&agent)?;
    let (begun, limit) = (Instant::now(), Duration::from_secs_f64(minutes * 60.0));
    let (mut questions, mut packets, mut seed) = (0, 0, first);
    while begun.elapsed() < limit {
        match differential.run(seed)? {
            Ok(asked) => {
                questions += asked.questions;
                packets += asked.packets;
            }
            Err(difference) => {
                println!("{difference}");
                return Ok(ExitCode::FAILURE);
            }
        }
        seed += 1;
        if (seed - first).is_multiple_of(20) {
            let seconds = begun.elapsed().as_secs();
            println!("{} histories, {questions} questions, {packets} packets, {seconds} s", seed - first);
        }
    }
    println!("no difference: seeds {first} to {}, {questions} questions, {packets} packets", seed - 1);
    Ok(ExitCode::SUCCESS)
}
