//! Ends the wait of a caller that has a signal pending.
//!
//! A request that is answered within `FIRST_LOOK` costs nothing but a timer. One that waits is
//! looked at through `/proc` every `NEXT_LOOK`: eleven microseconds a look, so that hundreds of
//! lock waiters cost a few percent of a core, and well below the 100 ms that a person notices.

use super::caller::{Ends, Waiter};
use std::future::Future;
use std::time::Duration;

const FIRST_LOOK: Duration = Duration::from_millis(10);
const NEXT_LOOK: Duration = Duration::from_millis(70);

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

async fn interrupted(thread: u32, ends: Ends) {
    tokio::time::sleep(FIRST_LOOK).await;
    let Some(waiter) = Waiter::of(thread) else {
        return std::future::pending().await;
    };
    while !waiter.is_interrupted(ends) {
        tokio::time::sleep(NEXT_LOOK).await;
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
}
