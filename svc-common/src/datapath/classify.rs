//! Whose address is this, and who is asking.

use crate::net::{Port, Protocol};
use crate::tables::{Frontend, FrontendKey, Sender, device, filter_bit, settings};
use crate::tuple::Tuple;
use crate::verdict::Reason;

use super::env::{Env, Family};

/// Whether `addr` may be the address of a frontend. `false` is certain.
#[inline(always)]
pub fn may_be_frontend<A: Family, E: Env<A>>(env: &E, addr: A) -> bool {
    let (word, bit) = filter_bit(addr);
    env.filter_word(word) & bit != 0
}

/// Whether `addr` lies in a ServiceCIDR.
#[inline(always)]
pub fn in_service_cidr<A: Family, E: Env<A>>(env: &E, addr: A) -> bool {
    let Some(settings) = env.settings() else { return false };
    let (prefixes, count) = A::service_cidrs(settings);
    for (index, prefix) in prefixes.iter().enumerate() {
        if index as u32 >= count {
            return false;
        }
        if addr.matches(prefix) {
            return true;
        }
    }
    false
}

/// Whether a packet that matches no flow needs a closer look: its destination may be a frontend or an unallocated
/// Service address. This is all that a packet which is no Service's pays at ingress, besides the flow lookup.
#[inline(always)]
pub fn concerns_services<A: Family, E: Env<A>>(env: &E, addr: A) -> bool {
    may_be_frontend(env, addr) || in_service_cidr(env, addr)
}

/// The frontend that a packet is addressed to, or why there is none. `opening`: the packet begins something, or nobody
/// can know (datagrams, protocols without connections).
#[inline(always)]
pub fn frontend<A: Family, E: Env<A>>(env: &E, tuple: &Tuple<A>, opening: bool) -> Result<Frontend, Reason> {
    let addr = tuple.destination.addr;
    if addr.is_not_unicast() {
        return Err(Reason::NotUnicast);
    }
    if may_be_frontend(env, addr) {
        let mut key = FrontendKey { addr, port: tuple.destination.port, protocol: tuple.protocol, zero: 0 };
        if Protocol::from_number(tuple.protocol).is_some()
            && let Some(frontend) = env.frontend(&key)
            && !frontend.has(Frontend::LOOPBACK)
        {
            return Ok(frontend);
        }
        // The same key again, since the kernel's stack is short.
        (key.port, key.protocol) = (Port::NONE, 0);
        if let Some(known) = env.frontend(&key) {
            if known.has(Frontend::FOREIGN) {
                return Err(Reason::NotService);
            }
            if known.has(Frontend::CLUSTER_IP) {
                return Err(unless_bound(env, addr, opening, Reason::UnknownPort));
            }
        }
    }
    if in_service_cidr(env, addr) {
        return Err(unless_bound(env, addr, opening, Reason::UnallocatedAddress));
    }
    Err(match Protocol::from_number(tuple.protocol) {
        Some(_) => Reason::NotService,
        None => Reason::NotTransport,
    })
}

/// `reason`, unless the address is bound on this node (somebody here answers) or the packet opens nothing.
#[inline(always)]
fn unless_bound<A: Family, E: Env<A>>(env: &E, addr: A, opening: bool, reason: Reason) -> Reason {
    if env.is_node_address(addr) {
        Reason::OwnAddress
    } else if opening {
        reason
    } else {
        Reason::NotService
    }
}

/// Who sent a packet, by its source address and the device on which it arrived. A pod wins over the host.
#[inline(always)]
pub fn sender<A: Family, E: Env<A>>(env: &E, source: A, ifindex: u32) -> Sender {
    let flags = env.settings().map_or(0, |settings| settings.flags);
    if flags & settings::DETECT_PREFIX != 0 && env.in_pod_prefix(source) {
        return Sender::Pod;
    }
    if flags & settings::DETECT_DEVICE != 0 && env.device(ifindex).is_some_and(|device| device.flags & device::POD != 0)
    {
        return Sender::Pod;
    }
    if source.is_loopback() || env.is_node_address(source) { Sender::Host } else { Sender::Other }
}
