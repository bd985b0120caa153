//! `struct bpf_sock_addr`: what `connect`, `sendmsg` and `bind` were asked to do.
//!
//! The verifier checks each access by offset and width (`sock_addr_is_valid_access` in net/core/filter.c), so
//! every field is read by itself and in its own width.

use core::ptr::read_volatile;

use aya_ebpf::bindings::bpf_sock;
use aya_ebpf::helpers::generated::bpf_get_netns_cookie;
use aya_ebpf::programs::SockAddrContext;
use enforcer_common::{Address, Port, Protocol};

/// `IPPROTO_MPTCP`, which stands in `sk_protocol` and never in an IP header.
const IPPROTO_MPTCP: u32 = 262;

/// The protocol that flows of a socket with this `sk_protocol` have in their IP headers.
#[inline(always)]
pub(crate) fn wire_protocol(sk_protocol: u32) -> Protocol {
    match sk_protocol {
        IPPROTO_MPTCP => Protocol::TCP,
        0..=255 => Protocol((sk_protocol & 0xff) as u8),
        // Unheard of: 255 is reserved by IANA, so no rule can name it.
        256.. => Protocol(255),
    }
}

macro_rules! read {
    ($ctx:expr, $($field:tt)+) => {{
        // SAFETY: the kernel passes a valid `bpf_sock_addr` for the whole run of the program.
        let field = unsafe { &raw const (*$ctx.sock_addr).$($field)+ };
        // SAFETY: as above; volatile keeps the width of the access, which the verifier checks.
        unsafe { read_volatile(field) }
    }};
}

/// `AF_INET` of include/linux/socket.h.
const AF_INET: u32 = 2;

macro_rules! read_socket {
    ($socket:expr, $($field:tt)+) => {{
        // SAFETY: checked against null by the caller; the kernel holds the socket while the program runs.
        let field = unsafe { &raw const (*$socket).$($field)+ };
        // SAFETY: as above; volatile keeps the width of the access, which the verifier checks.
        unsafe { read_volatile(field) }
    }};
}

/// The port that a socket is connected to: four bytes are read, of which the first two are it in network order, as kernels before
/// 5.17 admit no less.
#[inline(always)]
fn peer_port(socket: *mut bpf_sock) -> Port {
    // SAFETY: checked against null by the caller; the kernel holds the socket while the program runs.
    let field = unsafe { &raw const (*socket).dst_port }.cast::<u32>();
    // SAFETY: as above; volatile keeps the width of the access, which the verifier checks.
    let [high, low, _, _] = unsafe { read_volatile(field) }.to_ne_bytes();
    Port([high, low])
}

/// Typed getters over [`SockAddrContext`].
pub(crate) trait SockAddr {
    /// The address in a `*4` hook.
    fn v4(&self) -> Address;
    /// The address in a `*6` hook; a v4-mapped one is the IPv4 address it maps.
    fn v6(&self) -> Address;
    /// The port of that address.
    fn port(&self) -> Port;
    /// The protocol of the socket.
    fn protocol(&self) -> Protocol;
    /// The socket that is connected, sent from or bound.
    fn socket(&self) -> *mut bpf_sock;
    /// The address and port that this socket is bound to; unspecified and 0 while it is not.
    fn local(&self) -> (Address, Port);
    /// The IPv4 address and the port that this socket is connected to; unspecified and 0 while it is not.
    fn peer_v4(&self) -> (Address, Port);
    /// The same of one that is connected over IPv6.
    fn peer_v6(&self) -> (Address, Port);
    /// The address that a datagram leaves from in `sendmsg4`, where only it may be read: the one that its sender names
    /// (`IP_PKTINFO`), or that its socket is bound to; unspecified if neither (`msg_src_ip4`, kernel 4.18).
    fn leaves_from_v4(&self) -> Address;
    /// Likewise in `sendmsg6`.
    fn leaves_from_v6(&self) -> Address;
    /// The cookie of the socket's network namespace (kernel 5.7).
    fn netns(&self) -> u64;
}

impl SockAddr for SockAddrContext {
    #[inline(always)]
    fn v4(&self) -> Address {
        Address::from_v4(read!(self, user_ip4).to_ne_bytes())
    }

    #[inline(always)]
    fn v6(&self) -> Address {
        Address::from_words([
            read!(self, user_ip6[0]),
            read!(self, user_ip6[1]),
            read!(self, user_ip6[2]),
            read!(self, user_ip6[3]),
        ])
    }

    #[inline(always)]
    fn port(&self) -> Port {
        // The kernel fills the low half with the port in network order and the rest with zero.
        let [low, high, _, _] = read!(self, user_port).to_ne_bytes();
        Port([low, high])
    }

    #[inline(always)]
    fn protocol(&self) -> Protocol {
        wire_protocol(read!(self, protocol))
    }

    #[inline(always)]
    fn socket(&self) -> *mut bpf_sock {
        read!(self, __bindgen_anon_1.sk)
    }

    #[inline(always)]
    fn local(&self) -> (Address, Port) {
        let socket = self.socket();
        if socket.is_null() {
            return (Address::V6_UNSPECIFIED, Port::new(0));
        }
        // `src_port` is in host byte order.
        let port = Port::new((read_socket!(socket, src_port) & 0xffff) as u16);
        // All of it is read before anything is chosen: a read at an offset that was chosen is refused.
        let v4 = Address::from_v4(read_socket!(socket, src_ip4).to_ne_bytes());
        let v6 = Address::from_words([
            read_socket!(socket, src_ip6[0]),
            read_socket!(socket, src_ip6[1]),
            read_socket!(socket, src_ip6[2]),
            read_socket!(socket, src_ip6[3]),
        ]);
        let address = if read_socket!(socket, family) == AF_INET { v4 } else { v6 };
        (address, port)
    }

    #[inline(always)]
    fn peer_v4(&self) -> (Address, Port) {
        let socket = self.socket();
        if socket.is_null() {
            return (Address::V4_UNSPECIFIED, Port::new(0));
        }
        (Address::from_v4(read_socket!(socket, dst_ip4).to_ne_bytes()), peer_port(socket))
    }

    #[inline(always)]
    fn peer_v6(&self) -> (Address, Port) {
        let socket = self.socket();
        if socket.is_null() {
            return (Address::V6_UNSPECIFIED, Port::new(0));
        }
        let address = Address::from_words([
            read_socket!(socket, dst_ip6[0]),
            read_socket!(socket, dst_ip6[1]),
            read_socket!(socket, dst_ip6[2]),
            read_socket!(socket, dst_ip6[3]),
        ]);
        (address, peer_port(socket))
    }

    #[inline(always)]
    fn leaves_from_v4(&self) -> Address {
        Address::from_v4(read!(self, msg_src_ip4).to_ne_bytes())
    }

    #[inline(always)]
    fn leaves_from_v6(&self) -> Address {
        Address::from_words([
            read!(self, msg_src_ip6[0]),
            read!(self, msg_src_ip6[1]),
            read!(self, msg_src_ip6[2]),
            read!(self, msg_src_ip6[3]),
        ])
    }

    #[inline(always)]
    fn netns(&self) -> u64 {
        // SAFETY: the helper takes this program's own context.
        unsafe { bpf_get_netns_cookie(self.sock_addr.cast()) }
    }
}
