//! The calls of bpf(2) that aya 0.14 has no public function for: what pinned links need, and many entries of a map at once;
//! and the one of the C library that gives memory back.
#![expect(
    unsafe_code,
    reason = "aya opens a pinned link without giving out its descriptor, updates links of XDP and tcx only, and knows maps by single entries"
)]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use aya::Pod;
use nix::libc;

/// `BPF_OBJ_PIN` of enum bpf_cmd in include/uapi/linux/bpf.h (kernel 4.4).
const OBJ_PIN: libc::c_int = 6;
/// `BPF_PROG_QUERY` of the same (kernel 4.15).
const PROG_QUERY: libc::c_int = 16;
/// `BPF_OBJ_GET` of enum bpf_cmd in include/uapi/linux/bpf.h (kernel 4.4).
const OBJ_GET: libc::c_int = 7;
/// `BPF_LINK_UPDATE` of the same (kernel 5.7).
const LINK_UPDATE: libc::c_int = 29;
/// `BPF_MAP_LOOKUP_BATCH` of the same (kernel 5.6).
const MAP_LOOKUP_BATCH: libc::c_int = 24;
/// `BPF_MAP_UPDATE_BATCH` of the same (kernel 5.6).
const MAP_UPDATE_BATCH: libc::c_int = 26;

/// The part of union bpf_attr that `BPF_OBJ_PIN` and `BPF_OBJ_GET` read.
#[repr(C)]
struct Object {
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

/// The part of union bpf_attr that `BPF_PROG_QUERY` reads, and writes its answer to.
#[repr(C)]
struct ProgQuery {
    target: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    ids: u64,
    count: u32,
    _pad: u32,
}

/// The part of union bpf_attr that batches read, and write their answer to.
#[repr(C)]
struct Batch {
    from: u64,
    to: u64,
    keys: u64,
    values: u64,
    count: u32,
    map: u32,
    element_flags: u64,
    flags: u64,
}

/// Programs that a query has room for; the kernel lets no more be attached to a cgroup (`BPF_CGROUP_MAX_PROGS` in
/// include/linux/bpf-cgroup.h).
const MAX_PROGRAMS: usize = 64;

/// Opens whatever is pinned at `path`.
///
/// # Errors
///
/// Nothing is there, or it may not be opened.
pub(super) fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // The address is for the kernel to use. It is as wide as the kernel's field, or narrower.
    let attributes = Object { path: path.as_ptr().expose_provenance() as u64, fd: 0, flags: 0 };
    // SAFETY: the kernel reads `attributes`, of the size that is given, and the string it points to, which ends in a
    // NUL and lives until the call has returned; it writes to neither.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, OBJ_GET, &raw const attributes, size_of::<Object>()) };
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

/// Pins an open map or link at `path`.
///
/// # Errors
///
/// Something is there, or it is not on a BPF file system.
pub(super) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let fd = u32::try_from(object.as_raw_fd()).map_err(io::Error::other)?;
    let attributes = Object { path: path.as_ptr().expose_provenance() as u64, fd, flags: 0 };
    // SAFETY: as for `open_pin`; the descriptor is borrowed and so open.
    let result = unsafe { libc::syscall(libc::SYS_bpf, OBJ_PIN, &raw const attributes, size_of::<Object>()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Writes many entries of a hash table or an array, whose keys and values have the sizes of `K` and `V`.
///
/// # Errors
///
/// One could not be written; those before it were.
pub(super) fn update_batch<K: Pod, V: Pod>(map: BorrowedFd<'_>, keys: &[K], values: &[V]) -> io::Result<()> {
    if keys.len() != values.len() {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    let mut attributes = Batch {
        from: 0,
        to: 0,
        keys: keys.as_ptr().expose_provenance() as u64,
        values: values.as_ptr().expose_provenance() as u64,
        count: u32::try_from(keys.len()).map_err(io::Error::other)?,
        map: u32::try_from(map.as_raw_fd()).map_err(io::Error::other)?,
        element_flags: 0,
        flags: 0,
    };
    // SAFETY: the kernel reads and writes `attributes`, of the size that is given, and reads `count` keys and values, which
    // are there, are plain bytes, and have the sizes that the map was made with.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, MAP_UPDATE_BATCH, &raw mut attributes, size_of::<Batch>()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Reads some entries of a hash table, whose keys and values have the sizes of `K` and `V`, into `keys` and `values`. It
/// goes on at `place`, which is none at the beginning and none when all were read. Returns how many were read.
///
/// # Errors
///
/// `ENOSPC` if more entries stand at one place than there is room for, or what else the kernel says.
pub(super) fn lookup_batch<K: Pod, V: Pod>(
    map: BorrowedFd<'_>,
    place: &mut Option<u32>,
    keys: &mut [K],
    values: &mut [V],
) -> io::Result<usize> {
    let (from, mut to) = (place.unwrap_or_default(), 0_u32);
    let mut attributes = Batch {
        from: if place.is_some() { (&raw const from).expose_provenance() as u64 } else { 0 },
        to: (&raw mut to).expose_provenance() as u64,
        keys: keys.as_mut_ptr().expose_provenance() as u64,
        values: values.as_mut_ptr().expose_provenance() as u64,
        count: u32::try_from(keys.len().min(values.len())).map_err(io::Error::other)?,
        map: u32::try_from(map.as_raw_fd()).map_err(io::Error::other)?,
        element_flags: 0,
        flags: 0,
    };
    // SAFETY: the kernel reads and writes `attributes`, of the size that is given, reads `from` and writes `to`, which a hash
    // table takes for 32 bits (`__htab_map_lookup_and_delete_batch` in kernel/bpf/hashtab.c), and writes to `keys` and
    // `values` no more than `count`, for which there is room; they are plain bytes of which every pattern is one.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, MAP_LOOKUP_BATCH, &raw mut attributes, size_of::<Batch>()) };
    if result == 0 {
        *place = Some(to);
    } else {
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::ENOENT) {
            return Err(error);
        }
        // The end; what was found before it is counted.
        *place = None;
    }
    usize::try_from(attributes.count).map_err(io::Error::other)
}

/// The ids of the programs that are attached to a cgroup itself, in whatever way, as an `enum bpf_attach_type`.
///
/// # Errors
///
/// The kernel does not tell.
pub(super) fn attached_programs(cgroup: BorrowedFd<'_>, attach_type: u32) -> io::Result<Vec<u32>> {
    let mut ids = vec![0; MAX_PROGRAMS];
    let mut attributes = ProgQuery {
        target: u32::try_from(cgroup.as_raw_fd()).map_err(io::Error::other)?,
        attach_type,
        query_flags: 0,
        attach_flags: 0,
        ids: ids.as_mut_ptr().expose_provenance() as u64,
        count: u32::try_from(ids.len()).map_err(io::Error::other)?,
        _pad: 0,
    };
    // SAFETY: the kernel reads and writes `attributes`, of the size that is given, and writes to `ids` no more numbers than
    // `count` says, for which there is room.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, PROG_QUERY, &raw mut attributes, size_of::<ProgQuery>()) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    ids.truncate(usize::try_from(attributes.count).map_err(io::Error::other)?);
    Ok(ids)
}

/// Gives memory that was freed back to the system. glibc keeps what lies between things that are still in use, which after
/// the object was loaded or a policy was replaced is most of what the process has.
pub(super) fn trim_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes the allocator's own locks and touches free memory alone (malloc_trim(3)).
    unsafe {
        libc::malloc_trim(0);
    }
}
