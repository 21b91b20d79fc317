//! What the datapath asks of its surroundings: maps, clock, chance, counters.
//!
//! The kernel programs implement [`Env`] with BPF maps and helpers; host tests implement it with hash maps.

use core::ops::DerefMut;

use crate::checksum::Summed;
use crate::net::{Address, Port, V4, V6};
use crate::tables::{
    Affinity, AffinityKey, Backend, Device, Flow, FlowKey, Fragment, FragmentKey, Frontend, FrontendKey, Masked,
    SERVICE_CIDRS, Settings,
};
use crate::verdict::Reason;

use super::conntrack::Reserved;
use super::scratch::Scratch;
use super::slow;

/// An address family: its addresses, and its share of what both families keep in one value.
pub trait Family: Address + Summed {
    /// The ServiceCIDR prefixes and how many of them count.
    fn service_cidrs(settings: &Settings) -> (&[Masked<Self>; SERVICE_CIDRS], u32);
    /// Whether `self` lies in the prefix.
    fn matches(self, prefix: &Masked<Self>) -> bool;
    /// Primary address of the node.
    fn primary(settings: &Settings) -> Self;
    /// Source address for translated packets that leave by the device.
    fn source_of(device: &Device) -> Self;
    /// What stands for this host in affinity records: the loopback address.
    fn loopback() -> Self;
    /// Multicast, broadcast or unspecified.
    fn is_not_unicast(self) -> bool;
}

impl Family for V4 {
    #[inline(always)]
    fn service_cidrs(settings: &Settings) -> (&[Masked<Self>; SERVICE_CIDRS], u32) {
        (&settings.service_cidrs_v4, settings.service_cidr_count_v4)
    }

    #[inline(always)]
    fn matches(self, prefix: &Masked<Self>) -> bool {
        self.bits() & prefix.mask.bits() == prefix.addr.bits()
    }

    #[inline(always)]
    fn primary(settings: &Settings) -> Self {
        settings.primary_v4
    }

    #[inline(always)]
    fn source_of(device: &Device) -> Self {
        device.source_v4
    }

    #[inline(always)]
    fn loopback() -> Self {
        Self::from_bits(u32::from_ne_bytes([127, 0, 0, 1]))
    }

    #[inline(always)]
    fn is_not_unicast(self) -> bool {
        // 224.0.0.0/4 and above, which includes the limited broadcast address; and 0.0.0.0.
        let first = self.bits().to_ne_bytes()[0];
        first >= 224 || self.bits() == 0
    }
}

impl Family for V6 {
    #[inline(always)]
    fn service_cidrs(settings: &Settings) -> (&[Masked<Self>; SERVICE_CIDRS], u32) {
        (&settings.service_cidrs_v6, settings.service_cidr_count_v6)
    }

    #[inline(always)]
    fn matches(self, prefix: &Masked<Self>) -> bool {
        let (own, mask, addr) = (self.words(), prefix.mask.words(), prefix.addr.words());
        let differences = (own[0] & mask[0] ^ addr[0])
            | (own[1] & mask[1] ^ addr[1])
            | (own[2] & mask[2] ^ addr[2])
            | (own[3] & mask[3] ^ addr[3]);
        differences == 0
    }

    #[inline(always)]
    fn primary(settings: &Settings) -> Self {
        settings.primary_v6
    }

    #[inline(always)]
    fn source_of(device: &Device) -> Self {
        device.source_v6
    }

    #[inline(always)]
    fn loopback() -> Self {
        Self::from_words([0, 0, 0, 1u32.to_be()])
    }

    #[inline(always)]
    fn is_not_unicast(self) -> bool {
        let words = self.words();
        words[0].to_ne_bytes()[0] == 0xff || words[0] | words[1] | words[2] | words[3] == 0
    }
}

