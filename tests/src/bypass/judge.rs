//! What an attempt must come to, and what is wrong with one that does not.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::ensure;
use enforcer_common::Reason;

use super::Technique;
use super::stage::Outcome;
use crate::sandbox::Finished;
use crate::slowness::patience;

/// A refusal takes less: it is an answer, not a time-out. On a machine with something else to do that is a long time.
const AT_ONCE: Duration = Duration::from_millis(500);

/// How an attempt was blocked, for the table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Judgement {
    /// The hooks that refused, or `kernel`, `nobody`, `open`, `absent`.
    pub by: String,
    /// The errno, or `dropped`.
    pub how: String,
}

impl Judgement {
    /// What is to be said of an outcome; which hook refused is not said where that is drawn by lot.
    pub fn of(outcome: &Outcome, is_drawn: bool) -> Self {
        let told = &outcome.told;
        let how = match (told.end.as_str(), &told.errno) {
            ("errno", Some(errno)) => errno.clone(),
            ("silent", _) => String::from("dropped"),
            (end, _) => end.to_owned(),
        };
        if told.end == "absent" {
            return Self { by: String::from("absent"), how: told.text.clone().unwrap_or_default() };
        }
        if outcome.reached() {
            return Self { by: String::from("open"), how: String::new() };
        }
        if is_drawn {
            return Self { by: String::from("call or ingress"), how: String::from("EPERM or dropped") };
        }
        // A connection that is open already is closed by no hook, but for a cause.
        let blockers = outcome.records.iter().flat_map(|record| [&record["hook"], &record["cause"]]);
        let mut hooks: Vec<&str> = blockers.filter_map(|blocker| blocker.as_str()).collect();
        hooks.sort_unstable();
        hooks.dedup();
        let by = if hooks.is_empty() { String::from("kernel") } else { hooks.join(", ") };
        Self { by, how }
    }
}

/// Without an enforcer it gets through, unless it says why not.
pub fn bare(techniques: &[&Technique], outcome: &Outcome) -> Vec<String> {
    let mut wrong = defects(outcome);
    let blocked = techniques.iter().find_map(|technique| technique.bare.as_ref());
    match blocked {
        _ if outcome.told.end == "absent" => {}
        None if !outcome.reached() => {
            wrong.push(format!("it does not get through without an enforcer either: {:?}", outcome.told));
        }
        Some(why) if outcome.reached() => wrong.push(format!("it gets through, though {why}")),
        None | Some(_) => {}
    }
    wrong
}

/// Of what is forbidden the vault gets nothing, the caller hears of it at once, and one record names him.
pub fn forbidden(techniques: &[&Technique], outcome: &Outcome) -> Vec<String> {
    let mut wrong = defects(outcome);
    if outcome.told.end == "absent" {
        return wrong;
    }
    let open = techniques.iter().any(|technique| technique.open.is_some());
    if outcome.reached() != open {
        let (told, got) = (&outcome.told, &outcome.got);
        let problem = if open { "it is said to be open, and is not" } else { "IT GOT THROUGH" };
        wrong.push(format!("{problem}: {told:?}, the vault got {got:?}, records {:?}", outcome.records));
    }
    let refused = outcome.told.errno.as_deref() == Some("EPERM");
    let took = Duration::from_secs_f64(outcome.told.ms / 1000.0);
    if refused && took > patience(AT_ONCE) {
        wrong.push(format!("the refusal took {took:?}"));
    }
    wrong.extend(records(techniques, outcome, open));
    wrong
}

