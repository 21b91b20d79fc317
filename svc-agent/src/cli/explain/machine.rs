//! A private datapath: the real programs on tables of their own that nobody else sees and that go with the process.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Instant;

use anyhow::Context as _;
use svc_common::net::{Address, Port, V4, V6};
use svc_common::tables::{
    AffinityKey, Device, Entry, Flow, FlowKey, Frontend, FrontendKey, Sender, ServiceRecord, device, settings,
};
use svc_common::tuple::{End, Tuple};
use svc_common::verdict::{Outcome, Reason};

use super::super::ExplainArgs;
use crate::apply::{Applier, Globals, Present, Sink as _, Write};
use crate::datapath::table::Table;
use crate::datapath::{self, Hook, Maps, Programs, Sizes, Writer, probe, sweep};
use crate::engine::Engine;
use crate::model::{Event, Kind, Object, ObjectKey, Protocol};
use crate::plan::Options;
use crate::source::manifest::Reader;

/// Programs that explain runs.
const HOOKS: [Hook; 3] = [Hook::TcIngress, Hook::TcEgress, Hook::SocketProbe];

/// Connections that have room at once: those of the largest question of a session.
const FLOWS: u32 = 160_000;

/// The device by which every packet comes and goes: loopback has this index in every network namespace. Nothing is read
/// from it; what the programs know about it is written for every packet.
pub(super) const DEVICE: u32 = 1;

/// Objects by kind and name.
type Objects = BTreeMap<(Kind, ObjectKey), Object>;

/// The datapath and what is known about its tables.
pub(super) struct Machine {
    programs: Programs,
    maps: Maps,
    /// Where the tables come from.
    source: Source,
    options: Options,
    started: Instant,
    mark: u32,
    /// Counters of [`Reason`]s when they were last read.
    counted: Vec<u64>,
    pod_device: bool,
}

enum Source {
    Manifests {
        reader: Box<Reader>,
        engine: Box<Engine>,
        objects: Objects,
    },
    /// A copy of the tables of an agent.
    Copy {
        globals: Box<Globals>,
        names: BTreeMap<u32, String>,
    },
}

impl Machine {
    /// On manifests, or on a copy of the tables below `--bpffs`.
    pub(super) fn new(args: &ExplainArgs) -> anyhow::Result<Self> {
        let flags = &args.flags;
        let options = flags.options()?;
        let mut sizes = flags.sizes();
        let mut present = None;
        if args.manifests.is_none() {
            let pinned = Maps::open(&flags.bpffs)?;
            sizes = sizes_of(&pinned, sizes);
            present = Some(pinned.present()?);
        }
        let globals = datapath::Globals {
            hz: probe::ticks_per_second()?,
            mark: flags.masquerade_mark(),
            socket_all: true,
            ..datapath::Globals::TRIAL
        };
        let (programs, maps) = Programs::load_private(Sizes { flows: FLOWS, ..sizes }, &globals, &HOOKS)?;
        let source = match &present {
            Some(present) => {
                Writer(&maps).carry_out(&present.to_writes())?;
                Source::Copy { globals: Box::new(present.globals()), names: names(present) }
            }
            None => {
                let snat_ports = (flags.snat_port_range.first, flags.snat_port_range.last);
                let applier = Applier::new(maps.capacity());
                let mut engine = Engine::new(&flags.node_name(), options.clone(), snat_ports, applier);
                engine.set_addresses(args.host_addresses.0.clone());
                let reader = Box::new(Reader::new(flags.control_plane()));
                Source::Manifests { reader, engine: Box::new(engine), objects: Objects::new() }
            }
        };
        let mut machine = Self {
            programs,
            maps,
            source,
            options,
            started: Instant::now(),
            mark: flags.masquerade_mark(),
            counted: vec![0; Reason::ALL.len()],
            pod_device: false,
        };
        Writer(&machine.maps).carry_out(&[Write::Device(DEVICE, Some(Device::default()))])?;
        if let Some(path) = &args.manifests {
            machine.change(path).with_context(|| format!("cannot read {}", path.display()))?;
        }
        Ok(machine)
    }

