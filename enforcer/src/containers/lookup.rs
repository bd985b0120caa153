//! Asks runtimes what containers are, each in a task of its own that ends with the answer, and hears of renames.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use tokio::sync::{Mutex, Semaphore, mpsc};
use tokio::task::AbortHandle;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, timeout};
use tokio_stream::StreamExt as _;
use tracing::{debug, info, warn};

use super::cgroup::Runtime;
use super::{Container, cri, docker};

/// How long one answer is waited for; a runtime that is asked again at once answers all the same when it goes on.
const ANSWER: Duration = Duration::from_secs(5);

/// Between two attempts while the runtime may be about to start the container, or is down.
const PROMPT: Duration = Duration::from_millis(25);

/// Between two attempts to learn of what the runtime has not known for [`PATIENCE`].
const SLOW: Duration = Duration::from_secs(2);

/// How long a runtime may take from the cgroup to an answer about it.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long a container takes to start that was put where none is looked for.
const STARTING: Duration = Duration::from_secs(3);

/// After this time a container that is known is asked about again: no runtime has to tell of every change.
const FRESH: Duration = Duration::from_secs(60);

/// Between two attempts to hear of renames.
const FOLLOW_AGAIN: Duration = Duration::from_secs(1);

/// Events that are this old are asked for again when a stream of them is opened: an engine counts in seconds.
const OVERLAP: Duration = Duration::from_secs(2);

/// Questions to one runtime at one time.
const AT_ONCE: usize = 16;

/// Words that wait for the daemon.
const WORDS: usize = 64;

/// Bytes of all that is kept of a container. Its labels are somebody's choice, and are kept as long as it lives.
const MAX_KEPT: usize = 256 * 1024;

/// Characters of a runtime's words that are logged.
const MAX_CAUSE: usize = 256;

/// Where runtimes listen; one of them may at several places.
pub type Sockets = Vec<(Runtime, PathBuf)>;

/// Where runtimes listen unless they are told otherwise. containerd is also part of distributions of Kubernetes, each of
/// which has a place of its own for it.
const PLACES: [(Runtime, &str); 7] = [
    (Runtime::Docker, "/run/docker.sock"),
    (Runtime::Podman, "/run/podman/podman.sock"),
    (Runtime::Containerd, "/run/containerd/containerd.sock"),
    (Runtime::Containerd, "/run/k3s/containerd/containerd.sock"),
    (Runtime::Containerd, "/run/k0s/containerd.sock"),
    (Runtime::Containerd, "/var/snap/microk8s/common/run/containerd.sock"),
    (Runtime::Crio, "/run/crio/crio.sock"),
];

/// Where runtimes listen, given what the operator says: it counts instead of the usual places of that runtime.
pub fn sockets(given: &[(Runtime, PathBuf)]) -> Sockets {
    let is_given = |runtime: Runtime| given.iter().any(|(other, _)| *other == runtime);
    let usual = PLACES.iter().filter(|(runtime, _)| !is_given(*runtime));
    let usual = usual.map(|(runtime, socket)| (*runtime, PathBuf::from(socket)));
    usual.chain(given.iter().cloned()).collect()
}

/// What a runtime says of a container, and its first process, if it runs.
pub(super) struct Told {
    pub(super) container: Container,
    pub(super) pid: Option<i32>,
}

/// The cgroup of a container.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Question {
    /// Id of the container's own cgroup.
    pub cgroup: u64,
    /// Its path from the top of the tree.
    pub path: PathBuf,
    /// The container's id.
    pub id: String,
    /// Who is asked, in this order.
    pub runtimes: &'static [Runtime],
    /// Whether it may as well be no container: then nobody is asked who does not listen, and not for ever.
    pub is_candidate: bool,
}

/// What runtimes have to say.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Word {
    /// What the container of a cgroup is.
    Is(Answer),
    /// A container has another name than before.
    Renamed(Runtime, String),
}

/// What a runtime has told of a cgroup's container.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    /// Id of the container's own cgroup.
    pub cgroup: u64,
    /// What it is.
    pub container: Container,
    /// From the question to the answer.
    pub after: Duration,
}

