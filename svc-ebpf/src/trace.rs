//! Lines about packets and socket calls for a person who watches: off unless the agent is asked for them.
//!
//! aya-log's own switch, the global AYA_LOG_LEVEL, is a constant to the verifier, which removes all of this when it is
//! off. A line travels as the bytes of a [`Line`]: words would take more of the kernel's stack than there is.
#![expect(unsafe_code, reason = "a map value that is written in place")]

use aya_log_ebpf::macro_support::{Level, level_enabled};
use aya_log_ebpf::trace;
use svc_common::datapath::env::{Env, Family};
use svc_common::datapath::socket::Call;
use svc_common::line::{At, Line};
use svc_common::net::{V4, V6};
use svc_common::tuple::{End, Tuple};
use svc_common::verdict::Reason;
use zerocopy::IntoBytes as _;

use crate::env::{Kernel, count_reason};
use crate::maps::CALL_LINE;

/// Families that have lines.
pub(crate) trait Named: Family {
    /// Writes the line in the scratch.
    fn line(at: u32, ifindex: u32);
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

/// The line about a socket call. Not in the scratch: packets interrupt socket calls.
#[inline(always)]
fn call_line() -> Option<&'static mut Line> {
    // SAFETY: a value of this CPU alone, used by one function at a time. A task that preempts another between two of them
    // mixes their lines, which no packet and no verdict depends on; any bytes are a valid Line.
    CALL_LINE.get_ptr_mut(0).map(|line| unsafe { &mut *line })
}

/// Begins the line about a socket call. In steps, as for packets.
#[inline(always)]
pub(crate) fn call_begins<A: Family>(asked: &Call<A>) {
    if is_on()
        && let Some(line) = call_line()
    {
        line.begin(&Tuple { source: asked.source, destination: asked.destination, protocol: asked.protocol });
    }
}

/// Notes where the call goes.
#[inline(always)]
pub(crate) fn call_leads_to<A: Family>(end: &End<A>) {
    if is_on()
        && let Some(line) = call_line()
    {
        line.leads_to(end);
    }
}

/// Counts why the call has ended as it did, and sends its line.
#[inline(always)]
pub(crate) fn call_ends(reason: Reason) {
    count_reason(reason);
    if is_on() {
        send_call(reason as u32);
    }
}

#[inline(never)]
fn send_call(reason: u32) {
    let Some(line) = call_line() else { return };
    (line.at, line.reason, line.ifindex) = (At::Socket as u8, reason as u8, 0);
    trace!(&(), "{:x}", line.as_bytes());
}

macro_rules! named {
    ($addr:ty, $line:ident) => {
        #[inline(never)]
        fn $line(at: u32, ifindex: u32) {
            let Some(mut scratch) = Env::<$addr>::scratch(&Kernel) else { return };
            scratch.line.at = at as u8;
            scratch.line.ifindex = ifindex;
            trace!(&(), "{:x}", scratch.line.as_bytes());
        }

        impl Named for $addr {
            #[inline(always)]
            fn line(at: u32, ifindex: u32) {
                $line(at, ifindex);
            }
        }
    };
}

named!(V4, line_v4);
named!(V6, line_v6);
