//! A node that consists of nothing but its tables and programs.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::BorrowedFd;

use svc_agent::datapath::bpf::{TestRun, program_info};
use svc_agent::datapath::trace::Trace;
use svc_agent::datapath::{Globals, Hook, Maps, Programs, Sizes};
use svc_common::net::{Address, Port, V4, V6};
use svc_common::tables::{
    Backend, Device, Frontend, FrontendKey, Masked, Prefix, Rule, Settings, SlotRange, backend, device, filter_bit,
    settings,
};
use svc_common::verdict::Reason;

use super::frame::{Frame, Seen};

/// The mark that asks for source translation.
const MARK: u32 = 0x4000;

/// The loopback device: the only one that every namespace has, and the one that test runs use.
const DEVICE: u32 = 1;

/// The programs of a node.
pub const HOOKS: [Hook; 4] = [Hook::TcIngress, Hook::TcEgress, Hook::XdpUplink, Hook::Gc];

/// Tables and programs.
pub struct Node {
    programs: Programs,
    /// The tables.
    pub maps: Maps,
    next_backend: u32,
    next_slot: u32,
    reasons: Vec<u64>,
    /// By which packets arrive.
    device: u32,
}

/// How a packet ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// What the program returned.
    pub verdict: i32,
    /// The packet.
    pub bytes: Vec<u8>,
    /// Its mark.
    pub mark: u32,
    /// Why, as far as counters say.
    pub reasons: Vec<Reason>,
}

impl Ended {
    /// The packet, read, with its checksums verified.
    pub fn seen(&self) -> Seen {
        Seen::read(&self.bytes)
    }

    /// Whether the mark is set.
    pub fn is_marked(&self) -> bool {
        self.mark & MARK != 0
    }
}

impl Node {
    /// A node with addresses 192.0.2.1 and 2001:db8::1, pods in 10.1.0.0/16 and fd01::/16, and no Service.
    pub fn new() -> Self {
        let sizes = Sizes { services: 100, endpoints: 1000, flows: 10_000 };
        let (programs, maps) = Programs::load_private(sizes, &Globals::TRIAL, &HOOKS).expect("the programs load");
        Self::of(programs, maps)
    }

    /// A node that writes lines about what it does, and these lines.
    pub fn traced() -> (Self, Trace) {
        let sizes = Sizes { services: 100, endpoints: 1000, flows: 10_000 };
        let globals = Globals { trace: true, ..Globals::TRIAL };
        let (mut programs, maps) = Programs::load_private(sizes, &globals, &HOOKS).expect("the programs load");
        let trace = programs.take_trace().expect("a ring for lines");
        (Self::of(programs, maps), trace)
    }

    /// The node of loaded programs and their maps.
    pub fn of(programs: Programs, maps: Maps) -> Self {
        let primary_v4 = V4::new([192, 0, 2, 1].into());
        let primary_v6 = V6::new("2001:db8::1".parse().expect("address"));
        let value = Settings {
            primary_v4,
            primary_v6,
            snat_port_first: 20_000,
            snat_port_last: 29_999,
            flags: settings::DETECT_PREFIX,
            ..Settings::default()
        };
        maps.settings.set(&0, &value).expect("settings");
        maps.node_addresses_v4.set(&primary_v4, &1).expect("address");
        maps.node_addresses_v6.set(&primary_v6, &1).expect("address");
        let pods = Prefix { len: 16, addr: V4::new([10, 1, 0, 0].into()) };
        maps.pod_prefixes_v4.set(&pods, &1).expect("prefix");
        let pods = Prefix { len: 16, addr: V6::new("fd01::".parse().expect("address")) };
        maps.pod_prefixes_v6.set(&pods, &1).expect("prefix");
        let uplink = Device { flags: device::UPLINK, source_v4: primary_v4, source_v6: primary_v6 };
        maps.devices.set(&DEVICE, &uplink).expect("device");
        Self { programs, maps, next_backend: 1, next_slot: 0, reasons: vec![0; Reason::ALL.len()], device: DEVICE }
    }

