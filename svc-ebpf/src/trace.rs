//! Lines about packets and socket calls for a person who watches: off unless the agent is asked for them.
//!
//! aya-log's own switch, the global AYA_LOG_LEVEL, is a constant to the verifier, which removes all of this when it is
//! off. A line travels as the bytes of a [`Line`]: words would take more of the kernel's stack than there is.

use aya_log_ebpf::macro_support::{Level, level_enabled};
use aya_log_ebpf::trace;
use svc_common::datapath::env::{Env, Family};
use svc_common::datapath::socket::Call;
use svc_common::line::{At, Line};
use svc_common::net::{Address as _, V4, V6};
use svc_common::tuple::{End, Tuple};
use svc_common::verdict::Reason;
use zerocopy::IntoBytes as _;

use crate::env::{Kernel, count_reason};

/// Families that have lines.
pub(crate) trait Named: Family {
    /// Writes the line in the scratch.
    fn line(at: u32, ifindex: u32);
    /// Writes the line about a socket call.
    fn call_line(asked: &Call<Self>, to: &End<Self>, reason: u32);
}

#[inline(always)]
fn is_on() -> bool {
    level_enabled(Level::Trace)
}

/// Begins a line: the packet as it came. Lines stay in the scratch and are sent when the stack is free again.
#[inline(always)]
pub(crate) fn begin<A: Family>(tuple: &Tuple<A>)
where
    Kernel: Env<A>,
{
    if is_on()
        && let Some(mut scratch) = Kernel.scratch()
    {
        scratch.line.begin(tuple);
    }
}

/// Notes how the packet goes on.
#[inline(always)]
pub(crate) fn becomes<A: Family>(tuple: &Tuple<A>)
where
    Kernel: Env<A>,
{
    if is_on()
        && let Some(mut scratch) = Kernel.scratch()
    {
        scratch.line.becomes(tuple);
    }
}

/// Counts why the packet has ended as it did, and notes that.
#[inline(always)]
pub(crate) fn end<A: Family>(reason: Reason)
where
    Kernel: Env<A>,
{
    count_reason(reason);
    if is_on()
        && let Some(mut scratch) = Env::<A>::scratch(&Kernel)
    {
        scratch.line.reason = reason as u8;
    }
}

/// Sends the line about the packet.
#[inline(always)]
pub(crate) fn send<A: Named>(at: At, ifindex: u32) {
    if is_on() {
        A::line(at as u32, ifindex);
    }
}

/// Sends the line about a socket call that goes to `to`.
#[inline(always)]
pub(crate) fn call<A: Named>(asked: &Call<A>, to: &End<A>, reason: Reason) {
    if is_on() {
        A::call_line(asked, to, reason as u32);
    }
}

macro_rules! named {
    ($addr:ty, $line:ident, $call:ident) => {
        #[inline(never)]
        fn $line(at: u32, ifindex: u32) {
            let Some(mut scratch) = Env::<$addr>::scratch(&Kernel) else { return };
            scratch.line.at = at as u8;
            scratch.line.ifindex = ifindex;
            trace!(&(), "{:x}", scratch.line.as_bytes());
        }

        #[inline(never)]
        fn $call(asked: &Call<$addr>, to: &End<$addr>, reason: u32) {
            // Not in the scratch: packets interrupt socket calls.
            let line = Line {
                at: At::Socket as u8,
                reason: reason as u8,
                protocol: asked.protocol,
                version: <$addr>::VERSION,
                ifindex: 0,
                before: [asked.source.addr.wide(), asked.destination.addr.wide()],
                after: [asked.source.addr.wide(), to.addr.wide()],
                ports: [asked.source.port, asked.destination.port, asked.source.port, to.port],
            };
            trace!(&(), "{:x}", line.as_bytes());
        }

        impl Named for $addr {
            #[inline(always)]
            fn line(at: u32, ifindex: u32) {
                $line(at, ifindex);
            }

            #[inline(always)]
            fn call_line(asked: &Call<Self>, to: &End<Self>, reason: u32) {
                $call(asked, to, reason);
            }
        }
    };
}

named!(V4, line_v4, call_v4);
named!(V6, line_v6, call_v6);