/// The questions that have no answer yet.
pub struct Lookups {
    ways: Arc<Ways>,
    open: HashMap<u64, AbortHandle>,
    /// When containers were last asked about that are known.
    asked: HashMap<u64, Instant>,
    /// Those who hear of renames, by their places.
    followers: HashMap<usize, AbortHandle>,
    /// At which places somebody listened when it was last looked.
    there: Vec<bool>,
    words: mpsc::Sender<Word>,
}

/// What all tasks share.
struct Ways {
    places: Vec<Place>,
    /// Whether it was said that a runtime tells too much.
    has_told_too_much: AtomicBool,
}

/// Where a runtime listens.
struct Place {
    runtime: Runtime,
    socket: PathBuf,
    /// Whether it was said to be down.
    is_down: AtomicBool,
    /// While it is down one question after the other tries, and all the others wait for it to be up.
    tries: Mutex<Interval>,
    at_once: Semaphore,
}

impl Lookups {
    /// Asks nobody yet. What is answered comes out of the receiver.
    pub fn new(sockets: Sockets) -> (Self, mpsc::Receiver<Word>) {
        let (words, received) = mpsc::channel(WORDS);
        let places = sockets.into_iter().map(|(runtime, socket)| Place::new(runtime, socket)).collect();
        let ways = Arc::new(Ways { places, has_told_too_much: AtomicBool::new(false) });
        let (open, asked, followers) = (HashMap::new(), HashMap::new(), HashMap::new());
        (Self { ways, open, asked, followers, there: Vec::new(), words }, received)
    }

    /// Whether somebody listens where nobody did when this was last asked: there may be questions that were given up for it.
    pub fn has_come(&mut self) -> bool {
        let there: Vec<bool> = self.ways.places.iter().map(Place::is_there).collect();
        let was_there = |number: usize| self.there.get(number).copied().unwrap_or(false);
        let has_come = there.iter().enumerate().any(|(number, is_there)| *is_there && !was_there(number));
        self.there = there;
        has_come
    }

    /// Asks until there is an answer, or nobody is interested any longer. A question that is open is not asked twice; one that was
    /// given up is.
    pub fn ask(&mut self, question: Question) {
        if self.open.get(&question.cgroup).is_some_and(|task| !task.is_finished()) {
            return;
        }
        let (ways, words) = (self.ways.clone(), self.words.clone());
        let cgroup = question.cgroup;
        let task = tokio::spawn(async move {
            if let Some(answer) = ways.answer(question).await {
                // Nobody takes it any more when the daemon is about to end.
                drop(words.send(Word::Is(answer)).await);
            }
        });
        self.open.insert(cgroup, task.abort_handle());
    }

    /// Asks once more about a container that is known. It stays what it is if there is no answer.
    pub fn ask_again(&mut self, question: Question) {
        // An answer that is on its way may be older than what is to be heard of.
        self.close(question.cgroup);
        self.asked.insert(question.cgroup, Instant::now());
        let (ways, words) = (self.ways.clone(), self.words.clone());
        let cgroup = question.cgroup;
        let task = tokio::spawn(async move {
            let start = Instant::now();
            if let Attempt::Is(container) = ways.attempt(&question).await {
                let answer = Answer { cgroup, container: *container, after: start.elapsed() };
                drop(words.send(Word::Is(answer)).await);
            }
        });
        self.open.insert(cgroup, task.abort_handle());
    }

    /// Whether a runtime has told this daemon of a cgroup's container.
    pub fn has_told(&self, cgroup: u64) -> bool {
        self.asked.contains_key(&cgroup)
    }

    /// Whether a container that is known was not asked about for so long that it should be.
    pub fn is_stale(&self, cgroup: u64) -> bool {
        self.asked.get(&cgroup).is_some_and(|asked| asked.elapsed() > FRESH)
    }

