//! Work that begins where it is asked for.
//!
//! A task that is spawned begins when its runtime's thread gets to it: a wake-up of that thread
//! before anything is done, and another one when the answer comes. Most requests need one call over
//! a connection; begun here, they are on their way before anybody else has to wake up.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use tokio::runtime::Handle;

/// Begins `work` on this thread, until it first has to wait. Returns what it gives if it is done by
/// then. Otherwise it goes on as a task of `runtime` as soon as what it waits for has happened, and
/// `then` gets its outcome there. A panic ends it, as it would end a task.
pub fn begin<T, W, N>(runtime: &Handle, work: W, then: N) -> Option<T>
where
    T: 'static,
    W: Future<Output = T> + Send + 'static,
    N: FnOnce(T) + Send + 'static,
{
    let mut work = Box::pin(work);
    let begun = Arc::new(Begun {
        runtime: runtime.clone(),
        rest: Mutex::new(Rest::Beginning { woken: false }),
    });
    let waker = Waker::from(begun.clone());
    let polled = {
        // Timers and tasks that it makes are the runtime's.
        let _within = runtime.enter();
        let poll = || work.as_mut().poll(&mut Context::from_waker(&waker));
        catch_unwind(AssertUnwindSafe(poll))
    };
    match polled {
        Ok(Poll::Ready(value)) => return Some(value),
        Ok(Poll::Pending) => begun.wait(work, then),
        // The panic was reported where it happened.
        Err(_) => log::error!("work ended in a defect as it began"),
    }
    None
}

/// Work that was polled once. Whoever it waits for owns this by its waker; it is dropped with the
/// last of them.
struct Begun<W, N> {
    runtime: Handle,
    rest: Mutex<Rest<W, N>>,
}

enum Rest<W, N> {
    Beginning {
        woken: bool,
    },
    Waiting(Pin<Box<W>>, N),
    /// It is a task now, with wakers of its own.
    GoesOn,
}

impl<T, W, N> Begun<W, N>
where
    T: 'static,
    W: Future<Output = T> + Send + 'static,
    N: FnOnce(T) + Send + 'static,
{
    fn rest(&self) -> MutexGuard<'_, Rest<W, N>> {
        self.rest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait(&self, work: Pin<Box<W>>, then: N) {
        let mut rest = self.rest();
        if !matches!(*rest, Rest::Beginning { woken: true }) {
            *rest = Rest::Waiting(work, then);
            return;
        }
        *rest = Rest::GoesOn;
        drop(rest);
        self.go_on(work, then);
    }

    fn go_on(&self, work: Pin<Box<W>>, then: N) {
        self.runtime.spawn(async move { then(work.await) });
    }
}

impl<T, W, N> Wake for Begun<W, N>
where
    T: 'static,
    W: Future<Output = T> + Send + 'static,
    N: FnOnce(T) + Send + 'static,
{
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let mut rest = self.rest();
        match std::mem::replace(&mut *rest, Rest::GoesOn) {
            Rest::Beginning { .. } => *rest = Rest::Beginning { woken: true },
            Rest::Waiting(work, then) => {
                drop(rest);
                self.go_on(work, then);
            }
            Rest::GoesOn => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::time::Duration;
    use tokio::sync::oneshot;

    const PATIENCE: Duration = Duration::from_secs(20);

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("runtime")
    }

    #[test]
    fn what_need_not_wait_is_done_on_the_spot() {
        let runtime = runtime();
        let here = std::thread::current().id();
        let work = async { std::thread::current().id() };
        let done = begin(runtime.handle(), work, |_| panic!("it was done already"));
        assert_eq!(done, Some(here));
    }

    #[test]
    fn what_waits_has_begun_and_goes_on_in_the_runtime() {
        let runtime = runtime();
        let (begun, has_begun) = mpsc::channel();
        let (tell, told) = oneshot::channel();
        let (end, ended) = mpsc::channel();
        let work = async move {
            begun.send(()).expect("the test waits");
            let first = told.await.expect("is told");
            tokio::time::sleep(Duration::from_millis(1)).await;
            tokio::task::yield_now().await;
            first + 1
        };
        let done = begin(runtime.handle(), work, move |value| {
            end.send((value, std::thread::current().id()))
                .expect("the test waits");
        });
        assert_eq!(done, None);
        // Nothing of the runtime has run yet.
        has_begun.try_recv().expect("it has begun");
        let other = std::thread::spawn(move || {
            let me = std::thread::current().id();
            runtime.block_on(async {
                tell.send(6).expect("it waits");
                let ended = tokio::task::spawn_blocking(move || ended.recv_timeout(PATIENCE));
                let (value, there) = ended.await.expect("no panic").expect("ends in time");
                assert_eq!((value, there), (7, me));
            });
        });
        other.join().expect("no panic");
    }

    #[test]
    fn a_wake_up_while_it_begins_is_not_missed() {
        let runtime = runtime();
        let (end, ended) = mpsc::channel();
        let work = async {
            tokio::task::yield_now().await;
            std::future::poll_fn({
                let mut polls = 0;
                move |context| {
                    context.waker().wake_by_ref();
                    polls += 1;
                    if polls > 3 {
                        Poll::Ready(polls)
                    } else {
                        Poll::Pending
                    }
                }
            })
            .await
        };
        let done = begin(runtime.handle(), work, move |value| {
            end.send(value).expect("the test waits");
        });
        assert_eq!(done, None);
        runtime.block_on(async {
            while ended.try_recv().is_err() {
                tokio::task::yield_now().await;
            }
        });
    }

    #[test]
    fn a_panic_stays_here_and_drops_the_work() {
        let runtime = runtime();
        let (held, released) = mpsc::channel::<()>();
        let work = async move {
            let _held = held;
            panic!("on purpose");
        };
        assert_eq!(begin(runtime.handle(), work, |()| {}), None);
        assert!(released.recv_timeout(PATIENCE).is_err(), "it was dropped");
    }
}
