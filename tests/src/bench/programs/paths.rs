//! The paths of packets.

use anyhow::{Result, ensure};
use svc_agent::datapath::Hook;
use svc_common::net::{Port, V4, V6};
use svc_common::tables::{Entry, Flow, FlowKey, flow};
use svc_common::tuple::End;

use super::tables::{BACKEND_PORT, Bench, SERVICE_PORT, Tables, frame, source_port};
use super::{Probe, Rounds, uplink};

const HOPS: u8 = 64;
const HOOKS: [Hook; 3] = [Hook::TcIngress, Hook::TcEgress, Hook::XdpUplink];

/// Nanoseconds of every path, and how much more they are with 100,000 services instead of 10.
pub(super) fn measure(rounds: usize) -> Result<Rounds> {
    let uplink = uplink()?;
    let [few, many] = [Bench::new(10, &HOOKS, uplink)?, Bench::new(100_000, &HOOKS, uplink)?];
    let mut measured = Vec::new();
    for (family, paths) in [("v4", paths::<V4> as Paths), ("v6", paths::<V6> as Paths)] {
        for ((name, mut cost), (_, mut cost_of_many)) in paths(&few)?.into_iter().zip(paths(&many)?) {
            let mut figures = Vec::new();
            let mut growth = Vec::new();
            for _ in 0..rounds {
                let [few, many] = [cost()?, cost_of_many()?];
                figures.push(few);
                growth.push((many / few - 1.0) * 100.0);
            }
            measured.push((format!("{name}/{family}"), figures));
            if family == "v4" {
                measured.push((format!("growth/{name}"), growth));
            }
        }
    }
    Ok(measured)
}

type Paths = for<'b> fn(&'b Bench) -> Result<Vec<Path<'b>>>;

/// A path's name, and a measurement of it.
type Path<'b> = (&'static str, Box<dyn FnMut() -> Result<f64> + 'b>);

fn paths<A: Tables>(bench: &Bench) -> Result<Vec<Path<'_>>>
where
    FlowKey<A>: Entry,
    Flow<A>: Entry,
{
    let client = End::new(A::address(1, 1), Port::new(40_000));
    let service = End::new(A::address(2, 7), Port::new(SERVICE_PORT));
    let backend = End::new(A::address(1, 2), Port::new(BACKEND_PORT));
    let stranger = End::new(A::address(3, 1), Port::new(443));
    let caller = End::new(A::address(3, 2), Port::new(50_000));
    let node_port = End::new(A::address(4, 1), Port::new(30_080));
    let node = End::new(A::address(4, 1), Port::new(20_001));
    let remote = End::new(A::address(5, 2), Port::new(BACKEND_PORT));
    bench.forget::<A>()?;

    let probe = |hook: Hook, before: Vec<u8>, after: Vec<u8>, counted: Option<usize>| -> Result<Probe> {
        let probe = Probe::new(bench.programs.fd(hook)?, hook, before, counted)?;
        let (verdict, out) = probe.once()?;
        // With a counted port or new link addresses only the rest can be compared.
        let from = if hook == Hook::XdpUplink && probe.frame != after { 14 } else { 0 };
        ensure!(
            counted.is_some() || out[from..] == after[from..],
            "{}: the measured packet became (verdict {verdict}) {out:02x?} and not {after:02x?}",
            hook.name()
        );
        Ok(probe)
    };

    let mut paths: Vec<Path<'_>> = Vec::new();
    let passing = frame(client, stranger, false, HOPS);
    for (name, hook) in
        [("pass/tc-ingress", Hook::TcIngress), ("pass/tc-egress", Hook::TcEgress), ("pass/xdp", Hook::XdpUplink)]
    {
        let probe = probe(hook, passing.clone(), passing.clone(), None)?;
        paths.push((name, Box::new(move || probe.cost(&|| Ok(())))));
    }

    type Established<A> = (&'static str, Hook, u8, [End<A>; 4], [Vec<u8>; 2]);
    let pods = [client, service, backend, End::default()];
    let outside = [caller, node_port, remote, node];
    let turned = |from, to, [new_from, new_to]: [End<A>; 2]| {
        [frame(from, to, false, HOPS), frame(new_from, new_to, false, HOPS - 1)]
    };
    let established: [Established<A>; 4] = [
        (
            "established/request",
            Hook::TcIngress,
            flow::CLIENT,
            pods,
            [frame(client, service, false, HOPS), frame(client, backend, false, HOPS)],
        ),
        (
            "established/reply",
            Hook::TcEgress,
            flow::MIDDLE,
            pods,
            [frame(backend, client, false, HOPS), frame(service, client, false, HOPS)],
        ),
        ("xdp/request", Hook::XdpUplink, flow::CLIENT, outside, turned(caller, node_port, [node, remote])),
        ("xdp/reply", Hook::XdpUplink, flow::BACKEND, outside, turned(remote, node, [node_port, caller])),
    ];
    for (name, hook, role, ends, [before, after]) in established {
        bench.store(role, ends)?;
        let probe = probe(hook, before, after, None)?;
        // Written anew, so that no entry falls due for renewal meanwhile.
        paths.push((name, Box::new(move || probe.cost(&|| bench.store(role, ends)))));
    }

    let opening = frame(client, service, true, HOPS);
    let probe = probe(Hook::TcIngress, opening.clone(), opening, Some(source_port::<A>()))?;
    paths.push(("new", Box::new(move || probe.cost(&|| bench.forget::<A>()))));
    Ok(paths)
}
