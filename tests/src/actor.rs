//! A process in a cgroup of a test's choosing that does with sockets what it is told, and tells what it saw.
//!
//! It is a program of its own (`enforcer-actor`), spoken to in JSON lines over its standard streams: a [`Request`] in, a
//! [`Reply`] out. Run as `enforcer-actor CGROUP exec PROGRAM [ARGUMENT…]` it becomes another program in that cgroup, and as
//! `enforcer-actor CGROUP connect ADDRESS` connects as the first thing it does there, and ends. As
//! `enforcer-actor unit …` it is what a unit of a [`machine`](crate::machine) runs, see [`mod@unit`].

use std::ffi::OsString;
use std::io::{self, BufRead as _, Read as _, Write as _};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::time::{Duration, Instant};
use std::{fs, thread};

use anyhow::{Context as _, anyhow, bail};
use nix::sched::{CloneFlags, unshare};
use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::slowness::patience;
use crate::unit;

/// How long an actor waits for an answer. What is refused is refused at once, so only a packet that was dropped takes
/// this long.
pub const PATIENCE: Duration = Duration::from_millis(500);

/// How long an actor waits for a connection, on the slowest machine too: the kernel sends a SYN again after a second
/// (`TCP_TIMEOUT_INIT` of include/net/tcp.h), and that is judged and told as an attempt of its own.
const CONNECT_PATIENCE: Duration = PATIENCE;

/// How long a connected caller waits for the answer. It comes, so that this only bounds what a busy machine may take.
const ANSWER_PATIENCE: Duration = Duration::from_secs(5);

/// How long an answer to a call of a volley may take, of which there are many, and a machine under all that load.
const VOLLEY_PATIENCE: Duration = Duration::from_secs(20);

/// What an actor is asked to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Request {
    /// Connect, send a word, and read the answer.
    Connect {
        /// Where to.
        to: SocketAddr,
        /// TCP or UDP.
        transport: Transport,
        /// Use an IPv6 socket and the mapped form of an IPv4 address.
        mapped: bool,
    },
    /// Send a datagram from an unconnected socket, and read the answer.
    Send {
        /// Where to.
        to: SocketAddr,
        /// Use an IPv6 socket and the mapped form of an IPv4 address.
        mapped: bool,
        /// The port to send from; 0 for any.
        from_port: u16,
    },
    /// Bind and answer every connection or datagram with what it brought, until the actor ends.
    Serve {
        /// Where; port 0 is any.
        at: SocketAddr,
        /// TCP or UDP.
        transport: Transport,
    },
    /// The same at a port that others may have too (`SO_REUSEPORT`).
    ServeShared {
        /// Where.
        at: SocketAddr,
        /// TCP or UDP.
        transport: Transport,
    },
    /// Listen for TCP without binding, tell the port that the kernel chose, and answer every connection.
    ServeUnbound,
    /// Bind and listen as somebody does who wants a port that may be another's, tell the address, and close again.
    Take {
        /// Where; port 0 is any.
        at: SocketAddr,
        /// TCP or UDP.
        transport: Transport,
        /// With what on the socket.
        options: Options,
    },
    /// Connect a UDP socket that was never bound, tell its address, and answer what comes, until the actor ends.
    AwaitFrom(SocketAddr),
    /// Bind and close again.
    Bind {
        /// Where.
        at: SocketAddr,
        /// TCP or UDP.
        transport: Transport,
    },
    /// Create a socket and close it again.
    Create {
        /// `AF_*`.
        domain: i32,
        /// `SOCK_*`.
        kind: i32,
        /// `IPPROTO_*`.
        protocol: i32,
    },
    /// Move to another cgroup, given by its directory.
    Move(std::path::PathBuf),
    /// Move to a new network namespace; sockets that it has stay where they are.
    Leave,
    /// Connect or send from an address and port of the caller's choosing, and read the answer.
    CallFrom {
        /// Where from; port 0 is any.
        from: SocketAddr,
        /// Where to.
        to: SocketAddr,
        /// TCP or UDP.
        transport: Transport,
        /// Connect the socket; a TCP socket always is.
        connected: bool,
    },
    /// Create a TCP socket, move to another cgroup, and only then connect.
    MoveThenConnect {
        /// The directory of the cgroup.
        cgroup: std::path::PathBuf,
        /// Where to.
        to: SocketAddr,
    },
    /// Create a TCP socket, move to another cgroup, and only then bind and answer.
    MoveThenServe {
        /// The directory of the cgroup.
        cgroup: std::path::PathBuf,
        /// Where.
        at: SocketAddr,
    },
    /// Send a datagram again and again, and tell how many were refused.
    Flood {
        /// Where to.
        to: SocketAddr,
        /// How often.
        times: u64,
    },
    /// Connect to each address by turns, so many times, with a word and its answer, and tell a [`Tally`] for each, as JSON.
    Volley {
        /// Where to, by TCP.
        to: Vec<SocketAddr>,
        /// How often to each.
        rounds: u64,
    },
    /// Something with the connections that it keeps open.
    Kept(crate::kept::Request),
    /// Something with a UDP socket that it keeps under a name.
    Datagram(crate::datagrams::Request),
}

