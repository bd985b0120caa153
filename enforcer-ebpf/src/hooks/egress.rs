//! `egress`: a packet leaves a socket. Here it says what it does not say to the hooks of a call: whose address and port it bears as
//! its source, and where it is sent first.

use aya_ebpf::macros::cgroup_skb;
use aya_ebpf::programs::SkBuffContext;
use enforcer_common::{Asked, Decision, Facts, Hook, Party, Protocol, decide, decide_led, decide_source};

use super::{PASS, answer};
use crate::ctx::packet::{Headers, Packet};
use crate::ctx::sock;
use crate::maps::{KernelTables, NO_SLOT};
use crate::record::{Attempt, record};
use crate::sockets;

#[cgroup_skb(egress)]
fn egress(ctx: SkBuffContext) -> i32 {
    let Some(packet) = Packet::new(&ctx) else { return PASS };
    // Whom a connection leads to was judged when it was opened, and its other end is told by both ends of the flow.
    if packet.is_plain_tcp() {
        return PASS;
    }
    let own = sockets::cgroup_of(packet.socket);
    let Some((headers, is_led)) = packet.leaving() else { return judge(own, &packet, None) };
    if is_led {
        return judge(own, &packet, None);
    }
    match headers.protocol {
        Protocol::UDP => {
            let named = sockets::named_sender(packet.skb, &headers);
            if named == 0 || named == own { PASS } else { judge(own, &packet, Some((&headers, named))) }
        }
        // A ping socket names its destination to no hook but when it is connected. The kernel's own sockets of these protocols belong
        // to whoever made their network namespace, and are raw ones.
        Protocol::ICMP | Protocol::ICMPV6 if sock::takes_datagrams(packet.socket) => {
            judge(own, &packet, Some((&headers, 0)))
        }
        _ => PASS,
    }
}

/// A packet of a socket of the cgroup `own`: one that takes a way that cannot be told, one in whose headers the source is that of the
/// cgroup `named`, or one to an address.
#[inline(always)]
fn judge(own: u64, packet: &Packet, plain: Option<(&Headers, u64)>) -> i32 {
    let sender = Party::cgroup(own);
    let mut attempt = Attempt::new(Hook::Egress, plain.map_or(Protocol(0), |(headers, _)| headers.protocol));
    let mut decision = Decision::TABLES_MISSING;
    let (mut slot, mut permitted) = (NO_SLOT, false);
    if let Some((headers, _)) = plain {
        attempt = attempt
            .from(headers.source, headers.source_port)
            .to(headers.destination, headers.destination_port);
    }
    if let Some(tables) = KernelTables::in_force() {
        decision = match plain {
            None => decide_led(&sender, &tables),
            Some((_, named)) if named != 0 => decide_source(&sender, &Party::cgroup(named), &tables),
            Some((headers, _)) => {
                if sockets::is_own(packet, &headers.destination) {
                    return PASS;
                }
                permitted = tables.active().is_recording() && !packet.is_connected();
                let facts = Facts {
                    caller: sender,
                    answerer: Party::address(headers.destination),
                    protocol: headers.protocol,
                    port: headers.destination_port,
                    asked: Asked::NOBODY,
                    reply_port: headers.source_port,
                };
                decide(&facts, &tables)
            }
        };
        if !decision.concerns_a_service() {
            return PASS;
        }
        slot = tables.slot();
        attempt = attempt.caller(&sender);
    }
    record(&decision, &attempt, slot, permitted);
    answer(&decision)
}
