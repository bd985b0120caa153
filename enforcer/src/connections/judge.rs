//! Tells of each live connection who called whom and what a policy says of it. Pure: sockets in, decisions out.
//!
//! A connection is judged as if it were opened now, by [`decide`] itself, in the direction in which it was opened. Where
//! more than one reading is possible (the direction cannot be told, two sockets may be the other end) one reading that
//! the policy permits is enough: what may be permitted is never closed.

use std::collections::HashMap;

use enforcer_common::{
    Address, Decision, Facts, Mode, Party, Port, Protocol, Reason, Tables, Verdict, decide,
};

use super::{Endpoint, Opened, Snapshot, Socket, State};

/// What a policy says of the live connections of a host.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Judgement {
    /// Those that concern a declared service.
    pub connections: Vec<Connection>,
    /// Sockets whose other end should be on this host and was not there: it was opened or closed while sockets were
    /// being read, or it has gone for good and there is nobody to talk to.
    pub alone: usize,
}

/// A live connection, read in one way.
#[derive(Clone, PartialEq, Debug)]
pub struct Connection {
    /// Who opened it.
    pub caller: End,
    /// Who answers.
    pub answerer: End,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// How far it has come.
    pub state: State,
    /// What the policy says of it.
    pub decision: Decision,
    /// Whether a later look may find otherwise: an owner was not known yet, a namespace of this host has the address of
    /// the other end and no socket for it yet, or no counter told who opened it.
    pub may_change: bool,
}

impl Connection {
    /// The sockets of this host that belong to it alone, by their place in the snapshot.
    pub fn sockets(&self) -> impl Iterator<Item = usize> {
        [self.caller.socket, self.answerer.socket].into_iter().flatten()
    }

    /// Whether the policy permits it.
    pub fn is_permitted(&self) -> bool {
        self.decision.verdict == Verdict::Allow
    }
}

/// One end of a connection.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct End {
    /// Who it is.
    pub party: Party,
    /// Where it is.
    pub at: Endpoint,
    /// Its socket, by its place in the snapshot, if it is on this host and serves no other connection.
    pub socket: Option<usize>,
}

/// Judges every live connection.
pub fn judge<T: Tables>(snapshot: &Snapshot, tables: &T) -> Judgement {
    let index = Index::new(snapshot);
    let mut judgement = Judgement::default();
    let mut seen = vec![false; snapshot.sockets.len()];
    for (number, socket) in snapshot.sockets.iter().enumerate() {
        if socket.state == State::Waiting || seen[number] {
            continue;
        }
        let far = index.other_end(socket, tables);
        if let Far::Sockets(others) = &far
            && let [only] = others.as_slice()
            && snapshot.sockets[*only].state != State::Waiting
        {
            seen[*only] = true;
        }
        if matches!(far, Far::Missing) {
            judgement.alone += 1;
            continue;
        }
        let readings = index.readings(number, &far);
        let judged = readings.into_iter().map(|reading| reading.decide(tables));
        // The first of equals, which is the likeliest.
        let Some(best) = judged.min_by_key(|connection| rank(&connection.decision)) else { continue };
        if best.decision.concerns_a_service() {
            judgement.connections.push(best);
        }
    }
    judgement
}

/// What is better for the connection comes first.
fn rank(decision: &Decision) -> u8 {
    match (decision.verdict, decision.mode) {
        (Verdict::Allow, _) => 0,
        (Verdict::Deny, Mode::Audit) => 1,
        (Verdict::Deny, Mode::Enforce) => 2,
    }
}

/// Where the other end of a connection is.
enum Far {
    /// It is one of these sockets.
    Sockets(Vec<usize>),
    /// It should be on this host, and is not there.
    Missing,
    /// It is another host's, as far as can be told.
    Elsewhere {
        /// Whether a namespace of this host has the address.
        contested: bool,
    },
}

/// One way to read a connection.
struct Reading {
    caller: End,
    answerer: End,
    protocol: Protocol,
    state: State,
    may_change: bool,
}

