//! Which port a translated source gets when the backend remembers connections from all of them.

use std::net::{Ipv4Addr, Ipv6Addr};

use svc_common::datapath::env::Family;
use svc_common::datapath::{egress, ingress, step};
use svc_common::net::{Address, Port, V4, V6};
use svc_common::parse::{Packet, Piece, event};
use svc_common::tables::{Backend, Device, Frontend, FrontendKey, Rule, SlotRange};
use svc_common::tuple::{End, Tuple};
use svc_common::verdict::Reason;
use svc_tests::fake::{Fake, Tables};

const TCP: u8 = 6;
const CLIENTS: u32 = 1;
const BACKENDS: u32 = 2;
const FIRST: u8 = event::OPEN | event::FIRST;
const PORTS: u16 = 7;

trait Number: Family + std::hash::Hash {
    /// An address that ends in these numbers.
    fn number(third: u8, fourth: u8) -> Self;
}

impl Number for V4 {
    fn number(third: u8, fourth: u8) -> Self {
        Self::new(Ipv4Addr::new(10, 0, third, fourth))
    }
}

impl Number for V6 {
    fn number(third: u8, fourth: u8) -> Self {
        Self::new(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, third.into(), fourth.into()))
    }
}

/// One Service whose only backend sees the node as its client, from one of [`PORTS`] ports.
struct Node<A: Number>(Fake<A>);

impl<A: Number> Node<A> {
    fn new() -> Self {
        let mut tables = Tables::<A>::default();
        tables.backends.insert(1, Backend { addr: A::number(1, 1), port: Port::new(8080), flags: 0 });
        tables.slots = vec![0, 1];
        let set = SlotRange { base: 1, len: 1 };
        let rules = [Rule(Rule::SNAT); 3];
        let frontend = Frontend { service: 1, cluster: set, local: set, rules, ..Frontend::default() };
        let key = FrontendKey { addr: A::number(96, 1), port: Port::new(80), protocol: TCP, zero: 0 };
        tables.add_frontend(key, frontend);
        tables
            .devices
            .insert(BACKENDS, Device { source_v4: V4::number(0, 1), source_v6: V6::number(0, 1), ..Device::default() });
        (tables.settings.snat_port_first, tables.settings.snat_port_last) = (20_000, 20_000 + PORTS - 1);
        Self(Fake::new(tables))
    }

    fn request(client: u8) -> Tuple<A> {
        let client = End::new(A::number(7, client), Port::new(40_000));
        Tuple { source: client, destination: End::new(A::number(96, 1), Port::new(80)), protocol: TCP }
    }

    /// A packet of a client on its way through both boundaries: the source that the backend sees.
    fn send(&self, client: u8, event: u8, clock: u16) -> Result<End<A>, Reason> {
        let tuple = Self::request(client);
        let mut packet = packet(tuple, event, clock);
        let at_client = ingress(&&self.0, &packet, CLIENTS)?;
        packet.tuple = at_client.tuple;
        let marked = at_client.steps & step::MARK != 0;
        Ok(egress(&&self.0, &packet, BACKENDS, marked, false)?.tuple.source)
    }

    /// The backend's packet to a source that it has seen.
    fn answer(&self, source: End<A>, event: u8) -> Result<(), Reason> {
        let backend = End::new(A::number(1, 1), Port::new(8080));
        let mut packet = packet(Tuple { source: backend, destination: source, protocol: TCP }, event, 0);
        packet.tuple = ingress(&&self.0, &packet, BACKENDS)?.tuple;
        let tuple = egress(&&self.0, &packet, CLIENTS, false, false)?.tuple;
        assert_eq!(tuple.source, Self::request(1).destination, "the client sees the Service");
        Ok(())
    }

    /// A connection from its first packet on.
    fn open(&self, client: u8, clock: u16) -> Result<End<A>, Reason> {
        let source = self.send(client, FIRST, clock)?;
        self.answer(source, 0)?;
        Ok(source)
    }

