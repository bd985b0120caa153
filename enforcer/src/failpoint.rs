//! Named places at which a test may have this process end at once, as a crash would; none in a release build.

/// The variable that names the place; `NAME:N` ends it when the place is passed for the N-th time.
pub const VARIABLE: &str = "ENFORCER_FAILPOINT";

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
    "cgroups-entered",
    "flipped",
    "installed",
    "maps-complete",
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

#[cfg(debug_assertions)]
mod armed {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    struct Armed {
        name: String,
        left: AtomicU32,
    }

    static ARMED: LazyLock<Option<Armed>> = LazyLock::new(|| {
        let told = std::env::var(super::VARIABLE).ok()?;
        let (name, times) = told.split_once(':').unwrap_or((&told, "1"));
        let left = AtomicU32::new(times.parse().ok()?);
        Some(Armed { name: name.to_owned(), left })
    });

    pub(super) fn pass(name: &'static str) {
        debug_assert!(super::ALL.contains(&name), "{name} is not in the list");
        let Some(armed) = ARMED.as_ref().filter(|armed| armed.name == name) else { return };
        if armed.left.fetch_sub(1, Ordering::Relaxed) == 1 {
            // Like a kill: nothing is unwound, flushed or removed.
            std::process::abort();
        }
    }
}
