//! Who is at the other end of a Unix socket, and what he may do.

use std::os::fd::AsFd;

use nix::sys::socket::{getsockopt, sockopt};
use nix::unistd::Group;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::audit;

/// Members of this group may read, if the host has it.
pub const GROUP: &str = "enforcer";

/// What a peer may do.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Access {
    /// Ask.
    Read,
    /// Ask and change.
    Change,
}

/// Why somebody may do nothing.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refused {
    /// He is neither root nor in the group.
    #[error("use control socket as uid {uid}: only root and members of group `{GROUP}` may")]
    Stranger {
        /// Who he is.
        uid: u32,
    },
    /// Who he is could not be found out.
    #[error("use control socket: cannot tell who asks: {0}")]
    Unknown(String),
}

/// The number of the group whose members may read; none if the host does not have it.
///
/// # Errors
///
/// The group database cannot be read.
pub fn readers() -> nix::Result<Option<u32>> {
    Ok(Group::from_name(GROUP)?.map(|group| group.gid.as_raw()))
}

/// The process that connected `socket`; none if the kernel does not tell.
pub fn who<F: AsFd>(socket: &F) -> Option<audit::Peer> {
    let peer = getsockopt(socket, sockopt::PeerCredentials).ok()?;
    Some(audit::Peer { pid: peer.pid(), uid: peer.uid() })
}

/// What the process that connected `socket` may do. `readers` is the group whose members may read.
///
/// # Errors
///
/// He may do nothing.
pub fn access<F: AsFd>(socket: &F, readers: Option<u32>) -> Result<Access, Refused> {
    let unknown = |err: &dyn std::fmt::Display| Refused::Unknown(err.to_string());
    let peer = getsockopt(socket, sockopt::PeerCredentials).map_err(|err| unknown(&err))?;
    let groups = || groups(socket, peer.pid(), peer.uid());
    judge(peer.uid(), peer.gid(), readers, groups)
}

fn judge(
    uid: u32,
    gid: u32,
    readers: Option<u32>,
    groups: impl FnOnce() -> Result<Vec<u32>, Refused>,
) -> Result<Access, Refused> {
    if uid == 0 {
        return Ok(Access::Change);
    }
    match readers {
        Some(readers) if readers == gid || groups()?.contains(&readers) => Ok(Access::Read),
        Some(_) | None => Err(Refused::Stranger { uid }),
    }
}

/// The supplementary groups of a peer, which are read by its process id. A descriptor of the process, open before and
/// good after, shows that nobody else has had the id meanwhile.
fn groups<F: AsFd>(socket: &F, pid: i32, uid: u32) -> Result<Vec<u32>, Refused> {
    let unknown = |err: &dyn std::fmt::Display| Refused::Unknown(err.to_string());
    let gone = || Refused::Unknown(String::from("the process that connected has ended"));
    let handle = match getsockopt(socket, sockopt::PeerPidfd) {
        Ok(handle) => handle,
        // Before kernel 6.5. Whoever has the id now has the same user's rights, or is refused below.
        Err(nix::errno::Errno::ENOPROTOOPT) => {
            let pid = Pid::from_raw(pid).ok_or_else(gone)?;
            pidfd_open(pid, PidfdFlags::empty()).map_err(|err| unknown(&err))?
        }
        Err(err) => return Err(unknown(&err)),
    };
    let status = procfs::process::Process::new(pid)
        .and_then(|process| process.status())
        .map_err(|err| unknown(&err))?;
    // A descriptor of a process becomes readable when it ends.
    let mut ended = [PollFd::new(&handle, PollFlags::IN)];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    if poll(&mut ended, Some(&at_once)).map_err(|err| unknown(&err))? > 0 || status.euid != uid {
        return Err(gone());
    }
    Ok(status.groups)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::{Access, Refused, access, groups, judge};

    #[test]
    fn root_changes_the_group_reads_and_nobody_else_does_anything() {
        const READERS: u32 = 700;
        let stranger = Err(Refused::Stranger { uid: 1000 });
        for (uid, gid, readers, others, expected) in [
            (0, 0, None, vec![], Ok(Access::Change)),
            (0, 1000, Some(READERS), vec![], Ok(Access::Change)),
            (1000, READERS, Some(READERS), vec![], Ok(Access::Read)),
            (1000, 1000, Some(READERS), vec![4, READERS], Ok(Access::Read)),
            (1000, 1000, Some(READERS), vec![4, 0], stranger.clone()),
            (1000, 0, Some(READERS), vec![], stranger.clone()),
            (1000, 1000, None, vec![READERS], stranger),
        ] {
            let answer = judge(uid, gid, readers, || Ok(others.clone()));
            assert_eq!(answer, expected, "{uid} {gid} {readers:?} {others:?}");
        }
        let unknown = || Err(Refused::Unknown(String::from("gone")));
        assert!(matches!(judge(1000, 1000, Some(READERS), unknown), Err(Refused::Unknown(_))));
    }

    #[test]
    fn a_peer_is_known_by_its_socket() {
        let (near, _far) = UnixStream::pair().expect("a pair");
        let (uid, pid) = (nix::unistd::geteuid().as_raw(), nix::unistd::getpid().as_raw());
        let expected = if uid == 0 { Ok(Access::Change) } else { Err(Refused::Stranger { uid }) };
        assert_eq!(access(&near, None), expected);
        let own: Vec<u32> =
            nix::unistd::getgroups().expect("groups").iter().map(|group| group.as_raw()).collect();
        assert_eq!(groups(&near, pid, uid), Ok(own));
        assert!(groups(&near, pid, uid + 1).is_err(), "another user's process is not the peer");
    }
}
