//! A few waits as one, where they are: no task for each, so nothing of them waits for another thread
//! to begin.

use std::future::poll_fn;
use std::task::Poll;

/// Waits for all; their outcomes in order. Each is looked at whenever one of them has something
/// new, so it is for a handful.
pub(super) async fn together<W: Future>(works: impl IntoIterator<Item = W>) -> Vec<W::Output> {
    let mut works: Vec<_> = works.into_iter().map(|work| Some(Box::pin(work))).collect();
    let mut outcomes: Vec<Option<W::Output>> = works.iter().map(|_| None).collect();
    poll_fn(|context| {
        for (work, outcome) in works.iter_mut().zip(&mut outcomes) {
            let polled = work.as_mut().map(|work| work.as_mut().poll(context));
            if let Some(Poll::Ready(value)) = polled {
                *outcome = Some(value);
                *work = None;
            }
        }
        match works.iter().all(Option::is_none) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    })
    .await;
    outcomes.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::oneshot;

    #[tokio::test]
    async fn all_begin_before_one_ends_and_the_order_stays() {
        let (tells, hears): (Vec<_>, Vec<_>) = (0..3).map(|_| oneshot::channel()).unzip();
        let mut all = Box::pin(together(hears));
        let first = poll_fn(|context| Poll::Ready(all.as_mut().poll(context).is_pending()));
        assert!(first.await);
        for (number, tell) in tells.into_iter().enumerate().rev() {
            tell.send(number).expect("it waits");
        }
        let outcomes: Vec<usize> = all.await.into_iter().flatten().collect();
        assert_eq!(outcomes, [0, 1, 2]);
        let nothing: Vec<std::future::Ready<()>> = Vec::new();
        assert_eq!(together(nothing).await, []);
    }
}
