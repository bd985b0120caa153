//! The two calls of bpf(2) that pinned links need and aya 0.14 has no public function for.
#![expect(
    unsafe_code,
    reason = "aya opens a pinned link without giving out its descriptor, and updates links of XDP and tcx only"
)]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use nix::libc;

/// `BPF_OBJ_GET` of enum bpf_cmd in include/uapi/linux/bpf.h (kernel 4.4).
const OBJ_GET: libc::c_int = 7;
/// `BPF_LINK_UPDATE` of the same (kernel 5.7).
const LINK_UPDATE: libc::c_int = 29;

/// The part of union bpf_attr that `BPF_OBJ_GET` reads.
#[repr(C)]
struct ObjGet {
    path: u64,
    fd: u32,
    flags: u32,
}

/// The part of union bpf_attr that `BPF_LINK_UPDATE` reads.
#[repr(C)]
struct LinkUpdate {
    link: u32,
    program: u32,
    flags: u32,
    old_program: u32,
}

/// Opens whatever is pinned at `path`.
///
/// # Errors
///
/// Nothing is there, or it may not be opened.
pub(super) fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // A pointer is as wide as the kernel's field, or narrower.
    let attributes = ObjGet { path: path.as_ptr().addr() as u64, fd: 0, flags: 0 };
    // Its address is used by the kernel, so it counts as exposed.
    path.as_ptr().expose_provenance();
    // SAFETY: the kernel reads `attributes`, of the size that is given, and the string it points to, which ends in a
    // NUL and lives until the call has returned; it writes to neither.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, OBJ_GET, &raw const attributes, size_of::<ObjGet>()) };
    let fd = libc::c_int::try_from(fd).map_err(io::Error::other)?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a descriptor that the kernel has just made for this call, and that nobody else knows.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Has `link` run `program` from now on; the kernel puts it in the place of the one before in one store
/// (`__cgroup_bpf_replace` in kernel/bpf/cgroup.c), so that there is no moment without either.
///
/// # Errors
///
/// The link is detached, or not of a kind whose program can be replaced.
pub(super) fn replace_program(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let number = |fd: BorrowedFd<'_>| u32::try_from(fd.as_raw_fd()).map_err(io::Error::other);
    let attributes = LinkUpdate { link: number(link)?, program: number(program)?, flags: 0, old_program: 0 };
    // SAFETY: the kernel reads `attributes`, of the size that is given, and writes nothing; both descriptors are borrowed
    // and so open.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, LINK_UPDATE, &raw const attributes, size_of::<LinkUpdate>()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
