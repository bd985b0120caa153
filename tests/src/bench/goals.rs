//! What is wanted of the figures, and whether they show it. A goal is met if the unfavourable end of its interval meets it.

use serde::Serialize;

use super::Metric;
use super::figures::Figure;
use super::report::{Report, bytes, duration, scaled};
use super::variant::Variant;

/// A goal, and what was measured of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Goal {
    /// Its number.
    pub id: &'static str,
    /// What is wanted.
    pub wanted: String,
    /// What was measured.
    pub found: String,
    /// Whether it is met.
    pub met: bool,
    /// How enforcer stands to empty programs on the same hooks, where it falls short of a ratio: the rest is the hooks'.
    pub of_floor: Option<Figure>,
}

impl Goal {
    /// Whether it is met, or else less than a hundredth is missing to what empty programs on the same hooks make.
    pub const fn word(&self) -> &'static str {
        match self {
            Self { met: true, .. } => "met",
            Self { of_floor: Some(Figure { low: NEAR.., .. }), .. } => "at the limit",
            _ => "NOT MET",
        }
    }
}

/// What counts as being at the limit of the hooks.
const NEAR: f64 = 0.99;

/// Every goal of which something was measured.
pub fn judge(report: &Report) -> Vec<Goal> {
    let mut goals = Vec::new();
    let mut sizes: Vec<usize> =
        report.series.iter().filter(|s| s.metric == Metric::Connect).map(|s| s.rules).collect();
    sizes.sort_unstable();
    sizes.dedup();
    let at_least = |id, metric: Metric, rules, against: Variant, least: f64| {
        let ratio = report.ratio(metric, rules, Variant::Enforcer, against)?;
        let words =
            format!("{}, {} rules, of {}", metric.name(), scaled(count(rules)).trim(), against.name());
        let mut goal = ratio_goal(id, &words, &ratio, least);
        if !goal.met {
            goal.of_floor = report.ratio(metric, rules, Variant::Enforcer, Variant::Floor);
        }
        Some(goal)
    };
    goals.extend(
        sizes.iter().filter_map(|rules| at_least("P1", Metric::Connect, *rules, Variant::None, 0.97)),
    );
    goals.extend(flat(report, &sizes));
    goals.extend(
        sizes.iter().filter_map(|rules| at_least("P3", Metric::Connect, *rules, Variant::NftSet, 0.98)),
    );
    for (rules, least) in [(1000, 2.4), (10_000, 14.0)] {
        goals.extend(at_least("P4", Metric::Connect, rules, Variant::NftLinearLast, least));
    }
    goals.extend(program_time(report));
    goals.extend(at_least("P6", Metric::RoundTrip, 10, Variant::None, 0.985));
    goals.extend(at_least("P7", Metric::Datagram, 10, Variant::None, 0.82));
    goals.extend(at_least("P7", Metric::Datagram, 10, Variant::NftSet, 0.88));
    goals.extend(at_least("P8", Metric::Stream, 10, Variant::None, 0.97));
    goals.extend(refusals(report));
    goals.extend(loads(report));
    goals.extend(changes(report));
    goals.extend(audit(report));
    goals.extend(at_least("P14", Metric::Connect, 10, Variant::Proxies, 10.0));
    goals.extend(at_least("P14", Metric::RoundTrip, 10, Variant::Proxies, 3.0));
    goals.extend(at_least("P15", Metric::Connect, 10, Variant::Nfqueue, 3.0));
    goals.extend(tail(report));
    goals.extend(idle(report));
    goals.extend(at_least("P16", Metric::Unmanaged, 10, Variant::None, 0.995));
    goals.extend(at_least("P16", Metric::Outside, 10, Variant::None, 0.995));
    goals
}

fn ratio_goal(id: &'static str, what: &str, ratio: &Figure, least: f64) -> Goal {
    Goal {
        id,
        wanted: format!("{what}: >= {least}"),
        found: format!("{:.3} ({:.3}-{:.3})", ratio.median, ratio.low, ratio.high),
        met: ratio.low >= least,
        of_floor: None,
    }
}

