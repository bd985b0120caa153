//! `struct __sk_buff` on the way in: the receiving socket, and the packet's headers from the IP header on.

use core::ptr::read_volatile;

use aya_ebpf::bindings::{__sk_buff, bpf_sock};
use aya_ebpf::helpers::generated::bpf_skb_load_bytes;
use aya_ebpf::programs::SkBuffContext;
use enforcer_common::limits::MAX_EXTENSION_HEADERS;
use enforcer_common::{Address, Port, Protocol};

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

impl Headers {
    /// What stands here before a packet is read; every byte is set, as the verifier wants it.
    pub(crate) const UNREAD: Self = Self {
        protocol: Protocol(0),
        source: Address::V6_UNSPECIFIED,
        destination: Address::V6_UNSPECIFIED,
        source_port: Port::new(0),
        destination_port: Port::new(0),
        opens: false,
    };
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
        self.device() == LOOPBACK
    }

    /// The number of the device that the packet came over.
    #[inline(always)]
    pub(crate) fn device(&self) -> u32 {
        read!(self.skb, ifindex)
    }

    /// Whether the packet is the sender's own copy of a broadcast or multicast, which comes back over the device that
    /// the others left by.
    #[inline(always)]
    pub(crate) fn is_looped_back(&self) -> bool {
        read!(self.skb, pkt_type) == PACKET_LOOPBACK
    }

    /// The context itself, for helpers.
    #[inline(always)]
    pub(crate) fn context(&self) -> *mut core::ffi::c_void {
        self.skb.cast()
    }

    /// Reads the headers; returns false if they cannot be followed to the ports.
    #[inline(always)]
    pub(crate) fn read(&self, headers: &mut Headers) -> bool {
        let mut first = [0_u8; 1];
        if !self.copy(0, &mut first) {
            return false;
        }
        let offset = match first[0] >> 4 {
            4 => self.v4(headers),
            6 => self.v6(headers),
            _ => 0,
        };
        offset != 0 && self.transport(offset, headers)
    }

    /// Where the transport header begins; 0 if that cannot be told.
    #[inline(always)]
    fn v4(&self, headers: &mut Headers) -> u32 {
        let mut header = [0_u32; 5];
        if !self.copy(0, &mut header) {
            return 0;
        }
        let [length, _, _, _] = header[0].to_ne_bytes();
        let [_, protocol, _, _] = header[2].to_ne_bytes();
        headers.protocol = Protocol(protocol);
        headers.source = Address::from_v4(header[3].to_ne_bytes());
        headers.destination = Address::from_v4(header[4].to_ne_bytes());
        let length = u32::from(length & 0x0f) * 4;
        if length < 20 { 0 } else { length }
    }

    /// Where the transport header begins; 0 if that cannot be told.
    #[inline(always)]
    fn v6(&self, headers: &mut Headers) -> u32 {
        let mut header = [0_u32; 10];
        if !self.copy(0, &mut header) {
            return 0;
        }
        headers.source = Address::from_words([header[2], header[3], header[4], header[5]]);
        headers.destination = Address::from_words([header[6], header[7], header[8], header[9]]);
        let [_, _, next, _] = header[1].to_ne_bytes();
        let end = walk_extensions(self.skb, u32::from(next));
        headers.protocol = Protocol((end & 0xff) as u8);
        // The kernel itself takes no packet whose headers are longer than this.
        ((end >> 8) & 0xffff) as u32
    }

    #[inline(always)]
    fn transport(&self, offset: u32, headers: &mut Headers) -> bool {
        let has_ports = matches!(
            headers.protocol,
            Protocol::TCP | Protocol::UDP | Protocol::UDPLITE | Protocol::SCTP | Protocol::DCCP
        );
        if !has_ports {
            return true;
        }
        let mut ports = [[0_u8; 2]; 2];
        if !self.copy(offset, &mut ports) {
            return false;
        }
        headers.source_port = Port(ports[0]);
        headers.destination_port = Port(ports[1]);
        if headers.protocol != Protocol::TCP {
            return true;
        }
        let mut flags = [0_u8; 1];
        if !self.copy(offset + 13, &mut flags) {
            return false;
        }
        headers.opens = flags[0] & TCP_SYN != 0 && flags[0] & TCP_ACK == 0;
        true
    }

    #[inline(always)]
    fn copy<T, const N: usize>(&self, offset: u32, bytes: &mut [T; N]) -> bool {
        copy(self.skb, offset, bytes)
    }
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
