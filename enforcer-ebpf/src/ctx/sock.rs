//! `struct bpf_sock` as the context of the socket hooks.

use core::ptr::read_volatile;

use aya_ebpf::bindings::bpf_sock;
use aya_ebpf::helpers::generated::{bpf_get_netns_cookie, bpf_sk_fullsock};
use aya_ebpf::programs::SockContext;
use enforcer_common::{Address, Port, Protocol};

use crate::ctx::sock_addr::wire_protocol;

const SOCK_STREAM: u32 = 1;
const SOCK_DGRAM: u32 = 2;
const SOCK_RAW: u32 = 3;
const SOCK_SEQPACKET: u32 = 5;
const SOCK_DCCP: u32 = 6;

/// `IPPROTO_IGMP` of include/uapi/linux/in.h.
const IGMP: Protocol = Protocol(2);

/// `TCP_ESTABLISHED` and `TCP_LISTEN` of include/net/tcp_states.h.
const TCP_ESTABLISHED: u32 = 1;
const TCP_LISTEN: u32 = 10;

macro_rules! read {
    ($sock:expr, $($field:tt)+) => {{
        // SAFETY: a context or a socket that the kernel holds while the program runs, and not null.
        let field = unsafe { &raw const (*$sock).$($field)+ };
        // SAFETY: as above; volatile keeps the width of the access, which the verifier checks.
        unsafe { read_volatile(field) }
    }};
}

/// Typed getters over [`SockContext`].
pub(crate) trait Sock {
    /// The protocol of the socket.
    fn protocol(&self) -> Protocol;
    /// Whether its type lets a process write headers of its own.
    fn is_raw(&self) -> bool;
    /// The cookie of the socket's network namespace (kernel 5.7).
    fn netns(&self) -> u64;
    /// The port that it was given; only in `post_bind*`, after the fact.
    fn bound_port(&self) -> Port;
    /// The IPv4 address that it was given; only in `post_bind4`.
    fn bound_v4(&self) -> Address;
    /// The IPv6 address that it was given; only in `post_bind6`.
    fn bound_v6(&self) -> Address;
}

impl Sock for SockContext {
    #[inline(always)]
    fn protocol(&self) -> Protocol {
        wire_protocol(read!(self.sock, protocol))
    }

    #[inline(always)]
    fn is_raw(&self) -> bool {
        // A type nobody has heard of counts as raw.
        !matches!(read!(self.sock, type_), SOCK_STREAM | SOCK_DGRAM | SOCK_SEQPACKET | SOCK_DCCP)
    }

    #[inline(always)]
    fn netns(&self) -> u64 {
        // SAFETY: the helper takes this program's own context.
        unsafe { bpf_get_netns_cookie(self.sock.cast()) }
    }

    #[inline(always)]
    fn bound_port(&self) -> Port {
        Port::new((read!(self.sock, src_port) & 0xffff) as u16)
    }

    #[inline(always)]
    fn bound_v4(&self) -> Address {
        Address::from_v4(read!(self.sock, src_ip4).to_ne_bytes())
    }

    #[inline(always)]
    fn bound_v6(&self) -> Address {
        Address::from_words([
            read!(self.sock, src_ip6[0]),
            read!(self.sock, src_ip6[1]),
            read!(self.sock, src_ip6[2]),
            read!(self.sock, src_ip6[3]),
        ])
    }
}

/// Whether a socket, held and not null, waits for connections.
#[inline(always)]
pub(crate) fn is_listening(socket: *mut bpf_sock) -> bool {
    read!(socket, state) == TCP_LISTEN
}

/// Whether the socket of a packet, not null, is one of this protocol that writes no headers of its own.
#[inline(always)]
pub(crate) fn sends(socket: *mut bpf_sock, protocol: Protocol) -> bool {
    // SAFETY: the helper (5.1) takes the socket of a packet, and returns it again or null.
    let whole = unsafe { bpf_sk_fullsock(socket) };
    !whole.is_null() && read!(whole, type_) != SOCK_RAW && wire_protocol(read!(whole, protocol)) == protocol
}

/// Whether the socket of a packet, not null, is one by which a process writes headers of its own. Those of the protocols in which the
/// kernel itself answers by such a socket are taken for its.
#[inline(always)]
pub(crate) fn writes_headers(socket: *mut bpf_sock) -> bool {
    // SAFETY: as for `sends`.
    let whole = unsafe { bpf_sk_fullsock(socket) };
    !whole.is_null()
        && read!(whole, type_) == SOCK_RAW
        && !matches!(
            wire_protocol(read!(whole, protocol)),
            Protocol::ICMP | Protocol::ICMPV6 | Protocol::TCP | IGMP
        )
}

/// The port of the socket of a packet, not null: of a raw one the number of its protocol.
#[inline(always)]
pub(crate) fn port(socket: *mut bpf_sock) -> Port {
    // In host byte order.
    Port::new((read!(socket, src_port) & 0xffff) as u16)
}

/// Whether a socket, held and not null, is connected.
#[inline(always)]
pub(crate) fn is_connected(socket: *mut bpf_sock) -> bool {
    read!(socket, state) == TCP_ESTABLISHED
}
