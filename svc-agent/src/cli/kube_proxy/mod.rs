//! What kube-proxy was told goes on holding: its command-line flags and its configuration file.
//!
//! A flag that kube-proxy and this program share is one of [`Flags`]. The others are taken here: they do what they say
//! where that has a meaning, and else are named in one line; none that kube-proxy knows is an error. `--config FILE`
//! counts as it does there: with a file kube-proxy's own flags are not looked at, except `--hostname-override`,
//! `--master` and those of the log. Flags that are this program's alone always count.
//!
//! | file | owns |
//! |---|---|
//! | `table` | every flag and every field, and what becomes of it |
//! | `file` | reading a KubeProxyConfiguration |
//! | `complete` | from both to [`Flags`] and [`Settings`] |

mod complete;
mod file;
mod table;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;

use clap::builder::Resettable;
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches, value_parser};

#[cfg(doc)]
use super::Flags;
pub use complete::complete;

/// The flags of kube-proxy that are not [`Flags`] of ours, as far as they were given.
#[derive(Clone, Debug, Default)]
pub struct KubeProxy {
    /// `--config`: a KubeProxyConfiguration.
    config: Option<PathBuf>,
    /// Ids of all arguments that stood on the command line.
    given: BTreeSet<String>,
    /// The scheduler as it stood there.
    scheduler: Option<String>,
    /// The flags of `table` that stood there.
    values: BTreeMap<&'static str, String>,
    /// What [`complete`] made of them.
    pub settings: Settings,
}

/// What kube-proxy can be told and this program has no flag of its own for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// `--bind-address`: the primary address of its family, whatever the Node object says.
    pub bind_address: Option<IpAddr>,
    /// `--iptables-localhost-nodeports`.
    pub localhost_node_ports: Option<bool>,
    /// `--bind-address-hard-fail`: a port that cannot be bound ends the program.
    pub bind_hard_fail: bool,
    /// `--oom-score-adj`.
    pub oom_score_adj: Option<i16>,
    /// `-v`: from 4 on what happens is told in detail, from 6 on in every detail.
    pub verbosity: u8,
    /// `--proxy-mode`: which of kube-proxy's own settings counted; empty: the default, iptables.
    pub mode: String,
    /// `--logging-format json`.
    pub log_json: bool,
    /// What is to be done instead of serving.
    pub instead: Option<Instead>,
}

/// What is to be done instead of serving.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Instead {
    /// `--cleanup`.
    Cleanup,
    /// `--init-only`: what needs more privileges than serving does.
    Initialise,
    /// `--write-config-to`: this text to this file.
    Write(PathBuf, String),
}

impl KubeProxy {
    /// Nothing stood on the command line that would change how Services are served.
    pub(super) fn is_silent(&self) -> bool {
        // What is true of this program alone: where its own things lie, and how objects are found.
        const BESIDE: [&str; 6] = ["bpffs", "cgroup", "kubeconfig", "api_server", "node", "source"];
        let of_run =
            |id: &&String| !BESIDE.contains(&id.as_str()) && !["migrate", "manifests", "output"].contains(&id.as_str());
        self.given.iter().filter(of_run).count() == 0
    }
}

impl Args for KubeProxy {
    fn augment_args(command: Command) -> Command {
        let config =
            Arg::new("config").long("config").value_name("FILE").value_parser(value_parser!(PathBuf)).help(
                "A KubeProxyConfiguration; as with kube-proxy its own flags then do not count, see docs/migrate.md",
            );
        table::FLAGS.iter().fold(command.arg(config), |command, flag| {
            let arg = Arg::new(flag.name).long(flag.name).hide(true).action(ArgAction::Set);
            let arg = arg.short(if flag.name == "v" { Resettable::Value('v') } else { Resettable::Reset });
            command.arg(match flag.switch {
                true => arg.num_args(0..=1).require_equals(true).default_missing_value("true"),
                false => arg.num_args(1),
            })
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for KubeProxy {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = |id: &str| matches.value_source(id) == Some(ValueSource::CommandLine);
        let value = |flag: &table::Flag| Some((flag.name, matches.get_one::<String>(flag.name)?.clone()));
        Ok(Self {
            config: matches.get_one("config").cloned(),
            given: matches.ids().map(ToString::to_string).filter(|id| given(id)).collect(),
            values: table::FLAGS.iter().filter_map(value).collect(),
            scheduler: matches
                .get_raw("scheduler")
                .and_then(|mut values| values.next_back()?.to_str().map(str::to_owned))
                .filter(|_| given("scheduler")),
            settings: Settings::default(),
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
