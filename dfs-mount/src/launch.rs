//! Going to the background: the launcher starts the same program again, waits until the mount
//! answers or says why it can't, and ends with that as its exit status.
//!
//! The process that stays reports over its standard output: one line, `ready` or an error. It is
//! started anew rather than forked, because a process with threads can't be forked safely.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};

const READY: &str = "ready";

/// Runs the launcher.
pub(crate) fn launch() -> ExitCode {
    match start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("dfs-mount: {message}");
            ExitCode::FAILURE
        }
    }
}

fn start() -> Result<(), String> {
    let program = std::env::current_exe().map_err(|e| format!("can't find myself: {e}"))?;
    let mut arguments = std::env::args_os();
    // The name says how the rest is to be read.
    let name = arguments.next().unwrap_or_default();
    let mut child = Command::new(program)
        .arg0(name)
        .arg("--background-child")
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| format!("can't start the background process: {e}"))?;
    let mut line = String::new();
    if let Some(report) = child.stdout.take() {
        // An error here reads as an empty report.
        let _ = BufReader::new(report).read_line(&mut line);
    }
    match line.trim_end() {
        READY => Ok(()),
        "" => match child.wait() {
            Ok(status) => Err(format!(
                "the background process ended without a word ({status})"
            )),
            Err(e) => Err(format!("the background process: {e}")),
        },
        message => {
            // It ends by itself after its report.
            let _ = child.wait();
            Err(message.to_owned())
        }
    }
}

/// Leaves the terminal's session, so that its end doesn't end the mount.
pub(crate) fn leave_terminal() {
    // Fails only for a process that leads a group: then it has its own already.
    let _ = rustix::process::setsid();
}

/// Tells the launcher how it went. Standard output is of no use afterwards: it is closed, so that
/// whoever reads the launcher's output sees its end.
pub(crate) fn report(result: Result<(), &str>) {
    let mut out = io::stdout();
    let line = match result {
        Ok(()) => READY.to_owned(),
        Err(message) => message.replace('\n', " "),
    };
    // The launcher may be gone; nobody is left to tell.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
    if let Ok(null) = std::fs::File::options().write(true).open("/dev/null") {
        let _ = rustix::stdio::dup2_stdout(&null);
    }
}
