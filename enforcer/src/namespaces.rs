//! The network namespaces of this host: what each sees of the others, so that an address is known for whose it is.
//!
//! A survey ([`survey`]) reads every namespace's devices and addresses; [`Views::of`] makes of them, without I/O, what
//! the programs look up.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use enforcer_common::Address;
use enforcer_common::layout::{Device, DeviceKey, LocalKey, NeighbourKey, Place};
use enforcer_common::limits;

pub mod news;
pub mod route;
pub mod survey;

/// The loopback device is the first of every namespace (`LOOPBACK_IFINDEX` of include/net/net_namespace.h).
const LOOPBACK: u32 = 1;

/// One network namespace, as a survey found it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Namespace {
    /// Its cookie, unique until the next boot.
    pub cookie: u64,
    /// Its network devices.
    pub devices: Vec<Link>,
    /// Its addresses, with the length of their subnet's prefix (of 128 bits) and the number of their device.
    pub addresses: Vec<Local>,
    /// The ids by which it knows other namespaces, by their cookies.
    pub ids: BTreeMap<u64, u32>,
    /// The address from which it reaches another one's, by that.
    pub sources: HashMap<Address, Address>,
}

impl Namespace {
    /// Its addresses that mean something elsewhere.
    fn foreign(&self) -> impl Iterator<Item = &Local> {
        self.addresses.iter().filter(|local| !local.address.is_loopback_or_unspecified())
    }
}

/// A network device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Link {
    /// Its number in its namespace.
    pub index: u32,
    /// Whether its kind is one whose packets never leave the host by it: a virtual cable, a bridge, a dummy, loopback.
    pub is_virtual: bool,
    /// Whether a program is at its other end, and no wire (tun, tap).
    pub is_tunnel: bool,
    /// The device at the other end of a virtual cable, or below this one.
    pub peer: Option<u32>,
    /// The id by which its namespace knows the peer's; none if the peer is in the same one.
    pub peer_netns: Option<u32>,
    /// The bridge that it is a port of.
    pub bridge: Option<u32>,
}

/// An address of a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Local {
    /// The address.
    pub address: Address,
    /// Leading bits of its subnet, of the 128 of an [`Address`].
    pub prefix: u32,
    /// The number of its device.
    pub device: u32,
}

/// What the programs look up: addresses, devices and neighbours as each namespace sees them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Views {
    /// For `LOCALS`.
    pub locals: BTreeMap<LocalKey, Place>,
    /// For `DEVICES`.
    pub devices: BTreeMap<DeviceKey, Device>,
    /// For `NEIGHBOURS`: bits of the key that count, and the key. One of which all count is a subnet's broadcast
    /// address, or the namespace's own one where that is all of a subnet.
    pub neighbours: BTreeSet<(u32, NeighbourKey)>,
    /// Where each namespace is among them, by its cookie. In no map: the programs have what follows from it in the others.
    pub groups: BTreeMap<u64, Group>,
}

/// Namespaces that cables join, be it over others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Group {
    /// The smallest number of one of them, in the order of the survey; 0 for the one that this process is in.
    pub first: usize,
    /// Whether a program of this host may speak into them by a tunnel.
    pub is_spoken_to: bool,
}

impl Group {
    /// Whether what is in `other` is seen in this one: it is the same, or what comes by a tunnel here may be of this host.
    fn sees(self, other: Self) -> bool {
        self.first == other.first || self.is_spoken_to && other.first == 0
    }
}

/// How much more the programs' tables can take, of what namespaces see.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Room {
    /// In `LOCALS`.
    pub locals: usize,
    /// In `DEVICES`.
    pub devices: usize,
    /// In `NEIGHBOURS`.
    pub neighbours: usize,
}

impl Room {
    /// That of empty tables. Half of `NEIGHBOURS`, to which what is new is added before what is old is removed.
    pub const ALL: Self = Self {
        locals: limits::MAX_LOCALS as usize,
        devices: limits::MAX_DEVICES as usize,
        neighbours: limits::MAX_NEIGHBOURS as usize / 2,
    };

