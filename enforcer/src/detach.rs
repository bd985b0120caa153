//! `enforcer detach`: the one way off for enforcement that outlives the daemon.

use std::fmt;
use std::path::Path;

use anyhow::Context as _;
use serde::Serialize;

use crate::failpoint;
use crate::kernel::{Pins, Removed};
use crate::output::printable;
use crate::state;

/// What was removed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Answer {
    /// Whether anything was enforced.
    pub detached: bool,
    /// Programs that were attached, by name.
    pub programs: Vec<String>,
    /// Other pins that were removed.
    pub pins: usize,
    /// Events that waited for a daemon, and that no record tells of.
    pub events_untold: u64,
    /// Records of what daemons themselves did that went with them, and that no record tells of.
    pub records_untold: u64,
    /// What is in the directory of pins and not of enforcer: it is still there.
    pub left_alone: Vec<String>,
    /// Whether a state was there and is removed.
    pub state: bool,
    /// A state that is still there, since there were no pins that it could go with: they may be elsewhere.
    pub state_kept: Option<String>,
    /// Where it was looked.
    pub pin_dir: String,
}

/// Detaches the programs that are pinned in `pin_dir`, removes every other pin of ours in it, and then the state. Where there is no such
/// directory the state stays, which what is pinned in another one may need.
///
/// # Errors
///
/// A daemon is running, or something cannot be removed. What was removed before that stays removed, and another call
/// goes on from there.
pub fn run(pin_dir: &Path, state_dir: &Path) -> anyhow::Result<Answer> {
    // Its lock is taken first, as a start does, so that the two never wait for each other.
    let is_there =
        state_dir.try_exists().with_context(|| format!("look for state {}", state_dir.display()))?;
    let state = is_there.then(|| state::Directory::open(state_dir)).transpose()?;
    let found = Pins::detach(pin_dir)?;
    let is_kept = found.is_none() && state.as_ref().is_some_and(state::Directory::is_written);
    let had_state = state.is_some() && !is_kept;
    if let Some(state) = state.filter(|_| !is_kept) {
        state.remove()?;
    }
    let removed: Removed = found.unwrap_or_default();
    failpoint::pass("detach-state-removed");
    Ok(Answer {
        detached: !removed.links.is_empty(),
        programs: removed.links,
        pins: removed.pins,
        events_untold: removed.untold,
        records_untold: removed.untold_records,
        left_alone: removed.foreign.iter().map(|path| path.to_string_lossy().into_owned()).collect(),
        state: had_state,
        state_kept: is_kept.then(|| state_dir.to_string_lossy().into_owned()),
        pin_dir: pin_dir.to_string_lossy().into_owned(),
    })
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.detached {
            write!(f, "detached {} programs: nothing is enforced any longer", self.programs.len())?;
        } else {
            write!(f, "nothing was attached by {}", printable(&self.pin_dir))?;
        }
        if self.events_untold > 0 {
            write!(f, "\nlost {} events that no record tells of", self.events_untold)?;
        }
        if self.records_untold > 0 {
            write!(f, "\nlost {} records of what the daemon did", self.records_untold)?;
        }
        if let Some(state) = &self.state_kept {
            write!(
                f,
                "\nkept the state in {}: nothing that it could be of is pinned there\n\
                 hint: give the --pin-dir that enforcement was started with, if any is left",
                printable(state)
            )?;
        }
        for path in &self.left_alone {
            write!(f, "\nleft alone {}: not of enforcer", printable(path))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Answer;

    #[test]
    fn the_answer_says_what_is_no_longer_and_what_still_is() {
        let mut answer = Answer {
            detached: true,
            programs: vec!["bind4".to_owned(), "connect4".to_owned()],
            pins: 15,
            events_untold: 3,
            records_untold: 2,
            left_alone: vec!["/sys/fs/bpf/enforcer/theirs".into()],
            state: true,
            state_kept: None,
            pin_dir: "/sys/fs/bpf/enforcer".to_owned(),
        };
        assert_eq!(
            answer.to_string(),
            "detached 2 programs: nothing is enforced any longer\n\
             lost 3 events that no record tells of\n\
             lost 2 records of what the daemon did\n\
             left alone /sys/fs/bpf/enforcer/theirs: not of enforcer"
        );
        answer.detached = false;
        answer.left_alone.clear();
        (answer.events_untold, answer.records_untold) = (0, 0);
        assert_eq!(answer.to_string(), "nothing was attached by /sys/fs/bpf/enforcer");
        answer.state_kept = Some("/var/lib/enforcer".to_owned());
        assert_eq!(
            answer.to_string(),
            "nothing was attached by /sys/fs/bpf/enforcer\n\
             kept the state in /var/lib/enforcer: nothing that it could be of is pinned there\n\
             hint: give the --pin-dir that enforcement was started with, if any is left"
        );
    }
}
