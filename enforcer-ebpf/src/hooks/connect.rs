//! `connect4` and `connect6`: a task connects a socket.

use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use enforcer_common::Hook;

use super::call::judge;
use crate::ctx::sock_addr::SockAddr as _;
use crate::sockets::Kind;

#[cgroup_sock_addr(connect4)]
fn connect4(ctx: SockAddrContext) -> i32 {
    let address = ctx.v4();
    judge(&ctx, Hook::Connect4, (address, Kind::of_v4(address), ctx.port()), ctx.local())
}

#[cgroup_sock_addr(connect6)]
fn connect6(ctx: SockAddrContext) -> i32 {
    let address = ctx.v6();
    judge(&ctx, Hook::Connect6, (address, Kind::of_v6(address), ctx.port()), ctx.local())
}
