//! `svc-agent explain`: what happens to a packet, and why, asked of the real programs.
//!
//! The programs run on a private copy of the tables (or on tables filled from manifests) through BPF_PROG_TEST_RUN;
//! nothing is attached, nothing is pinned, and any number of these can run at once.
//!
//! | file | owns |
//! |---|---|
//! | `question`, `answer` | the lines that scripts and tests read and write: a stable interface |
//! | `dialog` | one question after another, sessions |
//! | `machine` | the private datapath: programs, tables, objects and their changes |
//! | `packet` | building and reading packets |
//! | `walk` | a packet's way through the programs |
//! | `reason` | sentences |
//! | `human` | the same, step by step, for a person |

mod answer;
mod dialog;
mod human;
mod machine;
mod packet;
mod question;
mod reason;
mod walk;

use std::fs::File;
use std::io::{self, BufRead, BufReader};

use anyhow::Context as _;

use super::{ExplainArgs, Output, out};
use dialog::Dialog;
use machine::Machine;

/// Runs the command.
pub fn run(args: &ExplainArgs) -> anyhow::Result<()> {
    let mut dialog = Dialog::new(Machine::new(args)?, args.flags.service_node_port_range);
    match (args.cases.as_deref(), args.packet.as_slice()) {
        (Some("-"), _) => cases(&mut dialog, io::stdin().lock(), args.output),
        (Some(path), _) => {
            let file = File::open(path).with_context(|| format!("cannot read {path}"))?;
            cases(&mut dialog, BufReader::new(file), args.output)
        }
        (None, [from, to]) => one(&mut dialog, from, to, args.output),
        (None, _) => anyhow::bail!("explain needs FROM and TO, or --cases -"),
    }
}

/// Answers line by line: each answer is written and flushed before the next line is read.
fn cases(dialog: &mut Dialog, mut input: impl BufRead, output: Output) -> anyhow::Result<()> {
    let mut line = Vec::new();
    while input.read_until(b'\n', &mut line).context("cannot read the questions")? > 0 {
        let answer = dialog.answer(question::parse(String::from_utf8_lossy(&line).trim()));
        match output {
            Output::Json => out::line(serde_json::to_string(&answer)?)?,
            Output::Text => out::line(answer.in_words())?,
        }
        line.clear();
    }
    Ok(())
}

fn one(dialog: &mut Dialog, from: &str, to: &str, output: Output) -> anyhow::Result<()> {
    let packet = human::packet(dialog.machine(), from, to)?;
    match output {
        Output::Text => out::line(human::explain(dialog.machine(), &packet)?),
        Output::Json => out::line(serde_json::to_string(&dialog.ask(&packet.into())?)?),
    }
}
