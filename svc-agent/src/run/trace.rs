//! `--trace`: the programs' lines into the log.

use anyhow::Context as _;

use crate::datapath::trace::{Lines, Trace};

/// Writes lines as they come, until the agent ends.
pub(super) fn follow(trace: Trace) -> anyhow::Result<()> {
    let mut lines = Lines::follow(trace).context("cannot wait for lines of the programs")?;
    tokio::spawn(async move {
        loop {
            match lines.next().await {
                Ok(lines) => lines.iter().for_each(|line| tracing::info!("{line}")),
                Err(error) => {
                    tracing::error!("lines of the programs cannot be read any more, restart the agent: {error}");
                    return;
                }
            }
        }
    });
    Ok(())
}
