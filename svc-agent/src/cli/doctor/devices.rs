//! Which devices would be served, how, and who else has programs there.

use std::collections::BTreeMap;
use std::os::fd::AsFd as _;

use super::Report;
use crate::cli::flags::{FastPath, Flags};
use crate::datapath::bpf::{self, AttachType, Target};
use crate::datapath::devices::{Role, Selection, Served, Watch};
use crate::datapath::filters::{self, Direction};
use crate::datapath::{Hook, probe};

pub(super) async fn examine(flags: &Flags, report: &mut Report) -> anyhow::Result<BTreeMap<u32, Served>> {
    let selection =
        Selection::new(&flags.devices, flags.options()?.detector, flags.external_fast_path != FastPath::Off);
    let watch = Watch::start(selection).await?;
    let served = watch.network.borrow().devices.clone();
    if served.is_empty() {
        report.warn("devices", "none would be served; --devices says which");
    }
    let tcx = probe::has_tcx();
    let tc = if tcx { "TCX" } else { "clsact" };
    for (index, device) in &served {
        let mut modes = vec![tc.to_owned()];
        if device.role == Role::Uplink {
            modes.push(xdp(flags, device).to_owned());
        }
        report.note(format!("device {}", device.name), format!("{}: {}", device.role.name(), modes.join(", ")));
        others(*index, device, tcx, report);
    }
    Ok(served)
}

fn xdp(flags: &Flags, device: &Served) -> &'static str {
    match flags.external_fast_path {
        FastPath::Xdp => "from outside by XDP, in the driver if it can, else generic",
        FastPath::Auto if device.hardware => "from outside by XDP in the driver if it can, else by TC",
        FastPath::Auto => "from outside by TC (a virtual device; --external-fast-path xdp uses XDP all the same)",
        FastPath::Tc => "from outside by TC",
        FastPath::Off => "from outside through the stack",
    }
}

/// Programs of others at the same places. Those of TC live side by side; XDP has room for one.
fn others(index: u32, device: &Served, tcx: bool, report: &mut Report) {
    let ours: Vec<&str> = Hook::ALL.iter().map(|hook| hook.name()).collect();
    for (at, direction, place) in
        [(AttachType::TcxIngress, Direction::Ingress, "ingress"), (AttachType::TcxEgress, Direction::Egress, "egress")]
    {
        // Filters run after all programs of TCX.
        let mut names = if tcx { names(index, at) } else { Vec::new() };
        names.extend(
            filters::list(index, direction)
                .unwrap_or_default()
                .into_iter()
                .map(|filter| if filter.name.is_empty() { format!("filter {}", filter.kind) } else { filter.name }),
        );
        let strangers: Vec<_> = names.iter().filter(|name| !ours.contains(&name.as_str())).cloned().collect();
        if !strangers.is_empty() {
            report.note(
                format!("device {}", device.name),
                format!(
                    "other programs at {place}: {}; packets run through {}",
                    strangers.join(", "),
                    names.join(" > ")
                ),
            );
        }
    }
    let strangers: Vec<_> =
        names(index, AttachType::Xdp).into_iter().filter(|name| !ours.contains(&name.as_str())).collect();
    if !strangers.is_empty() && device.role == Role::Uplink {
        report.warn(
            format!("device {}", device.name),
            format!("XDP is taken by {}: what comes from outside is turned around at TC", strangers.join(", ")),
        );
    }
}

fn names(index: u32, at: AttachType) -> Vec<String> {
    let ids = bpf::programs_at(Target::Device(index), at).unwrap_or_default();
    ids.into_iter()
        .map(|id| {
            let info = bpf::program_by_id(id).and_then(|program| bpf::program_info(program.as_fd()));
            info.map_or_else(|_| format!("program {id}"), |info| info.name)
        })
        .collect()
}
