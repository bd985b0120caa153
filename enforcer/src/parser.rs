//! Parses policies in a process of its own, which holds no capability and is not waited for without an end.
//!
//! The daemon reads the files, since it may read what its policy's owner alone may; the process gets their text through a
//! pipe, gives up whatever it could do, parses and checks, and answers through another pipe. It is this same program,
//! started anew for each policy, so that its memory goes back with it.

use std::fs::File;
use std::io::{self, BufWriter, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::pipe::fcntl_setpipe_size;
use rustix::process::{Resource, Rlimit, Signal, set_parent_process_death_signal, setrlimit};
use thiserror::Error;
use tracing::debug;

use crate::failpoint;
use crate::policy::wire::Question;
use crate::policy::{self, Document, Finding, Fingerprint, Loaded, Meaning, edit, source, wire};
use crate::privileges;

/// The verb by which this program is told to be that process.
pub const VERB: &str = "parse-policy";

/// How long it may take if nobody says otherwise: a million rules take some seconds.
pub const DEFAULT_PATIENCE: &str = "60s";

/// Bytes of an answer: more than the largest policy comes to.
const MAX_ANSWER: u64 = 1 << 30;

/// Bytes of address space that the process may have, and for each byte of text besides: several times what it takes.
const MEMORY: u64 = 512 << 20;
const MEMORY_PER_BYTE: u64 = 128;

/// Bytes that the pipes hold, if the kernel grants it: fewer turns of who writes and who reads.
const PIPE: usize = 1 << 20;

/// How often whoever waits may do something else meanwhile.
const TURN: Duration = Duration::from_millis(50);

/// Why it is not known what a policy means. Nothing is wrong with the policy, as far as anybody knows.
#[derive(Debug, Error)]
pub enum ParserError {
    /// There is no process.
    #[error("parse policy: start a process for it: {0}")]
    NotStarted(io::Error),
    /// It has ended without an answer.
    #[error(
        "parse policy: the process for it ended with {0}\nhint: its log says why; it may have been out of memory"
    )]
    Ended(ExitStatus),
    /// What it has answered is no answer.
    #[error("parse policy: the process for it answers nonsense: {0}")]
    Nonsense(#[from] wire::WireError),
    /// It has taken too long, and was ended.
    #[error("parse policy: it took more than {}\nhint: `--parse-timeout` lets it take longer", humantime::format_duration(*.0))]
    TooLong(Duration),
    /// A pipe does not work.
    #[error("parse policy: speak with the process for it: {0}")]
    Io(#[from] io::Error),
}

/// Starts processes that parse.
#[derive(Clone, Copy, Debug)]
pub struct Parser {
    /// How long each may take.
    pub patience: Duration,
}

impl Parser {
    /// Reads the files and directories at `paths` as one policy. `meanwhile` is called again and again until it is parsed. Of
    /// what is known, only lines that are other ones are parsed, if that is all that has changed.
    ///
    /// # Errors
    ///
    /// It could not be parsed, whatever is in it. What is wrong with the policy itself is among the findings.
    pub fn load(
        &self,
        paths: &[PathBuf],
        known: Option<&Loaded>,
        mut meanwhile: impl FnMut(),
    ) -> (Fingerprint, Result<Loaded, ParserError>) {
        let documents = known.map(|known| known.documents.as_slice()).unwrap_or_default();
        // It comes up while the files are read. If it does not, that is told when it is needed.
        let mut started = Running::start().ok();
        let mut sources = source::read_again(paths, documents);
        let fingerprint = Fingerprint::of(&sources);
        let found = std::mem::take(&mut sources.findings);
        let edited = known
            .filter(|known| known.fingerprint.has_same_findings(&fingerprint))
            .and_then(|known| self.edit(&mut started, known, &sources.documents, &mut meanwhile).transpose());
        let meaning = edited.unwrap_or_else(|| self.parse(started, &sources.documents, &found, meanwhile));
        (fingerprint.clone(), meaning.map(|meaning| Loaded::new(sources, fingerprint, meaning)))
    }

    /// What documents mean that differ in some lines from what is known; nothing if they are to be parsed as a whole.
    fn edit(
        &self,
        started: &mut Option<Running>,
        known: &Loaded,
        documents: &[Document],
        meanwhile: impl FnMut(),
    ) -> Result<Option<Meaning>, ParserError> {
        let Some(policy) = &known.policy else { return Ok(None) };
        let Some(edits) = edit::edits(&known.documents, documents, &known.tails) else { return Ok(None) };
        let meaning = |(policy, tails)| Meaning {
            policy: Some(policy),
            findings: known.findings.clone(),
            left_out: known.left_out,
            tails,
        };
        if edits.iter().all(|edit| edit.lines == 0) {
            // Lines that are gone, if anything at all: nothing is there to be parsed.
            let nothing = vec![Vec::new(); edits.len()];
            return Ok(edit::apply(policy, &known.tails, &edits, nothing).map(meaning));
        }
        let bytes =
            self.ask(started.take(), |out| wire::write_lines(policy, documents, &edits, out), meanwhile)?;
        let rules = wire::read_lines(&bytes, policy, documents, &edits)?;
        Ok(rules.and_then(|rules| edit::apply(policy, &known.tails, &edits, rules)).map(meaning))
    }

    /// Parses documents that have been read already; the other arguments are as for [`load`](Self::load).
    ///
    /// # Errors
    ///
    /// They could not be parsed, whatever is in them.
    pub fn compile_documents(
        &self,
        documents: Vec<Document>,
        meanwhile: impl FnMut(),
    ) -> Result<Loaded, ParserError> {
        let sources = source::Sources::of(documents);
        let fingerprint = Fingerprint::of(&sources);
        let meaning = self.parse(None, &sources.documents, &[], meanwhile)?;
        Ok(Loaded::new(sources, fingerprint, meaning))
    }

    fn parse(
        &self,
        started: Option<Running>,
        documents: &[Document],
        found: &[Finding],
        meanwhile: impl FnMut(),
    ) -> Result<Meaning, ParserError> {
        let bytes = self.ask(started, |out| wire::write_question(documents, found, out), meanwhile)?;
        Ok(wire::read_answer(&bytes)?)
    }

    /// Has `write` ask a process, which is started if it is not yet, and returns its answer.
    fn ask(
        &self,
        started: Option<Running>,
        write: impl FnOnce(BufWriter<&mut ChildStdin>) -> io::Result<()> + Send,
        mut meanwhile: impl FnMut(),
    ) -> Result<Vec<u8>, ParserError> {
        let by = Instant::now() + self.patience;
        let mut running = started.map_or_else(Running::start, Ok)?;
        let (mut question, mut answer) = running.pipes()?;
        for pipe in [question.as_fd(), answer.as_fd()] {
            if let Err(err) = fcntl_setpipe_size(pipe, PIPE) {
                debug!("make a pipe larger: {err}");
            }
        }
        let (sender, receiver) = sync_channel(1);
        thread::scope(|scope| {
            scope.spawn(move || {
                let asked = write(BufWriter::new(&mut question));
                drop(question);
                let mut bytes = Vec::new();
                // One byte more tells what is too much from what is just enough.
                let read = answer.by_ref().take(MAX_ANSWER + 1).read_to_end(&mut bytes);
                // Who has ended takes no question, which is told by how it has ended.
                let result = asked.and(read).map(|_| bytes);
                // Whoever waits has gone only when the process is too.
                drop(sender.send(result));
            });
            let result = loop {
                match receiver.recv_timeout(TURN) {
                    Ok(result) => break result,
                    Err(RecvTimeoutError::Timeout) if Instant::now() < by => meanwhile(),
                    Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                        running.end()?;
                        return Err(ParserError::TooLong(self.patience));
                    }
                }
            };
            if result.as_ref().is_ok_and(|bytes| exceeds(bytes)) {
                running.end()?;
                return Err(ParserError::Io(io::Error::other(format!("more than {MAX_ANSWER} bytes"))));
            }
            // Its output is closed by its end; who closes it and goes on is not waited for.
            let status = running.end()?;
            if status.success() { Ok(result?) } else { Err(ParserError::Ended(status)) }
        })
    }
}

