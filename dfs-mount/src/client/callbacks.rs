//! What the directory asks of the mount: leases back, sizes, and news.

use super::core::Core;
use super::inode::Inode;
use super::lease::RecallFound;
use super::patience::Patience;
use super::recall::OldRights;
use dfs_proto::attr::SizeTimes;
use dfs_proto::error::Result;
use dfs_proto::ids::{GrantId, InodeId};
use dfs_proto::msg::Request;
use dfs_proto::msg::callback::{
    AskAttr, ConfirmLocks, LockGranted, MapChanged, NamesChanged, Recall, RecallAnswer,
};
use dfs_proto::msg::session::LeaseKind;
use dfs_proto::payload::Payload;
use dfs_proto::timing::RECALL_PROGRESS;
use dfs_proto::transport::{Incoming, Service};
use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// How long a recall of a grant that is not known waits for the answer that carries it, which
/// came before on the same connection and is being processed.
const GRANT_ARRIVES: Duration = Duration::from_millis(50);

/// `Working` is said a little before it is due.
const PROGRESS: Duration = RECALL_PROGRESS
    .saturating_mul(3)
    .checked_div(4)
    .expect("not zero");

/// Serves the directory's requests.
pub(super) struct Callbacks {
    core: Weak<Core>,
}

impl fmt::Debug for Callbacks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Callbacks")
    }
}

impl Callbacks {
    pub(super) fn new(core: &Arc<Core>) -> Self {
        Self {
            core: Arc::downgrade(core),
        }
    }
}

/// Decodes, and answers later with what the future gives.
fn later<R, F>(core: &Arc<Core>, incoming: Incoming, work: impl FnOnce(Arc<Core>, R) -> F)
where
    R: Request,
    F: Future<Output = Result<R::Response>> + Send + 'static,
{
    match incoming.decode::<R>() {
        Ok(request) => {
            let work = work(core.clone(), request);
            core.names.spawn(async move {
                let result = work.await;
                incoming.answer::<R>(result, Payload::default());
            });
        }
        Err(error) => incoming.refuse(error),
    }
}

impl Service for Callbacks {
    fn serve(&self, incoming: Incoming) {
        let Some(core) = self.core.upgrade() else {
            incoming.refuse(dfs_proto::error::ErrorCode::ShuttingDown.into());
            return;
        };
        match incoming.method {
            Recall::METHOD => later::<Recall, _>(&core, incoming, |core, recall| async move {
                Ok(core.recalled(recall).await)
            }),
            AskAttr::METHOD => later::<AskAttr, _>(&core, incoming, |core, ask| async move {
                core.attr_asked(ask.inode, ask.grant).await
            }),
            LockGranted::METHOD => {
                let result = incoming.decode::<LockGranted>().map(|granted| {
                    core.locks.granted(granted.inode, granted.wait);
                });
                incoming.answer::<LockGranted>(result, Payload::default());
            }
            ConfirmLocks::METHOD => {
                later::<ConfirmLocks, _>(&core, incoming, |core, confirm| async move {
                    core.locks.releases_done(&confirm).await;
                    Ok(())
                });
            }
            NamesChanged::METHOD => {
                later::<NamesChanged, _>(&core, incoming, |core, news| async move {
                    core.names_changed(news).await
                });
            }
            MapChanged::METHOD => {
                let result = incoming.decode::<MapChanged>().map(|changed| {
                    core.map.install(changed.map);
                });
                incoming.answer::<MapChanged>(result, Payload::default());
            }
            _ => incoming.refuse_unknown(),
        }
    }
}

impl Core {
    /// A recall: answered when the right is gone, or `Working` before that gets too long.
    async fn recalled(self: Arc<Self>, recall: Recall) -> RecallAnswer {
        let returned = RecallAnswer::Returned { push: None };
        let inode = self.inodes.entry(recall.inode);
        let mut found = inode.state().lease.recall(recall.grant, recall.keep);
        if found == RecallFound::NotYet {
            let arrives =
                inode.until(
                    |state| match state.lease.recall(recall.grant, recall.keep) {
                        RecallFound::NotYet => None,
                        other => Some(other),
                    },
                );
            found = match tokio::time::timeout(GRANT_ARRIVES, arrives).await {
                Ok(found) => found,
                Err(_) => inode.state().lease.refuse(recall.grant, recall.keep),
            };
        }
        match found {
            RecallFound::NotHeld | RecallFound::NotYet => return returned,
            RecallFound::InProgress => {}
            RecallFound::Begin => {
                let (core, inode) = (self.clone(), inode.clone());
                self.names
                    .spawn(async move { core.give_back(&inode).await });
            }
        }
        let done =
            inode.until(|state| (state.lease.recalling() != Some(recall.grant)).then_some(()));
        match tokio::time::timeout(PROGRESS, done).await {
            Ok(()) => returned,
            Err(_) => RecallAnswer::Working,
        }
    }

    /// Empties the caches and gives the right up. What is unpushed is pushed before, durably:
    /// an answer that is lost on its way loses no size.
    pub(super) async fn give_back(self: &Arc<Self>, inode: &Arc<Inode>) {
        inode
            .until(|state| state.lease.is_drained().then_some(()))
            .await;
        let silent = {
            let state = inode.state();
            // A downgrade keeps the pages, unless stores into them would be silent.
            state.lease.recall_keeps() == Some(LeaseKind::Shared) && state.opens_shared_map == 0
        };
        if !silent {
            self.drop_kernel_data(inode, OldRights::StillValid).await;
        }
        let mut patience = Patience::new("the push before a lease is given back");
        loop {
            if let Err(error) = self.push(inode).await {
                patience.pause(&inode.id, &error).await;
            }
            let flipped = inode
                .until(|state| {
                    let unpushed = state.data.as_ref().is_some_and(|d| d.is_unpushed());
                    if unpushed && state.lease.holds_exclusive() {
                        return Some(false);
                    }
                    let held = state.lease.held();
                    let flipped = state.lease.flip();
                    if flipped && held.is_some() && state.lease.held().is_none() {
                        state.lease_gone();
                    }
                    flipped.then_some(true)
                })
                .await;
            if flipped {
                break;
            }
        }
        inode.changed.notify_waiters();
    }

    /// Another mount wants to know the size: what is told is in the directory's log before. Where
    /// the exclusive lease is held under an older grant than the one that is named, a new leader has
    /// taken it over and its answer is on its way; what was written under the old one counts.
    async fn attr_asked(
        self: Arc<Self>,
        inode: InodeId,
        grant: GrantId,
    ) -> Result<Option<SizeTimes>> {
        let Some(inode) = self.inodes.get(inode) else {
            return Ok(None);
        };
        if inode.exclusive_grant().is_none_or(|held| held > grant) {
            return Ok(None);
        }
        let pushed = self.push(&inode).await?;
        Ok(pushed.map(|logged| SizeTimes {
            size: logged.size,
            sparse: logged.sparse,
            generation: logged.generation,
            ..SizeTimes::default()
        }))
    }
}
