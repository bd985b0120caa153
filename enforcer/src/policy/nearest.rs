//! What keeps a selector from naming a cgroup that looks as if it should.

use super::selector::{self, Selector};

/// How a cgroup misses a selector, the nearest first.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Miss {
    /// How far away it is: 1 is a slip, 3 a resemblance.
    pub distance: u8,
    /// What keeps the selector from it, as a clause.
    pub why: String,
}

/// How the cgroup at `path`, or one that it lies in, misses `selector`; none if it matches or is nothing like it.
pub fn miss(selector: &Selector, path: &str) -> Option<Miss> {
    if selector.claims(path.as_bytes()) {
        return None;
    }
    let segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
    match selector {
        Selector::Systemd(unit) => misplaced(unit, &segments).or_else(|| misnamed(unit, &segments)),
        Selector::Cgroup(pattern) => {
            let wanted: Vec<&str> = pattern.split('/').skip(1).collect();
            one_segment(&wanted, &segments)
                .or_else(|| above(&wanted, &segments))
                .or_else(|| elsewhere(&wanted, &segments))
        }
        // A path says nothing of what a runtime calls a container.
        Selector::Container(_) => None,
    }
}

/// A unit of the right name that is none of the system's manager.
fn misplaced(unit: &str, segments: &[&str]) -> Option<Miss> {
    let at = segments
        .iter()
        .position(|segment| Selector::Systemd(unit.to_owned()).matches(format!("/{segment}").as_bytes()))?;
    let around = segments[..at].iter().find(|segment| !segment.ends_with(".slice"))?;
    let found = segments[at];
    let why = if around.starts_with("user@") {
        format!("`{found}` is under a user manager, `{around}`, and not a unit of the system")
    } else {
        format!("`{found}` lies in `{around}`, which is no slice, so it is not a unit of the system")
    };
    Some(Miss { distance: 1, why })
}

/// A unit of a name like the right one.
fn misnamed(unit: &str, segments: &[&str]) -> Option<Miss> {
    let (stem, kind) = unit.rsplit_once('.')?;
    segments
        .iter()
        .filter_map(|segment| {
            let (found, found_kind) = segment.rsplit_once('.')?;
            if found == stem && found_kind != kind {
                let why = format!("the unit is called `{segment}`: it is a {found_kind} and not a {kind}");
                return Some(Miss { distance: 2, why });
            }
            if found_kind != kind {
                return None;
            }
            if let Some((template, _)) = found.split_once('@')
                && template == stem
            {
                let why = format!("`{segment}` is an instance: `{template}@*.{kind}` selects those");
                return Some(Miss { distance: 1, why });
            }
            if stem.split_once('@').is_some_and(|(template, _)| template == found) {
                let why = format!("`{segment}` is no instance: `{found}.{kind}` selects it");
                return Some(Miss { distance: 1, why });
            }
            alike(stem, found).then(|| Miss { distance: 2, why: format!("the unit is called `{segment}`") })
        })
        .min()
}

/// Names that differ by a slip of the fingers.
fn alike(wanted: &str, found: &str) -> bool {
    let long_enough = wanted.len().min(found.len()) > 3;
    strsim::osa_distance(wanted, found) <= if long_enough { 2 } else { 1 }
}

/// As deep as the selector, and different in one segment only.
fn one_segment(wanted: &[&str], segments: &[&str]) -> Option<Miss> {
    if wanted.contains(&"**") || segments.len() < wanted.len() {
        return None;
    }
    let mut differing = wanted
        .iter()
        .zip(segments)
        .filter(|(glob, segment)| !selector::glob_matches(glob.as_bytes(), segment.as_bytes()));
    let (glob, segment) = differing.next()?;
    if differing.next().is_some() {
        return None;
    }
    let resembles = alike(glob, segment);
    // Of a path of one or two segments every other one would be a near miss.
    if wanted.len() < 3 && !resembles {
        return None;
    }
    let why = format!("it differs in one segment: `{segment}` where the selector has `{glob}`");
    Some(Miss { distance: if resembles { 1 } else { 2 }, why })
}

