//! `struct __sk_buff` on the way in: the receiving socket, and the packet's headers from the IP header on.

use core::ptr::read_volatile;

use aya_ebpf::bindings::{__sk_buff, bpf_sock};
use aya_ebpf::helpers::generated::bpf_skb_load_bytes;
use aya_ebpf::programs::SkBuffContext;
use enforcer_common::limits::MAX_EXTENSION_HEADERS;
use enforcer_common::{Address, Port, Protocol};

/// The index that the loopback device has in every network namespace (`LOOPBACK_IFINDEX`).
const LOOPBACK: u32 = 1;

/// `TCP_LISTEN` and `TCP_SYN_SENT` of include/net/tcp_states.h.
const TCP_LISTEN: u32 = 10;
const TCP_SYN_SENT: u32 = 2;
const TCP_ESTABLISHED: u32 = 1;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;
const MOBILITY: u8 = 135;

const TCP_SYN: u8 = 0x02;
const TCP_ACK: u8 = 0x10;

/// A packet and the socket that is about to receive it.
pub(crate) struct Packet {
    skb: *mut __sk_buff,
    /// The receiving socket, never null.
    pub(crate) socket: *mut bpf_sock,
}

/// What a packet says of its flow.
pub(crate) struct Headers {
    pub(crate) protocol: Protocol,
    pub(crate) source: Address,
    pub(crate) destination: Address,
    pub(crate) source_port: Port,
    pub(crate) destination_port: Port,
    /// TCP only: asks for a new connection.
    pub(crate) opens: bool,
}

macro_rules! read {
    ($pointer:expr, $field:ident) => {{
        // SAFETY: a context or a socket that the kernel holds while the program runs.
        let field = unsafe { &raw const (*$pointer).$field };
        // SAFETY: as above; volatile keeps the width of the access, which the verifier checks.
        unsafe { read_volatile(field) }
    }};
}

impl Packet {
    /// The packet behind a context; `None` if no socket is to receive it.
    #[inline(always)]
    pub(crate) fn new(ctx: &SkBuffContext) -> Option<Self> {
        let skb = ctx.skb.skb;
        // SAFETY: the kernel passes a valid `__sk_buff` for the whole run of the program.
        let field = unsafe { &raw const (*skb).__bindgen_anon_2.sk };
        // SAFETY: as above; volatile keeps the pointer-sized access that the verifier types as a socket.
        let socket = unsafe { read_volatile(field) };
        if socket.is_null() { None } else { Some(Self { skb, socket }) }
    }

    /// Whether this is a segment of a TCP connection that was judged when it was opened: nothing but two bytes is
    /// read for it. A first byte that is not readable here is not one.
    #[inline(always)]
    pub(crate) fn is_of_an_open_connection(&self) -> bool {
        let state = read!(self.socket, state);
        if state == TCP_LISTEN || state == TCP_SYN_SENT {
            return false;
        }
        let start = read!(self.skb, data) as usize;
        let end = read!(self.skb, data_end) as usize;
        if start + 20 > end {
            return false;
        }
        let bytes = start as *const u8;
        // SAFETY: twenty bytes from `start` on lie before `end` by the check above.
        let first = unsafe { read_volatile(bytes) };
        let offset = if first >> 4 == 4 { 9 } else { 6 };
        // SAFETY: 6 and 9 lie within the twenty bytes.
        let at = unsafe { bytes.add(offset) };
        // SAFETY: as above.
        let protocol = unsafe { read_volatile(at) };
        protocol == Protocol::TCP.0
    }

    /// Whether the receiving socket is connected, so that the kernel gives it packets of one peer only.
    #[inline(always)]
    pub(crate) fn is_connected(&self) -> bool {
        read!(self.socket, state) == TCP_ESTABLISHED
    }

    /// Whether the packet came over the loopback device, as everything does that a host sends to itself.
    #[inline(always)]
    pub(crate) fn is_from_loopback(&self) -> bool {
        read!(self.skb, ifindex) == LOOPBACK
    }

    /// The context itself, for helpers.
    #[inline(always)]
    pub(crate) fn context(&self) -> *mut core::ffi::c_void {
        self.skb.cast()
    }

    /// Reads the headers; `None` if they cannot be followed to the ports.
    #[inline(always)]
    pub(crate) fn headers(&self) -> Option<Headers> {
        let [first] = self.bytes::<1>(0)?;
        match first >> 4 {
            4 => self.v4_headers(first),
            6 => self.v6_headers(),
            _ => None,
        }
    }

    #[inline(always)]
    fn v4_headers(&self, first: u8) -> Option<Headers> {
        let header = self.bytes::<20>(0)?;
        let length = u32::from(first & 0x0f) * 4;
        if length < 20 {
            return None;
        }
        let source = Address::from_v4([header[12], header[13], header[14], header[15]]);
        let destination = Address::from_v4([header[16], header[17], header[18], header[19]]);
        self.transport(Protocol(header[9]), length, source, destination)
    }

    #[inline(always)]
    fn v6_headers(&self) -> Option<Headers> {
        let mut next = self.bytes::<1>(6)?[0];
        let source = Address(self.bytes::<16>(8)?);
        let destination = Address(self.bytes::<16>(24)?);
        let mut offset = 40_u32;
        let mut walked = 0;
        while walked <= MAX_EXTENSION_HEADERS {
            let length = match next {
                HOP_BY_HOP | ROUTING | DESTINATION | MOBILITY => {
                    u32::from(self.bytes::<2>(offset)?[1]) * 8 + 8
                }
                AUTHENTICATION => u32::from(self.bytes::<2>(offset)?[1]) * 4 + 8,
                FRAGMENT => 8,
                _ => return self.transport(Protocol(next), offset, source, destination),
            };
            next = self.bytes::<1>(offset)?[0];
            offset += length;
            walked += 1;
        }
        None
    }

    #[inline(always)]
    fn transport(
        &self,
        protocol: Protocol,
        offset: u32,
        source: Address,
        destination: Address,
    ) -> Option<Headers> {
        let has_ports = matches!(
            protocol,
            Protocol::TCP | Protocol::UDP | Protocol::UDPLITE | Protocol::SCTP | Protocol::DCCP
        );
        let [s0, s1, d0, d1] = if has_ports { self.bytes::<4>(offset)? } else { [0; 4] };
        let opens = if protocol == Protocol::TCP {
            let [flags] = self.bytes::<1>(offset + 13)?;
            flags & TCP_SYN != 0 && flags & TCP_ACK == 0
        } else {
            false
        };
        let (source_port, destination_port) = (Port([s0, s1]), Port([d0, d1]));
        Some(Headers { protocol, source, destination, source_port, destination_port, opens })
    }

    /// Copies bytes of the packet, counted from the IP header, wherever in the buffer they lie.
    #[inline(always)]
    fn bytes<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        let mut bytes = [0_u8; N];
        // SAFETY: the helper writes exactly N bytes to `bytes`, or fails and writes zeroes.
        let result =
            unsafe { bpf_skb_load_bytes(self.skb.cast(), offset, bytes.as_mut_ptr().cast(), N as u32) };
        if result == 0 { Some(bytes) } else { None }
    }
}
