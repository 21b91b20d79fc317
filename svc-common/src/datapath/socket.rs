//! Translation at socket calls: once a connection instead of once a packet.
//!
//! Selection is the one of the packet hooks: the same [`classify::frontend`], the same [`select::choose`]. What a
//! call does not say yet decides what can be done here; everything else is left to the packet hooks, which see the
//! packet that follows and come to the verdict of the specification by themselves:
//!
//! * An unbound socket has no source address. A process of the host is sender class Host whichever address the kernel
//!   picks for it, and one client for affinity; but loadBalancerSourceRanges judge that very address, so a guarded
//!   frontend is left alone. For a pod neither affinity nor the detector can be asked without its address: it is
//!   served here at cluster IPs without affinity.
//! * A source can be kept here, not translated: who is not the host and has to be translated is left alone.
//! * Silence cannot be given at a call: what is to be dropped is left alone, and dropped as a packet.

use crate::hash::mix;
use crate::net::{Port, Protocol};
use crate::tables::{Frontend, FrontendKey, Peer, Rule, Sender, SocketFlow, SocketKey, settings, socket};
use crate::tuple::{End, Tuple};
use crate::verdict::{Outcome, Reason};

use super::env::{Env, Family};
use super::{classify, select};

/// What socket programs ask of their surroundings besides [`Env`].
pub trait Sockets<A: Family>: Env<A> {
    /// A socket record.
    fn socket(&self, key: &SocketKey<A>) -> Option<SocketFlow<A>>;
    /// Stores a socket record; whether it was stored.
    fn set_socket(&self, key: &SocketKey<A>, record: &SocketFlow<A>) -> bool;
    /// What stands in the place of a TCP socket: its own record, or another one's.
    fn peer(&self, cookie: u64) -> Option<Peer<A>>;
    /// Stores the record of a TCP socket.
    fn set_peer(&self, cookie: u64, peer: &Peer<A>);
}

/// What a socket call says.
#[derive(Clone, Copy, Debug)]
pub struct Call<A> {
    /// Cookie of the socket.
    pub cookie: u64,
    /// What the socket is bound to; address and port are zero if nothing.
    pub source: End<A>,
    /// Where the call goes.
    pub destination: End<A>,
    /// IP protocol number.
    pub protocol: u8,
    /// The process is in the node's own network namespace.
    pub host: bool,
}

/// connect(): the backend to connect to, or why the call is refused or left alone.
#[inline(always)]
pub fn connect<A: Family, E: Sockets<A>>(env: &E, call: &Call<A>) -> Result<End<A>, Reason> {
    let record = open(env, call)?;
    // Without its record only a socket's getpeername() is wrong. One of TCP needs no more than a place in a table, which
    // costs a tenth of an entry in a map that has to make room; the agent has to find those of UDP when their endpoint goes.
    if call.protocol == Protocol::Tcp as u8 {
        env.set_peer(call.cookie, &peer_record(call, &record));
    } else {
        env.set_socket(&reverse_key(call, &record), &reverse_record(call, &record));
    }
    Ok(End::new(record.addr, record.port))
}

/// sendmsg() of an unconnected socket: datagrams to one service address stay with one backend.
#[inline(always)]
pub fn send<A: Family, E: Sockets<A>>(env: &E, call: &Call<A>) -> Result<End<A>, Reason> {
    if let Some(end) = established(env, call) {
        return Ok(end);
    }
    let record = open(env, call)?;
    // An answer that nobody turns back would come from a stranger, so this record comes first.
    if !env.set_socket(&reverse_key(call, &record), &reverse_record(call, &record)) {
        return Err(Reason::SocketPassed);
    }
    env.set_socket(&forward_key(call), &record);
    Ok(End::new(record.addr, record.port))
}

/// The same decision for a packet that stands for a call: what `explain` asks. A connection is found again by its
/// five-tuple, so only a packet that begins one (`opening`) makes a choice.
#[inline(always)]
pub fn probe<A: Family, E: Sockets<A>>(env: &E, tuple: &Tuple<A>, opening: bool) -> Result<End<A>, Reason> {
    let ends = u64::from(tuple.source.addr.fold()) << 32 | u64::from(tuple.source.port.bits());
    let call = Call {
        cookie: ends,
        source: tuple.source,
        destination: tuple.destination,
        protocol: tuple.protocol,
        host: true,
    };
    if opening { send(env, &call) } else { established(env, &call).ok_or(Reason::SocketPassed) }
}

/// recvmsg() and getpeername(): the service address that the process knows for this peer.
#[inline(always)]
pub fn reverse<A: Family, E: Sockets<A>>(env: &E, cookie: u64, protocol: u8, peer: End<A>) -> Option<End<A>> {
    if protocol == Protocol::Tcp as u8 {
        let record = env.peer(cookie).filter(|record| record.cookie == words(cookie))?;
        let dialled = End::new(record.service, record.service_port);
        return (End::new(record.backend, record.backend_port) == peer).then_some(dialled);
    }
    let record = env.socket(&key(cookie, protocol, peer, socket::REVERSE))?;
    Some(End::new(record.addr, record.port))
}

/// The backend to which this socket's datagrams to this service address go already. Records of endpoints that have
/// gone are deleted by the agent, as flows are.
#[inline(always)]
fn established<A: Family, E: Sockets<A>>(env: &E, call: &Call<A>) -> Option<End<A>> {
    let key = forward_key(call);
    let mut record = env.socket(&key)?;
    let (now, hz) = (env.now(), env.hz());
    let age = now.wrapping_sub(record.seen);
    let lifetime = match Protocol::from_number(call.protocol) {
        Some(Protocol::Udp) => env.timeouts().stream,
        _ => env.timeouts().established,
    };
    if u64::from(age) > u64::from(lifetime) * u64::from(hz) {
        return None;
    }
    // An id can be given out anew; the record is about the address.
    let backend = env.backend(record.backend)?;
    if backend.addr != record.addr || backend.port != record.port {
        return None;
    }
    if age >= hz {
        record.seen = now;
        env.set_socket(&key, &record);
        env.set_socket(&reverse_key(call, &record), &reverse_record(call, &record));
    }
    Some(End::new(record.addr, record.port))
}