    /// Brings in the objects of a path as `run` would: differences are written, then what they made stale is swept. What
    /// was changed, in words.
    pub(super) fn change(&mut self, path: &Path) -> anyhow::Result<String> {
        let Source::Manifests { reader, engine, objects } = &mut self.source else {
            anyhow::bail!("objects can only be changed where there are --manifests");
        };
        let loaded = reader.load(path)?;
        for warning in &loaded.warnings {
            eprintln!("svc-agent: {warning}");
        }
        let new: Objects = loaded.objects.into_iter().map(|object| (object.id(), object)).collect();
        let summary = summary(objects, &new);
        *objects = new;
        Kind::ALL.into_iter().for_each(|kind| engine.fold(Event::Restarted(kind)));
        objects.values().for_each(|object| engine.fold(Event::Applied(object.clone())));
        Kind::ALL.into_iter().for_each(|kind| engine.fold(Event::Synced(kind)));
        self.commit()?;
        Ok(summary)
    }

    /// What has become due since, as `run` would notice: the weight of an endpoint that starts slowly.
    pub(super) fn catch_up(&mut self) -> anyhow::Result<()> {
        let due = self.engine().and_then(Engine::due);
        if due.is_some_and(|at| at <= self.started.elapsed()) { self.commit() } else { Ok(()) }
    }

    fn commit(&mut self) -> anyhow::Result<()> {
        let Source::Manifests { engine, .. } = &mut self.source else { return Ok(()) };
        // The engine knows of no devices, so it leaves the one alone by which every packet comes.
        let commit = engine.commit(self.started.elapsed());
        Writer(&self.maps).carry_out(&commit.writes)?;
        sweep::sweep(&self.maps, &commit.stale)?;
        for (service, remark) in &commit.remarks {
            match service {
                Some(service) => eprintln!("svc-agent: Service {service}: {remark}"),
                None => eprintln!("svc-agent: {remark}"),
            }
        }
        for full in &commit.full {
            eprintln!("svc-agent: {full}");
        }
        Ok(())
    }

    /// The engine, if the objects are known and not only the tables.
    pub(super) fn engine(&self) -> Option<&Engine> {
        match &self.source {
            Source::Manifests { engine, .. } => Some(engine),
            Source::Copy { .. } => None,
        }
    }

    /// What the tables say about the node.
    pub(super) fn globals(&self) -> &Globals {
        match &self.source {
            Source::Manifests { engine, .. } => engine.applier().present_globals(),
            Source::Copy { globals, .. } => globals,
        }
    }

    /// What the flags say.
    pub(super) fn options(&self) -> &Options {
        &self.options
    }

    /// The name of a service id, from the copied tables.
    pub(super) fn service_name(&self, id: u32) -> Option<&str> {
        match &self.source {
            Source::Manifests { .. } => None,
            Source::Copy { names, .. } => names.get(&id).map(String::as_str),
        }
    }

    /// Primary address of the node in the family of `like`.
    pub(super) fn primary(&self, like: IpAddr) -> Option<IpAddr> {
        let settings = &self.globals().settings;
        let primary = if like.is_ipv4() { settings.primary_v4.to_ip() } else { settings.primary_v6.to_ip() };
        (!primary.is_unspecified()).then_some(primary)
    }

    /// Who a sender is by the rules of the datapath; for words, the programs judge by themselves.
    pub(super) fn sender(&self, from: IpAddr) -> Sender {
        let globals = self.globals();
        let flags = globals.settings.flags;
        let by_prefix = flags & settings::DETECT_PREFIX != 0;
        if by_prefix && globals.pod_prefixes.iter().any(|prefix| prefix.contains(&from))
            || flags & settings::DETECT_DEVICE != 0 && self.pod_device
        {
            Sender::Pod
        } else if from.is_loopback() || globals.node_addresses.contains(&from) {
            Sender::Host
        } else {
            Sender::Other
        }
    }

    /// Says whether the next packets come by a device of pods.
    pub(super) fn set_pod_device(&mut self, is_pod: bool) -> anyhow::Result<()> {
        if is_pod != self.pod_device {
            let flags = if is_pod { device::POD } else { 0 };
            Writer(&self.maps).carry_out(&[Write::Device(DEVICE, Some(Device { flags, ..Device::default() }))])?;
            self.pod_device = is_pod;
        }
        Ok(())
    }

