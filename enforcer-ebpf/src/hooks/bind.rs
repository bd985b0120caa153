//! `bind4` and `bind6`: a task binds a port, which may be reserved.

use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use enforcer_common::{Address, Decision, Hook, Port, Protocol, decide_bind};

use super::{PASS, answer};
use crate::ctx::sock_addr::SockAddr as _;
use crate::ctx::task;
use crate::maps::{KernelTables, NO_SLOT, is_host_netns};
use crate::record::{Attempt, record};
use crate::sockets::remember;

#[cgroup_sock_addr(bind4)]
fn bind4(ctx: SockAddrContext) -> i32 {
    bind(&ctx, Hook::Bind4, ctx.v4())
}

#[cgroup_sock_addr(bind6)]
fn bind6(ctx: SockAddrContext) -> i32 {
    bind(&ctx, Hook::Bind6, ctx.v6())
}

#[inline(always)]
fn bind(ctx: &SockAddrContext, hook: Hook, address: Address) -> i32 {
    if !is_host_netns(ctx.netns()) {
        return PASS;
    }
    if ctx.port() == Port::new(0) {
        // The kernel is about to choose one, and `post_bind` will see which.
        remember(ctx.socket().cast(), |note| note.any_port = 1);
        return PASS;
    }
    judge(hook, ctx.protocol(), address, ctx.port())
}

/// May the current task have this port, which it has asked for, or which the kernel has chosen for it?
#[inline(always)]
pub(super) fn judge(hook: Hook, protocol: Protocol, address: Address, port: Port) -> i32 {
    let own = task::cgroup();
    let attempt = Attempt::new(hook, protocol).by_task(own).to(address, port);
    let mut decision = Decision::TABLES_MISSING;
    let mut slot = NO_SLOT;
    if let Some(mut tables) = KernelTables::in_force() {
        let binder = task::party(own, &mut tables);
        decision = decide_bind(&binder, protocol, port, &tables);
        if !decision.concerns_a_service() {
            return PASS;
        }
        slot = tables.slot();
    }
    record(&decision, &attempt, slot, false);
    answer(&decision)
}
