//! `struct __sk_buff` on the way in: the receiving socket, and the packet's headers from the IP header on.

use core::arch::asm;
use core::ptr::{read_volatile, write_volatile};

use aya_ebpf::bindings::{__sk_buff, bpf_sock};
use aya_ebpf::helpers::generated::bpf_skb_load_bytes;
use aya_ebpf::programs::SkBuffContext;
use enforcer_common::limits::MAX_EXTENSION_HEADERS;
use enforcer_common::{Address, Port, Protocol};

use crate::maps;

/// The index that the loopback device has in every network namespace (`LOOPBACK_IFINDEX`).
pub(crate) const LOOPBACK: u32 = 1;

/// `PACKET_BROADCAST`, `PACKET_MULTICAST` and `PACKET_LOOPBACK` of include/uapi/linux/if_packet.h.
const PACKET_BROADCAST: u32 = 1;
const PACKET_MULTICAST: u32 = 2;
const PACKET_LOOPBACK: u32 = 5;

/// `TCP_LISTEN` and `TCP_SYN_SENT` of include/net/tcp_states.h.
const TCP_LISTEN: u32 = 10;
const TCP_SYN_SENT: u32 = 2;
const TCP_ESTABLISHED: u32 = 1;

/// Set in the priority of a packet that says by which cgroup's socket it was sent. Without `CAP_NET_ADMIN` nobody gives a packet a priority
/// above 6 (`sk_set_prio_allowed`), and `egress` gives its own to all that a socket of the judged tree sends over loopback. Nothing on
/// that way changes it, however long the packet waits: neither a queue nor another CPU, neither fragments nor a socket that is gone.
const SIGNED: u32 = 1 << 31;

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

/// A packet and the socket that is about to receive it, or that sends it.
pub(crate) struct Packet {
    pub(crate) skb: Skb,
    /// That socket, never null.
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

/// What a packet's transport header says, as far as it is asked for; zero where the protocol has no ports.
struct Ports {
    source: Port,
    destination: Port,
    opens: u8,
}

impl Headers {
    /// Whether the packet begins a flow that nobody has judged: everything does but a segment of a TCP connection.
    #[inline(always)]
    pub(crate) fn begin_a_flow(&self) -> bool {
        self.protocol != Protocol::TCP || self.opens != 0
    }
}

macro_rules! read {
    ($pointer:expr, $($field:tt)+) => {{
        // SAFETY: a context or a socket that the kernel holds while the program runs.
        let field = unsafe { &raw const (*$pointer).$($field)+ };
        // SAFETY: as above; volatile keeps the width of the access, which the verifier checks.
        unsafe { read_volatile(field) }
    }};
}

impl Skb {
    /// Whether the packet came over the loopback device, or leaves by it, as everything does that a host sends to itself.
    #[inline(always)]
    pub(crate) fn is_over_loopback(&self) -> bool {
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
    fn is_looped_back(&self) -> bool {
        read!(self.0, pkt_type) == PACKET_LOOPBACK
    }

    /// Whether the packet itself tells that a socket of the receiver's network namespace sent it.
    #[inline(always)]
    pub(crate) fn is_from_here(&self) -> bool {
        self.is_over_loopback() || self.is_looped_back()
    }

    /// Whether the packet was sent to more than one.
    #[inline(always)]
    pub(crate) fn is_to_many(&self) -> bool {
        let kind = read!(self.0, pkt_type);
        kind == PACKET_BROADCAST || kind == PACKET_MULTICAST
    }

    /// The socket that is about to receive it, or that sends it; null if none is.
    #[inline(always)]
    pub(crate) fn receiver(&self) -> *mut bpf_sock {
        read!(self.0, __bindgen_anon_2.sk)
    }

    /// Says in a packet that leaves over loopback which cgroup its socket is of. An id of more than 31 bits, as of the cgroups that come after
    /// the first two thousand million, has no room.
    #[inline(always)]
    pub(crate) fn sign(&self, cgroup: u64) {
        let priority = if cgroup < u64::from(SIGNED) { SIGNED | cgroup as u32 } else { 0 };
        // SAFETY: a context that the kernel holds while the program runs.
        let field = unsafe { &raw mut (*self.0).priority };
        // SAFETY: as above; a program on this hook may write this field (`cg_skb_is_valid_access`), at its width.
        unsafe { write_volatile(field, priority) };
    }

    /// The cgroup whose socket sent a packet, if it came over loopback and says so.
    #[inline(always)]
    pub(crate) fn signer(&self) -> Option<u64> {
        let priority = read!(self.0, priority);
        if self.is_over_loopback() && priority > SIGNED { Some(u64::from(priority & !SIGNED)) } else { None }
    }

    /// Whether the packet was inside of one that a socket of this host has sent over loopback: to the port of a tunnel (VXLAN, Geneve),
    /// which hands on what is inside as if it had come from another host. No other device gives a packet such a priority, and a virtual
    /// cable takes it away.
    #[inline(always)]
    pub(crate) fn is_unwrapped(&self) -> bool {
        read!(self.0, priority) >= SIGNED && !self.is_over_loopback()
    }

    /// The context itself, for helpers.
    #[inline(always)]
    pub(crate) fn context(&self) -> *mut core::ffi::c_void {
        self.0.cast()
    }
}

impl Packet {
    /// The packet behind a context; `None` if it is no socket's.
    #[inline(always)]
    pub(crate) fn new(ctx: &SkBuffContext) -> Option<Self> {
        let skb = ctx.skb.skb;
        let socket = Skb(skb).receiver();
        if socket.is_null() { None } else { Some(Self { skb: Skb(skb), socket }) }
    }

