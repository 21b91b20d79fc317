//! `svc-agent doctor`: what this kernel offers, what falls back to what, and what on this node stands in the way.
//!
//! It looks and changes nothing. Exit status 1 if something has to be put right before the agent can serve.

mod devices;
mod host;
mod kernel;
pub(super) mod netfilter;

use std::process::ExitCode;

use super::{DoctorArgs, show};

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    /// As it should be.
    Good,
    /// Works, in a way worth knowing.
    Note,
    /// Some traffic will not be served as it should.
    Warning,
    /// The agent cannot serve.
    Bad,
}

impl Level {
    fn word(self) -> &'static str {
        match self {
            Self::Good => "ok",
            Self::Note => "note",
            Self::Warning => "WARNING",
            Self::Bad => "FAIL",
        }
    }
}

/// One line of the report.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Finding {
    level: Level,
    subject: String,
    text: String,
}

/// The report.
#[derive(Debug, Default)]
struct Report(Vec<Finding>);

impl Report {
    fn add(&mut self, level: Level, subject: impl Into<String>, text: impl Into<String>) {
        self.0.push(Finding { level, subject: subject.into(), text: text.into() });
    }

    fn good(&mut self, subject: impl Into<String>, text: impl Into<String>) {
        self.add(Level::Good, subject, text);
    }

    fn note(&mut self, subject: impl Into<String>, text: impl Into<String>) {
        self.add(Level::Note, subject, text);
    }

    fn warn(&mut self, subject: impl Into<String>, text: impl Into<String>) {
        self.add(Level::Warning, subject, text);
    }

    fn bad(&mut self, subject: impl Into<String>, text: impl Into<String>) {
        self.add(Level::Bad, subject, text);
    }
}

/// Looks at everything and reports.
pub(super) fn run(args: &DoctorArgs) -> anyhow::Result<ExitCode> {
    let flags = &args.flags;
    let mut report = Report::default();
    kernel::examine(flags, &mut report);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let served = runtime.block_on(devices::examine(flags, &mut report))?;
    host::examine(flags, &served, &mut report);
    let rows = report.0.iter().map(|f| [f.level.word().to_owned(), f.subject.clone(), f.text.clone()]);
    println!("{}", show::table(["", "WHAT", "FINDING"], rows));
    let failed = report.0.iter().any(|finding| finding.level == Level::Bad);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