impl Reading {
    fn decide<T: Tables>(self, tables: &T) -> Connection {
        // A connected datagram socket does not tell who asked first, so a rule in either direction covers it.
        let is_datagram = self.protocol == Protocol::UDP;
        let facts = Facts {
            caller: self.caller.party,
            answerer: self.answerer.party,
            protocol: self.protocol,
            port: self.answerer.at.port,
            may_be_reply: is_datagram,
            reply_port: if is_datagram { self.caller.at.port } else { Port::new(0) },
        };
        let decision = decide(&facts, tables);
        if decision.reason == Reason::Reply {
            // It was the other end that asked.
            let turned = Self { caller: self.answerer, answerer: self.caller, ..self };
            return turned.decide(tables);
        }
        let is_new = |end: &End| {
            let id = end.party.cgroup_id();
            id != 0 && tables.cgroup(id).is_none()
        };
        let may_change = self.may_change || is_new(&self.caller) || is_new(&self.answerer);
        Connection {
            decision,
            caller: self.caller,
            answerer: self.answerer,
            protocol: self.protocol,
            state: self.state,
            may_change,
        }
    }
}

/// The sockets of a snapshot by what they are looked for.
struct Index<'a> {
    snapshot: &'a Snapshot,
    /// Sockets with a connection, by namespace and both ends.
    connected: HashMap<(u64, Protocol, Endpoint, Endpoint), Vec<usize>>,
    /// Sockets without one, by namespace and port.
    waiting: HashMap<(u64, Protocol, Port), Vec<usize>>,
    /// Which namespaces have an address that means something outside of them.
    holders: HashMap<Address, Vec<u64>>,
}

impl<'a> Index<'a> {
    fn new(snapshot: &'a Snapshot) -> Self {
        let mut index =
            Self { snapshot, connected: HashMap::new(), waiting: HashMap::new(), holders: HashMap::new() };
        for (number, socket) in snapshot.sockets.iter().enumerate() {
            if socket.state == State::Waiting {
                let key = (socket.netns, socket.protocol, socket.local.port);
                index.waiting.entry(key).or_default().push(number);
            } else {
                let key = (socket.netns, socket.protocol, socket.local, socket.remote);
                index.connected.entry(key).or_default().push(number);
            }
        }
        for namespace in &snapshot.namespaces {
            for address in namespace.addresses.iter().filter(|it| !it.is_loopback_or_unspecified()) {
                index.holders.entry(*address).or_default().push(namespace.cookie);
            }
        }
        index
    }

