//! `sendmsg4` and `sendmsg6`: a task sends a datagram to an address that it did not connect to.

use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use enforcer_common::Hook;

use super::egress::judge;
use crate::ctx::sock_addr::SockAddr as _;
use crate::sockets::Kind;

#[cgroup_sock_addr(sendmsg4)]
fn sendmsg4(ctx: SockAddrContext) -> i32 {
    // A server that is bound to a wildcard answers from the address that was asked, and says so with each datagram.
    let address = ctx.v4();
    judge(&ctx, Hook::Sendmsg4, (address, Kind::of_v4(address)), (ctx.leaves_from_v4(), ctx.local().1))
}

#[cgroup_sock_addr(sendmsg6)]
fn sendmsg6(ctx: SockAddrContext) -> i32 {
    let address = ctx.v6();
    judge(&ctx, Hook::Sendmsg6, (address, Kind::of_v6(address)), (ctx.leaves_from_v6(), ctx.local().1))
}
