//! Which network namespace this process or a socket is in, as programs can compare it.

use std::os::fd::{AsFd as _, BorrowedFd};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, getsockopt, socket};
use nix::{getsockopt_impl, sockopt_impl};

/// `SO_NETNS_COOKIE` of include/uapi/asm-generic/socket.h (kernel 5.14).
const SO_NETNS_COOKIE: libc::c_int = 71;

sockopt_impl!(
    /// The cookie of a socket's network namespace, unique until the next boot.
    NetnsCookie,
    GetOnly,
    libc::SOL_SOCKET,
    SO_NETNS_COOKIE,
    u64
);

/// The cookie of this process's network namespace, or 0 where the kernel does not tell it (below 5.14).
///
/// # Errors
///
/// No socket could be made to ask through.
pub fn cookie() -> nix::Result<u64> {
    let socket = socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    cookie_of(socket.as_fd())
}

/// The cookie of a socket's network namespace, or 0 where the kernel does not tell it (below 5.14).
///
/// # Errors
///
/// It is not a socket.
pub fn cookie_of(socket: BorrowedFd<'_>) -> nix::Result<u64> {
    match getsockopt(&socket, NetnsCookie) {
        Ok(cookie) => Ok(cookie),
        Err(Errno::ENOPROTOOPT) => Ok(0),
        Err(err) => Err(err),
    }
}
