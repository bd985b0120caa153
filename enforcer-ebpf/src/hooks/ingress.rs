//! `ingress`: a packet is about to reach a socket. Here the decision is final, since both sockets can be asked.

use aya_ebpf::macros::cgroup_skb;
use aya_ebpf::programs::SkBuffContext;
use aya_log_ebpf::debug;
use enforcer_common::layout::SocketNote;
use enforcer_common::{
    Asked, Decision, Facts, Hook, Known, Protocol, Reason, Tables as _, decide, decide_unreadable,
};

use super::{PASS, answer};
use crate::ctx::packet::{Headers, Packet};
use crate::maps::{KernelTables, log_allowed};
use crate::record::{Attempt, record};
use crate::sockets;

#[cgroup_skb(ingress)]
fn ingress(ctx: SkBuffContext) -> i32 {
    let Some(packet) = Packet::new(&ctx) else {
        // No socket is to receive it, so there is nobody to protect.
        return PASS;
    };
    if packet.is_of_an_open_connection() {
        return PASS;
    }
    let Some(headers) = packet.headers() else { return unreadable(&packet) };
    if !headers.begin_a_flow() {
        return PASS;
    }
    judge(&ctx, &packet, &headers)
}

#[inline(always)]
fn judge(ctx: &SkBuffContext, packet: &Packet, headers: &Headers) -> i32 {
    let mut attempt = Attempt::new(Hook::Ingress, headers.protocol)
        .from(headers.source, headers.source_port)
        .to(headers.destination, headers.destination_port);
    let mut decision = Decision::TABLES_MISSING;
    let mut revision = 0;
    let mut judged_before = false;
    if let Some(mut tables) = KernelTables::in_force() {
        let answerer = sockets::party(packet.socket);
        // A TCP connection over loopback needs no word of the socket, unless it is to be told whether the caller was judged.
        let is_noted = headers.protocol != Protocol::TCP || !packet.skb.is_from_loopback() || log_allowed();
        let note = if is_noted { sockets::note(packet.socket.cast()) } else { SocketNote::BLANK };
        tables.find(answerer.cgroup_id());
        let is_service =
            tables.cgroup(answerer.cgroup_id()).is_some_and(|owner| owner.identity().is_service());
        let caller = sockets::caller(packet, headers, note.netns, is_service);
        let facts = Facts {
            caller,
            answerer,
            protocol: headers.protocol,
            port: headers.destination_port,
            asked: asked(packet, headers, note.asked),
            reply_port: headers.source_port,
        };
        decision = decide(&facts, &tables);
        if !decision.concerns_a_service() {
            return PASS;
        }
        revision = tables.revision();
        attempt = attempt.caller(&caller).answerer(&answerer);
        // A caller of this host that found the answerer's note was judged, and recorded, when it called.
        judged_before = caller.known() == Known::Cgroup && note.owner != 0;
    }
    debug!(
        ctx,
        "hook {} identity {} -> {} port {} reason {}",
        Hook::Ingress as u8,
        decision.from.raw(),
        decision.to.raw(),
        headers.destination_port.number(),
        decision.reason as u8
    );
    let is_attempt = matches!(decision.reason, Reason::RuleAllows | Reason::SameService);
    record(&decision, &attempt, revision, log_allowed() && is_attempt && !judged_before);
    answer(&decision)
}

/// Whose datagrams may be answers: those of whom the receiving socket asked, or of its peer if it is connected. A packet
/// of a protocol without ports that reaches a socket is one, since such sockets only receive what they asked for.
#[inline(always)]
fn asked(packet: &Packet, headers: &Headers, asked: Asked) -> Asked {
    match headers.protocol {
        Protocol::TCP => Asked::NOBODY,
        Protocol::ICMP | Protocol::ICMPV6 => Asked::ANYONE,
        _ if packet.is_connected() => Asked::ANYONE,
        _ => asked,
    }
}

#[inline(always)]
fn unreadable(packet: &Packet) -> i32 {
    let mut attempt = Attempt::new(Hook::Ingress, Protocol(0));
    let mut decision = Decision::TABLES_MISSING;
    let mut revision = 0;
    if let Some(tables) = KernelTables::in_force() {
        let answerer = sockets::party(packet.socket);
        decision = decide_unreadable(&answerer, Reason::Unparsable, &tables);
        if !decision.concerns_a_service() {
            return PASS;
        }
        revision = tables.revision();
        attempt = attempt.answerer(&answerer);
    }
    record(&decision, &attempt, revision, false);
    answer(&decision)
}
