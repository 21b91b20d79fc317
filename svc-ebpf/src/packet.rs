//! The only place that touches packet memory.
#![expect(unsafe_code, reason = "the packet accessor")]

use core::arch::asm;
use core::ptr::read_volatile;

use aya_ebpf::bindings::{__sk_buff, xdp_md};
use aya_ebpf::helpers::generated::{
    bpf_clone_redirect, bpf_csum_update, bpf_l4_csum_replace, bpf_skb_adjust_room, bpf_skb_change_tail,
    bpf_skb_load_bytes, bpf_skb_pull_data, bpf_skb_store_bytes,
};
use svc_common::parse::{Followed, Frame};
use svc_common::verdict::Reason;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::slow;

/// Offsets beyond this are never looked at; the verifier wants a bound.
const REACH: usize = 4096;

/// A packet that can be read and written.
pub(crate) trait Buffer: Frame {
    /// Whether checksums can be unfinished, or summed up by the device: socket buffers, not raw frames.
    const OFFLOADS: bool;

    /// Writes `value` at `offset`. `false`: it does not lie wholly inside the packet; nothing is written.
    #[must_use]
    fn store<T: IntoBytes + Immutable>(&self, offset: usize, value: T) -> bool;
}

/// A socket buffer, as TC programs see it.
#[derive(Clone, Copy)]
pub(crate) struct Skb(*mut __sk_buff);

/// A raw frame, as XDP programs see it.
#[derive(Clone, Copy)]
pub(crate) struct Raw(*mut xdp_md);

/// A number up to [`REACH`], with a bound that the verifier sees wherever the number goes. A comparison shows it of one
/// register only: of the copy on the stack, which may be what is loaded and used afterwards, kernels before 6.9 do not
/// know it then. The compiler would leave out a mask that changes nothing.
#[inline(always)]
fn bounded(mut number: usize) -> usize {
    const { assert!(REACH <= 8191) };
    // SAFETY: changes one register, to what it is already.
    unsafe { asm!("{0} &= 8191", inout(reg) number, options(pure, nomem, nostack, preserves_flags)) };
    number
}

/// The address of a `T` at `offset`, if it lies wholly inside the packet. Nothing keeps such a pointer: the data moves
/// when a helper changes the packet.
#[inline(always)]
fn within<T>(data: usize, end: usize, offset: usize) -> Option<*mut T> {
    if offset > REACH {
        return None;
    }
    let start = data + bounded(offset);
    if start + size_of::<T>() > end {
        return None;
    }
    Some(start as *mut T)
}

macro_rules! buffer {
    ($type:ty, $offloads:literal, $length:expr, $follow:expr) => {
        impl $type {
            #[inline(always)]
            fn at<T>(&self, offset: usize) -> Option<*mut T> {
                // Read each time: kept for later, these 32-bit fields would be spilled as numbers of 32 bits, and the
                // verifier knows them as pointers.
                let (data, end) =
                    // SAFETY: the kernel hands a program a valid context, whose fields may be read.
                    unsafe { (read_volatile(&raw const (*self.0).data), read_volatile(&raw const (*self.0).data_end)) };
                within(data as usize, end as usize, offset)
            }
        }

        impl Frame for $type {
            #[inline(always)]
            fn load<T: FromBytes + Copy>(&self, offset: usize) -> Option<T> {
                // SAFETY: `at` has checked that all bytes lie inside the packet, any bytes are a valid T, and loads of
                // this instruction set take words at any address.
                self.at::<T>(offset).map(|place| unsafe { *place })
            }

            #[inline(always)]
            fn length(&self) -> u32 {
                $length(self)
            }

            #[inline(always)]
            fn follow(&self, at: usize, protocol: u8) -> Followed {
                $follow(self, at, protocol)
            }
        }

        impl Buffer for $type {
            const OFFLOADS: bool = $offloads;

            #[inline(always)]
            fn store<T: IntoBytes + Immutable>(&self, offset: usize, value: T) -> bool {
                let Some(place) = self.at::<T>(offset) else { return false };
                // SAFETY: as in `load`; nobody else writes the packet meanwhile.
                unsafe { *place = value };
                true
            }
        }
    };
}

buffer!(Skb, true, |skb: &Skb| skb.len(), |skb: &Skb, at: usize, protocol: u8| {
    Followed(slow::follow(skb.0, at as u32, protocol.into()))
});
// Extension headers are left to TC.
buffer!(
    Raw,
    false,
    // SAFETY: the kernel hands a program a valid context, whose fields may be read.
    |raw: &Raw| unsafe { (*raw.0).data_end - (*raw.0).data },
    |_: &Raw, _, _| Followed::CUT_OFF
);

impl Raw {
    #[inline(always)]
    pub(crate) const fn new(context: *mut xdp_md) -> Self {
        Self(context)
    }

    /// The context, for helpers.
    #[inline(always)]
    pub(crate) const fn context(&self) -> *mut xdp_md {
        self.0
    }

    /// Index of the device by which the frame arrived.
    #[inline(always)]
    pub(crate) fn ifindex(&self) -> u32 {
        // SAFETY: the kernel hands a program a valid context, whose fields may be read.
        unsafe { (*self.0).ingress_ifindex }
    }
}

