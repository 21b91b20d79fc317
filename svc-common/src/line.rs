//! What the programs say about one packet or socket call when a person watches: made in the kernel, put into words by
//! the agent.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::net::{Address, Port};
use crate::tuple::{End, Tuple};

/// Where a line was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum At {
    /// TC, what a device receives.
    Ingress = 0,
    /// TC, what a device sends.
    Egress = 1,
    /// XDP.
    Xdp = 2,
    /// A socket call.
    Socket = 3,
}

/// One line. No padding, so that its bytes can be handed over as they are.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Line {
    /// An [`At`].
    pub at: u8,
    /// A [`crate::verdict::Reason`].
    pub reason: u8,
    /// IP protocol number.
    pub protocol: u8,
    /// 4 or 6.
    pub version: u8,
    /// Index of the device; 0 for socket calls.
    pub ifindex: u32,
    /// Source and destination as the packet came, by [`Address::wide`].
    pub before: [[u32; 4]; 2],
    /// Source and destination as it went on.
    pub after: [[u32; 4]; 2],
    /// The four ports that belong to them.
    pub ports: [Port; 4],
}

impl Line {
    /// Notes a packet as it came. In two steps, each where its values are at hand anyway: the kernel's stack is short.
    #[inline(always)]
    pub fn begin<A: Address>(&mut self, tuple: &Tuple<A>) {
        self.protocol = tuple.protocol;
        self.version = A::VERSION;
        self.before = [tuple.source.addr.wide(), tuple.destination.addr.wide()];
        (self.ports[0], self.ports[1]) = (tuple.source.port, tuple.destination.port);
        self.stay();
    }

    /// Notes that it goes on as it came.
    #[inline(always)]
    pub fn stay(&mut self) {
        self.after = self.before;
        (self.ports[2], self.ports[3]) = (self.ports[0], self.ports[1]);
    }

    /// Notes that it goes on to another destination.
    #[inline(always)]
    pub fn leads_to<A: Address>(&mut self, destination: &End<A>) {
        (self.after[1], self.ports[3]) = (destination.addr.wide(), destination.port);
    }

    /// Notes how it goes on.
    #[inline(always)]
    pub fn becomes<A: Address>(&mut self, tuple: &Tuple<A>) {
        self.after = [tuple.source.addr.wide(), tuple.destination.addr.wide()];
        (self.ports[2], self.ports[3]) = (tuple.source.port, tuple.destination.port);
    }
}
