//! Sockets of UDP and UDP-Lite that an actor keeps under names, and does with what servers and their clients do.

use std::collections::BTreeMap;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::AsRawFd as _;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::cmsg_space;
use nix::libc::{IPPROTO_UDPLITE, in_addr, in_pktinfo, in6_addr, in6_pktinfo};
use nix::sys::socket::sockopt::{Ipv4PacketInfo, Ipv6RecvPacketInfo};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt,
};
use serde::{Deserialize, Serialize};
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, Socket, Type};

use crate::slowness::patience;

/// What an actor is asked to do with a socket of a name.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Request {
    /// Make it, and tell its address.
    Open {
        /// Its name from now on; a socket that had it before is closed.
        name: String,
        /// Where to bind it; a wildcard IPv6 address is that of both families.
        at: Option<SocketAddr>,
        /// Whom to connect it to.
        to: Option<SocketAddr>,
        /// Whether other sockets may have the same port (`SO_REUSEPORT`), which then share what comes.
        shared: bool,
        /// Whether it is UDP-Lite's.
        lite: bool,
    },
    /// Join a multicast group on a network device, through which it also sends to groups.
    Join {
        /// Which socket.
        name: String,
        /// Which group.
        group: IpAddr,
        /// The number of the device.
        device: u32,
    },
    /// Send a word.
    Say {
        /// Which socket.
        name: String,
        /// The word.
        word: String,
        /// To whom; to whom it is connected, if this is none.
        to: Option<SocketAddr>,
        /// From which address (`IP_PKTINFO`, `IPV6_PKTINFO`), where the kernel is not to choose.
        from: Option<IpAddr>,
    },
    /// Wait for a word, and tell it as [`Heard`].
    Hear {
        /// Which socket.
        name: String,
        /// For how long, in milliseconds.
        millis: u64,
    },
    /// Close it.
    Close {
        /// Which socket.
        name: String,
    },
}

/// A datagram that came.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Heard {
    /// What it said.
    pub word: String,
    /// Who sent it.
    pub from: SocketAddr,
    /// To which address it was sent.
    pub at: IpAddr,
}

static OPEN: Mutex<BTreeMap<String, Socket>> = Mutex::new(BTreeMap::new());

/// Does it; what is told is JSON where it is more than an address.
///
/// # Errors
///
/// What the call failed with.
pub fn perform(request: &Request) -> io::Result<String> {
    match request {
        Request::Open { name, at, to, shared, lite } => {
            // The port may be the one of the socket that had the name before.
            close(name);
            let socket = open((*at, *to), *shared, *lite)?;
            let bound = socket.local_addr()?.as_socket().map(|bound| bound.to_string()).unwrap_or_default();
            sockets().insert(name.clone(), socket);
            Ok(bound)
        }
        Request::Join { name, group, device } => {
            with(name, |socket| join(socket, *group, *device))?;
            Ok(String::new())
        }
        Request::Say { name, word, to, from } => {
            with(name, |socket| say(socket, word, *to, *from))?;
            Ok(String::new())
        }
        Request::Hear { name, millis } => {
            let heard = with(name, |socket| {
                socket.set_read_timeout(Some(patience(Duration::from_millis(*millis))))?;
                hear(socket)
            })?;
            Ok(serde_json::to_string(&heard)?)
        }
        Request::Close { name } => {
            close(name);
            Ok(String::new())
        }
    }
}

fn sockets() -> MutexGuard<'static, BTreeMap<String, Socket>> {
    OPEN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn close(name: &str) {
    drop(sockets().remove(name));
}

fn with<T>(name: &str, act: impl FnOnce(&Socket) -> io::Result<T>) -> io::Result<T> {
    let sockets = sockets();
    act(sockets.get(name).ok_or(io::ErrorKind::NotFound)?)
}

