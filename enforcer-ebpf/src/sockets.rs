//! Who is at the other end: sockets of this network namespace, looked up as the kernel itself would.

use core::ffi::c_void;
use core::ptr::null_mut;

use aya_ebpf::bindings::{__sk_buff, BPF_SK_STORAGE_GET_F_CREATE, bpf_sock};
use aya_ebpf::helpers::generated::{
    bpf_sk_cgroup_id, bpf_sk_lookup_tcp, bpf_sk_lookup_udp, bpf_sk_release, bpf_sk_storage_get,
    bpf_skc_lookup_tcp,
};
use aya_ebpf::programs::SockAddrContext;
use enforcer_common::counter::Counter;
use enforcer_common::layout::{Device, Place, SocketNote};
use enforcer_common::{Address, Asked, Party, Port, Protocol, Tables as _};

use crate::ctx::packet::{Headers, LOOPBACK, Packet, Skb};
use crate::ctx::sock;
use crate::ctx::sock_addr::SockAddr as _;
use crate::maps::{self, KernelTables};
use crate::record::tell_namespace;

/// `struct bpf_sock_tuple` for IPv4: `far` is its `saddr`, `near` the end whose socket is looked up.
#[repr(C)]
struct TupleV4 {
    far: u32,
    near: u32,
    far_port: [u8; 2],
    near_port: [u8; 2],
}

/// `struct bpf_sock_tuple` for IPv6.
#[repr(C)]
struct TupleV6 {
    far: [u32; 4],
    near: [u32; 4],
    far_port: [u8; 2],
    near_port: [u8; 2],
}

type Lookup = unsafe fn(*mut c_void, *mut aya_ebpf::bindings::bpf_sock_tuple, u32, u64, u64) -> *mut bpf_sock;

/// A socket that a look-up returned, given back when dropped.
struct Held(*mut bpf_sock);

impl Held {
    #[inline(always)]
    fn find(
        lookup: Lookup,
        context: *mut c_void,
        netns: i32,
        far: (Address, Port),
        near: (Address, Port),
    ) -> Option<Self> {
        let netns = i64::from(netns) as u64;
        // Both ends of a flow are of one family, since a mapped address stands for IPv4.
        let v4 = near.0.is_v4();
        let (far_port, near_port) = (far.1.0, near.1.0);
        let (far, near) = (far.0.words(), near.0.words());
        let socket = if v4 {
            let mut tuple = TupleV4 { far: far[3], near: near[3], far_port, near_port };
            // SAFETY: the tuple has the layout and size that the helper takes for IPv4.
            unsafe { lookup(context, (&raw mut tuple).cast(), size_of::<TupleV4>() as u32, netns, 0) }
        } else {
            let mut tuple = TupleV6 { far, near, far_port, near_port };
            // SAFETY: the tuple has the layout and size that the helper takes for IPv6.
            unsafe { lookup(context, (&raw mut tuple).cast(), size_of::<TupleV6>() as u32, netns, 0) }
        };
        if socket.is_null() { None } else { Some(Self(socket)) }
    }
}

impl Drop for Held {
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: the reference was taken by the look-up and is given back once. The result says only that.
        let _: i64 = unsafe { bpf_sk_release(self.0.cast()) };
    }
}

/// Who would answer, and whose answers it waits for itself.
pub(crate) struct Answerer {
    pub(crate) party: Party,
    /// Whom it has asked: anyone if it is connected, or if no socket of this host was found that could tell.
    pub(crate) asked: Asked,
}

