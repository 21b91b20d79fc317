//! Translation at socket calls, decision by decision.

use std::net::{Ipv4Addr, Ipv6Addr};

use svc_common::datapath::env::Family;
use svc_common::datapath::socket::{Call, connect, probe, reverse, send};
use svc_common::net::{Port, V4, V6};
use svc_common::tables::{Affinity, Backend, Frontend, FrontendKey, PEERS, Rule, SlotRange, settings};
use svc_common::tuple::{End, Tuple};
use svc_common::verdict::Reason;
use svc_tests::fake::{Fake, Tables};

/// What the tests need of a family: addresses by number.
trait Numbered: Family + std::hash::Hash {
    fn number(net: u8, host: u8) -> Self;
}

impl Numbered for V4 {
    fn number(net: u8, host: u8) -> Self {
        Self::new(Ipv4Addr::new(10, 0, net, host))
    }
}

impl Numbered for V6 {
    fn number(net: u8, host: u8) -> Self {
        Self::new(Ipv6Addr::new(0xfd00, 0, 0, u16::from(net), 0, 0, 0, u16::from(host)))
    }
}

const TCP: u8 = 6;
const UDP: u8 = 17;

/// A Service with two backends under id 1: cluster IP 10.0.96.1:80, and a guarded, external and loopback frontend.
fn world<A: Numbered>() -> Fake<A> {
    let mut tables = Tables::<A>::default();
    for (id, host) in [(1, 5), (2, 6)] {
        tables.backends.insert(id, Backend { addr: A::number(1, host), port: Port::new(8080), flags: 0 });
    }
    // Two slots, and for affinity the number of members and the members.
    tables.slots = vec![0, 1, 2, 2, 1, 2];
    let set = SlotRange { base: 1, len: 2 };
    let frontend = Frontend {
        service: 1,
        cluster: set,
        rules: [Rule(0), Rule(Rule::SNAT), Rule(Rule::SNAT)],
        ..Frontend::default()
    };
    let external = Frontend { flags: Frontend::EXTERNAL, rules: [Rule(Rule::SNAT); 3], ..frontend };
    let guarded = Frontend { flags: Frontend::EXTERNAL | Frontend::SOURCE_RANGES, ..external };
    let loopback = Frontend { flags: Frontend::EXTERNAL | Frontend::LOOPBACK, ..external };
    let nobody = Frontend { cluster: SlotRange::default(), ..frontend };
    for protocol in [TCP, UDP] {
        let mut add = |addr: A, port: u16, frontend: Frontend| {
            tables.add_frontend(FrontendKey { addr, port: Port::new(port), protocol, zero: 0 }, frontend);
        };
        add(A::number(96, 1), 80, frontend);
        add(A::number(96, 1), 81, nobody);
        add(A::number(96, 1), 82, Frontend { affinity: 60, ..frontend });
        add(A::number(50, 1), 80, guarded);
        add(A::number(0, 1), 30080, external);
        add(A::loopback(), 30080, loopback);
    }
    let wildcard = FrontendKey { addr: A::number(96, 1), port: Port::NONE, protocol: 0, zero: 0 };
    tables.add_frontend(wildcard, Frontend { flags: Frontend::CLUSTER_IP, ..Frontend::default() });
    tables.settings.flags = settings::DETECT_PREFIX;
    tables.node_addresses = vec![A::number(0, 1)];
    tables.pods = vec![A::number(1, 5), A::number(1, 9)];
    Fake::new(tables)
}

fn call<A: Numbered>(host: bool, protocol: u8, addr: A, port: u16) -> Call<A> {
    let destination = End::new(addr, Port::new(port));
    Call { cookie: 0x1_0000_0007, source: End::default(), destination, protocol, host }
}

fn is_backend<A: Numbered>(end: End<A>) -> bool {
    end.port.get() == 8080 && (end.addr == A::number(1, 5) || end.addr == A::number(1, 6))
}

fn both(test4: fn(), test6: fn()) {
    test4();
    test6();
}

