//! What a command does when its output goes nowhere.
#![forbid(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io;
use std::process::{Command, Output, Stdio};

/// Runs the command with this standard output, or where what it writes is collected.
fn enforcer(arguments: &[&str], stdout: impl Into<Stdio>, stderr: impl Into<Stdio>) -> Output {
    Command::new(env!("CARGO_BIN_EXE_enforcer"))
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(stdout)
        .stderr(stderr)
        .spawn()
        .and_then(std::process::Child::wait_with_output)
        .expect("the command runs")
}

/// The end of a pipe that nobody reads.
fn unread() -> io::PipeWriter {
    let (reader, writer) = io::pipe().expect("a pipe");
    drop(reader);
    writer
}

fn full() -> File {
    OpenOptions::new().write(true).open("/dev/full").expect("Linux has it")
}

const VALID: &str = "../policies/zones";
/// Has more than one finding, so that more than one line is written.
const INVALID: &str = "tests/findings";

const COMMANDS: [&[&str]; 6] = [
    &["validate", VALID],
    &["validate", "-o", "json", VALID],
    &["validate", INVALID],
    &["validate", "-o", "json", INVALID],
    &["check", "gateway", "internal:8080/tcp", "--policy", VALID],
    &["check", "-o", "json", "gateway", "internal:8080/tcp", "--policy", VALID],
];

#[test]
fn whoever_stops_reading_is_told_nothing_and_the_exit_code_is_the_same() {
    for arguments in COMMANDS {
        let read = enforcer(arguments, Stdio::piped(), Stdio::piped());
        assert!(!read.stdout.is_empty(), "{arguments:?}: {read:?}");
        let cut_off = enforcer(arguments, unread(), Stdio::piped());
        assert_eq!(cut_off.status, read.status, "{arguments:?}");
        assert_eq!(String::from_utf8_lossy(&cut_off.stderr), "", "{arguments:?}");
    }
}

#[test]
fn output_that_could_not_be_written_is_an_error() {
    for arguments in COMMANDS {
        let lost = enforcer(arguments, full(), Stdio::piped());
        assert_eq!(lost.status.code(), Some(1), "{arguments:?}: {lost:?}");
        let told = String::from_utf8_lossy(&lost.stderr);
        assert!(told.starts_with("error: write output: No space left on device"), "{arguments:?}: {told}");
    }
}

#[test]
fn an_error_that_nobody_reads_is_still_the_exit_code() {
    let arguments = ["check", "nobody", "nothing:1/tcp", "--policy", VALID];
    let read = enforcer(&arguments, Stdio::piped(), Stdio::piped());
    assert!(String::from_utf8_lossy(&read.stderr).starts_with("error: "), "{read:?}");
    for stderr in [Stdio::from(unread()), Stdio::from(full())] {
        assert_eq!(enforcer(&arguments, Stdio::piped(), stderr).status, read.status);
    }
}

fn said(arguments: &[&str]) -> String {
    let output = enforcer(arguments, Stdio::piped(), Stdio::piped());
    assert!(!output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn what_is_wrong_with_a_policy_is_told_as_one_error() {
    for arguments in [
        &["check", "web", "db:1", "--policy", "tests/nowhere"][..],
        &["check", "web", "db:1", "--policy", INVALID],
        &["policy", "diff", "tests/nowhere"],
        &["policy", "apply", INVALID],
    ] {
        let said = said(arguments);
        assert!(said.starts_with("error["), "{arguments:?}: {said}");
        assert!(!said.contains("error: ") && !said.ends_with("\n\n"), "{arguments:?}: {said}");
    }
}

#[test]
fn a_control_socket_that_is_none_is_told_to_be_none() {
    for path in ["tests", "Cargo.toml"] {
        let said = said(&["status", "--control", path]);
        assert!(
            said.starts_with(&format!("error: connect to control socket {path}: it is not a socket\nhint: "))
        );
    }
}

#[test]
fn what_was_asked_is_not_obeyed_by_the_terminal_that_the_answer_is_read_on() {
    for asked in ["/e\u{1b}[31mred", "e\u{1b}[31mred"] {
        let answer =
            enforcer(&["check", asked, "gateway:1", "--policy", VALID], Stdio::piped(), Stdio::piped());
        let told = [answer.stdout, answer.stderr].concat();
        assert!(!told.is_empty() && !told.contains(&0x1b), "{asked:?}: {}", String::from_utf8_lossy(&told));
    }
}
