//! The protocol by which concurrent packets, the collector, eviction and the agent share the entries of a flow, checked
//! in every order for small numbers; and that the checker finds a protocol that is wrong.

use std::net::Ipv4Addr;

use stateright::{Checker, Model};
use svc_common::net::{Port, V4};
use svc_common::parse::event;
use svc_common::tables::{Backend, Device, Frontend, FrontendKey, Rule, SlotRange};
use svc_common::tuple::{End, Tuple};
use svc_tests::checker::protocol::{Outcome, Scenario, Script, Task};
use svc_tests::checker::replay::Mutation;
use svc_tests::fake::Tables;

const TCP: u8 = 6;
const UDP: u8 = 17;
const FIRST: u8 = event::OPEN | event::FIRST;

fn end(third: u8, fourth: u8, port: u16) -> End<V4> {
    End::new(V4::new(Ipv4Addr::new(10, 0, third, fourth)), Port::new(port))
}

/// A client's tuple to one of two services: 10.0.96.1 and 10.0.96.2.
fn request(client: u8, service: u8, protocol: u8) -> Tuple<V4> {
    Tuple { source: end(7, client, 40_000), destination: end(96, service, 80), protocol }
}

/// Two services with the same two backends, 10.0.1.1 and 10.0.1.2; a die decides which one a packet draws.
fn tables(rule: u8) -> Tables<V4> {
    let mut tables = Tables::<V4>::default();
    for id in [1, 2] {
        let end = end(1, id as u8, 8080);
        tables.backends.insert(id, Backend { addr: end.addr, port: end.port, flags: 0 });
    }
    tables.slots = vec![0, 1, 2];
    for service in [1, 2] {
        let set = SlotRange { base: 1, len: 2 };
        let frontend = Frontend { service, cluster: set, local: set, rules: [Rule(rule); 3], ..Frontend::default() };
        for protocol in [TCP, UDP] {
            let end = end(96, service as u8, 80);
            tables.add_frontend(FrontendKey { addr: end.addr, port: end.port, protocol, zero: 0 }, frontend);
        }
    }
    tables.devices.insert(2, Device { source_v4: end(0, 1, 1).addr, ..Device::default() });
    // Ports to translate to: few, so that they are contested.
    (tables.settings.snat_port_first, tables.settings.snat_port_last) = (20_000, 20_002);
    tables
}

fn scenario(rule: u8) -> Scenario {
    Scenario {
        tables: tables(rule),
        prologue: Vec::new(),
        before: None,
        pause: 0,
        actors: Vec::new(),
        evictions: 0,
        epilogue: Vec::new(),
        room: 12,
        mutation: None,
        verdict: |race, epilogue| consistent(race, epilogue),
    }
}

fn delivered(outcomes: &[Outcome]) -> Vec<(Tuple<V4>, Tuple<V4>)> {
    let delivered = |outcome: &Outcome| match outcome {
        Outcome::Delivered(from, to) => Some((*from, *to)),
        _ => None,
    };
    outcomes.iter().filter_map(delivered).collect()
}

/// Packets of one flow all reach one endpoint, and one way once the race is over; packets of different flows never look
/// the same to an endpoint; no packet is lost.
///
/// Two packets that reach the backend's boundary at the same moment, the first of their flow, may both be given a
/// source; the endpoint's answers to either come back, and all later packets have one of the two.
fn consistent(race: &[Outcome], epilogue: &[Outcome]) -> bool {
    let all = [race, epilogue].concat();
    let (ways, last) = (delivered(&all), delivered(epilogue));
    let one_endpoint = ways.iter().all(|(from, to)| {
        ways.iter().all(|(other, way)| if from == other { to.destination == way.destination } else { to != way })
    });
    let one_way = last.iter().all(|(from, to)| last.iter().all(|(other, way)| from != other || to == way));
    one_endpoint && one_way && nothing_leaks(race, epilogue) && !all.iter().any(|o| matches!(o, Outcome::Ended(_)))
}

/// What is delivered has a backend as its destination, what is returned has the service as its source, and after the
/// race everything works.
fn nothing_leaks(race: &[Outcome], epilogue: &[Outcome]) -> bool {
    let whole = |outcome: &Outcome| match outcome {
        Outcome::Delivered(_, to) => to.destination.port.get() == 8080,
        Outcome::Returned(request, reply) => *reply == request.reversed(),
        Outcome::Ended(_) => true,
    };
    race.iter().chain(epilogue).all(whole) && !epilogue.iter().any(|outcome| matches!(outcome, Outcome::Ended(_)))
}

