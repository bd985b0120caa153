//! `ingress`: a packet is about to reach a socket. Here the decision is final, since both sockets can be asked.

use aya_ebpf::macros::cgroup_skb;
use aya_ebpf::programs::SkBuffContext;
use aya_log_ebpf::debug;
use enforcer_common::layout::{Active, SocketNote};
use enforcer_common::{Asked, Decision, Facts, Hook, Party, Protocol, Reason, decide_unreadable};

use super::{PASS, answer};
use crate::ctx::packet::{Headers, Packet};
use crate::ctx::task;
use crate::maps::{KernelTables, NO_SLOT};
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
    let plain = packet.plain_headers();
    let Some(headers) = plain.or_else(|| packet.headers()) else { return unreadable(&packet) };
    if !headers.begin_a_flow() {
        return PASS;
    }
    let sender = plain.map(|headers| sockets::sender(packet.skb, &headers));
    judge(&ctx, &packet, &headers, sender)
}

/// `sender` is the caller, if it was found already.
#[inline(always)]
fn judge(ctx: &SkBuffContext, packet: &Packet, headers: &Headers, sender: Option<Party>) -> i32 {
    let mut attempt = Attempt::new(Hook::Ingress, headers.protocol)
        .from(headers.source, headers.source_port)
        .to(headers.destination, headers.destination_port);
    let mut decision = Decision::TABLES_MISSING;
    let (mut active, mut slot) = (Active(0), NO_SLOT);
    let mut judged_before = false;
    if let Some(mut tables) = KernelTables::chosen() {
        active = tables.active();
        let answerer = sockets::party(packet.socket);
        // What came over loopback needs no word of the socket at first, unless it is to be told whether the caller was judged.
        let is_plain = sender.is_some() || headers.protocol == Protocol::TCP && packet.skb.is_over_loopback();
        let is_noted = !is_plain || active.is_recording();
        let mut note = if is_noted { sockets::note(packet.socket.cast()) } else { SocketNote::BLANK };
        let caller = match sender {
            Some(sender) => sender,
            None => sockets::caller(packet, headers, note.netns, tables.slot()),
        };
        if cfg!(feature = "lookups") {
            return PASS;
        }
        let key = tables.key(caller.cgroup_id(), &answerer, headers.protocol, headers.destination_port);
        let are_cgroups = task::is_exact(&caller) && task::is_exact(&answerer);
        let mut asked = if is_noted { self::asked(packet, headers, note.asked) } else { Asked::ANYONE };
        let mut kept = if are_cgroups { tables.kept(&key, asked) } else { None };
        // What is permitted to those who answer nobody is found so too, and only what is not may depend on whom the socket has asked.
        if kept.is_none() && !is_noted {
            if headers.protocol == Protocol::UDP {
                note = sockets::note(packet.socket.cast());
            }
            asked = self::asked(packet, headers, note.asked);
            kept = if are_cgroups { tables.kept(&key, asked) } else { None };
        }
        let made = if kept.is_some() {
            kept
        } else {
            tables.find(answerer.cgroup_id());
            let facts = Facts {
                caller,
                answerer,
                protocol: headers.protocol,
                port: headers.destination_port,
                asked,
                reply_port: headers.source_port,
            };
            tables.decide(&facts, &key)
        };
        // Without tables it stays a denial to everyone.
        if let Some(made) = made {
            decision = made;
            if !decision.concerns_a_service() {
                return PASS;
            }
            slot = tables.slot();
            attempt = attempt.caller(&caller).answerer(&answerer);
            // A caller of this host that found the answerer's note was judged, and recorded, when it called.
            judged_before = task::is_exact(&caller) && note.owner != 0;
        }
    }
    if active.is_logging() {
        debug!(
            ctx,
            "hook {} identity {} -> {} port {} reason {}",
            Hook::Ingress as u8,
            decision.from.raw(),
            decision.to.raw(),
            headers.destination_port.number(),
            decision.reason as u8
        );
    }
    let is_attempt = matches!(decision.reason, Reason::RuleAllows | Reason::SameService);
    record(&decision, &attempt, slot, active.is_recording() & is_attempt & !judged_before);
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
    let mut slot = NO_SLOT;
    if let Some(tables) = KernelTables::in_force() {
        let answerer = sockets::party(packet.socket);
        decision = decide_unreadable(&answerer, Reason::Unparsable, &tables);
        if !decision.concerns_a_service() {
            return PASS;
        }
        slot = tables.slot();
        attempt = attempt.answerer(&answerer);
    }
    record(&decision, &attempt, slot, false);
    answer(&decision)
}
