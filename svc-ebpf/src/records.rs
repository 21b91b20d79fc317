//! Socket records in the kernel: maps behind [`Sockets`].
#![expect(unsafe_code, reason = "map values are reached through raw pointers")]

use aya_ebpf::bindings::BPF_ANY;
use svc_common::datapath::socket::Sockets;
use svc_common::net::{V4, V6};
use svc_common::tables::{SocketFlow, SocketKey};

use crate::env::Kernel;
use crate::maps::{SOCKETS_V4, SOCKETS_V6};

macro_rules! sockets {
    ($addr:ty, $map:ident) => {
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
        }
    };
}

sockets!(V4, SOCKETS_V4);
sockets!(V6, SOCKETS_V6);
