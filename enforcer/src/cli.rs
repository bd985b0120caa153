//! The verbs and flags of the command line, and what each answers with.

use std::io::{self, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};

use crate::check::Query;
use crate::daemon::{self, Settings};
use crate::identities::Identities;
use crate::policy;
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
#[expect(clippy::print_stderr, reason = "errors go to the terminal that asked")]
pub fn run(command: Command) -> ExitCode {
    let result = match command.verb {
        Verb::Run(args) => run_daemon(args),
        Verb::Detach(args) => run_detach(&args),
        Verb::Validate(args) => run_validate(&args),
        Verb::Check(args) => run_check(&args),
    };
    match result {
        Ok(code) => code,
        Err(Failure::BadInput(text)) => {
            eprintln!("error: {text}");
            ExitCode::from(BAD_INPUT)
        }
        Err(Failure::Other(err)) => {
            eprintln!("error: {err:#}");
            ExitCode::FAILURE
        }
    }
}

enum Failure {
    BadInput(String),
    Other(anyhow::Error),
}

impl From<io::Error> for Failure {
    fn from(err: io::Error) -> Self {
        Self::Other(err.into())
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
        staying: (!args.detach_on_exit).then_some(Staying {
            pin_dir: args.directories.pin_dir,
            state_dir: args.directories.state_dir,
            takeover: args.takeover,
        }),
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
    let mut out = io::stdout().lock();
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
    let valid = validate::run(&args.paths, format, &mut io::stdout().lock())?;
    Ok(if valid { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn run_check(args: &Check) -> Result<ExitCode, Failure> {
    let query = Query::parse(&args.source, &args.destination).map_err(bad_input)?;
    let loaded = policy::load(std::slice::from_ref(&args.policy));
    let Some(policy) = loaded.policy else {
        let findings: Vec<String> = loaded.findings.iter().map(policy::Finding::render).collect();
        return Err(Failure::BadInput(format!(
            "read policy {}:\n{}",
            args.policy.display(),
            findings.join("\n")
        )));
    };
    let mut identities = Identities::default();
    let tables = Tables::compile(&policy, &mut identities, 1).map_err(bad_input)?;
    let answer = check::check(&policy, &tables, &identities, &query).map_err(bad_input)?;
    let mut out = io::stdout().lock();
    match args.output {
        Output::Text => writeln!(out, "{answer}")?,
        Output::Json => writeln!(out, "{}", answer.to_json())?,
    }
    Ok(ExitCode::from(answer.exit_code()))
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
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false)
        .init();
}
