//! `svc-agent cleanup`.

use std::fs;
use std::io;

use super::{CleanupArgs, out};
use crate::datapath::cleanup::cleanup;
use crate::run::state_file;

/// Takes the datapath away and says what it was.
pub(super) fn run(args: &CleanupArgs) -> anyhow::Result<()> {
    let done = cleanup(&args.bpffs)?;
    match fs::remove_file(state_file(&args.bpffs)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    done.iter().try_for_each(|line| out::line(format_args!("removed {line}")))?;
    if done.is_empty() {
        out::line(format_args!("there was nothing in {}", args.bpffs.display()))?;
    }
    Ok(())
}
