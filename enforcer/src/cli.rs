//! The verbs and flags of the command line, and what each answers with.

use std::io::{self, IsTerminal as _, StdoutLock, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Parser, Subcommand, ValueEnum};
use serde::de::DeserializeOwned;
use tracing_subscriber::fmt::format::debug_fn;

use crate::check::Query;
use crate::containers::cgroup::Runtime;
use crate::containers::lookup;
use crate::control::client::{Answer, Client};
use crate::control::{self, api, server};
use crate::daemon::{self, Settings};
use crate::identities::Identities;
use crate::output::{WhileRead, log_field, printable_lines};
use crate::parser;
use crate::policy;
use crate::revision::InvalidPolicy;
use crate::staying::Staying;
use crate::tables::Tables;
use crate::{check, detach, validate};

/// Exit code for input that cannot be used (`EX_USAGE` of sysexits.h).
const BAD_INPUT: u8 = 64;

/// Decides in the kernel which service on this host may talk to which.
#[derive(Parser)]
#[command(name = "enforcer", version)]
pub struct Command {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Enforce a policy; SIGHUP reloads it, and after SIGTERM it stays in force
    Run(Run),
    /// End enforcement: remove every program and map of enforcer from the kernel, and nothing else
    Detach(Detach),
    /// Tell everything that is wrong with a policy
    Validate(Validate),
    /// Ask a policy about one attempt, as the kernel would
    Check(Check),
    /// Tell how the running enforcer stands, and what is not under its control
    Status(Ask),
    /// List each service with its cgroups, processes and ports
    Services(Ask),
    /// List live connections, with what the policy says of each
    Connections(Ask),
    /// Explain who a process, a cgroup or an address is
    #[command(subcommand)]
    Identity(IdentityVerb),
    /// Show, compare and change the policy in force
    #[command(subcommand)]
    Policy(PolicyVerb),
    /// Follow the audit records of the running enforcer, one JSON object per line
    Events(Events),
    /// Have the running enforcer read its policy directory again
    Reload(Ask),
    /// Parse what comes on standard input for the daemon, without any capability
    #[command(name = parser::VERB, hide = true)]
    ParsePolicy,
}

#[derive(Subcommand)]
enum IdentityVerb {
    /// Which selector makes it whose it is, or which one it misses
    Get(Get),
}

#[derive(Subcommand)]
enum PolicyVerb {
    /// Print the policy in force
    Get(Ask),
    /// Tell what another policy would open and close
    Diff(Propose),
    /// Put another policy in force, until the next reload or restart
    Apply(Apply),
    /// Keep the policy that was applied with --confirm-timeout
    Confirm(Ask),
}

/// Where the daemon is, and how to answer.
#[derive(clap::Args)]
struct Ask {
    #[command(flatten)]
    socket: Socket,
    /// How to answer
    #[arg(short, long, value_enum, default_value = "text")]
    output: Output,
}

#[derive(clap::Args)]
struct Socket {
    /// Control socket of the running enforcer
    #[arg(long, value_name = "PATH", default_value = control::DEFAULT_SOCKET)]
    control: PathBuf,
}

#[derive(clap::Args)]
struct Get {
    /// A process id, a cgroup path, or an address with a port, as in `127.0.0.1:5432` or `[::1]:53/udp`
    #[arg(value_name = "PID|CGROUP|ADDR:PORT")]
    of: String,
    #[command(flatten)]
    ask: Ask,
}

#[derive(clap::Args)]
struct Propose {
    /// Directory whose *.yaml are the policy, or one file
    #[arg(value_name = "DIR")]
    policy: PathBuf,
    #[command(flatten)]
    ask: Ask,
}

#[derive(clap::Args)]
struct Apply {
    #[command(flatten)]
    propose: Propose,
    /// Bring the policy before back after this time, as in 60s, unless it is confirmed
    #[arg(long, value_name = "TIME", value_parser = time_to_confirm)]
    confirm_timeout: Option<Duration>,
}

#[derive(clap::Args)]
struct Events {
    #[command(flatten)]
    socket: Socket,
}