/// Who would answer a connection or datagram from `local` to `address`, as the caller's network namespace has it.
/// `kind` is that of `address`.
#[inline(always)]
pub(crate) fn answerer(
    ctx: &SockAddrContext,
    protocol: Protocol,
    local: (Address, Port),
    address: Address,
    kind: Kind,
    port: Port,
) -> Answerer {
    let everywhere = kind.is_everywhere();
    // A wildcard listener would match any address, so it is asked first whether the address is this host's.
    let own_netns = if everywhere { 0 } else { ctx.netns() };
    let place = if everywhere { Some(Place::HERE) } else { maps::place(own_netns, &address) };
    let Some(place) = place else {
        let is_settled = is_settled(own_netns);
        if !is_settled {
            tell_namespace(own_netns);
        }
        return Answerer { party: elsewhere(own_netns, is_settled, address), asked: Asked::ANYONE };
    };
    let Some(netns) = place.netns() else {
        return Answerer { party: Party::UNKNOWN, asked: Asked::ANYONE };
    };
    let near = (means(address, kind, local.0), port);
    let context = ctx.sock_addr.cast();
    let found = match protocol {
        Protocol::TCP => {
            Held::find(bpf_sk_lookup_tcp, context, netns, (any_of_family(near.0), Port::new(0)), near)
        }
        Protocol::UDP => {
            let unbound = if place.is_here() { near.0 } else { place.source() };
            Held::find(bpf_sk_lookup_udp, context, netns, (source(local.0, unbound), local.1), near)
        }
        _ => return Answerer { party: Party::LEFT_TO_INGRESS, asked: Asked::ANYONE },
    };
    let Some(socket) = found else {
        // An address may have left the host since the table was written, so nobody here means somebody elsewhere.
        let party = if everywhere { Party::NOBODY } else { Party::address(address) };
        return Answerer { party, asked: Asked::ANYONE };
    };
    let note = note(socket.0.cast());
    let connected = sock::is_connected(socket.0);
    let party = match note.owner {
        // A socket that connected itself to this one was judged when it did.
        0 if connected || maps::whole_tree() => Party::LEFT_TO_INGRESS,
        0 => Party::UNKNOWN,
        id => Party::cgroup(id),
    };
    Answerer { party, asked: if connected { Asked::ANYONE } else { note.asked } }
}

/// Who has an address that no namespace of this host is known to have: another host, unless the caller's namespace was not looked at yet,
/// which `is_settled` tells, or only namespaces of this host can have it. Of a socket without a note the namespace is not known, 0.
#[inline(always)]
pub(crate) fn elsewhere(netns: u64, is_settled: bool, address: Address) -> Party {
    let may_be_here = netns != 0 && (!is_settled || maps::is_neighbours_own(netns, &address));
    if may_be_here && maps::tells_namespaces() { Party::UNKNOWN } else { Party::address(address) }
}

/// Where a datagram comes from: a socket that is bound to no address, or to one of many, sends from `unbound`, which for an
/// address of its own namespace is that very address.
#[inline(always)]
fn source(bound: Address, unbound: Address) -> Address {
    if is_nowhere(bound) || bound.is_v4() != unbound.is_v4() { unbound } else { bound }
}

/// Whether what a socket that is bound to this sends leaves from an address that the route tells.
#[inline(always)]
fn is_nowhere(bound: Address) -> bool {
    bound == Address::V4_UNSPECIFIED || bound == Address::V6_UNSPECIFIED || bound.is_of_many()
}

/// Who sent the packet whose headers were read: a socket of this host if the packet is from this host, an address otherwise.
/// `netns` is the namespace of the receiving socket, 0 if it is not known, and `slot` that of the tables in force.
#[inline(always)]
pub(crate) fn caller(packet: &Packet, headers: &Headers, netns: u64, slot: u32) -> Party {
    if let Some(signer) = signer(packet.skb, headers) {
        return signer;
    }
    // Whoever may give packets priorities could say any cgroup there, so that this tells only that it is not another host's.
    if packet.skb.is_unwrapped() {
        return Party::UNKNOWN;
    }
    // TCP's sender is found by both ends of the flow, which whoever forges one does not have.
    let worth = if packet.skb.is_from_here() || headers.protocol == Protocol::TCP {
        SENDER
    } else {
        foreign_source(packet.skb.0, netns)
    };
    match if worth == SENDER { find_caller(packet.skb.0, netns, slot) } else { worth } {
        UNKNOWN => Party::UNKNOWN,
        ADDRESS => Party::address(headers.source),
        RECEIVER => party(packet.socket),
        id => Party::cgroup(id - FIRST_CGROUP),
    }
}

/// Whether an address, which is of this `kind`, is one of this host's, as the namespace has it whose socket is called with.
#[inline(always)]
pub(crate) fn is_here(ctx: &SockAddrContext, address: &Address, kind: Kind) -> bool {
    kind.is_everywhere() || maps::place(ctx.netns(), address).is_some()
}

/// The cgroup of the socket that whoever gets a datagram with these headers takes for its sender; 0 if there is none.
#[inline(always)]
pub(crate) fn named_sender(packet: &Packet, headers: &Headers) -> u64 {
    // Nobody has to have the address that he sends from (`IPV6_FREEBIND`), which may be one of another namespace of this host.
    let there = place(packet, &headers.source).and_then(|place| place.netns());
    let netns = there.unwrap_or(Place::HERE_NETNS);
    find_sender(packet.skb, netns, headers).map_or(0, |socket| cgroup_of(socket.0))
}

