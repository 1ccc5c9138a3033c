//! Work whose outcome is defined even if nobody waits for it any more.

use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::runtime::Handle;

/// Work that is done where it is waited for, and goes on as a task of a runtime if whoever waits
/// goes away before its end. What was never waited for is not begun.
pub(super) struct Lasting<W: Future<Output: Send + 'static> + Send + 'static> {
    work: Option<Pin<Box<W>>>,
    begun: bool,
    runtime: Handle,
}

impl<W: Future<Output: Send + 'static> + Send + 'static> Lasting<W> {
    pub(super) fn new(runtime: &Handle, work: W) -> Self {
        Self {
            work: Some(Box::pin(work)),
            begun: false,
            runtime: runtime.clone(),
        }
    }
}

impl<W: Future<Output: Send + 'static> + Send + 'static> Future for Lasting<W> {
    type Output = W::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<W::Output> {
        // Out of here while it runs: after a panic it does not go on.
        let Some(mut work) = self.work.take() else {
            return Poll::Pending;
        };
        self.begun = true;
        let polled = work.as_mut().poll(context);
        if polled.is_pending() {
            self.work = Some(work);
        }
        polled
    }
}

impl<W: Future<Output: Send + 'static> + Send + 'static> Drop for Lasting<W> {
    fn drop(&mut self) {
        if let Some(work) = self.work.take().filter(|_| self.begun) {
            self.runtime.spawn(work);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::oneshot;

    fn steps() -> (
        oneshot::Sender<()>,
        oneshot::Receiver<()>,
        impl Future<Output = u32> + Send + 'static,
    ) {
        let (go, gone) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        let work = async move {
            gone.await.expect("is told");
            // Nobody may listen.
            let _ = end.send(());
            7
        };
        (go, ended, work)
    }

    #[tokio::test]
    async fn it_goes_on_without_the_one_who_waited() {
        let (go, ended, work) = steps();
        let mut lasting = Box::pin(Lasting::new(&Handle::current(), work));
        let polled = std::future::poll_fn(|context| {
            Poll::Ready(lasting.as_mut().poll(context).is_pending())
        });
        assert!(polled.await);
        drop(lasting);
        go.send(()).expect("it waits");
        ended.await.expect("it came to its end");
    }

    #[tokio::test]
    async fn what_was_not_begun_is_dropped() {
        let (_go, ended, work) = steps();
        drop(Lasting::new(&Handle::current(), work));
        assert!(ended.await.is_err(), "it is gone");
    }

    #[tokio::test]
    async fn it_gives_its_outcome() {
        let (go, _ended, work) = steps();
        go.send(()).expect("it will wait");
        assert_eq!(Lasting::new(&Handle::current(), work).await, 7);
    }
}
