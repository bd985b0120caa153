//! The programs that call and answer: processes of their own on one CPU, told by JSON lines what to do.

use std::io::{self, BufRead as _, ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use hdrhistogram::Histogram;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, Socket, Type};

use super::workload::{CONNECTIONS, DATAGRAMS, ORDERLY, ROUND_TRIPS, STREAM};

/// Bytes that a stream is written and read by.
const PIECE: usize = 128 * 1024;

/// Calls between two looks at the clock, where a call takes less than a microsecond.
const AT_ONCE: u32 = 16;

/// What a process is asked to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Request {
    /// Answer at every port of the server until the process ends.
    Serve(Ipv4Addr),
    /// Do one thing over and over for so long.
    Repeat(Deed, Duration),
    /// Send datagrams at this rate, which are refused, and tell how many were sent.
    Pace {
        /// Where to.
        to: SocketAddr,
        /// So many a second.
        per_second: f64,
        /// For so long.
        time: Duration,
    },
}

/// What is done over and over.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub enum Deed {
    /// Connect, wait for the end, close.
    Connect(SocketAddr),
    /// Connect where it is refused.
    BeRefused(SocketAddr),
    /// Send a byte and read one.
    RoundTrip(SocketAddr),
    /// Send a datagram of one byte from a socket that is not connected.
    Send(SocketAddr),
    /// Write to a stream; counted in bytes.
    Stream(SocketAddr),
    /// Create a TCP socket and close it.
    Socket,
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Done {
    /// How often it was done.
    pub times: f64,
    /// How long all of it took.
    pub seconds: f64,
    /// Half of the calls took no longer, in nanoseconds; of connects, refusals and round trips.
    pub p50: Option<u64>,
    /// 99 of 100 took no longer.
    pub p99: Option<u64>,
}

impl Done {
    /// How often in a second.
    pub fn per_second(&self) -> f64 {
        self.times / self.seconds
    }
}

/// Runs a process that does what standard input says, on one CPU and on no other.
///
/// # Errors
///
/// A line that is no request, or something that failed, which makes what was measured worthless.
pub fn run(cpu: usize) -> anyhow::Result<()> {
    let mut cpus = CpuSet::new();
    cpus.set(cpu)?;
    sched_setaffinity(Pid::from_raw(0), &cpus).with_context(|| format!("stay on CPU {cpu}"))?;
    for line in io::stdin().lock().lines() {
        let request: Request = serde_json::from_str(&line?)?;
        let done = match request {
            Request::Serve(address) => serve(address)?,
            Request::Repeat(deed, time) => repeat(deed, time).with_context(|| format!("repeat {deed:?}"))?,
            Request::Pace { to, per_second, time } => pace(to, per_second, time)?,
        };
        let mut out = io::stdout().lock();
        serde_json::to_writer(&mut out, &done)?;
        out.write_all(b"\n")?;
        out.flush()?;
    }
    Ok(())
}

fn serve(address: Ipv4Addr) -> anyhow::Result<Done> {
    let listen = |port| TcpListener::bind((address, port)).with_context(|| format!("listen at {port}"));
    let (connections, orderly) = (listen(CONNECTIONS)?, listen(ORDERLY)?);
    let (round_trips, stream) = (listen(ROUND_TRIPS)?, listen(STREAM)?);
    thread::spawn(move || {
        for connection in connections.incoming().map_while(Result::ok).map(Socket::from) {
            // Reset, so that no state waits for stray packets and grows with every connection.
            if connection.set_linger(Some(Duration::ZERO)).is_err() {
                return;
            }
        }
    });
    thread::spawn(move || orderly.incoming().map_while(Result::ok).for_each(drop));
    thread::spawn(move || {
        for connection in round_trips.incoming().map_while(Result::ok) {
            thread::spawn(move || echo(connection));
        }
    });
    thread::spawn(move || {
        for mut connection in stream.incoming().map_while(Result::ok) {
            let mut piece = vec![0; PIECE];
            while connection.read(&mut piece).is_ok_and(|size| size > 0) {}
        }
    });
    // Nobody reads them: what a datagram costs up to the queue is measured, and a full queue ends it there.
    let datagrams = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    datagrams.set_recv_buffer_size(1)?;
    datagrams.bind(&SocketAddr::from((address, DATAGRAMS)).into())?;
    thread::spawn(move || {
        let _open = datagrams;
        loop {
            thread::park();
        }
    });
    Ok(Done::default())
}

