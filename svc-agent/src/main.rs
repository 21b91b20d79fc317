//! The agent of one node: `svc-agent --help`.

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    svc_agent::cli::execute(svc_agent::cli::Cli::parse_from(svc_agent::cli::command_line()))
}
