//! The same history put to `svc-agent explain` and to the model, and the shrinking of a difference.

use std::cell::RefCell;
use std::fmt;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};

use super::generate::{History, Step, history};
use super::object::{Cluster, NODE};
use super::rules::{Detector, Facts, Flags, Via};
use super::session::{Answer, Question, Session};
use super::shrink;

/// A history on which the programs and the specification differ.
#[derive(Debug)]
pub struct Difference {
    /// Seed of the whole history.
    pub seed: u64,
    /// The history, made as small as could be.
    pub history: History,
    /// What differs, with the question and the answer.
    pub what: String,
}

/// Runs histories through the agent's binary.
#[derive(Debug)]
pub struct Differential {
    agent: PathBuf,
    folder: PathBuf,
    /// A process that has answered a history, and its flags: loading the programs takes longer than most histories.
    idle: RefCell<Option<(Flags, Explain)>>,
}

/// The first difference of a history.
#[derive(Debug)]
struct Found {
    step: usize,
    what: String,
}

/// How much one history asked.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asked {
    /// Questions.
    pub questions: u64,
    /// Packets: the trials of all questions.
    pub packets: u64,
}

impl Differential {
    /// With the agent's binary and a folder of its own for manifests.
    pub fn new(agent: &Path) -> Result<Self> {
        // Tests of one process run side by side.
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("svc-differential-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        Ok(Self { agent: agent.to_owned(), folder, idle: RefCell::default() })
    }

    /// Runs the history of a seed; a difference comes back shrunk.
    pub fn run(&self, seed: u64) -> Result<std::result::Result<Asked, Box<Difference>>> {
        let whole = history(seed);
        let found = match self.play_afresh(&whole)? {
            Ok(asked) => return Ok(Ok(asked)),
            Err(found) => found,
        };
        let mut begun = whole.clone();
        begun.steps.truncate(found.step + 1);
        let small = shrink::shrink(begun, |candidate| matches!(self.play_on(candidate), Ok(Err(_))));
        // A process that has answered other candidates may remember them: what is reported stands alone.
        Ok(Err(Box::new(match self.play_afresh(&small)? {
            Err(found) => Difference { seed, history: small, what: found.what },
            Ok(_) => Difference { seed, history: whole, what: found.what },
        })))
    }

    /// Plays one history in a process of its own: `Err` in the inner result is the first difference.
    pub fn play(&self, history: &History) -> Result<std::result::Result<Asked, String>> {
        Ok(self.play_afresh(history)?.map_err(|found| found.what))
    }

    fn play_afresh(&self, history: &History) -> Result<std::result::Result<Asked, Found>> {
        let explain = Explain::start(&self.agent, &self.write(&history.start)?, &history.flags)?;
        self.converse(explain, history)
    }

    /// Plays one history in the process that has played the last one, if the flags are the same.
    fn play_on(&self, history: &History) -> Result<std::result::Result<Asked, Found>> {
        let idle = self.idle.borrow_mut().take();
        let Some((_, mut explain)) = idle.filter(|(flags, _)| *flags == history.flags) else {
            return self.play_afresh(history);
        };
        explain.ask(&json!({"id": "start", "manifests": self.write(&history.start)?}))?;
        self.converse(explain, history)
    }

    fn converse(&self, mut explain: Explain, history: &History) -> Result<std::result::Result<Asked, Found>> {
        let result = self.follow(&mut explain, history);
        if result.is_ok() {
            *self.idle.borrow_mut() = Some((history.flags.clone(), explain));
        }
        result
    }

    fn follow(&self, explain: &mut Explain, history: &History) -> Result<std::result::Result<Asked, Found>> {
        let mut cluster = &history.start;
        let mut session = Session::default();
        let mut asked = Asked::default();
        let mut in_session = false;
        for (number, step) in history.steps.iter().enumerate() {
            let lives_on = matches!(step, Step::Change(_, true) | Step::Ask(_, true));
            if !lives_on || !in_session {
                session = Session::default();
            }
            in_session = lives_on;
            match step {
                Step::Change(objects, _) => {
                    cluster = objects;
                    let mut line = json!({"id": number.to_string(), "manifests": self.write(objects)?});
                    if lives_on {
                        line["session"] = json!("s");
                    }
                    let answer = explain.ask(&line)?;
                    if answer["outcome"] != "applied" {
                        let what = format!("change of objects answered by {answer}");
                        return Ok(Err(Found { step: number, what }));
                    }
                    session.changed(&Facts { cluster, flags: &history.flags });
                }
                Step::Ask(question, _) => {
                    let line = write_question(question, number, lives_on);
                    let value = explain.ask(&line)?;
                    asked.questions += 1;
                    asked.packets += u64::from(question.trials);
                    let facts = Facts { cluster, flags: &history.flags };
                    let checked = read_answer(&value).and_then(|answer| session.check(&facts, question, &answer));
                    if let Err(what) = checked {
                        let what = format!("{what}\n  question {line}\n  answer   {value}");
                        return Ok(Err(Found { step: number, what }));
                    }
                }
            }
        }
        Ok(Ok(asked))
    }

    /// One file, read by the agent before it answers.
    fn write(&self, cluster: &Cluster) -> Result<PathBuf> {
        let text = serde_json::to_string_pretty(&cluster.manifest())?;
        let path = self.folder.join("objects.json");
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }
}

impl Drop for Differential {
    fn drop(&mut self) {
        // What is left behind in the temporary folder harms nobody.
        drop(std::fs::remove_dir_all(&self.folder));
    }
}

/// A dialogue with `svc-agent explain --cases -`.
#[derive(Debug)]
struct Explain {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Explain {
    fn start(agent: &Path, manifests: &Path, flags: &Flags) -> Result<Self> {
        let mut child = Command::new(agent)
            .args(["explain", "--cases", "-", "-o", "json", "--node", NODE, "--service-cidr", "none", "--manifests"])
            .arg(manifests)
            .args(arguments(flags))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start {}", agent.display()))?;
        let input = child.stdin.take().context("no pipe to explain")?;
        let output = BufReader::new(child.stdout.take().context("no pipe from explain")?);
        Ok(Self { child, input, output })
    }

