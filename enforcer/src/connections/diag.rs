//! The kernel's word on the sockets of one network namespace (`sock_diag`, netlink), and the way to close them.

use std::io;
use std::net::IpAddr;

use enforcer_common::{Address, Port, Protocol};
use netlink_packet_core::{
    DefaultNla, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage,
    NetlinkPayload, NetlinkSerializable, Nla as _,
};
use netlink_packet_sock_diag::constants::{
    AF_INET, AF_INET6, TCP_CLOSE, TCP_CLOSE_WAIT, TCP_CLOSING, TCP_ESTABLISHED, TCP_FIN_WAIT1, TCP_FIN_WAIT2,
    TCP_LAST_ACK, TCP_LISTEN, TCP_SYN_RECV, TCP_SYN_SENT,
};
use netlink_packet_sock_diag::inet::nlas::Nla;
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags};
use netlink_packet_sock_diag::{SockDiagDestroy, SockDiagMessage};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use netlink_sys::{Socket as Netlink, SocketAddr};

use super::{Endpoint, Opened, Socket, State, Traffic};

/// `INET_DIAG_CGROUP_ID` of include/uapi/linux/inet_diag.h (kernel 5.8): the cgroup v2 id of the socket, 8 bytes.
const INET_DIAG_CGROUP_ID: u16 = 21;

/// The inner state of a half-open connection (`TCP_NEW_SYN_RECV` of include/net/tcp_states.h), which requests ask for
/// and answers call `TCP_SYN_RECV`.
const TCP_NEW_SYN_RECV: u8 = 12;

/// Requests that are sent at once: so few that all their answers fit into the default receive buffer.
const DESTROYED_AT_ONCE: usize = 64;

/// Bytes that one read takes: the kernel fills so much at once (`NLMSG_GOODSIZE` and above, at most 32 KiB).
const BUFFER: usize = 1 << 15;

/// A conversation about the sockets of one network namespace: that of the thread that opened it, at that time.
pub struct Diag {
    socket: Netlink,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Diag {
    /// Begins a conversation about the calling thread's network namespace.
    ///
    /// # Errors
    ///
    /// The kernel has no `sock_diag`, or this process may not make netlink sockets.
    pub fn open() -> io::Result<Self> {
        let mut socket = Netlink::new(NETLINK_SOCK_DIAG)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket, sequence: 0, buffer: Vec::with_capacity(BUFFER) })
    }

    /// Hands every TCP and UDP socket that has a connection or waits for one to `take`. `netns` is the cookie of the
    /// namespace, which the kernel does not repeat.
    ///
    /// # Errors
    ///
    /// The kernel does not answer, or not to be understood.
    pub fn sockets(&mut self, netns: u64, mut take: impl FnMut(Socket)) -> io::Result<()> {
        for protocol in [Protocol::TCP, Protocol::UDP] {
            for family in [AF_INET, AF_INET6] {
                self.dump(family, protocol, |answer| take(read(netns, protocol, &answer)))?;
            }
        }
        Ok(())
    }

    fn dump(&mut self, family: u8, protocol: Protocol, mut take: impl FnMut(InetResponse)) -> io::Result<()> {
        let request = InetRequest {
            family,
            protocol: protocol.0,
            // For UDP there is nothing that would be counted.
            extensions: if protocol == Protocol::TCP {
                ExtensionFlags::INFO
            } else {
                ExtensionFlags::empty()
            },
            states: StateFlags::from_bits_retain(states(protocol)),
            socket_id: if family == AF_INET { SocketId::new_v4() } else { SocketId::new_v6() },
        };
        let sequence = self.next_sequence();
        let message = message(SockDiagMessage::InetRequest(request), NLM_F_DUMP, sequence);
        self.socket.send(&message, 0)?;
        loop {
            self.receive()?;
            let answers = Answers::<SockDiagMessage>::new(&self.buffer);
            for answer in answers {
                let answer = answer?;
                if answer.header.sequence_number != sequence {
                    continue;
                }
                match answer.payload {
                    NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(answer)) => take(*answer),
                    NetlinkPayload::Done(_) => return Ok(()),
                    NetlinkPayload::Error(err) if err.code.is_some() => {
                        // The kernel was built without this protocol, so it has no such sockets.
                        let err = err.to_io();
                        return if err.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(err) };
                    }
                    _ => {}
                }
            }
        }
    }

    /// Closes sockets as `SOCK_DESTROY` does (`CONFIG_INET_DIAG_DESTROY`): their processes read `ECONNABORTED`, and
    /// the other end of a TCP connection is reset. Returns what the kernel said of each; `NotFound` where the socket
    /// was closed meanwhile. It is found by its cookie, so another one that has its addresses by now is not touched.
    ///
    /// # Errors
    ///
    /// The conversation is broken.
    pub fn destroy(&mut self, sockets: &[&Socket]) -> io::Result<Vec<io::Result<()>>> {
        let mut results = Vec::with_capacity(sockets.len());
        for batch in sockets.chunks(DESTROYED_AT_ONCE) {
            let mut requests = Vec::new();
            let first = self.sequence.wrapping_add(1);
            for socket in batch {
                let request = SockDiagDestroy::new(SockDiagMessage::InetRequest(request_for(socket)));
                let sequence = self.next_sequence();
                requests.extend(message(request, NLM_F_ACK, sequence));
            }
            self.socket.send(&requests, 0)?;
            let done = results.len();
            results.extend(batch.iter().map(|_| Err(io::Error::other("the kernel said nothing of it"))));
            let mut answered = 0;
            while answered < batch.len() {
                self.receive()?;
                for answer in Answers::<SockDiagMessage>::new(&self.buffer) {
                    let answer = answer?;
                    let NetlinkPayload::Error(said) = answer.payload else { continue };
                    let number = answer.header.sequence_number.wrapping_sub(first);
                    let place = usize::try_from(number).unwrap_or(usize::MAX);
                    if place < batch.len()
                        && let Some(result) = results.get_mut(done + place)
                    {
                        *result = if said.code.is_none() { Ok(()) } else { Err(said.to_io()) };
                        answered += 1;
                    }
                }
            }
        }
        Ok(results)
    }

    fn next_sequence(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    fn receive(&mut self) -> io::Result<()> {
        loop {
            self.buffer.clear();
            match self.socket.recv(&mut self.buffer, 0) {
                Ok(_) => return Ok(()),
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(err) => return Err(err),
            }
        }
    }
}

