//! The garbage collector: walks the flow tables inside the kernel, where an entry can be looked at and removed at once.
#![expect(unsafe_code, reason = "callbacks of the map walk get pointers")]

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_for_each_map_elem;
use svc_common::datapath::collect::collect;
use svc_common::net::{V4, V6};
use svc_common::tables::{Collected, Flow, FlowKey};

use crate::env::{Entry, Kernel};
use crate::maps::{FLOWS_V4, FLOWS_V6, SCRATCH_V4, SCRATCH_V6};
use crate::packet::{Buffer as _, Skb};

/// Index of the scratch of the collector. It runs in process context, where packet programs can interrupt it.
const SCRATCH: u32 = 1;

/// What one walk has come to.
#[repr(C)]
struct Tally {
    seen: u32,
    removed: u32,
}

macro_rules! walk {
    ($name:ident, $each:ident, $addr:ty, $flows:ident, $scratch:ident) => {
        /// Looks at one entry. 0: go on.
        extern "C" fn $each(
            _map: *mut c_void,
            key: *const FlowKey<$addr>,
            entry: *mut Flow<$addr>,
            tally: *mut Tally,
        ) -> u64 {
            // SAFETY: the walk hands over valid pointers to a key and a value of the map, and the tally that it was
            // given, which nobody else has. The scratch is this program's alone.
            let (key, tally, scratch) = unsafe { (&*key, &mut *tally, $scratch.get_ptr_mut(SCRATCH)) };
            let Some(scratch) = scratch else { return 1 };
            tally.seen += 1;
            // SAFETY: a successful lookup of a value of this program alone.
            if collect(&Kernel, unsafe { &mut *scratch }, key, Entry::new(entry)) {
                tally.removed += 1;
            }
            0
        }

        #[inline(always)]
        fn $name() -> Tally {
            let mut tally = Tally { seen: 0, removed: 0 };
            // SAFETY: the map is one of this object, the callback has the signature that the kernel asks for, and the
            // tally outlives the walk.
            unsafe {
                bpf_for_each_map_elem(
                    (&raw const $flows).cast_mut().cast(),
                    $each as *mut c_void,
                    (&raw mut tally).cast(),
                    0,
                );
            }
            tally
        }
    };
}

walk!(walk_v4, each_v4, V4, FLOWS_V4, SCRATCH_V4);
walk!(walk_v6, each_v6, V6, FLOWS_V6, SCRATCH_V6);

/// The program.
#[inline(always)]
pub(crate) fn run(skb: &Skb) -> i32 {
    let (v4, v6) = (walk_v4(), walk_v6());
    let collected = Collected { seen_v4: v4.seen, removed_v4: v4.removed, seen_v6: v6.seen, removed_v6: v6.removed };
    if skb.store(0, collected) { 0 } else { 1 }
}