fn flat(report: &Report, sizes: &[usize]) -> Option<Goal> {
    let (least, most) = (*sizes.first()?, *sizes.last()?);
    if least == most {
        return None;
    }
    let ratio = |rules| report.ratio(Metric::Connect, rules, Variant::Enforcer, Variant::None);
    let (first, last) = (ratio(least)?, ratio(most)?);
    let flat = Figure {
        median: last.median / first.median,
        low: last.low / first.median,
        high: last.high / first.median,
        samples: last.samples,
    };
    let what = format!("ratio with {} rules, of that with {least}", scaled(count(most)).trim());
    Some(ratio_goal("P2", &what, &flat, 0.98))
}

fn program_time(report: &Report) -> Option<Goal> {
    let time = |variant| {
        let found = report.programs.iter().find(|p| p.metric == Metric::Connect && p.variant == variant);
        found.map(|programs| programs.nanoseconds)
    };
    let audited = time(Variant::EnforcerAudit)?;
    let found = match (time(Variant::Floor), time(Variant::Lookups)) {
        (Some(empty), Some(lookups)) => {
            let [audited, empty, lookups] = [audited, empty, lookups].map(duration);
            format!("{audited} (empty programs {empty}, with look-ups of both ends {lookups})")
        }
        _ => duration(audited),
    };
    Some(Goal {
        id: "P5",
        wanted: String::from("time of programs for a connection, with its record: <= 800 ns"),
        found,
        met: audited <= 800.0,
        of_floor: None,
    })
}

fn refusals(report: &Report) -> Option<Goal> {
    let refused = report.find(Metric::Refused, 10, Variant::Enforcer)?;
    let made = report.find(Metric::Connect, 10, Variant::Enforcer)?;
    let times: Vec<f64> = refused.per_second.iter().zip(&made.per_second).map(|(r, m)| r / m).collect();
    Some(ratio_goal("P9", "refused connects, of successful ones", &Figure::of(&times)?, 5.0))
}

fn tail(report: &Report) -> Option<Goal> {
    let p99 = |variant| Figure::of(&report.find(Metric::Connect, 10, variant)?.p99);
    let (ours, theirs) = (p99(Variant::Enforcer)?, p99(Variant::Nfqueue)?);
    Some(Goal {
        id: "P15",
        wanted: String::from("p99 of connect, of the verdict loop's: <= 0.2"),
        found: format!("{:.3}", ours.median / theirs.median),
        met: ours.high / theirs.low <= 0.2,
        of_floor: None,
    })
}

fn loads(report: &Report) -> Vec<Goal> {
    let of = |variant, rules| {
        let found: Vec<_> =
            report.loads.iter().filter(|load| (load.variant, load.rules) == (variant, rules)).collect();
        let seconds: Vec<f64> = found.iter().map(|load| load.seconds).collect();
        let memory: Vec<f64> = found.iter().map(|load| load.memory).collect();
        Some((Figure::of(&seconds)?, Figure::of(&memory)?))
    };
    let rules = 1_000_000;
    let (Some((ours, our_memory)), Some((theirs, their_memory))) =
        (of(Variant::Enforcer, rules), of(Variant::NftSet, rules))
    else {
        return Vec::new();
    };
    let goal = |wanted: &str, found: String, met| Goal {
        id: "P10",
        wanted: wanted.to_owned(),
        found,
        met,
        of_floor: None,
    };
    let (time, memory) = (ours.median / theirs.median, our_memory.median / their_memory.median);
    vec![
        goal("1 M rules in force: <= 2.5 s", duration(ours.median * 1e9), ours.high <= 2.5),
        goal(
            "1 M rules in force, of nft's time: <= 0.4",
            format!("{time:.2}"),
            ours.high / theirs.low <= 0.4,
        ),
        goal(
            "1 M rules in force, of nft's memory: <= 0.33",
            format!("{memory:.2} ({} of {})", bytes(our_memory.median), bytes(their_memory.median)),
            memory <= 1.0 / 3.0,
        ),
    ]
}

