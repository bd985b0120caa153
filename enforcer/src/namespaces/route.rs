//! What the kernel's routing tables and devices are asked for, in the network namespace of the calling thread.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use enforcer_common::Address;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage};
use netlink_packet_route::nsid::{NsidAttribute, NsidMessage};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::ReceiveTimeout;
use nix::sys::time::{TimeVal, TimeValLike as _};

use super::{LOOPBACK, Link, Local};

/// How long the kernel may take to answer; it answers at once, or the socket is broken.
const PATIENCE_SECONDS: i64 = 5;

/// A conversation with the kernel about one network namespace.
pub struct Route {
    socket: Socket,
    sequence: u32,
}

impl Route {
    /// Opens it in the network namespace of the calling thread, where it stays.
    ///
    /// # Errors
    ///
    /// No netlink socket could be made.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        setsockopt(&socket, ReceiveTimeout, &TimeVal::seconds(PATIENCE_SECONDS))?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Every device, if there are no more than `most`.
    ///
    /// # Errors
    ///
    /// What the kernel answers with, or that there are more; the conversation cannot go on then.
    pub fn links(&mut self, most: usize) -> io::Result<Vec<Link>> {
        let mut links = Vec::new();
        let mut bridges = HashSet::new();
        self.dump(RouteNetlinkMessage::GetLink(LinkMessage::default()), |answer| {
            let RouteNetlinkMessage::NewLink(link) = answer else { return Ok(()) };
            if kind(&link) == Some(&InfoKind::Bridge) {
                bridges.insert(link.header.index);
            }
            push(&mut links, most, "devices", read_link(&link))
        })?;
        for link in &mut links {
            link.bridge = link.bridge.filter(|above| bridges.contains(above));
        }
        Ok(links)
    }

    /// Every address, if there are no more than `most`.
    ///
    /// # Errors
    ///
    /// What the kernel answers with, or that there are more; the conversation cannot go on then.
    pub fn addresses(&mut self, most: usize) -> io::Result<Vec<Local>> {
        let mut addresses = Vec::new();
        self.dump(RouteNetlinkMessage::GetAddress(AddressMessage::default()), |answer| {
            let RouteNetlinkMessage::NewAddress(address) = answer else { return Ok(()) };
            match read_address(&address) {
                Some(address) => push(&mut addresses, most, "addresses", address),
                None => Ok(()),
            }
        })?;
        Ok(addresses)
    }

    /// The address that a socket bound to none reaches `to` from; none if there is no way.
    ///
    /// # Errors
    ///
    /// The conversation is broken.
    pub fn source(&mut self, to: Address) -> io::Result<Option<Address>> {
        let mut request = RouteMessage::default();
        let ip = to.to_v4().map_or_else(|| IpAddr::from(to.bytes()), IpAddr::from);
        let (family, bits) =
            if ip.is_ipv4() { (AddressFamily::Inet, 32) } else { (AddressFamily::Inet6, 128) };
        request.header.address_family = family;
        request.header.destination_prefix_length = bits;
        request.attributes.push(RouteAttribute::Destination(RouteAddress::from(ip)));
        let answer = match self.ask(RouteNetlinkMessage::GetRoute(request), 0) {
            Err(err) if is_no_way(&err) => return Ok(None),
            answer => answer?,
        };
        let Some(RouteNetlinkMessage::NewRoute(route)) = answer else { return Ok(None) };
        Ok(route.attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::PrefSource(RouteAddress::Inet(v4)) => Some(Address::from_v4(v4.octets())),
            RouteAttribute::PrefSource(RouteAddress::Inet6(v6)) => Some(Address::new(v6.octets())),
            _ => None,
        }))
    }

    /// The id by which this namespace knows another one, which is given to it if it has none (`RTM_NEWNSID`).
    ///
    /// # Errors
    ///
    /// What the kernel answers with.
    pub fn id(&mut self, namespace: BorrowedFd<'_>) -> io::Result<u32> {
        if let Some(id) = self.known_id(namespace)? {
            return Ok(id);
        }
        let mut request = nsid(namespace)?;
        request.attributes.push(NsidAttribute::Id(-1));
        match self.ask(RouteNetlinkMessage::NewNsId(request), NLM_F_ACK) {
            // Somebody else has given it one meanwhile.
            Err(err) if err.raw_os_error() == Some(Errno::EEXIST as i32) => {}
            answer => drop(answer?),
        }
        let id = self.known_id(namespace)?;
        id.ok_or_else(|| io::Error::other("the kernel gave the namespace no id"))
    }

    /// The id by which this namespace knows another one already.
    ///
    /// # Errors
    ///
    /// What the kernel answers with.
    pub fn known_id(&mut self, namespace: BorrowedFd<'_>) -> io::Result<Option<u32>> {
        let answer = self.ask(RouteNetlinkMessage::GetNsId(nsid(namespace)?), 0)?;
        let Some(RouteNetlinkMessage::NewNsId(answer)) = answer else { return Ok(None) };
        Ok(answer.attributes.iter().find_map(|attribute| match attribute {
            // -1 stands for none.
            NsidAttribute::Id(id) => u32::try_from(*id).ok(),
            _ => None,
        }))
    }

    /// Asks for many things, and hands each to `take`.
    fn dump(
        &mut self,
        request: RouteNetlinkMessage,
        mut take: impl FnMut(RouteNetlinkMessage) -> io::Result<()>,
    ) -> io::Result<()> {
        self.send(request, NLM_F_DUMP)?;
        loop {
            for message in self.receive()? {
                match message.payload {
                    NetlinkPayload::Done(_) => return Ok(()),
                    NetlinkPayload::Error(err) if err.code.is_some() => return Err(err.to_io()),
                    NetlinkPayload::InnerMessage(answer) => take(answer)?,
                    _ => {}
                }
            }
        }
    }

    /// Asks for one thing; none if the kernel has nothing to say but that it heard.
    fn ask(&mut self, request: RouteNetlinkMessage, flags: u16) -> io::Result<Option<RouteNetlinkMessage>> {
        self.send(request, flags)?;
        loop {
            for message in self.receive()? {
                match message.payload {
                    NetlinkPayload::Error(err) if err.code.is_some() => return Err(err.to_io()),
                    NetlinkPayload::Error(_) | NetlinkPayload::Done(_) => return Ok(None),
                    NetlinkPayload::InnerMessage(answer) => return Ok(Some(answer)),
                    _ => {}
                }
            }
        }
    }

    fn send(&mut self, request: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(request));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0).map(drop)
    }

    /// The next messages that answer the last request; what answers an earlier one is passed over.
    fn receive(&mut self) -> io::Result<Vec<NetlinkMessage<RouteNetlinkMessage>>> {
        let (bytes, _) = self.socket.recv_from_full()?;
        let mut rest = bytes.as_slice();
        let mut messages = Vec::new();
        while !rest.is_empty() {
            let message =
                NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest).map_err(io::Error::other)?;
            let length = usize::try_from(message.header.length).unwrap_or(usize::MAX).next_multiple_of(4);
            rest = rest.get(length..).filter(|_| length > 0).unwrap_or_default();
            if message.header.sequence_number == self.sequence {
                messages.push(message);
            }
        }
        Ok(messages)
    }
}

