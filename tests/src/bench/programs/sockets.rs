//! What connect(2) costs more where the socket hooks answer for a Service.

use std::fs::File;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::time::Instant;

use anyhow::{Result, ensure};
use svc_agent::datapath::Hook;
use svc_agent::datapath::bpf::{AttachType, Target, link_create};
use svc_common::net::{Address as _, V4, V6};

use super::tables::{BACKEND_PORT, Bench, SERVICE_PORT, Tables as _};
use super::{PAIRS, Rounds, uplink};

/// Calls of one measurement: about a millisecond.
const CALLS: u32 = 1_000;

/// Nanoseconds that connect(2) to a Service takes more than to its endpoint without hooks.
pub(super) fn measure(cgroup: &Path, rounds: usize) -> Result<Rounds> {
    let hooks = [Hook::Connect4, Hook::Connect6, Hook::Getpeername4, Hook::Getpeername6];
    let bench = Bench::new(10, &hooks, uplink()?)?;
    let cgroup = File::open(cgroup)?;
    let families: [(_, SocketAddr, _, [_; 2]); 2] = [
        (
            "v4",
            (Ipv4Addr::UNSPECIFIED, 0).into(),
            [(Hook::Connect4, AttachType::Connect4), (Hook::Getpeername4, AttachType::Getpeername4)],
            [(V4::address(2, 7).to_ip(), SERVICE_PORT), (V4::address(1, 2).to_ip(), BACKEND_PORT)],
        ),
        (
            "v6",
            (Ipv6Addr::UNSPECIFIED, 0).into(),
            [(Hook::Connect6, AttachType::Connect6), (Hook::Getpeername6, AttachType::Getpeername6)],
            [(V6::address(2, 7).to_ip(), SERVICE_PORT), (V6::address(1, 2).to_ip(), BACKEND_PORT)],
        ),
    ];
    let mut measured = Vec::new();
    for (family, any, hooks, ends) in families {
        let [service, endpoint] = ends.map(SocketAddr::from);
        let mut figures = Vec::new();
        for _ in 0..rounds {
            let direct = best(any, endpoint)?;
            let links = hooks.map(|(hook, at)| {
                link_create(bench.programs.fd(hook)?, Target::Cgroup(cgroup.as_fd()), at, 0)
                    .map_err(anyhow::Error::from)
            });
            let translated = best(any, service)?;
            for link in links {
                drop(link?);
            }
            figures.push(translated - direct);
        }
        measured.push((format!("socket/connect/{family}"), figures));
    }
    Ok(measured)
}

/// Nanoseconds of the fastest of many short series of calls.
fn best(any: SocketAddr, to: SocketAddr) -> Result<f64> {
    let mut best = f64::MAX;
    for _ in 0..PAIRS {
        let socket = UdpSocket::bind(any)?;
        let began = Instant::now();
        for _ in 0..CALLS {
            socket.connect(to)?;
        }
        best = best.min(began.elapsed().as_nanos() as f64 / f64::from(CALLS));
        ensure!(socket.peer_addr()? == to, "the peer is {} and not what was dialled", socket.peer_addr()?);
    }
    Ok(best)
}
