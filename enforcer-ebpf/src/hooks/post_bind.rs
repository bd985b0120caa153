//! `post_bind4` and `post_bind6`: a socket has a port now, so callers may ask whose it is.

use aya_ebpf::macros::cgroup_sock;
use aya_ebpf::programs::SockContext;
use enforcer_common::Protocol;

use super::PASS;
use crate::ctx::sock::Sock as _;
use crate::ctx::task;
use crate::record::tell_namespace;
use crate::sockets::{is_settled, remember};

#[cgroup_sock(post_bind4)]
fn post_bind4(ctx: SockContext) -> i32 {
    stamp(&ctx)
}

#[cgroup_sock(post_bind6)]
fn post_bind6(ctx: SockContext) -> i32 {
    stamp(&ctx)
}

#[inline(always)]
fn stamp(ctx: &SockContext) -> i32 {
    if matches!(ctx.protocol(), Protocol::TCP | Protocol::UDP) {
        let netns = ctx.netns();
        remember(ctx.sock.cast(), |note| {
            note.owner = task::cgroup();
            note.netns = netns;
        });
        if !is_settled(netns) {
            tell_namespace(netns);
        }
    }
    PASS
}