fn records(techniques: &[&Technique], outcome: &Outcome, open: bool) -> Vec<String> {
    let mut wrong = Vec::new();
    let names =
        |word: &str| techniques.iter().any(|technique| technique.source.iter().any(|source| source == word));
    let mut sources = vec![outcome.cast.caller];
    sources.extend(["unknown", "world", "vault"].into_iter().filter(|word| names(word)));
    if names("client") {
        sources = vec![outcome.cast.client];
    }
    for record in &outcome.records {
        let service = record["source"]["service"].as_str().unwrap_or_default();
        // Where a task calls, it is known who that is; a packet may come from nobody that can be told.
        let is_told = record["hook"] == "ingress" || !["unknown", "world"].contains(&service);
        let is_true = sources.contains(&service) || (service == "unmanaged" && sources.contains(&"stranger"));
        let is_helper = names("helper") && record["hook"] != "ingress" && service == outcome.cast.helper;
        let is_true = (is_true && is_told) || is_helper;
        if record["verdict"] != "deny" || !is_true {
            wrong.push(format!("a record does not name {sources:?} as refused: {record}"));
        }
        let pid = record["process"]["pid"].as_u64();
        if pid.is_some_and(|pid| !outcome.told.pids.contains(&pid)) {
            wrong.push(format!("a record names none of the processes {:?}: {record}", outcome.told.pids));
        }
    }
    for technique in techniques {
        let Some(reason) = &technique.reason else { continue };
        let others = outcome.records.iter().filter(|record| record["reason"] != reason.as_str());
        wrong.extend(others.map(|record| format!("a record gives another reason than {reason}: {record}")));
    }
    let many = techniques.iter().any(|technique| technique.records.is_some());
    let by_kernel = techniques.iter().any(|technique| technique.bare.is_some())
        || (outcome.told.errno.as_deref().is_some_and(|errno| errno != "EPERM") && !outcome.told.closed);
    // A call is judged once, and each of its datagrams where it arrives.
    let datagrams = techniques.iter().filter_map(|technique| technique.datagrams).max().unwrap_or(1);
    let arrived = outcome.records.iter().filter(|record| record["hook"] == "ingress").count();
    match outcome.records.len() {
        0 if open || by_kernel => {}
        0 => wrong.push(format!("no record tells of it: {:?}", outcome.told)),
        _ if many => {}
        1 if arrived == 0 => {}
        number if number == arrived && number == datagrams => {}
        number => wrong.push(format!("{number} records tell of it: {:#?}", outcome.records)),
    }
    wrong
}

/// What was counted as refused by the end of a run, by reason, was recorded under that reason. More may have been recorded
/// since, but not of packets that nothing can read: nobody sends them but the techniques.
///
/// # Errors
///
/// Says which number is not as it should be.
pub fn counters(finished: &Finished, counted: &BTreeMap<String, u64>) -> anyhow::Result<()> {
    let mut recorded: BTreeMap<String, u64> = BTreeMap::new();
    for record in finished.attempts().filter(|record| record["verdict"] == "deny") {
        *recorded.entry(record["reason"].as_str().unwrap_or_default().to_owned()).or_default() += 1;
    }
    for (reason, counted) in counted {
        let told = recorded.get(reason).copied().unwrap_or(0);
        let is_right = if reason == Reason::Unparsable.code() { told == *counted } else { told >= *counted };
        ensure!(is_right, "{counted} refusals are counted as {reason}, and {told} recorded");
    }
    let unread = recorded.get(Reason::Unparsable.code()).copied().unwrap_or(0);
    ensure!(
        unread == counted.get(Reason::Unparsable.code()).copied().unwrap_or(0),
        "{unread} packets are recorded as unparsable, and not all are counted"
    );
    Ok(())
}

/// What is permitted gets as far as without an enforcer.
pub fn permitted_pair(techniques: &[&Technique], outcome: &Outcome, gets_through: bool) -> Vec<String> {
    if gets_through { permitted(techniques, outcome) } else { defects(outcome) }
}

/// What is permitted gets through, unless it says why not, and nothing is recorded as refused.
pub fn permitted(techniques: &[&Technique], outcome: &Outcome) -> Vec<String> {
    let mut wrong = defects(outcome);
    let blocked = techniques.iter().find_map(|technique| technique.control.as_ref());
    let oneway = techniques.iter().any(|technique| technique.oneway.is_some());
    let is_drawn = techniques.iter().any(|technique| technique.lots.is_some());
    match blocked {
        _ if outcome.told.end == "absent" => {}
        None if oneway && !outcome.got.is_empty() && outcome.records.is_empty() => {}
        None if outcome.told.end != "answered" => wrong.push(format!(
            "with permission it does not get through: {:?}, the vault got {:?}, records {:?}",
            outcome.told, outcome.got, outcome.records
        )),
        None if !outcome.records.is_empty() => {
            wrong.push(format!("with permission something is refused: {:?}", outcome.records));
        }
        Some(why) if outcome.reached() && !is_drawn => {
            wrong.push(format!("with permission it gets through, though {why}"));
        }
        None | Some(_) => {}
    }
    wrong
}

fn defects(outcome: &Outcome) -> Vec<String> {
    let told = &outcome.told;
    match told.end.as_str() {
        "errno" | "silent" | "answered" | "absent" => Vec::new(),
        "broken" => vec![format!("the technique is broken: {}", told.text.as_deref().unwrap_or("?"))],
        other => vec![other.to_owned()],
    }
}