/// How the calls of a volley to one address ended.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Tally {
    /// With the answer.
    pub answered: u64,
    /// With a refusal of `connect` itself.
    pub refused: u64,
    /// With a connection that was closed before the answer.
    pub cut: u64,
    /// With nothing: a packet on its way was refused.
    pub dropped: u64,
    /// Otherwise: how, of the last.
    pub otherwise: Option<String>,
}

/// What is set on a socket before it is bound, for it to get a port in spite of others.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Options {
    /// `SO_REUSEADDR`.
    pub reuse_address: bool,
    /// `SO_REUSEPORT`.
    pub reuse_port: bool,
    /// `IPV6_V6ONLY`, for IPv6.
    pub only_v6: bool,
}

/// What a stream or datagram travels over.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// What an actor saw.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Reply {
    /// The errno of the call that failed, if one did.
    pub errno: Option<i32>,
    /// Which call that was.
    pub call: String,
    /// How long the judged call (`connect`, `sendto`, `bind`, `socket`) took.
    pub micros: u64,
    /// What was read, or the address that was bound.
    pub text: String,
}

impl Reply {
    /// Whether everything went well.
    pub fn is_ok(&self) -> bool {
        self.errno.is_none()
    }

    /// Whether the judged call itself was refused by the enforcer.
    pub fn is_refused(&self) -> bool {
        self.errno == Some(nix::libc::EPERM)
    }
}

/// The actor's whole life, as its arguments say.
///
/// # Errors
///
/// The cgroup cannot be joined, or the conversation is broken.
pub fn run(mut arguments: impl Iterator<Item = OsString>) -> anyhow::Result<()> {
    let cgroup = arguments.next().context("usage: enforcer-actor CGROUP [exec PROGRAM [ARGUMENT...]]")?;
    let mut arguments = arguments
        .map(|argument| argument.into_string().map_err(|other| anyhow!("argument {other:?}: not UTF-8")))
        .collect::<anyhow::Result<Vec<String>>>()?
        .into_iter();
    if cgroup == "unit" {
        return unit::run(arguments);
    }
    // Whoever makes a cgroup may name it by any bytes.
    join(std::path::Path::new(&cgroup))?;
    match arguments.next().as_deref() {
        Some("exec") => {
            let program = arguments.next().context("exec: no program was named")?;
            let err = Command::new(&program).args(arguments).exec();
            Err(err).with_context(|| format!("exec {program}"))
        }
        Some("connect") => {
            let to = arguments.next().context("connect: no address was given")?.parse()?;
            let reply = perform(&Request::Connect { to, transport: Transport::Tcp, mapped: false });
            serde_json::to_writer(io::stdout().lock(), &reply)?;
            Ok(())
        }
        Some(other) => bail!("unknown argument {other}"),
        None => converse(),
    }
}

fn join(cgroup: &std::path::Path) -> anyhow::Result<()> {
    let procs = cgroup.join("cgroup.procs");
    fs::write(&procs, "0").with_context(|| format!("join {}", procs.display()))
}

fn converse() -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    for line in io::stdin().lock().lines() {
        let reply = perform(&serde_json::from_str(&line?)?);
        serde_json::to_writer(&mut out, &reply)?;
        out.write_all(b"\n")?;
        out.flush()?;
    }
    Ok(())
}

