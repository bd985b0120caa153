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
use enforcer::control::api::Limit;
use enforcer_common::{Check, Hook};
use serde::Deserialize;

use self::judge::Judgement;
use self::stage::{Outcome, Stage};

/// Stages that are played on at once: most of the time is spent on waiting for what is not answered.
const STAGES: usize = 6;

/// How often a pair is tried where it is permitted and seems not to get through.
const TRIES: usize = 3;

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
    /// Who else the records may name.
    #[serde(default)]
    pub source: Vec<String>,
    /// Why it gets through, if it does: the code of a limit, and a sentence.
    pub open: Option<String>,
    /// Why it does not get through even without an enforcer.
    pub bare: Option<String>,
    /// Why it does not get through even with permission.
    pub control: Option<String>,
    /// `many` if it makes more than one judged call.
    pub records: Option<String>,
    /// How many datagrams its one call makes, if not one.
    pub datagrams: Option<usize>,
    /// What the kernel draws by lot, so that it may be blocked by one hook or by another.
    pub drawn: Option<String>,
    /// Why a fault may change for it one thing or another, so that none is looked for.
    pub lots: Option<String>,
    /// Why its sender hears no answer, though what is permitted arrives.
    pub oneway: Option<String>,
    /// Why it is tried by itself and in no pair.
    pub alone: Option<String>,
    /// The reason that the records must give, if it says something of its own.
    pub reason: Option<String>,
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
    /// By both, with something broken.
    Broken(Fault),
}

/// Something of the enforcer's that is broken to see whether the corpus tells.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Fault {
    /// The hook of this name is off.
    Off(&'static str),
    /// This check of the decision is negated.
    Negated(Check),
}

impl Fault {
    /// Every fault.
    pub fn all() -> impl Iterator<Item = Self> {
        let hooks = Hook::ALL.into_iter().map(|hook| Self::Off(hook.name()));
        hooks.chain(Check::ALL.into_iter().map(Self::Negated))
    }

    /// Its name in output.
    pub fn name(self) -> &'static str {
        match self {
            Self::Off(hook) => hook,
            Self::Negated(check) => check.code(),
        }
    }

    /// Why nothing in the corpus can tell of it on a kernel that has everything, if so.
    pub fn excuse(self) -> Option<&'static str> {
        match self {
            Self::Negated(Check::IsInherited) => {
                Some("where the kernel identifies cgroups, none is missing from the tables")
            }
            Self::Off(_) | Self::Negated(_) => None,
        }
    }
}

/// How the corpus ended.
#[derive(Default)]
pub struct Report {
    /// What the techniques say of themselves.
    pub techniques: Techniques,
    /// What is not as it should be.
    pub wrong: Vec<String>,
    /// How each single technique was blocked.
    pub blocked: BTreeMap<Cell, Judgement>,
    /// What each fault changed.
    pub changed: BTreeMap<Fault, BTreeMap<Cell, Change>>,
    /// Pairs of techniques that were blocked.
    pub pairs: usize,
}

/// What became of a cell when something was broken.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Change {
    /// It ends as before, by another hook, for another reason or with another errno.
    Otherwise,
    /// What is permitted is refused.
    Refused,
    /// What is forbidden gets through.
    Opened,
}

impl Change {
    /// Its word in output.
    pub const fn code(self) -> &'static str {
        match self {
            Self::Otherwise => "otherwise",
            Self::Refused => "refused",
            Self::Opened => "opened",
        }
    }
}

/// What is to be tried.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Only techniques whose name contains this.
    pub only: Option<String>,
    /// Only these techniques, if any are named.
    pub named: BTreeSet<String>,
    /// Leave the pairs out.
    pub without_pairs: bool,
    /// Leave out what is broken on purpose.
    pub without_faults: bool,
}

impl Selection {
    /// Whether all there is is to be tried.
    pub fn is_whole(&self) -> bool {
        self.has_faults() && !self.without_pairs
    }

    /// Whether every technique is to be tried with every fault, so that something is wrong with one of which nothing tells.
    pub fn has_faults(&self) -> bool {
        self.has_all() && !self.without_faults
    }

    /// Whether every technique is to be tried, so that the table of what blocks them can be compared.
    pub fn has_all(&self) -> bool {
        self.only.is_none() && self.named.is_empty()
    }

    fn has(&self, name: &str) -> bool {
        self.only.as_ref().is_none_or(|only| name.contains(only))
            && (self.named.is_empty() || self.named.contains(name))
    }
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
    let pairs = if selection.without_pairs { Vec::new() } else { pairs(&techniques, selection) };
    let mut theatre = Theatre { stages, techniques: &techniques, known: Known::default() };