/// The states that a socket with a connection has, or one that waits for it. Not `TIME_WAIT`: no process has it, and
/// nothing is sent through it.
fn states(protocol: Protocol) -> u32 {
    let states: &[u8] = if protocol == Protocol::TCP {
        &[
            TCP_ESTABLISHED,
            TCP_SYN_SENT,
            TCP_SYN_RECV,
            TCP_NEW_SYN_RECV,
            TCP_FIN_WAIT1,
            TCP_FIN_WAIT2,
            TCP_CLOSE_WAIT,
            TCP_LAST_ACK,
            TCP_CLOSING,
            TCP_LISTEN,
        ]
    } else {
        &[TCP_ESTABLISHED, TCP_CLOSE]
    };
    states.iter().fold(0, |mask, state| mask | (1 << state))
}

fn message<I: NetlinkSerializable>(payload: I, flags: u16, sequence: u32) -> Vec<u8>
where
    NetlinkPayload<I>: From<I>,
{
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | flags;
    header.sequence_number = sequence;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(payload));
    message.finalize();
    // Messages that follow each other are aligned to four bytes, as every request here is by its size.
    let mut bytes = vec![0; message.buffer_len().next_multiple_of(4)];
    message.serialize(&mut bytes);
    bytes
}

/// The messages in what one read brought.
struct Answers<'a, I> {
    rest: &'a [u8],
    payload: std::marker::PhantomData<I>,
}

impl<'a, I> Answers<'a, I> {
    fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, payload: std::marker::PhantomData }
    }
}

impl<I: NetlinkDeserializable> Iterator for Answers<'_, I> {
    type Item = io::Result<NetlinkMessage<I>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let parsed = NetlinkMessage::<I>::deserialize(self.rest).map_err(io::Error::other);
        let length = parsed.as_ref().map_or(usize::MAX, |message| {
            usize::try_from(message.header.length).unwrap_or(usize::MAX).next_multiple_of(4).max(4)
        });
        // After a message that cannot be read nothing tells where the next one begins.
        self.rest = self.rest.get(length..).unwrap_or_default();
        Some(parsed)
    }
}

fn request_for(socket: &Socket) -> InetRequest {
    let ip = |address: Address| match address.to_v4() {
        Some(v4) if !socket.is_v6 => IpAddr::from(v4),
        _ => IpAddr::from(address.bytes()),
    };
    InetRequest {
        family: if socket.is_v6 { AF_INET6 } else { AF_INET },
        protocol: socket.protocol.0,
        extensions: ExtensionFlags::empty(),
        states: StateFlags::all(),
        socket_id: SocketId {
            source_port: socket.local.port.number(),
            destination_port: socket.remote.port.number(),
            source_address: ip(socket.local.address),
            destination_address: ip(socket.remote.address),
            interface_id: socket.device,
            // Two words, the low one first (`sock_diag_save_cookie` of net/core/sock_diag.c).
            cookie: cookie_bytes(socket.cookie),
        },
    }
}

fn cookie_bytes(cookie: u64) -> [u8; 8] {
    let [a, b, c, d, e, f, g, h] = cookie.to_le_bytes();
    let [low, high] = [u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h])];
    let ([a, b, c, d], [e, f, g, h]) = (low.to_ne_bytes(), high.to_ne_bytes());
    [a, b, c, d, e, f, g, h]
}

fn cookie_of([a, b, c, d, e, f, g, h]: [u8; 8]) -> u64 {
    let (low, high) = (u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, g, h]));
    u64::from(high) << 32 | u64::from(low)
}