/// The cgroup right above the one that the selector names.
fn above(wanted: &[&str], segments: &[&str]) -> Option<Miss> {
    let matches = wanted.len() == segments.len() + 1
        && !segments.is_empty()
        && !wanted.contains(&"**")
        && wanted
            .iter()
            .zip(segments)
            .all(|(glob, segment)| selector::glob_matches(glob.as_bytes(), segment.as_bytes()));
    let last = wanted.last().filter(|_| matches)?;
    Some(Miss { distance: 2, why: format!("it lies above the selected cgroup, `{last}`") })
}

/// The right path, but not from the top of the tree.
fn elsewhere(wanted: &[&str], segments: &[&str]) -> Option<Miss> {
    let selector = Selector::Cgroup(format!("/{}", wanted.join("/")));
    (1..segments.len()).find_map(|start| {
        let rest = format!("/{}", segments[start..].join("/"));
        if !selector.claims(rest.as_bytes()) {
            return None;
        }
        let around = segments[..start].join("/");
        let why = format!("the selector begins at the top of the tree, and this lies below `/{around}`");
        Some(Miss { distance: 2, why })
    })
}

#[cfg(test)]
mod tests {
    use super::{Miss, miss};
    use crate::policy::Selector;

    #[test]
    fn a_near_miss_says_what_is_missed() {
        let unit = |unit: &str| Selector::parse_systemd(unit).unwrap_or_else(|err| panic!("{}", err.message));
        let cgroup =
            |path: &str| Selector::parse_cgroup(path).unwrap_or_else(|err| panic!("{}", err.message));
        for (selector, path, expected) in [
            (unit("nginx.service"), "/system.slice/nginx.service/worker", None),
            (
                unit("nginx.service"),
                "/user.slice/user-1000.slice/user@1000.service/app.slice/nginx.service",
                Some((
                    1,
                    "`nginx.service` is under a user manager, `user@1000.service`, and not a unit of the system",
                )),
            ),
            (
                unit("nginx.service"),
                "/docker/4f/system.slice/nginx.service",
                Some((
                    1,
                    "`nginx.service` lies in `docker`, which is no slice, so it is not a unit of the system",
                )),
            ),
            (
                unit("nginx.service"),
                "/system.slice/nginx.scope",
                Some((2, "the unit is called `nginx.scope`: it is a scope and not a service")),
            ),
            (
                unit("payments.service"),
                "/system.slice/payments@eu.service",
                Some((1, "`payments@eu.service` is an instance: `payments@*.service` selects those")),
            ),
            (
                unit("payments@*.service"),
                "/system.slice/payments.service",
                Some((1, "`payments.service` is no instance: `payments.service` selects it")),
            ),
            (
                unit("nginx.service"),
                "/system.slice/ngnix.service",
                Some((2, "the unit is called `ngnix.service`")),
            ),
            (unit("nginx.service"), "/system.slice/cron.service", None),
            (unit("web.service"), "/system.slice/ssh.service", None),
            (
                cgroup("/shop.slice/eu/orders-*.scope"),
                "/shop.slice/us/orders-1.scope/worker",
                Some((2, "it differs in one segment: `us` where the selector has `eu`")),
            ),
            (
                cgroup("/shop.slice/eu/orders"),
                "/shop.slice/eu/payments",
                Some((2, "it differs in one segment: `payments` where the selector has `orders`")),
            ),
            (cgroup("/shop.slice/orders"), "/shop.slice/payments", None),
            (
                cgroup("/shop.slice/orders"),
                "/shop.slice/ordres",
                Some((1, "it differs in one segment: `ordres` where the selector has `orders`")),
            ),
            (
                cgroup("/shop.slice/orders"),
                "/shop.slice",
                Some((2, "it lies above the selected cgroup, `orders`")),
            ),
            (
                cgroup("/shop.slice/orders"),
                "/machine.slice/one/shop.slice/orders/worker",
                Some((
                    2,
                    "the selector begins at the top of the tree, and this lies below `/machine.slice/one`",
                )),
            ),
            (cgroup("/pool/**/worker"), "/other/worker", None),
            (cgroup("/shop.slice"), "/", None),
        ] {
            let expected = expected.map(|(distance, why)| Miss { distance, why: why.to_owned() });
            assert_eq!(miss(&selector, path), expected, "{selector} and {path}");
        }
    }
}