    /// Says that a container is known from now on; its runtime is asked to tell of renames.
    pub fn is_known(&mut self, cgroup: u64, runtime: Runtime) {
        self.close(cgroup);
        self.asked.insert(cgroup, Instant::now());
        // What was renamed between the answer and the first event is asked for.
        let since = SystemTime::now().checked_sub(ANSWER).unwrap_or(SystemTime::UNIX_EPOCH);
        for (number, place) in self.ways.places.iter().enumerate() {
            if place.runtime == runtime && place.has_events() && !self.followers.contains_key(&number) {
                let task = tokio::spawn(follow(self.ways.clone(), number, since, self.words.clone()));
                self.followers.insert(number, task.abort_handle());
            }
        }
    }

    /// Asks no longer about a cgroup: there is an answer, or it is gone.
    pub fn close(&mut self, cgroup: u64) {
        self.asked.remove(&cgroup);
        if let Some(task) = self.open.remove(&cgroup) {
            task.abort();
        }
    }

    /// Asks about nothing any longer.
    pub fn close_all(&mut self) {
        self.open.drain().for_each(|(_, task)| task.abort());
        self.followers.drain().for_each(|(_, task)| task.abort());
        self.asked.clear();
    }
}

/// Hears of renames at one place for as long as anybody listens.
async fn follow(ways: Arc<Ways>, number: usize, mut since: SystemTime, words: mpsc::Sender<Word>) {
    let Some(place) = ways.places.get(number) else { return };
    let mut attempts = interval(FOLLOW_AGAIN);
    attempts.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        attempts.tick().await;
        let mut renames = match docker::renames(&place.socket, since) {
            Ok(renames) => std::pin::pin!(renames),
            Err(err) => {
                debug!(runtime = %place.runtime, "hear of renames: {err}");
                continue;
            }
        };
        let mut heard = None;
        loop {
            match renames.next().await {
                Some(Ok(id)) => {
                    heard = Some(SystemTime::now());
                    if words.send(Word::Renamed(place.runtime, id)).await.is_err() {
                        return;
                    }
                }
                Some(Err(err)) => {
                    debug!(runtime = %place.runtime, "hear of renames: {err}");
                    break;
                }
                None => break,
            }
        }
        // From where this stream ended, or where it began if nothing came of it.
        since = heard.and_then(|heard| heard.checked_sub(OVERLAP)).unwrap_or(since);
    }
}

impl Place {
    fn new(runtime: Runtime, socket: PathBuf) -> Self {
        let mut tries = interval(PROMPT);
        tries.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (is_down, tries) = (AtomicBool::new(false), Mutex::new(tries));
        Self { runtime, socket, is_down, tries, at_once: Semaphore::new(AT_ONCE) }
    }

    /// Whether it tells of renames. Through the interface of Kubernetes nothing is ever renamed.
    const fn has_events(&self) -> bool {
        matches!(self.runtime, Runtime::Docker | Runtime::Podman)
    }

    fn is_there(&self) -> bool {
        self.socket.exists()
    }

    fn is_down(&self) -> bool {
        self.is_down.load(Ordering::Relaxed)
    }

    async fn inspect(&self, id: &str) -> Result<Option<Told>, String> {
        if self.is_down() {
            let mut tries = self.tries.lock().await;
            if self.is_down() {
                tries.tick().await;
                return self.inspect_now(id).await;
            }
        }
        match self.at_once.acquire().await {
            Ok(_permit) => self.inspect_now(id).await,
            // It is never closed.
            Err(err) => Err(err.to_string()),
        }
    }

    async fn inspect_now(&self, id: &str) -> Result<Option<Told>, String> {
        let asked = async {
            match self.runtime {
                Runtime::Docker | Runtime::Podman => {
                    docker::inspect(&self.socket, self.runtime, id).await.map_err(|err| err.to_string())
                }
                Runtime::Containerd | Runtime::Crio => {
                    cri::inspect(&self.socket, self.runtime, id).await.map_err(|err| err.to_string())
                }
            }
        };
        let told = match timeout(ANSWER, asked).await {
            Ok(told) => told,
            Err(tokio::time::error::Elapsed { .. }) => Err(format!("no answer in {ANSWER:?}")),
        };
        match &told {
            Ok(_) if self.is_down.swap(false, Ordering::Relaxed) => {
                info!(runtime = %self.runtime, "container runtime answers again");
            }
            // Said once, and not for every container.
            Err(cause) if !self.is_down.swap(true, Ordering::Relaxed) => {
                let cause: String = cause.chars().take(MAX_CAUSE).collect();
                warn!(
                    runtime = %self.runtime,
                    socket = %self.socket.display(),
                    "ask container runtime: {cause}; new containers stay pending until it answers"
                );
            }
            Ok(_) | Err(_) => {}
        }
        told
    }
}

