//! Hash functions that choose slots. Tests and the agent compute the same numbers as the kernel programs.

use crate::net::Address;
use crate::tuple::Tuple;

/// Finalizer of MurmurHash3: every bit of the input changes half of the bits of the output.
#[inline(always)]
pub const fn mix(mut h: u32) -> u32 {
    h ^= h >> 16;
    h = h.wrapping_mul(0x85eb_ca6b);
    h ^= h >> 13;
    h = h.wrapping_mul(0xc2b2_ae35);
    h ^ (h >> 16)
}

/// Hash of one address.
#[inline(always)]
pub fn address<A: Address>(addr: A) -> u32 {
    mix(addr.fold() ^ 0x9e37_79b9)
}

/// Hash of a five-tuple, the same for IPv4 and IPv6 in shape: source, destination, ports, protocol, each mixed in turn,
/// so that exchanging the ends changes the hash.
#[inline(always)]
pub fn tuple<A: Address>(tuple: &Tuple<A>) -> u32 {
    let ports = u32::from(tuple.source.port.get()) << 16 | u32::from(tuple.destination.port.get());
    let h = mix(tuple.source.addr.fold() ^ u32::from(tuple.protocol));
    let h = mix(h.wrapping_mul(5).wrapping_add(tuple.destination.addr.fold()));
    mix(h.wrapping_mul(5).wrapping_add(ports))
}

#[cfg(test)]
mod tests {
    use core::net::Ipv4Addr;

    use super::*;
    use crate::net::{Port, V4};
    use crate::tuple::End;

    #[test]
    fn source_ports_spread_evenly() {
        let mut count = [0u32; 16];
        for port in 0..16_000 {
            let source = End::new(V4::new(Ipv4Addr::new(10, 0, 0, 9)), Port::new(20_000 + port));
            let destination = End::new(V4::new(Ipv4Addr::new(10, 96, 0, 1)), Port::new(80));
            count[(tuple(&Tuple { source, destination, protocol: 6 }) % 16) as usize] += 1;
        }
        assert!(count.iter().all(|n| (850..1150).contains(n)), "{count:?}");
    }
}
