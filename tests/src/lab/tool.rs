//! Running the machine's tools (`ip`, `nft`, ...) with one clear line when one fails.

use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};

use super::place::JOIN;

/// Whether this process may build namespaces.
pub fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0)
}

/// Runs to the end and returns what was printed; a failure names the command and its last words.
pub fn output(command: &mut Command) -> Result<String> {
    finish(command, None)
}

/// The same with something on standard input.
pub fn output_with_input(command: &mut Command, input: &str) -> Result<String> {
    finish(command, Some(input))
}

fn finish(command: &mut Command, input: Option<&str>) -> Result<String> {
    let stdin = if input.is_some() { Stdio::piped() } else { Stdio::null() };
    let mut child = command
        .stdin(stdin)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {}", line(command)))?;
    if let (Some(text), Some(mut pipe)) = (input, child.stdin.take()) {
        // A program that ends without reading its input says why by its exit status.
        let _ = pipe.write_all(text.as_bytes());
    }
    let Output { status, stdout, stderr } = child.wait_with_output()?;
    if !status.success() {
        let said = String::from_utf8_lossy(&stderr);
        let printed = String::from_utf8_lossy(&stdout);
        bail!("{} ended with {status}: {} {}", line(command), said.trim(), printed.trim());
    }
    Ok(String::from_utf8_lossy(&stdout).into_owned())
}

/// The command as a person would type it, without the wrapping that takes it to its namespace.
fn line(command: &Command) -> String {
    let words: Vec<String> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    // After the wrapping comes the cgroup, and then what was meant.
    let meant = words.iter().position(|word| word == JOIN).map_or(0, |at| at + 2);
    words[meant..].join(" ")
}

/// A program of this workspace: from the variable if it is set, else beside the running executable.
pub fn sibling(name: &str, variable: &str) -> Result<PathBuf> {
    if let Some(path) = std::env::var_os(variable) {
        return Ok(PathBuf::from(path));
    }
    let own = std::env::current_exe().context("cannot find the running executable")?;
    // Tests live in target/PROFILE/deps, programs in target/PROFILE.
    own.ancestors()
        .skip(1)
        .take(2)
        .map(|dir| dir.join(name))
        .find(|path| path.is_file())
        .with_context(|| format!("{name} is not built: run `cargo build --bin {name}`, or set {variable} to its path"))
}
