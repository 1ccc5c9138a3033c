//! What happens to leases, opens and locks when a right lapses, when the directory's leader
//! changes, and when the session has ended.

use super::core::Core;
use super::guard::lock;
use super::inode::Inode;
use super::lease::Held;
use super::session::Session;
use dfs_proto::error::{ErrorCode, Result};
use dfs_proto::ids::{InodeId, Sequence};
use dfs_proto::limits::RECLAIM_PAGE_ITEMS_MAX;
use dfs_proto::lock::HeldLock;
use dfs_proto::msg::session::{LeaseKind, OpenInode, Reclaim, Stamp};
use dfs_proto::payload::Payload;
use dfs_proto::timing::REQUEST_DEADLINE;
use dfs_proto::transport::Connection;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::task::JoinHandle;

impl Core {
    /// The right to cache has lapsed: every shared lease is lost, the kernel's caches with it.
    pub(super) fn lose_shared_leases(self: &Arc<Self>) -> Vec<JoinHandle<()>> {
        self.lapses.fetch_add(1, Ordering::SeqCst);
        let mut emptying = Vec::new();
        // What the kernel was allowed to keep of names ended with the right, at the latest.
        lock(&self.dirs).lose_all();
        for inode in self.inodes.all() {
            let lost = {
                let mut state = inode.state();
                let lost = state.lease.lose_shared();
                if lost {
                    state.lease_gone();
                }
                lost
            };
            if lost {
                inode.changed.notify_waiters();
                emptying.push(self.drop_lost_data(&inode));
            }
        }
        emptying
    }

    /// The rights of all dirs are lost before their time: the kernel's caches of them go, in the
    /// background.
    fn drop_lost_names(self: &Arc<Self>) -> JoinHandle<()> {
        let dirs = lock(&self.dirs).lose_all();
        let dropped = self.kernel.drop_all_names(dirs);
        self.names.spawn(dropped)
    }

    /// Another leader: shared leases are given up, then everything else is told to it. Nothing
    /// else is sent before.
    pub(super) async fn reclaim(
        self: &Arc<Self>,
        connection: &Connection,
        session: &Arc<Session>,
        leader_life: u64,
    ) -> Result<()> {
        log::info!("the directory has another leader; telling it what this mount holds");
        let names = self.drop_lost_names();
        let mut emptying = self.lose_shared_leases();
        emptying.push(names);
        // The new leader may grant what we have just lost as soon as we have reclaimed. The
        // kernel serves from its caches until they are empty or the old right is over.
        let emptied = async {
            for one in emptying {
                let _ = one.await;
            }
        };
        let _ = tokio::time::timeout(self.right_left(), emptied).await;
        // From here on answers of the old leader grant nothing.
        self.leader_life.store(leader_life, Ordering::SeqCst);
        let locks = self.locks.begin_life(leader_life, session.id);
        let mut opens = Vec::new();
        let mut leases = Vec::new();
        for inode in self.inodes.all() {
            let state = inode.state();
            if state.open_at_directory {
                opens.push(inode.id);
            }
            if state.lease.holds_exclusive() {
                leases.push(inode.clone());
            }
        }
        self.send_reclaim(connection, session, leader_life, &opens, &leases, &locks)
            .await
    }

    async fn send_reclaim(
        self: &Arc<Self>,
        connection: &Connection,
        session: &Arc<Session>,
        leader_life: u64,
        opens: &[InodeId],
        leases: &[Arc<Inode>],
        locks: &[(InodeId, HeldLock)],
    ) -> Result<()> {
        // A page has room for this many of each kind.
        const PAGE: usize = RECLAIM_PAGE_ITEMS_MAX / 3;
        let mut opens = opens.chunks(PAGE);
        let mut leases = leases.chunks(PAGE);
        let mut locks = locks.chunks(PAGE);
        loop {
            let page_leases = leases.next().unwrap_or_default();
            let page = Reclaim {
                session: session.id,
                leader_life,
                opens: opens.next().unwrap_or_default().to_vec(),
                leases: page_leases.iter().map(|inode| inode.id).collect(),
                locks: locks.next().unwrap_or_default().to_vec(),
                last: opens.len() + leases.len() + locks.len() == 0,
            };
            let asked = self.attr_changes.load(Ordering::SeqCst);
            let answer = connection
                .call(&page, Payload::default(), REQUEST_DEADLINE)
                .await;
            let (answer, _) = match answer {
                Ok(answer) => answer,
                Err(error) => {
                    // Told again from the start, under the same life or the next one.
                    self.leader_life.store(0, Ordering::SeqCst);
                    if error.code == ErrorCode::SessionEnded {
                        session.end();
                    }
                    return Err(error);
                }
            };
            for (inode, grant) in page_leases.iter().zip(answer.leases) {
                let kept = {
                    let mut state = inode.state();
                    match grant {
                        // Given back while it was being reclaimed: a new lease, as if asked for.
                        Some(grant) if !state.lease.holds_exclusive() => {
                            state.accept(&grant, asked)
                        }
                        Some(grant) => {
                            state.learn(&grant.attr, asked);
                            state.lease.reclaimed(Some(Held {
                                grant: grant.grant,
                                kind: grant.kind,
                            }))
                        }
                        None => state.lease.reclaimed(None),
                    }
                };
                if !kept {
                    log::warn!("{}: the exclusive lease could not be kept", inode.id);
                    self.lose_inode(inode, false);
                }
                inode.changed.notify_waiters();
            }
            if page.last {
                return Ok(());
            }
        }
    }

