//! `struct __sk_buff` on the way in: the receiving socket, and the packet's headers from the IP header on.

use core::ptr::read_volatile;

use aya_ebpf::bindings::{__sk_buff, bpf_sock};
use aya_ebpf::helpers::generated::bpf_skb_load_bytes;
use aya_ebpf::programs::SkBuffContext;
use enforcer_common::limits::MAX_EXTENSION_HEADERS;
use enforcer_common::{Address, Port, Protocol};

use crate::maps;

/// The index that the loopback device has in every network namespace (`LOOPBACK_IFINDEX`).
pub(crate) const LOOPBACK: u32 = 1;

/// `PACKET_LOOPBACK` of include/uapi/linux/if_packet.h.
const PACKET_LOOPBACK: u32 = 5;

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

/// A packet as the kernel passes it.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Skb(pub(crate) *mut __sk_buff);

/// A packet and the socket that is about to receive it.
pub(crate) struct Packet {
    pub(crate) skb: Skb,
    /// The receiving socket, never null.
    pub(crate) socket: *mut bpf_sock,
}

/// What a packet says of its flow.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Headers {
    pub(crate) source: Address,
    pub(crate) destination: Address,
    pub(crate) source_port: Port,
    pub(crate) destination_port: Port,
    pub(crate) protocol: Protocol,
    /// TCP only: 1 if it asks for a new connection.
    opens: u8,
    _pad: [u8; 2],
}

impl Headers {
    /// What stands here before a packet is read; every byte is set, as the verifier wants it.
    const UNREAD: Self = Self {
        source: Address::V6_UNSPECIFIED,
        destination: Address::V6_UNSPECIFIED,
        source_port: Port::new(0),
        destination_port: Port::new(0),
        protocol: Protocol(0),
        opens: 0,
        _pad: [0; 2],
    };

    /// Whether the packet begins a flow that nobody has judged: everything does but a segment of a TCP connection.
    #[inline(always)]
    pub(crate) fn begin_a_flow(&self) -> bool {
        self.protocol != Protocol::TCP || self.opens != 0
    }
}

macro_rules! read {
    ($pointer:expr, $field:ident) => {{
        // SAFETY: a context or a socket that the kernel holds while the program runs.
        let field = unsafe { &raw const (*$pointer).$field };
        // SAFETY: as above; volatile keeps the width of the access, which the verifier checks.
        unsafe { read_volatile(field) }
    }};
}

impl Skb {
    /// Whether the packet came over the loopback device, as everything does that a host sends to itself.
    #[inline(always)]
    pub(crate) fn is_from_loopback(&self) -> bool {
        self.device() == LOOPBACK
    }

    /// The number of the device that the packet came over.
    #[inline(always)]
    pub(crate) fn device(&self) -> u32 {
        read!(self.0, ifindex)
    }

    /// Whether the packet is the sender's own copy of a broadcast or multicast, which comes back over the device that
    /// the others left by.
    #[inline(always)]
    pub(crate) fn is_looped_back(&self) -> bool {
        read!(self.0, pkt_type) == PACKET_LOOPBACK
    }

    /// The context itself, for helpers.
    #[inline(always)]
    pub(crate) fn context(&self) -> *mut core::ffi::c_void {
        self.0.cast()
    }
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
        if socket.is_null() { None } else { Some(Self { skb: Skb(skb), socket }) }
    }

    /// Whether this is a segment of a TCP connection that was judged when it was opened: nothing but two bytes is
    /// read for it. A first byte that is not readable here is not one.
    #[inline(always)]
    pub(crate) fn is_of_an_open_connection(&self) -> bool {
        let state = read!(self.socket, state);
        if state == TCP_LISTEN || state == TCP_SYN_SENT {
            return false;
        }
        let start = read!(self.skb.0, data) as usize;
        let end = read!(self.skb.0, data_end) as usize;
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

    /// The headers; `None` if they cannot be followed to the ports.
    #[inline(always)]
    pub(crate) fn headers(&self) -> Option<Headers> {
        if read_headers(self.skb.0) == 0 {
            return None;
        }
        let headers = maps::headers()?;
        // SAFETY: a live element of this CPU, whose every byte `read_headers` has just set.
        Some(unsafe { *headers })
    }
}

/// Reads the headers to this CPU's place for them; returns 0 if they cannot be followed to the ports.
///
/// A global function, so that the verifier walks each way to the ports once, and what is done with them once for all.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn read_headers(skb: *mut __sk_buff) -> u32 {
    let Some(place) = maps::headers() else { return 0 };
    let mut headers = Headers::UNREAD;
    // In one call all that most packets are asked for: an IPv6 header, or one of IPv4 and what fits of the next.
    let length = read!(skb, len);
    let mut start = [0_u32; 10];
    let mut short = [0_u32; 7];
    let mut header = [0_u32; 5];
    let has = if length >= 40 && copy(skb, 0, &mut start) {
        40
    } else if length >= 28 && copy(skb, 0, &mut short) {
        start = [short[0], short[1], short[2], short[3], short[4], short[5], 0, 0, 0, 0];
        28
    } else if copy(skb, 0, &mut header) {
        start = [header[0], header[1], header[2], header[3], header[4], 0, 0, 0, 0, 0];
        20
    } else {
        return 0;
    };
    let [first, _, _, _] = start[0].to_ne_bytes();
    let is_read = match (first >> 4, has) {
        (4, _) => v4(skb, &start, has, &mut headers),
        (6, 40) => v6(skb, &start, &mut headers),
        _ => false,
    };
    if !is_read {
        return 0;
    }
    // SAFETY: a live element of this CPU, which the packet that is judged on it now has to itself.
    unsafe { *place = headers };
    1
}