    /// A Service at `address` with these endpoints; `rules` by pod, host and others.
    pub fn serve(&mut self, service: u32, address: &str, protocol: u8, rules: [u8; 3], flags: u32, endpoints: &[&str]) {
        let mut ids = Vec::new();
        for endpoint in endpoints {
            let end: SocketAddr = endpoint.parse().expect("ADDRESS:PORT");
            let id = self.next_backend;
            self.next_backend += 1;
            // Pods 10.1.0.* and fd01::* live here, the rest elsewhere.
            let local = endpoint.starts_with("10.1.0.") || endpoint.starts_with("[fd01::");
            let flags = if local { backend::LOCAL } else { 0 };
            let port = Port::new(end.port());
            match end.ip() {
                IpAddr::V4(addr) => {
                    let value = Backend { addr: V4::new(addr), port, flags };
                    self.maps.backends_v4.set(&id, &value).expect("backend");
                }
                IpAddr::V6(addr) => {
                    let value = Backend { addr: V6::new(addr), port, flags };
                    self.maps.backends_v6.set(&id, &value).expect("backend");
                }
            }
            self.maps.slots.set(&(self.next_slot + ids.len() as u32), &id).expect("slot");
            ids.push(id);
        }
        let cluster = SlotRange { base: self.next_slot, len: ids.len() as u32 };
        self.next_slot += ids.len() as u32;
        let frontend = Frontend { service, flags, cluster, rules: rules.map(Rule), ..Frontend::default() };
        self.put(address, protocol, &frontend);
    }

    /// A frontend as it is.
    pub fn put(&mut self, address: &str, protocol: u8, frontend: &Frontend) {
        let end: SocketAddr = address.parse().expect("ADDRESS:PORT");
        let port = Port::new(end.port());
        match end.ip() {
            IpAddr::V4(addr) => {
                let addr = V4::new(addr);
                self.filter(addr);
                let key = FrontendKey { addr, port, protocol, zero: 0 };
                self.maps.frontends_v4.set(&key, frontend).expect("frontend");
            }
            IpAddr::V6(addr) => {
                let addr = V6::new(addr);
                self.filter(addr);
                let key = FrontendKey { addr, port, protocol, zero: 0 };
                self.maps.frontends_v6.set(&key, frontend).expect("frontend");
            }
        }
    }

    /// Takes a frontend away.
    pub fn withdraw(&mut self, address: &str, protocol: u8) {
        let end: SocketAddr = address.parse().expect("ADDRESS:PORT");
        let port = Port::new(end.port());
        let gone = match end.ip() {
            IpAddr::V4(addr) => {
                let key = FrontendKey { addr: V4::new(addr), port, protocol, zero: 0 };
                self.maps.frontends_v4.remove(&key)
            }
            IpAddr::V6(addr) => {
                let key = FrontendKey { addr: V6::new(addr), port, protocol, zero: 0 };
                self.maps.frontends_v6.remove(&key)
            }
        };
        assert!(gone.expect("frontend"), "no frontend at {address}");
    }

    /// The ServiceCIDRs, one a family.
    pub fn set_service_cidrs(&self, v4: &str, v6: &str) {
        let (v4, v6) = (v4.split_once('/').expect("a prefix"), v6.split_once('/').expect("a prefix"));
        let mask = |bits: &str, width: u32| u128::MAX << (width - bits.parse::<u32>().expect("a length"));
        let mut settings = self.maps.settings.get(&0).expect("settings").expect("settings");
        settings.service_cidrs_v4[0] =
            Masked { addr: V4::new(v4.0.parse().expect("address")), mask: V4::new((mask(v4.1, 32) as u32).into()) };
        settings.service_cidrs_v6[0] =
            Masked { addr: V6::new(v6.0.parse().expect("address")), mask: V6::new(mask(v6.1, 128).into()) };
        (settings.service_cidr_count_v4, settings.service_cidr_count_v6) = (1, 1);
        self.maps.settings.set(&0, &settings).expect("settings");
    }

    fn filter<A: Address>(&self, addr: A) {
        let (index, bit) = filter_bit(addr);
        let word = self.maps.filter.get(&index).expect("filter").unwrap_or(0);
        self.maps.filter.set(&index, &(word | bit)).expect("filter");
    }