fn changes(report: &Report) -> Option<Goal> {
    let seconds: Vec<f64> = report
        .changes
        .iter()
        .filter(|change| change.rules == 1_000_000 && change.files > 1 && !change.first)
        .map(|change| change.seconds)
        .collect();
    let figure = Figure::of(&seconds)?;
    Some(Goal {
        id: "P11",
        wanted: String::from("a change of one rule in 1 M, in files of 1,000: <= 30 ms"),
        found: duration(figure.median * 1e9),
        met: figure.high <= 0.030,
        of_floor: None,
    })
}

fn audit(report: &Report) -> Option<Goal> {
    let longest = report.audits.iter().max_by(|a, b| a.seconds.total_cmp(&b.seconds))?;
    Some(Goal {
        id: "P12",
        wanted: String::from("200 k events/s written for 60 s, none lost, <= 0.6 CPU"),
        found: format!(
            "{}/s for {:.0} s, {:.0} lost, {:.2} CPU",
            scaled(longest.events),
            longest.seconds,
            longest.lost,
            longest.cpus
        ),
        met: longest.events >= 198_000.0
            && longest.seconds >= 60.0
            && longest.lost == 0.0
            && longest.cpus <= 0.6,
        of_floor: None,
    })
}

fn idle(report: &Report) -> Option<Goal> {
    let idle = report.uses.iter().find(|found| found.rules == 10_000 && found.connections == 0.0)?;
    Some(Goal {
        id: "P16",
        wanted: String::from("idle daemon with 10 k rules: no wake-ups, <= 25 MB"),
        found: format!("{:.1} wake-ups/s, {}", idle.wakeups, bytes(idle.memory)),
        met: idle.wakeups < 0.5 && idle.memory <= 25e6,
        of_floor: None,
    })
}

fn count(number: usize) -> f64 {
    u32::try_from(number).map_or(f64::INFINITY, f64::from)
}

#[cfg(test)]
mod tests {
    use super::super::Metric;
    use super::super::report::{Environment, Report, Series};
    use super::super::variant::Variant;
    use super::judge;

    fn report(enforcer: f64) -> Report {
        with_floor(enforcer, 98.0)
    }

    fn with_floor(enforcer: f64, floor: f64) -> Report {
        let mut report = Report::new(Environment::default());
        let rates = [(Variant::None, 100.0), (Variant::Enforcer, enforcer), (Variant::Floor, floor)];
        for (variant, rate) in rates {
            let mut series = Series::new(Metric::Connect, 10, variant);
            series.per_second = vec![rate; 9];
            report.series.push(series);
        }
        report
    }

    #[test]
    fn the_low_end_decides_and_the_floor_is_told_where_it_falls_short() {
        let met = judge(&report(97.5));
        assert_eq!(
            met.iter().map(|goal| (goal.id, goal.met, goal.of_floor)).collect::<Vec<_>>(),
            [("P1", true, None)]
        );
        assert_eq!(met[0].word(), "met");
        let missed = judge(&report(96.0));
        assert_eq!(missed.len(), 1);
        assert!(!missed[0].met);
        let of_floor = missed[0].of_floor.map(|floor| floor.median);
        assert!(of_floor.is_some_and(|floor| (floor - 96.0 / 98.0).abs() < 1e-9), "{missed:?}");
        assert_eq!(missed[0].word(), "NOT MET");
        // Less than a hundredth below what empty programs make.
        let near = judge(&with_floor(96.5, 97.0));
        assert_eq!((near[0].met, near[0].word()), (false, "at the limit"), "{near:?}");
        // Half of the samples far below leave the median above, and not the end of its interval.
        let mut uneven = report(97.5);
        uneven.series[1].per_second.splice(0..4, [90.0; 4]);
        assert!(!judge(&uneven)[0].met);
    }

    #[test]
    fn what_was_not_measured_is_not_judged() {
        assert_eq!(judge(&Report::new(Environment::default())), []);
    }
}
