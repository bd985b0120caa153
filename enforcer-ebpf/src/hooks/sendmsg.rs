//! `sendmsg4` and `sendmsg6`: a task sends a datagram to an address that it did not connect to, or with control messages.

use core::arch::asm;

use aya_ebpf::bindings::bpf_sock_addr;
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use enforcer_common::{Address, Hook, Party, Port, Protocol, decide_source};

use super::call::judge;
use super::{PASS, REFUSE};
use crate::ctx::sock_addr::SockAddr as _;
use crate::ctx::task;
use crate::maps::KernelTables;
use crate::record::{Attempt, record};
use crate::sockets::{self, Kind};

#[cgroup_sock_addr(sendmsg4)]
fn sendmsg4(ctx: SockAddrContext) -> i32 {
    if !stays_here(&ctx, ctx.v4()) {
        let other = other_sender4(ctx.sock_addr);
        if other != 0 && refuse4(ctx.sock_addr, other) != 0 {
            return REFUSE;
        }
    }
    answer(judge4(ctx.sock_addr))
}

#[cgroup_sock_addr(sendmsg6)]
fn sendmsg6(ctx: SockAddrContext) -> i32 {
    if !stays_here(&ctx, ctx.v6()) {
        let other = other_sender6(ctx.sock_addr);
        if other != 0 && refuse6(ctx.sock_addr, other) != 0 {
            return REFUSE;
        }
    }
    answer(judge6(ctx.sock_addr))
}

/// Whether a datagram goes to an address that every network namespace has for itself, as most do, and is spared what others pay. One to whom
/// a socket is connected has port 0, which is asked after because its address is unspecified too.
#[inline(always)]
fn stays_here(ctx: &SockAddrContext, address: Address) -> bool {
    address.is_loopback_or_unspecified() && ctx.port() != Port::new(0)
}

/// What a function has answered, as the verifier wants to see it of a program: as one of two numbers. The compiler knows that it is, and
/// would return it as it is.
#[inline(always)]
fn answer(told: u32) -> i32 {
    let mut told = u64::from(told);
    // SAFETY: it changes nothing, which the compiler does not see.
    unsafe { asm!("{told} = {told}", told = inout(reg) told, options(pure, nomem, nostack)) };
    if told == 0 { REFUSE } else { PASS }
}

// Global functions, so that the verifier walks each by itself, and none stands on the stack of another.

/// Who may call whom.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn judge4(ctx: *mut bpf_sock_addr) -> u32 {
    let ctx = SockAddrContext::new(ctx);
    let (address, port) = named(&ctx, ctx.v4(), ctx.peer_v4());
    // A server that is bound to a wildcard answers from the address that was asked, and says so with each datagram.
    let local = (ctx.leaves_from_v4(), ctx.local().1);
    judge(&ctx, Hook::Sendmsg4, (address, Kind::of_v4(address), port), local) as u32
}

/// The same in `sendmsg6`.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn judge6(ctx: *mut bpf_sock_addr) -> u32 {
    let ctx = SockAddrContext::new(ctx);
    let (address, port) = named(&ctx, ctx.v6(), ctx.peer_v6());
    let local = (ctx.leaves_from_v6(), ctx.local().1);
    judge(&ctx, Hook::Sendmsg6, (address, Kind::of_v6(address), port), local) as u32
}

/// To whom a datagram goes: to the address that the task names, or to whom its socket is connected to. Of the latter the kernel shows
/// neither address nor port, and the hook runs because of control messages (`udp_sendmsg`, `udpv6_sendmsg`); a port 0 that somebody
/// names it refuses before.
#[inline(always)]
fn named(ctx: &SockAddrContext, address: Address, (peer, peer_port): (Address, Port)) -> (Address, Port) {
    let (port, peer_port) = (u32::from(ctx.port().number()), u32::from(peer_port.number()));
    // Every bit of it where the port is 0. Without a branch, since the verifier would follow all that comes after it twice.
    let mask = ((port.wrapping_sub(1) as i32) >> 31) as u32;
    let (own, other) = (address.words(), peer.words());
    let word = |index: usize| own[index] ^ ((own[index] ^ other[index]) & mask);
    let port = port ^ ((port ^ peer_port) & mask);
    (Address::from_words([word(0), word(1), word(2), word(3)]), Port::new((port & 0xffff) as u16))
}

/// The cgroup of somebody else, for whose a datagram would be taken that leaves for nobody of this host in particular; 0 if there is none.
/// `egress` sees that too, but not in the copy that the kernel makes for this host of what goes to many, which has no socket
/// (`ip_mc_output`, `ip6_finish_output2`).
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn other_sender4(ctx: *mut bpf_sock_addr) -> u64 {
    let ctx = SockAddrContext::new(ctx);
    let far = named(&ctx, ctx.v4(), ctx.peer_v4());
    other_sender(&ctx, Kind::of_v4(far.0), (ctx.leaves_from_v4(), ctx.local().1), far)
}

/// The same in `sendmsg6`.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn other_sender6(ctx: *mut bpf_sock_addr) -> u64 {
    let ctx = SockAddrContext::new(ctx);
    let far = named(&ctx, ctx.v6(), ctx.peer_v6());
    other_sender(&ctx, Kind::of_v6(far.0), (ctx.leaves_from_v6(), ctx.local().1), far)
}

#[inline(always)]
fn other_sender(ctx: &SockAddrContext, kind: Kind, near: (Address, Port), far: (Address, Port)) -> u64 {
    let is_copied = ctx.protocol() == Protocol::UDP && !sockets::is_here(ctx, &far.0, kind);
    if !is_copied {
        return 0;
    }
    let found = sockets::sender_by_name(ctx, near, far);
    // A task may have come from another cgroup with a socket that it had bound there.
    let is_own = found == task::cgroup() || found == sockets::note(ctx.socket().cast()).owner;
    if is_own { 0 } else { found }
}

/// Refuses, and records, a datagram that would be taken for one of the cgroup `other`; returns 0 if it is not refused.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn refuse4(ctx: *mut bpf_sock_addr, other: u64) -> u32 {
    let ctx = SockAddrContext::new(ctx);
    refuse(Hook::Sendmsg4, other, named(&ctx, ctx.v4(), ctx.peer_v4()))
}

/// The same in `sendmsg6`.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn refuse6(ctx: *mut bpf_sock_addr, other: u64) -> u32 {
    let ctx = SockAddrContext::new(ctx);
    refuse(Hook::Sendmsg6, other, named(&ctx, ctx.v6(), ctx.peer_v6()))
}

#[inline(always)]
fn refuse(hook: Hook, other: u64, far: (Address, Port)) -> u32 {
    let Some(mut tables) = KernelTables::in_force() else { return 0 };
    let own = task::cgroup();
    let caller = task::party(own, &mut tables);
    let decision = decide_source(&caller, &Party::cgroup(other), &tables);
    // In audit mode `egress` records it.
    if decision.admits() {
        return 0;
    }
    record(&decision, &Attempt::new(hook, Protocol::UDP).by_task(own).to(far.0, far.1), tables.slot(), false);
    1
}
