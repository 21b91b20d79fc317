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

/// Asks until the answer is `Ok`, and returns how long that took. The question has to be put within the deadline, also the
/// first: how long its answer takes (a packet that is sent again, a silence that is waited for) is another matter.
pub fn until(what: &str, deadline: Duration, mut holds: impl FnMut() -> Result<()>) -> Result<Duration> {
    let (began, deadline) = (Instant::now(), patience(deadline));
    loop {
        let asked = began.elapsed();
        match holds() {
            Ok(()) if asked > deadline => {
                bail!("{what}: only after {:.1} s, not within {:.1} s", asked.as_secs_f32(), deadline.as_secs_f32());
            }
            Ok(()) => return Ok(began.elapsed()),
            Err(error) if began.elapsed() > deadline => {
                bail!("{what}: not within {:.1} s: {error:#}", deadline.as_secs_f32());
            }
            Err(_) => std::thread::sleep(STEP),
        }
    }
}
