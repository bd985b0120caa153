//! Named places at which a test may have this process end at once, as a crash would, or stop; none in a release build.

use std::borrow::Cow;

/// The variable that names the place; `NAME:N` ends it when the place is passed for the N-th time, `NAME!` by a panic, and
/// `NAME?` stops it until somebody has it go on.
pub const VARIABLE: &str = "ENFORCER_FAILPOINT";

/// The variable that, set to anything, has each policy that this process installs after the first fail one map later than the
/// one before, as it would for want of memory: at its first write to the first map, to the second, and so on, until no map
/// is left and it is installed. With `first` the first one fails too; with the name of a map and a number, `EDGES:3`, that
/// policy alone fails, when it has begun to write to that map.
pub const WRITES: &str = "ENFORCER_FAIL_WRITES";

/// The variable that names a file to load in the place of the object that this process was built with.
pub const OBJECT: &str = "ENFORCER_OBJECT";

/// The variable that says which check such an object negates, by its number.
pub const NEGATED: &str = "ENFORCER_NEGATED";

/// The variable that, set to anything, has this process never look for the owners of sockets that no program has seen being
/// bound, so that a test can tell what a program did from what was made good after it.
pub const BLIND: &str = "ENFORCER_BLIND";

/// The variable that names a pipe which, if it is there, a process that parses a policy reads to its end before it begins, so
/// that a test can look at it, or have it take too long.
pub const HELD: &str = "ENFORCER_HOLD_PARSER";

/// The variable that names a file which, if it is there, has a process that parses a policy close its output once it has
/// answered, and go on.
pub const LINGERING: &str = "ENFORCER_LINGERING_PARSER";

/// The variable that names a file which, if it is there, has this process fail to read the owners of cgroups by which live
/// connections are judged, as it would for want of descriptors.
pub const OWNERLESS: &str = "ENFORCER_OWNERLESS";

/// The variable that names a file which, if it is there, has this process fail to read the sockets of a network namespace, likewise.
pub const SOCKETLESS: &str = "ENFORCER_SOCKETLESS";

/// Every place, in the order in which a start, a reload and an end pass them.
pub const ALL: &[&str] = &[
    "locked",
    "state-read",
    "state-staged",
    "state-written",
    "maps-staged",
    "maps-emptied",
    "programs-loaded",
    "tracepoint-attached",
    "addresses-told",
    "slot-emptied",
    "slot-automaton",
    "slot-edges",
    "slot-filled",
    "cgroup-entered",
    "cgroups-entered",
    "flipped",
    "installed",
    "maps-complete",
    "ledger-pinned",
    "link-attached",
    "link-pinned",
    "link-renamed",
    "links-updated",
    "swapped",
    "old-events-read",
    "resume-written",
    "books-closed",
    "old-removed",
    "started",
    "events-written",
    "reload-begun",
    "reload-compiled",
    "reload-state-written",
    "connections-ended",
    "connections-closed",
    "reloaded",
    "stop-begun",
    "stop-events-written",
    "stopped",
    "detach-begun",
    "detach-link-removed",
    "detach-links-removed",
    "detach-maps-hidden",
    "detach-maps-removed",
    "detach-state-removed",
];

/// Ends the process here if a test has asked for it.
#[inline]
pub fn pass(name: &'static str) {
    #[cfg(debug_assertions)]
    armed::pass(name);
    #[cfg(not(debug_assertions))]
    let _: &str = name;
}

/// Says that the writes of a policy begin.
#[inline]
pub fn begin_writes() {
    #[cfg(debug_assertions)]
    armed::begin_writes();
}

/// Whether a test wants this write of a policy to fail.
#[inline]
pub fn write_fails(map: &'static str) -> bool {
    #[cfg(debug_assertions)]
    return armed::write_fails(map);
    #[cfg(not(debug_assertions))]
    {
        let _: &str = map;
        false
    }
}