    fn socket(&self, number: usize) -> &'a Socket {
        &self.snapshot.sockets[number]
    }

    fn other_end<T: Tables>(&self, socket: &Socket, tables: &T) -> Far {
        let near = self.in_namespace(socket.netns, socket);
        if !near.is_empty() {
            return Far::Sockets(near);
        }
        let address = &socket.remote.address;
        let holders = self.holders.get(address).map(Vec::as_slice).unwrap_or_default();
        if address.is_loopback_or_unspecified()
            || *address == socket.local.address
            || holders.contains(&socket.netns)
        {
            return Far::Missing;
        }
        // A socket of nobody known is no evidence: whoever may make a namespace may make up an end in it.
        let is_known = |number: &usize| {
            self.socket(*number).cgroup.is_some_and(|cgroup| tables.cgroup(cgroup).is_some())
        };
        let far: Vec<usize> = holders
            .iter()
            .flat_map(|namespace| self.in_namespace(*namespace, socket))
            .filter(is_known)
            .collect();
        match far.as_slice() {
            [_] => Far::Sockets(far),
            _ => Far::Elsewhere { contested: !holders.is_empty() },
        }
    }

    /// The sockets of a namespace that may be at the other end of a socket.
    fn in_namespace(&self, netns: u64, socket: &Socket) -> Vec<usize> {
        let key = (netns, socket.protocol, socket.remote, socket.local);
        match self.connected.get(&key) {
            Some(sockets) => sockets.clone(),
            None if socket.protocol == Protocol::UDP => self.waiting_at(netns, Protocol::UDP, socket.remote),
            None => Vec::new(),
        }
    }

    /// The sockets that wait at an end; those that wait at its very address are preferred, as by the kernel.
    fn waiting_at(&self, netns: u64, protocol: Protocol, at: Endpoint) -> Vec<usize> {
        let waiting = self.waiting.get(&(netns, protocol, at.port)).map(Vec::as_slice).unwrap_or_default();
        let at_address = |number: &&usize| self.socket(**number).local.address == at.address;
        let exact: Vec<usize> = waiting.iter().filter(at_address).copied().collect();
        if !exact.is_empty() {
            return exact;
        }
        let takes = |number: &&usize| {
            let socket = self.socket(**number);
            let is_any = [Address::V4_UNSPECIFIED, Address::V6_UNSPECIFIED].contains(&socket.local.address);
            let of_family = if at.address.is_v4() { !socket.is_only_v6 } else { socket.is_v6 };
            is_any && of_family
        };
        waiting.iter().filter(takes).copied().collect()
    }

    fn readings(&self, number: usize, far: &Far) -> Vec<Reading> {
        let socket = self.socket(number);
        let near = End { party: self.party(socket), at: socket.local, socket: Some(number) };
        let others = match far {
            Far::Missing => Vec::new(),
            Far::Elsewhere { contested } => {
                let party = Party::address(socket.remote.address);
                vec![(End { party, at: socket.remote, socket: None }, *contested, None)]
            }
            Far::Sockets(sockets) => {
                let is_only = sockets.len() == 1;
                let other = |number: &usize| {
                    let other = self.socket(*number);
                    let its_own = (is_only && other.state != State::Waiting).then_some(*number);
                    (End { party: self.party(other), at: socket.remote, socket: its_own }, false, Some(other))
                };
                sockets.iter().map(other).collect()
            }
        };
        let mut readings = Vec::new();
        for (far, may_change, other) in others {
            let (protocol, state) = (socket.protocol, socket.state);
            let (opened, is_certain) = self.opened(socket, other);
            let may_change = may_change || !is_certain;
            let reading = |caller, answerer| Reading { caller, answerer, protocol, state, may_change };
            match opened {
                Some(Opened::Here) => readings.push(reading(near, far)),
                Some(Opened::There) => readings.push(reading(far, near)),
                None => readings.extend([reading(near, far), reading(far, near)]),
            }
        }
        readings
    }

    fn party(&self, socket: &Socket) -> Party {
        if let Some(cgroup) = socket.cgroup {
            return Party::cgroup(cgroup);
        }
        // A half-open connection is its listener's.
        let listeners = self.waiting_at(socket.netns, socket.protocol, socket.local);
        match listeners.as_slice() {
            [only] => self.socket(*only).cgroup.map_or(Party::UNKNOWN, Party::cgroup),
            _ => Party::UNKNOWN,
        }
    }

    /// Which end opened a connection, from the side of `socket`, and whether that is certain: as the counters of either
    /// end have it, or else as a listener at one end alone has it.
    fn opened(&self, socket: &Socket, other: Option<&Socket>) -> (Option<Opened>, bool) {
        let listens = |netns, at| !self.waiting_at(netns, socket.protocol, at).is_empty();
        if socket.protocol == Protocol::UDP {
            // The likelier direction is told first, and a rule in either covers it.
            let asked = listens(socket.netns, socket.local) && other.is_none();
            return (Some(if asked { Opened::There } else { Opened::Here }), true);
        }
        let turned = other.and_then(|other| other.opened).map(|opened| match opened {
            Opened::Here => Opened::There,
            Opened::There => Opened::Here,
        });
        match (socket.opened, turned) {
            // Both connected to each other at the same moment.
            (Some(one), Some(two)) if one != two => (None, true),
            (Some(opened), _) | (None, Some(opened)) => (Some(opened), true),
            (None, None) => {
                let here = listens(socket.netns, socket.local);
                let there = other.is_some_and(|other| listens(other.netns, other.local));
                // Of the other end's listeners nothing is known where it is another host's.
                match (here, there, other) {
                    (true, false, Some(_)) => (Some(Opened::There), false),
                    (false, true, Some(_)) => (Some(Opened::Here), false),
                    _ => (None, false),
                }
            }
        }
    }
}
