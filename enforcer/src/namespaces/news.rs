//! Word from the kernel that an address, a device or a namespace has come or gone.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};

use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;
use nix::libc;
use tracing::warn;

/// `RTNLGRP_*` of include/uapi/linux/rtnetlink.h: links, addresses of both families, ids of namespaces.
const GROUPS: [u32; 4] =
    [libc::RTNLGRP_LINK, libc::RTNLGRP_IPV4_IFADDR, libc::RTNLGRP_IPV6_IFADDR, libc::RTNLGRP_NSID];

/// A subscription to what changes in this network namespace and in those that it has ids for.
pub struct News {
    socket: Socket,
}

impl News {
    /// Subscribes.
    ///
    /// # Errors
    ///
    /// No netlink socket could be made.
    pub fn subscribe() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind(&SocketAddr::new(0, 0))?;
        socket.set_non_blocking(true)?;
        match socket.set_listen_all_namespaces(true) {
            Ok(()) => {}
            Err(err) if err.kind() == io::ErrorKind::PermissionDenied => warn!(
                "other network namespaces are not looked into, and services in them are unknown to each other\n\
                 hint: run enforcer as root, or also with CAP_SYS_ADMIN and CAP_NET_BROADCAST"
            ),
            Err(err) => return Err(err),
        }
        for group in GROUPS {
            socket.add_membership(group)?;
        }
        Ok(Self { socket })
    }

    /// Becomes readable when something has changed.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Reads the news away. What they announce is then read whole, so a lost one costs nothing.
    ///
    /// # Errors
    ///
    /// The subscription is broken.
    pub fn drain(&self) -> io::Result<()> {
        loop {
            match self.socket.recv(&mut Vec::with_capacity(8192), libc::MSG_DONTWAIT | libc::MSG_TRUNC) {
                Ok(_) => {}
                Err(err) => match err.raw_os_error().map(Errno::from_raw) {
                    Some(Errno::EAGAIN) => return Ok(()),
                    Some(Errno::ENOBUFS | Errno::EINTR) => {}
                    _ => return Err(err),
                },
            }
        }
    }
}
