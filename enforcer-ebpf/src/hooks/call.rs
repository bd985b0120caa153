//! What `connect` and `sendmsg` have in common: a task names an address.

use aya_ebpf::programs::SockAddrContext;
use aya_log_ebpf::debug;
use enforcer_common::layout::Active;
use enforcer_common::{Address, Asked, Decision, Facts, Hook, Port, Protocol, Reason};

use super::{PASS, answer};
use crate::ctx::sock_addr::SockAddr as _;
use crate::ctx::task;
use crate::maps::{KernelTables, NO_SLOT};
use crate::record::{Attempt, record};
use crate::sockets::{self, Kind};

/// `address` is of this `kind`, and `local` is where what the task sends leaves from.
#[inline(always)]
pub(super) fn judge(
    ctx: &SockAddrContext,
    hook: Hook,
    (address, kind, port): (Address, Kind, Port),
    local: (Address, Port),
) -> i32 {
    let protocol = ctx.protocol();
    // Asked once, since every call of a helper counts.
    let own = task::cgroup();
    let mut attempt = Attempt::new(hook, protocol).by_task(own).to(address, port);
    let mut decision = Decision::TABLES_MISSING;
    let (mut active, mut slot) = (Active(0), NO_SLOT);
    if let Some(mut tables) = KernelTables::chosen() {
        active = tables.active();
        // A kernel thread sends what somebody has put into a socket of another family (RxRPC, since 6.2).
        let owner = if task::is_top(own) { sockets::note(ctx.socket().cast()).owner } else { 0 };
        let caller = if owner == 0 { own } else { owner };
        if owner != 0 {
            attempt = attempt.by(owner);
        }
        let answerer = sockets::answerer(ctx, protocol, local, address, kind, port);
        if cfg!(feature = "lookups") {
            return PASS;
        }
        // A datagram from a bound socket to one that asked may be a reply to whoever may call that port.
        let is_bound = protocol == Protocol::UDP && local.1 != Port::new(0);
        let asked = if is_bound { answerer.asked } else { Asked::NOBODY };
        let key = tables.key(caller, &answerer.party, protocol, port);
        let kept = if task::is_exact(&answerer.party) { tables.kept(&key, asked) } else { None };
        let made = if kept.is_some() {
            kept
        } else {
            let caller = if owner == 0 { task::party(own, &mut tables) } else { tables.party(owner) };
            let facts =
                Facts { caller, answerer: answerer.party, protocol, port, asked, reply_port: local.1 };
            tables.decide(&facts, &key)
        };
        // Without tables it stays a denial to everyone.
        if let Some(made) = made {
            decision = made;
            if !decision.concerns_a_service() {
                return PASS;
            }
            slot = tables.slot();
            attempt = attempt.answerer(&answerer.party);
        }
    }
    if active.is_logging() {
        debug!(
            ctx,
            "hook {} identity {} -> {} port {} reason {}",
            hook as u8,
            decision.from.raw(),
            decision.to.raw(),
            port.number(),
            decision.reason as u8
        );
    }
    if protocol == Protocol::UDP && decision.admits() && decision.reason != Reason::Reply {
        let is_sent = matches!(hook, Hook::Sendmsg4 | Hook::Sendmsg6);
        sockets::remember(ctx.socket().cast(), |note| {
            // The answer will come to a socket that takes datagrams from anyone, so it must be told from a call.
            if is_sent && !matches!(decision.reason, Reason::NobodyListens | Reason::LeftToIngress) {
                note.asked = if address.is_of_many() { Asked::ANYONE } else { note.asked.and(decision.to) };
            }
            // A socket that was never bound by hand has no note of its owner yet.
            if note.owner == 0 {
                note.owner = own;
            }
            if note.netns == 0 {
                note.netns = ctx.netns();
            }
        });
    }
    record(&decision, &attempt, slot, active.is_recording() & is_attempt(decision.reason));
    answer(&decision)
}

/// Whether a permitted decision is about a new flow, and made here rather than left to the ingress hook.
#[inline(always)]
const fn is_attempt(reason: Reason) -> bool {
    matches!(reason, Reason::RuleAllows | Reason::SameService | Reason::NobodyListens)
}
