//! What a unit of a [`machine`](crate::machine) runs, as `enforcer-actor unit …`: one small service or caller.

use std::fs;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::Path;

use anyhow::{Context as _, bail};
use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
use sd_notify::NotifyState;
use socket2::{Domain, Socket, Type};

use crate::actor::{Request, Transport, echo_stream, echo_streams, perform};

/// Callers that may wait at a listener: a thousand units may start at once.
const BACKLOG: i32 = 4096;

/// The unit's whole life, as its arguments say:
///
/// - `connect ADDRESS` connects as the first thing it does, and writes the reply to its standard output;
/// - `delegated NAME ADDRESS` does so in a cgroup NAME that it makes below its own;
/// - `load ADDRESS` connects again and again, until it is ended;
/// - `serve ADDRESS` answers callers, and says that it is ready;
/// - `inherit` answers the callers of the listener, or the one caller, that its standard input is;
/// - `keep ADDRESS` serves, and leaves its listener with the service manager, from which its next life takes it.
///
/// # Errors
///
/// It cannot do what it is for.
pub fn run(mut arguments: impl Iterator<Item = String>) -> anyhow::Result<()> {
    let verb = arguments.next().context("unit: nothing was asked for")?;
    let mut next = || arguments.next().with_context(|| format!("unit {verb}: an argument is missing"));
    match verb.as_str() {
        "connect" => connect(next()?.parse()?),
        "delegated" => {
            enter_below(&next()?)?;
            connect(next()?.parse()?)
        }
        "load" => {
            let request = Request::Connect { to: next()?.parse()?, transport: Transport::Tcp, mapped: false };
            loop {
                perform(&request);
            }
        }
        "serve" => {
            let listener = listen(next()?.parse()?)?;
            sd_notify::notify(&[NotifyState::Ready])?;
            echo_streams(&listener);
            Ok(())
        }
        "inherit" => {
            let socket = Socket::from(io::stdin().as_fd().try_clone_to_owned()?);
            if socket.is_listener()? {
                echo_streams(&socket);
            } else {
                echo_stream(socket);
            }
            Ok(())
        }
        "keep" => {
            let listener = match sd_notify::listen_fds()?.next() {
                Some(number) => inherited(number)?,
                None => keep(listen(next()?.parse()?)?)?,
            };
            sd_notify::notify(&[NotifyState::Ready])?;
            echo_streams(&listener);
            Ok(())
        }
        other => bail!("unit: unknown argument {other}"),
    }
}

fn connect(to: SocketAddr) -> anyhow::Result<()> {
    let reply = perform(&Request::Connect { to, transport: Transport::Tcp, mapped: false });
    serde_json::to_writer(io::stdout().lock(), &reply)?;
    Ok(())
}

fn listen(at: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(at), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&at.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

/// Makes a cgroup below this process's own, in a machine whose only hierarchy is mounted in the usual place, and enters it.
fn enter_below(name: &str) -> anyhow::Result<()> {
    let text = fs::read_to_string("/proc/self/cgroup")?;
    let own =
        text.lines().find_map(|line| line.strip_prefix("0::")).context("tell the cgroup: it has none")?;
    let cgroup = Path::new("/sys/fs/cgroup").join(own.trim_start_matches('/')).join(name);
    fs::create_dir_all(&cgroup).with_context(|| format!("create cgroup {}", cgroup.display()))?;
    fs::write(cgroup.join("cgroup.procs"), "0").with_context(|| format!("join {}", cgroup.display()))
}

/// The socket of a descriptor that this process was given under a number.
fn inherited(number: i32) -> anyhow::Result<Socket> {
    let own = pidfd_open(getpid(), PidfdFlags::empty())?;
    let descriptor: OwnedFd = pidfd_getfd(own, number, PidfdGetfdFlags::empty())?;
    Ok(Socket::from(descriptor))
}

/// Leaves a descriptor with the service manager.
fn keep(socket: Socket) -> anyhow::Result<Socket> {
    let manager = std::env::var("NOTIFY_SOCKET").context("keep a descriptor: nobody takes it")?;
    let sender = Socket::new(Domain::UNIX, Type::DGRAM, None)?;
    let descriptors = [socket.as_raw_fd()];
    sendmsg(
        sender.as_raw_fd(),
        &[IoSlice::new(b"FDSTORE=1\nFDNAME=kept")],
        &[ControlMessage::ScmRights(&descriptors)],
        MsgFlags::empty(),
        Some(&UnixAddr::new(manager.as_str())?),
    )?;
    Ok(socket)
}