/// Who has bound that socket, of a datagram that one which is bound to `near`, or is told to send from there, is about to send to `far`; 0
/// if that is not known.
#[inline(always)]
pub(crate) fn sender_by_name(ctx: &SockAddrContext, near: (Address, Port), far: (Address, Port)) -> u64 {
    let v4 = far.0.is_v4();
    // From a wildcard it leaves from an address that is not told yet: whoever is bound to a wildcard too has it as well.
    let from = match is_nowhere(near.0) || near.0.is_v4() != v4 {
        true if v4 => Address::V4_LOOPBACK,
        true => Address::V6_LOOPBACK,
        false => near.0,
    };
    let context = ctx.sock_addr.cast();
    let found = Held::find(bpf_sk_lookup_udp, context, Place::HERE_NETNS, far, (from, near.1));
    found.map_or(0, |socket| note(socket.0.cast()).owner)
}

/// Who sent a datagram, if it says so itself. What TCP sends says nothing, and is found by both ends of the flow.
#[inline(always)]
fn signer(skb: Skb, headers: &Headers) -> Option<Party> {
    if headers.protocol == Protocol::UDP { skb.signer().map(Party::cgroup) } else { None }
}

/// Who sent the packet with these headers over loopback, which `skb` is: TCP's or UDP's.
#[inline(always)]
pub(crate) fn sender(skb: Skb, headers: &Headers) -> Party {
    if let Some(signer) = signer(skb, headers) {
        return signer;
    }
    match find_sender(skb, Place::HERE_NETNS, headers) {
        Some(socket) => party(socket.0),
        None => Party::UNKNOWN,
    }
}

/// The socket that sent a packet of TCP or UDP.
#[inline(always)]
fn find_sender(skb: Skb, netns: i32, headers: &Headers) -> Option<Held> {
    let far = (headers.destination, headers.destination_port);
    let near = (headers.source, headers.source_port);
    match headers.protocol {
        Protocol::TCP => Held::find(bpf_skc_lookup_tcp, skb.context(), netns, far, near)
            // A listener matches any far end; it is not the socket that sent this.
            .filter(|socket| !sock::is_listening(socket.0)),
        Protocol::UDP => Held::find(bpf_sk_lookup_udp, skb.context(), netns, far, near),
        _ => None,
    }
}

/// What [`find_caller`] returns: one of these, or the id of a cgroup, which is at least 1, and [`FIRST_CGROUP`].
const UNKNOWN: u64 = 0;
const ADDRESS: u64 = 1;
const RECEIVER: u64 = 2;
const FIRST_CGROUP: u64 = 2;

/// A global function, so that the verifier walks the ways to a caller by themselves.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn find_caller(skb: *mut __sk_buff, netns: u64, slot: u32) -> u64 {
    let skb = Skb(skb);
    let Some(headers) = maps::headers() else { return UNKNOWN };
    // SAFETY: a live element of this CPU, whose every byte was set when the headers were read.
    let headers = unsafe { *headers };
    // The packet must tell whether it is from this namespace, and not its source: that may be another host's.
    let here = skb.is_from_here() || headers.source.is_loopback_or_unspecified();
    let place = if here { Some(Place::HERE) } else { maps::place(netns, &headers.source) };
    let Some(place) = place else {
        // What follows is asked only where the answer matters: an address and an unknown peer are no services.
        let is_outside = !is_for_a_service(skb, slot) || is_outside(skb, &headers.source, netns);
        return if is_outside { ADDRESS } else { UNKNOWN };
    };
    let Some(netns) = place.netns() else { return UNKNOWN };
    if matches!(headers.protocol, Protocol::ICMP | Protocol::ICMPV6) && place.is_here() {
        // The kernel itself answers who pings an address of its own host, so that is no other end. Nobody can say it in the
        // kernel's place without CAP_NET_RAW.
        return RECEIVER;
    }
    let found = find_sender(skb, netns, &headers);
    match found.map(|socket| cgroup_of(socket.0)) {
        None | Some(0) => UNKNOWN,
        Some(id) => id + FIRST_CGROUP,
    }
}

/// What [`foreign_source`] returns if the source tells who sent a packet.
const SENDER: u64 = RECEIVER;