/// The object to load: `built`, unless a test has named another.
///
/// # Errors
///
/// That one cannot be read.
pub fn object(built: &'static [u8]) -> std::io::Result<Cow<'static, [u8]>> {
    #[cfg(debug_assertions)]
    if let Some(path) = std::env::var_os(OBJECT) {
        return std::fs::read(path).map(Cow::Owned);
    }
    Ok(Cow::Borrowed(built))
}

/// The check that it is to negate; 0 for none, and in every object that is shipped.
pub fn negated() -> u32 {
    #[cfg(debug_assertions)]
    if let Some(number) = std::env::var(NEGATED).ok().and_then(|number| number.parse().ok()) {
        return number;
    }
    0
}

/// Reads nothing, and fails while a test wants owners of cgroups not to be read.
///
/// # Errors
///
/// As the kernel has them where a process holds as many descriptors as it may.
pub fn read_owners() -> std::io::Result<()> {
    fail_while(OWNERLESS)
}

/// Likewise, of sockets.
///
/// # Errors
///
/// Likewise.
pub fn read_sockets() -> std::io::Result<()> {
    fail_while(SOCKETLESS)
}

/// Fails while the file is there that this variable names.
fn fail_while(variable: &str) -> std::io::Result<()> {
    let is_wanted = || std::env::var_os(variable).is_some_and(|file| std::path::Path::new(&file).exists());
    if cfg!(debug_assertions) && is_wanted() { Err(nix::errno::Errno::EMFILE.into()) } else { Ok(()) }
}

/// Whether the owners of sockets that no program has seen being bound are to stay unknown.
pub fn is_blind() -> bool {
    cfg!(debug_assertions) && std::env::var_os(BLIND).is_some()
}

/// What a test has told this process for those that parse policies.
pub fn of_parser() -> impl Iterator<Item = (&'static str, std::ffi::OsString)> {
    let told = |name| Some((name, std::env::var_os(name)?));
    [HELD, LINGERING].into_iter().filter(|_| cfg!(debug_assertions)).filter_map(told)
}

/// Waits, in a process that parses a policy, as long as a test wants it.
///
/// # Errors
///
/// What the test has named cannot be read.
pub fn hold_parser() -> std::io::Result<()> {
    let Some((_, held)) = of_parser().find(|(name, _)| *name == HELD) else { return Ok(()) };
    match std::fs::read(held) {
        Err(err) if err.kind() != std::io::ErrorKind::NotFound => Err(err),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Whether a process that parses a policy is to go on when it has answered.
pub fn is_lingering() -> bool {
    of_parser().any(|(name, file)| name == LINGERING && std::path::Path::new(&file).exists())
}

/// Closes the output and goes on until the process is ended.
///
/// # Errors
///
/// The output cannot be closed.
pub fn linger() -> std::io::Result<std::convert::Infallible> {
    nix::unistd::close(nix::libc::STDOUT_FILENO)?;
    loop {
        std::thread::park();
    }
}

#[cfg(debug_assertions)]
mod armed {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::sync::{LazyLock, Mutex, PoisonError};

    use rustix::process::Signal;

    static IS_SET: LazyLock<bool> = LazyLock::new(|| std::env::var_os(super::WRITES).is_some());
    static FROM_FIRST: LazyLock<bool> =
        LazyLock::new(|| std::env::var_os(super::WRITES).is_some_and(|told| told == "first"));
    /// The one map, and the one policy that fails at it.
    static ALONE: LazyLock<Option<(String, u32)>> = LazyLock::new(|| {
        let told = std::env::var(super::WRITES).ok()?;
        let (map, policy) = told.split_once(':')?;
        Some((map.to_owned(), policy.parse().ok()?))
    });
    /// Policies that were installed.
    static POLICIES: AtomicU32 = AtomicU32::new(0);
    /// Maps that the policy may yet write to, and the one that it writes to now.
    static LEFT: Mutex<(u32, &str)> = Mutex::new((0, ""));

    pub(super) fn begin_writes() {
        let before = POLICIES.fetch_add(1, Ordering::Relaxed);
        *LEFT.lock().unwrap_or_else(PoisonError::into_inner) = (before + u32::from(*FROM_FIRST), "");
    }

    pub(super) fn write_fails(map: &'static str) -> bool {
        if let Some((alone, policy)) = &*ALONE {
            return alone == map && POLICIES.load(Ordering::Relaxed) == *policy;
        }
        let mut left = LEFT.lock().unwrap_or_else(PoisonError::into_inner);
        if !*IS_SET || left.0 == 0 || left.1 == map {
            return false;
        }
        *left = (left.0 - 1, map);
        left.0 == 0
    }

    struct Armed {
        name: String,
        left: AtomicU32,
        how: How,
    }

    #[derive(Clone, Copy)]
    enum How {
        Abort,
        Panic,
        Stop,
    }

    static ARMED: LazyLock<Option<Armed>> = LazyLock::new(|| {
        let told = std::env::var(super::VARIABLE).ok()?;
        let other = [('!', How::Panic), ('?', How::Stop)];
        let other = other.into_iter().find_map(|(mark, how)| Some((told.strip_suffix(mark)?, how)));
        let (told, how) = other.unwrap_or((&told, How::Abort));
        let (name, times) = told.split_once(':').unwrap_or((told, "1"));
        let left = AtomicU32::new(times.parse().ok()?);
        Some(Armed { name: name.to_owned(), left, how })
    });

    pub(super) fn pass(name: &'static str) {
        debug_assert!(super::ALL.contains(&name), "{name} is not in the list");
        let Some(armed) = ARMED.as_ref().filter(|armed| armed.name == name) else { return };
        if armed.left.fetch_sub(1, Ordering::Relaxed) == 1 {
            match armed.how {
                How::Panic => std::panic::panic_any("a test wanted it"),
                // Like a kill: nothing is unwound, flushed or removed.
                How::Abort => std::process::abort(),
                How::Stop => drop(rustix::process::kill_process(rustix::process::getpid(), Signal::STOP)),
            }
        }
    }
}
