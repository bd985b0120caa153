//! `egress`: a packet leaves a socket. Here it says what it does not say to the hooks of a call: whose address and port it bears as
//! its source, where it is sent first, and, of protocols for which no such hook is asked, where it is sent at all.

use aya_ebpf::macros::cgroup_skb;
use aya_ebpf::programs::SkBuffContext;
use enforcer_common::{
    Asked, Decision, Facts, Hook, Party, Protocol, Reason, decide, decide_led, decide_source,
};

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
    // By the time that it reaches a socket, the one that sent it may be gone, and its port another's.
    if packet.skb.is_over_loopback() {
        packet.skb.sign(own);
    }
    let headers = match packet.short_headers() {
        Some(headers) => headers,
        None => match packet.leaving() {
            Some((headers, false)) => headers,
            Some((_, true)) | None => return judge(own, &packet, None),
        },
    };
    let named = match headers.protocol {
        Protocol::UDP => {
            let port = sock::port(packet.socket);
            let may_be_raw = port != headers.source_port || port.number() <= LAST_PROTOCOL;
            if may_be_raw && sock::writes_headers(packet.socket) {
                WRITTEN
            } else {
                let named = sockets::named_sender(&packet, &headers);
                if named == 0 || named == own || sockets::is_wrapped(&packet, &headers) {
                    return PASS;
                }
                named
            }
        }
        Protocol::TCP => return PASS,
        // These sockets name their destination to no hook but some of them when they are connected. The kernel's own sockets of these
        // protocols belong to whoever made their network namespace, and are raw ones.
        protocol if sock::sends(packet.socket, protocol) => NOBODY,
        _ if sock::writes_headers(packet.socket) => WRITTEN,
        _ => return PASS,
    };
    judge(own, &packet, Some((&headers, named)))
}

/// In the place of the cgroup that is named: where the packet goes is what is judged.
const NOBODY: u64 = 0;

/// Likewise: the headers are the sender's own, by a socket that is older than what refuses such ones.
const WRITTEN: u64 = u64::MAX;

/// The highest number of a protocol, which a raw socket has for its port.
const LAST_PROTOCOL: u16 = 255;

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
            None => decide_led(&sender, Reason::DestinationUnknown, &tables),
            Some((_, WRITTEN)) => decide_led(&sender, Reason::RawSocket, &tables),
            Some((_, named)) if named != NOBODY => decide_source(&sender, &Party::cgroup(named), &tables),
            Some((headers, _)) => {
                let is_echo = matches!(headers.protocol, Protocol::ICMP | Protocol::ICMPV6);
                let answerer = match sockets::place(packet, &headers.destination) {
                    // The kernel itself answers.
                    Some(place) if is_echo && place.is_here() => return PASS,
                    // Whoever it is does not know the sender either.
                    Some(_) if !is_echo => Party::UNKNOWN,
                    Some(_) => Party::address(headers.destination),
                    None => {
                        let netns = sockets::netns_of(packet);
                        sockets::elsewhere(netns, sockets::is_settled(netns), headers.destination)
                    }
                };
                let facts = Facts {
                    caller: sender,
                    answerer,
                    protocol: headers.protocol,
                    port: headers.destination_port,
                    asked: if is_echo { Asked::NOBODY } else { Asked::ANYONE },
                    reply_port: headers.source_port,
                };
                let decision = decide(&facts, &tables);
                let is_call = decision.reason == Reason::RuleAllows;
                permitted = is_call && tables.active().is_recording() && !(is_echo && packet.is_connected());
                decision
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