/// What the source of a datagram is worth that came over a device, where the kernel lets anybody have said it: of this host's own
/// addresses it stops IPv4's alone, and none of nobody's (`ip_route_input_slow`; IPv6 has no such check). Returns [`UNKNOWN`] if it tells
/// nothing, [`ADDRESS`] if it may be another host's, and [`SENDER`].
///
/// A global function, so that the verifier walks it by itself.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn foreign_source(skb: *mut __sk_buff, netns: u64) -> u64 {
    let skb = Skb(skb);
    let Some(headers) = maps::headers() else { return UNKNOWN };
    // SAFETY: a live element of this CPU, whose every byte was set when the headers were read.
    let Headers { source, .. } = unsafe { *headers };
    let tells = maps::tells_namespaces();
    // A value that may be none would be kept with parts that were never set, which the verifier of old kernels refuses.
    let device = maps::device(netns, skb.device()).unwrap_or(Device::UNKNOWN);
    let is_outside = !tells || device.leads_out();
    if source.is_loopback_or_unspecified() {
        // So speaks whoever has no address yet, and asks for one.
        return if is_outside && source == Address::V4_UNSPECIFIED { ADDRESS } else { UNKNOWN };
    }
    if let Some(place) = maps::place(netns, &source) {
        if place.is_here() {
            if !tells {
                // Another host's own address: where namespaces cannot be told each sees those of the host.
                return ADDRESS;
            }
            if !source.is_v4() {
                return UNKNOWN;
            }
        } else if device == Device::OTHERS {
            // That of a namespace which has no end there, however the packet was routed.
            return UNKNOWN;
        }
    }
    // To many, anybody in a namespace of this host can send in the name of any address.
    if skb.is_to_many() && !is_outside { UNKNOWN } else { SENDER }
}

/// Whether the socket that is to receive a packet is a service's.
#[inline(always)]
fn is_for_a_service(skb: Skb, slot: u32) -> bool {
    let receiver = skb.receiver();
    let id = if receiver.is_null() { 0 } else { cgroup_of(receiver) };
    KernelTables::of_slot(slot).cgroup(id).is_some_and(|owner| owner.identity().is_service())
}

/// Whether an address that no namespace of this host is known to have can be another host's: the device must have been
/// taken in, and must not lead to this host's own namespaces alone.
#[inline(always)]
fn is_outside(skb: Skb, source: &Address, netns: u64) -> bool {
    if !maps::tells_namespaces() {
        return true;
    }
    let Some(device) = maps::device(netns, skb.device()) else { return false };
    if source.is_link_local() { device.leads_out() } else { !maps::is_neighbour(netns, source) }
}

/// Where on this host an address is, as the namespace has it whose socket sends; `None` if it is another host's. A socket without a note
/// is older than the enforcer, or nobody's: for such a one only loopback is here.
#[inline(always)]
pub(crate) fn place(packet: &Packet, address: &Address) -> Option<Place> {
    if address.is_loopback_or_unspecified() {
        return Some(Place::HERE);
    }
    maps::place(netns_of(packet), address)
}

/// The network namespace of the socket that sends a packet; 0 if it has no note.
#[inline(always)]
pub(crate) fn netns_of(packet: &Packet) -> u64 {
    note(packet.socket.cast()).netns
}

/// Whether a UDP header is one that the kernel has put around what a socket sends, as IPsec does behind a NAT: it is no socket's of UDP, or
/// not of its port. A port can be changed meanwhile, so that is believed only where nobody of this host is to get it.
#[inline(always)]
pub(crate) fn is_wrapped(packet: &Packet, headers: &Headers) -> bool {
    if !sock::sends(packet.socket, Protocol::UDP) {
        return true;
    }
    let port = sock::port(packet.socket);
    let netns = netns_of(packet);
    let is_outside = !headers.destination.is_loopback_or_unspecified()
        && !headers.destination.is_of_many()
        && is_settled(netns)
        && maps::place(netns, &headers.destination).is_none()
        && !maps::is_neighbour(netns, &headers.destination);
    is_outside && port != Port::new(0) && port != headers.source_port
}

/// Whether the host has taken in a network namespace, its devices and the addresses that it sees.
#[inline(always)]
pub(crate) fn is_settled(netns: u64) -> bool {
    maps::is_host_netns(netns) || maps::device(netns, LOOPBACK).is_some()
}

/// The cgroup that a socket was created in, as a party.
#[inline(always)]
pub(crate) fn party(socket: *mut bpf_sock) -> Party {
    match cgroup_of(socket) {
        0 => Party::UNKNOWN,
        id => Party::cgroup(id),
    }
}