fn open((at, to): (Option<SocketAddr>, Option<SocketAddr>), shared: bool, lite: bool) -> io::Result<Socket> {
    let family = at.or(to).ok_or(io::ErrorKind::InvalidInput)?;
    let protocol = lite.then(|| Protocol::from(IPPROTO_UDPLITE));
    let socket = Socket::new(Domain::for_address(family), Type::DGRAM, protocol)?;
    socket.set_broadcast(true)?;
    socket.set_reuse_port(shared)?;
    match family {
        SocketAddr::V4(_) => setsockopt(&socket, Ipv4PacketInfo, &true)?,
        SocketAddr::V6(v6) => {
            let mapped = v6.ip().to_ipv4_mapped().is_some();
            socket.set_only_v6(!mapped && !v6.ip().is_unspecified())?;
            setsockopt(&socket, Ipv6RecvPacketInfo, &true)?;
        }
    }
    if let Some(at) = at {
        socket.bind(&at.into())?;
    }
    if let Some(to) = to {
        socket.connect(&to.into())?;
    }
    Ok(socket)
}

fn join(socket: &Socket, group: IpAddr, device: u32) -> io::Result<()> {
    match group {
        IpAddr::V4(group) => socket.join_multicast_v4_n(&group, &InterfaceIndexOrAddress::Index(device)),
        IpAddr::V6(group) => {
            socket.set_multicast_if_v6(device)?;
            socket.join_multicast_v6(&group, device)
        }
    }
}

fn say(socket: &Socket, word: &str, to: Option<SocketAddr>, from: Option<IpAddr>) -> io::Result<()> {
    let to = to.map(SockaddrStorage::from);
    let word = [IoSlice::new(word.as_bytes())];
    let (v4, v6);
    let control = match from {
        None => Vec::new(),
        Some(IpAddr::V4(from)) => {
            let s_addr = u32::from_ne_bytes(from.octets());
            v4 = in_pktinfo {
                ipi_ifindex: 0,
                ipi_spec_dst: in_addr { s_addr },
                ipi_addr: in_addr { s_addr: 0 },
            };
            vec![ControlMessage::Ipv4PacketInfo(&v4)]
        }
        Some(IpAddr::V6(from)) => {
            v6 = in6_pktinfo { ipi6_addr: in6_addr { s6_addr: from.octets() }, ipi6_ifindex: 0 };
            vec![ControlMessage::Ipv6PacketInfo(&v6)]
        }
    };
    sendmsg(socket.as_raw_fd(), &word, &control, MsgFlags::empty(), to.as_ref())?;
    Ok(())
}

fn hear(socket: &Socket) -> io::Result<Heard> {
    let mut buffer = [0; 64];
    let mut space = cmsg_space!(in6_pktinfo);
    let (size, from, at) = {
        let mut word = [IoSliceMut::new(&mut buffer)];
        let message =
            recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut word, Some(&mut space), MsgFlags::empty())?;
        let at = message.cmsgs()?.find_map(|control| match control {
            ControlMessageOwned::Ipv4PacketInfo(told) => {
                Some(IpAddr::from(told.ipi_addr.s_addr.to_ne_bytes()))
            }
            ControlMessageOwned::Ipv6PacketInfo(told) => Some(Ipv6Addr::from(told.ipi6_addr.s6_addr).into()),
            _ => None,
        });
        (message.bytes, message.address.as_ref().and_then(address), at)
    };
    let word = String::from_utf8_lossy(buffer.split_at(size).0).into_owned();
    let unknown = || io::Error::other("the kernel does not tell where a datagram came from");
    Ok(Heard { word, from: from.ok_or_else(unknown)?, at: at.ok_or_else(unknown)? })
}

fn address(storage: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = storage.as_sockaddr_in().map(|v4| SocketAddr::V4(SocketAddrV4::from(*v4)));
    v4.or_else(|| storage.as_sockaddr_in6().map(|v6| SocketAddr::V6(SocketAddrV6::from(*v6))))
}
