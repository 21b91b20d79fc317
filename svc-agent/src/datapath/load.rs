//! The kernel object: embedded in the agent, loaded onto the maps of a datapath.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::panic::resume_unwind;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::thread::ScopedJoinHandle;

use anyhow::{Context as _, anyhow, bail};
use aya::maps::Map;
use aya::programs::Program;
use aya::{Ebpf, EbpfLoader};
use svc_common::tables::MAPS;

use super::bpf::{self, TestResult, TestRun};
use super::maps::{self, Maps, Sizes};
use super::probe;
use super::trace::{self, Trace};

/// The object that xtask built, empty if there was none at build time.
static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("SVC_EBPF_EMBEDDED"));

/// A program of the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Hook {
    /// TC, what a device receives.
    TcIngress,
    /// TC, what a device sends.
    TcEgress,
    /// XDP of an uplink.
    XdpUplink,
    /// Stands for a socket call of this host: attached nowhere, run by explain.
    SocketProbe,
    /// The garbage collector: attached nowhere, run by the agent.
    Gc,
    /// connect(2), IPv4.
    Connect4,
    /// connect(2), IPv6.
    Connect6,
    /// sendmsg(2), IPv4.
    Sendmsg4,
    /// sendmsg(2), IPv6.
    Sendmsg6,
    /// recvmsg(2), IPv4.
    Recvmsg4,
    /// recvmsg(2), IPv6.
    Recvmsg6,
    /// getpeername(2), IPv4.
    Getpeername4,
    /// getpeername(2), IPv6.
    Getpeername6,
}

impl Hook {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::TcIngress,
        Self::TcEgress,
        Self::XdpUplink,
        Self::SocketProbe,
        Self::Gc,
        Self::Connect4,
        Self::Connect6,
        Self::Sendmsg4,
        Self::Sendmsg6,
        Self::Recvmsg4,
        Self::Recvmsg6,
        Self::Getpeername4,
        Self::Getpeername6,
    ];

    /// The socket hooks, and where each is attached.
    pub const SOCKET: [(Self, bpf::AttachType); 8] = [
        (Self::Connect4, bpf::AttachType::Connect4),
        (Self::Connect6, bpf::AttachType::Connect6),
        (Self::Sendmsg4, bpf::AttachType::Sendmsg4),
        (Self::Sendmsg6, bpf::AttachType::Sendmsg6),
        (Self::Recvmsg4, bpf::AttachType::Recvmsg4),
        (Self::Recvmsg6, bpf::AttachType::Recvmsg6),
        (Self::Getpeername4, bpf::AttachType::Getpeername4),
        (Self::Getpeername6, bpf::AttachType::Getpeername6),
    ];

    /// Name of the function in the object.
    pub const fn name(self) -> &'static str {
        match self {
            Self::TcIngress => "tc_ingress",
            Self::TcEgress => "tc_egress",
            Self::XdpUplink => "xdp_uplink",
            Self::SocketProbe => "socket_probe",
            Self::Gc => "gc",
            Self::Connect4 => "connect4",
            Self::Connect6 => "connect6",
            Self::Sendmsg4 => "sendmsg4",
            Self::Sendmsg6 => "sendmsg6",
            Self::Recvmsg4 => "recvmsg4",
            Self::Recvmsg6 => "recvmsg6",
            Self::Getpeername4 => "getpeername4",
            Self::Getpeername6 => "getpeername6",
        }
    }
}

/// Configuration that the verifier folds into the programs: fixed for as long as they are loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Globals {
    /// Jiffies in a second.
    pub hz: u32,
    /// Bit of the packet mark that asks for source translation.
    pub mark: u32,
    /// The host's network namespace.
    pub netns_cookie: u64,
    /// Socket programs serve the sockets of pods too.
    pub socket_all: bool,
    /// Later fragments wait for the first of their datagram. Not in trials: what has waited leaves for good.
    pub hold_fragments: bool,
    /// Write lines about packets and socket calls, see [`super::trace`].
    pub trace: bool,
}