    let mut done = theatre.play([shares(Run::Bare, &singles), shares(Run::Bare, &pairs)].concat())?;
    for one in &done {
        if one.forbidden.as_ref().is_some_and(Outcome::is_answered) {
            theatre.known.answered.insert(one.cell.clone());
        }
    }
    let mut jobs = Vec::new();
    for run in [Run::Forbidden, Run::Permitted] {
        jobs.extend(shares(run, &singles));
        jobs.extend(shares(run, &pairs));
    }
    let judged = theatre.play(jobs)?;
    for one in judged.iter().filter(|one| one.cell.techniques.len() == 1) {
        theatre.known.whole.entry(one.cell.clone()).or_default().take(one);
    }
    done.extend(judged);
    if !selection.without_faults {
        let whole = &theatre.known.whole;
        let job = |fault| Job { run: Run::Broken(fault), cells: tell(fault, &techniques, whole) };
        let jobs: Vec<Job> = Fault::all().map(job).collect();
        done.extend(theatre.play(jobs)?);
    }
    let whole = theatre.known.whole;
    let mut report = report(techniques, &whole, &done);
    if selection.has_faults() {
        report.wrong.extend(untold(&report.changed));
    }
    Ok(report)
}

/// The cells in which a fault is looked for: not where it is the kernel that blocks, or that draws lots, nor where the
/// daemon closes what is open, by decisions that are made outside of the kernel's programs. A mapped
/// address is judged by a hook of one of the other two families, and a decision does not ask for the family at all, so that
/// one path, of the one transport for one technique and of the other for the next, tells of a check.
fn tell(fault: Fault, techniques: &Techniques, whole: &BTreeMap<Cell, Ends>) -> Vec<Cell> {
    let mut cells = Vec::new();
    let meant =
        techniques.iter().filter(|(_, technique)| technique.drawn.is_none() && technique.lots.is_none());
    for (name, technique) in meant {
        // Which of its paths a check is looked for along, so that it stays the same while others come and go.
        let number: usize = name.bytes().map(usize::from).sum();
        let mut seen = BTreeSet::new();
        let mut paths = Vec::new();
        for path in &technique.paths {
            let (family, transport) = path.split_once('/').unwrap_or_default();
            let is_first = seen.insert(transport);
            let is_meant = match fault {
                Fault::Off(_) => is_first || family != "mapped",
                Fault::Negated(_) => is_first,
            };
            paths.extend(is_meant.then_some(path));
        }
        if let Fault::Negated(_) = fault {
            let kept = paths.get(number % paths.len().max(1)).copied();
            paths = kept.into_iter().collect();
        }
        for path in paths {
            let cell = Cell { techniques: vec![name.clone()], path: path.clone() };
            let forbidden = whole.get(&cell).and_then(|ends| ends.forbidden.as_ref());
            if forbidden.is_some_and(|outcome| outcome.is_judged() && !outcome.told.closed) {
                cells.push(cell);
            }
        }
    }
    cells
}

/// Stages that are played on at the same time.
struct Theatre<'a> {
    stages: Vec<Stage>,
    techniques: &'a Techniques,
    known: Known,
}

/// What earlier runs have shown.
#[derive(Default)]
struct Known {
    /// Cells that are answered where nobody judges them.
    answered: BTreeSet<Cell>,
    /// How each single technique ends while nothing is broken.
    whole: BTreeMap<Cell, Ends>,
}

/// How a cell ended for those who may not call, and for those who may.
#[derive(Clone, Default)]
struct Ends {
    forbidden: Option<Outcome>,
    permitted: Option<Outcome>,
}

impl Ends {
    fn take(&mut self, one: &Tried) {
        self.forbidden = one.forbidden.clone().or(self.forbidden.take());
        self.permitted = one.permitted.clone().or(self.permitted.take());
    }

    /// How `other` differs; `None` if it does not, or if one of them is not known.
    fn change(&self, other: &Self) -> Option<Change> {
        let (refused, passed) = (self.forbidden.as_ref()?, self.permitted.as_ref()?);
        let (forbidden, permitted) = (other.forbidden.as_ref()?, other.permitted.as_ref()?);
        if forbidden.reached() && !refused.reached() {
            Some(Change::Opened)
        } else if passed.reached() && !permitted.reached() {
            Some(Change::Refused)
        } else if refused.signature() != forbidden.signature() || passed.signature() != permitted.signature()
        {
            Some(Change::Otherwise)
        } else {
            None
        }
    }
}

