//! What was given out, kept for a restart. Names alone decide nearly always, so losing the file is no harm to most.

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::super::allocate::Given;

#[derive(Serialize, Deserialize)]
struct State {
    services: BTreeMap<String, Given>,
}

/// Reads what an earlier run kept; a file that cannot be read is the same as none.
pub(super) fn recall(path: &Path) -> BTreeMap<String, Given> {
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return BTreeMap::new(),
        Err(error) => {
            tracing::warn!("{}: addresses given out earlier cannot be read: {error}", path.display());
            return BTreeMap::new();
        }
    };
    serde_json::from_slice::<State>(&text).map(|state| state.services).unwrap_or_else(|error| {
        tracing::warn!("{}: addresses given out earlier cannot be read: {error}", path.display());
        BTreeMap::new()
    })
}

/// Replaces the file, so that a crash leaves the old one or the new one.
pub(super) fn keep(path: &Path, given: &BTreeMap<String, Given>) -> io::Result<()> {
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)?;
    }
    let new = path.with_extension("new");
    let mut file = std::fs::File::create(&new)?;
    serde_json::to_writer(&mut file, &State { services: given.clone() })?;
    file.flush()?;
    file.sync_all()?;
    std::fs::rename(&new, path)
}
