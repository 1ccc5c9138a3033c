//! What the kernel doesn't hand over but `/proc` tells about the thread that waits for a request:
//! which lock call it is in, and whether a signal waits for it.
//!
//! FUSE answers interrupts through a request that the library refuses, so the kernel would let a
//! caller wait until the reply comes. The mount looks by itself instead; see `interrupt`.
//! A caller from another pid namespace arrives as thread 0 and can't be looked at.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Duration;

/// Which lock call a thread is in: the kernel's request looks the same for all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum LockCall {
    /// `flock(2)`.
    Flock,
    /// `fcntl(2)` with F_SETLK or F_GETLK, or something else that sets POSIX locks (io_uring).
    Posix,
    /// `fcntl(2)` with F_OFD_SETLK or F_OFD_GETLK.
    OpenFile,
    /// The thread can't be looked at (another user's, another pid namespace's).
    Hidden,
}

/// Reads which lock call `thread` is asleep in. Only right while the kernel waits for the reply,
/// so it is called in the request's handler.
pub(crate) fn lock_call(thread: u32) -> LockCall {
    if thread == 0 {
        return LockCall::Hidden;
    }
    let path = format!("/proc/{thread}/syscall");
    for look in 0..LOOKS_MAX {
        match std::fs::read_to_string(&path) {
            // It has handed its request over and is not asleep yet.
            Ok(line) if line.starts_with(RUNNING) => {
                if look < LOOKS_MAX / 2 {
                    std::thread::yield_now();
                } else {
                    std::thread::sleep(Duration::from_micros(100));
                }
            }
            Ok(line) => return parse_lock_call(&line),
            Err(_) => break,
        }
    }
    LockCall::Hidden
}

/// Whether the thread has this name, which is its program's unless it has chosen another one.
pub(crate) fn is_named(thread: u32, name: &str) -> bool {
    let told = std::fs::read_to_string(format!("/proc/{thread}/comm"));
    thread != 0 && told.is_ok_and(|told| told.trim_end() == name)
}

/// What the kernel says of a thread that is not asleep.
const RUNNING: &str = "running";

/// How often a thread that is about to fall asleep is looked at.
const LOOKS_MAX: u32 = 100;

/// `NUMBER 0xARG0 0xARG1 ...`, or `running` when the thread is in no call.
fn parse_lock_call(line: &str) -> LockCall {
    let mut words = line.split_ascii_whitespace();
    match words.next().and_then(|w| w.parse::<i64>().ok()) {
        Some(libc::SYS_flock) => LockCall::Flock,
        Some(libc::SYS_fcntl) => {
            let command = words.nth(1).and_then(|w| w.strip_prefix("0x"));
            // The upper half of the register is not the kernel's concern, so not ours.
            let command = command.and_then(|w| u64::from_str_radix(w, 16).ok());
            match command.map(|c| c as i32) {
                Some(libc::F_OFD_SETLK | libc::F_OFD_SETLKW | libc::F_OFD_GETLK) => {
                    LockCall::OpenFile
                }
                _ => LockCall::Posix,
            }
        }
        Some(_) => LockCall::Posix,
        None => LockCall::Hidden,
    }
}

/// Which signals end a wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ends {
    /// Any that would be delivered: a lock wait.
    AnySignal,
    /// Only those that kill the caller: everything else.
    Death,
}

/// A thread that waits for a request, looked at through a kept descriptor.
#[derive(Debug)]
pub(crate) struct Waiter {
    status: File,
}

impl Waiter {
    /// `None` when the thread can't be looked at (any more).
    pub(crate) fn of(thread: u32) -> Option<Self> {
        if thread == 0 {
            return None;
        }
        let status = File::open(format!("/proc/{thread}/status")).ok()?;
        Some(Self { status })
    }

    /// Whether a signal waits for the thread that ends its wait; also when the thread is gone.
    pub(crate) fn is_interrupted(&self, ends: Ends) -> bool {
        // The masks stand within the first page; the group list of a user before them can be
        // long, hence more than that.
        let mut buffer = [0u8; 8192];
        match self.status.read_at(&mut buffer, 0) {
            Ok(0) | Err(_) => true,
            Ok(n) => SignalMasks::parse(&buffer[..n]).is_some_and(|m| m.interrupts(ends)),
        }
    }
}

/// The masks of `/proc/TID/status`; bit *n* - 1 is signal *n*.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct SignalMasks {
    pending_thread: u64,
    pending_group: u64,
    blocked: u64,
    ignored: u64,
    caught: u64,
}

const fn bit(signal: i32) -> u64 {
    1 << (signal - 1)
}

/// Signals whose default is to be ignored.
const IGNORED_BY_DEFAULT: u64 =
    bit(libc::SIGCHLD) | bit(libc::SIGURG) | bit(libc::SIGWINCH) | bit(libc::SIGCONT);
/// Signals that stop a process: it goes on waiting when it is continued.
const STOPPING: u64 =
    bit(libc::SIGSTOP) | bit(libc::SIGTSTP) | bit(libc::SIGTTIN) | bit(libc::SIGTTOU);

