//! What a person types: the commands, their flags, and the way an error ends.
//!
//! A command reads and shows; only `run` and `cleanup` change anything. Everything that `run` and `explain` share
//! stands in [`flags`].

mod backends;
mod cleanup;
mod connections;
mod doctor;
pub mod explain;
pub mod flags;
pub mod kube_proxy;
pub mod listen;
mod migrate;
mod out;
mod services;
mod show;
mod status;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub use flags::Flags;

use kube_proxy::{Instead, Settings};

use crate::plan::options::Addresses;

/// Kubernetes Services in the kernel, without iptables, nftables, ipvs or conntrack.
#[derive(Debug, Parser)]
#[command(
    name = "svc-agent",
    version,
    about,
    max_term_width = 100,
    propagate_version = true,
    args_override_self = true
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve this node: watch Services and EndpointSlices and keep the datapath filled
    Run(Box<RunArgs>),
    /// Ask the real programs what happens to a packet, and why
    Explain(Box<ExplainArgs>),
    /// Summarise the datapath of this node: programs, tables, devices, counters
    Status(ShowArgs),
    /// List the Services and the addresses at which they answer
    Services(Box<ServicesArgs>),
    /// List the endpoints that are in use, with their connections
    Backends(ShowArgs),
    /// List the connections that are translated
    Connections(ShowArgs),
    /// Say what this kernel offers, what falls back to what, and what on this node stands in the way
    Doctor(Box<DoctorArgs>),
    /// Take the datapath away: programs, tables, pins and reserved ports
    Cleanup(CleanupArgs),
}

/// Arguments of `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Shared with `explain`.
    #[command(flatten)]
    pub flags: Flags,
}

/// Arguments of `explain`.
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// Shared with `run`.
    #[command(flatten)]
    pub flags: Flags,
    /// File or directory of Kubernetes YAML or JSON instead of the tables of a running agent
    #[arg(long, value_name = "PATH")]
    pub manifests: Option<PathBuf>,
    /// With --manifests: further addresses of the node
    #[arg(long, value_name = "LIST", default_value = "", hide_default_value = true)]
    pub host_addresses: Addresses,
    /// Read questions as JSON lines, `-` for standard input, and answer each before reading the next
    #[arg(long, value_name = "FILE")]
    pub cases: Option<String>,
    /// Form of the answers
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
    /// Source address and destination, `10.0.0.2 172.30.0.41:80/tcp`
    #[arg(value_name = "FROM TO", num_args = 2, required_unless_present = "cases", conflicts_with = "cases")]
    pub packet: Vec<String>,
}

/// Arguments of `services`.
#[derive(Debug, Args)]
pub struct ServicesArgs {
    /// Shared with `run`.
    #[command(flatten)]
    pub flags: Flags,
    /// File or directory of Kubernetes YAML or JSON instead of the tables of a running agent
    #[arg(long, value_name = "PATH")]
    pub manifests: Option<PathBuf>,
    /// Form of the answer
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
}

/// Arguments of the commands that read the pinned tables, whether an agent runs or not.
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// Where maps and links are pinned
    #[arg(long, value_name = "DIR", default_value = flags::DEFAULT_BPFFS)]
    pub bpffs: PathBuf,
    /// Form of the answer
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
}

/// Arguments of `doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Shared with `run`.
    #[command(flatten)]
    pub flags: Flags,
    /// Say what would change, Service by Service, if this program took the place of the kube-proxy of this node. Without
    /// flags that concern Services it is compared as if it were started with kube-proxy's own
    #[arg(long)]
    pub migrate: bool,
    /// With --migrate: file or directory of Kubernetes YAML or JSON instead of the API server
    #[arg(long, value_name = "PATH", requires = "migrate")]
    pub manifests: Option<PathBuf>,
}

/// Arguments of `cleanup`.
#[derive(Debug, Args)]
pub struct CleanupArgs {
    /// Where maps and links are pinned
    #[arg(long, value_name = "DIR", default_value = flags::DEFAULT_BPFFS)]
    pub bpffs: PathBuf,
}

