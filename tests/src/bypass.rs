//! The bypass corpus: programs that try, on the running kernel, to reach a service that they may not call.
//!
//! Each technique is a file of `tests/bypass/` that says in one sentence what it tries and why it might work. This module
//! has every one of them tried three times: without an enforcer, where it must get through, since it would show nothing
//! otherwise; by somebody who may not call, who must fail; and by somebody who may, who must not. [`stage`] furnishes
//! the place where that happens, [`judge`] says what was wrong with an attempt, and [`table`] writes down how each ended.

pub mod judge;
pub mod stage;
pub mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use enforcer_common::Hook;
use serde::Deserialize;

use self::judge::Judgement;
use self::stage::{Outcome, Stage};
use crate::sandbox::Finished;

/// Stages that are played on at once: most of the time is spent on waiting for what is not answered.
const STAGES: usize = 4;

/// How long an attempt waits for an answer where none is to come: a packet on the loopback device is where it is going
/// before the call that sent it returns, so this only bounds what a slow answerer may take.
const BRIEFLY: Duration = Duration::from_millis(20);

/// How long it waits where an answer is to come.
const PATIENTLY: Duration = Duration::from_secs(5);

/// What a technique says of itself.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
pub struct Technique {
    /// What it tries, and why it might work.
    pub sentence: String,
    /// Families and transports, as `v4/tcp`, `mapped/udp`.
    pub paths: Vec<String>,
    /// Capabilities that it has; none, and no root, if nothing is said.
    #[serde(default)]
    pub needs: Vec<String>,
    /// Who tries it, if that is not a declared service.
    pub caller: Option<String>,
    /// Who the records name, if that is not the caller.
    pub source: Option<String>,
    /// Why it gets through, if it does: a documented limit.
    pub open: Option<String>,
    /// Why it does not get through even without an enforcer.
    pub bare: Option<String>,
    /// Why it does not get through even with permission.
    pub control: Option<String>,
    /// `many` if it makes more than one judged call.
    pub records: Option<String>,
    /// How many datagrams its one call makes, if not one.
    pub datagrams: Option<usize>,
}

/// Every technique by its name, `kind/file`.
pub type Techniques = BTreeMap<String, Technique>;

/// One or two techniques along one path.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Cell {
    /// Their names: a single one, or a way of calling and a source or destination that it is combined with.
    pub techniques: Vec<String>,
    /// Family and transport.
    pub path: String,
}

impl Cell {
    /// Its name in messages.
    pub fn name(&self) -> String {
        format!("{} over {}", self.techniques.join(" + "), self.path)
    }
}

/// Under what circumstances cells are tried.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Run {
    /// Without an enforcer.
    Bare,
    /// By those who may not call.
    Forbidden,
    /// By those who may.
    Permitted,
    /// By both, with one hook taken off.
    Without(HookName),
}

/// A hook, ordered by its name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct HookName(pub &'static str);

/// How the corpus ended.
#[derive(Default)]
pub struct Report {
    /// What the techniques say of themselves.
    pub techniques: Techniques,
    /// What is not as it should be.
    pub wrong: Vec<String>,
    /// How each single technique was blocked.
    pub blocked: BTreeMap<Cell, Judgement>,
    /// What a hook's absence changed.
    pub changed: BTreeMap<HookName, BTreeMap<Cell, Change>>,
    /// Pairs of techniques that were blocked.
    pub pairs: usize,
}

/// What became of a cell when something was broken.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Change {
    /// It is still blocked, but otherwise.
    Otherwise,
    /// What is permitted is refused.
    Refused,
    /// What is forbidden gets through.
    Opened,
}

/// What is to be tried.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Only techniques whose name contains this.
    pub only: Option<String>,
    /// Leave the pairs and the broken hooks out.
    pub singly: bool,
}

/// One part of the work: a run over some cells, on a stage that it has to itself meanwhile.
#[derive(Clone)]
struct Job {
    run: Run,
    cells: Vec<Cell>,
}

