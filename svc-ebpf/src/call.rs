//! Access to what a socket call says, and the helpers that only socket programs have.
#![expect(unsafe_code, reason = "context fields and helpers of socket programs are reached through raw pointers")]

use aya_ebpf::bindings::{bpf_sock, bpf_sock_addr};
use aya_ebpf::helpers::generated::{bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_set_retval};
use aya_ebpf::programs::SockAddrContext;
use svc_common::net::{Port, V4, V6};
use svc_common::tuple::End;

/// A socket call that may be rewritten.
pub(crate) struct SocketCall {
    ctx: *mut bpf_sock_addr,
}

/// Reads a field of the context. Volatile, so that every access keeps the width of its field: the verifier translates
/// accesses to contexts field by field.
macro_rules! field {
    ($place:expr) => {
        // SAFETY: the kernel hands a valid context (and, in it, a valid socket) to the program; the verifier checks
        // that the field may be read by programs of this attach type.
        unsafe { core::ptr::read_volatile(&raw const $place) }
    };
}

/// Writes a field of the context.
macro_rules! set {
    ($place:expr, $value:expr) => {
        // SAFETY: as for reading; the verifier checks that the field may be written.
        unsafe { core::ptr::write_volatile(&raw mut $place, $value) }
    };
}

impl SocketCall {
    #[inline(always)]
    pub(crate) fn new(ctx: &SockAddrContext) -> Self {
        Self { ctx: ctx.sock_addr }
    }

    /// IP protocol number.
    #[inline(always)]
    pub(crate) fn protocol(&self) -> u8 {
        let protocol: u32 = field!((*self.ctx).protocol);
        // Numbers beyond a byte (MPTCP) are protocols that no Service has.
        if protocol > 0xff { 0 } else { protocol as u8 }
    }

    /// The address and port of an IPv4 call.
    #[inline(always)]
    pub(crate) fn end_v4(&self) -> End<V4> {
        End::new(V4::from_bits(field!((*self.ctx).user_ip4)), self.port())
    }

    /// The address and port of an IPv6 call.
    #[inline(always)]
    pub(crate) fn end_v6(&self) -> End<V6> {
        let words = [
            field!((*self.ctx).user_ip6[0]),
            field!((*self.ctx).user_ip6[1]),
            field!((*self.ctx).user_ip6[2]),
            field!((*self.ctx).user_ip6[3]),
        ];
        End::new(V6::from_words(words), self.port())
    }

    /// Replaces the address and port of an IPv4 call.
    #[inline(always)]
    pub(crate) fn set_end_v4(&self, end: End<V4>) {
        set!((*self.ctx).user_ip4, end.addr.bits());
        self.set_port(end.port);
    }

    /// Replaces the address and port of an IPv6 call.
    #[inline(always)]
    pub(crate) fn set_end_v6(&self, end: End<V6>) {
        let words = end.addr.words();
        set!((*self.ctx).user_ip6[0], words[0]);
        set!((*self.ctx).user_ip6[1], words[1]);
        set!((*self.ctx).user_ip6[2], words[2]);
        set!((*self.ctx).user_ip6[3], words[3]);
        self.set_port(end.port);
    }

    /// Replaces the IPv4 address inside a v4-mapped IPv6 address, and the port.
    #[inline(always)]
    pub(crate) fn set_end_mapped(&self, end: End<V4>) {
        set!((*self.ctx).user_ip6[3], end.addr.bits());
        self.set_port(end.port);
    }

    /// What the socket is bound to, as IPv4; zero if nothing.
    #[inline(always)]
    pub(crate) fn bound_v4(&self) -> End<V4> {
        let socket = self.socket();
        End::new(V4::from_bits(field!((*socket).src_ip4)), Port::new(field!((*socket).src_port) as u16))
    }

    /// What the socket is bound to, as IPv6; zero if nothing.
    #[inline(always)]
    pub(crate) fn bound_v6(&self) -> End<V6> {
        let socket = self.socket();
        let words = [
            field!((*socket).src_ip6[0]),
            field!((*socket).src_ip6[1]),
            field!((*socket).src_ip6[2]),
            field!((*socket).src_ip6[3]),
        ];
        End::new(V6::from_words(words), Port::new(field!((*socket).src_port) as u16))
    }

    /// Cookie of the socket.
    #[inline(always)]
    pub(crate) fn cookie(&self) -> u64 {
        // SAFETY: the helper takes the context of this program type.
        unsafe { bpf_get_socket_cookie(self.ctx.cast()) }
    }

    /// Cookie of the process's network namespace.
    #[inline(always)]
    pub(crate) fn netns(&self) -> u64 {
        // SAFETY: the helper takes the context of this program type.
        unsafe { bpf_get_netns_cookie(self.ctx.cast()) }
    }

    /// The error that the call fails with when the program says no (kernel 5.18 and newer).
    #[inline(always)]
    pub(crate) fn fail_with(&self, errno: i32) {
        // SAFETY: the helper has no preconditions; it fails for numbers that are no errors.
        unsafe { bpf_set_retval(-errno) };
    }

    #[inline(always)]
    fn port(&self) -> Port {
        // The kernel hands the sixteen bits of the wire in a word.
        Port::new(u16::from_be(field!((*self.ctx).user_port) as u16))
    }

    #[inline(always)]
    fn set_port(&self, port: Port) {
        set!((*self.ctx).user_port, u32::from(port.bits()));
    }

    #[inline(always)]
    fn socket(&self) -> *mut bpf_sock {
        // SAFETY: every context of this type carries the pointer to its socket in this union.
        field!((*self.ctx).__bindgen_anon_1.sk)
    }
}
