//! What the programs remember: connections, affinity, fragments, sockets.

use zerocopy::FromBytes;

use crate::net::Port;

/// Key of the flow map: a five-tuple in canonical order, so that both directions of a connection share one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes)]
#[repr(C)]
pub struct FlowKey<A> {
    /// The lower end, by address and then by port.
    pub low: A,
    /// The higher end.
    pub high: A,
    /// Port of the lower end.
    pub low_port: Port,
    /// Port of the higher end.
    pub high_port: Port,
    /// IP protocol number.
    pub protocol: u8,
    /// Always 0.
    pub zero: [u8; 3],
}

/// Value of the flow map. See `conntrack` for the three roles and for who creates, renews and retires entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes)]
#[repr(C)]
pub struct Flow<A> {
    /// Meaning by role: the backend (client view), the service address (middle view), the client (backend view).
    pub first: A,
    /// Meaning by role: the node's address (client view and middle view, once the source is translated), the service
    /// address (backend view).
    pub second: A,
    /// Port that belongs to `first`.
    pub first_port: Port,
    /// Port that belongs to `second`; [`Port::NONE`]: `second` is not set.
    pub second_port: Port,
    /// Low 32 bits of jiffies when a packet was last seen; written at most once a second.
    pub seen: u32,
    /// Low 32 bits of jiffies when the entry was made.
    pub opened: u32,
    /// Id of the service port that made the flow.
    pub service: u32,
    /// Id of the chosen backend.
    pub backend: u32,
    /// A `flow::Role`.
    pub role: u8,
    /// `flow::*` state bits.
    pub state: u8,
    /// `flow::*` flag bits.
    pub flags: u16,
    /// [`Port::NONE`], unless the client's port had to be changed because its tuple with the backend was taken. Then
    /// the client's port between the boundaries (client view), or its own port (middle and backend view).
    pub client_port: Port,
    /// The upper half of the TCP timestamp of the client's first packet; 0: not known.
    pub clock: u16,
}

/// Roles, state bits and flags of a [`Flow`].
pub mod flow {
    /// Client and service address: what the client sees.
    pub const CLIENT: u8 = 1;
    /// Client and backend: what stands between the two boundaries.
    pub const MIDDLE: u8 = 2;
    /// Node and backend: what the backend sees of a translated source.
    pub const BACKEND: u8 = 3;

    /// A packet has been seen in the direction client to backend.
    pub const REQUESTED: u8 = 1 << 0;
    /// A packet has been seen in the direction backend to client.
    pub const REPLIED: u8 = 1 << 1;
    /// The client has sent FIN (SCTP: SHUTDOWN).
    pub const CLIENT_FIN: u8 = 1 << 2;
    /// The backend has sent FIN (SCTP: SHUTDOWN).
    pub const BACKEND_FIN: u8 = 1 << 3;
    /// Either side has sent RST (SCTP: ABORT).
    pub const RESET: u8 = 1 << 4;
    /// Of an entry, not of its connection: another connection is about to take its key.
    pub const TAKEN: u8 = 1 << 5;

    /// The source has to be translated at the backend's boundary.
    pub const SNAT: u16 = 1 << 0;
    /// The client is a process of this node: its replies are translated at ingress, not at egress.
    pub const HOST_CLIENT: u16 = 1 << 1;
    /// The initiating end (client, or node in the backend view) is the lower end of the key.
    pub const LOW: u16 = 1 << 2;
    /// From a client outside to a backend on another node, by way of an uplink: both ends are rewritten at once and the
    /// packet is turned around, at XDP or TC, as soon as the source is translated (`second` is set).
    pub const TURNED: u16 = 1 << 3;
}

/// Key of the affinity map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes)]
#[repr(C)]
pub struct AffinityKey<A> {
    /// Id of the service port and family.
    pub service: u32,
    /// Client as it arrives, before translation; 127.0.0.1 or ::1 stands for this host, whichever address it uses.
    pub client: A,
}