    fn ask(&mut self, line: &Value) -> Result<Value> {
        writeln!(self.input, "{line}").with_context(|| format!("explain ended before {line}"))?;
        self.input.flush()?;
        let mut answer = String::new();
        if self.output.read_line(&mut answer)? == 0 {
            bail!("explain ended without an answer to {line}");
        }
        serde_json::from_str(&answer).with_context(|| format!("answer to {line} is no JSON: {answer}"))
    }
}

impl Drop for Explain {
    fn drop(&mut self) {
        // Only our own child, which may have ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Flags as a person would type them.
pub fn arguments(flags: &Flags) -> Vec<String> {
    let mut arguments = Vec::new();
    let mut flag = |name: &str, value: String| arguments.extend([format!("--{name}"), value]);
    let list = |items: &[String]| items.join(",");
    if !flags.cluster_cidr.is_empty() {
        flag("cluster-cidr", list(&flags.cluster_cidr));
    }
    match &flags.detector {
        Detector::ClusterCidr => {}
        Detector::NodeCidr => flag("detect-local-mode", "NodeCIDR".into()),
        Detector::Bridge(name) => {
            flag("detect-local-mode", "BridgeInterface".into());
            flag("pod-bridge-interface", name.clone());
        }
        Detector::Prefix(prefix) => {
            flag("detect-local-mode", "InterfaceNamePrefix".into());
            flag("pod-interface-name-prefix", prefix.clone());
        }
    }
    if let Some(addresses) = &flags.node_port_addresses {
        flag("nodeport-addresses", list(addresses));
    }
    if !flags.allow_external_ips.is_empty() {
        flag("allow-external-ips", list(&flags.allow_external_ips));
    }
    if !flags.host_addresses.is_empty() {
        flag("host-addresses", flags.host_addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(","));
    }
    if flags.masquerade_all {
        arguments.push("--masquerade-all".into());
    }
    arguments
}

fn write_question(question: &Question, number: usize, session: bool) -> Value {
    let packet = &question.packet;
    let mut line = Map::new();
    line.insert("id".into(), json!(number.to_string()));
    let via = match packet.via {
        Via::Pod => "pod",
        Via::Host => "host",
        Via::Uplink => "uplink",
    };
    line.insert("via".into(), json!(via));
    if let Some(device) = &packet.device {
        line.insert("device".into(), json!(device));
    }
    line.insert("from".into(), json!(packet.from));
    if let Some(port) = question.source_port {
        line.insert("source_port".into(), json!(port));
    }
    line.insert("to".into(), json!(packet.to));
    line.insert("protocol".into(), json!(packet.protocol.name()));
    line.insert("trials".into(), json!(question.trials));
    if session {
        line.insert("session".into(), json!("s"));
    }
    line.into()
}

fn read_answer(value: &Value) -> std::result::Result<Answer, String> {
    if value["reason"].as_str().is_none_or(str::is_empty) {
        return Err("an answer without a reason".into());
    }
    let text = |name: &str| value[name].as_str().map(str::to_owned).ok_or(format!("an answer without {name}"));
    Ok(Answer {
        outcome: text("outcome")?,
        backends: counts(&value["backends"])?,
        sources: counts(&value["sources"])?,
        snat: text("snat")?,
    })
}

fn counts<K: std::str::FromStr + Ord>(
    value: &Value,
) -> std::result::Result<std::collections::BTreeMap<K, u32>, String> {
    let entries = value.as_object().ok_or("counts that are no object")?;
    let read = |(key, count): (&String, &Value)| {
        let count = count.as_u64().and_then(|count| u32::try_from(count).ok());
        key.parse().ok().zip(count).ok_or(format!("{key} is no address with a number"))
    };
    entries.iter().map(read).collect()
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}: {}", self.seed, self.what)?;
        writeln!(f, "flags: {}", arguments(&self.history.flags).join(" "))?;
        writeln!(f, "objects: {}", self.history.start.manifest())?;
        for (number, step) in self.history.steps.iter().enumerate() {
            match step {
                Step::Change(cluster, session) => {
                    writeln!(f, "{number} change (session {session}): {}", cluster.manifest())?;
                }
                Step::Ask(question, session) => writeln!(f, "{}", write_question(question, number, *session))?,
            }
        }
        Ok(())
    }
}