#[inline(always)]
fn v4(skb: *mut __sk_buff, start: &[u32; 10], has: u32, headers: &mut Headers) -> bool {
    let [length, _, _, _] = start[0].to_ne_bytes();
    let [_, protocol, _, _] = start[2].to_ne_bytes();
    headers.protocol = Protocol(protocol);
    headers.source = Address::from_v4(start[3].to_ne_bytes());
    headers.destination = Address::from_v4(start[4].to_ne_bytes());
    let length = u32::from(length & 0x0f) * 4;
    if length < 20 {
        return false;
    }
    // Without options, the next header begins with the sixth word.
    let at_hand = match headers.protocol {
        Protocol::TCP => 40,
        Protocol::UDP => 28,
        _ => u32::MAX,
    };
    if length == 20 && has >= at_hand {
        let [a, b, c, d] = start[5].to_ne_bytes();
        (headers.source_port, headers.destination_port) = (Port([a, b]), Port([c, d]));
        let [_, flags, _, _] = start[8].to_ne_bytes();
        headers.opens = opens(flags);
        return true;
    }
    transport(skb, length, headers)
}

#[inline(always)]
fn v6(skb: *mut __sk_buff, start: &[u32; 10], headers: &mut Headers) -> bool {
    headers.source = Address::from_words([start[2], start[3], start[4], start[5]]);
    headers.destination = Address::from_words([start[6], start[7], start[8], start[9]]);
    let [_, _, next, _] = start[1].to_ne_bytes();
    let end = walk_extensions(skb, u32::from(next));
    headers.protocol = Protocol((end & 0xff) as u8);
    // The kernel itself takes no packet whose headers are longer than this.
    let offset = ((end >> 8) & 0xffff) as u32;
    offset != 0 && transport(skb, offset, headers)
}

/// Whether a TCP segment with these flags asks for a new connection.
#[inline(always)]
fn opens(flags: u8) -> u8 {
    u8::from(flags & TCP_SYN != 0 && flags & TCP_ACK == 0)
}

/// Reads the ports, where the protocol has them, from the transport header at `offset`; returns false if it ends before.
#[inline(always)]
fn transport(skb: *mut __sk_buff, offset: u32, headers: &mut Headers) -> bool {
    let has_ports = matches!(
        headers.protocol,
        Protocol::TCP | Protocol::UDP | Protocol::UDPLITE | Protocol::SCTP | Protocol::DCCP
    );
    if !has_ports {
        return true;
    }
    let mut ports = [[0_u8; 2]; 2];
    if !copy(skb, offset, &mut ports) {
        return false;
    }
    headers.source_port = Port(ports[0]);
    headers.destination_port = Port(ports[1]);
    if headers.protocol != Protocol::TCP {
        return true;
    }
    let mut flags = [0_u8; 1];
    if !copy(skb, offset + 13, &mut flags) {
        return false;
    }
    headers.opens = opens(flags[0]);
    true
}

/// Copies bytes of a packet, counted from the IP header, wherever in the buffer they lie.
#[inline(always)]
fn copy<T, const N: usize>(skb: *mut __sk_buff, offset: u32, bytes: &mut [T; N]) -> bool {
    let size = size_of::<[T; N]>() as u32;
    // SAFETY: the helper writes exactly `size` bytes to an array of integers of that size, or fails.
    unsafe { bpf_skb_load_bytes(skb.cast(), offset, bytes.as_mut_ptr().cast(), size) == 0 }
}

/// Follows the extension headers of an IPv6 packet, the first of which is of type `next`. Returns where the
/// transport header begins, above eight bits with its protocol; 0 if that cannot be told.
///
/// A global function, so that the verifier walks the loop once and by itself.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn walk_extensions(skb: *mut __sk_buff, next: u32) -> u64 {
    let mut next = next;
    let mut offset = 40_u32;
    let mut walked = 0;
    while walked <= MAX_EXTENSION_HEADERS {
        let unit = match (next & 0xff) as u8 {
            HOP_BY_HOP | ROUTING | DESTINATION | MOBILITY => 8,
            AUTHENTICATION => 4,
            FRAGMENT => 0,
            protocol => return (u64::from(offset) << 8) | u64::from(protocol),
        };
        let mut extension = [0_u8; 2];
        if !copy(skb, offset, &mut extension) {
            return 0;
        }
        next = u32::from(extension[0]);
        offset += u32::from(extension[1]) * unit + 8;
        walked += 1;
    }
    0
}
