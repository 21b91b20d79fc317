//! What the verifier has to walk to accept each program, against `xtask/budget.json`. Needs root.
//!
//! The other column of that table, bytecode, is asserted by `cargo xtask lint`, which also has both written anew.

use std::{env, fs};

use anyhow::{Context as _, Result};
use serde_json::{Map, Value};
use svc_agent::datapath::{Globals, Hook, Programs, Sizes};

const BUDGET: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../xtask/budget.json");
/// Room in a new budget, in percent: verifiers of other kernels prune a little differently.
const ROOM: u64 = 20;

#[test]
fn the_verifier_s_work_is_within_the_budget() -> Result<()> {
    let sizes = Sizes { services: 100, endpoints: 1000, flows: 1000 };
    let globals = Globals { hold_fragments: true, ..Globals::TRIAL };
    let (programs, _maps) = Programs::load_private(sizes, &globals, &Hook::ALL)?;
    let mut budget: Map<String, Value> = serde_json::from_str(&fs::read_to_string(BUDGET)?)?;
    let mut over = Vec::new();
    for hook in Hook::ALL {
        let now = programs.verified(hook)?.context("this kernel (older than 5.16) does not count")?;
        let row = budget.get_mut(hook.name()).with_context(|| format!("{BUDGET} has no row {}", hook.name()))?;
        if env::var_os("SVC_WRITE_BUDGET").is_some() {
            row["verified"] = (now + now * ROOM / 100).next_multiple_of(100).into();
        } else if row["verified"].as_u64().is_none_or(|most| now > most) {
            over.push(format!("{}: {now} instructions verified, budget {}", hook.name(), row["verified"]));
        }
    }
    if env::var_os("SVC_WRITE_BUDGET").is_some() {
        fs::write(BUDGET, format!("{:#}\n", Value::Object(budget)))?;
    }
    assert!(over.is_empty(), "{}", over.join("\n"));
    Ok(())
}