/// Does what is asked, in the calling thread.
pub(crate) fn perform(request: &Request) -> Reply {
    let mut steps = Steps::default();
    let result = match request {
        Request::Connect { to, transport, mapped } => steps.connect(*to, *transport, *mapped),
        Request::Send { to, mapped, from_port } => steps.send(*to, *mapped, *from_port),
        Request::Serve { at, transport } => steps.serve(*at, *transport),
        Request::ServeShared { at, transport } => steps.serve_with(*at, *transport, true),
        Request::ServeUnbound => steps.serve_unbound(),
        Request::Take { at, transport, options } => steps.take(*at, *transport, *options),
        Request::AwaitFrom(peer) => steps.await_from(*peer),
        Request::Bind { at, transport } => steps.bind(*at, *transport),
        Request::Create { domain, kind, protocol } => steps.create(*domain, *kind, *protocol),
        Request::Move(cgroup) => {
            steps.call = "move";
            join(cgroup).map(|()| String::new()).map_err(io::Error::other)
        }
        Request::Leave => {
            steps.call = "unshare";
            unshare(CloneFlags::CLONE_NEWNET).map(|()| String::new()).map_err(io::Error::from)
        }
        Request::CallFrom { from, to, transport, connected } => {
            steps.call_from(*from, *to, *transport, *connected)
        }
        Request::MoveThenConnect { cgroup, to } => steps.move_then_connect(cgroup, *to),
        Request::MoveThenServe { cgroup, at } => steps.move_then_serve(cgroup, *at),
        Request::Flood { to, times } => steps.flood(*to, *times),
        Request::Volley { to, rounds } => steps.volley(to, *rounds),
        Request::Kept(request) => steps.judged("kept", || crate::kept::perform(request)),
        Request::Datagram(request) => steps.judged("datagram", || crate::datagrams::perform(request)),
    };
    let (errno, text) = match result {
        Ok(text) => (None, text),
        // A time-out of our own has no number, so it is given the one a network would have.
        Err(err) => (Some(err.raw_os_error().unwrap_or(nix::libc::ETIMEDOUT)), err.to_string()),
    };
    Reply { errno, call: steps.call.to_owned(), micros: steps.micros, text }
}

/// Remembers which call is under way and how long the judged one took.
struct Steps {
    call: &'static str,
    micros: u64,
    /// How long an answer is waited for.
    patience: Duration,
}

impl Default for Steps {
    fn default() -> Self {
        Self { call: "", micros: 0, patience: PATIENCE }
    }
}

impl Steps {
    fn judged<T>(&mut self, call: &'static str, act: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        self.call = call;
        let start = Instant::now();
        let result = act();
        self.micros = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
        result
    }

    fn connect(&mut self, to: SocketAddr, transport: Transport, mapped: bool) -> io::Result<String> {
        let to = if mapped { map(to) } else { to };
        let mut socket = self.socket(to, transport)?;
        self.judged("connect", || match transport {
            // A connect that nobody answers is given up after a while, as its caller would.
            Transport::Tcp => socket.connect_timeout(&to.into(), CONNECT_PATIENCE),
            Transport::Udp => socket.connect(&to.into()),
        })?;
        self.call = "send";
        socket.write_all(b"hello")?;
        self.read(&mut socket)
    }

    fn send(&mut self, to: SocketAddr, mapped: bool, from_port: u16) -> io::Result<String> {
        let to = if mapped { map(to) } else { to };
        let mut socket = self.socket(to, Transport::Udp)?;
        if from_port != 0 {
            self.call = "bind";
            let any: IpAddr = if to.is_ipv4() { [0, 0, 0, 0].into() } else { Ipv6Addr::UNSPECIFIED.into() };
            socket.bind(&SocketAddr::new(any, from_port).into())?;
        }
        self.judged("sendto", || socket.send_to(b"hello", &to.into()))?;
        self.read(&mut socket)
    }

    fn call_from(
        &mut self,
        from: SocketAddr,
        to: SocketAddr,
        transport: Transport,
        connected: bool,
    ) -> io::Result<String> {
        let mut socket = self.socket(to, transport)?;
        self.call = "bind";
        socket.set_reuse_address(true)?;
        socket.bind(&from.into())?;
        match (transport, connected) {
            (Transport::Tcp, _) => {
                self.judged("connect", || socket.connect_timeout(&to.into(), CONNECT_PATIENCE))?;
            }
            (Transport::Udp, true) => self.judged("connect", || socket.connect(&to.into()))?,
            (Transport::Udp, false) => {
                self.judged("sendto", || socket.send_to(b"hello", &to.into()))?;
                return self.read(&mut socket);
            }
        }
        self.call = "send";
        socket.write_all(b"hello")?;
        self.read(&mut socket)
    }