fn read(netns: u64, protocol: Protocol, answer: &InetResponse) -> Socket {
    let header = &answer.header;
    let id = &header.socket_id;
    let endpoint = |ip, port| Endpoint { address: address(ip), port: Port::new(port) };
    let mut socket = Socket {
        netns,
        cookie: cookie_of(id.cookie),
        protocol,
        state: state(protocol, header.state),
        local: endpoint(id.source_address, id.source_port),
        remote: endpoint(id.destination_address, id.destination_port),
        device: id.interface_id,
        is_v6: header.family == AF_INET6,
        is_only_v6: false,
        cgroup: None,
        opened: match header.state {
            TCP_SYN_SENT => Some(Opened::Here),
            TCP_SYN_RECV => Some(Opened::There),
            _ => None,
        },
        traffic: None,
    };
    for attribute in &answer.nlas {
        match attribute {
            Nla::Other(other) if other.kind() == INET_DIAG_CGROUP_ID => socket.cgroup = number(other),
            Nla::SkV6Only(only) => socket.is_only_v6 = *only,
            Nla::TcpInfo(bytes) => {
                let Some(info) = TcpInfo::read(bytes) else { continue };
                socket.opened = socket.opened.or_else(|| info.opened(header.state));
                socket.traffic = Some(info.traffic(socket.opened));
            }
            _ => {}
        }
    }
    socket
}

fn address(ip: IpAddr) -> Address {
    match ip {
        IpAddr::V4(v4) => Address::from_v4(v4.octets()),
        IpAddr::V6(v6) => Address::new(v6.octets()),
    }
}

fn number(attribute: &DefaultNla) -> Option<u64> {
    let mut bytes = [0; 8];
    if attribute.value_len() != bytes.len() {
        return None;
    }
    attribute.emit_value(&mut bytes);
    Some(u64::from_ne_bytes(bytes)).filter(|id| *id != 0)
}

fn state(protocol: Protocol, state: u8) -> State {
    match state {
        TCP_ESTABLISHED => State::Open,
        TCP_LISTEN => State::Waiting,
        TCP_CLOSE if protocol == Protocol::UDP => State::Waiting,
        TCP_SYN_SENT => State::Opening,
        TCP_SYN_RECV | TCP_NEW_SYN_RECV => State::Answering,
        _ => State::Closing,
    }
}

/// What `struct tcp_info` of include/uapi/linux/tcp.h tells of a connection (`tcpi_bytes_retrans` since kernel 4.19).
struct TcpInfo {
    unacked: u32,
    last_data_sent: u32,
    last_data_recv: u32,
    busy_time: u64,
    bytes_acked: u64,
    bytes_received: u64,
    bytes_sent: u64,
    bytes_retrans: u64,
}

impl TcpInfo {
    /// Where the fields lie.
    const UNACKED: usize = 24;
    const LAST_DATA_SENT: usize = 44;
    const LAST_DATA_RECV: usize = 52;
    const BUSY_TIME: usize = 168;
    const BYTES_ACKED: usize = 120;
    const BYTES_RECEIVED: usize = 128;
    const BYTES_SENT: usize = 200;
    const BYTES_RETRANS: usize = 208;

    fn read(bytes: &[u8]) -> Option<Self> {
        let u32_at = |place: usize| Some(u32::from_ne_bytes(bytes.get(place..place + 4)?.try_into().ok()?));
        let u64_at = |place: usize| Some(u64::from_ne_bytes(bytes.get(place..place + 8)?.try_into().ok()?));
        Some(Self {
            unacked: u32_at(Self::UNACKED)?,
            last_data_sent: u32_at(Self::LAST_DATA_SENT)?,
            last_data_recv: u32_at(Self::LAST_DATA_RECV)?,
            busy_time: u64_at(Self::BUSY_TIME)?,
            bytes_acked: u64_at(Self::BYTES_ACKED)?,
            bytes_received: u64_at(Self::BYTES_RECEIVED)?,
            bytes_sent: u64_at(Self::BYTES_SENT)?,
            bytes_retrans: u64_at(Self::BYTES_RETRANS)?,
        })
    }

    /// Which end opened the connection. The SYN of the end that opened it counts as a byte that was confirmed, though
    /// not as one that was sent, and that of the other end counts as neither (`tcp_create_openreq_child` begins
    /// behind it); a FIN counts like a SYN once it is confirmed. While bytes are under way nothing can be told.
    fn opened(&self, state: u8) -> Option<Opened> {
        let ends = match state {
            TCP_ESTABLISHED | TCP_CLOSE_WAIT => 0,
            TCP_FIN_WAIT2 => 1,
            _ => return None,
        };
        if self.unacked != 0 {
            return None;
        }
        let data = self.bytes_sent.checked_sub(self.bytes_retrans)?;
        match self.bytes_acked.checked_sub(data)?.checked_sub(ends)? {
            0 => Some(Opened::There),
            1 => Some(Opened::Here),
            _ => None,
        }
    }

    fn traffic(&self, opened: Option<Opened>) -> Traffic {
        let syn = u64::from(opened == Some(Opened::Here));
        Traffic {
            sent: self.bytes_acked.saturating_sub(syn),
            received: self.bytes_received,
            idle: self.last_data_sent,
            // The last one counts microseconds.
            age: u64::from(self.last_data_sent.max(self.last_data_recv)).max(self.busy_time / 1000),
        }
    }
}
