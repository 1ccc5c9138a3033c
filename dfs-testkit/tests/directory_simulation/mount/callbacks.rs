//! What the directory asks a mount: as `client::callbacks` of the product answers it.

use super::Mount;
use dfs_mount::client::lease::RecallFound;
use dfs_proto::error::{ErrorCode, Result};
use dfs_proto::msg::Request;
use dfs_proto::msg::callback::{
    AskAttr, ConfirmLocks, LockGranted, MapChanged, NamesChanged, Recall, RecallAnswer,
};
use dfs_proto::payload::Payload;
use dfs_proto::timing::RECALL_PROGRESS;
use dfs_proto::transport::{Incoming, Service};
use std::future::Future;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// How long a recall waits for the answer that carries its grant.
const GRANT_ARRIVES: Duration = Duration::from_millis(500);

pub(crate) struct Callbacks(Weak<Mount>);

impl Callbacks {
    pub(crate) fn new(mount: &Arc<Mount>) -> Self {
        Self(Arc::downgrade(mount))
    }
}

fn later<R, F>(mount: Arc<Mount>, incoming: Incoming, work: impl FnOnce(Arc<Mount>, R) -> F)
where
    R: Request,
    F: Future<Output = Result<R::Response>> + Send + 'static,
{
    match incoming.decode::<R>() {
        Ok(request) => {
            let work = work(mount.clone(), request);
            tokio::spawn(async move {
                if mount.awake().await.is_err() {
                    return;
                }
                let result = work.await;
                if mount.awake().await.is_ok() {
                    incoming.answer::<R>(result, Payload::default());
                }
            });
        }
        Err(error) => incoming.refuse(error),
    }
}

impl Service for Callbacks {
    fn serve(&self, incoming: Incoming) {
        let Some(mount) = self.0.upgrade().filter(|mount| mount.is_alive()) else {
            return incoming.refuse(ErrorCode::ShuttingDown.into());
        };
        match incoming.method {
            Recall::METHOD => later::<Recall, _>(mount, incoming, |mount, recall| async move {
                mount.recalled(recall).await
            }),
            // Nothing that is written here changes a size.
            AskAttr::METHOD => later::<AskAttr, _>(mount, incoming, |_, _| async { Ok(None) }),
            LockGranted::METHOD => {
                later::<LockGranted, _>(mount, incoming, |mount, granted| async move {
                    mount.lock_granted(granted.inode, granted.wait);
                    Ok(())
                });
            }
            ConfirmLocks::METHOD => {
                later::<ConfirmLocks, _>(mount, incoming, |_, _| async { Ok(()) })
            }
            NamesChanged::METHOD => {
                later::<NamesChanged, _>(mount, incoming, |mount, news| async move {
                    let mut state = mount.state();
                    for change in &news.changes {
                        state.dirs.changed(change.dir, &change.names, change.keep);
                    }
                    Ok(())
                });
            }
            MapChanged::METHOD => later::<MapChanged, _>(mount, incoming, |_, _| async { Ok(()) }),
            _ => incoming.refuse_unknown(),
        }
    }
}

impl Mount {
    async fn recalled(self: Arc<Self>, recall: Recall) -> Result<RecallAnswer> {
        let returned = RecallAnswer::Returned { push: None };
        let inode = recall.inode;
        let look = |mount: &Self| {
            let mut state = mount.state();
            let lease = state.leases.entry(inode).or_default();
            lease.state.recall(recall.grant, recall.keep)
        };
        let mut found = look(&self);
        if found == RecallFound::NotYet {
            let arrives = self.until(|state| {
                let lease = state.leases.entry(inode).or_default();
                match lease.state.recall(recall.grant, recall.keep) {
                    RecallFound::NotYet => None,
                    other => Some(other),
                }
            });
            found = match tokio::time::timeout(GRANT_ARRIVES, arrives).await {
                Ok(found) => found?,
                Err(_) => {
                    self.awake().await?;
                    let mut state = self.state();
                    let lease = state.leases.entry(inode).or_default();
                    lease.state.refuse(recall.grant, recall.keep)
                }
            };
        }
        match found {
            RecallFound::NotHeld | RecallFound::NotYet => return Ok(returned),
            RecallFound::InProgress => {}
            RecallFound::Begin => {
                let mount = self.clone();
                tokio::spawn(async move { mount.give_back(inode).await });
            }
        }
        let done = self.until(|state| {
            let lease = state.leases.entry(inode).or_default();
            (lease.state.recalling() != Some(recall.grant)).then_some(())
        });
        match tokio::time::timeout(RECALL_PROGRESS / 2, done).await {
            Ok(done) => done.map(|()| returned),
            Err(_) => Ok(RecallAnswer::Working),
        }
    }

    fn lock_granted(&self, inode: dfs_proto::ids::InodeId, wait: dfs_proto::ids::Sequence) {
        let mut state = self.state();
        let Some(waiter) = state.waiters.remove(&(inode, wait)) else {
            return;
        };
        let session = state.session.as_ref().map(|s| s.id);
        let request = waiter.granted();
        state
            .held
            .set(request.key, request.range, Some(request.kind), 1);
        drop(state);
        if let Some(session) = session {
            self.believe(session, &request);
        }
    }
}
