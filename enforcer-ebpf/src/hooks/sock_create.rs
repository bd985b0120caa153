//! `sock_create`: a task creates an IP socket, perhaps of a kind whose packets no other hook can judge.

use aya_ebpf::macros::cgroup_sock;
use aya_ebpf::programs::SockContext;
use enforcer_common::{Decision, Hook, Protocol, decide_create};

use super::{PASS, REFUSE, answer};
use crate::ctx::sock::Sock as _;
use crate::ctx::task;
use crate::maps::KernelTables;
use crate::record::{Attempt, record};

#[cgroup_sock(sock_create)]
fn sock_create(ctx: SockContext) -> i32 {
    let (protocol, raw) = (ctx.protocol(), ctx.is_raw());
    if !raw && matches!(protocol, Protocol::TCP | Protocol::UDP) {
        return PASS;
    }
    let cgroup = Some(task::cgroup());
    let attempt = Attempt {
        hook: Hook::SockCreate,
        protocol,
        caller_cgroup: cgroup,
        answerer_cgroup: cgroup,
        source: None,
        destination: None,
    };
    let Some(tables) = KernelTables::in_force() else {
        record(&Decision::TABLES_MISSING, &attempt, Some(task::process()), None, false);
        return REFUSE;
    };
    let decision = decide_create(&task::party(&tables), protocol, raw, &tables);
    if !decision.concerns_a_service() {
        return PASS;
    }
    record(&decision, &attempt, Some(task::process()), Some(&tables), false);
    answer(&decision)
}