    fn move_then_connect(&mut self, cgroup: &std::path::Path, to: SocketAddr) -> io::Result<String> {
        let mut socket = self.socket(to, Transport::Tcp)?;
        self.call = "move";
        join(cgroup).map_err(io::Error::other)?;
        self.judged("connect", || socket.connect_timeout(&to.into(), CONNECT_PATIENCE))?;
        self.call = "send";
        socket.write_all(b"hello")?;
        self.read(&mut socket)
    }

    fn move_then_serve(&mut self, cgroup: &std::path::Path, at: SocketAddr) -> io::Result<String> {
        let socket = self.socket(at, Transport::Tcp)?;
        self.call = "move";
        join(cgroup).map_err(io::Error::other)?;
        socket.set_read_timeout(None)?;
        socket.set_reuse_address(true)?;
        self.judged("bind", || socket.bind(&at.into()))?;
        self.call = "listen";
        socket.listen(64)?;
        thread::spawn(move || echo_streams(&socket));
        Ok(at.to_string())
    }

    fn flood(&mut self, to: SocketAddr, times: u64) -> io::Result<String> {
        let socket = self.socket(to, Transport::Udp)?;
        let to = to.into();
        let refused = self.judged("sendto", || {
            let sent = (0..times).map(|_| socket.send_to(b"hello", &to));
            Ok(sent.filter(|sent| sent.as_ref().is_err_and(is_refusal)).count())
        })?;
        Ok(refused.to_string())
    }

    fn volley(&mut self, to: &[SocketAddr], rounds: u64) -> io::Result<String> {
        let mut tallies = vec![Tally::default(); to.len()];
        // Whoever has been let in is answered, however busy the answerer is.
        self.patience = VOLLEY_PATIENCE;
        for _ in 0..rounds {
            for (to, tally) in to.iter().zip(&mut tallies) {
                match self.connect(*to, Transport::Tcp, false) {
                    Ok(text) if text == "hello" => tally.answered += 1,
                    Err(err) if is_refusal(&err) && self.call == "connect" => tally.refused += 1,
                    Err(err) if is_closed(&err) => tally.cut += 1,
                    Err(err) if err.kind() == io::ErrorKind::TimedOut && self.call == "connect" => {
                        tally.dropped += 1;
                    }
                    other => tally.otherwise = Some(format!("{}: {other:?}", self.call)),
                }
            }
        }
        Ok(serde_json::to_string(&tallies)?)
    }

    fn read(&mut self, socket: &mut Socket) -> io::Result<String> {
        self.call = "read";
        let mut buffer = [0; 64];
        let size = socket.read(&mut buffer)?;
        Ok(String::from_utf8_lossy(buffer.split_at(size).0).into_owned())
    }

    fn serve(&mut self, at: SocketAddr, transport: Transport) -> io::Result<String> {
        self.serve_with(at, transport, false)
    }

    fn serve_with(&mut self, at: SocketAddr, transport: Transport, shared: bool) -> io::Result<String> {
        // One port may be served for each family by itself, except where the caller says "both".
        // One port may be served for each family by itself, except where the caller says "both".
        let only_v6 = matches!(at, SocketAddr::V6(v6) if !v6.ip().is_unspecified() && v6.ip().to_ipv4_mapped().is_none());
        let options = Options { reuse_address: true, reuse_port: shared, only_v6 };
        let (socket, text) = self.bind_with(at, transport, options)?;
        // A service waits for its callers as long as it takes.
        socket.set_read_timeout(None)?;
        if transport == Transport::Tcp {
            self.call = "listen";
            socket.listen(64)?;
        }
        thread::spawn(move || match transport {
            Transport::Tcp => echo_streams(&socket),
            Transport::Udp => echo_datagrams(&socket),
        });
        Ok(text)
    }

    fn await_from(&mut self, peer: SocketAddr) -> io::Result<String> {
        let socket = self.socket(peer, Transport::Udp)?;
        socket.set_read_timeout(None)?;
        self.judged("connect", || socket.connect(&peer.into()))?;
        let bound = socket.local_addr()?.as_socket().map(|bound| bound.to_string()).unwrap_or_default();
        thread::spawn(move || echo_datagrams(&socket));
        Ok(bound)
    }