#[derive(clap::Args)]
struct Run {
    /// Directory whose *.yaml are the policy, or one file
    #[arg(long, value_name = "DIR")]
    policy: PathBuf,
    /// Cgroup whose subtree is judged [default: the whole cgroup v2 tree]
    #[arg(long, value_name = "PATH")]
    cgroup_root: Option<PathBuf>,
    /// Where audit records go, one JSON object per line; - is standard output
    #[arg(long, value_name = "FILE", default_value = "-")]
    audit: PathBuf,
    /// Record permitted attempts too
    #[arg(long)]
    log_allowed: bool,
    /// Let the programs in the kernel log, down to this level
    #[arg(long, value_name = "LEVEL", default_value = "off")]
    kernel_log: KernelLog,
    /// Where a container runtime listens: docker, podman, containerd or crio, with the path of its socket; may be given
    /// several times [default: where each of them usually listens]
    #[arg(long, value_name = "NAME=SOCKET", value_parser = parse_runtime)]
    runtime: Vec<(Runtime, PathBuf)>,
    /// Where the control socket is; none for no such socket
    #[arg(long, value_name = "PATH", default_value = control::DEFAULT_SOCKET)]
    control: PathBuf,
    /// How long a client of the control socket may take to send its request and to read the answer, as in 2m
    #[arg(long, value_name = "TIME", value_parser = some_time, default_value = server::DEFAULT_LIFETIME)]
    control_timeout: Duration,
    /// Leave changed policy files alone until SIGHUP or `enforcer reload`
    #[arg(long)]
    no_watch: bool,
    /// How long parsing a policy may take before it is refused, as in 60s
    #[arg(long, value_name = "TIME", value_parser = some_time, default_value = parser::DEFAULT_PATIENCE)]
    parse_timeout: Duration,
    #[command(flatten)]
    directories: Directories,
    /// Replace what an earlier daemon has left and this one cannot use; enforcement goes on meanwhile
    #[arg(long)]
    takeover: bool,
    /// Pin nothing: enforcement ends with this process, however it ends
    #[arg(long, conflicts_with_all = ["pin_dir", "state_dir", "takeover"])]
    detach_on_exit: bool,
}

/// Where that is which outlives the daemon.
#[derive(clap::Args)]
struct Directories {
    /// Where programs and maps are pinned, on a BPF file system
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/enforcer")]
    pin_dir: PathBuf,
    /// Where names and the policy in force are kept
    #[arg(long, value_name = "DIR", default_value = "/var/lib/enforcer")]
    state_dir: PathBuf,
}

#[derive(clap::Args)]
struct Detach {
    #[command(flatten)]
    directories: Directories,
    /// How to answer
    #[arg(short, long, value_enum, default_value = "text")]
    output: Output,
}

