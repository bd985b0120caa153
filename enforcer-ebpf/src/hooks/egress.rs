//! What `connect` and `sendmsg` have in common: a task names an address.

use aya_ebpf::programs::SockAddrContext;
use enforcer_common::{Address, Decision, Facts, Hook, Port, Protocol, Reason, decide};

use super::{PASS, REFUSE, answer};
use crate::ctx::sock_addr::SockAddr as _;
use crate::ctx::task;
use crate::maps::{KernelTables, log_allowed};
use crate::record::{Attempt, record};
use crate::sockets;

#[inline(always)]
pub(super) fn judge(ctx: &SockAddrContext, hook: Hook, address: Address) -> i32 {
    let (protocol, port) = (ctx.protocol(), ctx.port());
    let mut attempt = Attempt {
        hook,
        protocol,
        caller_cgroup: Some(task::cgroup()),
        answerer_cgroup: None,
        source: None,
        destination: Some((address, port)),
    };
    let Some(tables) = KernelTables::in_force() else {
        record(&Decision::TABLES_MISSING, &attempt, Some(task::process()), None, false);
        return REFUSE;
    };
    let caller = task::party(&tables);
    let answerer = sockets::answerer(ctx, protocol, address, port);
    let facts = Facts { caller, answerer, protocol, port, reply_port: reply_port(ctx, protocol) };
    let decision = decide(&facts, &tables);
    if !decision.concerns_a_service() {
        return PASS;
    }
    if decision.admits()
        && matches!(hook, Hook::Sendmsg4 | Hook::Sendmsg6)
        && decision.reason != Reason::Reply
    {
        // The answer will come to a socket that takes datagrams from anyone, so it must be told from a call.
        sockets::remember(ctx.socket().cast(), |note| note.asked = 1);
    }
    attempt.answerer_cgroup = answerer.cgroup();
    let permitted = log_allowed() && is_attempt(decision.reason);
    record(&decision, &attempt, Some(task::process()), Some(&tables), permitted);
    answer(&decision)
}

/// A datagram from a bound socket may be a reply to whoever may call that port.
#[inline(always)]
fn reply_port(ctx: &SockAddrContext, protocol: Protocol) -> Option<Port> {
    if protocol != Protocol::UDP {
        return None;
    }
    let port = ctx.local_port();
    if port == Port::new(0) { None } else { Some(port) }
}

/// Whether a permitted decision is about a new flow, and made here rather than left to the ingress hook.
#[inline(always)]
const fn is_attempt(reason: Reason) -> bool {
    matches!(reason, Reason::RuleAllows | Reason::SameService | Reason::NobodyListens)
}
