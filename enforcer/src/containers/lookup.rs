//! Asks runtimes what pending containers are, each in a task of its own that ends with the answer.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};
use tokio::task::AbortHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tracing::{info, warn};

use super::cgroup::Runtime;
use super::{Container, docker};

/// How long one answer is waited for; a runtime that is asked again at once answers all the same when it goes on.
const ANSWER: Duration = Duration::from_secs(5);

/// Between two attempts while the runtime may be about to start the container, or is down.
const PROMPT: Duration = Duration::from_millis(25);

/// Between two attempts to learn of what the runtime has not known for [`PATIENCE`].
const SLOW: Duration = Duration::from_secs(2);

/// How long a runtime may take from the cgroup to an answer about it.
const PATIENCE: Duration = Duration::from_secs(30);

/// Questions to runtimes at one time.
const AT_ONCE: usize = 16;

/// Answers that wait for the daemon.
const ANSWERS: usize = 64;

/// Where runtimes listen.
pub type Sockets = BTreeMap<Runtime, PathBuf>;

/// Where runtimes listen unless they are told otherwise.
pub fn default_sockets() -> Sockets {
    [(Runtime::Docker, "/run/docker.sock"), (Runtime::Podman, "/run/podman/podman.sock")]
        .map(|(runtime, socket)| (runtime, PathBuf::from(socket)))
        .into()
}

/// What a runtime says of a container, and its first process, if it runs.
pub(super) struct Told {
    pub(super) container: Container,
    pub(super) pid: Option<i32>,
}

/// The cgroup of a pending container.
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
    answers: mpsc::Sender<Answer>,
}

/// What all tasks share.
struct Ways {
    sockets: Sockets,
    /// Runtimes that were said to be down.
    down: BTreeMap<Runtime, AtomicBool>,
    at_once: Semaphore,
}

impl Lookups {
    /// Asks nobody yet. What is answered comes out of the receiver.
    pub fn new(sockets: Sockets) -> (Self, mpsc::Receiver<Answer>) {
        let (answers, received) = mpsc::channel(ANSWERS);
        let down = Runtime::ALL.map(|runtime| (runtime, AtomicBool::new(false))).into();
        let ways = Arc::new(Ways { sockets, down, at_once: Semaphore::new(AT_ONCE) });
        (Self { ways, open: HashMap::new(), answers }, received)
    }

    /// Asks until there is an answer, or nobody is interested any longer. A question that is open is not asked twice.
    pub fn ask(&mut self, question: Question) {
        if self.open.contains_key(&question.cgroup) {
            return;
        }
        let (ways, answers) = (self.ways.clone(), self.answers.clone());
        let cgroup = question.cgroup;
        let task = tokio::spawn(async move {
            let answer = ways.answer(question).await;
            // Nobody takes it any more when the daemon is about to end.
            drop(answers.send(answer).await);
        });
        self.open.insert(cgroup, task.abort_handle());
    }

    /// Asks no longer about a cgroup: there is an answer, or it is gone.
    pub fn close(&mut self, cgroup: u64) {
        if let Some(task) = self.open.remove(&cgroup) {
            task.abort();
        }
    }

    /// Asks about nothing any longer.
    pub fn close_all(&mut self) {
        self.open.drain().for_each(|(_, task)| task.abort());
    }
}

impl Ways {
    async fn answer(&self, question: Question) -> Answer {
        let start = Instant::now();
        let mut attempts = interval(PROMPT);
        attempts.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            attempts.tick().await;
            let mut reached = true;
            for runtime in question.runtimes {
                match self.attempt(*runtime, &question).await {
                    Attempt::Is(container) => {
                        return Answer { cgroup: question.cgroup, container, after: start.elapsed() };
                    }
                    Attempt::Unreachable => reached = false,
                    Attempt::NotYet => {}
                }
            }
            if reached && attempts.period() == PROMPT && start.elapsed() > PATIENCE {
                warn!(
                    id = question.id,
                    cgroup = %question.path.display(),
                    "no runtime knows this container, which stays pending"
                );
                attempts = interval(SLOW);
                attempts.set_missed_tick_behavior(MissedTickBehavior::Delay);
                attempts.reset();
            }
        }
    }

    async fn attempt(&self, runtime: Runtime, question: &Question) -> Attempt {
        let Some(socket) = self.sockets.get(&runtime) else { return Attempt::NotYet };
        // It is never closed.
        let Ok(_permit) = self.at_once.acquire().await else { return Attempt::Unreachable };
        let asked = match timeout(ANSWER, docker::inspect(socket, runtime, &question.id)).await {
            Ok(asked) => asked.map_err(|err| err.to_string()),
            Err(tokio::time::error::Elapsed { .. }) => Err(format!("no answer in {ANSWER:?}")),
        };
        let told = match asked {
            Ok(told) => told,
            Err(cause) => {
                self.complain(runtime, socket, &cause);
                return Attempt::Unreachable;
            }
        };
        if let Some(down) = self.down.get(&runtime)
            && down.swap(false, Ordering::Relaxed)
        {
            info!(%runtime, "container runtime answers again");
        }
        match told {
            Some(Told { container, pid: Some(pid) }) if lies_in(pid, &question.path) => {
                Attempt::Is(container)
            }
            // It does not run yet, or this cgroup only bears its id.
            Some(_) | None => Attempt::NotYet,
        }
    }

    /// Says once that a runtime does not answer, and not for every container.
    fn complain(&self, runtime: Runtime, socket: &Path, cause: &str) {
        if let Some(down) = self.down.get(&runtime)
            && !down.swap(true, Ordering::Relaxed)
        {
            warn!(
                %runtime,
                socket = %socket.display(),
                "ask container runtime: {cause}; new containers stay pending until it answers"
            );
        }
    }
}

enum Attempt {
    Is(Container),
    NotYet,
    Unreachable,
}

/// Whether a process is in the cgroup at `path` or below it. A name can be given to any directory, so an id alone proves
/// nothing: the container's first process must be there.
fn lies_in(pid: i32, path: &Path) -> bool {
    let Ok(process) = procfs::process::Process::new(pid) else { return false };
    let Ok(cgroups) = process.cgroups() else { return false };
    cgroups.into_iter().any(|cgroup| cgroup.hierarchy == 0 && Path::new(&cgroup.pathname).starts_with(path))
}