/// Value of the affinity map.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes)]
#[repr(C)]
pub struct Affinity {
    /// Id of the backend that the client's last new connection got.
    pub backend: u32,
    /// Low 32 bits of jiffies of the last new connection.
    pub seen: u32,
}

/// Key of the fragment map: what all fragments of one datagram have in common (RFC 791, RFC 8200).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes)]
#[repr(C)]
pub struct FragmentKey<A> {
    /// Source address.
    pub source: A,
    /// Destination address.
    pub destination: A,
    /// Identification, as the packet carries it (16 bits for IPv4).
    pub id: u32,
    /// IP protocol number.
    pub protocol: u8,
    /// In the map of held fragments, which of the datagram's this is, from 0; in the fragment map always 0.
    pub place: u8,
    /// Always 0.
    pub zero: u16,
}

/// How many later fragments of one datagram can wait for its first.
pub const HELD: u8 = 16;
/// Number of bytes of the longest frame that can wait.
pub const HELD_BYTES: usize = 2040;

/// Value of the map of held fragments: a later fragment that came before the first of its datagram, as it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes)]
#[repr(C)]
pub struct Held {
    /// Number of bytes of the frame.
    pub length: u32,
    /// Its packet mark.
    pub mark: u32,
    /// The frame from its link header on.
    pub bytes: [u8; HELD_BYTES],
}

/// Ports that the first fragment carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes)]
#[repr(C)]
pub struct Fragment {
    /// Source port.
    pub source: Port,
    /// Destination port.
    pub destination: Port,
    /// Low 32 bits of jiffies when the first fragment was seen.
    pub seen: u32,
}

/// Key of the socket map: what a translated socket believes, or what it really talks to.
///
/// With kind [`socket::FORWARD`] `addr` is the service address to which an unconnected UDP socket sends; with
/// [`socket::REVERSE`] it is the backend from which the socket receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes)]
#[repr(C)]
pub struct SocketKey<A> {
    /// Socket cookie, low word first (two words keep the key free of padding).
    pub cookie: [u32; 2],
    /// See the type.
    pub addr: A,
    /// Port that belongs to `addr`.
    pub port: Port,
    /// A `socket::*` kind.
    pub kind: u8,
    /// IP protocol number.
    pub protocol: u8,
}

/// Kinds of [`SocketKey`].
pub mod socket {
    /// From the service address to the backend.
    pub const FORWARD: u8 = 1;
    /// From the backend to the service address.
    pub const REVERSE: u8 = 2;
}

/// Value of the socket map: the other end of the translation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes)]
#[repr(C)]
pub struct SocketFlow<A> {
    /// The backend (forward) or the service address (reverse).
    pub addr: A,
    /// Port that belongs to `addr`.
    pub port: Port,
    /// Always 0.
    pub zero: u16,
    /// Id of the service port.
    pub service: u32,
    /// Id of the chosen backend.
    pub backend: u32,
    /// Low 32 bits of jiffies when the socket last used it; written at most once a second.
    pub seen: u32,
}

/// Value of the peer tables: what a TCP socket that was translated at connect() has dialled. The index is the socket's cookie,
/// by [`Peer::index`]; a younger socket takes the place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes)]
#[repr(C)]
pub struct Peer<A> {
    /// Socket cookie, low word first; 0 while the rest is being written.
    pub cookie: [u32; 2],
    /// The backend to which it is connected.
    pub backend: A,
    /// The service address that its process knows.
    pub service: A,
    /// Port that belongs to `backend`.
    pub backend_port: Port,
    /// Port that belongs to `service`.
    pub service_port: Port,
    /// Id of the service port.
    pub service_id: u32,
    /// Low 32 bits of jiffies when it was connected.
    pub seen: u32,
}

impl<A> Peer<A> {
    /// Where the record of a socket stands. Cookies are numbers in order.
    #[inline(always)]
    pub const fn index(cookie: u64) -> u32 {
        cookie as u32 & (PEERS - 1)
    }
}

/// Number of peer records of a family, a power of two.
pub const PEERS: u32 = 32_768;