    /// Runs a TC program. `frame` and `mark` become what the program made of them; the verdict.
    pub(super) fn run(&self, hook: Hook, frame: &mut Vec<u8>, mark: &mut u32) -> anyhow::Result<i32> {
        // Offsets in struct __sk_buff; whatever else is not zero the kernel refuses.
        const MARK: usize = 8;
        const IFINDEX: usize = 40;
        let mut context = [0u8; 192];
        context[MARK..MARK + 4].copy_from_slice(&mark.to_ne_bytes());
        context[IFINDEX..IFINDEX + 4].copy_from_slice(&DEVICE.to_ne_bytes());
        let mut context_out = [0u8; 192];
        let mut out = [0u8; super::packet::ROOM];
        let run = datapath::bpf::TestRun {
            data_in: frame,
            data_out: &mut out,
            context_in: &context,
            context_out: &mut context_out,
            repeat: 1,
        };
        let result = self.programs.test_run(hook, run)?;
        frame.clear();
        frame.extend_from_slice(out.get(..result.length).context("the packet has outgrown its buffer")?);
        let mut bytes = [0; 4];
        bytes.copy_from_slice(&context_out[MARK..MARK + 4]);
        *mark = u32::from_ne_bytes(bytes);
        Ok(result.verdict.cast_signed())
    }

    /// Whether a mark asks for source translation.
    pub(super) fn wants_source_translation(&self, mark: u32) -> bool {
        mark & self.mark != 0
    }

    /// Reasons that were counted since this was last asked, without those of forwarded packets.
    pub(super) fn new_reasons(&mut self) -> anyhow::Result<Vec<Reason>> {
        let mut counted = Vec::with_capacity(self.counted.len());
        self.maps.reasons.for_each(Reason::ALL.len() as u32, |_, cpus| counted.push(cpus.iter().sum::<u64>()))?;
        let pairs = Reason::ALL.iter().zip(&counted).zip(&self.counted);
        let new = pairs.filter(|((reason, now), before)| now > before && reason.outcome() != Outcome::Forward);
        let reasons = new.map(|((reason, _), _)| *reason).collect();
        self.counted = counted;
        Ok(reasons)
    }

    /// The frontend of a destination, as the socket hooks find it.
    pub(super) fn frontend(&self, to: SocketAddr, protocol: Protocol) -> anyhow::Result<Option<Frontend>> {
        Ok(match to.ip() {
            IpAddr::V4(addr) => frontend(&self.maps.frontends_v4, V4::new(addr), to.port(), protocol)?,
            IpAddr::V6(addr) => frontend(&self.maps.frontends_v6, V6::new(addr), to.port(), protocol)?,
        })
    }

    /// Forgets the flow entry of two ends.
    pub(super) fn forget_flow(&self, one: SocketAddr, other: SocketAddr, protocol: Protocol) -> anyhow::Result<()> {
        match (one.ip(), other.ip()) {
            (IpAddr::V4(a), IpAddr::V4(b)) => {
                forget_flow(&self.maps.flows_v4, (V4::new(a), one.port()), (V4::new(b), other.port()), protocol)
            }
            (IpAddr::V6(a), IpAddr::V6(b)) => {
                forget_flow(&self.maps.flows_v6, (V6::new(a), one.port()), (V6::new(b), other.port()), protocol)
            }
            _ => Ok(()),
        }
    }

    /// Forgets what a client got from a service: under its own address and as this host.
    pub(super) fn forget_affinity(&self, service: u32, client: IpAddr) -> anyhow::Result<()> {
        match client {
            IpAddr::V4(addr) => forget_affinity(&self.maps.affinity_v4, service, [V4::new(addr), loopback()]),
            IpAddr::V6(addr) => forget_affinity(&self.maps.affinity_v6, service, [V6::new(addr), loopback()]),
        }
    }

    /// Forgets all translated sockets.
    pub(super) fn forget_sockets(&self) -> anyhow::Result<()> {
        clear(&self.maps.sockets_v4)?;
        clear(&self.maps.sockets_v6)
    }

    /// Forgets all connections and affinity records.
    pub(super) fn forget_everything(&self) -> anyhow::Result<()> {
        clear(&self.maps.flows_v4)?;
        clear(&self.maps.flows_v6)?;
        clear(&self.maps.affinity_v4)?;
        clear(&self.maps.affinity_v6)?;
        self.forget_sockets()
    }
}

