//! Waiting for something to become true, with a deadline; never a fixed pause.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How often a condition is looked at.
const STEP: Duration = Duration::from_millis(10);

/// How long to wait on this machine for what usually takes no longer than `usual`: an emulated one says in
/// `SVC_LAB_PATIENCE` how many times as slow it is.
pub fn patience(usual: Duration) -> Duration {
    let times = std::env::var("SVC_LAB_PATIENCE").ok().and_then(|times| times.parse().ok()).unwrap_or(1);
    usual * times
}

/// Asks until the answer is `Ok`, and returns how long that took. An answer that comes past the deadline is a failure,
/// also the first `Ok`.
pub fn until(what: &str, deadline: Duration, mut holds: impl FnMut() -> Result<()>) -> Result<Duration> {
    let (began, deadline) = (Instant::now(), patience(deadline));
    loop {
        match holds() {
            Ok(()) if began.elapsed() > deadline => {
                let (took, most) = (began.elapsed().as_secs_f32(), deadline.as_secs_f32());
                bail!("{what}: only after {took:.1} s, not within {most:.1} s");
            }
            Ok(()) => return Ok(began.elapsed()),
            Err(error) if began.elapsed() > deadline => {
                bail!("{what}: not within {:.1} s: {error:#}", deadline.as_secs_f32());
            }
            Err(_) => std::thread::sleep(STEP),
        }
    }
}