    /// A program, by its descriptor.
    pub fn program(&self, hook: Hook) -> BorrowedFd<'_> {
        self.programs.fd(hook).expect("loaded")
    }

    /// From now on packets arrive by this device.
    pub fn arrive_by(&mut self, index: u32) {
        self.device = index;
    }

    /// Names of the programs and their lengths in the kernel, in bytes.
    pub fn translated_bytes(&self) -> Vec<(&'static str, u32)> {
        let length = |hook| program_info(self.programs.fd(hook).expect("loaded")).expect("information").translated;
        HOOKS.iter().map(|hook| (hook.name(), length(*hook))).collect()
    }

    /// A packet stands for a socket call.
    pub fn call(&mut self, frame: &Frame) -> Ended {
        if self.programs.fd(Hook::SocketProbe).is_err() {
            self.programs.add(Hook::SocketProbe).expect("the program loads");
        }
        self.run(Hook::SocketProbe, &frame.bytes(), 0, 0)
    }

    /// A packet arrives by a device.
    pub fn ingress(&mut self, frame: &Frame) -> Ended {
        self.run(Hook::TcIngress, &frame.bytes(), 0, self.device)
    }

    /// A forwarded packet leaves by a device.
    pub fn egress(&mut self, before: &Ended) -> Ended {
        self.run(Hook::TcEgress, &before.bytes, before.mark, self.device)
    }

    /// A frame arrives by an uplink.
    pub fn xdp(&mut self, frame: &Frame) -> Ended {
        self.run(Hook::XdpUplink, &frame.bytes(), 0, 0)
    }

    /// Runs a program on bytes; `came_by` is the device by which a forwarded packet has arrived, 0 for the host's own.
    pub fn run(&mut self, hook: Hook, bytes: &[u8], mark: u32, came_by: u32) -> Ended {
        self.run_segments(hook, bytes, mark, came_by, 0)
    }

    /// The same for a packet that stands for several, each with a payload of `segment` bytes.
    pub fn run_segments(&mut self, hook: Hook, bytes: &[u8], mark: u32, came_by: u32, segment: u32) -> Ended {
        let mut context = [0u8; 192];
        context[176..180].copy_from_slice(&segment.to_ne_bytes());
        context[8..12].copy_from_slice(&mark.to_ne_bytes());
        context[36..40].copy_from_slice(&came_by.to_ne_bytes());
        context[40..44].copy_from_slice(&self.device.to_ne_bytes());
        let mut after = [0u8; 192];
        let mut out = vec![0u8; 4096];
        let xdp = hook == Hook::XdpUplink;
        let mut frame_context = [0u8; 24];
        frame_context[4..8].copy_from_slice(&(bytes.len() as u32).to_ne_bytes());
        frame_context[12..16].copy_from_slice(&self.device.to_ne_bytes());
        let given: &[u8] = match (xdp, self.device) {
            (false, _) => &context,
            // The loopback device is what a test run uses by itself.
            (true, DEVICE) => &[],
            (true, _) => &frame_context,
        };
        let run = TestRun {
            data_in: bytes,
            data_out: &mut out,
            context_in: given,
            context_out: if xdp { &mut [] } else { &mut after },
            repeat: 1,
        };
        let result = self.programs.test_run(hook, run).expect("the program runs");
        out.truncate(result.length);
        let mark = u32::from_ne_bytes(after[8..12].try_into().expect("four bytes"));
        Ended { verdict: result.verdict.cast_signed(), bytes: out, mark, reasons: self.new_reasons() }
    }

    /// Reasons that were counted since the last call.
    fn new_reasons(&mut self) -> Vec<Reason> {
        let mut new = Vec::new();
        for reason in Reason::ALL {
            let counts: u64 = self.maps.reasons.get(*reason as u32).expect("reasons").iter().sum();
            let before = std::mem::replace(&mut self.reasons[*reason as usize], counts);
            new.extend(std::iter::repeat_n(*reason, (counts - before) as usize));
        }
        new
    }
}

impl Default for Node {
    fn default() -> Self {
        Self::new()
    }
}