/// Lifetimes of idle flows, in seconds.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// TCP and SCTP: nothing has come back yet.
    pub opening: u32,
    /// TCP and SCTP: both directions seen.
    pub established: u32,
    /// Both sides have sent FIN. Longer than the minute for which Linux remembers a connection that it has closed
    /// (TIME_WAIT), so that nobody else gets its port before.
    pub closing: u32,
    /// One side has reset the connection.
    pub reset: u32,
    /// UDP: nothing has come back yet.
    pub datagram: u32,
    /// UDP: both directions seen.
    pub stream: u32,
}

impl Timeouts {
    /// What the programs use unless the agent says otherwise.
    pub const DEFAULT: Self =
        Self { opening: 60, established: 86_400, closing: 65, reset: 10, datagram: 30, stream: 120 };
}

/// Why an entry was not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// "Only if absent", and it was not.
    Taken,
    /// The map has no room, or could not be changed now.
    Full,
}

/// A flow entry in its map. Writes go straight to the entry and are seen by other CPUs.
pub trait FlowEntry<A: Address>: Copy {
    /// The entry as it is now.
    fn get(self) -> Flow<A>;
    /// A packet of the flow was seen.
    fn set_seen(self, now: u32);
    /// Adds `flow::*` state bits.
    fn add_state(self, bits: u8);
    /// Marks the entry as [`crate::tables::flow::TAKEN`], all at once, if it still has the role, state and flags that were found and
    /// nobody has marked it. Whether it was marked by this call.
    fn claim(self, found: &Flow<A>) -> bool;
    /// Remembers the translated source.
    fn set_second(self, addr: A, port: Port);
}

/// The surroundings of the datapath, for one address family. Lookups return copies: hash values may be overwritten at
/// any moment.
pub trait Env<A: Family> {
    /// A flow entry in its map.
    type Entry: FlowEntry<A>;
    /// The room of the slow paths, while one of them uses it. Paths that call steps pass this on and not a reference to
    /// the room: in the kernel each step finds the room by itself, and a reference held meanwhile would promise the
    /// compiler that nobody else changes it.
    type Scratch: DerefMut<Target = Scratch<A>>;

    /// Room for a slow path. Every slow path asks once, before it begins, and none begins inside another.
    fn scratch(&self) -> Option<Self::Scratch>;

    /// Low 32 bits of jiffies.
    fn now(&self) -> u32;
    /// Jiffies in a second.
    fn hz(&self) -> u32;
    /// Lifetimes of flows.
    fn timeouts(&self) -> Timeouts;
    /// Thirty-two random bits.
    fn random(&self) -> u32;

    /// Runs [`slow::open`]. The slow paths are methods so that the kernel programs can put each into a function that
    /// the verifier looks at once, and not once for every way that leads to it.
    fn open(&self, scratch: &mut Self::Scratch, ifindex: u32, flags: u16) -> Result<(), Reason>
    where
        Self: Sized,
    {
        slow::open(self, scratch, ifindex, flags)
    }

    /// Runs [`slow::begin_external`].
    fn begin_external(&self, scratch: &mut Self::Scratch, ifindex: u32) -> Result<(), Reason>
    where
        Self: Sized,
    {
        slow::begin_external(self, scratch, ifindex)
    }

    /// Runs [`slow::complete_external`].
    fn complete_external(&self, scratch: &mut Self::Scratch, way: u32) -> Result<(), Reason>
    where
        Self: Sized,
    {
        slow::complete_external(self, scratch, way)
    }

    /// Runs [`slow::renew`].
    fn renew(&self, scratch: &mut Self::Scratch, event: u8, request: bool) -> bool
    where
        Self: Sized,
    {
        slow::renew(self, scratch, event, request)
    }

    /// Runs [`slow::translate_source`].
    fn translate_source(&self, scratch: &mut Self::Scratch, ifindex: u32) -> Result<(), Reason>
    where
        Self: Sized,
    {
        slow::translate_source(self, scratch, ifindex)
    }

    /// Runs [`slow::find`].
    fn find(&self, scratch: &mut Self::Scratch, ifindex: u32) -> Result<(), Reason>
    where
        Self: Sized,
    {
        slow::find(self, scratch, ifindex)
    }