impl Ways {
    /// None if it is no container that anybody knows.
    async fn answer(&self, question: Question) -> Option<Answer> {
        let start = Instant::now();
        let mut attempts = interval(PROMPT);
        attempts.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            attempts.tick().await;
            let reached = match self.attempt(&question).await {
                Attempt::Is(container) => {
                    let (cgroup, after) = (question.cgroup, start.elapsed());
                    return Some(Answer { cgroup, container: *container, after });
                }
                Attempt::Unreachable => false,
                Attempt::NotYet => true,
                Attempt::NobodyThere => return None,
            };
            if question.is_candidate {
                if reached && start.elapsed() > PATIENCE {
                    return None;
                }
                if reached && attempts.period() == PROMPT && start.elapsed() > STARTING {
                    attempts = slow_interval();
                }
                continue;
            }
            if reached && attempts.period() == PROMPT && start.elapsed() > PATIENCE {
                warn!(
                    id = question.id,
                    cgroup = %question.path.display(),
                    "no runtime knows this container, which stays as it is"
                );
                attempts = slow_interval();
            }
        }
    }

    /// Asks at every place where one of the runtimes listens.
    async fn attempt(&self, question: &Question) -> Attempt {
        let of = |runtime: &Runtime| {
            let runtime = *runtime;
            self.places.iter().filter(move |place| place.runtime == runtime)
        };
        let mut places: Vec<&Place> = question.runtimes.iter().flat_map(of).collect();
        if places.iter().any(|place| place.is_there()) {
            places.retain(|place| place.is_there());
        } else if question.is_candidate {
            return Attempt::NobodyThere;
        } else {
            // One of them is enough to say that there is none.
            places.truncate(1);
        }
        let mut attempt = Attempt::NotYet;
        for place in places {
            match place.inspect(&question.id).await {
                Ok(Some(Told { container, pid: Some(pid) })) if lies_in(pid, &question.path) => {
                    if self.is_moderate(&container) {
                        return Attempt::Is(Box::new(container));
                    }
                }
                // It does not run yet, or this cgroup only bears its id.
                Ok(_) => {}
                Err(_) => attempt = Attempt::Unreachable,
            }
        }
        attempt
    }

    fn is_moderate(&self, container: &Container) -> bool {
        let bytes = container.bytes();
        let is_moderate = bytes <= MAX_KEPT;
        if !is_moderate && !self.has_told_too_much.swap(true, Ordering::Relaxed) {
            warn!(
                id = container.id,
                runtime = %container.runtime,
                "what the runtime tells of a container has {bytes} bytes, the limit is {MAX_KEPT}: it stays as it is"
            );
        }
        is_moderate
    }
}

enum Attempt {
    Is(Box<Container>),
    NotYet,
    Unreachable,
    NobodyThere,
}

fn slow_interval() -> Interval {
    let mut attempts = interval(SLOW);
    attempts.set_missed_tick_behavior(MissedTickBehavior::Delay);
    attempts.reset();
    attempts
}

/// Whether a process is in the cgroup at `path` or below it. A name can be given to any directory, so an id alone proves
/// nothing: the container's first process must be there.
fn lies_in(pid: i32, path: &Path) -> bool {
    let Ok(process) = procfs::process::Process::new(pid) else { return false };
    let Ok(cgroups) = process.cgroups() else { return false };
    cgroups.into_iter().any(|cgroup| cgroup.hierarchy == 0 && Path::new(&cgroup.pathname).starts_with(path))
}