fn exceeds(bytes: &[u8]) -> bool {
    u64::try_from(bytes.len()).is_ok_and(|length| length > MAX_ANSWER)
}

/// The process. It ends when nobody waits for it any longer.
struct Running {
    child: Child,
}

impl Running {
    fn start() -> Result<Self, ParserError> {
        // Also where the file that this program was started from has been replaced meanwhile.
        let mut command = Command::new("/proc/self/exe");
        command.arg(VERB).stdin(Stdio::piped()).stdout(Stdio::piped()).current_dir("/").env_clear();
        command.envs(failpoint::of_parser());
        // What a terminal sends is for the daemon alone.
        command.process_group(0);
        Ok(Self { child: command.spawn().map_err(ParserError::NotStarted)? })
    }

    fn pipes(&mut self) -> io::Result<(ChildStdin, ChildStdout)> {
        let pipes = self.child.stdin.take().zip(self.child.stdout.take());
        pipes.ok_or_else(|| io::Error::other("there is no pipe"))
    }

    /// Ends it, unless it has ended, and tells how it did.
    fn end(&mut self) -> io::Result<ExitStatus> {
        self.child.kill()?;
        self.child.wait()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Whoever gives up waiting tells why already.
        drop(self.end());
    }
}

/// What that process does: everything between its standard input and output.
///
/// # Errors
///
/// It cannot give up what it may do, or is not asked to parse, or nobody takes the answer.
pub fn run() -> anyhow::Result<()> {
    privileges::drop_all()?;
    // If memory runs out, what enforces must not be what goes.
    drop(std::fs::write("/proc/self/oom_score_adj", "1000"));
    set_parent_process_death_signal(Some(Signal::KILL))?;
    failpoint::hold_parser()?;
    let is_lingering = failpoint::is_lingering();
    // Not by lines, as `Stdout` writes, and as much at a time as the pipe holds. From `confine` on nothing is opened.
    let mut out = BufWriter::with_capacity(PIPE, File::from(io::stdout().as_fd().try_clone_to_owned()?));
    let mut question = Vec::new();
    io::stdin().lock().read_to_end(&mut question)?;
    confine(&question)?;
    let asked = wire::read_question(&question)?;
    drop(question);
    match asked {
        Question::Whole(documents, found) => {
            wire::write_answer(&policy::parse(&documents, found), &mut out)?;
        }
        Question::Lines(lines) => wire::answer_lines(&lines, &mut out)?,
    }
    out.flush()?;
    if is_lingering {
        drop(out);
        failpoint::linger()?;
    }
    Ok(())
}

/// From now on it opens nothing, writes no file, and takes no more memory than a policy of this length needs.
fn confine(question: &[u8]) -> io::Result<()> {
    let length = u64::try_from(question.len()).unwrap_or(u64::MAX);
    let memory = length.saturating_mul(MEMORY_PER_BYTE).saturating_add(MEMORY);
    for (resource, most) in [(Resource::As, memory), (Resource::Nofile, 0), (Resource::Fsize, 0)] {
        setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })?;
    }
    Ok(())
}