impl SignalMasks {
    fn parse(status: &[u8]) -> Option<Self> {
        let mut masks = Self::default();
        let mut found = 0;
        for line in status.split(|b| *b == b'\n') {
            let Some(colon) = line.iter().position(|b| *b == b':') else {
                continue;
            };
            let (name, rest) = line.split_at(colon);
            let slot = match name {
                b"SigPnd" => &mut masks.pending_thread,
                b"ShdPnd" => &mut masks.pending_group,
                b"SigBlk" => &mut masks.blocked,
                b"SigIgn" => &mut masks.ignored,
                b"SigCgt" => &mut masks.caught,
                _ => continue,
            };
            let digits = std::str::from_utf8(rest.get(1..)?).ok()?.trim();
            *slot = u64::from_str_radix(digits, 16).ok()?;
            found += 1;
        }
        (found == 5).then_some(masks)
    }

    fn interrupts(&self, ends: Ends) -> bool {
        let pending = self.pending_thread | self.pending_group;
        let kill = bit(libc::SIGKILL);
        if pending & kill != 0 {
            return true;
        }
        let open = pending & !self.blocked & !self.ignored;
        let by_default = open & !self.caught & !IGNORED_BY_DEFAULT & !STOPPING;
        match ends {
            Ends::AnySignal => (open & self.caught) | by_default != 0,
            Ends::Death => by_default != 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(pending: u64, shared: u64, blocked: u64, ignored: u64, caught: u64) -> String {
        format!(
            "Name:\tx\nGroups:\t0 4 5\nSigQ:\t0/9\nSigPnd:\t{pending:016x}\nShdPnd:\t{shared:016x}\n\
             SigBlk:\t{blocked:016x}\nSigIgn:\t{ignored:016x}\nSigCgt:\t{caught:016x}\nCapInh:\t0\n"
        )
    }

    fn ends(text: &str, by: Ends) -> bool {
        SignalMasks::parse(text.as_bytes())
            .expect("complete")
            .interrupts(by)
    }

    #[test]
    fn a_handled_signal_ends_a_lock_wait_only() {
        let int = bit(libc::SIGINT);
        let text = status(0, int, 0, 0, int);
        assert!(ends(&text, Ends::AnySignal));
        assert!(!ends(&text, Ends::Death));
    }

    #[test]
    fn an_unhandled_signal_ends_every_wait() {
        let text = status(bit(libc::SIGTERM), 0, 0, 0, 0);
        assert!(ends(&text, Ends::AnySignal) && ends(&text, Ends::Death));
    }

    #[test]
    fn kill_counts_even_when_everything_is_blocked() {
        let text = status(0, bit(libc::SIGKILL), u64::MAX, u64::MAX, 0);
        assert!(ends(&text, Ends::Death));
    }

    #[test]
    fn blocked_ignored_stopping_and_harmless_signals_end_nothing() {
        let int = bit(libc::SIGINT);
        assert!(!ends(&status(int, 0, int, 0, int), Ends::AnySignal));
        assert!(!ends(&status(int, 0, 0, int, 0), Ends::AnySignal));
        assert!(!ends(
            &status(IGNORED_BY_DEFAULT | STOPPING, 0, 0, 0, 0),
            Ends::AnySignal
        ));
    }

    #[test]
    fn a_handled_harmless_signal_ends_a_lock_wait() {
        let chld = bit(libc::SIGCHLD);
        assert!(ends(&status(chld, 0, 0, 0, chld), Ends::AnySignal));
    }

    #[test]
    fn incomplete_text_is_no_answer() {
        assert_eq!(SignalMasks::parse(b"SigPnd:\t0\n"), None);
        assert_eq!(SignalMasks::parse(b"SigPnd\nx:y"), None);
    }

    #[test]
    fn flock_is_told_from_fcntl() {
        let flock = format!("{} 0x3 0x2 0x0 0x0 0x0 0x0 0x7ffd 0x7f1a", libc::SYS_flock);
        let fcntl = format!(
            "{} 0x3 0x7 0x7ffd 0x0 0x0 0x0 0x7ffd 0x7f1a",
            libc::SYS_fcntl
        );
        assert_eq!(parse_lock_call(&flock), LockCall::Flock);
        assert_eq!(parse_lock_call(&fcntl), LockCall::Posix);
        for command in [libc::F_OFD_GETLK, libc::F_OFD_SETLK, libc::F_OFD_SETLKW] {
            let ofd = format!("{} 0x3 0x{command:x} 0x7ffc 0x0\n", libc::SYS_fcntl);
            assert_eq!(parse_lock_call(&ofd), LockCall::OpenFile);
        }
        assert_eq!(parse_lock_call("running\n"), LockCall::Hidden);
        assert_eq!(parse_lock_call(""), LockCall::Hidden);
    }

    #[test]
    fn a_thread_that_is_gone_ends_its_wait() {
        let child = std::process::Command::new("sleep").arg("60").spawn();
        let mut child = child.expect("sleep starts");
        let waiter = Waiter::of(child.id()).expect("can be looked at");
        assert!(!waiter.is_interrupted(Ends::AnySignal));
        child.kill().expect("is killed");
        child.wait().expect("is reaped");
        assert!(waiter.is_interrupted(Ends::Death));
    }
}
