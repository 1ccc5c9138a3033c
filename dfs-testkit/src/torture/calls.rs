//! Every call of a run: how long it took, under which fault, and whether it still runs.

use super::Result;
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// No call takes longer than this under any single fault: it hangs.
const HANGS: Duration = Duration::from_secs(60);

/// Kinds of calls.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Call {
    Create,
    Open,
    Read,
    Write,
    Append,
    Sync,
    Truncate,
    Rename,
    Unlink,
    Stat,
    List,
    Lock,
}

impl Call {
    const ALL: [Self; 12] = [
        Self::Create,
        Self::Open,
        Self::Read,
        Self::Write,
        Self::Append,
        Self::Sync,
        Self::Truncate,
        Self::Rename,
        Self::Unlink,
        Self::Stat,
        Self::List,
        Self::Lock,
    ];
}

/// The calls of all workers.
#[derive(Debug, Default)]
pub(super) struct Calls {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    fault: Option<String>,
    longest: BTreeMap<String, BTreeMap<Call, Duration>>,
    /// The longest of each kind since the last `take_longest`.
    recent: BTreeMap<Call, Duration>,
    running: BTreeMap<u64, Running>,
    last: u64,
    count: u64,
    failures: Vec<String>,
    stopping: bool,
}

#[derive(Clone, Debug)]
struct Running {
    call: Call,
    since: Instant,
    fault: Option<String>,
    path: String,
}

impl Calls {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is done to the cluster from now on.
    pub(super) fn set_fault(&self, fault: Option<&str>) {
        self.inner().fault = fault.map(str::to_owned);
    }

    /// Makes a call and remembers how long it took. `what` names it in messages.
    pub(super) fn make<T>(
        &self,
        call: Call,
        what: &str,
        make: impl FnOnce() -> io::Result<T>,
    ) -> Result<T> {
        let id = {
            let mut inner = self.inner();
            inner.last += 1;
            let id = inner.last;
            let running = Running {
                call,
                since: Instant::now(),
                fault: inner.fault.clone(),
                path: what.to_owned(),
            };
            inner.running.insert(id, running);
            id
        };
        let result = make();
        let mut inner = self.inner();
        inner.count += 1;
        let Some(running) = inner.running.remove(&id) else {
            return Err(format!("{call:?} {what} was not running"));
        };
        let took = running.since.elapsed();
        // A call that a fault has met waits for it also when it began before or ended after.
        let fault = running.fault.or_else(|| inner.fault.clone());
        let label = fault.clone().unwrap_or_else(|| "no fault".to_owned());
        let row = inner.longest.entry(label).or_default();
        let longest = row.entry(call).or_default();
        *longest = took.max(*longest);
        let recent = inner.recent.entry(call).or_default();
        *recent = took.max(*recent);
        drop(inner);
        result.map_err(|e| {
            let under = fault.unwrap_or_else(|| "no fault".to_owned());
            format!("{call:?} {what}: {e} after {took:?} under {under}")
        })
    }

    /// Calls so far.
    pub(super) fn count(&self) -> u64 {
        self.inner().count
    }

    /// A worker has found something wrong: everything stops.
    pub(super) fn fail(&self, what: String) {
        eprintln!("torture: {what}");
        let mut inner = self.inner();
        inner.failures.push(what);
        inner.stopping = true;
    }

    pub(super) fn stop(&self) {
        self.inner().stopping = true;
    }

    pub(super) fn stopping(&self) -> bool {
        self.inner().stopping
    }

    /// Looks for failures, and for calls that hang.
    pub(super) fn check(&self) -> Result<()> {
        let inner = self.inner();
        if !inner.failures.is_empty() {
            return Err(inner.failures.join("\n"));
        }
        let hangs = inner.running.values().find(|r| r.since.elapsed() > HANGS);
        match hangs {
            Some(r) => Err(format!(
                "{:?} {} has been waiting for {:?} (began under {:?})",
                r.call,
                r.path,
                r.since.elapsed(),
                r.fault
            )),
            None => Ok(()),
        }
    }

    /// The longest call since the last time that this was asked, with those that still run.
    pub(super) fn take_longest(&self) -> Duration {
        let mut inner = self.inner();
        let recent = std::mem::take(&mut inner.recent);
        let ended = recent.into_values();
        ended
            .chain(inner.running.values().map(|r| r.since.elapsed()))
            .max()
            .unwrap_or_default()
    }
}

/// The longest call of each kind under each fault, in milliseconds.
impl fmt::Display for Calls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = self.inner();
        write!(f, "| longest call, ms |")?;
        for call in Call::ALL {
            write!(f, " {} |", format!("{call:?}").to_lowercase())?;
        }
        writeln!(f, "\n| --- |{}", " ---: |".repeat(Call::ALL.len()))?;
        for (fault, row) in &inner.longest {
            write!(f, "| {fault} |")?;
            for call in Call::ALL {
                match row.get(&call) {
                    Some(longest) => write!(f, " {} |", longest.as_millis())?,
                    None => write!(f, " |")?,
                }
            }
            writeln!(f)?;
        }
        Ok(())
    }
}
