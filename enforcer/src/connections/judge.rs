//! Tells of each live connection who called whom and what a policy says of it. Pure: sockets in, decisions out.
//!
//! A connection is judged as if it were opened now, by [`decide()`] itself, in the direction in which it was opened. Where
//! more than one reading is possible (the direction cannot be told, two sockets may be the other end) one reading that
//! the policy permits is enough: what may be permitted is never closed.

use std::collections::HashMap;

use enforcer_common::{
    Address, Asked, Decision, Facts, Mode, Party, Port, Protocol, Reason, Tables, Verdict, decide,
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
        if socket.state == State::Waiting || is_nobodys(socket) || seen[number] {
            continue;
        }
        let far = index.other_end(number, tables);
        if let Far::Sockets(others) = &far
            && let [only] = others.as_slice()
            && snapshot.sockets[*only].state != State::Waiting
        {
            seen[*only] = true;
        }
        let is_alone = match &far {
            Far::Missing => true,
            Far::Sockets(others) => others.iter().all(|other| is_nobodys(&snapshot.sockets[*other])),
            Far::Elsewhere | Far::Contested | Far::Unseen => false,
        };
        if is_alone {
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

/// Whether a socket is what the kernel remembers of one that was closed whole, until the other end is closed too: it has no cgroup,
/// takes nothing, and says nothing of who had it.
fn is_nobodys(socket: &Socket) -> bool {
    socket.state == State::Closing && socket.cgroup.is_none()
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
    Elsewhere,
    /// A namespace of this host has the address too, and no socket for it.
    Contested,
    /// Only a namespace of this host can have the address, and none that was seen does.
    Unseen,
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
            asked: if is_datagram { Asked::ANYONE } else { Asked::NOBODY },
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

    fn other_end<T: Tables>(&self, number: usize, tables: &T) -> Far {
        let socket = self.socket(number);
        let near = self.in_namespace(socket.netns, socket);
        if !near.is_empty() {
            return Far::Sockets(near);
        }
        let address = &socket.remote.address;
        let holders = self.holders_seen_by(socket);
        if address.is_loopback_or_unspecified()
            || *address == socket.local.address
            || holders.contains(&socket.netns)
        {
            return Far::Missing;
        }
        // Each must be the only one for the other, or somebody could claim to be the end of another's connection.
        match self.across(number, tables).as_slice() {
            [only] if self.across(*only, tables).as_slice() == [number] => Far::Sockets(vec![*only]),
            // A socket that waits for datagrams from anyone has no other end of its own.
            [only] if self.socket(*only).state == State::Waiting => Far::Sockets(vec![*only]),
            _ if !holders.is_empty() => Far::Contested,
            _ if self.snapshot.neighbours.have(socket.netns, address) => Far::Unseen,
            _ => Far::Elsewhere,
        }
    }

    /// The sockets of other namespaces that may be at the other end of a socket.
    fn across<T: Tables>(&self, number: usize, tables: &T) -> Vec<usize> {
        let socket = self.socket(number);
        // A socket of nobody known is no evidence: whoever may make a namespace may make up an end in it.
        let is_known = |socket: &Socket| socket.cgroup.is_some_and(|cgroup| tables.cgroup(cgroup).is_some());
        if !is_known(socket) {
            return Vec::new();
        }
        let others = self.holders_seen_by(socket).into_iter().filter(|namespace| *namespace != socket.netns);
        let found = others.flat_map(|namespace| self.in_namespace(namespace, socket));
        found.filter(|number| is_known(self.socket(*number))).collect()
    }

    /// The namespaces that have the address at a socket's other end, of those in which that end can be.
    fn holders_seen_by(&self, socket: &Socket) -> Vec<u64> {
        let holders = self.holders.get(&socket.remote.address).map(Vec::as_slice).unwrap_or_default();
        let sees = |holder: &u64| self.snapshot.neighbours.see(socket.netns, *holder);
        holders.iter().copied().filter(sees).collect()
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
        let nowhere = |party, may_change| (End { party, at: socket.remote, socket: None }, may_change, None);
        let others = match far {
            Far::Missing => Vec::new(),
            Far::Elsewhere => vec![nowhere(Party::address(socket.remote.address), false)],
            // Whose address it is cannot be told; a rule for other hosts is enough for it to go on.
            Far::Contested => {
                vec![nowhere(Party::UNKNOWN, true), nowhere(Party::address(socket.remote.address), true)]
            }
            // As the programs have it: the namespace of that socket is one in which no process is any longer, or not yet.
            Far::Unseen => vec![nowhere(Party::UNKNOWN, true)],
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

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet, HashSet};
    use std::sync::Arc;

    use enforcer_common::layout::{EdgeKey, EdgeValue, NeighbourKey, Owner, PortKey, PortRange, ProtocolKey};
    use enforcer_common::{Address, Identity, Mode, Party, Port, Protocol, RuleId, Tables};

    use super::{Judgement, judge};
    use crate::connections::{Endpoint, Namespace, Opened, Snapshot, Socket, State};
    use crate::namespaces::{Group, Neighbours, Views};

    const HOME: Address = Address::V4_LOOPBACK;
    const NEAR: Address = Address::from_v4([10, 0, 0, 1]);
    const FAR: Address = Address::from_v4([10, 0, 0, 2]);
    const WEB: u64 = 10;
    const DB: u64 = 11;

    const fn service(number: u32) -> Identity {
        match Identity::service(number) {
            Some(identity) => identity,
            None => Identity::UNKNOWN,
        }
    }

    /// `web` may reach `db` at 5432/tcp and 53/udp.
    struct Example(EdgeValue);

    impl Example {
        fn new() -> Self {
            let mut ranges = [PortRange::UNUSED; EdgeValue::RANGES];
            ranges[0] = PortRange::ports(Protocol::TCP, 5432, 5432, RuleId(0));
            ranges[1] = PortRange::ports(Protocol::UDP, 53, 53, RuleId(0));
            Self(EdgeValue::new(ranges, false))
        }
    }

    impl Tables for Example {
        fn cgroup(&self, id: u64) -> Option<Owner> {
            match id {
                1 => Some(Owner::UNMANAGED),
                WEB => Some(Owner::new(service(0), Mode::Enforce)),
                DB => Some(Owner::new(service(1), Mode::Enforce)),
                _ => None,
            }
        }

        fn network(&self, _: &Address) -> Option<Identity> {
            None
        }

        fn edge(&self, key: &EdgeKey) -> Option<&EdgeValue> {
            (*key == EdgeKey::new(service(0), service(1))).then_some(&self.0)
        }

        fn reserved(&self, _: &PortKey) -> Option<Owner> {
            None
        }

        fn names_protocol(&self, _: &ProtocolKey) -> bool {
            false
        }
    }

    fn end(address: Address, port: u16) -> Endpoint {
        Endpoint { address, port: Port::new(port) }
    }

    fn socket(cgroup: u64, protocol: Protocol, local: Endpoint, remote: Endpoint) -> Socket {
        Socket {
            netns: 1,
            cookie: u64::from(local.port.number()),
            protocol,
            state: State::Open,
            local,
            remote,
            device: 0,
            is_v6: false,
            is_only_v6: false,
            cgroup: Some(cgroup),
            opened: None,
            traffic: None,
        }
    }

    fn waiting(cgroup: u64, protocol: Protocol, local: Endpoint) -> Socket {
        let nowhere = end(Address::V4_UNSPECIFIED, 0);
        Socket { state: State::Waiting, ..socket(cgroup, protocol, local, nowhere) }
    }

    /// Both ends of a TCP connection on one host.
    fn pair(caller: u64, answerer: u64, port: u16, opened: Option<Opened>) -> Vec<Socket> {
        let (here, there) = (end(HOME, 40_000), end(HOME, port));
        vec![
            Socket { opened, ..socket(caller, Protocol::TCP, here, there) },
            socket(answerer, Protocol::TCP, there, here),
        ]
    }

    fn judged(sockets: Vec<Socket>, namespaces: &[(u64, Address)]) -> Judgement {
        let namespaces = namespaces
            .iter()
            .map(|(cookie, address)| Namespace { cookie: *cookie, addresses: HashSet::from([*address]) });
        let snapshot = Snapshot { sockets, namespaces: namespaces.collect(), ..Snapshot::default() };
        judge(&snapshot, &Example::new())
    }

    /// Of the only connection: whether it is permitted, whether that may change, and how many sockets are its own.
    fn only(judgement: &Judgement) -> (bool, bool, usize) {
        let [connection] = judgement.connections.as_slice() else { panic!("{judgement:?}") };
        (connection.is_permitted(), connection.may_change, connection.sockets().count())
    }

    #[test]
    fn a_connection_is_judged_in_the_direction_in_which_it_was_opened() {
        let (here, there) = (Some(Opened::Here), Some(Opened::There));
        for (caller, answerer, port, opened, permitted) in [
            (WEB, DB, 5432, here, true),
            (WEB, DB, 5433, here, false),
            (DB, WEB, 5432, here, false),
            // The socket at 40000 is the one that was called, and no rule lists that port.
            (WEB, DB, 5432, there, false),
            (WEB, WEB, 1, here, true),
            (1, DB, 5432, here, false),
            (WEB, 99, 5432, here, false),
        ] {
            let judgement = judged(pair(caller, answerer, port, opened), &[]);
            let (found, may_change, sockets) = only(&judgement);
            assert_eq!((found, sockets), (permitted, 2), "{caller} {answerer} {port} {opened:?}");
            // An owner that is not known may be known a moment later.
            assert_eq!(may_change, answerer == 99);
        }
        assert_eq!(judged(pair(1, 1, 5432, here), &[]), Judgement::default());
    }

    #[test]
    fn what_a_caller_that_has_closed_leaves_behind_is_nobodys() {
        let [caller, answerer] = pair(WEB, DB, 5433, None).try_into().expect("two");
        let half = |cgroup| {
            let caller = Socket { state: State::Closing, cgroup, ..caller.clone() };
            let answerer = Socket { state: State::Closing, ..answerer.clone() };
            judged(vec![caller, answerer], &[(1, HOME)])
        };
        assert_eq!((half(None).connections.len(), half(None).alone), (0, 1));
        // One that has said that it sends nothing more can still be told.
        let (permitted, _, sockets) = only(&half(Some(WEB)));
        assert_eq!((permitted, sockets), (false, 2));
    }

    #[test]
    fn without_counters_a_listener_tells_the_direction_and_else_either_will_do() {
        assert_eq!(only(&judged(pair(WEB, DB, 5432, None), &[])), (true, true, 2));
        assert_eq!(only(&judged(pair(DB, WEB, 40_001, None), &[])), (false, true, 2));
        let mut sockets = pair(WEB, DB, 5432, None);
        sockets.push(waiting(DB, Protocol::TCP, end(Address::V4_UNSPECIFIED, 5432)));
        assert_eq!(only(&judged(sockets.clone(), &[])), (true, true, 2));
        sockets[2] = waiting(WEB, Protocol::TCP, end(HOME, 40_000));
        assert_eq!(only(&judged(sockets, &[])), (false, true, 2));
    }

    #[test]
    fn an_end_that_should_be_here_and_is_not_is_left_alone() {
        for remote in [end(HOME, 5433), end(NEAR, 5433)] {
            let alone = socket(WEB, Protocol::TCP, end(NEAR, 40_000), remote);
            let judgement = judged(vec![alone], &[(1, NEAR)]);
            assert_eq!((judgement.connections.len(), judgement.alone), (0, 1));
        }
    }

    #[test]
    fn an_end_in_another_namespace_is_who_it_is_and_else_an_address() {
        let near = Socket {
            opened: Some(Opened::Here),
            ..socket(WEB, Protocol::TCP, end(NEAR, 40_000), end(FAR, 5432))
        };
        let far = |netns, cgroup| Socket {
            netns,
            ..socket(cgroup, Protocol::TCP, end(FAR, 5432), end(NEAR, 40_000))
        };
        let places = [(1, NEAR), (2, FAR), (3, FAR)];
        let outside = judged(vec![near.clone()], &places[..1]);
        assert_eq!(only(&outside), (false, false, 1));
        assert_eq!(outside.connections[0].decision.to, Identity::WORLD);
        assert_eq!(only(&judged(vec![near.clone(), far(2, DB)], &places)), (true, false, 2));
        // A socket of nobody known is no evidence, and neither are two.
        assert!(!only(&judged(vec![near.clone(), far(2, 99)], &places)).0);
        // An address that may be somebody's of this host is not told as another host's.
        let both = judged(vec![near, far(2, DB), far(3, DB)], &places);
        assert!(both.connections.iter().all(|connection| !connection.is_permitted()), "{both:?}");
        assert_eq!(both.connections[0].decision.to, Identity::UNKNOWN);
    }

    #[test]
    fn an_end_in_a_namespace_that_nothing_joins_is_none() {
        let group = |first| Group { first, is_spoken_to: false };
        let near = Socket {
            opened: Some(Opened::Here),
            ..socket(WEB, Protocol::TCP, end(NEAR, 40_000), end(FAR, 5432))
        };
        let twin = |netns| Socket { netns, ..socket(DB, Protocol::TCP, end(FAR, 5432), end(NEAR, 40_000)) };
        let waiting = Socket { netns: 2, ..waiting(DB, Protocol::UDP, end(Address::V4_UNSPECIFIED, 53)) };
        let asking = socket(WEB, Protocol::UDP, end(NEAR, 40_000), end(FAR, 53));
        let namespaces = |cookies: &[u64]| {
            let of = |cookie: &u64| Namespace {
                cookie: *cookie,
                addresses: HashSet::from([if *cookie == 1 { NEAR } else { FAR }]),
            };
            cookies.iter().map(of).collect()
        };
        for (sockets, cookies, joined, expected) in [
            (vec![near.clone(), twin(2)], &[1, 2][..], false, (false, false, 1)),
            (vec![near.clone(), twin(2)], &[1, 2], true, (true, false, 2)),
            (vec![asking.clone(), waiting.clone()], &[1, 2], false, (false, false, 1)),
            (vec![asking, waiting], &[1, 2], true, (true, false, 1)),
            // One that has not been looked at is no better.
            (vec![near.clone(), twin(4)], &[1, 4], true, (false, false, 1)),
            // The twin takes nothing from who is the other end.
            (vec![near, twin(3), twin(2)], &[1, 2, 3], true, (true, false, 2)),
        ] {
            let groups = BTreeMap::from([(1, group(0)), (2, group(usize::from(!joined))), (3, group(2))]);
            let snapshot = Snapshot {
                sockets,
                namespaces: namespaces(cookies),
                neighbours: Arc::new(Neighbours::of(&Views { groups, ..Views::default() })),
                ..Snapshot::default()
            };
            let judgement = judge(&snapshot, &Example::new());
            let mut of_near = judgement.connections.iter().filter(|it| it.caller.party == Party::cgroup(WEB));
            let found = of_near.next().expect("the connection is judged");
            let told = (found.is_permitted(), found.may_change, found.sockets().count());
            assert_eq!(told, expected, "{judgement:#?}");
        }
    }

    #[test]
    fn an_end_that_only_this_host_can_have_and_none_is_seen_to_have_is_nobodys() {
        let subnet = |bits, address| (NeighbourKey::NETNS_BITS + bits, NeighbourKey::new(1, address));
        let many = Address::from_v4([10, 0, 0, 255]);
        let views = Views {
            neighbours: BTreeSet::from([
                subnet(120, Address::from_v4([10, 0, 0, 0])),
                (NeighbourKey::BITS, NeighbourKey::new(1, many)),
            ]),
            ..Views::default()
        };
        for (remote, expected) in [
            (FAR, Identity::UNKNOWN),
            (many, Identity::WORLD),
            (Address::from_v4([10, 0, 1, 2]), Identity::WORLD),
        ] {
            let near = Socket {
                opened: Some(Opened::Here),
                ..socket(WEB, Protocol::TCP, end(NEAR, 40_000), end(remote, 5432))
            };
            let snapshot = Snapshot {
                sockets: vec![near],
                namespaces: vec![Namespace { cookie: 1, addresses: HashSet::from([NEAR]) }],
                neighbours: Arc::new(Neighbours::of(&views)),
                ..Snapshot::default()
            };
            let judgement = judge(&snapshot, &Example::new());
            // It may be seen a moment later.
            assert_eq!(only(&judgement), (false, expected == Identity::UNKNOWN, 1), "{remote:?}");
            assert_eq!(judgement.connections[0].decision.to, expected, "{remote:?}");
        }
    }

    #[test]
    fn a_connected_datagram_socket_is_covered_by_a_rule_in_either_direction() {
        for (caller, answerer, port, permitted) in
            [(WEB, DB, 53, true), (WEB, DB, 54, false), (DB, WEB, 53, false)]
        {
            let client = socket(caller, Protocol::UDP, end(HOME, 40_000), end(HOME, port));
            let server = waiting(answerer, Protocol::UDP, end(HOME, port));
            assert_eq!(only(&judged(vec![client, server], &[])), (permitted, false, 1), "{port}");
        }
        // The server has connected its socket to its client.
        let server = socket(DB, Protocol::UDP, end(HOME, 53), end(HOME, 40_000));
        let client = waiting(WEB, Protocol::UDP, end(HOME, 40_000));
        let judgement = judged(vec![server, client], &[]);
        assert_eq!(only(&judgement), (true, false, 1));
        assert_eq!(judgement.connections[0].decision.from, service(0));
    }
}
