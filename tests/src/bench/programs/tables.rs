//! The tables of the measured programs, and the packets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Result;
use etherparse::PacketBuilder;
use svc_agent::datapath::table::Table;
use svc_agent::datapath::{Globals, Hook, Maps, Programs, Sizes, probe};
use svc_common::datapath::connection::Connection;
use svc_common::datapath::env::Family;
use svc_common::net::{Address, Port, Protocol, V4, V6};
use svc_common::tables::{
    Backend, Device, Entry, Flow, FlowKey, Frontend, FrontendKey, Settings, SlotRange, device, filter_bit, flow,
};
use svc_common::tuple::End;

/// Port of every service.
pub(super) const SERVICE_PORT: u16 = 80;
/// Port of the backend.
pub(super) const BACKEND_PORT: u16 = 8080;

/// A family's tables and addresses.
pub(super) trait Tables: Family {
    /// Its frontends.
    fn frontends(maps: &Maps) -> &Table<FrontendKey<Self>, Frontend>;
    /// Its flows.
    fn flows(maps: &Maps) -> &Table<FlowKey<Self>, Flow<Self>>;
    /// Its backends.
    fn backends(maps: &Maps) -> &Table<u32, Backend<Self>>;
    /// An address: network 1 are pods, 2 services, 3 strangers, 4 nodes, 5 pods of other nodes.
    fn address(network: u8, host: u32) -> Self;
}

impl Tables for V4 {
    fn frontends(maps: &Maps) -> &Table<FrontendKey<Self>, Frontend> {
        &maps.frontends_v4
    }

    fn flows(maps: &Maps) -> &Table<FlowKey<Self>, Flow<Self>> {
        &maps.flows_v4
    }

    fn backends(maps: &Maps) -> &Table<u32, Backend<Self>> {
        &maps.backends_v4
    }

    fn address(network: u8, host: u32) -> Self {
        let [_, a, b, c] = host.to_be_bytes();
        Self::new(Ipv4Addr::new(10, (network << 4) + a, b, c))
    }
}

impl Tables for V6 {
    fn frontends(maps: &Maps) -> &Table<FrontendKey<Self>, Frontend> {
        &maps.frontends_v6
    }

    fn flows(maps: &Maps) -> &Table<FlowKey<Self>, Flow<Self>> {
        &maps.flows_v6
    }

    fn backends(maps: &Maps) -> &Table<u32, Backend<Self>> {
        &maps.backends_v6
    }

    fn address(network: u8, host: u32) -> Self {
        let [high, low] = [(host >> 16) as u16, host as u16];
        Self::new(Ipv6Addr::new(0xfd00, network.into(), 0, 0, 0, 0, high, low))
    }
}

/// The programs on tables of their own.
pub(super) struct Bench {
    pub(super) programs: Programs,
    pub(super) maps: Maps,
}

impl Bench {
    /// Loads `hooks` and writes that many services of both families, all with one backend.
    pub(super) fn new(services: u32, hooks: &[Hook], uplink: u32) -> Result<Self> {
        let globals =
            Globals { hz: probe::ticks_per_second()?, netns_cookie: probe::netns_cookie()?, ..Globals::TRIAL };
        let sizes = Sizes { services: services.max(1000), endpoints: 1000, flows: 100_000 };
        let (programs, maps) = Programs::load_private(sizes, &globals, hooks)?;
        let bench = Self { programs, maps };
        let (primary_v4, primary_v6) = (V4::address(4, 1), V6::address(4, 1));
        let settings =
            Settings { snat_port_first: 20_000, snat_port_last: 29_999, primary_v4, primary_v6, ..Settings::default() };
        bench.maps.settings.set(&0, &settings)?;
        let device = Device { flags: device::UPLINK, source_v4: primary_v4, source_v6: primary_v6 };
        bench.maps.devices.set(&uplink, &device)?;
        bench.maps.slots.set(&1, &1)?;
        bench.serve::<V4>(services)?;
        bench.serve::<V6>(services)?;
        Ok(bench)
    }

    fn serve<A: Tables>(&self, services: u32) -> Result<()>
    where
        FrontendKey<A>: Entry,
        Backend<A>: Entry,
    {
        let backend = Backend { addr: A::address(1, 2), port: Port::new(BACKEND_PORT), flags: 0 };
        A::backends(&self.maps).set(&1, &backend)?;
        let frontend = Frontend { service: 1, cluster: SlotRange { base: 1, len: 1 }, ..Frontend::default() };
        for host in 0..services {
            let addr = A::address(2, host);
            let (word, bit) = filter_bit(addr);
            let old = self.maps.filter.get(&word)?.unwrap_or(0);
            self.maps.filter.set(&word, &(old | bit))?;
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                let key = FrontendKey { addr, port: Port::new(SERVICE_PORT), protocol: protocol as u8, zero: 0 };
                A::frontends(&self.maps).set(&key, &frontend)?;
            }
        }
        Ok(())
    }

    /// Writes the entry of this role of a TCP connection, both directions seen just now.
    pub(super) fn store<A: Tables>(&self, role: u8, [client, service, backend, node]: [End<A>; 4]) -> Result<()>
    where
        FlowKey<A>: Entry,
        Flow<A>: Entry,
    {
        let now = probe::jiffies()?;
        let flags = if node.is_set() { flow::SNAT | flow::TURNED } else { 0 };
        let connection = Connection {
            client,
            service,
            backend,
            node,
            middle_port: client.port,
            flags,
            service_id: 1,
            backend_id: 1,
            opened: now,
            clock: 0,
            seen: now,
            protocol: Protocol::Tcp as u8,
            state: flow::REQUESTED | flow::REPLIED,
        };
        let (mut key, _) = svc_common::tuple::Tuple::default().key();
        let mut entry = Flow::default();
        connection.write(role, &mut key, &mut entry);
        Ok(A::flows(&self.maps).set(&key, &entry)?)
    }

    /// Forgets all flows.
    pub(super) fn forget<A: Tables>(&self) -> Result<()>
    where
        FlowKey<A>: Entry,
        Flow<A>: Entry,
    {
        let keys: Vec<_> = A::flows(&self.maps).dump()?.into_iter().map(|(key, _)| key).collect();
        Ok(A::flows(&self.maps).remove_all(&keys)?)
    }
}

/// An Ethernet frame with a TCP segment, SYN or ACK.
pub(super) fn frame<A: Address>(from: End<A>, to: End<A>, opening: bool, hops: u8) -> Vec<u8> {
    let ethernet = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    let network = match (from.addr.to_ip(), to.addr.to_ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => ethernet.ipv4(from.octets(), to.octets(), hops),
        (IpAddr::V6(from), IpAddr::V6(to)) => ethernet.ipv6(from.octets(), to.octets(), hops),
        _ => unreachable!("both ends have one family"),
    };
    let segment = network.tcp(from.port.get(), to.port.get(), 1, 1000);
    let segment = if opening { segment.syn() } else { segment.ack(1) };
    let mut bytes = Vec::new();
    segment.write(&mut bytes, b"payload").expect("writing to memory does not fail");
    bytes
}

/// Offset of the source port in a [`frame`].
pub(super) fn source_port<A: Address>() -> usize {
    14 + if A::VERSION == 4 { 20 } else { 40 }
}