fn host_connects<A: Numbered>() {
    let fake = world::<A>();
    for (addr, port) in [(A::number(96, 1), 80), (A::number(0, 1), 30080), (A::loopback(), 30080)] {
        let call = call(true, TCP, addr, port);
        let backend = connect(&&fake, &call).expect("translated");
        assert!(is_backend(backend), "{backend:?}");
        assert_eq!(reverse(&&fake, call.cookie, TCP, backend), Some(call.destination));
        assert_eq!(reverse(&&fake, call.cookie + 1, TCP, backend), None);
    }
}

#[test]
fn a_process_of_the_host_is_translated_at_every_frontend() {
    both(host_connects::<V4>, host_connects::<V6>);
}

#[test]
fn all_of_127_is_loopback() {
    let fake = world::<V4>();
    let dialled = call(true, TCP, V4::new(Ipv4Addr::new(127, 8, 9, 10)), 30080);
    let backend = connect(&&fake, &dialled).expect("translated");
    assert_eq!(reverse(&&fake, dialled.cookie, TCP, backend), Some(dialled.destination), "what was dialled comes back");
}

fn younger_takes_the_place<A: Numbered>() {
    let fake = world::<A>();
    let old = call(true, TCP, A::number(96, 1), 80);
    let young = Call { cookie: old.cookie + u64::from(PEERS), ..old };
    let dialled = |call: &Call<A>, backend| reverse(&&fake, call.cookie, TCP, backend);
    let first = connect(&&fake, &old).expect("translated");
    assert_eq!(dialled(&young, first), None, "another socket's record");
    let second = connect(&&fake, &young).expect("translated");
    assert_eq!((dialled(&old, first), dialled(&young, second)), (None, Some(young.destination)));
}

#[test]
fn a_younger_tcp_socket_takes_the_place_of_an_older_one() {
    both(younger_takes_the_place::<V4>, younger_takes_the_place::<V6>);
}

fn what_is_refused<A: Numbered>() {
    let fake = world::<A>();
    let refused = |port| connect(&&fake, &call(true, TCP, A::number(96, 1), port));
    assert_eq!(refused(81), Err(Reason::SocketRefused), "no endpoint");
    assert_eq!(refused(83), Err(Reason::SocketRefused), "unknown port");
    assert_eq!(connect(&&fake, &call(true, TCP, A::number(7, 7), 80)), Err(Reason::SocketPassed), "no Service");
    assert_eq!(connect(&&fake, &call(true, TCP, A::loopback(), 80)), Err(Reason::SocketPassed), "plain loopback");
}

#[test]
fn refused_and_left_alone() {
    both(what_is_refused::<V4>, what_is_refused::<V6>);
}

fn source_ranges<A: Numbered>() {
    let mut fake = world::<A>();
    fake.tables.admitted = vec![(1, A::number(0, 1))];
    let mut call = call(true, TCP, A::number(50, 1), 80);
    assert_eq!(connect(&&fake, &call), Err(Reason::SocketPassed), "the kernel has not chosen an address yet");
    call.source.addr = A::loopback();
    assert_eq!(connect(&&fake, &call), Err(Reason::SocketPassed), "loopback is not what the packet will say");
    call.source.addr = A::number(0, 1);
    assert!(connect(&&fake, &call).is_ok(), "bound to an admitted address");
    fake.tables.admitted.clear();
    assert_eq!(connect(&&fake, &call), Err(Reason::SocketPassed), "dropped as a packet, not refused");
}

#[test]
fn guarded_frontends_wait_for_the_source() {
    both(source_ranges::<V4>, source_ranges::<V6>);
}

fn pods<A: Numbered>() {
    let fake = world::<A>();
    let passed = |port, addr| connect(&&fake, &call(false, TCP, addr, port)) == Err(Reason::SocketPassed);
    assert!(connect(&&fake, &call(false, TCP, A::number(96, 1), 80)).is_ok(), "cluster IP");
    assert!(passed(82, A::number(96, 1)), "affinity needs the pod's address");
    assert!(passed(30080, A::number(0, 1)), "external frontends ask for the sender or a translated source");
    assert!(passed(30080, A::loopback()), "a pod's loopback is its own");
}

#[test]
fn a_pod_is_translated_where_its_address_does_not_matter() {
    both(pods::<V4>, pods::<V6>);
}