macro_rules! fields {
    ($($(#[$doc:meta])* $name:ident: $field:ident;)+) => {$(
        $(#[$doc])*
        #[inline(always)]
        pub(crate) fn $name(&self) -> u32 {
            // SAFETY: the kernel hands a program a valid context, whose fields may be read.
            unsafe { (*self.0).$field }
        }
    )+};
}

impl Skb {
    #[inline(always)]
    pub(crate) const fn new(context: *mut __sk_buff) -> Self {
        Self(context)
    }

    /// The context, for helpers.
    #[inline(always)]
    pub(crate) const fn context(&self) -> *mut __sk_buff {
        self.0
    }

    fields! {
        /// Number of bytes, also of those outside of linear memory.
        len: len;
        /// For whom the link layer says that the packet is; 0 for this host.
        kind: pkt_type;
        /// The packet mark.
        mark: mark;
        /// Ethernet type that the stack believes, in network byte order.
        protocol: protocol;
        /// The device of the hook.
        ifindex: ifindex;
        /// Whether a VLAN tag stands beside the packet.
        vlan_present: vlan_present;
        /// Payload of one segment if the packet stands for several, or 0.
        gso_size: gso_size;
        /// The device by which a forwarded packet arrived; 0 for packets of this host's own processes.
        ingress_ifindex: ingress_ifindex;
    }

    /// Sets the packet mark.
    #[inline(always)]
    pub(crate) fn set_mark(&self, mark: u32) {
        // SAFETY: TC programs may write this field of their context.
        unsafe { (*self.0).mark = mark }
    }

    /// Makes the first `length` bytes, or all there are, directly accessible.
    #[inline(always)]
    pub(crate) fn make_linear(&self, length: u32) {
        // SAFETY: the kernel hands a program a valid context, whose fields may be read.
        let linear = unsafe { (*self.0).data_end - (*self.0).data };
        let wanted = if self.len() < length { self.len() } else { length };
        if linear < wanted {
            // SAFETY: a valid context. Failure leaves the packet as it was, and the parser finds it too short.
            unsafe { bpf_skb_pull_data(self.0, wanted) };
        }
    }

    /// Cuts the packet off, or fills it up, to `length` bytes.
    #[inline(always)]
    pub(crate) fn change_length(&self, length: u32) -> Result<(), Reason> {
        // SAFETY: a valid context; the kernel checks the length.
        let result = unsafe { bpf_skb_change_tail(self.0, length, 0) };
        if result == 0 { Ok(()) } else { Err(Reason::CannotRewrite) }
    }

    /// Copies the first `length` bytes to `place`. `false`: there are not so many.
    ///
    /// # Safety
    ///
    /// `place` has room for them.
    #[inline(always)]
    pub(crate) unsafe fn load_bytes(&self, place: *mut u8, length: u32) -> bool {
        // SAFETY: a valid context, and what the caller promises.
        unsafe { bpf_skb_load_bytes(self.0.cast(), 0, place.cast(), length) == 0 }
    }

    /// Overwrites the first `length` bytes with those at `place`. `false`: there are not so many.
    ///
    /// # Safety
    ///
    /// `place` has them.
    #[inline(always)]
    pub(crate) unsafe fn store_bytes(&self, place: *const u8, length: u32) -> bool {
        const FOLLOW_IN_SUM: u64 = 1;
        // SAFETY: a valid context, and what the caller promises.
        unsafe { bpf_skb_store_bytes(self.0, 0, place.cast(), length, FOLLOW_IN_SUM) == 0 }
    }

    /// Sends a copy of the packet, as it is now, through the device of the hook once more: in again, or out.
    #[inline(always)]
    pub(crate) fn send_clone(&self, inwards: bool) {
        const INGRESS: u64 = 1;
        // SAFETY: a valid context. A copy that cannot be sent is lost like any packet.
        unsafe { bpf_clone_redirect(self.0, self.ifindex(), if inwards { INGRESS } else { 0 }) };
    }

    /// Makes room between the link header and the network header.
    #[inline(always)]
    pub(crate) fn make_room(&self, length: u32) -> Result<(), Reason> {
        const BEFORE_NETWORK_HEADER: u32 = 1;
        // SAFETY: a valid context; the kernel checks the length.
        let result = unsafe { bpf_skb_adjust_room(self.0, length as i32, BEFORE_NETWORK_HEADER, 0) };
        if result == 0 { Ok(()) } else { Err(Reason::CannotRewrite) }
    }

    /// Adds a difference to the sum over the packet, if the device has delivered one.
    #[inline(always)]
    pub(crate) fn adjust_sum(&self, difference: u32) {
        // SAFETY: a valid context. The helper refuses when there is no such sum, and then nothing is to be done.
        unsafe { bpf_csum_update(self.0, difference) };
    }

    /// Adds an address difference to the transport checksum at `offset`, in whichever way its state asks for.
    #[inline(always)]
    pub(crate) fn adjust_unfinished(&self, offset: usize, difference: u32) {
        const BY_DIFFERENCE: u64 = 0;
        const PSEUDO_HEADER: u64 = 1 << 4;
        // SAFETY: a valid context; the kernel checks the offset.
        unsafe { bpf_l4_csum_replace(self.0, offset as u32, BY_DIFFERENCE, u64::from(difference), PSEUDO_HEADER) };
    }
}
