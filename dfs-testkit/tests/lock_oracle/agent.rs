//! A process that makes the lock calls that it is told to.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

/// Reads a call a line; answers `ok`, `free`, `held`, `child PID` or the name of an error.
const SCRIPT: &str = r#"
import errno, fcntl, os, signal, struct, sys
path, slots = sys.argv[1], {}
KIND = {"shared": fcntl.F_RDLCK, "exclusive": fcntl.F_WRLCK, "none": fcntl.F_UNLCK}
FLOCK = {"shared": fcntl.LOCK_SH, "exclusive": fcntl.LOCK_EX, "none": fcntl.LOCK_UN}
COMMAND = {"posix": (fcntl.F_GETLK, fcntl.F_SETLK, fcntl.F_SETLKW), "ofd": (36, 37, 38)}

def lock(words):
    what, slot, kind, start, length, how = words
    fd = slots[slot]
    if what == "flock":
        fcntl.flock(fd, FLOCK[kind] | (0 if how == "wait" else fcntl.LOCK_NB))
        return "ok"
    asked = struct.pack("hhqqi4x", KIND[kind], os.SEEK_SET, int(start), int(length), 0)
    command = COMMAND[what][("test", "try", "wait").index(how)]
    told = fcntl.fcntl(fd, command, asked)
    if how != "test":
        return "ok"
    return "free" if struct.unpack("hhqqi4x", told)[0] == fcntl.F_UNLCK else "held"

def act(words):
    if words[0] == "open":
        slots[words[1]] = os.open(path, os.O_RDWR)
    elif words[0] == "close":
        os.close(slots.pop(words[1]))
    elif words[0] == "dup":
        slots[words[2]] = os.dup(slots[words[1]])
    elif words[0] == "fork":
        child = os.fork()
        if child == 0:
            os.close(0)
            os.close(1)
            while True:
                signal.pause()
        return "child %d" % child
    else:
        return lock(words)
    return "ok"

signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for line in sys.stdin:
    try:
        answer = act(line.split())
    except OSError as e:
        answer = errno.errorcode[e.errno]
    print(answer, flush=True)
"#;

/// The process. Killed at the end of its life, with its child.
pub(super) struct Agent {
    process: Child,
    calls: ChildStdin,
    answers: Receiver<String>,
    child: Option<u32>,
}

impl Agent {
    pub(super) fn new(path: &Path) -> Self {
        let mut process = Command::new("python3")
            .args(["-c", SCRIPT])
            .arg(path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3");
        let calls = process.stdin.take().unwrap();
        let stdout = BufReader::new(process.stdout.take().unwrap());
        let (tell, answers) = channel();
        // Ends with the process's output.
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if tell.send(line).is_err() {
                    return;
                }
            }
        });
        Self {
            process,
            calls,
            answers,
            child: None,
        }
    }

    pub(super) fn tell(&mut self, call: &str) {
        writeln!(self.calls, "{call}").unwrap();
    }

    /// The answer of the last call, if it is there.
    pub(super) fn answer(&mut self) -> Option<String> {
        let answer = self.answers.try_recv().ok()?;
        match answer.strip_prefix("child ") {
            Some(pid) => {
                self.child = pid.parse().ok();
                Some("ok".to_owned())
            }
            None => Some(answer),
        }
    }

    /// Whether it is asleep in a lock call. One that was just woken is not.
    pub(super) fn is_in_lock_call(&self) -> bool {
        let path = format!("/proc/{}/syscall", self.process.id());
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let number = text.split_whitespace().next().unwrap_or_default();
        number == libc::SYS_flock.to_string() || number == libc::SYS_fcntl.to_string()
    }

    /// Ends the child, which had the descriptors that were open at its fork.
    pub(super) fn end_child(&mut self) {
        let Some(pid) = self.child.take() else { return };
        kill(pid);
        let status = format!("/proc/{pid}/status");
        dfs_testkit::eventually(
            "the end of a child",
            std::time::Duration::from_secs(10),
            || {
                let text = std::fs::read_to_string(&status).unwrap_or_default();
                text.is_empty() || text.contains("State:\tZ")
            },
        );
    }
}

fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(pid as i32).unwrap();
    // One that has ended already needs no signal.
    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.end_child();
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
