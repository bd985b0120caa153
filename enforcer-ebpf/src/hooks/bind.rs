//! `bind4` and `bind6`: a task binds a port, which may be reserved.

use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use enforcer_common::{Address, Decision, Hook, Port, decide_bind};

use super::{PASS, answer};
use crate::ctx::sock_addr::SockAddr as _;
use crate::ctx::task;
use crate::maps::{KernelTables, is_host_netns};
use crate::record::{Attempt, record};
use crate::sockets::remember;

#[cgroup_sock_addr(bind4)]
fn bind4(ctx: SockAddrContext) -> i32 {
    judge(&ctx, Hook::Bind4, ctx.v4())
}

#[cgroup_sock_addr(bind6)]
fn bind6(ctx: SockAddrContext) -> i32 {
    judge(&ctx, Hook::Bind6, ctx.v6())
}

#[inline(always)]
fn judge(ctx: &SockAddrContext, hook: Hook, address: Address) -> i32 {
    let (protocol, port) = (ctx.protocol(), ctx.port());
    if !is_host_netns(ctx.netns()) {
        return PASS;
    }
    if port == Port::new(0) {
        // The kernel is about to choose one, and `post_bind` will see which.
        remember(ctx.socket().cast(), |note| note.any_port = 1);
        return PASS;
    }
    let attempt = Attempt::new(hook, protocol).by_task().to(address, port);
    let mut decision = Decision::TABLES_MISSING;
    let mut revision = 0;
    if let Some(mut tables) = KernelTables::in_force() {
        let binder = task::party(&mut tables);
        decision = decide_bind(&binder, protocol, port, &tables);
        if !decision.concerns_a_service() {
            return PASS;
        }
        revision = tables.revision();
    }
    record(&decision, &attempt, revision, false);
    answer(&decision)
}
