//! `sendmsg4` and `sendmsg6`: a task sends a datagram to an address that it did not connect to, or with control messages.

use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use enforcer_common::{Hook, Port};

use super::call::judge;
use crate::ctx::sock_addr::SockAddr as _;
use crate::sockets::Kind;

#[cgroup_sock_addr(sendmsg4)]
fn sendmsg4(ctx: SockAddrContext) -> i32 {
    let (address, port) = if names_nobody(&ctx) { ctx.peer() } else { (ctx.v4(), ctx.port()) };
    // A server that is bound to a wildcard answers from the address that was asked, and says so with each datagram.
    let local = (ctx.leaves_from_v4(), ctx.local().1);
    judge(&ctx, Hook::Sendmsg4, (address, Kind::of_v4(address), port), local)
}

#[cgroup_sock_addr(sendmsg6)]
fn sendmsg6(ctx: SockAddrContext) -> i32 {
    let (address, port) = if names_nobody(&ctx) { ctx.peer() } else { (ctx.v6(), ctx.port()) };
    let local = (ctx.leaves_from_v6(), ctx.local().1);
    judge(&ctx, Hook::Sendmsg6, (address, Kind::of_v6(address), port), local)
}

/// Whether the datagram goes to whom its socket is connected to: the kernel shows no address then, and the hook runs because of
/// control messages (`udp_sendmsg`, `udpv6_sendmsg`). A port 0 that somebody names is refused before.
#[inline(always)]
fn names_nobody(ctx: &SockAddrContext) -> bool {
    ctx.port() == Port::new(0)
}
