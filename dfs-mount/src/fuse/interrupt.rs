//! Ends the wait of a caller that has a signal pending.
//!
//! One thread looks at all callers that wait, through `/proc`: for the first time when a request has
//! waited for `FIRST_LOOK`, then every `NEXT_LOOK`. Eleven microseconds a look, so that hundreds of
//! lock waiters cost a few percent of a core, and well below the 100 ms that a person notices. A
//! request that is answered before costs an entry in a table: no timer, no wake-up.

use super::caller::{Ends, Waiter};
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Condvar, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

const FIRST_LOOK: Duration = Duration::from_millis(10);
const NEXT_LOOK: Duration = Duration::from_millis(60);

/// How often the thread sees whose look is due, while there are callers.
const ROUND: Duration = Duration::from_millis(20);

/// Rounds without a caller before the thread rests until there is one.
const IDLE_ROUNDS: u32 = 50;

/// The caller has a signal pending that ends its wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Interrupted;

/// Runs `work` for the waiting `thread`. When the thread is interrupted `work` is dropped, so it
/// must be cancel-safe or only the waiting half of something that goes on by itself.
pub(crate) async fn until_interrupted<T>(
    thread: u32,
    ends: Ends,
    work: impl Future<Output = T>,
) -> Result<T, Interrupted> {
    tokio::select! {
        biased;
        done = work => Ok(done),
        () = interrupted(thread, ends) => Err(Interrupted),
    }
}

/// Begins with the first poll: what is done at once is never noted.
async fn interrupted(thread: u32, ends: Ends) {
    let (tell, told) = oneshot::channel();
    let _noted = LOOKER.note(Caller {
        thread,
        ends,
        due: Instant::now() + FIRST_LOOK,
        waiter: None,
        tell,
    });
    if told.await.is_err() {
        // The thread can't be looked at.
        std::future::pending().await
    }
}

/// One for the process: threads have one number on all its mounts.
static LOOKER: LazyLock<Looker> = LazyLock::new(|| {
    let looking = std::thread::Builder::new()
        .name("dfs-callers".into())
        .spawn(|| LOOKER.run());
    if let Err(e) = looking {
        log::error!(
            "no thread can be started ({e}): callers that are killed wait for their answer"
        );
    }
    Looker::default()
});

#[derive(Debug)]
struct Caller {
    thread: u32,
    ends: Ends,
    due: Instant,
    /// Opened at the first look.
    waiter: Option<Waiter>,
    tell: oneshot::Sender<()>,
}

impl Caller {
    /// Returns the caller if it goes on waiting.
    fn look(mut self) -> Option<Self> {
        if self.waiter.is_none() {
            self.waiter = Waiter::of(self.thread);
        }
        if !self.waiter.as_ref()?.is_interrupted(self.ends) {
            self.due = Instant::now() + NEXT_LOOK;
            return Some(self);
        }
        // It may have been answered at this moment.
        let _ = self.tell.send(());
        None
    }
}

#[derive(Debug, Default)]
struct Table {
    last: u64,
    callers: BTreeMap<u64, Caller>,
    /// Who was answered while the thread looked at them.
    answered: Vec<u64>,
    looking: bool,
    resting: bool,
}

#[derive(Debug, Default)]
struct Looker {
    table: Mutex<Table>,
    come: Condvar,
}

/// A caller in the table; taken out when dropped.
struct Noted {
    number: u64,
}

impl Drop for Noted {
    fn drop(&mut self) {
        let mut table = LOOKER.table();
        if table.callers.remove(&self.number).is_none() && table.looking {
            table.answered.push(self.number);
        }
    }
}

impl Looker {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, caller: Caller) -> Noted {
        let mut table = self.table();
        table.last += 1;
        let number = table.last;
        table.callers.insert(number, caller);
        if std::mem::take(&mut table.resting) {
            self.come.notify_one();
        }
        Noted { number }
    }

    fn run(&self) {
        let mut idle = 0;
        let mut table = self.table();
        loop {
            idle = match table.callers.is_empty() {
                true => idle + 1,
                false => 0,
            };
            if idle > IDLE_ROUNDS {
                table.resting = true;
                let come = self.come.wait_while(table, |table| table.resting);
                table = come.unwrap_or_else(PoisonError::into_inner);
                idle = 0;
            }
            drop(table);
            std::thread::sleep(ROUND);
            self.round();
            table = self.table();
        }
    }

    fn round(&self) {
        let now = Instant::now();
        let due: Vec<(u64, Caller)> = {
            let mut table = self.table();
            table.looking = true;
            let waiting = table.callers.iter();
            let due = waiting.filter(|(_, caller)| caller.due <= now);
            let due: Vec<u64> = due.map(|(number, _)| *number).collect();
            let taken = due.into_iter();
            taken
                .filter_map(|number| Some((number, table.callers.remove(&number)?)))
                .collect()
        };
        // Not under the lock: nobody who comes or goes waits for the looks.
        let waiting: Vec<(u64, Caller)> = due
            .into_iter()
            .filter_map(|(number, caller)| Some((number, caller.look()?)))
            .collect();
        let mut table = self.table();
        table.looking = false;
        let answered = std::mem::take(&mut table.answered);
        let waiting = waiting.into_iter();
        table
            .callers
            .extend(waiting.filter(|(number, _)| !answered.contains(number)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("runtime")
    }

    #[test]
    fn what_is_done_is_answered() {
        let done = runtime().block_on(until_interrupted(0, Ends::AnySignal, async { 7 }));
        assert_eq!(done, Ok(7));
    }

    #[test]
    fn a_killed_caller_stops_waiting_soon() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .expect("sleep starts");
        let thread = child.id();
        let waited = runtime().block_on(async {
            let wait = until_interrupted(thread, Ends::Death, std::future::pending::<()>());
            let kill = async {
                tokio::time::sleep(Duration::from_millis(30)).await;
                child.kill().expect("is killed");
                let start = Instant::now();
                child.wait().expect("is reaped");
                start
            };
            let (ended, start) = tokio::join!(wait, kill);
            assert_eq!(ended, Err(Interrupted));
            start.elapsed()
        });
        assert!(waited < Duration::from_millis(500), "{waited:?}");
    }

    #[test]
    fn whoever_is_answered_is_not_looked_at_any_more() {
        let thread = std::process::id();
        let wait = until_interrupted(thread, Ends::AnySignal, async {
            tokio::time::sleep(FIRST_LOOK + ROUND * 3).await;
        });
        assert_eq!(runtime().block_on(wait), Ok(()));
        // The thread may have had it in hand; it does not put it back.
        let mine = |caller: &Caller| caller.thread == thread && caller.ends == Ends::AnySignal;
        let end = Instant::now() + Duration::from_secs(20);
        while LOOKER.table().callers.values().any(mine) {
            assert!(Instant::now() < end, "it is still looked at");
            std::thread::sleep(ROUND);
        }
    }
}
