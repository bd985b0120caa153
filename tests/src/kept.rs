//! What an actor keeps open: many connections at once, to be asked later which of them still live.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};
use socket2::{Domain, Socket, Type};

use crate::actor::Transport;

/// What an actor is asked to do with what it keeps.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Request {
    /// Open connections, one after the other, and keep them.
    Connect {
        /// Where to.
        to: SocketAddr,
        /// TCP or UDP.
        transport: Transport,
        /// How many.
        number: usize,
    },
    /// Listen, and keep every connection that comes.
    Serve {
        /// Where.
        at: SocketAddr,
        /// Take connections out of the queue, in which they wait otherwise.
        accept: bool,
    },
    /// Wait until this many have been kept.
    AwaitKept(usize),
    /// Wait until so many in all have died, or for so long, and tell what lives and what died of what.
    Await {
        /// How many.
        dead: usize,
        /// How long, in milliseconds.
        millis: u64,
    },
    /// Send a byte through every one that lives, and tell how many took it.
    Say,
    /// Read a byte from every one that lives, and tell how many gave it.
    Hear,
}

/// What has become of what was kept.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Tally {
    /// How many live.
    pub alive: usize,
    /// How many died of each errno; 0 where both ends closed them.
    pub dead: BTreeMap<i32, usize>,
}

impl Tally {
    /// How many died, of whatever.
    pub fn dead(&self) -> usize {
        self.dead.values().sum()
    }
}

#[derive(Default)]
struct Kept {
    live: Vec<Socket>,
    listeners: Vec<Socket>,
    tally: Tally,
}

static KEPT: Mutex<Option<Kept>> = Mutex::new(None);

/// How long one read waits: only where what was said has not come.
const PATIENCE: Duration = Duration::from_secs(5);

/// Does it; what is told is JSON.
///
/// # Errors
///
/// What the judged call failed with.
pub fn perform(request: &Request) -> io::Result<String> {
    allow_many()?;
    match request {
        Request::Connect { to, transport, number } => {
            for _ in 0..*number {
                let socket = Socket::new(Domain::for_address(*to), kind(*transport), None)?;
                socket.connect(&(*to).into())?;
                keep(socket)?;
            }
            Ok(number.to_string())
        }
        Request::Serve { at, accept } => serve(*at, *accept),
        Request::AwaitKept(number) => {
            let start = Instant::now();
            while with(|kept| kept.live.len()) < *number {
                if start.elapsed() > crate::slowness::patience(PATIENCE) {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                thread::yield_now();
            }
            Ok(String::new())
        }
        Request::Await { dead, millis } => {
            let tally = await_dead(*dead, Duration::from_millis(*millis))?;
            Ok(serde_json::to_string(&tally)?)
        }
        Request::Say => Ok(with(|kept| {
            kept.live.iter_mut().filter_map(|socket| socket.write_all(b"x").ok()).count().to_string()
        })),
        Request::Hear => Ok(with(|kept| {
            let mut byte = [0];
            let heard = kept
                .live
                .iter_mut()
                .filter_map(|socket| socket.read(&mut byte).ok().filter(|size| *size == 1));
            heard.count().to_string()
        })),
    }
}

fn serve(at: SocketAddr, accept: bool) -> io::Result<String> {
    let listener = Socket::new(Domain::for_address(at), Type::STREAM, None)?;
    listener.set_reuse_address(true)?;
    listener.bind(&at.into())?;
    listener.listen(4096)?;
    if !accept {
        with(|kept| kept.listeners.push(listener));
        return Ok(String::new());
    }
    thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            if keep(stream).is_err() {
                return;
            }
        }
    });
    Ok(String::new())
}

fn keep(socket: Socket) -> io::Result<()> {
    socket.set_read_timeout(Some(crate::slowness::patience(PATIENCE)))?;
    with(|kept| kept.live.push(socket));
    Ok(())
}

fn await_dead(number: usize, patience: Duration) -> io::Result<Tally> {
    let start = Instant::now();
    loop {
        let left = patience.saturating_sub(start.elapsed());
        let enough = with(|kept| -> io::Result<bool> {
            // Errors and hang-ups are told unasked; one look when there is enough, since more may have died.
            let flags = PollFlags::empty();
            let enough = kept.tally.dead() >= number;
            let wait = if enough { Duration::ZERO } else { left.min(Duration::from_millis(20)) };
            let mut asked: Vec<PollFd<'_>> =
                kept.live.iter().map(|socket| PollFd::new(socket.as_fd(), flags)).collect();
            poll(&mut asked, PollTimeout::try_from(wait).unwrap_or(PollTimeout::ZERO))?;
            let dead: Vec<bool> = asked.iter().map(|asked| asked.any() == Some(true)).collect();
            let mut dead = dead.into_iter();
            let (gone, live) =
                std::mem::take(&mut kept.live).into_iter().partition(|_| dead.next() == Some(true));
            kept.live = live;
            let gone: Vec<Socket> = gone;
            for socket in gone {
                let errno = socket.take_error()?.and_then(|err| err.raw_os_error()).unwrap_or(0);
                *kept.tally.dead.entry(errno).or_default() += 1;
            }
            Ok(enough)
        })?;
        if enough || start.elapsed() >= patience {
            return Ok(with(|kept| Tally { alive: kept.live.len(), ..kept.tally.clone() }));
        }
    }
}

fn with<T>(act: impl FnOnce(&mut Kept) -> T) -> T {
    let mut kept: MutexGuard<'_, Option<Kept>> = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    act(kept.get_or_insert_default())
}

fn kind(transport: Transport) -> Type {
    match transport {
        Transport::Tcp => Type::STREAM,
        Transport::Udp => Type::DGRAM,
    }
}

/// Lets this process have as many descriptors as it may.
fn allow_many() -> io::Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(())
}
