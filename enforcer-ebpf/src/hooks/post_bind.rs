//! `post_bind4` and `post_bind6`: a socket has a port now, perhaps one that the kernel chose, and callers may ask whose.

use aya_ebpf::macros::cgroup_sock;
use aya_ebpf::programs::SockContext;
use enforcer_common::{Address, Hook, Protocol};

use super::PASS;
use super::bind::judge;
use crate::ctx::sock::Sock as _;
use crate::ctx::task;
use crate::record::tell_namespace;
use crate::sockets::{is_settled, remember};

#[cgroup_sock(post_bind4)]
fn post_bind4(ctx: SockContext) -> i32 {
    stamp(&ctx, Hook::PostBind4, ctx.bound_v4())
}

#[cgroup_sock(post_bind6)]
fn post_bind6(ctx: SockContext) -> i32 {
    stamp(&ctx, Hook::PostBind6, ctx.bound_v6())
}

#[inline(always)]
fn stamp(ctx: &SockContext, hook: Hook, address: Address) -> i32 {
    if !matches!(ctx.protocol(), Protocol::TCP | Protocol::UDP) {
        return PASS;
    }
    let netns = ctx.netns();
    let mut any_port = false;
    remember(ctx.sock.cast(), |note| {
        any_port = note.any_port != 0;
        note.any_port = 0;
        note.owner = task::cgroup();
        note.netns = netns;
    });
    if !is_settled(netns) {
        tell_namespace(netns);
    }
    // The bind hook has judged a port that was asked for, but not one that the kernel chose.
    if any_port { judge(hook, ctx.protocol(), address, ctx.bound_port()) } else { PASS }
}