    /// A session begins. If there was one before, everything that belonged to it is lost.
    pub(super) fn session_begins(self: &Arc<Self>, life: u64, leader_life: u64) {
        self.session_life.store(life, Ordering::SeqCst);
        self.leader_life.store(leader_life, Ordering::SeqCst);
        let locked = self.locks.lose_all(leader_life);
        if life == 1 {
            return;
        }
        self.lapses.fetch_add(1, Ordering::SeqCst);
        self.drop_lost_names();
        for inode in self.inodes.all() {
            self.lose_inode(&inode, locked.contains(&inode.id));
        }
    }

    /// The lease of the inode is lost for good; handles that lose data or locks with it break.
    fn lose_inode(self: &Arc<Self>, inode: &Arc<Inode>, locked: bool) {
        {
            let mut state = inode.state();
            // Times that were not logged yet break nothing.
            let unlogged = state.data.is_some_and(|data| data.is_size_unpushed());
            let harmed = locked || unlogged || !state.unsynced.is_empty();
            if harmed && state.opens > 0 {
                let what = match locked {
                    true => "a lock on it is lost with the session, and may be somebody else's now",
                    false => "writes to it that are not synced may be lost with the session",
                };
                self.say_broken(inode.id, what);
                state.broken_before = self.breaks.fetch_add(1, Ordering::SeqCst) + 1;
            }
            state.unsynced.clear();
            state.lease.lose_all();
            state.lease_gone();
        }
        inode.changed.notify_waiters();
        self.drop_lost_maps(inode);
    }

    /// Names the file in words that lead a person to it. Its path is not known here: what was kept of
    /// names went before the session did.
    pub(super) fn say_broken(&self, inode: InodeId, what: &str) {
        let at = &self.options.mount_point;
        log::error!(
            "{at}: {inode} (its path: find {at} -xdev -inum {}): {what}. Programs that have it open get EIO \
             until they open it again; those that don't by themselves are to be restarted",
            inode.0
        );
    }

    /// After a lost session: inodes that are still open are opened again in the new one.
    pub(super) async fn reopen_after_lost_session(
        &self,
        connection: &Connection,
        session: &Arc<Session>,
    ) -> Result<()> {
        for inode in self.inodes.all() {
            let needed = {
                let state = inode.state();
                state.open_at_directory && state.open_life() != session.life
            };
            if !needed {
                continue;
            }
            let stamped = session.begin().await?;
            let stamp: Stamp = stamped.stamp();
            debug_assert!(stamp.sequence > Sequence(0));
            let request = OpenInode {
                stamp,
                inode: inode.id,
                lease: None,
            };
            let reopened = connection
                .call(&request, Payload::default(), REQUEST_DEADLINE)
                .await;
            let mut state = inode.state();
            match reopened {
                Ok(_) => state.open_in(session.life),
                Err(error)
                    if error.retry() == dfs_proto::error::Retry::Never
                        && error.code != ErrorCode::SessionEnded =>
                {
                    log::warn!("{}: cannot be opened again: {error}", inode.id);
                    state.broken_before = self.breaks.fetch_add(1, Ordering::SeqCst) + 1;
                    state.open_in(session.life);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The kind of lease that a reader of the inode asks for: an inode that is open for reading
    /// and writing may have a shared map, and stores into that are silent.
    pub(super) fn read_kind(inode: &Inode) -> LeaseKind {
        if inode.state().opens_shared_map > 0 {
            LeaseKind::Exclusive
        } else {
            LeaseKind::Shared
        }
    }
}