fn loopback<A: Address>() -> A {
    let v4 = A::from_ip(IpAddr::from([127, 0, 0, 1]));
    v4.or_else(|| A::from_ip(std::net::Ipv6Addr::LOCALHOST.into())).unwrap_or_default()
}

fn frontend<A: Address>(
    table: &Table<FrontendKey<A>, Frontend>,
    addr: A,
    port: u16,
    protocol: Protocol,
) -> anyhow::Result<Option<Frontend>>
where
    FrontendKey<A>: Entry,
{
    let addr = if addr.is_loopback() { loopback() } else { addr };
    Ok(table.get(&FrontendKey { addr, port: Port::new(port), protocol: protocol as u8, zero: 0 })?)
}

fn forget_flow<A: Address>(
    table: &Table<FlowKey<A>, Flow<A>>,
    one: (A, u16),
    other: (A, u16),
    protocol: Protocol,
) -> anyhow::Result<()>
where
    FlowKey<A>: Entry,
    Flow<A>: Entry,
{
    let end = |(addr, port)| End::new(addr, Port::new(port));
    let tuple = Tuple { source: end(one), destination: end(other), protocol: protocol as u8 };
    table.remove(&tuple.key().0)?;
    Ok(())
}

fn forget_affinity<A: Address>(
    table: &Table<AffinityKey<A>, svc_common::tables::Affinity>,
    service: u32,
    clients: [A; 2],
) -> anyhow::Result<()>
where
    AffinityKey<A>: Entry,
{
    for client in clients {
        table.remove(&AffinityKey { service, client })?;
    }
    Ok(())
}

fn clear<K: Entry, V: Entry>(table: &Table<K, V>) -> anyhow::Result<()> {
    let mut keys = Vec::new();
    table.for_each(|key, _| keys.push(*key))?;
    table.remove_all(&keys)?;
    Ok(())
}

/// Sizes for which a private copy has room for all that the pinned tables hold.
fn sizes_of(pinned: &Maps, asked: Sizes) -> Sizes {
    let mut sizes = asked;
    let room = |entries: u32, default: u32, unit: u32| {
        (u64::from(entries) * u64::from(unit)).div_ceil(u64::from(default)) as u32
    };
    let default = Sizes::default();
    use svc_common::tables::entries;
    sizes.services = sizes.services.max(room(pinned.frontends_v4.entries(), entries::FRONTENDS_V4, default.services));
    sizes.endpoints = sizes.endpoints.max(room(pinned.slots.entries(), entries::SLOTS, default.endpoints));
    sizes
}

fn names(present: &Present) -> BTreeMap<u32, String> {
    let text = |record: &ServiceRecord| {
        let end = record.name.iter().position(|byte| *byte == 0).unwrap_or(record.name.len());
        String::from_utf8_lossy(&record.name[..end]).into_owned()
    };
    present.services.iter().map(|(id, record)| (*id, text(record))).collect()
}

/// `1 service changed, 2 slices removed`.
fn summary(old: &Objects, new: &Objects) -> String {
    let mut parts = Vec::new();
    for kind in Kind::ALL {
        let of_kind = |key: &&(Kind, ObjectKey)| key.0 == kind;
        let added = new.keys().filter(of_kind).filter(|key| !old.contains_key(key)).count();
        let removed = old.keys().filter(of_kind).filter(|key| !new.contains_key(key)).count();
        let changed = new.iter().filter(|(key, _)| key.0 == kind);
        let changed = changed.filter(|(key, object)| old.get(key).is_some_and(|old| old != *object)).count();
        for (count, what) in [(added, "added"), (changed, "changed"), (removed, "removed")] {
            if count > 0 {
                let name = match kind {
                    Kind::Service => "service",
                    Kind::Slice => "slice",
                    Kind::Node => "node",
                    Kind::ServiceCidr => "ServiceCIDR",
                };
                parts.push(format!("{count} {name}{} {what}", if count == 1 { "" } else { "s" }));
            }
        }
    }
    if parts.is_empty() { "nothing changed".to_owned() } else { parts.join(", ") }
}
