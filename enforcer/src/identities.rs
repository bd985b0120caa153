//! Which number stands for which name, across every revision of the policy.

use enforcer_common::Identity;
use indexmap::IndexSet;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

/// Numbers interned by name: services and sets of networks.
///
/// A name never gets another number, and the number of a name that vanished is not given to another one: an event
/// or a map entry of an earlier revision never speaks of somebody else.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identities {
    /// A name's place is its number.
    #[serde(deserialize_with = "distinct")]
    services: IndexSet<String>,
    /// The names of each set, joined by [`Identities::SEPARATOR`].
    #[serde(deserialize_with = "distinct")]
    network_sets: IndexSet<String>,
}

impl Identities {
    /// Stands between the names of a set of networks, and in no name.
    pub const SEPARATOR: &str = ",";

    /// The identity of the service `name`, or `None` if all numbers are taken.
    pub fn intern_service(&mut self, name: &str) -> Option<Identity> {
        intern(&mut self.services, name, Identity::service)
    }

    /// The identity of addresses that are in exactly the networks `names`, which are sorted; [`Identity::WORLD`] for
    /// none. `None` if all numbers are taken.
    pub fn intern_network_set(&mut self, names: &[&str]) -> Option<Identity> {
        if names.is_empty() {
            return Some(Identity::WORLD);
        }
        intern(&mut self.network_sets, &names.join(Self::SEPARATOR), Identity::network)
    }

    /// The name behind a number; for a set of networks their names, joined by commas. `None` for a number that was
    /// never given out.
    pub fn name(&self, identity: Identity) -> Option<&str> {
        match identity {
            Identity::UNKNOWN => Some("unknown"),
            Identity::UNMANAGED => Some("unmanaged"),
            Identity::WORLD => Some("world"),
            Identity::PENDING => Some("pending"),
            service if service.is_service() => nth(&self.services, service, Identity::service(0)?),
            network if network.is_network() => nth(&self.network_sets, network, Identity::network(0)?),
            _ => None,
        }
    }
}

fn intern(
    names: &mut IndexSet<String>,
    name: &str,
    identity: impl Fn(u32) -> Option<Identity>,
) -> Option<Identity> {
    if let Some(index) = names.get_index_of(name) {
        return identity(u32::try_from(index).ok()?);
    }
    let identity = identity(u32::try_from(names.len()).ok()?)?;
    names.insert(name.to_owned());
    Some(identity)
}

fn nth(names: &IndexSet<String>, identity: Identity, first: Identity) -> Option<&str> {
    let index = identity.raw().checked_sub(first.raw())?;
    names.get_index(usize::try_from(index).ok()?).map(String::as_str)
}

/// A name that stands twice would shift the numbers of all that follow.
fn distinct<'de, D: Deserializer<'de>>(deserializer: D) -> Result<IndexSet<String>, D::Error> {
    let names = Vec::<String>::deserialize(deserializer)?;
    let mut set = IndexSet::with_capacity(names.len());
    for name in names {
        if let (index, false) = set.insert_full(name) {
            return Err(D::Error::custom(format_args!("name number {index} stands twice")));
        }
    }
    Ok(set)
}

#[cfg(test)]
mod tests {
    use super::Identities;
    use enforcer_common::Identity;

    #[test]
    fn a_name_keeps_its_number_and_no_other_name_gets_it() {
        let mut identities = Identities::default();
        let web = identities.intern_service("web");
        let db = identities.intern_service("db");
        let stripe = identities.intern_network_set(&["stripe"]);
        let both = identities.intern_network_set(&["office", "stripe"]);
        assert_eq!(identities.intern_service("web"), web);
        assert_eq!(identities.intern_service("db"), db);
        assert_eq!(identities.intern_network_set(&["stripe"]), stripe);
        assert_eq!(identities.intern_network_set(&["office", "stripe"]), both);
        let all = [web, db, stripe, both, identities.intern_service("stripe")];
        for (index, identity) in all.iter().enumerate() {
            assert!(identity.is_some());
            assert!(!all[..index].contains(identity), "{all:?}");
        }
    }

    #[test]
    fn every_number_that_was_given_out_has_a_name() {
        let mut identities = Identities::default();
        let web = identities.intern_service("web").expect("numbers left");
        let both = identities.intern_network_set(&["office", "stripe"]).expect("numbers left");
        for (identity, name) in [
            (web, Some("web")),
            (both, Some("office,stripe")),
            (Identity::UNKNOWN, Some("unknown")),
            (Identity::UNMANAGED, Some("unmanaged")),
            (Identity::WORLD, Some("world")),
            (Identity::PENDING, Some("pending")),
            (Identity::from_raw(4), None),
            (Identity::from_raw(web.raw() + 1), None),
            (Identity::from_raw(both.raw() + 1), None),
            (Identity::from_raw(u32::MAX), None),
        ] {
            assert_eq!(identities.name(identity), name, "{identity:?}");
        }
        assert_eq!(identities.intern_network_set(&[]), Some(Identity::WORLD));
    }

    #[test]
    fn numbers_survive_being_written_and_read() {
        let mut identities = Identities::default();
        let web = identities.intern_service("web");
        let stripe = identities.intern_network_set(&["stripe"]);
        let text = serde_json::to_string(&identities).expect("plain lists");
        let mut read: Identities = serde_json::from_str(&text).expect("what was written");
        assert_eq!(read, identities);
        assert_eq!(read.intern_service("db"), Identity::service(1));
        assert_eq!(read.intern_service("web"), web);
        assert_eq!(read.intern_network_set(&["stripe"]), stripe);
    }

    #[test]
    fn a_file_that_would_shift_numbers_is_refused() {
        for text in [
            r#"{"services":["web","web","db"],"network_sets":[]}"#,
            r#"{"services":[],"network_sets":["a","a"]}"#,
            r#"{"services":[]}"#,
        ] {
            assert!(serde_json::from_str::<Identities>(text).is_err(), "{text}");
        }
    }
}