    /// A connection from its first packet to the last.
    fn use_up(&self, client: u8, clock: u16) -> Result<End<A>, Reason> {
        let source = self.open(client, clock)?;
        self.answer(source, event::FIN)?;
        self.send(client, event::FIN, 0)?;
        Ok(source)
    }
}

fn packet<A: Address>(tuple: Tuple<A>, event: u8, clock: u16) -> Packet<A> {
    Packet { tuple, event, piece: Piece::Whole, fragment_id: clock.into(), length: 60, l3: 14, l4: 34 }
}

/// All ports rest; the one that is taken is that of the connection whose timestamps the new client's is ahead of.
fn the_port_that_the_backend_gives<A: Number>() -> Result<(), Reason> {
    let node = Node::<A>::new();
    // Each client's clock is behind those of the ones before, so that nobody gets a port that has been used.
    for client in 1..=6 {
        node.use_up(client, 30_000 - 100 * u16::from(client))?;
    }
    let source = node.use_up(7, 5_000)?;
    node.0.pass(2);
    assert_eq!(node.open(8, 10_000)?, source, "ahead of one");
    Ok(())
}

#[test]
fn the_backend_decides_which_resting_port_is_taken() -> Result<(), Reason> {
    the_port_that_the_backend_gives::<V4>()?;
    the_port_that_the_backend_gives::<V6>()
}

/// A connection of a minute and more has moved its client's clock on.
fn a_long_connection<A: Number>() -> Result<(), Reason> {
    let node = Node::<A>::new();
    for client in 1..=6 {
        node.open(client, 1_000)?;
    }
    let source = node.open(7, 1_000)?;
    node.0.pass(10 * 66);
    node.answer(source, event::FIN)?;
    node.send(7, event::FIN, 0)?;
    // Not the first choice, since the backend has seen later timestamps; but nobody is turned away for it.
    assert_eq!(node.open(8, 1_005)?, source);
    Ok(())
}

#[test]
fn a_resting_port_is_better_than_none() -> Result<(), Reason> {
    a_long_connection::<V4>()?;
    a_long_connection::<V6>()
}

/// A client that dials again from the same port ends its old connection, and not the one that has got its port since.
fn an_old_connection_is_retired<A: Number>() -> Result<(), Reason> {
    let node = Node::<A>::new();
    let source = node.use_up(1, 10)?;
    (2..=7).try_for_each(|client| node.open(client, 9).map(drop))?;
    assert_eq!(node.open(8, 10)?, source, "the only one that is over");
    assert_eq!(node.send(1, FIRST, 11), Err(Reason::NoSourcePort), "the first client comes again");
    node.answer(source, 0)?;
    assert_eq!(node.send(8, 0, 0)?, source);
    Ok(())
}

#[test]
fn nobody_loses_a_port_to_its_last_owner() -> Result<(), Reason> {
    an_old_connection_is_retired::<V4>()?;
    an_old_connection_is_retired::<V6>()
}

/// With one port left of all, everybody finds it in the end, and connections that live keep theirs.
fn one_port_left<A: Number>() -> Result<(), Reason> {
    let node = Node::<A>::new();
    let mut living: Vec<_> = (1..=6).map(|client| node.open(client, 9)).collect::<Result<_, _>>()?;
    let last = node.use_up(7, 9)?;
    assert_eq!(node.open(8, 0)?, last, "the only one that is over");
    living.push(last);
    living.sort_unstable_by_key(|end| end.port.get());
    living.dedup();
    assert_eq!(living.len(), usize::from(PORTS));
    assert_eq!(node.open(9, 10), Err(Reason::NoSourcePort), "all of them live");
    for client in [1, 2, 3, 4, 5, 6, 8] {
        assert!(living.contains(&node.send(client, 0, 0)?));
    }
    Ok(())
}

#[test]
fn the_last_port_is_found_and_no_living_connection_is_robbed() -> Result<(), Reason> {
    one_port_left::<V4>()?;
    one_port_left::<V6>()
}