fn echo(mut connection: TcpStream) -> io::Result<()> {
    connection.set_nodelay(true)?;
    let mut byte = [0];
    while connection.read(&mut byte)? > 0 {
        connection.write_all(&byte)?;
    }
    Ok(())
}

fn repeat(deed: Deed, time: Duration) -> anyhow::Result<Done> {
    match deed {
        Deed::Connect(to) => timed(time, || connect(to)),
        Deed::BeRefused(to) => timed(time, || be_refused(to)),
        Deed::RoundTrip(to) => {
            let mut connection = TcpStream::connect(to)?;
            connection.set_nodelay(true)?;
            let mut byte = [1];
            timed(time, || {
                let start = Instant::now();
                connection.write_all(&byte)?;
                connection.read_exact(&mut byte)?;
                Ok(start.elapsed())
            })
        }
        Deed::Send(to) => {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
            counted(time, AT_ONCE, || Ok(socket.send_to(&[1], to).map(|_| 1.0)?))
        }
        Deed::Stream(to) => {
            let mut connection = TcpStream::connect(to)?;
            let piece = vec![0; PIECE];
            counted(time, 1, || {
                connection.write_all(&piece)?;
                Ok(131_072.0)
            })
        }
        Deed::Socket => counted(time, AT_ONCE, || {
            drop(Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?);
            Ok(1.0)
        }),
    }
}

/// Does something that tells how long its heart took, until the time is over.
fn timed(time: Duration, mut deed: impl FnMut() -> anyhow::Result<Duration>) -> anyhow::Result<Done> {
    // Up to a minute, with three digits.
    let mut taken = Histogram::<u64>::new_with_bounds(1, 60_000_000_000, 3)?;
    let start = Instant::now();
    let mut times = 0.0;
    while start.elapsed() < time {
        let heart = deed()?;
        taken.saturating_record(u64::try_from(heart.as_nanos()).unwrap_or(u64::MAX));
        times += 1.0;
    }
    let seconds = start.elapsed().as_secs_f64();
    let quantile = |part| Some(taken.value_at_quantile(part));
    Ok(Done { times, seconds, p50: quantile(0.5), p99: quantile(0.99) })
}

/// The same without the time of each, which would cost more than the deed.
fn counted(
    time: Duration,
    at_once: u32,
    mut deed: impl FnMut() -> anyhow::Result<f64>,
) -> anyhow::Result<Done> {
    let start = Instant::now();
    let mut times = 0.0;
    while start.elapsed() < time {
        for _ in 0..at_once {
            times += deed()?;
        }
    }
    Ok(Done { times, seconds: start.elapsed().as_secs_f64(), p50: None, p99: None })
}

/// Connects and waits until the other end has closed; the heart is the call of `connect`.
fn connect(to: SocketAddr) -> anyhow::Result<Duration> {
    let start = Instant::now();
    let connected = TcpStream::connect(to);
    let heart = start.elapsed();
    let mut connection = match connected {
        Ok(connection) => connection,
        // Where the first packet has to wait for a verdict, the server may have closed before the caller wakes up.
        Err(err) if err.kind() == ErrorKind::ConnectionReset => return Ok(heart),
        Err(err) => return Err(err.into()),
    };
    match connection.read(&mut [0]) {
        Ok(0) => Ok(heart),
        Err(err) if err.kind() == ErrorKind::ConnectionReset => Ok(heart),
        Ok(_) => bail!("the server said something"),
        Err(err) => Err(err.into()),
    }
}

fn be_refused(to: SocketAddr) -> anyhow::Result<Duration> {
    let start = Instant::now();
    match TcpStream::connect(to) {
        Err(err) if matches!(err.kind(), ErrorKind::PermissionDenied | ErrorKind::ConnectionRefused) => {
            Ok(start.elapsed())
        }
        Err(err) => Err(err.into()),
        Ok(_) => bail!("it was not refused"),
    }
}

fn pace(to: SocketAddr, per_second: f64, time: Duration) -> anyhow::Result<Done> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    let start = Instant::now();
    let mut times = 0.0;
    loop {
        let elapsed = start.elapsed();
        if elapsed >= time {
            break;
        }
        if times >= elapsed.as_secs_f64() * per_second {
            // A millisecond's worth is made up for at once.
            thread::park_timeout(Duration::from_micros(500));
            continue;
        }
        let sent = socket.send_to(&[1], to);
        ensure!(
            sent.is_err_and(|err| err.kind() == ErrorKind::PermissionDenied),
            "a datagram was not refused"
        );
        times += 1.0;
    }
    Ok(Done { times, seconds: start.elapsed().as_secs_f64(), p50: None, p99: None })
}
