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
    /// Whether these are all. What lies deeper than any call reaches is not among them.
    pub is_whole: bool,
}

impl Tree {
    /// Reads a subtree.
    ///
    /// # Errors
    ///
    /// It cannot be read.
    pub fn read(subtree: &Subtree) -> io::Result<Self> {
        let mut cgroups = Vec::new();
        let is_whole = subtree.walk(|found| {
            cgroups.push(Seen { id: found.id, parent: found.parent, path: found.path.to_path_buf() });
            Ok::<(), io::Error>(())
        })?;
        let stat = std::fs::read_to_string(subtree.directory.join("cgroup.stat"))?;
        // A kernel that does not tell may have some.
        let has_dying = !stat.lines().any(|line| line == "nr_dying_descendants 0");
        Ok(Self { cgroups, has_dying, is_whole })
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
/// but younger. `expected` tells whose a cgroup is, from those that were asked about before it. While some cgroup is dying none
/// is forgotten, since its sockets may live on; nor while some is deeper than the look at the tree reached.
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
    if !tree.has_dying && tree.is_whole {
        let gone = before.iter().filter(|id| !known.contains_key(id) && table(**id).is_some());
        repairs.extend(gone.map(|id| Repair::Forget(*id)));
    }
    repairs
}

/// Of the cgroups that something is `known` of, those that neither the tree nor the table had: they are gone, and word of it was
/// lost. What was known to be where the look at the tree did not reach may be there.
pub fn lost(known: impl Iterator<Item = (u64, bool)>, tree: &Tree, before: &HashSet<u64>) -> HashSet<u64> {
    let there: HashSet<u64> = tree.cgroups.iter().map(|seen| seen.id).collect();
    let could_be_seen = |(id, is_in_reach): (u64, bool)| (is_in_reach || tree.is_whole).then_some(id);
    known.filter_map(could_be_seen).filter(|id| !there.contains(id) && !before.contains(id)).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};
    use std::path::PathBuf;

    use enforcer_common::layout::{Cgroup, Owner};
    use enforcer_common::{Identity, Mode};

    use super::{Repair, Seen, Tree, lost, repairs};

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
        let tree = |has_dying, is_whole| Tree {
            cgroups: vec![seen(1, None), seen(2, Some(1)), seen(3, Some(2)), seen(4, Some(1))],
            has_dying,
            is_whole,
        };
        let right = HashMap::from([(1, cgroup(1)), (2, cgroup(2)), (3, cgroup(3)), (4, cgroup(2))]);
        for (change, has_dying, is_whole, repair) in [
            (vec![], false, true, vec![]),
            (vec![(2, None)], false, true, vec![Repair::Enter(2, cgroup(2))]),
            (vec![(3, Some(cgroup(9)))], false, true, vec![Repair::Correct(3, cgroup(3))]),
            // 8 was there before the tree was read, and 9 has come since.
            (vec![(8, Some(cgroup(1)))], false, true, vec![Repair::Forget(8)]),
            (vec![(9, Some(cgroup(1)))], false, true, vec![]),
            (vec![(8, Some(cgroup(1)))], true, true, vec![]),
            // 8 may be where the look did not reach.
            (vec![(8, Some(cgroup(1)))], false, false, vec![]),
            (vec![(2, None)], false, false, vec![Repair::Enter(2, cgroup(2))]),
        ] {
            let mut table = right.clone();
            for (id, entry) in change {
                match entry {
                    Some(entry) => table.insert(id, entry),
                    None => table.remove(&id),
                };
            }
            let before = HashSet::from([1, 2, 3, 4, 8]);
            let found = repairs(&tree(has_dying, is_whole), &before, |id| table.get(&id).copied(), expected);
            assert_eq!(found, repair, "{table:?}");
        }
    }

    #[test]
    fn what_neither_tree_nor_table_has_is_lost() {
        let before = HashSet::from([1, 2, 3]);
        for (is_whole, gone) in [(true, vec![5, 6]), (false, vec![5])] {
            let cgroups = vec![seen(1, None), seen(2, Some(1)), seen(4, Some(1))];
            let tree = Tree { cgroups, has_dying: true, is_whole };
            // 3 is dying, there was no room for 4, and 6 was too deep to be seen.
            let known = [(1, true), (2, true), (3, true), (4, true), (5, true), (6, false)];
            assert_eq!(lost(known.into_iter(), &tree, &before), HashSet::from_iter(gone), "{is_whole}");
        }
    }
}
