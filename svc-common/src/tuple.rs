//! The five-tuple of a packet, and the canonical key that both of its directions share.

use crate::net::{Address, Port};
use crate::tables::FlowKey;

/// One end of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct End<A> {
    /// Its address.
    pub addr: A,
    /// Its port.
    pub port: Port,
}

/// What identifies the connection of a packet, in the direction of the packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Tuple<A> {
    /// Who sent the packet.
    pub source: End<A>,
    /// Where it goes.
    pub destination: End<A>,
    /// IP protocol number.
    pub protocol: u8,
}

impl<A: Address> End<A> {
    /// An end from its parts.
    #[inline(always)]
    pub const fn new(addr: A, port: Port) -> Self {
        Self { addr, port }
    }

    /// Whether there is an end at all: no connection has an end at port 0.
    #[inline(always)]
    pub fn is_set(self) -> bool {
        self.port != Port::NONE
    }
}

impl<A: Address> Tuple<A> {
    /// Whether the source is the lower end of the canonical key. When both ends are equal it counts as low.
    #[inline(always)]
    pub fn source_is_low(&self) -> bool {
        let (source, destination) = (self.source, self.destination);
        if source.addr == destination.addr {
            source.port.bits() <= destination.port.bits()
        } else {
            source.addr.below(destination.addr)
        }
    }

    /// The canonical key, and whether the source is its lower end.
    #[inline(always)]
    pub fn key(&self) -> (FlowKey<A>, bool) {
        let (source, destination) = (self.source, self.destination);
        let source_is_low = self.source_is_low();
        let (low, high) = if source_is_low { (source, destination) } else { (destination, source) };
        let key = FlowKey {
            low: low.addr,
            high: high.addr,
            low_port: low.port,
            high_port: high.port,
            protocol: self.protocol,
            zero: [0; 3],
        };
        (key, source_is_low)
    }

    /// The tuple of a packet in the other direction.
    #[inline(always)]
    pub const fn reversed(&self) -> Self {
        Self { source: self.destination, destination: self.source, protocol: self.protocol }
    }
}

impl<A: Address> FlowKey<A> {
    /// The lower end.
    #[inline(always)]
    pub const fn low_end(&self) -> End<A> {
        End { addr: self.low, port: self.low_port }
    }

    /// The higher end.
    #[inline(always)]
    pub const fn high_end(&self) -> End<A> {
        End { addr: self.high, port: self.high_port }
    }
}

#[cfg(test)]
mod tests {
    use core::net::Ipv4Addr;

    use super::*;
    use crate::net::V4;

    #[test]
    fn both_directions_share_a_key() {
        let a = End::new(V4::new(Ipv4Addr::new(10, 0, 0, 1)), Port::new(40_000));
        let b = End::new(V4::new(Ipv4Addr::new(10, 0, 0, 2)), Port::new(80));
        let tuple = Tuple { source: a, destination: b, protocol: 6 };
        let (there, low) = tuple.key();
        let (back, low_back) = tuple.reversed().key();
        assert_eq!(there, back);
        assert_ne!(low, low_back);
    }

    #[test]
    fn equal_addresses_are_ordered_by_port() {
        let a = End::new(V4::new(Ipv4Addr::new(10, 0, 0, 1)), Port::new(40_000));
        let b = End { port: Port::new(80), ..a };
        let tuple = Tuple { source: a, destination: b, protocol: 17 };
        assert_eq!(tuple.key().0, tuple.reversed().key().0);
        assert_ne!(tuple.key().1, tuple.reversed().key().1);
    }
}