    fn serve_unbound(&mut self) -> io::Result<String> {
        self.call = "socket";
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        self.judged("listen", || socket.listen(64))?;
        let bound = socket.local_addr()?.as_socket().map(|bound| bound.to_string()).unwrap_or_default();
        thread::spawn(move || echo_streams(&socket));
        Ok(bound)
    }

    fn take(&mut self, at: SocketAddr, transport: Transport, options: Options) -> io::Result<String> {
        let (socket, text) = self.bind_with(at, transport, options)?;
        if transport == Transport::Tcp {
            self.call = "listen";
            socket.listen(1)?;
        }
        Ok(text)
    }

    fn bind(&mut self, at: SocketAddr, transport: Transport) -> io::Result<String> {
        // One port may be served for each family by itself, except where the caller says "both".
        let only_v6 = matches!(at, SocketAddr::V6(v6) if !v6.ip().is_unspecified() && v6.ip().to_ipv4_mapped().is_none());
        let options = Options { reuse_address: true, reuse_port: false, only_v6 };
        Ok(self.bind_with(at, transport, options)?.1)
    }

    fn bind_with(
        &mut self,
        at: SocketAddr,
        transport: Transport,
        options: Options,
    ) -> io::Result<(Socket, String)> {
        let socket = self.socket(at, transport)?;
        socket.set_reuse_address(options.reuse_address)?;
        socket.set_reuse_port(options.reuse_port)?;
        if at.is_ipv6() {
            socket.set_only_v6(options.only_v6)?;
        }
        self.judged("bind", || socket.bind(&at.into()))?;
        let bound = socket.local_addr()?.as_socket().map(|bound| bound.to_string()).unwrap_or_default();
        Ok((socket, bound))
    }

    fn create(&mut self, domain: i32, kind: i32, protocol: i32) -> io::Result<String> {
        let protocol = (protocol != 0).then(|| Protocol::from(protocol));
        self.judged("socket", || Socket::new(Domain::from(domain), Type::from(kind), protocol))?;
        Ok(String::new())
    }

    fn socket(&mut self, address: SocketAddr, transport: Transport) -> io::Result<Socket> {
        self.call = "socket";
        let kind = match transport {
            Transport::Tcp => Type::STREAM,
            Transport::Udp => Type::DGRAM,
        };
        let socket = Socket::new(Domain::for_address(address), kind, None)?;
        if transport == Transport::Udp {
            socket.set_broadcast(true)?;
        }
        let waits = match transport {
            Transport::Tcp => self.patience.max(ANSWER_PATIENCE),
            Transport::Udp => self.patience,
        };
        socket.set_read_timeout(Some(patience(waits)))?;
        Ok(socket)
    }
}

fn is_refusal(err: &io::Error) -> bool {
    err.raw_os_error() == Some(nix::libc::EPERM)
}

/// Whether an error is what is left of a connection that somebody has closed.
fn is_closed(err: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset};
    matches!(err.kind(), BrokenPipe | ConnectionAborted | ConnectionReset)
}

fn map(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(v4) => SocketAddr::new(v4.to_ipv6_mapped().into(), address.port()),
        IpAddr::V6(_) => address,
    }
}

/// Answers whoever connects, for as long as the listener works.
pub(crate) fn echo_streams(listener: &Socket) {
    while let Ok((stream, _)) = listener.accept() {
        thread::spawn(move || echo_stream(stream));
    }
}

/// Answers one caller until it hangs up.
pub(crate) fn echo_stream(mut stream: Socket) {
    let mut buffer = [0; 64];
    while let Ok(size @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(buffer.split_at(size).0).is_err() {
            return;
        }
    }
}

fn echo_datagrams(socket: &Socket) {
    let mut buffer = [std::mem::MaybeUninit::uninit(); 64];
    loop {
        let Ok((size, from)): io::Result<(usize, SockAddr)> = socket.recv_from(&mut buffer) else {
            // An ICMP error about an earlier answer, or the patience of reading: neither ends the service.
            continue;
        };
        // Every word that actors send is the same, so it need not be read out of the buffer.
        let answer = &b"hello"[..size.min(5)];
        if socket.send_to(answer, &from).is_err() {
            continue;
        }
    }
}
