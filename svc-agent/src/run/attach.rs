//! Which program hangs where: every served device gets its TC programs as soon as it is seen, uplinks XDP, the cgroup
//! the socket programs. What cannot be attached is said once.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use svc_common::tables::{Device, device};
use tokio::sync::mpsc;

use crate::cli::flags::{FastPath, Flags, SocketLb, TcHook};
use crate::datapath::devices::{self, Role, Served};
use crate::datapath::gc::Gc;
use crate::datapath::links::{Attached, Links, XdpMode};
use crate::datapath::trace::Trace;
use crate::datapath::{Globals, Hook, Maps, Object, Programs, pins, probe};

/// Programs that are ready to be put in place.
pub(super) enum Loaded {
    /// Those of TC, without which nothing is served and which are enough by themselves; and the lines of all programs, if
    /// they write any.
    Tc(Programs, Option<Box<Trace>>),
    /// All others.
    Rest(Programs),
}

/// Loads the programs onto the maps pinned in `dir`, and hands them on as they come.
pub(super) fn load(flags: &Flags, dir: &Path, done: &mpsc::Sender<Loaded>) -> anyhow::Result<()> {
    let globals = Globals {
        hz: probe::ticks_per_second().context("cannot find out the length of a tick")?,
        mark: flags.masquerade_mark(),
        netns_cookie: probe::netns_cookie().context("cannot find out the cookie of this network namespace")?,
        socket_all: flags.socket_lb == SocketLb::All,
        hold_fragments: true,
        trace: flags.trace,
    };
    let mut object = Object::on_pinned(dir, &globals)?;
    let (programs, refused) = object.load(&[Hook::TcIngress, Hook::TcEgress]);
    if let Some((_, error)) = refused.into_iter().next() {
        return Err(error);
    }
    // Nobody listens only when the agent is ending.
    let _ = done.blocking_send(Loaded::Tc(programs, object.take_trace()?));
    let xdp = matches!(flags.external_fast_path, FastPath::Auto | FastPath::Xdp);
    let sockets = Hook::SOCKET.iter().map(|(hook, _)| *hook).filter(|_| flags.socket_lb != SocketLb::Off);
    let others: Vec<_> = [Hook::XdpUplink].into_iter().filter(|_| xdp).chain(sockets).chain([Hook::Gc]).collect();
    let (programs, refused) = object.load(&others);
    // A kernel that refuses one of these is served without it.
    for (hook, error) in refused {
        tracing::error!("this node is served without {}: {error:#}", hook.name());
    }
    let _ = done.blocking_send(Loaded::Rest(programs));
    Ok(())
}

/// The loaded programs and where they hang.
pub(super) struct Attachments {
    programs: Programs,
    links: Links,
    fast_path: FastPath,
    served: BTreeMap<u32, Device>,
    /// Where the socket programs are attached.
    cgroup: Option<PathBuf>,
    /// Names of links that are in use.
    wanted: BTreeSet<String>,
    /// What was said before.
    said: BTreeSet<String>,
}

impl Attachments {
    /// Nothing hangs anywhere yet.
    pub(super) fn new(flags: &Flags) -> anyhow::Result<Self> {
        Ok(Self {
            programs: Programs::default(),
            links: Links::new(&flags.bpffs, flags.tc == TcHook::Auto && probe::has_tcx())?,
            fast_path: flags.external_fast_path,
            served: BTreeMap::new(),
            cgroup: None,
            wanted: BTreeSet::new(),
            said: BTreeSet::new(),
        })
    }

    /// Takes in programs that are loaded now.
    pub(super) fn add(&mut self, programs: Programs) {
        self.programs.extend(programs);
    }

    /// The garbage collector, if the kernel accepts it.
    pub(super) fn gc(&self) -> anyhow::Result<Option<Gc>> {
        self.programs.has(Hook::Gc).then(|| Gc::new(&self.programs)).transpose()
    }

    /// Puts the socket programs on the cgroup.
    pub(super) fn attach_sockets(&mut self, flags: &Flags) -> anyhow::Result<()> {
        if flags.socket_lb == SocketLb::Off {
            return Ok(());
        }
        let path = flags.cgroup.clone().map_or_else(pins::cgroup_root, Ok)?;
        self.put_sockets(&path)?;
        self.cgroup = Some(path);
        Ok(())
    }

    fn put_sockets(&mut self, path: &Path) -> anyhow::Result<()> {
        let cgroup = File::open(path).with_context(|| format!("cannot open cgroup {}", path.display()))?;
        for (hook, at) in Hook::SOCKET.into_iter().filter(|(hook, _)| self.programs.has(*hook)) {
            self.links.attach_socket(&self.programs, hook, at, cgroup.as_fd())?;
            self.wanted.insert(hook.name().to_owned());
        }
        Ok(())
    }

    /// Puts XDP on the uplinks that are served already. Whether it is new on one.
    pub(super) fn serve_uplinks(&mut self, devices: &BTreeMap<u32, Served>) -> bool {
        let mut changed = false;
        for (index, served) in devices {
            if self.served.contains_key(index) {
                changed |= self.attach_xdp(*index, served);
            }
        }
        changed
    }

