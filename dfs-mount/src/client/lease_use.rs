//! Getting a lease and using it.

use super::call::Wait;
use super::clock;
use super::core::Core;
use super::dir_cache::Asked;
use super::guard::lock;
use super::inode::Inode;
use super::lease::Enter;
use super::link::Up;
use super::patience::backoff;
use super::read_ahead::Basis;
use dfs_proto::error::Result;
use dfs_proto::msg::session::{AcquireLease, LeaseGrant, LeaseKind};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// A lease in use: a recall waits until this is dropped.
#[derive(Debug)]
pub(super) struct LeaseUse {
    inode: Arc<Inode>,
    era: u64,
}

impl LeaseUse {
    /// The right was not lost meanwhile (by a lapse or the session's end; a recall waits).
    pub(super) fn is_valid(&self) -> bool {
        self.inode.state().lease.is_valid(self.era)
    }

    /// The same right, for another use. `None` while it is being given back, or is lost.
    pub(super) fn also(&self) -> Option<Self> {
        let mut state = self.inode.state();
        state
            .lease
            .settled()
            .filter(|_| state.lease.is_valid(self.era))?;
        match state.lease.enter(LeaseKind::Shared, false) {
            Enter::Ready { era, .. } => Some(Self {
                inode: self.inode.clone(),
                era,
            }),
            // Not with a settled lease.
            Enter::Ask(_) | Enter::Wait(_) => None,
        }
    }

    /// What was read in this era and not changed by this mount since is the present content.
    pub(super) fn basis(&self) -> Basis {
        Basis {
            era: self.era,
            changes: self.inode.state().changes,
        }
    }
}

impl Drop for LeaseUse {
    fn drop(&mut self) {
        self.inode.state().lease.leave();
        self.inode.changed.notify_waiters();
    }
}

/// What the mount knew when it sent a question: tells which part of the answer still counts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Since {
    /// Boot time.
    pub(super) at: u64,
    lapses: u64,
    /// `Core::attr_changes`.
    pub(super) attrs: u64,
    /// Of the dirs that are kept.
    pub(super) names: Asked,
}

impl Core {
    /// Before a question is sent.
    pub(super) fn since(&self) -> Since {
        Since {
            at: clock::now(),
            lapses: self.lapses.load(Ordering::SeqCst),
            attrs: self.attr_changes.load(Ordering::SeqCst),
            names: lock(&self.dirs).ask(),
        }
    }

    /// Whether rights that came with an answer count: it is of the present leader and session, and
    /// no right has lapsed since it was asked for.
    pub(super) fn grants(&self, up: &Up, since: Since) -> bool {
        self.leader_life.load(Ordering::SeqCst) == up.leader_life
            && self.session_life.load(Ordering::SeqCst) == up.session.life
            && self.lapses.load(Ordering::SeqCst) == since.lapses
    }

    /// Waits for a lease of at least `kind` and uses it. With `unblock` a recall in progress is
    /// not waited for.
    pub(super) async fn lease(
        self: &Arc<Self>,
        inode: &Arc<Inode>,
        kind: LeaseKind,
        unblock: bool,
    ) -> Result<LeaseUse> {
        let mut waited_for = None;
        inode
            .until(|state| {
                if let (Some(ask), Some((failed, error))) = (waited_for, &state.ask_failed)
                    && *failed >= ask
                {
                    return Some(Err(error.clone()));
                }
                match state.lease.enter(kind, unblock) {
                    Enter::Ready { era, .. } => {
                        return Some(Ok(LeaseUse {
                            inode: inode.clone(),
                            era,
                        }));
                    }
                    Enter::Ask(ask) => {
                        waited_for = Some(ask);
                        let (core, inode) = (self.clone(), inode.clone());
                        self.names
                            .spawn(async move { core.acquire(&inode, ask, kind).await });
                    }
                    Enter::Wait(ask) => waited_for = waited_for.or(ask),
                }
                None
            })
            .await
    }

    /// One ask, in the background: a caller that goes away leaves it running.
    async fn acquire(self: Arc<Self>, inode: &Arc<Inode>, ask: u64, kind: LeaseKind) {
        let mut tries = 0;
        let result = loop {
            let since = self.since();
            let asked = self.ask(Wait::Long, |session| AcquireLease {
                session,
                inode: inode.id,
                kind,
            });
            match asked.await {
                Ok((grant, up)) => {
                    if self.accept_grant(inode, &grant, &up, since).await {
                        break Ok(());
                    }
                }
                Err(error) => break Err(error),
            }
            tries += 1;
            tokio::time::sleep(backoff(tries)).await;
        };
        let mut state = inode.state();
        state.lease.ask_ended(ask);
        if let Err(error) = result {
            state.ask_failed = Some((ask, error));
        }
        drop(state);
        inode.changed.notify_waiters();
    }

    /// Takes a grant that came with an answer, unless it is of the past: of another leader or
    /// session, or (shared) from before a lapse.
    pub(super) async fn accept_grant(
        &self,
        inode: &Inode,
        grant: &LeaseGrant,
        up: &Up,
        since: Since,
    ) -> bool {
        if !grant.attr.layout.is_valid() || grant.attr.inode != inode.id {
            log::error!(
                "{}: the directory granted a lease with a bad layout",
                inode.id
            );
            return false;
        }
        // Requests under this grant use a map of at least this version (R7).
        self.refresh_map(grant.map_version).await;
        let mut state = inode.state();
        let accepted = self.grants(up, since) && state.accept(grant, since.attrs);
        drop(state);
        if accepted {
            inode.changed.notify_waiters();
        }
        accepted
    }
}
