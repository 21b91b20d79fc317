//! Ids of backends: one array and one kind of key a family, told apart by address, port and whether they are on this
//! node. The element of the array is its own key, which keeps a hundred thousand of them small.

use std::net::{IpAddr, SocketAddr};

use svc_common::net::{Address, Port, V4, V6};
use svc_common::tables::{Backend, backend};

use super::ids::{Ids, Stamp};
use super::{Present, Write};
use crate::model::Family;

pub(super) struct Backends {
    v4: Ids<Backend<V4>>,
    v6: Ids<Backend<V6>>,
}

impl Backends {
    pub(super) fn new(capacity: u32) -> Self {
        Self { v4: Ids::new(capacity), v6: Ids::new(capacity) }
    }

    /// Takes over what the tables hold. Elements without an address are free.
    pub(super) fn restore(&mut self, present: &Present) {
        for (id, backend) in present.backends_v4.iter().filter(|(_, backend)| backend.addr != V4::default()) {
            self.v4.restore(*id, *backend);
        }
        for (id, backend) in present.backends_v6.iter().filter(|(_, backend)| backend.addr != V6::default()) {
            self.v6.restore(*id, *backend);
        }
    }

    /// See [`Ids::pass_over`]; IPv4, IPv6.
    pub(super) fn pass_over(&mut self, last: [u32; 2]) {
        self.v4.pass_over(last[0]);
        self.v6.pass_over(last[1]);
    }

    /// One more reference to the id of a backend, and what has to be written if the id is new; `None` if there is no room.
    pub(super) fn acquire(&mut self, addr: SocketAddr, local: bool) -> Option<(u32, Option<Write>)> {
        match addr.ip() {
            IpAddr::V4(ip) => {
                let backend = value(V4::new(ip), addr.port(), local);
                let (id, is_new) = self.v4.acquire(&backend)?;
                Some((id, is_new.then_some(Write::BackendV4(id, backend))))
            }
            IpAddr::V6(ip) => {
                let backend = value(V6::new(ip), addr.port(), local);
                let (id, is_new) = self.v6.acquire(&backend)?;
                Some((id, is_new.then_some(Write::BackendV6(id, backend))))
            }
        }
    }

    pub(super) fn hold(&mut self, family: Family, id: u32) {
        match family {
            Family::V4 => self.v4.hold(id),
            Family::V6 => self.v6.hold(id),
        }
    }

    pub(super) fn release(&mut self, family: Family, id: u32, now: Stamp) {
        match family {
            Family::V4 => self.v4.release(id, now),
            Family::V6 => self.v6.release(id, now),
        }
    }

    pub(super) fn release_unused(&mut self, now: Stamp) {
        self.v4.release_unused(now);
        self.v6.release_unused(now);
    }

    /// See [`Ids::written`].
    pub(super) fn written(&mut self, end: Stamp) {
        self.v4.written(end);
        self.v6.written(end);
    }

    /// Ids whose grace period is over, by family.
    pub(super) fn reclaim(&mut self, now: Stamp) -> [Vec<u32>; 2] {
        [self.v4.reclaim(now), self.v6.reclaim(now)]
    }

    /// What clears the element of an id, if nobody has got the id.
    pub(super) fn clear(&self, family: Family, id: u32) -> Option<Write> {
        match family {
            Family::V4 => self.v4.is_free(id).then(|| Write::BackendV4(id, Backend::default())),
            Family::V6 => self.v6.is_free(id).then(|| Write::BackendV6(id, Backend::default())),
        }
    }

    /// Address, port and locality of an id.
    pub(super) fn get(&self, family: Family, id: u32) -> Option<(SocketAddr, bool)> {
        match family {
            Family::V4 => self.v4.key(id).map(read),
            Family::V6 => self.v6.key(id).map(read),
        }
    }

    /// Ids in use, those in their grace period included.
    pub(super) fn len(&self, family: Family) -> u32 {
        match family {
            Family::V4 => self.v4.len(),
            Family::V6 => self.v6.len(),
        }
    }
}

fn value<A>(addr: A, port: u16, local: bool) -> Backend<A> {
    Backend { addr, port: Port::new(port), flags: if local { backend::LOCAL } else { 0 } }
}

fn read<A: Address>(value: &Backend<A>) -> (SocketAddr, bool) {
    (SocketAddr::new(value.addr.to_ip(), value.port.get()), value.flags & backend::LOCAL != 0)
}