#[derive(Clone, Copy, ValueEnum)]
enum KernelLog {
    Off,
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

#[derive(clap::Args)]
struct Validate {
    /// Directories and files that together are the policy
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<PathBuf>,
    /// How to answer
    #[arg(short, long, value_enum, default_value = "text")]
    output: Output,
}

#[derive(clap::Args)]
struct Check {
    /// Who calls: a service, a network, unmanaged, world, an address, or a cgroup path
    #[arg(value_name = "SRC")]
    source: String,
    /// Who answers and where, as in orders:8080/tcp
    #[arg(value_name = "DST:PORT[/PROTO]")]
    destination: String,
    /// Directory whose *.yaml are the policy, or one file
    #[arg(long, value_name = "DIR")]
    policy: PathBuf,
    /// How to answer
    #[arg(short, long, value_enum, default_value = "text")]
    output: Output,
}

#[derive(Clone, Copy, ValueEnum)]
enum Output {
    Text,
    Json,
}

/// Does what the command line asks.
pub fn run(command: Command) -> ExitCode {
    let result = match command.verb {
        Verb::Run(args) => run_daemon(args),
        Verb::Detach(args) => run_detach(&args),
        Verb::Validate(args) => run_validate(&args),
        Verb::Check(args) => run_check(&args),
        Verb::Status(ask) => get::<api::Status>(&ask, "/v1/status"),
        Verb::Services(ask) => get::<api::Services>(&ask, "/v1/services"),
        Verb::Connections(ask) => get::<api::Connections>(&ask, "/v1/connections"),
        Verb::Identity(IdentityVerb::Get(args)) => {
            get::<api::Identity>(&args.ask, &format!("/v1/identity?of={}", escaped(&args.of)))
        }
        Verb::Policy(PolicyVerb::Get(ask)) => get::<api::Policy>(&ask, "/v1/policy"),
        Verb::Policy(PolicyVerb::Diff(args)) => run_diff(&args),
        Verb::Policy(PolicyVerb::Apply(args)) => run_apply(&args),
        Verb::Policy(PolicyVerb::Confirm(ask)) => post::<api::InForce>(&ask, "/v1/policy/confirm"),
        Verb::Events(args) => run_events(&args),
        Verb::Reload(ask) => post::<api::InForce>(&ask, "/v1/reload"),
        Verb::ParsePolicy => parser::run().map(|()| ExitCode::SUCCESS).map_err(Failure::Other),
    };
    match result {
        Ok(code) => code,
        Err(Failure::BadInput(text)) => {
            complain(&text);
            ExitCode::from(BAD_INPUT)
        }
        Err(Failure::Other(err)) => {
            complain(&format!("{err:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Tells an error to the terminal that asked. Where nobody can be told, the exit code still says it.
fn complain(text: &str) {
    // What is wrong with a policy says itself what it is.
    let is_finding = ["error[", "warning["].iter().any(|word| text.starts_with(word));
    let word = if is_finding { "" } else { "error: " };
    drop(writeln!(io::stderr(), "{word}{}", printable_lines(text)));
}

fn stdout() -> WhileRead<StdoutLock<'static>> {
    WhileRead(io::stdout().lock())
}

fn parse_runtime(text: &str) -> Result<(Runtime, PathBuf), String> {
    let (name, socket) = text.split_once('=').ok_or("no `=` between the runtime and its socket")?;
    let runtime = Runtime::parse(name).ok_or_else(|| format!("no runtime is called `{name}`"))?;
    if socket.is_empty() { Err(String::from("no socket")) } else { Ok((runtime, PathBuf::from(socket))) }
}

enum Failure {
    BadInput(String),
    Other(anyhow::Error),
}

impl From<anyhow::Error> for Failure {
    fn from(err: anyhow::Error) -> Self {
        Self::Other(err)
    }
}

impl From<io::Error> for Failure {
    fn from(err: io::Error) -> Self {
        Self::Other(anyhow::Error::from(err).context("write output"))
    }
}

fn run_daemon(args: Run) -> Result<ExitCode, Failure> {
    init_log();
    let settings = Settings {
        policy: args.policy,
        cgroup_root: args.cgroup_root,
        audit: args.audit,
        log_allowed: args.log_allowed,
        kernel_log: args.kernel_log as u8,
        runtimes: lookup::sockets(&args.runtime),
        staying: (!args.detach_on_exit).then_some(Staying {
            pin_dir: args.directories.pin_dir,
            state_dir: args.directories.state_dir,
            takeover: args.takeover,
        }),
        watch: !args.no_watch,
        parser: parser::Parser { patience: args.parse_timeout },
        control: (args.control != Path::new("none")).then_some(args.control),
        control_lifetime: args.control_timeout,
    };
    match daemon::run(&settings) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(err) if daemon::is_bad_input(&err) => Err(Failure::BadInput(format!("{err:#}"))),
        Err(err) => Err(Failure::Other(err)),
    }
}

fn run_detach(args: &Detach) -> Result<ExitCode, Failure> {
    let Directories { pin_dir, state_dir } = &args.directories;
    let answer = detach::run(pin_dir, state_dir).map_err(Failure::Other)?;
    let mut out = stdout();
    match args.output {
        Output::Text => writeln!(out, "{answer}")?,
        Output::Json => writeln!(out, "{}", serde_json::to_string(&answer).map_err(io::Error::from)?)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn run_validate(args: &Validate) -> Result<ExitCode, Failure> {
    let format = match args.output {
        Output::Text => validate::Format::Text,
        Output::Json => validate::Format::Json,
    };
    let valid = validate::run(&args.paths, format, &mut stdout())?;
    Ok(if valid { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn run_check(args: &Check) -> Result<ExitCode, Failure> {
    let query = Query::parse(&args.source, &args.destination).map_err(bad_input)?;
    let loaded = policy::load(std::slice::from_ref(&args.policy));
    let Some(policy) = loaded.policy else { return Err(bad_input(InvalidPolicy::of(&loaded.findings))) };
    let mut identities = Identities::default();
    let tables = Tables::compile(&policy, &mut identities, 1).map_err(bad_input)?;
    let answer = check::check(&policy, &tables, &identities, &query).map_err(bad_input)?;
    let mut out = stdout();
    match args.output {
        Output::Text => writeln!(out, "{}", printable_lines(&answer.to_string()))?,
        Output::Json => writeln!(out, "{}", answer.to_json())?,
    }
    Ok(ExitCode::from(answer.exit_code()))
}

fn get<T: DeserializeOwned + std::fmt::Display>(ask: &Ask, path: &str) -> Result<ExitCode, Failure> {
    show(ask, &client(&ask.socket).get::<T>(path)?)
}

fn post<T: DeserializeOwned + std::fmt::Display>(ask: &Ask, path: &str) -> Result<ExitCode, Failure> {
    show(ask, &client(&ask.socket).post::<T>(path, &())?)
}

fn run_diff(args: &Propose) -> Result<ExitCode, Failure> {
    let proposal = proposal(&args.policy, None)?;
    show(&args.ask, &client(&args.ask.socket).post::<api::Diff>("/v1/policy/diff", &proposal)?)
}

fn run_apply(args: &Apply) -> Result<ExitCode, Failure> {
    let ask = &args.propose.ask;
    let seconds = args.confirm_timeout.map(|time| time.as_secs());
    let proposal = proposal(&args.propose.policy, seconds)?;
    show(ask, &client(&ask.socket).post::<api::Applied>("/v1/policy/apply", &proposal)?)
}

/// Reads a time in which something can be done.
fn some_time(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text).map_err(|err| err.to_string())? {
        Duration::ZERO => Err("nothing can be done in no time".to_owned()),
        time => Ok(time),
    }
}

/// Reads a time within which somebody is to confirm.
fn time_to_confirm(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|err| err.to_string())?;
    if time.subsec_nanos() > 0 || !api::CONFIRM_WITHIN.contains(&time.as_secs()) {
        let (least, most) = (api::CONFIRM_WITHIN.start(), api::CONFIRM_WITHIN.end());
        return Err(format!("not a whole number of seconds from {least} to {most}"));
    }
    Ok(time)
}

fn run_events(args: &Events) -> Result<ExitCode, Failure> {
    client(&args.socket).follow("/v1/events", &mut io::stdout().lock())?;
    Ok(ExitCode::SUCCESS)
}

fn client(socket: &Socket) -> Client {
    Client::new(&socket.control)
}

fn show<T: std::fmt::Display>(ask: &Ask, answer: &Answer<T>) -> Result<ExitCode, Failure> {
    let mut out = stdout();
    match ask.output {
        Output::Text => write!(out, "{}", answer.value)?,
        Output::Json => writeln!(out, "{}", answer.text)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The policy at `path`, if it is one: what is wrong with it is told here, with the lines that it is about.
fn proposal(path: &PathBuf, confirm_within_seconds: Option<u64>) -> Result<api::Proposal, Failure> {
    let loaded = policy::load(std::slice::from_ref(path));
    if loaded.policy.is_none() {
        return Err(bad_input(InvalidPolicy::of(&loaded.findings)));
    }
    let documents = loaded.documents.into_iter().map(|document| {
        // The daemon names files in records, and may run elsewhere than here.
        let file = std::path::absolute(&document.file).context("name the policy's files")?;
        Ok(api::Document { file: file.to_string_lossy().into_owned(), text: document.text.to_string() })
    });
    Ok(api::Proposal { documents: documents.collect::<anyhow::Result<_>>()?, confirm_within_seconds })
}

/// Text as a part of a query (RFC 3986).
fn escaped(text: &str) -> String {
    let bytes = text.bytes().map(|byte| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' | b':' => {
            char::from(byte).to_string()
        }
        byte => format!("%{byte:02X}"),
    });
    bytes.collect()
}

fn bad_input(err: impl std::fmt::Display) -> Failure {
    Failure::BadInput(err.to_string())
}

/// Logs of the daemon go to standard error, so that records may go to standard output.
fn init_log() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("ENFORCER_LOG").unwrap_or_else(
        |_: tracing_subscriber::filter::FromEnvError| tracing_subscriber::EnvFilter::new("info"),
    );
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .fmt_fields(debug_fn(log_field))
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false)
        .init();
}
