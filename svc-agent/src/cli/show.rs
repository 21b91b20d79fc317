//! How answers look: a table for people, JSON for programs; and names of what the tables hold by id.

use std::collections::BTreeMap;

use serde::Serialize;
use svc_common::net::Protocol;
use svc_common::tables::ServiceRecord;
use tabled::builder::Builder;
use tabled::settings::Style;

use super::{Output, out};
use crate::datapath::Maps;

/// Prints rows: as JSON, or as a table with these headings.
pub(super) fn rows<R: Serialize, const N: usize>(
    output: Output,
    rows: &[R],
    headings: [&str; N],
    none: &str,
    cells: impl Fn(&R) -> [String; N],
) -> anyhow::Result<()> {
    match output {
        Output::Json => out::line(serde_json::to_string_pretty(rows)?),
        Output::Text if rows.is_empty() => out::line(none),
        Output::Text => out::line(table(headings, rows.iter().map(cells))),
    }
}

/// A table without lines.
pub(super) fn table<const N: usize>(headings: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut table = Builder::default();
    table.push_record(headings);
    rows.into_iter().for_each(|row| table.push_record(row));
    table.build().with(Style::blank()).to_string()
}

/// Names of service ids: `namespace/name:port`.
pub(super) fn services(maps: &Maps) -> std::io::Result<BTreeMap<u32, String>> {
    let mut names = BTreeMap::new();
    maps.services.for_each(|id, record| {
        if record.family != 0 {
            names.insert(*id, name(record));
        }
    })?;
    Ok(names)
}

fn name(record: &ServiceRecord) -> String {
    let end = record.name.iter().position(|byte| *byte == 0).unwrap_or(record.name.len());
    String::from_utf8_lossy(&record.name[..end]).trim_end_matches(':').to_owned()
}

/// A protocol by its number.
pub(super) fn protocol(number: u8) -> String {
    Protocol::from_number(number).map_or_else(|| number.to_string(), |protocol| protocol.name().to_owned())
}

/// A number of bytes.
pub(super) fn bytes(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..0x10_0000 => format!("{} KiB", bytes >> 10),
        _ => format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20)),
    }
}