/// Tries everything that is selected.
///
/// # Errors
///
/// This host lacks something, or a program did not do its part.
pub fn run(selection: &Selection) -> anyhow::Result<Report> {
    let stages = (0..STAGES).map(|number| Stage::new(&format!("bypass{number}"))).collect::<Vec<_>>();
    let stages = stages.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
    let techniques = stages.first().context("no stage")?.techniques().clone();
    let singles = singles(&techniques, selection);
    let pairs = if selection.singly { Vec::new() } else { pairs(&techniques, selection) };
    let mut theatre = Theatre { stages, techniques: &techniques, answered: BTreeSet::new() };
    let mut done = theatre.play([shares(Run::Bare, &singles), shares(Run::Bare, &pairs)].concat())?;
    theatre.answered = done.iter().filter(|one| one.is_answered()).map(|one| one.cell.clone()).collect();
    let mut jobs = Vec::new();
    for run in [Run::Forbidden, Run::Permitted] {
        jobs.extend(shares(run, &singles));
        jobs.extend(shares(run, &pairs));
    }
    if !selection.singly {
        for hook in Hook::ALL {
            jobs.push(Job { run: Run::Without(HookName(hook.name())), cells: singles.clone() });
        }
    }
    done.extend(theatre.play(jobs)?);
    drop(theatre);
    Ok(report(techniques, &done))
}

/// Stages that are played on at the same time.
struct Theatre<'a> {
    stages: Vec<Stage>,
    techniques: &'a Techniques,
    /// Cells that are answered where nobody judges them.
    answered: BTreeSet<Cell>,
}

impl Theatre<'_> {
    /// Does every job.
    fn play(&mut self, mut jobs: Vec<Job>) -> anyhow::Result<Vec<Tried>> {
        jobs.reverse();
        let (jobs, done) = (Mutex::new(jobs), Mutex::new(Vec::new()));
        let (techniques, answered) = (self.techniques, &self.answered);
        thread::scope(|scope| {
            let workers: Vec<_> = self
                .stages
                .iter_mut()
                .map(|stage| {
                    let (jobs, done) = (&jobs, &done);
                    scope.spawn(move || work(stage, techniques, answered, jobs, done))
                })
                .collect();
            workers
                .into_iter()
                .try_for_each(|worker| worker.join().map_err(|_panic| anyhow!("a stage panicked"))?)
        })?;
        done.into_inner().map_err(|_poisoned| anyhow!("a stage panicked"))
    }
}

/// Takes jobs until there are none.
fn work(
    stage: &mut Stage,
    techniques: &Techniques,
    answered: &BTreeSet<Cell>,
    jobs: &Mutex<Vec<Job>>,
    done: &Mutex<Vec<Tried>>,
) -> anyhow::Result<()> {
    loop {
        // The lock is given back before the job is done.
        let Some(job) = lock(jobs)?.pop() else { return Ok(()) };
        let tried = play(stage, techniques, answered, job)?;
        lock(done)?.extend(tried);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> anyhow::Result<std::sync::MutexGuard<'_, T>> {
    mutex.lock().map_err(|_poisoned| anyhow!("another stage panicked"))
}

fn shares(run: Run, cells: &[Cell]) -> Vec<Job> {
    let share = |number| cells.iter().skip(number).step_by(STAGES).cloned().collect::<Vec<_>>();
    (0..STAGES).map(|number| Job { run, cells: share(number) }).filter(|job| !job.cells.is_empty()).collect()
}

fn singles(techniques: &Techniques, selection: &Selection) -> Vec<Cell> {
    let is_meant = |name: &str| selection.only.as_ref().is_none_or(|only| name.contains(only));
    let mut cells = Vec::new();
    for (name, technique) in techniques.iter().filter(|(name, _)| is_meant(name)) {
        cells.extend(
            technique.paths.iter().map(|path| Cell { techniques: vec![name.clone()], path: path.clone() }),
        );
    }
    cells
}

/// Every way of calling, source and destination with every one of the other two kinds that it goes with, each pair along
/// one path; which one, goes round.
fn pairs(techniques: &Techniques, selection: &Selection) -> Vec<Cell> {
    let is_meant = |name: &str| selection.only.as_ref().is_none_or(|only| name.contains(only));
    let plain = |technique: &Technique| technique.open.is_none() && technique.bare.is_none();
    let of = |kind: &'static str| {
        techniques.iter().filter(move |(name, technique)| name.starts_with(kind) && plain(technique))
    };
    let mut cells = Vec::new();
    let ways =
        of("ways/").flat_map(|way| of("sources/").chain(of("destinations/")).map(move |other| (way, other)));
    let sources = of("sources/").flat_map(|source| of("destinations/").map(move |other| (source, other)));
    for ((one, how), (other, with)) in ways.chain(sources) {
        let common: Vec<&String> = how.paths.iter().filter(|path| with.paths.contains(path)).collect();
        if (is_meant(one) || is_meant(other))
            && let Some(path) = common.get(cells.len() % common.len().max(1))
        {
            cells.push(Cell { techniques: vec![one.clone(), other.clone()], path: (*path).clone() });
        }
    }
    cells
}

