//! Which service claims a cgroup, told from its path by a deterministic automaton over bytes.
//!
//! The host compiles all selectors of a policy into one automaton. A cgroup's state is its parent's, advanced by a
//! slash and the cgroup's own name, so a new cgroup costs one step per byte of its name, however many selectors there
//! are and however deep it lies. The programs and the host advance by the same function.

/// The state of a path that no selector can match any more, nor anything below it. Advancing it leads to itself.
pub const DEAD: u32 = 0;

/// Bytes of the longest name of a cgroup: `NAME_MAX` of include/uapi/linux/limits.h.
pub const MAX_NAME: usize = 255;

/// What an automaton is made of.
pub trait Transitions {
    /// The class that a byte belongs to; bytes of one class lead to the same states.
    fn class(&self, byte: u8) -> u32;
    /// The state behind the transition with this index; [`DEAD`] if there is none.
    fn next(&self, index: u32) -> u32;
}

/// The state after one more byte. States are multiples of the number of classes, so that a state plus a class is the
/// index of a transition.
#[inline(always)]
pub fn advance<T: Transitions>(state: u32, byte: u8, transitions: &T) -> u32 {
    if state == DEAD {
        return DEAD;
    }
    transitions.next(state.saturating_add(transitions.class(byte)))
}
