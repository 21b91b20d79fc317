//! Fragments: who comes later than the first of his datagram finds his ports; who comes before it waits here, as nobody can
//! say yet where he belongs.
//!
//! A frame that waits is copied into a map, and the packet ends. When the first fragment has come and finds that others
//! wait, it sends a clone of itself through the same hook again, then takes the shape of each of them and does the same,
//! and ends itself. So every hook sees a first before its others. Of the two that can miss each other on two CPUs, the
//! first stores its ports and then looks for who waits; the later one stores itself and then looks for the ports.
#![expect(unsafe_code, reason = "values of maps are handed to helpers by pointers")]

use aya_ebpf::bindings::BPF_NOEXIST;
use svc_common::datapath::env::{Env, Family};
use svc_common::datapath::fragment;
use svc_common::net::{Port, Protocol, V4, V6};
use svc_common::parse::Piece;
use svc_common::tables::{FragmentKey, HELD, HELD_BYTES, Held};
use svc_common::tuple::{End, Tuple};
use svc_common::verdict::Reason;

use crate::env::Kernel;
use crate::globals;
use crate::maps::{FRAME, HELD_V4, HELD_V6, RELEASING};
use crate::packet::Skb;
use crate::tc::{self, AGAIN, SHOT};
use crate::trace;

/// Number of bytes of the shortest packet. A limit and not a zero: kernels before 6.9 do not conclude from "not 0" that it is
/// at least 1.
const SHORTEST: u32 = size_of::<svc_common::header::Ipv4>() as u32;

/// The map of a family.
pub(crate) trait Waiting: Family {
    /// A frame that waits.
    fn waiting(key: &FragmentKey<Self>) -> Option<*mut Held>;
    /// Lets a frame wait; whether it does.
    fn wait(key: &FragmentKey<Self>, frame: &Held) -> bool;
    /// Waits no more; whether it still did.
    fn leave(key: &FragmentKey<Self>) -> bool;
}

macro_rules! waiting {
    ($addr:ty, $map:ident) => {
        impl Waiting for $addr {
            #[inline(always)]
            fn waiting(key: &FragmentKey<Self>) -> Option<*mut Held> {
                $map.get_ptr_mut(key)
            }

            #[inline(always)]
            fn wait(key: &FragmentKey<Self>, frame: &Held) -> bool {
                $map.insert(key, frame, u64::from(BPF_NOEXIST)).is_ok()
            }

            #[inline(always)]
            fn leave(key: &FragmentKey<Self>) -> bool {
                $map.remove(key).is_ok()
            }
        }
    };
}

waiting!(V4, HELD_V4);
waiting!(V6, HELD_V6);

/// Gives the fragment in the scratch its ports and says [`AGAIN`]: the function that has read it can go on. Or its
/// verdict, if it waits or nobody can tell whose it is. `inwards`: it has arrived.
#[inline(always)]
pub(crate) fn piece<A: Waiting>(
    skb: &Skb,
    scratch: &mut <Kernel as Env<A>>::Scratch,
    inwards: bool,
    marked: bool,
) -> i32
where
    Kernel: Env<A>,
{
    let waits = globals::hold_fragments() && Protocol::from_number(scratch.packet.tuple.protocol).is_some();
    let key = fragment::key(&scratch.packet);
    match fragment::resolve(&Kernel, scratch, marked) {
        Ok(()) if waits && scratch.packet.piece == Piece::First => release(skb, key, inwards),
        Ok(()) => AGAIN,
        Err(reason) if waits => hold(skb, scratch, key).unwrap_or_else(|| tc::conclude::<A>(reason)),
        Err(reason) => tc::conclude::<A>(reason),
    }
}

/// Lets the fragment in the scratch wait. `None`: there is no room.
#[inline(always)]
fn hold<A: Waiting>(skb: &Skb, scratch: &mut <Kernel as Env<A>>::Scratch, mut key: FragmentKey<A>) -> Option<i32>
where
    Kernel: Env<A>,
{
    let frame = FRAME.get_ptr_mut(0)?;
    if !copy_out(skb, frame) {
        return None;
    }
    for place in 0..HELD {
        key.place = place;
        // SAFETY: a value of this CPU alone, and packet programs do not interrupt each other.
        if A::wait(&key, unsafe { &*frame }) {
            // If its first has come meanwhile, that has sent it on, or has not seen it.
            if fragment::resolve(&Kernel, scratch, true).is_ok() && A::leave(&key) {
                return Some(AGAIN);
            }
            trace::end::<A>(Reason::FragmentHeld);
            return Some(SHOT);
        }
    }
    None
}

/// Sends the packet and what waits for it through the hook once more, if something does.
#[inline(always)]
fn release<A: Waiting>(skb: &Skb, mut key: FragmentKey<A>, inwards: bool) -> i32
where
    Kernel: Env<A>,
{
    if A::waiting(&key).is_none() {
        return AGAIN;
    }
    // What goes out passes the hook before its clone has returned.
    let Some(releasing) = RELEASING.get_ptr_mut(0) else { return AGAIN };
    // SAFETY: a value of this CPU alone.
    if unsafe { *releasing } != 0 {
        return AGAIN;
    }
    // SAFETY: as above.
    unsafe { *releasing = 1 };
    skb.send_clone(inwards);
    for place in 0..HELD {
        key.place = place;
        let Some(held) = A::waiting(&key) else { continue };
        if copy_in(skb, held) && A::leave(&key) {
            skb.send_clone(inwards);
        }
    }
    // SAFETY: as above.
    unsafe { *releasing = 0 };
    // The line in the scratch is that of the last of them.
    let (source, destination) = (End::new(key.source, Port::NONE), End::new(key.destination, Port::NONE));
    trace::begin(&Tuple { source, destination, protocol: key.protocol });
    trace::end::<A>(Reason::FragmentHeld);
    SHOT
}

/// Copies the packet into `frame`, if it has room for it.
#[inline(always)]
fn copy_out(skb: &Skb, frame: *mut Held) -> bool {
    let length = skb.len();
    if length < SHORTEST || length > HELD_BYTES as u32 {
        return false;
    }
    // SAFETY: the pointer comes from a successful lookup; two words and a range of bytes of the value are written.
    unsafe {
        (*frame).length = length;
        (*frame).mark = skb.mark();
        skb.load_bytes((&raw mut (*frame).bytes).cast(), length)
    }
}

/// Makes the packet what `frame` holds.
#[inline(always)]
fn copy_in(skb: &Skb, frame: *const Held) -> bool {
    // SAFETY: the pointer comes from a successful lookup; only bytes of the value are read. Where the map has given it to
    // another frame meanwhile, that one is sent on a second time.
    unsafe {
        let length = (*frame).length;
        if length < SHORTEST || length > HELD_BYTES as u32 {
            return false;
        }
        skb.set_mark((*frame).mark);
        skb.change_length(length).is_ok() && skb.store_bytes((&raw const (*frame).bytes).cast(), length)
    }
}