/// One cell of one run, and how it ended.
struct Tried {
    run: Run,
    cell: Cell,
    forbidden: Option<Outcome>,
    permitted: Option<Outcome>,
    wrong: Vec<String>,
}

impl Tried {
    fn is_answered(&self) -> bool {
        self.forbidden.as_ref().is_some_and(Outcome::is_answered)
    }
}

fn play(
    stage: &mut Stage,
    techniques: &Techniques,
    answered: &BTreeSet<Cell>,
    job: Job,
) -> anyhow::Result<Vec<Tried>> {
    let mut tried = Vec::new();
    let mut scene = stage.open(job.run)?;
    for cell in job.cells {
        let mut one =
            Tried { run: job.run, cell: cell.clone(), forbidden: None, permitted: None, wrong: Vec::new() };
        let told: Vec<&Technique> = cell.techniques.iter().filter_map(|name| techniques.get(name)).collect();
        let mut ask = |permitted: bool, patience| {
            scene.attempt(&cell, &told, permitted, patience).with_context(|| cell.name())
        };
        match job.run {
            Run::Bare => {
                let outcome = ask(false, BRIEFLY * 5)?;
                // Not every pair gets through by itself; where it does not, nothing is asked of the enforcer.
                if let [_] = told.as_slice() {
                    one.wrong = judge::bare(&told, &outcome);
                }
                one.forbidden = Some(outcome);
            }
            Run::Forbidden => {
                let outcome = ask(false, BRIEFLY)?;
                one.wrong = judge::forbidden(&told, &outcome);
                one.forbidden = Some(outcome);
            }
            Run::Permitted => {
                let is_pair = told.len() > 1;
                let gets_through = answered.contains(&cell) || !is_pair;
                let is_awaited = gets_through && told.iter().all(|one| one.control.is_none());
                let outcome = ask(true, if is_awaited { PATIENTLY } else { BRIEFLY })?;
                one.wrong = judge::permitted_pair(&told, &outcome, gets_through);
                one.permitted = Some(outcome);
            }
            Run::Without(_) => {
                one.forbidden = Some(ask(false, BRIEFLY)?);
                one.permitted = Some(ask(true, BRIEFLY)?);
            }
        }
        tried.push(one);
    }
    let finished: Option<Finished> = scene.close()?;
    if let Some(finished) = finished {
        finished.check_totals()?;
    }
    Ok(tried)
}

fn report(techniques: Techniques, done: &[Tried]) -> Report {
    let mut report = Report { techniques, ..Report::default() };
    let mut whole: BTreeMap<Cell, (Option<Outcome>, Option<Outcome>)> = BTreeMap::new();
    for one in done {
        let name = one.cell.name();
        report.wrong.extend(one.wrong.iter().map(|wrong| format!("{:?}: {name}: {wrong}", one.run)));
        let single = one.cell.techniques.len() == 1;
        match one.run {
            Run::Bare | Run::Without(_) => {}
            Run::Forbidden if !single => report.pairs += 1,
            Run::Permitted if !single => {}
            Run::Forbidden => {
                if let Some(outcome) = &one.forbidden {
                    report.blocked.insert(one.cell.clone(), Judgement::of(outcome));
                }
                whole.entry(one.cell.clone()).or_default().0.clone_from(&one.forbidden);
            }
            Run::Permitted => whole.entry(one.cell.clone()).or_default().1.clone_from(&one.permitted),
        }
    }
    for one in done {
        let Run::Without(hook) = one.run else { continue };
        let changes = report.changed.entry(hook).or_default();
        let (Some(before), Some(forbidden), Some(permitted)) =
            (whole.get(&one.cell), &one.forbidden, &one.permitted)
        else {
            continue;
        };
        let (Some(refused), Some(passed)) = (&before.0, &before.1) else { continue };
        let change = if forbidden.reached() && !refused.reached() {
            Some(Change::Opened)
        } else if passed.reached() && !permitted.reached() {
            Some(Change::Refused)
        } else if refused.signature() != forbidden.signature() {
            Some(Change::Otherwise)
        } else {
            None
        };
        if let Some(change) = change {
            changes.insert(one.cell.clone(), change);
        }
    }
    for (hook, changes) in &report.changed {
        if changes.is_empty() {
            report.wrong.push(format!("without {}: nothing in the corpus tells", hook.0));
        }
    }
    report
}