    /// What is left when a namespace has taken its part that sees so many addresses of others; none if there is not enough.
    fn without(self, viewer: &Namespace, seen: usize) -> Option<Self> {
        let own = viewer.addresses.len();
        Some(Self {
            locals: self.locals.checked_sub(own.checked_add(seen)?)?,
            devices: self.devices.checked_sub(viewer.devices.len())?,
            // Each with its broadcast address.
            neighbours: self.neighbours.checked_sub(own.checked_mul(2)?)?,
        })
    }
}

impl Views {
    /// What each namespace sees.
    ///
    /// An address that two others have is ambiguous and tells nobody's identity. Namespaces that no cable joins do not
    /// see each other, so that nobody can claim somebody's address by giving it to a namespace of his own. The first is
    /// this process's own: a tunnel in it leads to other hosts, as of a VPN. In another one a program of this host may be
    /// at its other end that passes on whatever it gets here (pasta, slirp4netns), so that no address of this host tells
    /// there who is calling; of such a namespace in turn nobody sees anything.
    ///
    /// A device is left out, so that what comes over it is unknown, where a cable of its segment ends in what was not found:
    /// there is somebody of this host of whom no more is known. Where the segment also leads out of the host, that one is a
    /// neighbour on the wire like any other.
    ///
    /// A namespace for whose view there is no `room` is left out whole, and so unknown to the programs. Earlier ones come first.
    /// How many were left out is returned too.
    pub fn of(namespaces: &[Namespace], mut room: Room) -> (Self, usize) {
        let graph = Graph::of(namespaces);
        let foreign: Vec<usize> = namespaces.iter().map(|namespace| namespace.foreign().count()).collect();
        let mut views = Self::default();
        let mut left_out = 0;
        for (number, viewer) in namespaces.iter().enumerate() {
            // Below 5.14 a namespace has no cookie to be told by.
            let group = graph.group(number).filter(|_| viewer.cookie != 0);
            views.groups.extend(group.map(|group| (viewer.cookie, group)));
            // Before any is added: where hundreds of namespaces have hundreds of addresses each, it is the sum that is too much.
            let seen = foreign.iter().enumerate().filter(|(other, _)| graph.sees(number, *other));
            let Some(left) = room.without(viewer, seen.map(|(_, count)| *count).sum()) else {
                left_out += 1;
                continue;
            };
            room = left;
            for local in &viewer.addresses {
                views.locals.insert(LocalKey::new(viewer.cookie, local.address), Place::HERE);
            }
            for (_, other) in namespaces.iter().enumerate().filter(|(other, _)| graph.sees(number, *other)) {
                views.add_addresses(viewer, other);
            }
            for link in &viewer.devices {
                let behind = graph.behind(number, link.index);
                if let Some(device) = behind {
                    views.devices.insert(DeviceKey::new(viewer.cookie, link.index), device);
                }
                if !behind.is_some_and(Device::leads_out) {
                    views.add_neighbours(viewer, link.index);
                }
            }
        }
        (views, left_out)
    }

    /// Whether a namespace was taken in.
    pub fn knows(&self, cookie: u64) -> bool {
        // As the programs ask: every namespace has a loopback device, which leads to nobody else.
        self.devices.contains_key(&DeviceKey::new(cookie, LOOPBACK))
    }

    /// The addresses of one namespace as another sees them.
    fn add_addresses(&mut self, viewer: &Namespace, other: &Namespace) {
        for local in other.foreign() {
            let place = viewer.ids.get(&other.cookie).map(|id| {
                let unspecified =
                    if local.address.is_v4() { Address::V4_UNSPECIFIED } else { Address::V6_UNSPECIFIED };
                Place::namespace(*id, viewer.sources.get(&local.address).copied().unwrap_or(unspecified))
            });
            // Without an id its sockets cannot be looked up, so the address is known to be somebody's and not whose.
            let place = place.unwrap_or(Place::AMBIGUOUS);
            self.locals
                .entry(LocalKey::new(viewer.cookie, local.address))
                .and_modify(|known| {
                    if !known.is_here() {
                        *known = Place::AMBIGUOUS;
                    }
                })
                .or_insert(place);
        }
    }