impl Globals {
    /// For trials, in which nothing leaves.
    pub const TRIAL: Self =
        Self { hz: 250, mark: 0x4000, netns_cookie: 0, socket_all: false, hold_fragments: false, trace: false };
}

/// A switch, as the programs read it.
fn switch(on: bool) -> &'static u32 {
    if on { &1 } else { &0 }
}

/// The object, bound to maps and configuration: programs can be loaded from it. It is large, and needed no longer than
/// that takes.
pub struct Object {
    object: Ebpf,
    /// The programs write lines, and nobody has taken the ring yet.
    trace: bool,
}

impl Object {
    /// On the maps that [`Maps::open_or_create`] has pinned in the folder `dir`.
    pub fn on_pinned(dir: &Path, globals: &Globals) -> anyhow::Result<Self> {
        let mut loader = EbpfLoader::new();
        for shape in MAPS {
            loader.map_pin_path(shape.name, dir.join(shape.name));
        }
        Self::bind(loader, globals)
    }

    fn bind<'a>(mut loader: EbpfLoader<'a>, globals: &'a Globals) -> anyhow::Result<Self> {
        if OBJECT.is_empty() {
            bail!("this svc-agent was built without its kernel object; run cargo xtask build-ebpf and build it again");
        }
        let words = [
            ("HZ", &globals.hz),
            ("MARK", &globals.mark),
            ("SOCKET_ALL", switch(globals.socket_all)),
            ("CAN_REFUSE", switch(probe::has_set_retval())),
            ("HOLD_FRAGMENTS", switch(globals.hold_fragments)),
        ];
        for (name, value) in words {
            loader.override_global(name, value, true);
        }
        loader.override_global("NETNS_COOKIE", &globals.netns_cookie, true);
        trace::switch(&mut loader, globals.trace);
        let object =
            loader.load(OBJECT).context("the kernel refuses the object; svc-agent doctor says what is missing")?;
        Ok(Self { object, trace: globals.trace })
    }

    /// Loads programs, as many at a time as there are processors: the verifier takes a tenth of a second and more for
    /// each. The second value is what was refused.
    pub fn load(&mut self, hooks: &[Hook]) -> (Programs, Vec<(Hook, anyhow::Error)>) {
        let mut wanted: HashMap<&str, &mut Program> = self.object.programs_mut().collect();
        let mut queue = Vec::new();
        let (mut programs, mut refused) = (Programs::default(), Vec::new());
        for hook in hooks.iter().rev() {
            match wanted.remove(hook.name()) {
                Some(program) => queue.push((*hook, program)),
                None => refused.push((*hook, anyhow!("the object has no program {}", hook.name()))),
            }
        }
        let workers = std::thread::available_parallelism().map_or(1, usize::from).min(queue.len());
        let queue = Mutex::new(queue);
        let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let work = || {
            let mut done = Vec::new();
            while let Some((hook, program)) = next() {
                done.push((hook, verify(hook, program)));
            }
            done
        };
        let done = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
            let join = |worker: ScopedJoinHandle<'_, _>| worker.join().unwrap_or_else(|panic| resume_unwind(panic));
            workers.into_iter().flat_map(join).collect::<Vec<_>>()
        });
        for (hook, loaded) in done {
            match loaded {
                Ok(fd) => drop(programs.fds.insert(hook, fd)),
                Err(error) => refused.push((hook, error)),
            }
        }
        (programs, refused)
    }

    /// The lines that the programs write; once, and only if [`Globals::trace`] asks for them.
    pub fn take_trace(&mut self) -> anyhow::Result<Option<Box<Trace>>> {
        std::mem::take(&mut self.trace).then(|| Trace::of(&mut self.object).map(Box::new)).transpose()
    }

    /// Descriptors of the maps that the loader made, by name.
    fn map_fds(&self) -> anyhow::Result<HashMap<&'static str, OwnedFd>> {
        let mut fds = HashMap::new();
        for shape in MAPS {
            let Some(map) = self.object.map(shape.name) else { continue };
            let (Map::Array(data)
            | Map::HashMap(data)
            | Map::LruHashMap(data)
            | Map::LpmTrie(data)
            | Map::PerCpuArray(data)) = map
            else {
                bail!("map {} of the object is of an unknown type", shape.name);
            };
            fds.insert(shape.name, data.fd().as_fd().try_clone_to_owned()?);
        }
        Ok(fds)
    }
}