    /// Whether this is a segment of a TCP connection that was judged when it was opened: nothing but two bytes is
    /// read for it.
    #[inline(always)]
    pub(crate) fn is_of_an_open_connection(&self) -> bool {
        let state = read!(self.socket, state);
        state != TCP_LISTEN && state != TCP_SYN_SENT && self.is_plain_tcp()
    }

    /// Whether it is TCP's, directly behind an IP header. A first byte that is not readable here is not one.
    #[inline(always)]
    pub(crate) fn is_plain_tcp(&self) -> bool {
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

    /// The headers, if they are those of nearly every packet that a host sends to itself: TCP's or UDP's, directly behind an
    /// IPv4 header without options, over loopback. They are read with less than all others are.
    #[inline(always)]
    pub(crate) fn plain_headers(&self) -> Option<Headers> {
        if self.skb.is_over_loopback() { self.short_headers() } else { None }
    }

    /// The same of a packet that comes over any device, or leaves by it.
    #[inline(always)]
    pub(crate) fn short_headers(&self) -> Option<Headers> {
        let start = read!(self.skb.0, data) as usize;
        let end = read!(self.skb.0, data_end) as usize;
        if start + 28 > end {
            return None;
        }
        let [first, _, _, _] = word(start, 0).to_ne_bytes();
        if first != 0x45 {
            return None;
        }
        let [_, protocol, _, _] = word(start, 2).to_ne_bytes();
        let flags = match Protocol(protocol) {
            Protocol::UDP => 0,
            Protocol::TCP if start + 40 <= end => word(start, 8),
            _ => return None,
        };
        let ([a, b, c, d], [_, flags, _, _]) = (word(start, 5).to_ne_bytes(), flags.to_ne_bytes());
        Some(Headers {
            source: Address::from_v4(word(start, 3).to_ne_bytes()),
            destination: Address::from_v4(word(start, 4).to_ne_bytes()),
            source_port: Port([a, b]),
            destination_port: Port([c, d]),
            protocol: Protocol(protocol),
            opens: opens(flags),
            _pad: [0; 2],
        })
    }

    /// The headers of a packet that leaves, and whether they lead it by other ways than to its destination; `None` if they cannot be
    /// followed. Nothing is kept in a map meanwhile: what leaves is judged in tasks, one of which may interrupt another.
    #[inline(always)]
    pub(crate) fn leaving(&self) -> Option<(Headers, bool)> {
        let skb = self.skb.0;
        let mut start = [0_u32; 5];
        if !copy(skb, 0, &mut start) {
            return None;
        }
        let [first, _, _, _] = start[0].to_ne_bytes();
        let (source, destination, protocol, offset, is_led);
        if first >> 4 == 4 {
            let [_, next, _, _] = start[2].to_ne_bytes();
            (source, destination) =
                (Address::from_v4(start[3].to_ne_bytes()), Address::from_v4(start[4].to_ne_bytes()));
            (protocol, offset, is_led) = (Protocol(next), u32::from(first & 0x0f) * 4, false);
        } else {
            let mut addresses = [[0_u32; 4]; 2];
            if first >> 4 != 6 || !copy(skb, 8, &mut addresses) {
                return None;
            }
            [source, destination] = addresses.map(Address::from_words);
            if source.is_v4() | destination.is_v4() {
                return None;
            }
            let [_, _, next, _] = start[1].to_ne_bytes();
            let end = walk_extensions(skb, u32::from(next));
            if end == 0 {
                return None;
            }
            (protocol, offset) = (Protocol((end & 0xff) as u8), ((end >> 8) & 0xffff) as u32);
            is_led = end & LED != 0;
        }
        let mut ports = [[0_u8; 2]; 2];
        if has_ports(protocol) && !copy(skb, offset, &mut ports) {
            return None;
        }
        let (source_port, destination_port) = (Port(ports[0]), Port(ports[1]));
        let headers =
            Headers { source, destination, source_port, destination_port, protocol, opens: 0, _pad: [0; 2] };
        Some((headers, is_led))
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
    u32::from(at_hand(skb, place) || copied(skb, place))
}

/// Keeps the headers of the packet that is judged. Written where they are all known: of a value that may be none the compiler
/// keeps parts that were never set, which the verifier of old kernels refuses.
#[inline(always)]
fn keep(
    place: *mut Headers,
    protocol: Protocol,
    source: Address,
    destination: Address,
    ports: Ports,
) -> bool {
    let Ports { source: source_port, destination: destination_port, opens } = ports;
    let headers =
        Headers { source, destination, source_port, destination_port, protocol, opens, _pad: [0; 2] };
    // SAFETY: a live element of this CPU, which the packet that is judged on it now has to itself.
    unsafe { *place = headers };
    true
}

/// Reads the headers where they lie, if these are TCP's or UDP's and directly follow an IP header without options, all in
/// the first piece of the buffer; returns whether they are.
#[inline(always)]
fn at_hand(skb: *mut __sk_buff, place: *mut Headers) -> bool {
    let start = read!(skb, data) as usize;
    let end = read!(skb, data_end) as usize;
    if start + 28 > end {
        return false;
    }
    let word = |index| word(start, index);
    let [first, _, _, _] = word(0).to_ne_bytes();
    // The verifier wants to be told of each length by itself.
    let (protocol, source, destination, ports, flags) = if first == 0x45 {
        let [_, protocol, _, _] = word(2).to_ne_bytes();
        let flags = match Protocol(protocol) {
            Protocol::UDP => 0,
            Protocol::TCP if start + 40 <= end => word(8),
            _ => return false,
        };
        let (source, destination) = (word(3).to_ne_bytes(), word(4).to_ne_bytes());
        (Protocol(protocol), Address::from_v4(source), Address::from_v4(destination), word(5), flags)
    } else if first >> 4 == 6 && start + 48 <= end {
        let [_, _, protocol, _] = word(1).to_ne_bytes();
        let flags = match Protocol(protocol) {
            Protocol::UDP => 0,
            Protocol::TCP if start + 60 <= end => word(13),
            _ => return false,
        };
        let source = Address::from_words([word(2), word(3), word(4), word(5)]);
        let destination = Address::from_words([word(6), word(7), word(8), word(9)]);
        if source.is_v4() | destination.is_v4() {
            return false;
        }
        (Protocol(protocol), source, destination, word(10), flags)
    } else {
        return false;
    };
    let ([a, b, c, d], [_, flags, _, _]) = (ports.to_ne_bytes(), flags.to_ne_bytes());
    let ports = Ports { source: Port([a, b]), destination: Port([c, d]), opens: opens(flags) };
    keep(place, protocol, source, destination, ports)
}

/// The word of a packet that has this index, from its `start` on, to be called where that word lies before the end.
#[inline(always)]
fn word(start: usize, index: usize) -> u32 {
    let word: u64;
    // SAFETY: four bytes that were found to lie in the packet ahead of each call, which the verifier checks too. They need not be
    // aligned, which the instruction does not ask for where the verifier admits it, and a read of Rust's would.
    unsafe {
        asm!("{word} = *(u32 *)({at} + 0)", word = out(reg) word, at = in(reg) start + index * 4,
            options(pure, readonly, nostack));
    }
    (word & 0xffff_ffff) as u32
}

/// Reads the headers of any packet, wherever in the buffer they lie; returns false if they cannot be followed to the ports.
#[inline(always)]
fn copied(skb: *mut __sk_buff, place: *mut Headers) -> bool {
    let mut start = [0_u32; 5];
    if !copy(skb, 0, &mut start) {
        return false;
    }
    let [first, _, _, _] = start[0].to_ne_bytes();
    match first >> 4 {
        4 => v4(skb, &start, place),
        6 => v6(skb, start[1], place),
        _ => false,
    }
}

#[inline(always)]
fn v4(skb: *mut __sk_buff, start: &[u32; 5], place: *mut Headers) -> bool {
    let [length, _, _, _] = start[0].to_ne_bytes();
    let [_, protocol, _, _] = start[2].to_ne_bytes();
    let (source, destination) = (start[3].to_ne_bytes(), start[4].to_ne_bytes());
    let length = u32::from(length & 0x0f) * 4;
    let (source, destination) = (Address::from_v4(source), Address::from_v4(destination));
    length >= 20 && transport(skb, length, Protocol(protocol), source, destination, place)
}

#[inline(always)]
fn v6(skb: *mut __sk_buff, second: u32, place: *mut Headers) -> bool {
    let mut addresses = [[0_u32; 4]; 2];
    if !copy(skb, 8, &mut addresses) {
        return false;
    }
    let [_, _, next, _] = second.to_ne_bytes();
    let end = walk_extensions(skb, u32::from(next));
    let protocol = Protocol((end & 0xff) as u8);
    // The kernel itself takes no packet whose headers are longer than this.
    let offset = ((end >> 8) & 0xffff) as u32;
    let [source, destination] = addresses.map(Address::from_words);
    // In a packet of IPv6 no IPv4 address is anybody's (RFC 4038, 4.2), and the kernel takes such packets.
    let is_mapped = source.is_v4() | destination.is_v4();
    offset != 0 && !is_mapped && transport(skb, offset, protocol, source, destination, place)
}

/// Whether a TCP segment with these flags asks for a new connection.
#[inline(always)]
fn opens(flags: u8) -> u8 {
    u8::from(flags & TCP_SYN != 0 && flags & TCP_ACK == 0)
}

/// Whether a transport header begins with two ports.
#[inline(always)]
const fn has_ports(protocol: Protocol) -> bool {
    matches!(protocol, Protocol::TCP | Protocol::UDP | Protocol::UDPLITE | Protocol::SCTP | Protocol::DCCP)
}

/// Reads the ports, where the protocol has them, from the transport header at `offset`; returns false if it ends before.
#[inline(always)]
fn transport(
    skb: *mut __sk_buff,
    offset: u32,
    protocol: Protocol,
    source: Address,
    destination: Address,
    place: *mut Headers,
) -> bool {
    if !has_ports(protocol) {
        let ports = Ports { source: Port::new(0), destination: Port::new(0), opens: 0 };
        return keep(place, protocol, source, destination, ports);
    }
    let mut ports = [[0_u8; 2]; 2];
    if !copy(skb, offset, &mut ports) {
        return false;
    }
    let mut flags = [0_u8; 1];
    if protocol == Protocol::TCP && !copy(skb, offset + 13, &mut flags) {
        return false;
    }
    let ports = Ports { source: Port(ports[0]), destination: Port(ports[1]), opens: opens(flags[0]) };
    keep(place, protocol, source, destination, ports)
}

/// Copies bytes of a packet, counted from the IP header, wherever in the buffer they lie.
#[inline(always)]
fn copy<T, const N: usize>(skb: *mut __sk_buff, offset: u32, bytes: &mut [T; N]) -> bool {
    let size = size_of::<[T; N]>() as u32;
    // SAFETY: the helper writes exactly `size` bytes to an array of integers of that size, or fails.
    unsafe { bpf_skb_load_bytes(skb.cast(), offset, bytes.as_mut_ptr().cast(), size) == 0 }
}

/// In what [`walk_extensions`] returns: another address than the destination is where the packet is sent first.
const LED: u64 = 1 << 40;

/// Follows the extension headers of an IPv6 packet, the first of which is of type `next`. Returns where the
/// transport header begins, above eight bits with its protocol, and [`LED`] if one of them is a routing header; 0 if that cannot be
/// told.
///
/// A global function, so that the verifier walks the loop once and by itself.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn walk_extensions(skb: *mut __sk_buff, next: u32) -> u64 {
    let mut next = next;
    let mut led = 0;
    let mut offset = 40_u32;
    let mut walked = 0;
    while walked <= MAX_EXTENSION_HEADERS {
        let unit = match (next & 0xff) as u8 {
            HOP_BY_HOP | ROUTING | DESTINATION | MOBILITY => 8,
            AUTHENTICATION => 4,
            FRAGMENT => 0,
            protocol => return (u64::from(offset) << 8) | u64::from(protocol) | led,
        };
        if (next & 0xff) as u8 == ROUTING {
            led = LED;
        }
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