impl Theatre<'_> {
    /// Does every job.
    fn play(&mut self, mut jobs: Vec<Job>) -> anyhow::Result<Vec<Tried>> {
        jobs.reverse();
        let (jobs, done) = (Mutex::new(jobs), Mutex::new(Vec::new()));
        let (techniques, known) = (self.techniques, &self.known);
        thread::scope(|scope| {
            let workers: Vec<_> = self
                .stages
                .iter_mut()
                .map(|stage| {
                    let (jobs, done) = (&jobs, &done);
                    scope.spawn(move || work(stage, techniques, known, jobs, done))
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
    known: &Known,
    jobs: &Mutex<Vec<Job>>,
    done: &Mutex<Vec<Tried>>,
) -> anyhow::Result<()> {
    loop {
        // The lock is given back before the job is done.
        let Some(job) = lock(jobs)?.pop() else { return Ok(()) };
        let tried = play(stage, techniques, known, job)?;
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
    let mut cells = Vec::new();
    for (name, technique) in techniques.iter().filter(|(name, _)| selection.has(name)) {
        cells.extend(
            technique.paths.iter().map(|path| Cell { techniques: vec![name.clone()], path: path.clone() }),
        );
    }
    cells
}

/// Every way of calling, source and destination with every one of the other two kinds that it goes with, each pair along
/// one path; which one, goes round.
fn pairs(techniques: &Techniques, selection: &Selection) -> Vec<Cell> {
    let plain = |technique: &Technique| {
        technique.open.is_none() && technique.bare.is_none() && technique.alone.is_none()
    };
    let of = |kind: &'static str| {
        techniques.iter().filter(move |(name, technique)| name.starts_with(kind) && plain(technique))
    };
    let mut cells = Vec::new();
    let ways =
        of("ways/").flat_map(|way| of("sources/").chain(of("destinations/")).map(move |other| (way, other)));
    let sources = of("sources/").flat_map(|source| of("destinations/").map(move |other| (source, other)));
    for ((one, how), (other, with)) in ways.chain(sources) {
        let common: Vec<&String> = how.paths.iter().filter(|path| with.paths.contains(path)).collect();
        if (selection.has(one) || selection.has(other))
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

fn play(stage: &mut Stage, techniques: &Techniques, known: &Known, job: Job) -> anyhow::Result<Vec<Tried>> {
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
                let gets_through = known.answered.contains(&cell) || !is_pair;
                let is_answered = |one: &&Technique| one.control.is_none() && one.oneway.is_none();
                let is_awaited = gets_through && told.iter().all(is_answered);
                // Some techniques are races, and two of them together may trip over each other: what is really refused is so
                // every time.
                for _ in 0..TRIES {
                    let outcome = ask(true, if is_awaited { PATIENTLY } else { BRIEFLY })?;
                    one.wrong = judge::permitted_pair(&told, &outcome, gets_through);
                    one.permitted = Some(outcome);
                    if one.wrong.is_empty() || !is_pair {
                        break;
                    }
                }
            }
            Run::Broken(_) => {
                let whole = known.whole.get(&cell).cloned().unwrap_or_default();
                // What seems to have changed is tried again, and more patiently: a table is made of it.
                for patience in [BRIEFLY, BRIEFLY * 3] {
                    one.forbidden = Some(ask(false, patience)?);
                    one.permitted = Some(ask(true, patience)?);
                    let ends = Ends { forbidden: one.forbidden.clone(), permitted: one.permitted.clone() };
                    if whole.change(&ends).is_none() {
                        break;
                    }
                }
            }
        }
        tried.push(one);
    }
    let counted = scene.refusals()?;
    if let Some(finished) = scene.close()? {
        finished.check_totals()?;
        judge::counters(&finished, &counted)?;
    }
    Ok(tried)
}

fn report(techniques: Techniques, whole: &BTreeMap<Cell, Ends>, done: &[Tried]) -> Report {
    let mut report = Report { techniques, ..Report::default() };
    for one in done {
        let name = one.cell.name();
        report.wrong.extend(one.wrong.iter().map(|wrong| format!("{:?}: {name}: {wrong}", one.run)));
        match one.run {
            Run::Bare | Run::Permitted => {}
            Run::Forbidden if one.cell.techniques.len() > 1 => report.pairs += 1,
            Run::Forbidden => {
                let technique = one.cell.techniques.first().and_then(|name| report.techniques.get(name));
                let is_drawn = technique.is_some_and(|technique| technique.drawn.is_some());
                let judgement = one.forbidden.as_ref().map(|outcome| Judgement::of(outcome, is_drawn));
                report.blocked.extend(judgement.map(|judgement| (one.cell.clone(), judgement)));
            }
            Run::Broken(fault) => {
                let changes = report.changed.entry(fault).or_default();
                let ends = Ends { forbidden: one.forbidden.clone(), permitted: one.permitted.clone() };
                let change = whole.get(&one.cell).and_then(|whole| whole.change(&ends));
                changes.extend(change.map(|change| (one.cell.clone(), change)));
            }
        }
    }
    for (name, technique) in &report.techniques {
        let Some(open) = &technique.open else { continue };
        if !Limit::ALL.iter().any(|(code, _)| open.split(':').next() == Some(code)) {
            report.wrong.push(format!("{name}: {open:?} is none of the limits that `enforcer status` names"));
        }
    }
    report
}

/// Faults of which nothing tells though something should.
fn untold(changed: &BTreeMap<Fault, BTreeMap<Cell, Change>>) -> impl Iterator<Item = String> {
    let silent = changed.iter().filter(|(fault, changes)| changes.is_empty() && fault.excuse().is_none());
    silent.map(|(fault, _)| format!("{}: nothing in the corpus tells of it", fault.name()))
}

impl Report {
    /// Faults of which something tells though nothing should. What is late by chance does so too, and otherwise another time.
    pub fn told_anyway(&self) -> impl Iterator<Item = String> {
        self.changed.iter().filter(|(_, changes)| !changes.is_empty()).filter_map(|(fault, _)| {
            let why = fault.excuse()?;
            Some(format!("{}: the corpus tells, though {why}", fault.name()))
        })
    }
}
