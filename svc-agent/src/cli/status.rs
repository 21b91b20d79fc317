//! `svc-agent status`: the datapath at a glance, whether an agent runs or not.

use std::io;
use std::os::fd::AsFd as _;

use serde::Serialize;
use svc_common::tables::{MAPS, device};
use svc_common::verdict::{Outcome, Reason};

use super::{Output, ShowArgs, out, show};
use crate::datapath::links::Links;
use crate::datapath::{Hook, Maps, bpf, devices, links, maps, pins, probe};

#[derive(Serialize)]
struct Status {
    /// An agent runs; without one the datapath goes on with what it has.
    agent_running: bool,
    devices: Vec<DeviceRow>,
    programs: Vec<Program>,
    tables: Vec<TableRow>,
    reasons: Vec<Count>,
}

#[derive(Serialize)]
struct Program {
    /// Name of the link.
    link: String,
    /// Where it hangs.
    at: String,
    id: u32,
    tag: String,
}

#[derive(Serialize)]
struct DeviceRow {
    name: String,
    index: u32,
    /// How what comes from outside for another node is turned around; absent for devices that are no uplinks.
    fast_path: Option<&'static str>,
}

#[derive(Serialize)]
struct TableRow {
    name: &'static str,
    /// Absent for arrays, which are always full.
    entries: Option<u32>,
    capacity: u32,
    memory: u64,
}

#[derive(Serialize)]
struct Count {
    reason: &'static str,
    outcome: &'static str,
    packets: u64,
    meaning: &'static str,
}

/// Shows the status.
pub(super) fn run(args: &ShowArgs) -> anyhow::Result<()> {
    let maps = Maps::open(&args.bpffs)?;
    let status = Status {
        agent_running: pins::is_held(&args.bpffs),
        devices: device_rows(&maps, args)?,
        programs: programs(args)?,
        tables: tables(&maps)?,
        reasons: reasons(&maps)?,
    };
    match args.output {
        Output::Json => out::line(serde_json::to_string_pretty(&status)?),
        Output::Text => print(&status),
    }
}

fn print(status: &Status) -> anyhow::Result<()> {
    let agent = if status.agent_running { "runs" } else { "does not run; the datapath goes on with what it has" };
    out::line(format_args!("agent {agent}\n"))?;
    let devices = status
        .devices
        .iter()
        .map(|device| [device.name.clone(), device.index.to_string(), device.fast_path.unwrap_or_default().to_owned()]);
    out::line(format_args!("{}\n", show::table(["DEVICE", "INDEX", "FAST PATH"], devices)))?;
    let programs = status
        .programs
        .iter()
        .map(|program| [program.link.clone(), program.at.clone(), program.id.to_string(), program.tag.clone()]);
    out::line(format_args!("{}\n", show::table(["PROGRAM", "AT", "ID", "TAG"], programs)))?;
    let tables = status.tables.iter().map(|table| {
        let entries = table.entries.map_or_else(String::new, |entries| entries.to_string());
        [table.name.to_owned(), entries, table.capacity.to_string(), show::bytes(table.memory)]
    });
    out::line(format_args!("{}\n", show::table(["TABLE", "ENTRIES", "ROOM", "MEMORY"], tables)))?;
    let reasons = status.reasons.iter().map(|count| {
        [count.packets.to_string(), count.outcome.to_owned(), count.reason.to_owned(), count.meaning.to_owned()]
    });
    out::line(show::table(["PACKETS", "OUTCOME", "REASON", "MEANING"], reasons))
}

fn device_rows(maps: &Maps, args: &ShowArgs) -> anyhow::Result<Vec<DeviceRow>> {
    let links = links::list(&links::link_dir(&args.bpffs))?;
    let mut entries = maps.devices.dump()?;
    entries.sort_unstable_by_key(|(index, _)| *index);
    let rows = entries.into_iter().map(|(index, entry)| {
        let link = Links::device_link(Hook::XdpUplink, index);
        let ours = links.iter().any(|(name, info)| *name == link && info.target == index);
        let name = devices::name(index).unwrap_or_else(|| format!("device {index}"));
        DeviceRow { name, index, fast_path: fast_path(entry.flags, ours) }
    });
    Ok(rows.collect())
}

/// `xdp`: an XDP program of ours hangs there.
fn fast_path(flags: u32, xdp: bool) -> Option<&'static str> {
    if flags & device::UPLINK == 0 {
        return None;
    }
    Some(match xdp {
        true if flags & device::XDP != 0 => "XDP in the driver",
        true => "XDP, generic",
        false if flags & device::TURN != 0 => "TC",
        false => "off",
    })
}

fn programs(args: &ShowArgs) -> anyhow::Result<Vec<Program>> {
    let mut programs = Vec::new();
    for (link, info) in links::list(&links::link_dir(&args.bpffs))? {
        // Links of devices end with an interface index, those of a cgroup do not.
        let index = link.rsplit_once('_').and_then(|(_, index)| index.parse::<u32>().ok());
        let at = match (info.target, index) {
            (0, _) => "(gone)".to_owned(),
            (_, Some(index)) => devices::name(index).unwrap_or_else(|| format!("device {index}")),
            (_, None) => "cgroup".to_owned(),
        };
        let tag = match bpf::program_by_id(info.program) {
            Ok(program) => {
                let tag = bpf::program_info(program.as_fd())?.tag;
                tag.iter().map(|byte| format!("{byte:02x}")).collect()
            }
            // Looking programs up by number takes CAP_SYS_ADMIN, which the agent's container does not have.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => "not permitted".to_owned(),
            Err(error) => return Err(error.into()),
        };
        programs.push(Program { link, at, id: info.program, tag });
    }
    Ok(programs)
}

fn tables(maps: &Maps) -> anyhow::Result<Vec<TableRow>> {
    let cpus = probe::possible_cpus()?;
    let used = maps.used()?;
    let rows = maps.capacities().into_iter().filter_map(|(name, capacity)| {
        let shape = MAPS.iter().find(|shape| shape.name == name)?;
        let entries = used.iter().find(|(table, _)| *table == name).map(|(_, used)| *used);
        Some(TableRow { name, entries, capacity, memory: maps::memory(shape, capacity, cpus) })
    });
    Ok(rows.collect())
}

fn reasons(maps: &Maps) -> anyhow::Result<Vec<Count>> {
    let mut counts = Vec::new();
    for reason in Reason::ALL {
        let packets = maps.reasons.get(*reason as u32)?.iter().sum();
        let outcome = match reason.outcome() {
            Outcome::Forward => "forward",
            Outcome::Pass => "pass",
            Outcome::Reject => "reject",
            Outcome::Drop => "drop",
        };
        if packets > 0 {
            counts.push(Count { reason: reason.label(), outcome, packets, meaning: reason.text() });
        }
    }
    Ok(counts)
}