fn verify(hook: Hook, program: &mut Program) -> anyhow::Result<OwnedFd> {
    let unknown = || anyhow!("program {} of the object is of an unknown type", hook.name());
    match program {
        Program::SchedClassifier(program) => program.load(),
        Program::Xdp(program) => program.load(),
        Program::CgroupSockAddr(program) => program.load(),
        _ => return Err(unknown()),
    }
    .with_context(|| format!("the kernel refuses program {}", hook.name()))?;
    let fd = match program {
        Program::SchedClassifier(program) => program.fd(),
        Program::Xdp(program) => program.fd(),
        Program::CgroupSockAddr(program) => program.fd(),
        _ => return Err(unknown()),
    };
    let fd = fd.with_context(|| format!("program {}", hook.name()))?;
    Ok(fd.as_fd().try_clone_to_owned()?)
}

/// The loaded programs. Dropping them unloads what no link holds.
#[derive(Default)]
pub struct Programs {
    fds: BTreeMap<Hook, OwnedFd>,
    trace: Option<Box<Trace>>,
    /// On maps of their own there may be more to load.
    object: Option<Box<Object>>,
}

impl Programs {
    /// Loads `hooks` onto maps of their own: nothing is pinned, and all of it goes with the process.
    pub fn load_private(sizes: Sizes, globals: &Globals, hooks: &[Hook]) -> anyhow::Result<(Self, Maps)> {
        let mut loader = EbpfLoader::new();
        for shape in MAPS {
            loader.map_max_entries(shape.name, maps::entries(shape, sizes));
        }
        let mut object = Object::bind(loader, globals)?;
        let (mut programs, refused) = object.load(hooks);
        if let Some((_, error)) = refused.into_iter().next() {
            return Err(error);
        }
        programs.trace = object.take_trace()?;
        let maps = Maps::private(object.map_fds()?, sizes)?;
        programs.object = Some(Box::new(object));
        Ok((programs, maps))
    }

    /// Loads one more program, of those on maps of their own.
    pub fn add(&mut self, hook: Hook) -> anyhow::Result<()> {
        let (more, refused) = self.object.as_mut().context("no more programs can be loaded")?.load(&[hook]);
        if let Some((_, error)) = refused.into_iter().next() {
            return Err(error);
        }
        self.extend(more);
        Ok(())
    }

    /// Takes others in.
    pub fn extend(&mut self, others: Self) {
        self.fds.extend(others.fds);
    }

    /// Whether a program is among them.
    pub fn has(&self, hook: Hook) -> bool {
        self.fds.contains_key(&hook)
    }

    /// The descriptor of a loaded program.
    pub fn fd(&self, hook: Hook) -> anyhow::Result<BorrowedFd<'_>> {
        Ok(self.fds.get(&hook).with_context(|| format!("program {} is not loaded", hook.name()))?.as_fd())
    }

    /// How many instructions the verifier has walked to accept a loaded program; `None` where the kernel does not say
    /// (before 5.16).
    pub fn verified(&self, hook: Hook) -> anyhow::Result<Option<u64>> {
        let path = format!("/proc/self/fdinfo/{}", self.fd(hook)?.as_raw_fd());
        let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        Ok(text.lines().find_map(|line| line.strip_prefix("verified_insns:")?.trim().parse().ok()))
    }

    /// The lines that programs on maps of their own write; once, and only if they were loaded with [`Globals::trace`].
    pub fn take_trace(&mut self) -> anyhow::Result<Trace> {
        Ok(*self.trace.take().context("the programs were loaded without lines")?)
    }

    /// Runs a program on a packet of one's own.
    pub fn test_run(&self, hook: Hook, run: TestRun<'_>) -> anyhow::Result<TestResult> {
        bpf::test_run(self.fd(hook)?, run).with_context(|| format!("cannot run program {}", hook.name()))
    }
}
