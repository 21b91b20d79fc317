//! Everything a person types: `cargo xtask --help`.
//!
//! One module per subcommand; `run` and `tools` are what they share. This crate imports none of the project's other
//! crates, so that it builds in seconds on a machine that cannot build them yet.

mod build_ebpf;
mod cluster;
mod image;
mod launch;
mod lint;
mod machine;
mod run;
mod setup;
mod test;
mod toolchain;
mod tools;
mod upstream;
mod vm;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// What a person types in this project.
#[derive(Parser)]
#[command(bin_name = "cargo xtask", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install what this machine lacks to build and to test; says what it does before it does it
    Setup(setup::Args),
    /// Build the kernel object, target/bpf/svc-ebpf
    BuildEbpf(build_ebpf::Args),
    /// Show two nodes, three web pods and each kind of Service at work
    Demo(launch::Args),
    /// Run every test tier that this machine can run
    Test(test::Args),
    /// Measure each path against its budget, and against what a node could use instead
    Bench(launch::Bench),
    /// The agent as a container image, an OCI archive
    Image(image::Args),
    /// Random objects and packets through the real programs and through the model, as long as asked
    Fuzz(launch::Fuzz),
    /// A cluster of upstream's own programs, and upstream's own tests of services against it
    Upstream(upstream::Args),
    /// What depends on the kernel, on Debian's kernels under QEMU
    Vm(vm::Args),
    /// Everything that can be judged without running the programs
    Lint(lint::Args),
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Setup(args) => setup::run(&args),
        Command::BuildEbpf(args) => build_ebpf::run(&args),
        Command::Demo(args) => launch::demo(&args),
        Command::Test(args) => test::run(&args),
        Command::Bench(args) => launch::bench(&args),
        Command::Image(args) => image::run(&args),
        Command::Fuzz(args) => launch::fuzz(&args),
        Command::Upstream(args) => upstream::run(&args),
        Command::Vm(args) => vm::run(&args),
        Command::Lint(args) => lint::run(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        // One line, also where RUST_BACKTRACE is set: it is the reader's machine that failed, seldom this program.
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
