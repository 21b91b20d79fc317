//! The datapath's surroundings in the kernel: maps and helpers behind [`Env`].
#![expect(unsafe_code, reason = "map values are reached by pointers that other CPUs share")]

use core::intrinsics::{AtomicOrdering, atomic_cxchg, atomic_or, atomic_xadd};
use core::mem::transmute;
use core::ops::{Deref, DerefMut};
use core::ptr::{addr_of_mut, read_volatile, write_volatile};

use aya_ebpf::bindings::{BPF_ANY, BPF_NOEXIST};
use aya_ebpf::maps::lpm_trie::Key;
use svc_common::datapath::conntrack::Reserved;
use svc_common::datapath::env::{Env, FlowEntry, Refused, Timeouts};
use svc_common::datapath::scratch::Scratch;
use svc_common::datapath::slow;
use svc_common::datapath::step;
use svc_common::net::{Address, Port, V4, V6};
use svc_common::tables::{
    Affinity, AffinityKey, Backend, Device, Flow, FlowKey, Fragment, FragmentKey, Frontend, FrontendKey, Settings,
    backend_stats_index, flow,
};
use svc_common::verdict::Reason;

use crate::maps::{
    AFFINITY_V4, AFFINITY_V6, BACKEND_STATS, BACKENDS_V4, BACKENDS_V6, DEVICES, FILTER, FLOWS_V4, FLOWS_V6,
    FRAGMENTS_V4, FRAGMENTS_V6, FRONTENDS_V4, FRONTENDS_V6, NODE_ADDRESSES_V4, NODE_ADDRESSES_V6, POD_PREFIXES_V4,
    POD_PREFIXES_V6, REASONS, SCRATCH_V4, SCRATCH_V6, SERVICE_STATS, SETTINGS, SLOTS, SOURCE_RANGES_V4,
    SOURCE_RANGES_V6, Scoped,
};
use crate::slow::{v4, v6};
use crate::{globals, helpers};

/// The kernel.
#[derive(Clone, Copy)]
pub(crate) struct Kernel;

/// The room of the slow paths. No reference to it outlives the use of a field, since every step reaches it by itself.
pub(crate) struct Room<A>(*mut Scratch<A>);

impl<A> Deref for Room<A> {
    type Target = Scratch<A>;

    #[inline(always)]
    fn deref(&self) -> &Scratch<A> {
        // SAFETY: a value of this CPU alone. Packet programs run with softirqs off, so none begins inside another, and no
        // slow path begins inside another.
        unsafe { &*self.0 }
    }
}

impl<A> DerefMut for Room<A> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut Scratch<A> {
        // SAFETY: as in `deref`.
        unsafe { &mut *self.0 }
    }
}

/// A flow entry in its map. Other CPUs read and write it at the same time; no reference to it is ever made.
pub(crate) struct Entry<A>(*mut Flow<A>);

impl<A> Entry<A> {
    /// The entry at a place in a flow map.
    #[inline(always)]
    pub(crate) const fn new(place: *mut Flow<A>) -> Self {
        Self(place)
    }
}

impl<A> Clone for Entry<A> {
    #[inline(always)]
    fn clone(&self) -> Self {
        *self
    }
}

impl<A> Copy for Entry<A> {}

impl<A: Address> FlowEntry<A> for Entry<A> {
    #[inline(always)]
    fn get(self) -> Flow<A> {
        // SAFETY: the pointer came from a successful lookup in this program run; map memory stays mapped for as long
        // as the program runs, and any bytes are a valid Flow.
        unsafe { *self.0 }
    }

    #[inline(always)]
    fn set_seen(self, now: u32) {
        // SAFETY: as in `get`; an aligned word is written at once.
        unsafe { write_volatile(addr_of_mut!((*self.0).seen), now) }
    }

    #[inline(always)]
    fn add_state(self, bits: u8) {
        // Role, state and flags share an aligned word; two CPUs may add different bits at the same time.
        // SAFETY: as in `get`. The result is not used, so relaxed order compiles to an atomic or.
        unsafe {
            let word = addr_of_mut!((*self.0).role).cast::<u32>();
            atomic_or::<u32, u32, { AtomicOrdering::Relaxed }>(word, u32::from_ne_bytes([0, bits, 0, 0]));
        }
    }