fn bound_pod<A: Numbered>() {
    let fake = world::<A>();
    let mut call = call(false, TCP, A::number(96, 1), 82);
    call.source.addr = A::number(1, 9);
    let first = connect(&&fake, &call).expect("translated");
    for cookie in 0..20 {
        call.cookie = cookie;
        assert_eq!(connect(&&fake, &call), Ok(first), "affinity by the pod's address");
    }
}

#[test]
fn a_bound_pod_is_known() {
    both(bound_pod::<V4>, bound_pod::<V6>);
}

fn host_affinity<A: Numbered>() {
    let fake = world::<A>();
    let mut call = call(true, TCP, A::number(96, 1), 82);
    let first = connect(&&fake, &call).expect("translated");
    for (cookie, source) in [(1, A::default()), (2, A::number(0, 1)), (3, A::loopback()), (4, A::default())] {
        call.cookie = cookie;
        call.source.addr = source;
        assert_eq!(connect(&&fake, &call), Ok(first));
    }
}

#[test]
fn the_host_is_one_client() {
    both(host_affinity::<V4>, host_affinity::<V6>);
}

/// Connections opened at the same moment: whoever writes the record first chooses for all, also where the record that
/// both have found is too old to count.
fn affinity_race<A: Numbered>() {
    let fake = world::<A>();
    let call = call(true, TCP, A::number(96, 1), 82);
    for _ in 0..20 {
        for backend in [1, 2] {
            fake.rival.set(Some(Affinity { backend, seen: fake.now.get() }));
            let chosen = fake.tables.backends[&backend].addr;
            assert_eq!(connect(&&fake, &call).map(|end| end.addr), Ok(chosen));
            assert_eq!(connect(&&fake, &call).map(|end| end.addr), Ok(chosen));
            fake.pass(61);
        }
    }
}

#[test]
fn connections_at_one_moment_have_one_backend() {
    both(affinity_race::<V4>, affinity_race::<V6>);
}

fn datagrams<A: Numbered>() {
    let mut fake = world::<A>();
    let dialled = call(true, UDP, A::number(96, 1), 80);
    let first = send(&&fake, &dialled).expect("translated");
    for _ in 0..50 {
        assert_eq!(send(&&fake, &dialled), Ok(first), "one backend for one socket");
        fake.pass(100);
    }
    let others = (0..50).map(|cookie| send(&&fake, &Call { cookie, ..dialled }));
    assert!(others.into_iter().any(|other| other != Ok(first)), "other sockets go elsewhere");
    // The endpoint moves to another address: its id is about something else now.
    for backend in fake.tables.backends.values_mut() {
        backend.port = Port::new(9090);
    }
    assert_eq!(send(&&fake, &dialled).map(|end| end.port.get()), Ok(9090));
    fake.pass(1000);
    assert!(send(&&fake, &dialled).is_ok(), "an idle record is drawn anew");
}

#[test]
fn datagrams_of_a_socket_stay_together() {
    both(datagrams::<V4>, datagrams::<V6>);
}

fn spread<A: Numbered>() {
    let mut fake = world::<A>();
    for frontend in fake.tables.frontends.values_mut() {
        frontend.algorithm = svc_common::tables::Algorithm::FlowHash as u8;
    }
    let first = (0..200u64).filter(|cookie| {
        let call = Call { cookie: *cookie, ..call(true, TCP, A::number(96, 1), 80) };
        connect(&&fake, &call).is_ok_and(|end| end.addr == A::number(1, 5))
    });
    let first = first.count();
    assert!((60..140).contains(&first), "{first} of 200");
}

#[test]
fn unbound_sockets_spread_over_a_maglev_table() {
    both(spread::<V4>, spread::<V6>);
}

fn packets<A: Numbered>() {
    let fake = world::<A>();
    let source = End::new(A::number(0, 1), Port::new(40_000));
    let tuple = Tuple { source, destination: End::new(A::number(96, 1), Port::new(80)), protocol: TCP };
    assert_eq!(probe(&&fake, &tuple, false), Err(Reason::SocketPassed), "nothing begun");
    let first = probe(&&fake, &tuple, true).expect("translated");
    for _ in 0..20 {
        assert_eq!(probe(&&fake, &tuple, false), Ok(first));
    }
}

#[test]
fn a_packet_can_stand_for_a_call() {
    both(packets::<V4>, packets::<V6>);
}
