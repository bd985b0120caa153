//! `sock_create`: a task creates an IP socket, perhaps of a kind whose packets no other hook can judge.

use aya_ebpf::macros::cgroup_sock;
use aya_ebpf::programs::SockContext;
use enforcer_common::{Decision, Hook, Protocol, decide_create};

use super::{PASS, answer};
use crate::ctx::sock::Sock as _;
use crate::ctx::task;
use crate::maps::{KernelTables, NO_SLOT};
use crate::record::{Attempt, record};
use crate::sockets;

#[cgroup_sock(sock_create)]
fn sock_create(ctx: SockContext) -> i32 {
    let (protocol, raw) = (ctx.protocol(), ctx.is_raw());
    if !raw && matches!(protocol, Protocol::TCP | Protocol::UDP) {
        return PASS;
    }
    let own = task::cgroup();
    let attempt = Attempt::new(Hook::SockCreate, protocol).by_task(own);
    let mut decision = Decision::TABLES_MISSING;
    let mut slot = NO_SLOT;
    if let Some(mut tables) = KernelTables::in_force() {
        let creator = task::party(own, &mut tables);
        decision = decide_create(&creator, protocol, raw, &tables);
        if !decision.concerns_a_service() {
            return PASS;
        }
        slot = tables.slot();
        // Such a socket may never be bound, and it must be told from which namespace its packets come.
        let netns = ctx.netns();
        sockets::remember(ctx.sock.cast(), |note| note.netns = netns);
    }
    record(&decision, &attempt, slot, false);
    answer(&decision)
}