    /// The subnets behind a device that does not lead out of this host. Link-local ones are told by the device instead.
    fn add_neighbours(&mut self, viewer: &Namespace, device: u32) {
        let subnets = viewer.addresses.iter().filter(|local| {
            local.device == device
                && !local.address.is_link_local()
                && !local.address.is_loopback_or_unspecified()
        });
        for subnet in subnets {
            let first = masked(subnet.address, subnet.prefix);
            self.neighbours
                .insert((NeighbourKey::NETNS_BITS + subnet.prefix, NeighbourKey::new(viewer.cookie, first)));
            // Which is nobody's own, and is called by who wants many.
            if let Some(broadcast) = broadcast(first, subnet.prefix) {
                self.neighbours.insert((NeighbourKey::BITS, NeighbourKey::new(viewer.cookie, broadcast)));
            }
        }
    }
}

/// What of the views tells where the other end of a connection can be.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Neighbours {
    /// The subnets of each namespace in which only this host's namespaces can be, as the programs have them in `NEIGHBOURS`.
    subnets: HashMap<u64, Vec<(u32, Address)>>,
    groups: BTreeMap<u64, Group>,
}

impl Neighbours {
    /// Those of `views`.
    pub fn of(views: &Views) -> Self {
        let mut neighbours = Self { groups: views.groups.clone(), ..Self::default() };
        for (bits, key) in &views.neighbours {
            neighbours
                .subnets
                .entry(key.netns())
                .or_default()
                .push((bits - NeighbourKey::NETNS_BITS, key.address()));
        }
        neighbours
    }

    /// Whether only a namespace of this host can have an address, as the one of this cookie sees it: it is in such a subnet, and not
    /// the address by which all of that are called.
    pub fn have(&self, netns: u64, address: &Address) -> bool {
        const WHOLE: u32 = NeighbourKey::BITS - NeighbourKey::NETNS_BITS;
        let covers = |(prefix, first): &&(u32, Address)| masked(*address, *prefix) == *first;
        let subnets = self.subnets.get(&netns).map(Vec::as_slice).unwrap_or_default();
        let narrowest = subnets.iter().filter(covers).map(|(prefix, _)| *prefix).max();
        narrowest.is_some_and(|prefix| prefix < WHOLE)
    }

    /// Whether a socket of one namespace may have its other end in another one, by their cookies: anybody can make a namespace that
    /// nothing joins, and give it whatever address he likes. Where namespaces cannot be told (before 5.14) any may be.
    pub fn see(&self, viewer: u64, other: u64) -> bool {
        if self.groups.is_empty() {
            return true;
        }
        let groups = self.groups.get(&viewer).zip(self.groups.get(&other));
        groups.is_some_and(|(viewer, other)| viewer.sees(*other))
    }
}

/// The bits of an address that tell hosts of a subnet apart.
fn host_bits(prefix: u32) -> u128 {
    u128::MAX.checked_shr(prefix).unwrap_or(0)
}

/// The first address of a subnet.
fn masked(address: Address, prefix: u32) -> Address {
    Address::new((u128::from_be_bytes(address.bytes()) & !host_bits(prefix)).to_be_bytes())
}

/// The broadcast address of a subnet, if it has one.
fn broadcast(first: Address, prefix: u32) -> Option<Address> {
    let hosts = host_bits(prefix);
    let last = Address::new((u128::from_be_bytes(first.bytes()) | hosts).to_be_bytes());
    (first.is_v4() && hosts > 1).then_some(last)
}

