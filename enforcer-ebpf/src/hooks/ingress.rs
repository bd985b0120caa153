//! `ingress`: a packet is about to reach a socket. Here the decision is final, since both sockets can be asked.

use aya_ebpf::macros::cgroup_skb;
use aya_ebpf::programs::SkBuffContext;
use enforcer_common::{Decision, Facts, Hook, Party, Port, Protocol, Reason, decide, decide_unreadable};

use super::{PASS, REFUSE, answer};
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
    let Some(headers) = packet.headers() else {
        return unreadable(&packet);
    };
    if headers.protocol == Protocol::TCP && !headers.opens {
        return PASS;
    }
    judge(&packet, &headers)
}

#[inline(always)]
fn judge(packet: &Packet, headers: &Headers) -> i32 {
    let mut attempt = Attempt {
        hook: Hook::Ingress,
        protocol: headers.protocol,
        caller_cgroup: None,
        answerer_cgroup: None,
        source: Some((headers.source, headers.source_port)),
        destination: Some((headers.destination, headers.destination_port)),
    };
    let Some(tables) = KernelTables::in_force() else {
        record(&Decision::TABLES_MISSING, &attempt, None, None, false);
        return REFUSE;
    };
    let answerer = sockets::party(packet.socket, &tables);
    let caller = sockets::caller(packet, headers, &tables);
    let note = sockets::note(packet.socket.cast());
    let facts = Facts {
        caller,
        answerer,
        protocol: headers.protocol,
        port: headers.destination_port,
        reply_port: reply_port(packet, headers, note.is_some_and(|note| note.asked != 0)),
    };
    let decision = decide(&facts, &tables);
    if !decision.concerns_a_service() {
        return PASS;
    }
    attempt.caller_cgroup = caller.cgroup();
    attempt.answerer_cgroup = answerer.cgroup();
    // A caller of this host that connected to a stamped listener was judged, and recorded, when it did.
    let judged_before = matches!(caller, Party::Cgroup(_)) && note.is_some_and(|note| note.bound_by != 0);
    let is_attempt = matches!(decision.reason, Reason::RuleAllows | Reason::SameService);
    record(&decision, &attempt, None, Some(&tables), log_allowed() && is_attempt && !judged_before);
    answer(&decision)
}

/// A datagram may be a reply if the receiving socket asked before: it is connected, or it sent one itself. A packet
/// of a protocol without ports that reaches a socket is one, since such sockets only receive what they asked for.
#[inline(always)]
fn reply_port(packet: &Packet, headers: &Headers, asked: bool) -> Option<Port> {
    match headers.protocol {
        Protocol::TCP => None,
        Protocol::ICMP | Protocol::ICMPV6 => Some(headers.source_port),
        _ if asked || packet.is_connected() => Some(headers.source_port),
        _ => None,
    }
}

#[inline(always)]
fn unreadable(packet: &Packet) -> i32 {
    let mut attempt = Attempt {
        hook: Hook::Ingress,
        protocol: Protocol(0),
        caller_cgroup: None,
        answerer_cgroup: None,
        source: None,
        destination: None,
    };
    let Some(tables) = KernelTables::in_force() else {
        record(&Decision::TABLES_MISSING, &attempt, None, None, false);
        return REFUSE;
    };
    let answerer = sockets::party(packet.socket, &tables);
    let decision = decide_unreadable(&answerer, Reason::Unparsable, &tables);
    if !decision.concerns_a_service() {
        return PASS;
    }
    attempt.answerer_cgroup = answerer.cgroup();
    record(&decision, &attempt, None, Some(&tables), false);
    answer(&decision)
}
