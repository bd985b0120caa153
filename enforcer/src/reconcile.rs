//! What the kernel's table of cgroups says otherwise than the tree does, and how it is put right.

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::PathBuf;

use enforcer_common::layout::Cgroup;

use crate::cgroups::Subtree;

/// A cgroup as it stood in the tree.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Seen {
    /// Its id.
    pub id: u64,
    /// Its parent's id; none for the root of the subtree.
    pub parent: Option<u64>,
    /// Its path from the top of the tree.
    pub path: PathBuf,
}

/// The tree at one moment.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Tree {
    /// Every cgroup, a parent before its children.
    pub cgroups: Vec<Seen>,
    /// Whether some cgroup's directory is gone while something, such as a socket, still refers to it.
    pub has_dying: bool,
}

impl Tree {
    /// Reads a subtree.
    ///
    /// # Errors
    ///
    /// It cannot be read.
    pub fn read(subtree: &Subtree) -> io::Result<Self> {
        let mut cgroups = Vec::new();
        subtree.walk(|found| {
            cgroups.push(Seen { id: found.id, parent: found.parent, path: found.path.to_path_buf() });
            Ok::<(), io::Error>(())
        })?;
        let stat = std::fs::read_to_string(subtree.directory.join("cgroup.stat"))?;
        // A kernel that does not tell may have some.
        let has_dying = !stat.lines().any(|line| line == "nr_dying_descendants 0");
        Ok(Self { cgroups, has_dying })
    }
}

/// Something that the table says otherwise than the tree.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Repair {
    /// It does not know the cgroup.
    Enter(u64, Cgroup),
    /// It says that the cgroup is somebody else's.
    Correct(u64, Cgroup),
    /// It knows a cgroup that is gone.
    Forget(u64),
}

/// What has to be done to the table so that it agrees with the tree.
///
/// `before` are the ids that the table had before the tree was read: what came to it since is not missing from the tree
/// but younger. `expected` tells whose a cgroup is, from those that were asked about before it. While some cgroup is dying none is forgotten, since its sockets may live on.
pub fn repairs(
    tree: &Tree,
    before: &HashSet<u64>,
    mut table: impl FnMut(u64) -> Option<Cgroup>,
    mut expected: impl FnMut(&Seen, &HashMap<u64, Cgroup>) -> Cgroup,
) -> Vec<Repair> {
    let mut known: HashMap<u64, Cgroup> = HashMap::new();
    let mut repairs = Vec::new();
    for seen in &tree.cgroups {
        let right = expected(seen, &known);
        known.insert(seen.id, right);
        match table(seen.id) {
            Some(found) if found == right => {}
            Some(_) => repairs.push(Repair::Correct(seen.id, right)),
            None => repairs.push(Repair::Enter(seen.id, right)),
        }
    }
    if !tree.has_dying {
        let gone = before.iter().filter(|id| !known.contains_key(id) && table(**id).is_some());
        repairs.extend(gone.map(|id| Repair::Forget(*id)));
    }
    repairs
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};
    use std::path::PathBuf;

    use enforcer_common::layout::{Cgroup, Owner};
    use enforcer_common::{Identity, Mode};

    use super::{Repair, Seen, Tree, repairs};

    fn cgroup(state: u32) -> Cgroup {
        let owner = Identity::service(state).map(|identity| Owner::new(identity, Mode::Enforce));
        Cgroup { owner: owner.expect("few services"), state }
    }

    fn seen(id: u64, parent: Option<u64>) -> Seen {
        Seen { id, parent, path: PathBuf::from(format!("/{id}")) }
    }

    /// Every cgroup's state is its parent's and one more.
    fn expected(seen: &Seen, known: &HashMap<u64, Cgroup>) -> Cgroup {
        cgroup(seen.parent.map_or(1, |parent| known[&parent].state + 1))
    }

    #[test]
    fn missing_wrong_and_stale_entries_are_told_apart() {
        let tree = |has_dying| Tree {
            cgroups: vec![seen(1, None), seen(2, Some(1)), seen(3, Some(2)), seen(4, Some(1))],
            has_dying,
        };
        let right = HashMap::from([(1, cgroup(1)), (2, cgroup(2)), (3, cgroup(3)), (4, cgroup(2))]);
        for (change, has_dying, repair) in [
            (vec![], false, vec![]),
            (vec![(2, None)], false, vec![Repair::Enter(2, cgroup(2))]),
            (vec![(3, Some(cgroup(9)))], false, vec![Repair::Correct(3, cgroup(3))]),
            // 8 was there before the tree was read, and 9 has come since.
            (vec![(8, Some(cgroup(1)))], false, vec![Repair::Forget(8)]),
            (vec![(9, Some(cgroup(1)))], false, vec![]),
            (vec![(8, Some(cgroup(1)))], true, vec![]),
        ] {
            let mut table = right.clone();
            for (id, entry) in change {
                match entry {
                    Some(entry) => table.insert(id, entry),
                    None => table.remove(&id),
                };
            }
            let before = HashSet::from([1, 2, 3, 4, 8]);
            let found = repairs(&tree(has_dying), &before, |id| table.get(&id).copied(), expected);
            assert_eq!(found, repair, "{table:?}");
        }
    }
}