/// Which namespaces and devices are joined.
struct Graph {
    /// Namespaces that cables join, as the smallest number among them.
    namespaces: Vec<usize>,
    /// Devices by namespace and number.
    devices: HashMap<(usize, u32), usize>,
    /// Segments, as the smallest number of a device in them.
    segments: Vec<usize>,
    /// Segments from which a device leads elsewhere.
    outside: BTreeSet<usize>,
    /// Segments with a cable whose other end was not found.
    unfollowed: BTreeSet<usize>,
    /// Segments on which another namespace of this host may be: a device there stands on another one, or another on it.
    shared: BTreeSet<usize>,
    /// Of `namespaces`, those into which a program of this host may speak by a tunnel.
    spoken_to: BTreeSet<usize>,
}

impl Graph {
    fn of(namespaces: &[Namespace]) -> Self {
        let numbers: HashMap<u64, usize> =
            namespaces.iter().enumerate().map(|(number, namespace)| (namespace.cookie, number)).collect();
        let mut devices = HashMap::new();
        for (number, namespace) in namespaces.iter().enumerate() {
            for link in &namespace.devices {
                let next = devices.len();
                devices.insert((number, link.index), next);
            }
        }
        let mut joined = Union::new(namespaces.len());
        let mut segments = Union::new(devices.len());
        let (mut leading_out, mut not_followed, mut spoken_to) = (Vec::new(), Vec::new(), Vec::new());
        let mut stacked = Vec::new();
        for (number, namespace) in namespaces.iter().enumerate() {
            let of_id: HashMap<u32, usize> =
                namespace.ids.iter().filter_map(|(cookie, id)| Some((*id, *numbers.get(cookie)?))).collect();
            for link in &namespace.devices {
                let Some(this) = devices.get(&(number, link.index)).copied() else { continue };
                let there = match link.peer_netns {
                    None => Some(number),
                    Some(id) => of_id.get(&id).copied(),
                };
                if let Some(there) = there {
                    joined.join(number, there);
                }
                let peer = there.zip(link.peer).and_then(|at| devices.get(&at).copied());
                let is_stacked = link.peer.is_some() || link.peer_netns.is_some();
                if is_stacked {
                    stacked.push(this);
                    stacked.extend(peer);
                }
                let is_cable = link.is_virtual && is_stacked;
                match peer {
                    Some(peer) if is_cable => segments.join(this, peer),
                    // Its namespace was not taken in, or it has come there since that was looked at.
                    None if is_cable => not_followed.push(this),
                    Some(_) | None => {}
                }
                if let Some(bridge) = link.bridge.and_then(|bridge| devices.get(&(number, bridge)).copied()) {
                    segments.join(this, bridge);
                }
                if link.is_tunnel && number != 0 {
                    spoken_to.push(number);
                } else if !link.is_virtual {
                    leading_out.push(this);
                }
            }
        }
        let outside = leading_out.into_iter().map(|device| segments.find(device)).collect();
        let unfollowed = not_followed.into_iter().map(|device| segments.find(device)).collect();
        let shared = stacked.into_iter().map(|device| segments.find(device)).collect();
        let spoken_to = spoken_to.into_iter().map(|number| joined.find(number)).collect();
        let namespaces = (0..namespaces.len()).map(|number| joined.find(number)).collect();
        let segments = (0..devices.len()).map(|device| segments.find(device)).collect();
        Self { namespaces, devices, segments, outside, unfollowed, shared, spoken_to }
    }

    fn group(&self, namespace: usize) -> Option<Group> {
        let first = *self.namespaces.get(namespace)?;
        Some(Group { first, is_spoken_to: self.spoken_to.contains(&first) })
    }

    /// Whether addresses of `other` are known to `viewer`.
    fn sees(&self, viewer: usize, other: usize) -> bool {
        let groups = self.group(viewer).zip(self.group(other));
        viewer != other && groups.is_some_and(|(viewer, other)| viewer.sees(other))
    }

    /// What lies behind a device; none if that is not known.
    fn behind(&self, namespace: usize, device: u32) -> Option<Device> {
        let segment = self.segments.get(*self.devices.get(&(namespace, device))?)?;
        match (self.outside.contains(segment), self.unfollowed.contains(segment)) {
            (true, _) if self.shared.contains(segment) => Some(Device::OUTSIDE),
            (true, _) => Some(Device::OTHERS),
            (false, true) => None,
            (false, false) => Some(Device::INSIDE),
        }
    }
}