/// Whether all that is delivered goes to the backend with this number.
fn all_to(backend: u8, outcomes: &[Outcome]) -> bool {
    delivered(outcomes).iter().all(|(_, to)| to.destination == end(1, backend, 8080))
}

/// Number of states, or the order of events that goes wrong and what it leads to.
fn check(scenario: Scenario) -> Result<usize, String> {
    let checker = scenario.checker().spawn_bfs().join();
    match checker.discoveries().into_values().next() {
        None => Ok(checker.unique_state_count()),
        Some(path) => {
            let outcomes = checker.model().outcomes(path.last_state());
            Err(format!("{:?}\n{outcomes:#?}\n{:?}", path.clone().into_actions(), path.last_state().entries()))
        }
    }
}

fn holds(name: &str, scenario: Scenario) {
    match check(scenario) {
        Ok(states) => println!("{name}: {states} states"),
        Err(path) => panic!("{name}: {path}"),
    }
}

const RULES: [u8; 2] = [0, Rule::SNAT];

fn script(die: u32, tasks: &[Task]) -> Script {
    Script { tasks: tasks.to_vec(), die }
}

fn datagram(client: u8, service: u8) -> Task {
    Task::Request(request(client, service, UDP), event::OPEN)
}

const REPLY: Task = Task::Reply(0);
const DATAGRAM_REPLY: Task = Task::Reply(event::OPEN);

fn first_packets(rule: u8, protocol: u8, opening: u8) -> Scenario {
    let task = Task::Request(request(1, 1, protocol), opening);
    let later = Task::Request(request(1, 1, protocol), opening & !FIRST);
    Scenario {
        actors: vec![script(0, &[task, REPLY]), script(1, &[task, REPLY])],
        epilogue: vec![later, REPLY, later],
        ..scenario(rule)
    }
}

#[test]
fn first_packets_on_two_cpus() {
    for rule in RULES {
        holds("TCP", first_packets(rule, TCP, FIRST));
    }
}

#[test]
fn first_datagrams_on_two_cpus() {
    for rule in RULES {
        let scenario = first_packets(rule, UDP, event::OPEN);
        let epilogue = vec![datagram(1, 1), DATAGRAM_REPLY, datagram(1, 1)];
        holds("UDP", Scenario { epilogue, ..scenario });
    }
}

/// Two flows that would look the same to the endpoint: one client port to two services, or two clients behind one node.
fn lookalikes(rule: u8, clients: [u8; 2], services: [u8; 2]) -> Scenario {
    let [first, second] = [datagram(clients[0], services[0]), datagram(clients[1], services[1])];
    Scenario {
        actors: vec![script(0, &[first, DATAGRAM_REPLY]), script(0, &[second, DATAGRAM_REPLY])],
        epilogue: vec![first, DATAGRAM_REPLY, second, DATAGRAM_REPLY],
        ..scenario(rule)
    }
}

#[test]
fn flows_that_look_alike_are_told_apart() {
    for rule in RULES {
        holds("two services", lookalikes(rule, [1, 1], [1, 2]));
        holds("two clients", lookalikes(rule, [1, 2], [1, 1]));
    }
}

/// Jiffies of so many seconds.
fn seconds(number: u32) -> u32 {
    number * Tables::<V4>::HZ
}

#[test]
fn the_collector_leaves_what_lives() {
    for rule in RULES {
        holds(
            "collector, living flow",
            Scenario {
                prologue: vec![datagram(1, 1), DATAGRAM_REPLY],
                pause: seconds(100),
                actors: vec![script(1, &[datagram(1, 1), DATAGRAM_REPLY]), script(0, &[Task::Collect])],
                epilogue: vec![datagram(1, 1), DATAGRAM_REPLY],
                verdict: |race, epilogue| consistent(race, epilogue) && all_to(1, race) && all_to(1, epilogue),
                ..scenario(rule)
            },
        );
    }
}

#[test]
fn a_packet_meets_the_collector_on_an_expired_flow() {
    for rule in RULES {
        holds(
            "collector, expired flow",
            Scenario {
                prologue: vec![datagram(1, 1), DATAGRAM_REPLY],
                pause: seconds(200),
                actors: vec![script(1, &[datagram(1, 1)]), script(0, &[Task::Collect])],
                epilogue: vec![datagram(1, 1), DATAGRAM_REPLY],
                verdict: |_, epilogue| nothing_leaks(&[], epilogue),
                ..scenario(rule)
            },
        );
    }
}

