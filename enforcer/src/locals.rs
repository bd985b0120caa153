//! The addresses of this host, and word of their changes.

use std::collections::BTreeSet;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use enforcer_common::Address;
use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, recv, socket,
};

/// `RTMGRP_IPV4_IFADDR` and `RTMGRP_IPV6_IFADDR` of include/uapi/linux/rtnetlink.h.
const ADDRESS_GROUPS: u32 = 0x10 | 0x100;

/// The addresses of this network namespace's interfaces, kept up to date.
pub struct Locals {
    /// Told by the kernel that an address has come or gone.
    news: OwnedFd,
    known: BTreeSet<Address>,
}

/// An address that has come or gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// The host has it now.
    Added(Address),
    /// The host has it no longer.
    Removed(Address),
}

impl Locals {
    /// Subscribes to changes; the first [`changes`](Self::changes) reports every address.
    ///
    /// # Errors
    ///
    /// No netlink socket could be made.
    pub fn watch() -> nix::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let news = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute)?;
        bind(news.as_raw_fd(), &NetlinkAddr::new(0, ADDRESS_GROUPS))?;
        Ok(Self { news, known: BTreeSet::new() })
    }

    /// Becomes readable when an address has come or gone.
    pub fn fd(&self) -> RawFd {
        self.news.as_raw_fd()
    }

    /// What has changed since the last call.
    ///
    /// # Errors
    ///
    /// The addresses could not be read; nothing has changed then, and the next call reports it all.
    pub fn changes(&mut self) -> nix::Result<Vec<Change>> {
        self.drain()?;
        let now = addresses()?;
        let removed = self.known.difference(&now).copied().map(Change::Removed);
        let changes = removed.chain(now.difference(&self.known).copied().map(Change::Added)).collect();
        self.known = now;
        Ok(changes)
    }

    /// Reads the notifications away: what they announce is then read whole, so a lost one costs nothing.
    fn drain(&self) -> nix::Result<()> {
        let mut buffer = [0; 8192];
        loop {
            match recv(self.news.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(_) => {}
                Err(Errno::EAGAIN) => return Ok(()),
                Err(Errno::ENOBUFS | Errno::EINTR) => {}
                Err(err) => return Err(err),
            }
        }
    }
}

fn addresses() -> nix::Result<BTreeSet<Address>> {
    Ok(getifaddrs()?.filter_map(|interface| interface.address).filter_map(|address| ip(&address)).collect())
}

fn ip(address: &SockaddrStorage) -> Option<Address> {
    let v4 = address.as_sockaddr_in().map(|v4| Address::from_v4(v4.ip().octets()));
    v4.or_else(|| address.as_sockaddr_in6().map(|v6| Address(v6.ip().octets())))
}