/// Sets that grow together, each known by its smallest member.
struct Union(Vec<usize>);

impl Union {
    fn new(size: usize) -> Self {
        Self((0..size).collect())
    }

    fn find(&self, member: usize) -> usize {
        let mut at = member;
        while let Some(above) = self.0.get(at).copied().filter(|above| *above != at) {
            at = above;
        }
        at
    }

    fn join(&mut self, one: usize, other: usize) {
        let (one, other) = (self.find(one), self.find(other));
        if let Some(above) = self.0.get_mut(one.max(other)) {
            *above = one.min(other);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Link, Local, Namespace, Room, Views};
    use enforcer_common::Address;
    use enforcer_common::layout::{Device, DeviceKey, LocalKey, NeighbourKey, Place};

    const HOST: u64 = 1;
    const A: u64 = 101;
    const B: u64 = 102;
    /// No cable leads there.
    const ISLAND: u64 = 103;

    fn v4(last: u8) -> Address {
        Address::from_v4([172, 17, 0, last])
    }

    fn lo() -> Link {
        Link { index: 1, is_virtual: true, is_tunnel: false, peer: None, peer_netns: None, bridge: None }
    }

    fn cable(index: u32, peer: u32, netns: u32, bridge: Option<u32>) -> Link {
        Link { index, peer: Some(peer), peer_netns: Some(netns), bridge, ..lo() }
    }

    fn local(address: Address, device: u32) -> Local {
        Local { address, prefix: 96 + 24, device }
    }

    /// A host with a network card and a bridge with two containers at it, and a namespace that nothing joins.
    fn example() -> Vec<Namespace> {
        let card = Link { index: 2, is_virtual: false, ..lo() };
        let bridge = Link { index: 3, ..lo() };
        let host = Namespace {
            cookie: HOST,
            devices: vec![lo(), card, bridge, cable(4, 2, 0, Some(3)), cable(5, 2, 1, Some(3))],
            addresses: vec![
                local(Address::V4_LOOPBACK, 1),
                local(Address::from_v4([192, 0, 2, 9]), 2),
                local(v4(1), 3),
            ],
            ids: [(A, 0), (B, 1)].into(),
            sources: [(v4(2), v4(1)), (v4(3), v4(1))].into(),
        };
        let container = |cookie, other, last, far| Namespace {
            cookie,
            devices: vec![lo(), cable(2, far, 0, None)],
            addresses: vec![local(Address::V4_LOOPBACK, 1), local(v4(last), 2)],
            ids: [(HOST, 0), (other, 1)].into(),
            sources: [v4(1), v4(2), v4(3), Address::from_v4([192, 0, 2, 9])].map(|to| (to, v4(last))).into(),
        };
        let island = Namespace {
            cookie: ISLAND,
            devices: vec![lo()],
            addresses: vec![local(v4(2), 1), local(Address::from_v4([192, 0, 2, 9]), 1)],
            ..Namespace::default()
        };
        vec![host, container(A, B, 2, 4), container(B, A, 3, 5), island]
    }

    fn seen(namespaces: &[Namespace]) -> Views {
        let (views, left_out) = Views::of(namespaces, Room::ALL);
        assert_eq!(left_out, 0);
        views
    }

    fn place(views: &Views, netns: u64, address: Address) -> Option<Place> {
        views.locals.get(&LocalKey::new(netns, address)).copied()
    }

    #[test]
    fn each_namespace_sees_those_that_cables_join_to_it() {
        let views = seen(&example());
        for (viewer, address, expected) in [
            (HOST, v4(1), Some(Place::HERE)),
            (HOST, v4(2), Some(Place::namespace(0, v4(1)))),
            (HOST, v4(3), Some(Place::namespace(1, v4(1)))),
            (HOST, v4(4), None),
            (A, v4(2), Some(Place::HERE)),
            (A, v4(1), Some(Place::namespace(0, v4(2)))),
            (A, v4(3), Some(Place::namespace(1, v4(2)))),
            (A, Address::from_v4([192, 0, 2, 9]), Some(Place::namespace(0, v4(2)))),
            (B, v4(2), Some(Place::namespace(1, v4(3)))),
            (B, Address::V4_LOOPBACK, Some(Place::HERE)),
            (ISLAND, v4(2), Some(Place::HERE)),
            (ISLAND, v4(1), None),
        ] {
            assert_eq!(place(&views, viewer, address), expected, "{address:?} from {viewer}");
        }
    }

    #[test]
    fn neighbours_are_the_subnets_of_devices_that_lead_nowhere_else() {
        let views = seen(&example());
        let device = |netns, index| views.devices.get(&DeviceKey::new(netns, index)).copied();
        let subnets = [HOST, A, B, ISLAND]
            .map(|netns| (netns, [172, 17, 0]))
            .into_iter()
            .chain([(ISLAND, [192, 0, 2])]);
        let expected = subnets.flat_map(|(netns, [a, b, c])| {
            let key = |last| NeighbourKey::new(netns, Address::from_v4([a, b, c, last]));
            [(64 + 96 + 24, key(0)), (64 + 128, key(255))]
        });
        assert_eq!(views.neighbours, expected.collect());
        for (netns, index, expected) in [
            (HOST, 1, Some(Device::INSIDE)),
            (HOST, 2, Some(Device::OTHERS)),
            (HOST, 3, Some(Device::INSIDE)),
            (A, 2, Some(Device::INSIDE)),
            (A, 3, None),
        ] {
            assert_eq!(device(netns, index), expected, "{index} of {netns}");
        }
    }

    #[test]
    fn a_bridge_with_a_network_card_leads_outside_at_every_cable() {
        let mut namespaces = example();
        namespaces[0].devices[1].bridge = Some(3);
        let views = seen(&namespaces);
        for (netns, index) in [(HOST, 2), (HOST, 3), (HOST, 4), (A, 2), (B, 2)] {
            assert_eq!(views.devices[&DeviceKey::new(netns, index)], Device::OUTSIDE, "{index} of {netns}");
        }
        assert!(!views.neighbours.contains(&(64 + 96 + 24, NeighbourKey::new(HOST, v4(0)))));
        assert_eq!(place(&views, HOST, v4(2)), Some(Place::namespace(0, v4(1))));
    }

    #[test]
    fn an_address_of_two_namespaces_is_ambiguous_to_the_others() {
        let mut namespaces = example();
        namespaces[2].addresses.push(local(v4(2), 2));
        let views = seen(&namespaces);
        assert_eq!(place(&views, HOST, v4(2)), Some(Place::AMBIGUOUS));
        assert_eq!(place(&views, A, v4(2)), Some(Place::HERE));
        assert_eq!(place(&views, B, v4(2)), Some(Place::HERE));
    }

    #[test]
    fn a_namespace_without_an_id_is_somebodys_and_not_whose() {
        let mut namespaces = example();
        namespaces[1].ids.remove(&B);
        let views = seen(&namespaces);
        assert_eq!(place(&views, A, v4(3)), Some(Place::AMBIGUOUS));
    }

    #[test]
    fn what_a_tunnel_leads_to_depends_on_whose_it_is() {
        let tunnel = |index| Link { index, is_virtual: false, is_tunnel: true, ..lo() };
        let mut namespaces = example();
        namespaces[0].devices.push(tunnel(7));
        namespaces[0].addresses.push(local(Address::from_v4([10, 8, 0, 1]), 7));
        namespaces[3].devices.push(tunnel(2));
        namespaces[3].addresses.push(local(Address::from_v4([10, 0, 2, 100]), 2));
        let views = seen(&namespaces);
        let subnet = |netns, bytes| (64 + 96 + 24, NeighbourKey::new(netns, Address::from_v4(bytes)));
        for (netns, index, bytes, expected) in
            [(HOST, 7, [10, 8, 0, 0], Device::OTHERS), (ISLAND, 2, [10, 0, 2, 0], Device::INSIDE)]
        {
            assert_eq!(views.devices[&DeviceKey::new(netns, index)], expected, "{index} of {netns}");
            let is_inside = expected == Device::INSIDE;
            assert_eq!(views.neighbours.contains(&subnet(netns, bytes)), is_inside, "{index} of {netns}");
        }
        for (viewer, address, expected) in [
            (ISLAND, v4(1), Some(Place::AMBIGUOUS)),
            (ISLAND, v4(3), Some(Place::AMBIGUOUS)),
            (ISLAND, v4(2), Some(Place::HERE)),
            (HOST, Address::from_v4([10, 0, 2, 100]), None),
            (A, Address::from_v4([10, 0, 2, 100]), None),
        ] {
            assert_eq!(place(&views, viewer, address), expected, "{address:?} from {viewer}");
        }
    }

    #[test]
    fn on_a_wire_on_which_another_namespace_stands_somebody_of_this_host_may_be() {
        let mut namespaces = example();
        // A macvlan of the card that leads out.
        namespaces[1].devices.push(Link {
            index: 5,
            is_virtual: false,
            is_tunnel: false,
            peer: Some(2),
            peer_netns: Some(0),
            bridge: None,
        });
        let views = seen(&namespaces);
        assert_eq!(device(&views, HOST, 2), Some(Device::OUTSIDE));
        assert_eq!(device(&views, A, 5), Some(Device::OUTSIDE));
    }

    /// What is published of a device.
    fn device(views: &Views, netns: u64, index: u32) -> Option<Device> {
        views.devices.get(&DeviceKey::new(netns, index)).copied()
    }

    #[test]
    fn behind_a_cable_that_was_not_followed_is_an_unknown_of_this_host() {
        let mut namespaces = example();
        // By a route alone, without an address or a bridge.
        namespaces[0].devices.push(cable(6, 2, 2, None));
        let views = seen(&namespaces);
        for (netns, index, expected) in [
            (HOST, 6, None),
            (HOST, 1, Some(Device::INSIDE)),
            (HOST, 2, Some(Device::OTHERS)),
            (HOST, 3, Some(Device::INSIDE)),
            (A, 2, Some(Device::INSIDE)),
        ] {
            assert_eq!(device(&views, netns, index), expected, "{index} of {netns}");
        }
    }

    #[test]
    fn one_such_cable_at_a_bridge_makes_the_bridge_and_all_at_it_unknown() {
        let mut namespaces = example();
        let found = seen(&namespaces);
        namespaces[0].devices.push(cable(6, 2, 2, Some(3)));
        let views = seen(&namespaces);
        for (netns, index) in [(HOST, 3), (HOST, 4), (HOST, 6), (A, 2), (B, 2)] {
            assert_eq!(device(&views, netns, index), None, "{index} of {netns}");
        }
        // The programs go on to know the namespaces, and who is at the bridge stays known.
        assert_eq!(device(&views, A, 1), Some(Device::INSIDE));
        assert_eq!((views.locals, views.neighbours), (found.locals, found.neighbours));
    }

    #[test]
    fn where_nothing_but_the_own_namespace_can_be_entered_nobody_is_behind_its_bridge() {
        let mut namespaces = example();
        namespaces.truncate(1);
        namespaces[0].ids.clear();
        let views = seen(&namespaces);
        for (index, expected) in [(1, Some(Device::INSIDE)), (2, Some(Device::OTHERS)), (3, None), (4, None)]
        {
            assert_eq!(device(&views, HOST, index), expected, "{index}");
        }
        assert!(views.neighbours.contains(&(64 + 96 + 24, NeighbourKey::new(HOST, v4(0)))));
        assert_eq!(place(&views, HOST, v4(2)), None);
    }

    #[test]
    fn a_cable_whose_other_end_came_later_is_not_followed() {
        // The namespace is known, the device is not there yet.
        let mut namespaces = example();
        namespaces[1].devices.pop();
        let views = seen(&namespaces);
        assert_eq!(device(&views, HOST, 4), None);
        // It has just left the namespace where the first end is.
        let mut namespaces = example();
        namespaces[0].devices.push(Link { peer_netns: None, ..cable(6, 7, 0, None) });
        let views = seen(&namespaces);
        assert_eq!(device(&views, HOST, 6), None);
        assert_eq!(device(&views, HOST, 3), Some(Device::INSIDE));
    }

    #[test]
    fn a_bridge_that_leads_outside_does_so_with_a_cable_that_was_not_followed_too() {
        let mut namespaces = example();
        namespaces[0].devices[1].bridge = Some(3);
        namespaces[0].devices.push(cable(6, 2, 2, Some(3)));
        let views = seen(&namespaces);
        for (netns, index) in [(HOST, 2), (HOST, 3), (A, 2)] {
            assert_eq!(device(&views, netns, index), Some(Device::OUTSIDE), "{index} of {netns}");
        }
    }

    #[test]
    fn a_namespace_for_which_there_is_no_room_is_unknown_and_the_others_are_not() {
        let namespaces = example();
        let all = seen(&namespaces);
        let of = |views: &Views, netns| {
            let locals = views.locals.keys().filter(|key| **key == LocalKey::new(netns, v4(1))).count();
            let devices = (0..9).filter(|index| device(views, netns, *index).is_some()).count();
            (locals, devices)
        };
        // As many as all take, and one less of each: the last one goes without.
        let enough = Room { locals: 5 + 2 * 5 + 2, devices: 5 + 2 * 2 + 1, neighbours: 2 * (3 + 2 * 2 + 2) };
        assert_eq!(Views::of(&namespaces, enough), (all.clone(), 0));
        for short in [
            Room { locals: enough.locals - 1, ..enough },
            Room { devices: enough.devices - 1, ..enough },
            Room { neighbours: enough.neighbours - 1, ..enough },
        ] {
            let (views, left_out) = Views::of(&namespaces, short);
            assert_eq!(left_out, 1, "{short:?}");
            assert_eq!(
                (of(&views, ISLAND), of(&views, HOST), of(&views, B)),
                ((0, 0), of(&all, HOST), of(&all, B))
            );
            assert_eq!(place(&views, ISLAND, v4(2)), None);
            assert!(views.knows(HOST) && !views.knows(ISLAND));
        }
    }

    #[test]
    fn where_an_early_one_sees_too_much_those_that_come_later_still_have_room() {
        let mut namespaces = example();
        namespaces[2].addresses.extend((10..250).map(|last| local(v4(last), 2)));
        let (views, left_out) = Views::of(&namespaces, Room { locals: 20, ..Room::ALL });
        assert_eq!(left_out, 3);
        for (netns, expected) in [(HOST, None), (A, None), (B, None), (ISLAND, Some(Device::INSIDE))] {
            assert_eq!(device(&views, netns, 1), expected, "{netns}");
        }
        assert_eq!(place(&views, HOST, v4(2)), None);
    }

    #[test]
    fn many_namespaces_with_many_addresses_are_counted_and_not_made() {
        let mut namespaces = example();
        let many: Vec<_> = (0..500_u16)
            .map(|number| {
                let [high, low] = number.to_be_bytes();
                local(Address::from_v4([10, 9, high, low]), 2)
            })
            .collect();
        // All at one of the containers: 80 million entries, if each were to see all others' addresses.
        namespaces[1].devices.extend((100..500).map(|index| cable(index, 2, index, None)));
        for index in 100..500 {
            namespaces[1].ids.insert(u64::from(index) + 1000, index);
            namespaces.push(Namespace {
                cookie: u64::from(index) + 1000,
                devices: vec![lo(), cable(2, index, 0, None)],
                addresses: many.clone(),
                ids: [(A, 0)].into(),
                ..Namespace::default()
            });
        }
        let (views, left_out) = Views::of(&namespaces, Room { locals: 10_000, ..Room::ALL });
        assert_eq!(left_out, namespaces.len() - 1);
        assert_eq!(device(&views, ISLAND, 1), Some(Device::INSIDE));
    }
}