    #[inline(always)]
    fn claim(self, found: &Flow<A>) -> bool {
        let [low, high] = found.flags.to_ne_bytes();
        let word = |state| u32::from_ne_bytes([found.role, state, low, high]);
        if found.state & flow::TAKEN != 0 {
            return false;
        }
        // SAFETY: as in `get`. Role, state and flags share an aligned word.
        let (_, unchanged) = unsafe {
            let place = addr_of_mut!((*self.0).role).cast::<u32>();
            atomic_cxchg::<u32, { AtomicOrdering::SeqCst }, { AtomicOrdering::SeqCst }>(
                place,
                word(found.state),
                word(found.state | flow::TAKEN),
            )
        };
        unchanged
    }

    #[inline(always)]
    fn set_second(self, addr: A, port: Port) {
        // The port says that the address is set, so it is written last.
        // SAFETY: as in `get`.
        unsafe {
            write_volatile(addr_of_mut!((*self.0).second), addr);
            write_volatile(addr_of_mut!((*self.0).second_port), port);
        }
    }
}

/// Counts why a packet ended as it did.
#[inline(always)]
pub(crate) fn count_reason(reason: Reason) {
    if let Some(counter) = REASONS.get_ptr_mut(reason as u32) {
        // SAFETY: a value of this CPU alone; programs do not interrupt each other at the same hook.
        unsafe { *counter += 1 }
    }
}

/// What does not depend on the address family.
impl Kernel {
    /// A device, copied.
    #[inline(always)]
    pub(crate) fn device_by_index(self, ifindex: u32) -> Option<Device> {
        // SAFETY: the pointer comes from a successful lookup and any bytes are a valid Device.
        DEVICES.get_ptr(ifindex).map(|device| unsafe { *device })
    }
}

#[inline(always)]
fn refused(result: Result<(), i32>) -> Result<(), Refused> {
    const EEXIST: i32 = 17;
    result.map_err(|errno| if errno == -EEXIST { Refused::Taken } else { Refused::Full })
}

/// What [`crate::slow`] has answered as a number.
#[inline(always)]
fn answer(number: u32) -> Reserved {
    match number {
        0 => Reserved::No,
        1 => Reserved::Yes,
        _ => Reserved::Full,
    }
}

/// Replaces an affinity record if it is still the one that was found; otherwise the one that is there.
#[inline(always)]
fn exchange_affinity(place: *mut Affinity, found: Affinity, record: Affinity) -> Option<Affinity> {
    // SAFETY: two words make one of double length. Map values are aligned to 8 bytes and stay mapped for as long as the
    // program runs.
    let (present, unchanged) = unsafe {
        let (found, record) = (transmute::<Affinity, u64>(found), transmute::<Affinity, u64>(record));
        atomic_cxchg::<u64, { AtomicOrdering::SeqCst }, { AtomicOrdering::SeqCst }>(place.cast(), found, record)
    };
    // SAFETY: as above; any bytes are a valid Affinity.
    if unchanged { None } else { Some(unsafe { transmute::<u64, Affinity>(present) }) }
}

