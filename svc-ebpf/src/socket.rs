//! The socket hooks: connect, sendmsg, recvmsg and getpeername, IPv4 and IPv6.
//!
//! An IPv6 socket that talks to a v4-mapped address (::ffff:a.b.c.d) talks IPv4: its call is looked up there.

use aya_ebpf::macros::{cgroup_sock_addr, classifier};
use aya_ebpf::programs::{SockAddrContext, TcContext};
use svc_common::datapath::env::Family;
use svc_common::datapath::socket::{self, Call, Sockets};
use svc_common::header::ether;
use svc_common::net::{V4, V6};
use svc_common::parse::{self, Packet, event};
use svc_common::tuple::{End, Tuple};
use svc_common::verdict::{Outcome, Reason};

use crate::call::SocketCall;
use crate::env::{Kernel, count_reason};
use crate::globals;
use crate::packet::Skb;
use crate::rewrite::{Wire, rewrite};
use crate::tc;
use crate::trace;

/// Verdicts of a socket program.
const REFUSE: i32 = 0;
const PROCEED: i32 = 1;

const ECONNREFUSED: i32 = 111;

/// connect(2) of an IPv4 socket.
#[cgroup_sock_addr(connect4)]
pub(crate) fn connect4(ctx: SockAddrContext) -> i32 {
    translate_v4(&SocketCall::new(&ctx), socket::connect)
}

/// connect(2) of an IPv6 socket.
#[cgroup_sock_addr(connect6)]
pub(crate) fn connect6(ctx: SockAddrContext) -> i32 {
    translate_v6(&SocketCall::new(&ctx), socket::connect, socket::connect)
}

/// A datagram of an unconnected IPv4 socket.
#[cgroup_sock_addr(sendmsg4)]
pub(crate) fn sendmsg4(ctx: SockAddrContext) -> i32 {
    translate_v4(&SocketCall::new(&ctx), socket::send)
}

/// A datagram of an unconnected IPv6 socket.
#[cgroup_sock_addr(sendmsg6)]
pub(crate) fn sendmsg6(ctx: SockAddrContext) -> i32 {
    translate_v6(&SocketCall::new(&ctx), socket::send, socket::send)
}

/// The sender of a datagram, IPv4.
#[cgroup_sock_addr(recvmsg4)]
pub(crate) fn recvmsg4(ctx: SockAddrContext) -> i32 {
    restore_v4(&SocketCall::new(&ctx))
}

/// The sender of a datagram, IPv6.
#[cgroup_sock_addr(recvmsg6)]
pub(crate) fn recvmsg6(ctx: SockAddrContext) -> i32 {
    restore_v6(&SocketCall::new(&ctx))
}

/// The peer of an IPv4 socket.
#[cgroup_sock_addr(getpeername4)]
pub(crate) fn getpeername4(ctx: SockAddrContext) -> i32 {
    restore_v4(&SocketCall::new(&ctx))
}

/// The peer of an IPv6 socket.
#[cgroup_sock_addr(getpeername6)]
pub(crate) fn getpeername6(ctx: SockAddrContext) -> i32 {
    restore_v6(&SocketCall::new(&ctx))
}

/// How a kind of call is translated: connect or send.
type Translate<A> = fn(&Kernel, &Call<A>) -> Result<End<A>, Reason>;

/// Whether the process is in the node's own namespace; `None`: its calls are not ours.
#[inline(always)]
fn host(call: &SocketCall) -> Option<bool> {
    let host = call.netns() == globals::netns_cookie();
    (host || globals::socket_all()).then_some(host)
}

#[inline(always)]
fn translate_v4(call: &SocketCall, translate: Translate<V4>) -> i32 {
    let Some(host) = host(call) else { return PROCEED };
    let asked = describe(call, host, call.bound_v4(), call.end_v4());
    finish(call, translate(&Kernel, &asked), SocketCall::set_end_v4)
}