/// The id of that cgroup; 0 if there is none.
#[inline(always)]
pub(crate) fn cgroup_of(socket: *mut bpf_sock) -> u64 {
    // SAFETY: the verifier admits only a socket that is held and not null.
    unsafe { bpf_sk_cgroup_id(socket.cast()) }
}

/// What is remembered about a socket; [`SocketNote::BLANK`] if nothing is.
#[inline(always)]
pub(crate) fn note(socket: *mut c_void) -> SocketNote {
    // SAFETY: the verifier admits only a socket that is held and not null; without the create flag the helper
    // takes no value.
    let note =
        unsafe { bpf_sk_storage_get((&raw const maps::SOCKETS).cast_mut().cast(), socket, null_mut(), 0) };
    let note: *const SocketNote = note.cast_const().cast();
    if note.is_null() {
        return SocketNote::BLANK;
    }
    // SAFETY: checked against null; storage lives as long as its socket, which is held.
    unsafe { *note }
}

/// Changes what is remembered about a socket, making room for it first where needed. If the kernel has no memory
/// for it, that is counted, and the socket stays one of which nothing is known, which admits less.
#[inline(always)]
pub(crate) fn remember(socket: *mut c_void, change: impl FnOnce(&mut SocketNote)) {
    let mut blank = SocketNote::BLANK;
    // SAFETY: as for `note`; with the create flag the helper copies `blank`, which is as large as the map's value.
    let note = unsafe {
        bpf_sk_storage_get(
            (&raw const maps::SOCKETS).cast_mut().cast(),
            socket,
            (&raw mut blank).cast(),
            BPF_SK_STORAGE_GET_F_CREATE.into(),
        )
    };
    let note: *mut SocketNote = note.cast();
    if note.is_null() {
        maps::count(Counter::NOTES_FAILED);
        return;
    }
    // SAFETY: checked against null; storage lives as long as its socket, which is held.
    change(unsafe { &mut *note });
}

/// What an address that somebody calls means, whatever host it is asked on.
#[derive(Clone, Copy)]
pub(crate) struct Kind(u32);

impl Kind {
    const EVERYWHERE: u32 = 1;
    const UNSPECIFIED: u32 = 2;

    /// That of an address of a `*4` hook, of which the last word alone says it.
    #[inline(always)]
    pub(crate) fn of_v4(address: Address) -> Self {
        Self::of(address)
    }

    /// That of any address.
    #[inline(always)]
    pub(crate) fn of_v6(address: Address) -> Self {
        let [a, b, c, d] = address.words();
        Self(address_kind(a, b, c, d))
    }

    #[inline(always)]
    fn of(address: Address) -> Self {
        let everywhere = if address.is_loopback_or_unspecified() { Self::EVERYWHERE } else { 0 };
        let unspecified = address == Address::V4_UNSPECIFIED || address == Address::V6_UNSPECIFIED;
        Self(everywhere | if unspecified { Self::UNSPECIFIED } else { 0 })
    }

    /// Whether every network namespace has it for itself.
    #[inline(always)]
    const fn is_everywhere(self) -> bool {
        self.0 & Self::EVERYWHERE != 0
    }

    #[inline(always)]
    const fn is_unspecified(self) -> bool {
        self.0 & Self::UNSPECIFIED != 0
    }
}

/// A global function, so that the verifier does not follow what comes after each comparison of an address.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn address_kind(a: u32, b: u32, c: u32, d: u32) -> u32 {
    Kind::of(Address::from_words([a, b, c, d])).0
}

/// What the kernel takes an unspecified address for: over IPv4 the one that the packet leaves from, if that is told
/// (`ip_route_output_key_hash_rcu`); over IPv6 loopback, and IPv4's of a socket that is bound to a mapped address
/// (`tcp_v6_connect`, `__ip6_datagram_connect`, `udpv6_sendmsg`).
#[inline(always)]
fn means(address: Address, kind: Kind, local: Address) -> Address {
    if !kind.is_unspecified() {
        address
    } else if address.is_v4() {
        if is_nowhere(local) || !local.is_v4() { Address::V4_LOOPBACK } else { local }
    } else if local.is_v4() {
        Address::V4_LOOPBACK
    } else {
        Address::V6_LOOPBACK
    }
}

#[inline(always)]
fn any_of_family(address: Address) -> Address {
    if address.is_v4() { Address::V4_UNSPECIFIED } else { Address::V6_UNSPECIFIED }
}