macro_rules! kernel_env {
    (
        $addr:ty, $flows:ident, $frontends:ident, $backends:ident, $pods:ident, $nodes:ident, $ranges:ident,
        $affinity:ident, $fragments:ident, $scratch:ident, $slow:ident
    ) => {
        impl Env<$addr> for Kernel {
            type Entry = Entry<$addr>;
            type Scratch = Room<$addr>;

            #[inline(always)]
            fn scratch(&self) -> Option<Room<$addr>> {
                $scratch.get_ptr_mut(0).map(Room)
            }

            #[inline(always)]
            fn open(&self, scratch: &mut Room<$addr>, _ifindex: u32, _flags: u16) -> Result<(), Reason> {
                // Put off until the stack of the function that has read the packet is free again: see tc.rs.
                scratch.translation.steps = step::OPEN;
                Ok(())
            }

            #[inline(always)]
            fn begin_external(&self, scratch: &mut Room<$addr>, ifindex: u32) -> Result<(), Reason> {
                if $slow::begin_external(ifindex) != 0 { Ok(()) } else { Err(scratch.reason) }
            }

            #[inline(always)]
            fn complete_external(&self, scratch: &mut Room<$addr>, way: u32) -> Result<(), Reason> {
                if $slow::complete_external(way) != 0 { Ok(()) } else { Err(scratch.reason) }
            }

            #[inline(always)]
            fn renew(&self, scratch: &mut Room<$addr>, event: u8, request: bool) -> bool {
                // In the function that asks for it: one more between that and the steps is more than the stack has.
                slow::renew::<$addr, _>(self, scratch, event, request)
            }

            #[inline(always)]
            fn translate_source(&self, scratch: &mut Room<$addr>, ifindex: u32) -> Result<(), Reason> {
                if $slow::translate_source(ifindex) != 0 { Ok(()) } else { Err(scratch.reason) }
            }

            #[inline(always)]
            fn find(&self, scratch: &mut Room<$addr>, ifindex: u32) -> Result<(), Reason> {
                if $slow::find(ifindex) != 0 { Ok(()) } else { Err(scratch.reason) }
            }

            #[inline(always)]
            fn choose(&self, scratch: &mut Room<$addr>, ifindex: u32, flags: u16) -> Result<(), Reason> {
                if $slow::choose(ifindex, flags.into()) != 0 { Ok(()) } else { Err(scratch.reason) }
            }

            #[inline(always)]
            fn read(&self, scratch: &mut Room<$addr>, ifindex: u32) -> Result<(), Reason> {
                if $slow::read(ifindex) != 0 { Ok(()) } else { Err(scratch.reason) }
            }

            #[inline(always)]
            fn judge(&self, _scratch: &mut Room<$addr>, event: u8, request: bool) -> bool {
                $slow::judge(event.into(), request.into()) != 0
            }

            #[inline(always)]
            fn keep(&self, _scratch: &mut Room<$addr>, role: u8) {
                $slow::keep(role.into());
            }

            #[inline(always)]
            fn reserve(&self, _scratch: &mut Room<$addr>, role: u8) -> Reserved {
                answer($slow::reserve(role.into()))
            }

            #[inline(always)]
            fn take_over(&self, _scratch: &mut Room<$addr>, role: u8) -> Reserved {
                answer($slow::take_over(role.into()))
            }

            #[inline(always)]
            fn now(&self) -> u32 {
                helpers::jiffies()
            }

            #[inline(always)]
            fn hz(&self) -> u32 {
                globals::hz()
            }

            #[inline(always)]
            fn timeouts(&self) -> Timeouts {
                globals::timeouts()
            }

            #[inline(always)]
            fn random(&self) -> u32 {
                helpers::random()
            }

            #[inline(always)]
            fn flow(&self, key: &FlowKey<$addr>) -> Option<Entry<$addr>> {
                $flows.get_ptr_mut(key).map(Entry)
            }

            #[inline(always)]
            fn insert_flow(&self, key: &FlowKey<$addr>, flow: &Flow<$addr>) -> Result<(), Refused> {
                refused($flows.insert(key, flow, u64::from(BPF_NOEXIST)))
            }

            #[inline(always)]
            fn replace_flow(&self, key: &FlowKey<$addr>, flow: &Flow<$addr>) -> Result<(), Refused> {
                refused($flows.insert(key, flow, u64::from(BPF_ANY)))
            }

            #[inline(always)]
            fn delete_flow(&self, key: &FlowKey<$addr>) {
                // Gone already is as good.
                let _ = $flows.remove(key);
            }

            #[inline(always)]
            fn frontend(&self, key: &FrontendKey<$addr>) -> Option<Frontend> {
                // SAFETY: the pointer comes from a successful lookup and any bytes are a valid Frontend. It is copied
                // at once, since the slot is reused after the agent has replaced the value.
                $frontends.get_ptr(key).map(|frontend| unsafe { read_volatile(frontend) })
            }

            #[inline(always)]
            fn backend(&self, id: u32) -> Option<Backend<$addr>> {
                // SAFETY: array values stay where they are, and any bytes are a valid Backend.
                let backend = $backends.get_ptr(id).map(|backend| unsafe { *backend })?;
                (backend.port != Port::NONE).then_some(backend)
            }

            #[inline(always)]
            fn slot(&self, index: u32) -> Option<u32> {
                SLOTS.get(index).copied()
            }

            #[inline(always)]
            fn filter_word(&self, index: u32) -> u64 {
                FILTER.get(index).copied().unwrap_or(0)
            }

            #[inline(always)]
            fn settings(&self) -> Option<&Settings> {
                SETTINGS.get(0)
            }

            #[inline(always)]
            fn device(&self, ifindex: u32) -> Option<Device> {
                self.device_by_index(ifindex)
            }

            #[inline(always)]
            fn in_pod_prefix(&self, addr: $addr) -> bool {
                $pods.get(&Key::new(<$addr>::BITS, addr)).is_some()
            }

            #[inline(always)]
            fn is_node_address(&self, addr: $addr) -> bool {
                $nodes.get_ptr(addr).is_some()
            }

            #[inline(always)]
            fn in_source_range(&self, service: u32, addr: $addr) -> bool {
                $ranges.get(&Key::new(32 + <$addr>::BITS, Scoped { service, addr })).is_some()
            }

            #[inline(always)]
            fn affinity(&self, key: &AffinityKey<$addr>) -> Option<Affinity> {
                // SAFETY: the pointer comes from a successful lookup and any bytes are a valid Affinity.
                $affinity.get_ptr(key).map(|record| unsafe { *record })
            }

            #[inline(always)]
            fn claim_affinity(
                &self,
                key: &AffinityKey<$addr>,
                found: Option<Affinity>,
                record: &Affinity,
            ) -> Option<Affinity> {
                let place = $affinity.get_ptr_mut(key);
                match (place, found) {
                    (Some(place), Some(found)) => exchange_affinity(place, found, *record),
                    // SAFETY: as in `affinity`.
                    (Some(place), None) => Some(unsafe { *place }),
                    // Without room the client merely is not remembered.
                    (None, _) => match refused($affinity.insert(key, record, u64::from(BPF_NOEXIST))) {
                        Err(Refused::Taken) => self.affinity(key),
                        Ok(()) | Err(Refused::Full) => None,
                    },
                }
            }

            #[inline(always)]
            fn fragment(&self, key: &FragmentKey<$addr>) -> Option<Fragment> {
                // SAFETY: the pointer comes from a successful lookup and any bytes are a valid Fragment.
                $fragments.get_ptr(key).map(|ports| unsafe { *ports })
            }

            #[inline(always)]
            fn set_fragment(&self, key: &FragmentKey<$addr>, ports: &Fragment) {
                // Without room the later fragments are dropped and counted.
                let _ = $fragments.insert(key, ports, u64::from(BPF_ANY));
            }

            #[inline(always)]
            fn count_opened(&self, service: u32, backend: u32) {
                if let Some(stats) = SERVICE_STATS.get_ptr_mut(service) {
                    // SAFETY: a value of this CPU alone.
                    unsafe { (*stats).connections += 1 }
                }
                if let Some(stats) = BACKEND_STATS.get_ptr_mut(backend_stats_index::<$addr>(backend)) {
                    // SAFETY: shared by all CPUs, therefore atomic; the result is not used.
                    unsafe {
                        atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(addr_of_mut!((*stats).opened), 1);
                    }
                }
            }

            #[inline(always)]
            fn count_closed(&self, backend: u32) {
                if let Some(stats) = BACKEND_STATS.get_ptr_mut(backend_stats_index::<$addr>(backend)) {
                    // SAFETY: as in `count_opened`.
                    unsafe {
                        atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(addr_of_mut!((*stats).closed), 1);
                    }
                }
            }

            #[inline(always)]
            fn count_packet(&self, service: u32, request: bool, bytes: u32) {
                if let Some(stats) = SERVICE_STATS.get_ptr_mut(service) {
                    // SAFETY: a value of this CPU alone.
                    unsafe {
                        if request {
                            (*stats).request_packets += 1;
                            (*stats).request_bytes += u64::from(bytes);
                        } else {
                            (*stats).reply_packets += 1;
                            (*stats).reply_bytes += u64::from(bytes);
                        }
                    }
                }
            }

            #[inline(always)]
            fn turn(&self, service: u32) -> u32 {
                SERVICE_STATS.get(service).map_or(0, |stats| stats.connections as u32)
            }

            #[inline(always)]
            fn opened(&self, backend: u32) -> u32 {
                BACKEND_STATS.get(backend_stats_index::<$addr>(backend)).map_or(0, |stats| stats.opened as u32)
            }

            #[inline(always)]
            fn active(&self, backend: u32) -> u64 {
                let Some(stats) = BACKEND_STATS.get(backend_stats_index::<$addr>(backend)) else { return 0 };
                // Read one after the other while both grow: a moment's difference must not look like 2^64.
                stats.opened.saturating_sub(stats.closed)
            }
        }
    };
}

kernel_env!(
    V4,
    FLOWS_V4,
    FRONTENDS_V4,
    BACKENDS_V4,
    POD_PREFIXES_V4,
    NODE_ADDRESSES_V4,
    SOURCE_RANGES_V4,
    AFFINITY_V4,
    FRAGMENTS_V4,
    SCRATCH_V4,
    v4
);
kernel_env!(
    V6,
    FLOWS_V6,
    FRONTENDS_V6,
    BACKENDS_V6,
    POD_PREFIXES_V6,
    NODE_ADDRESSES_V6,
    SOURCE_RANGES_V6,
    AFFINITY_V6,
    FRAGMENTS_V6,
    SCRATCH_V6,
    v6
);