#[inline(always)]
fn translate_v6(call: &SocketCall, translate: Translate<V6>, mapped: Translate<V4>) -> i32 {
    let Some(host) = host(call) else { return PROCEED };
    let end = call.end_v6();
    match unmapped(end) {
        Some(end) => {
            let asked = describe(call, host, call.bound_v4(), end);
            finish(call, mapped(&Kernel, &asked), SocketCall::set_end_mapped)
        }
        None => {
            let asked = describe(call, host, call.bound_v6(), end);
            finish(call, translate(&Kernel, &asked), SocketCall::set_end_v6)
        }
    }
}

#[inline(always)]
fn describe<A: Family>(call: &SocketCall, host: bool, source: End<A>, destination: End<A>) -> Call<A> {
    let asked = Call { cookie: call.cookie(), source, destination, protocol: call.protocol(), host };
    trace::call_begins(&asked);
    asked
}

/// Carries out what was decided about a call.
#[inline(always)]
fn finish<A: Family>(call: &SocketCall, result: Result<End<A>, Reason>, set: fn(&SocketCall, End<A>)) -> i32 {
    match result {
        Ok(end) => {
            set(call, end);
            trace::call_leads_to(&end);
            trace::call_ends(Reason::SocketTranslated);
            PROCEED
        }
        // Where the kernel cannot be told the error, the packet that follows is refused at TC.
        Err(reason) if reason.outcome() == Outcome::Reject && globals::can_refuse() => {
            trace::call_ends(reason);
            call.fail_with(ECONNREFUSED);
            REFUSE
        }
        Err(_) => {
            trace::call_ends(Reason::SocketPassed);
            PROCEED
        }
    }
}

#[inline(always)]
fn restore_v4(call: &SocketCall) -> i32 {
    if host(call).is_some()
        && let Some(end) = socket::reverse(&Kernel, call.cookie(), call.protocol(), call.end_v4())
    {
        call.set_end_v4(end);
    }
    PROCEED
}

#[inline(always)]
fn restore_v6(call: &SocketCall) -> i32 {
    if host(call).is_none() {
        return PROCEED;
    }
    let (cookie, protocol, end) = (call.cookie(), call.protocol(), call.end_v6());
    match unmapped(end) {
        Some(end) => {
            if let Some(end) = socket::reverse(&Kernel, cookie, protocol, end) {
                call.set_end_mapped(end);
            }
        }
        None => {
            if let Some(end) = socket::reverse(&Kernel, cookie, protocol, end) {
                call.set_end_v6(end);
            }
        }
    }
    PROCEED
}

/// The IPv4 end inside a v4-mapped one.
#[inline(always)]
fn unmapped(end: End<V6>) -> Option<End<V4>> {
    let words = end.addr.words();
    let mapped = words[0] | words[1] == 0 && words[2] == 0xffffu32.to_be();
    mapped.then(|| End::new(V4::from_bits(words[3]), end.port))
}

/// A packet that stands for the call by which a process of the host would cause it; attached nowhere, run by the agent.
///
/// Translated: TC_ACT_OK, with the destination rewritten. Refused: TC_ACT_SHOT. Left to the packet hooks:
/// TC_ACT_UNSPEC.
#[classifier]
pub(crate) fn socket_probe(ctx: TcContext) -> i32 {
    const OK: i32 = 0;
    let skb = Skb::new(ctx.skb.skb);
    let reason = match probe(&skb) {
        Ok(()) => Reason::SocketTranslated,
        Err(reason) => reason,
    };
    count_reason(reason);
    match reason.outcome() {
        Outcome::Forward => OK,
        Outcome::Reject => tc::SHOT,
        Outcome::Pass | Outcome::Drop => tc::NEXT,
    }
}

#[inline(always)]
fn probe(skb: &Skb) -> Result<(), Reason> {
    match tc::network(skb)? {
        (l3, ether::IPV4) => probe_packet(skb, &parse::ipv4(skb, l3)?),
        (l3, _) => probe_packet(skb, &parse::ipv6(skb, l3)?),
    }
}

#[inline(always)]
fn probe_packet<A: Wire>(skb: &Skb, packet: &Packet<A>) -> Result<(), Reason>
where
    Kernel: Sockets<A>,
{
    let destination = socket::probe(&Kernel, &packet.tuple, packet.event & event::OPEN != 0)?;
    rewrite(skb, packet, &Tuple { destination, ..packet.tuple })
}