fn nsid(namespace: BorrowedFd<'_>) -> io::Result<NsidMessage> {
    let fd = u32::try_from(namespace.as_raw_fd()).map_err(io::Error::other)?;
    let mut message = NsidMessage::default();
    message.attributes.push(NsidAttribute::Fd(fd));
    Ok(message)
}

fn is_no_way(err: &io::Error) -> bool {
    [Errno::ENETUNREACH, Errno::EHOSTUNREACH, Errno::EACCES, Errno::EINVAL]
        .iter()
        .any(|errno| err.raw_os_error() == Some(*errno as i32))
}

fn kind(link: &LinkMessage) -> Option<&InfoKind> {
    let infos = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => Some(infos),
        _ => None,
    })?;
    infos.iter().find_map(|info| match info {
        LinkInfo::Kind(kind) => Some(kind),
        _ => None,
    })
}

/// Adds one of so many things of a kind.
fn push<T>(list: &mut Vec<T>, most: usize, kind: &str, one: T) -> io::Result<()> {
    if list.len() >= most {
        return Err(io::Error::other(format!("more than {most} {kind}")));
    }
    list.push(one);
    Ok(())
}

/// Whatever it belongs to counts as a bridge, until all devices are known.
fn read_link(link: &LinkMessage) -> Link {
    /// No namespace has this id, since they are positive ints in the kernel.
    const NO_ID: u32 = u32::MAX;
    let index = link.header.index;
    let kind = kind(link);
    // That one has no kind.
    let is_virtual = index == LOOPBACK
        || matches!(kind, Some(InfoKind::Veth | InfoKind::Netkit | InfoKind::Bridge | InfoKind::Dummy));
    let is_tunnel = matches!(kind, Some(InfoKind::Tun));
    let mut read = Link { index, is_virtual, is_tunnel, peer: None, peer_netns: None, bridge: None };
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::Link(peer) => read.peer = Some(*peer),
            // -1 stands for none: the other end's namespace is one that goes, and not this one.
            LinkAttribute::LinkNetNsId(id) => read.peer_netns = Some(u32::try_from(*id).unwrap_or(NO_ID)),
            LinkAttribute::Controller(above) => read.bridge = Some(*above),
            _ => {}
        }
    }
    // A number may be the same in two namespaces; in one it would be the device itself.
    if read.peer_netns.is_none() {
        read.peer = read.peer.filter(|peer| *peer != index);
    }
    read
}

fn read_address(message: &AddressMessage) -> Option<Local> {
    // At a cable between two hosts the first is the other end's, and the second this one's.
    let (mut address, mut own) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Address(ip) => address = Some(*ip),
            AddressAttribute::Local(ip) => own = Some(*ip),
            _ => {}
        }
    }
    let ip = own.or(address)?;
    let length = u32::from(message.header.prefix_len);
    let (address, prefix) = match ip {
        IpAddr::V4(v4) => (Address::from_v4(v4.octets()), Address::V4_PREFIX_BITS + length),
        IpAddr::V6(v6) => (Address::new(v6.octets()), length),
    };
    Some(Local { address, prefix, device: message.header.index })
}

/// The sources from which one namespace reaches addresses of others.
///
/// # Errors
///
/// The conversation is broken.
pub fn sources(
    route: &mut Route,
    to: impl Iterator<Item = Address>,
) -> io::Result<HashMap<Address, Address>> {
    let mut sources = HashMap::new();
    for address in to {
        if let Some(source) = route.source(address)? {
            sources.insert(address, source);
        }
    }
    Ok(sources)
}