/// Form of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// Understands a command line, the name of the program first.
pub fn read(words: &[String]) -> Result<Cli, String> {
    Cli::try_parse_from(words).map_err(|error| error.to_string())
}

/// The command line as kube-proxy takes it: `--cluster_cidr` is `--cluster-cidr`.
pub fn command_line() -> impl Iterator<Item = OsString> {
    std::env::args_os().map(|word| word.to_str().map(|text| dashed(text).into()).unwrap_or(word))
}

/// The name of a flag with dashes, its value as it is.
fn dashed(word: &str) -> String {
    let name = if word.starts_with("--") { word.find('=').unwrap_or(word.len()) } else { 0 };
    word[..name].replace('_', "-") + &word[name..]
}

/// Runs a command. An error is one line on standard error and exit status 2.
pub fn execute(cli: Cli) -> ExitCode {
    match dispatch(cli.command) {
        Ok(status) => status,
        Err(error) => {
            eprintln!("svc-agent: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn dispatch(mut command: Command) -> anyhow::Result<ExitCode> {
    let remarks = command.flags().map(kube_proxy::complete).transpose()?.unwrap_or_default();
    match command {
        Command::Run(args) => return run(&args.flags, &remarks),
        // Who asks something does not want to hear what `run` says when it starts.
        Command::Explain(args) => explain::run(&args),
        Command::Services(args) => services::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Backends(args) => backends::run(&args),
        Command::Connections(args) => connections::run(&args),
        Command::Cleanup(args) => cleanup::run(&args),
        Command::Doctor(args) if args.migrate => migrate::run(&args),
        Command::Doctor(args) => return doctor::run(&args),
    }
    .map(|()| ExitCode::SUCCESS)
}

impl Command {
    /// The flags of `run`, where a command takes them.
    fn flags(&mut self) -> Option<&mut Flags> {
        match self {
            Self::Run(args) => Some(&mut args.flags),
            Self::Explain(args) => Some(&mut args.flags),
            Self::Services(args) => Some(&mut args.flags),
            Self::Doctor(args) => Some(&mut args.flags),
            Self::Status(_) | Self::Backends(_) | Self::Connections(_) | Self::Cleanup(_) => None,
        }
    }
}

fn run(flags: &Flags, remarks: &[String]) -> anyhow::Result<ExitCode> {
    log_to_stderr(&flags.kube_proxy.settings);
    remarks.iter().for_each(|remark| tracing::warn!("{remark}"));
    match &flags.kube_proxy.settings.instead {
        None => crate::run::run(flags)?,
        Some(Instead::Cleanup) => cleanup::run(&CleanupArgs { bpffs: flags.bpffs.clone() })?,
        Some(Instead::Write(path, text)) => Instead::write(path, text)?,
        Some(Instead::Initialise) => crate::run::initialise(flags)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// One line an event; what is worth knowing unless RUST_LOG or -v says otherwise. As JSON if LOG_FORMAT or
/// --logging-format is `json`.
fn log_to_stderr(settings: &Settings) {
    use tracing_subscriber::EnvFilter;
    // The client of the API server calls every end of a watch an error; what is one `source` says itself.
    let default = match settings.verbosity {
        0..=3 => "info,aya=warn,kube_client=off",
        4..=5 => "info,svc_agent=debug,aya=warn,kube_client=off",
        _ => "debug,svc_agent=trace",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let logger = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    if settings.log_json || std::env::var("LOG_FORMAT").is_ok_and(|format| format == "json") {
        logger.json().init();
    } else {
        logger.with_ansi(false).init();
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn explain_takes_every_flag_of_run() {
        let flags = |name| {
            let cli = Cli::command();
            let command = cli.find_subcommand(name).expect("a command");
            command.get_arguments().map(|arg| arg.get_id().to_string()).collect::<Vec<_>>()
        };
        let explain = flags("explain");
        assert!(flags("run").iter().all(|flag| explain.contains(flag)));
    }
}
