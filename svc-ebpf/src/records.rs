//! Socket records in the kernel: maps behind [`Sockets`].
#![expect(unsafe_code, reason = "map values are reached through raw pointers")]

use core::ptr::{read_volatile, write_volatile};

use aya_ebpf::bindings::BPF_ANY;
use svc_common::datapath::socket::Sockets;
use svc_common::net::{V4, V6};
use svc_common::tables::{Peer, SocketFlow, SocketKey};

use crate::env::Kernel;
use crate::maps::{PEERS_V4, PEERS_V6, SOCKETS_V4, SOCKETS_V6};

macro_rules! sockets {
    ($addr:ty, $map:ident, $peers:ident) => {
        impl Sockets<$addr> for Kernel {
            #[inline(always)]
            fn socket(&self, key: &SocketKey<$addr>) -> Option<SocketFlow<$addr>> {
                // SAFETY: the pointer comes from a successful lookup and any bytes are a valid SocketFlow.
                $map.get_ptr(key).map(|record| unsafe { *record })
            }

            #[inline(always)]
            fn set_socket(&self, key: &SocketKey<$addr>, record: &SocketFlow<$addr>) -> bool {
                $map.insert(key, record, u64::from(BPF_ANY)).is_ok()
            }

            #[inline(always)]
            fn peer(&self, cookie: u64) -> Option<Peer<$addr>> {
                let place = $peers.get_ptr(Peer::<$addr>::index(cookie))?;
                // SAFETY: array values stay where they are, and any bytes are a valid Peer. A younger socket may write
                // this one meanwhile, and clears the cookie first.
                let (peer, cookie) = unsafe { (read_volatile(place), read_volatile(&raw const (*place).cookie)) };
                (peer.cookie == cookie).then_some(peer)
            }

            #[inline(always)]
            fn set_peer(&self, cookie: u64, peer: &Peer<$addr>) {
                let Some(place) = $peers.get_ptr_mut(Peer::<$addr>::index(cookie)) else { return };
                // SAFETY: as in `peer`.
                unsafe {
                    write_volatile(&raw mut (*place).cookie, [0; 2]);
                    write_volatile(place, Peer { cookie: [0; 2], ..*peer });
                    write_volatile(&raw mut (*place).cookie, [cookie as u32, (cookie >> 32) as u32]);
                }
            }
        }
    };
}

sockets!(V4, SOCKETS_V4, PEERS_V4);
sockets!(V6, SOCKETS_V6, PEERS_V6);