    /// Brings the attachments up to date with the devices that are there. Whether an XDP program is new on one.
    pub(super) fn serve(&mut self, maps: &Maps, devices: &BTreeMap<u32, Served>) -> bool {
        let mut changed = false;
        if !self.programs.has(Hook::TcIngress) {
            return changed;
        }
        let gone: Vec<u32> = self.served.keys().filter(|index| !devices.contains_key(index)).copied().collect();
        for index in gone {
            self.served.remove(&index);
            for hook in [Hook::TcIngress, Hook::TcEgress, Hook::XdpUplink] {
                let name = Links::device_link(hook, index);
                self.wanted.remove(&name);
                if let Err(error) = self.links.detach(&name) {
                    tracing::warn!("cannot remove the pin {name}: {error}");
                }
            }
        }
        for (index, served) in devices {
            if self.served.get(index) == Some(&served.entry) {
                continue;
            }
            // Before the first full list the applier writes nothing, but a new device needs its entry now.
            if let Err(error) = maps.devices.set(index, &served.entry) {
                self.say(format!("cannot write device {}: {error}", served.name));
            }
            // A device that was renamed may have become an uplink, or none any more.
            let role = |entry: &Device| entry.flags & device::UPLINK;
            if self.served.get(index).map(role) != Some(role(&served.entry)) {
                let Some(xdp) = self.attach(*index, served) else { continue };
                changed |= xdp;
            }
            self.served.insert(*index, served.entry);
        }
        changed
    }

    /// Puts back what somebody else has taken away: a qdisc with our filters in it, or a link. Number of programs that were
    /// missing.
    pub(super) fn put_back(&mut self, served: &BTreeMap<u32, Served>) -> u64 {
        let mut missing = 0;
        for (index, served) in served {
            if !self.served.contains_key(index) {
                continue;
            }
            let tc = [Hook::TcIngress, Hook::TcEgress].into_iter().filter(|hook| !self.has_tc(*hook, *index));
            let link = Links::device_link(Hook::XdpUplink, *index);
            let xdp = self.wanted.contains(&link) && !self.has_link(&link, |target| target == *index);
            let gone: Vec<_> = tc.chain(xdp.then_some(Hook::XdpUplink)).map(Hook::name).collect();
            // Links also end with their device, which is announced a moment later.
            if gone.is_empty() || devices::name(*index).is_none() {
                continue;
            }
            missing += gone.len() as u64;
            tracing::warn!("{}: somebody has taken {} away; attached again", served.name, gone.join(" and "));
            if self.attach(*index, served).is_none() {
                self.served.remove(index);
            }
        }
        let Some(path) = self.cgroup.clone() else { return missing };
        let sockets = Hook::SOCKET.into_iter().map(|(hook, _)| hook.name());
        let gone: Vec<_> = sockets.filter(|n| self.wanted.contains(*n) && !self.has_link(n, |at| at != 0)).collect();
        if !gone.is_empty() {
            missing += gone.len() as u64;
            tracing::warn!("{}: somebody has taken {} away; attached again", path.display(), gone.join(" and "));
            if let Err(error) = self.put_sockets(&path) {
                self.say(format!("{error:#}"));
            }
        }
        missing
    }

    /// Whether it is there, or cannot be looked for: then nothing is to be done about it.
    fn has_tc(&self, hook: Hook, index: u32) -> bool {
        self.links.has_tc(hook, index).unwrap_or(true)
    }

    fn has_link(&self, name: &str, target: impl Fn(u32) -> bool) -> bool {
        self.links.has_link(name, target).unwrap_or(true)
    }

    /// Puts the programs on one device, and says whether XDP is among them; `None` if it has to be tried again.
    fn attach(&mut self, index: u32, served: &Served) -> Option<bool> {
        for hook in [Hook::TcIngress, Hook::TcEgress] {
            match self.links.attach_tc(&self.programs, hook, index, &served.name) {
                Ok(attached) => log(attached, hook, served),
                Err(error) => {
                    self.say(format!("{error:#}"));
                    return None;
                }
            }
            self.wanted.insert(Links::device_link(hook, index));
        }
        Some(self.attach_xdp(index, served))
    }

    fn attach_xdp(&mut self, index: u32, served: &Served) -> bool {
        let modes: &[XdpMode] = match self.fast_path {
            // A virtual device may hand over packets without a checksum, which must not go back to a wire as they are.
            FastPath::Auto if served.hardware => &[XdpMode::Driver],
            FastPath::Xdp => &[XdpMode::Driver, XdpMode::Generic],
            FastPath::Auto | FastPath::Tc | FastPath::Off => return false,
        };
        let usable = self.programs.has(Hook::XdpUplink) && served.role == Role::Uplink;
        if !usable || served.entry.flags & device::LAYER3 != 0 {
            let name = Links::device_link(Hook::XdpUplink, index);
            if self.wanted.remove(&name)
                && let Err(error) = self.links.detach(&name)
            {
                self.say(format!("cannot remove the pin {name}: {error}"));
            }
            return false;
        }
        let mut failures = Vec::new();
        for mode in modes {
            match self.links.attach_xdp(&self.programs, index, *mode) {
                Ok(attached) => {
                    log(attached, Hook::XdpUplink, served);
                    self.wanted.insert(Links::device_link(Hook::XdpUplink, index));
                    return true;
                }
                Err(error) => failures.push(format!("{mode:?}: {error:#}")),
            }
        }
        let failures = failures.join("; ");
        self.say(format!("no XDP on {}: TC turns around what comes from outside ({failures})", served.name));
        false
    }

    /// Takes away what an earlier agent with other flags has attached, and pins of devices that are gone.
    pub(super) fn forget_others(&self) -> anyhow::Result<()> {
        let wanted = &self.wanted;
        for name in self.links.sweep(|name| wanted.contains(name))? {
            tracing::info!("{name} is no longer attached");
        }
        Ok(())
    }

    fn say(&mut self, what: String) {
        if self.said.insert(what.clone()) {
            tracing::warn!("{what}");
        }
    }
}

fn log(attached: Attached, hook: Hook, served: &Served) {
    let verb = match attached {
        Attached::New => "attached to",
        Attached::Replaced => "replaced on",
    };
    tracing::debug!("{} {verb} {} ({})", hook.name(), served.name, served.role.name());
}