/// Whatever is lost is put back by the next request that renews, which is at most a second away.
#[test]
fn an_evicted_entry_is_missed_for_a_second_at_most() {
    for rule in RULES {
        holds(
            "eviction",
            Scenario {
                prologue: vec![datagram(1, 1), DATAGRAM_REPLY],
                pause: seconds(2),
                actors: vec![script(0, &[datagram(1, 1), datagram(1, 1)])],
                evictions: 1,
                epilogue: vec![Task::Pass(seconds(1)), datagram(1, 1), DATAGRAM_REPLY],
                verdict: nothing_leaks,
                ..scenario(rule)
            },
        );
    }
}

/// The endpoint of a flow goes: tables first, then the sweep, and a packet at the same time.
fn swept(rule: u8, task: Task) -> Scenario {
    let mut after = tables(rule);
    after.slots = vec![0, 2, 2];
    Scenario {
        tables: after,
        before: Some(tables(rule)),
        prologue: vec![datagram(1, 1), DATAGRAM_REPLY],
        pause: seconds(2),
        actors: vec![script(0, &[task]), script(0, &[Task::Sweep(1)])],
        epilogue: vec![datagram(1, 1), DATAGRAM_REPLY],
        verdict: |race, epilogue| nothing_leaks(race, epilogue) && all_to(2, epilogue),
        ..scenario(rule)
    }
}

#[test]
fn a_datagram_meets_the_sweep() {
    for rule in RULES {
        holds("sweep, request", swept(rule, datagram(1, 1)));
    }
}

#[test]
fn an_answer_meets_the_sweep() {
    for rule in RULES {
        // The last words of an endpoint that has gone may reach the client as what they are; no TCP flow is swept.
        let verdict = |_: &[Outcome], epilogue: &[Outcome]| nothing_leaks(&[], epilogue) && all_to(2, epilogue);
        holds("sweep, reply", Scenario { verdict, ..swept(rule, DATAGRAM_REPLY) });
    }
}

/// A connection over the node's ports, closed on both sides; three of them take all ports that there are.
fn closed(client: u8, clock: u16) -> [Task; 4] {
    let fin = Task::Request(request(client, 1, TCP), event::FIN);
    [Task::Dial(request(client, 1, TCP), clock), REPLY, Task::Reply(event::FIN), fin]
}

/// Every port of the node belongs to a connection that is just over, or to one that lives, and two clients come at once.
/// They get ports, one each, and nobody gets that of the living connection.
fn dry(clocks: [u16; 2]) -> Scenario {
    let living = [Task::Dial(request(1, 1, TCP), 100), REPLY];
    let last = Task::Request(request(1, 1, TCP), 0);
    let dials = [(4, clocks[0]), (5, clocks[1])].map(|(client, clock)| Task::Dial(request(client, 1, TCP), clock));
    let later = [4, 5].map(|client| Task::Request(request(client, 1, TCP), 0));
    Scenario {
        prologue: [&living[..], &closed(2, 100), &closed(3, 300)].concat(),
        pause: seconds(2),
        actors: dials.iter().map(|dial| script(0, &[*dial])).collect(),
        epilogue: vec![last, later[0], REPLY, later[1], REPLY],
        room: 18,
        ..scenario(Rule::SNAT)
    }
}

#[test]
fn ports_of_finished_connections_are_shared_out() {
    holds("both ahead of one", dry([200, 200]));
    holds("no timestamps", dry([0, 0]));
}

#[test]
fn a_wrong_protocol_is_found() {
    let found = |scenario: Scenario, mutation| {
        let broken = Scenario { mutation: Some(mutation), ..scenario };
        check(broken).is_err()
    };
    assert!(found(first_packets(0, TCP, FIRST), Mutation::InsertReplaces), "two packets, two endpoints");
    assert!(found(lookalikes(0, [1, 1], [1, 2]), Mutation::InsertReplaces), "one flow takes another's entry");
    assert!(found(lookalikes(Rule::SNAT, [1, 2], [1, 1]), Mutation::InsertReplaces), "two flows, one port");
    assert!(found(dry([200, 200]), Mutation::InsertReplaces), "one port for two");
    assert!(found(swept(0, datagram(1, 1)), Mutation::DeleteIsLost), "the endpoint that has gone");
}
