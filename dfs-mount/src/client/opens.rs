//! Opens: counted here for each inode; the directory hears of the first and of the last.

use super::call::Wait;
use super::clock;
use super::core::Core;
use super::inode::Inode;
use super::lease::RecallFound;
use super::read_ahead::ReadAhead;
use super::types::{Handle, OpenMode};
use dfs_proto::error::{Error, ErrorCode, Result};
use dfs_proto::ids::{GrantId, InodeId};
use dfs_proto::msg::session::{CloseInode, LeaseKind, OpenInode};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Closes go to the directory at the ends of intervals of this length, all of one interval
/// together: then their pushes share one entry of its log instead of standing in the way of the
/// changes that programs wait for, and a file that is opened again at once costs no request.
/// What is not pushed is in no danger: this mount is the authority for it, and tells it to whoever
/// asks; only a crash of this machine loses it, as on a local file system.
const CLOSE_INTERVAL: Duration = Duration::from_millis(100);

/// One open. Its end is its drop.
#[derive(Debug)]
pub(super) struct Open {
    core: Arc<Core>,
    pub(super) inode: Arc<Inode>,
    pub(super) mode: OpenMode,
    /// `Core::breaks` at the open.
    pub(super) opened_at: u64,
    pub(super) ahead: ReadAhead,
}

impl Core {
    /// Opens an inode. The caller may go away: then it is closed again.
    pub(super) async fn open(self: &Arc<Self>, id: InodeId, mode: OpenMode) -> Result<Handle> {
        let core = self.clone();
        let opened = self
            .names
            .spawn(async move { core.open_now(id, mode).await });
        let result = opened.await;
        let outcome =
            result.unwrap_or_else(|e| Err(Error::new(ErrorCode::Internal, e.to_string())));
        self.unless_stale(id, outcome)
    }

    pub(super) async fn open_now(self: &Arc<Self>, id: InodeId, mode: OpenMode) -> Result<Handle> {
        let inode = self.inodes.entry(id);
        let _order = inode.open_order.lock().await;
        if !inode.state().open_at_directory {
            // Said before it is sent: a new leader is told of it even if the answer is lost.
            let life = self.session_life.load(Ordering::SeqCst);
            inode.state().open_in(life);
            let since = self.since();
            let lease = Some(match mode.write {
                true => LeaseKind::Exclusive,
                false => LeaseKind::Shared,
            });
            let opened = self
                .stamped(Wait::Long, |stamp| OpenInode {
                    stamp,
                    inode: id,
                    lease,
                })
                .await;
            match opened {
                Ok((opened, up)) => {
                    inode.state().open_in(up.session.life);
                    if let Some(grant) = opened.lease {
                        self.accept_grant(&inode, &grant, &up, since).await;
                    }
                }
                Err(error) => {
                    inode.state().open_at_directory = false;
                    return Err(error);
                }
            }
        }
        Ok(self.opened(&inode, mode))
    }

    /// Counts an open that the directory knows of.
    pub(super) fn opened(self: &Arc<Self>, inode: &Arc<Inode>, mode: OpenMode) -> Handle {
        let mut state = inode.state();
        state.opens += 1;
        if mode.read && mode.write {
            state.opens_shared_map += 1;
        }
        drop(state);
        Handle(Arc::new(Open {
            core: self.clone(),
            inode: inode.clone(),
            mode,
            opened_at: self.breaks.load(Ordering::SeqCst),
            ahead: ReadAhead::default(),
        }))
    }

    /// After the last close: pushes what is unpushed, then tells the directory. Nobody waits for
    /// it.
    async fn close(self: Arc<Self>, inode: Arc<Inode>) {
        let interval = CLOSE_INTERVAL.as_nanos() as u64;
        let left = interval - clock::now() % interval;
        tokio::time::sleep(Duration::from_nanos(left)).await;
        let _order = inode.open_order.lock().await;
        {
            let state = inode.state();
            if state.opens > 0 || !state.open_at_directory {
                return;
            }
        }
        let share = self.share(&inode).await;
        if let Err(error) = self.push(&inode).await {
            log::warn!("{}: not pushed at its close: {error}", inode.id);
        }
        // Opens wait for the order, so none can have come in between.
        let closed = self
            .stamped(Wait::Short, |stamp| CloseInode {
                stamp,
                inode: inode.id,
                share,
            })
            .await;
        inode.state().open_at_directory = false;
        if let Err(error) = closed {
            log::debug!("{}: not closed at the directory: {error}", inode.id);
        }
    }
}

impl Core {
    /// Makes a shared lease of the exclusive one of an inode that nobody here has open any more:
    /// others can look at it without asking. The directory is told with the close.
    async fn share(self: &Arc<Self>, inode: &Arc<Inode>) -> Option<GrantId> {
        let grant = inode.exclusive_grant()?;
        let begun = {
            let mut state = inode.state();
            state.lease.settled()?;
            state.lease.recall(grant, Some(LeaseKind::Shared))
        };
        if begun == RecallFound::Begin {
            self.give_back(inode).await;
        }
        let held = inode.state().lease.held()?;
        (held.grant == grant && held.kind == LeaseKind::Shared).then_some(grant)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let last = {
            let mut state = self.inode.state();
            state.opens -= 1;
            if self.mode.read && self.mode.write {
                state.opens_shared_map -= 1;
            }
            state.opens == 0
        };
        if last {
            let close = self.core.clone().close(self.inode.clone());
            self.core.names.spawn(close);
        }
    }
}