/// Chooses a backend for a call; the forward record says which.
#[inline(always)]
fn open<A: Family, E: Sockets<A>>(env: &E, call: &Call<A>) -> Result<SocketFlow<A>, Reason> {
    let (frontend, choice) = decide(env, call).map_err(|reason| match reason.outcome() {
        Outcome::Reject => Reason::SocketRefused,
        Outcome::Forward | Outcome::Pass | Outcome::Drop => Reason::SocketPassed,
    })?;
    // How long the connection lasts is not seen from here: it does not count as active.
    env.count_opened(frontend.service, choice.id);
    env.count_closed(choice.id);
    Ok(SocketFlow {
        addr: choice.backend.addr,
        port: choice.backend.port,
        zero: 0,
        service: frontend.service,
        backend: choice.id,
        seen: env.now(),
    })
}

#[inline(always)]
fn decide<A: Family, E: Sockets<A>>(env: &E, call: &Call<A>) -> Result<(Frontend, select::Choice<A>), Reason> {
    // The kernel asks nobody about the calls of other protocols; their packets are translated.
    if call.protocol != Protocol::Tcp as u8 && call.protocol != Protocol::Udp as u8 {
        return Err(Reason::SocketPassed);
    }
    // A loopback address leaves no node: it says as little about the packets to come as none.
    let known = call.source.addr != A::default() && !call.source.addr.is_loopback();
    let mut tuple = Tuple { source: call.source, destination: call.destination, protocol: call.protocol };
    if tuple.source.port == Port::NONE {
        // Stands for the port that the kernel will pick: connections spread, each stays where it is.
        tuple.source.port = Port::new(mix(call.cookie as u32) as u16);
    }
    let frontend = dialled(env, call, &tuple)?;
    let flags = env.settings().map_or(0, |settings| settings.flags);
    let sender = if call.host && !known {
        Sender::Host
    } else if !call.host && flags & settings::DETECT_DEVICE != 0 {
        // The device by which its packets would arrive is not known, but that they come out of a pod is.
        Sender::Pod
    } else if known {
        classify::sender(env, call.source.addr, 0)
    } else if flags & settings::DETECT_PREFIX != 0 {
        Sender::Pod
    } else {
        Sender::Other
    };
    let asks_for_it = frontend.has(Frontend::SOURCE_RANGES)
        || (!call.host && (frontend.affinity != 0 || frontend.has(Frontend::EXTERNAL)));
    let rule = match sender {
        Sender::Pod => frontend.rules[0],
        Sender::Host => frontend.rules[1],
        Sender::Other => frontend.rules[2],
    };
    let foreign = !matches!(sender, Sender::Host) && rule.has(Rule::SNAT);
    if (asks_for_it && !known) || foreign {
        return Err(Reason::SocketPassed);
    }
    if !known {
        tuple.source.addr = env.settings().map_or(A::default(), A::primary);
    }
    let choice = select::choose(env, &frontend, sender, &tuple)?;
    Ok((frontend, choice))
}

/// The frontend of a call. Only here do node ports answer on loopback addresses, all of which are one.
#[inline(always)]
fn dialled<A: Family, E: Sockets<A>>(env: &E, call: &Call<A>, tuple: &Tuple<A>) -> Result<Frontend, Reason> {
    if !call.destination.addr.is_loopback() {
        return classify::frontend(env, tuple, true);
    }
    let key = FrontendKey { addr: A::loopback(), port: call.destination.port, protocol: call.protocol, zero: 0 };
    let known = call.host && classify::may_be_frontend(env, key.addr);
    let frontend = if known { env.frontend(&key) } else { None };
    frontend.filter(|frontend| frontend.has(Frontend::LOOPBACK)).ok_or(Reason::NotService)
}

#[inline(always)]
fn forward_key<A: Family>(call: &Call<A>) -> SocketKey<A> {
    key(call.cookie, call.protocol, call.destination, socket::FORWARD)
}

#[inline(always)]
fn reverse_key<A: Family>(call: &Call<A>, record: &SocketFlow<A>) -> SocketKey<A> {
    key(call.cookie, call.protocol, End::new(record.addr, record.port), socket::REVERSE)
}

/// What the process dialled, also where that was one of many loopback addresses.
#[inline(always)]
fn reverse_record<A: Family>(call: &Call<A>, record: &SocketFlow<A>) -> SocketFlow<A> {
    SocketFlow { addr: call.destination.addr, port: call.destination.port, ..*record }
}

/// The same for a socket of TCP.
#[inline(always)]
fn peer_record<A: Family>(call: &Call<A>, record: &SocketFlow<A>) -> Peer<A> {
    Peer {
        cookie: words(call.cookie),
        backend: record.addr,
        service: call.destination.addr,
        backend_port: record.port,
        service_port: call.destination.port,
        service_id: record.service,
        seen: record.seen,
    }
}

/// A cookie as records have it.
#[inline(always)]
const fn words(cookie: u64) -> [u32; 2] {
    [cookie as u32, (cookie >> 32) as u32]
}

#[inline(always)]
fn key<A: Family>(cookie: u64, protocol: u8, end: End<A>, kind: u8) -> SocketKey<A> {
    SocketKey { cookie: words(cookie), addr: end.addr, port: end.port, kind, protocol }
}