    /// Runs [`slow::choose`].
    fn choose(&self, scratch: &mut Self::Scratch, ifindex: u32, flags: u16) -> Result<(), Reason>
    where
        Self: Sized,
    {
        slow::choose(self, scratch, ifindex, flags)
    }

    /// Runs [`slow::read`].
    fn read(&self, scratch: &mut Self::Scratch, ifindex: u32) -> Result<(), Reason>
    where
        Self: Sized,
    {
        slow::read(self, scratch, ifindex)
    }

    /// Runs [`slow::judge`].
    fn judge(&self, scratch: &mut Self::Scratch, event: u8, request: bool) -> bool
    where
        Self: Sized,
    {
        slow::judge(self, scratch, event, request)
    }

    /// Runs [`slow::keep`].
    fn keep(&self, scratch: &mut Self::Scratch, role: u8)
    where
        Self: Sized,
    {
        slow::keep(self, scratch, role);
    }

    /// Runs [`slow::reserve`].
    fn reserve(&self, scratch: &mut Self::Scratch, role: u8) -> Reserved
    where
        Self: Sized,
    {
        slow::reserve(self, scratch, role)
    }

    /// Runs [`slow::take_over`].
    fn take_over(&self, scratch: &mut Self::Scratch, role: u8) -> Reserved
    where
        Self: Sized,
    {
        slow::take_over(self, scratch, role)
    }

    /// The flow entry under a key.
    fn flow(&self, key: &FlowKey<A>) -> Option<Self::Entry>;
    /// Stores an entry only if the key is absent.
    fn insert_flow(&self, key: &FlowKey<A>, flow: &Flow<A>) -> Result<(), Refused>;
    /// Stores an entry whether or not the key is present.
    fn replace_flow(&self, key: &FlowKey<A>, flow: &Flow<A>) -> Result<(), Refused>;
    /// Removes an entry.
    fn delete_flow(&self, key: &FlowKey<A>);

    /// A frontend.
    fn frontend(&self, key: &FrontendKey<A>) -> Option<Frontend>;
    /// A backend; `None` for ids that were never given out.
    fn backend(&self, id: u32) -> Option<Backend<A>>;
    /// The backend id in a slot.
    fn slot(&self, index: u32) -> Option<u32>;
    /// A word of the address filter.
    fn filter_word(&self, index: u32) -> u64;
    /// The settings.
    fn settings(&self) -> Option<&Settings>;
    /// A device.
    fn device(&self, ifindex: u32) -> Option<Device>;

    /// Whether an address lies in a pod prefix.
    fn in_pod_prefix(&self, addr: A) -> bool;
    /// Whether an address is bound on this node.
    fn is_node_address(&self, addr: A) -> bool;
    /// Whether an address lies in a source range of the service.
    fn in_source_range(&self, service: u32, addr: A) -> bool;

    /// An affinity record.
    fn affinity(&self, key: &AffinityKey<A>) -> Option<Affinity>;
    /// Stores an affinity record in place of the one that was found, all at once. If another has been stored meanwhile,
    /// that one stays and is the answer.
    fn claim_affinity(&self, key: &AffinityKey<A>, found: Option<Affinity>, record: &Affinity) -> Option<Affinity>;

    /// The ports of a fragmented datagram.
    fn fragment(&self, key: &FragmentKey<A>) -> Option<Fragment>;
    /// Stores the ports of a fragmented datagram.
    fn set_fragment(&self, key: &FragmentKey<A>, ports: &Fragment);

    /// Counts a new connection.
    fn count_opened(&self, service: u32, backend: u32);
    /// Counts a connection that is over.
    fn count_closed(&self, backend: u32);
    /// Counts a packet of a connection.
    fn count_packet(&self, service: u32, request: bool, bytes: u32);
    /// New connections of a service so far, on this CPU: the state of round robin.
    fn turn(&self, service: u32) -> u32;
    /// Connections of a backend that are not over.
    fn active(&self, backend: u32) -> u64;
    /// Connections that a backend has had; wraps.
    fn opened(&self, backend: u32) -> u32;
}
