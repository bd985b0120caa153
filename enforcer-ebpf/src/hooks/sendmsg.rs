//! `sendmsg4` and `sendmsg6`: a task sends a datagram to an address that it did not connect to, or with control messages.

use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use enforcer_common::{Address, Hook, Port};

use super::call::judge;
use crate::ctx::sock_addr::SockAddr as _;
use crate::sockets::Kind;

#[cgroup_sock_addr(sendmsg4)]
fn sendmsg4(ctx: SockAddrContext) -> i32 {
    let (address, port) = named(&ctx, ctx.v4(), ctx.peer_v4());
    // A server that is bound to a wildcard answers from the address that was asked, and says so with each datagram.
    let local = (ctx.leaves_from_v4(), ctx.local().1);
    judge(&ctx, Hook::Sendmsg4, (address, Kind::of_v4(address), port), local)
}

#[cgroup_sock_addr(sendmsg6)]
fn sendmsg6(ctx: SockAddrContext) -> i32 {
    let (address, port) = named(&ctx, ctx.v6(), ctx.peer_v6());
    let local = (ctx.leaves_from_v6(), ctx.local().1);
    judge(&ctx, Hook::Sendmsg6, (address, Kind::of_v6(address), port), local)
}

/// To whom a datagram goes: to the address that the task names, or to whom its socket is connected to. Of the latter the kernel shows
/// neither address nor port, and the hook runs because of control messages (`udp_sendmsg`, `udpv6_sendmsg`); a port 0 that somebody
/// names it refuses before.
#[inline(always)]
fn named(ctx: &SockAddrContext, address: Address, (peer, peer_port): (Address, Port)) -> (Address, Port) {
    let (port, peer_port) = (u32::from(ctx.port().number()), u32::from(peer_port.number()));
    // Every bit of it where the port is 0. Without a branch, since the verifier would follow all that comes after it twice.
    let mask = ((port.wrapping_sub(1) as i32) >> 31) as u32;
    let (own, other) = (address.words(), peer.words());
    let word = |index: usize| own[index] ^ ((own[index] ^ other[index]) & mask);
    let port = port ^ ((port ^ peer_port) & mask);
    (Address::from_words([word(0), word(1), word(2), word(3)]), Port::new((port & 0xffff) as u16))
}
