//! Size and times onto the directory's log: at fsync, close, recall, when another mount asks,
//! and every few seconds.

use super::call::Wait;
use super::clock;
use super::core::Core;
use super::guard::lock;
use super::inode::Inode;
use dfs_proto::attr::SizeTimes;
use dfs_proto::error::{Error, ErrorCode, Result};
use dfs_proto::msg::session::{PushAttr, ReleaseLease};
use dfs_proto::timing::PUSH_INTERVAL;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Leases held without use beyond this many are given back, the oldest first.
const IDLE_LEASES_MAX: usize = 100_000;

/// How often the unpushed are looked at, and after how many looks the whole table is.
const SWEEP_INTERVAL: Duration = Duration::from_millis(500);
const TABLE_SWEEP_TICKS: u32 = 10;

impl Core {
    /// Pushes what is unpushed. Returns what the directory's log has then, if this mount is the
    /// authority for it.
    pub(super) async fn push(self: &Arc<Self>, inode: &Arc<Inode>) -> Result<Option<SizeTimes>> {
        let _one = inode.push_order.lock().await;
        loop {
            let Some(grant) = inode.exclusive_grant() else {
                return Ok(None);
            };
            let push = {
                let state = inode.state();
                let Some(data) = &state.data else {
                    return Ok(None);
                };
                match data.push() {
                    Some(push) => push,
                    // What is unpushed was pushed before the size began to change.
                    None if state.is_resizing() => return Ok(None),
                    None => return Ok(Some(data.values())),
                }
            };
            let asked = self.attr_changes.load(Ordering::SeqCst);
            let pushed = self
                .stamped(Wait::Long, |stamp| PushAttr {
                    stamp,
                    inode: inode.id,
                    grant,
                    push: push.values,
                })
                .await;
            match pushed {
                Ok((attr, _)) => {
                    let now = self.attr_changes.fetch_add(1, Ordering::SeqCst) + 1;
                    let mut state = inode.state();
                    let quiet = state.is_quiet_since(asked);
                    if let Some(data) = &mut state.data {
                        data.push_logged(push, &attr, clock::now());
                    }
                    let pushed_attr = Some(&attr).filter(|_| quiet);
                    state.changed_here(pushed_attr, asked, now);
                    drop(state);
                    inode.changed.notify_waiters();
                    return Ok(Some(push.values));
                }
                // Reclaimed meanwhile: the same authority under another grant.
                Err(error)
                    if error.code == ErrorCode::StaleGrant
                        && inode.exclusive_grant() != Some(grant) => {}
                Err(error) => {
                    if error.code == ErrorCode::StaleGrant {
                        self.grant_refused(inode, &error);
                    }
                    return Err(error);
                }
            }
        }
    }

    /// The directory does not know a grant that this mount believes in: what it protected is
    /// lost, and said to be.
    fn grant_refused(self: &Arc<Self>, inode: &Arc<Inode>, error: &Error) {
        log::error!(
            "{}: the directory refuses the exclusive lease of this mount, unpushed changes are lost: {error}",
            inode.id
        );
        let broken = self.breaks.fetch_add(1, Ordering::SeqCst) + 1;
        let mut state = inode.state();
        state.lease.lose_all();
        state.lease_gone();
        state.unsynced.clear();
        state.broken_before = broken;
        drop(state);
        inode.changed.notify_waiters();
        // Others may have changed what the kernel has cached under it.
        self.drop_lost_maps(inode);
    }

    /// Pushes what has been unpushed for long and gives idle leases back, until the mount stops.
    pub(super) async fn sweep(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(SWEEP_INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut stopping = self.stopping.subscribe();
        let mut ticked = 0u32;
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                _ = stopping.wait_for(|stop| *stop) => return,
            }
            self.push_old();
            self.ahead.sweep();
            ticked += 1;
            if ticked.is_multiple_of(TABLE_SWEEP_TICKS) {
                self.return_idle();
                self.inodes.sweep();
            }
        }
    }

    fn push_old(self: &Arc<Self>) {
        let waiting: Vec<_> = lock(&self.unpushed).iter().copied().collect();
        for id in waiting {
            let since = self.inodes.get(id).and_then(|inode| {
                let since = inode.state().data.as_ref()?.unpushed_since()?;
                Some((inode, since))
            });
            match since {
                None => {
                    lock(&self.unpushed).remove(&id);
                }
                Some((inode, since)) if clock::elapsed(since) >= PUSH_INTERVAL => {
                    // A push under way holds the order; another one need not queue behind it.
                    if inode.push_order.try_lock().is_ok() {
                        let core = self.clone();
                        self.names.spawn(async move {
                            if let Err(error) = core.push(&inode).await {
                                log::warn!("{}: not pushed: {error}", inode.id);
                            }
                        });
                    }
                }
                Some(_) => {}
            }
        }
    }

    fn return_idle(self: &Arc<Self>) {
        if self.inodes.len() <= IDLE_LEASES_MAX {
            return;
        }
        let all = self.inodes.all().into_iter();
        let mut idle: Vec<(u64, Arc<Inode>)> = all
            .filter_map(|inode| {
                let state = inode.state();
                let used_at = state.used_at;
                let idle =
                    state.lease.is_idle() && state.lease.held().is_some() && state.opens == 0;
                drop(state);
                idle.then_some((used_at, inode))
            })
            .collect();
        let excess = idle
            .len()
            .saturating_sub(IDLE_LEASES_MAX - IDLE_LEASES_MAX / 10);
        idle.sort_by_key(|(used_at, _)| *used_at);
        idle.truncate(excess);
        if idle.is_empty() {
            return;
        }
        let core = self.clone();
        self.names.spawn(async move {
            for (_, inode) in idle {
                core.return_lease(&inode).await;
            }
        });
    }

    /// Gives a lease back without being asked.
    async fn return_lease(self: &Arc<Self>, inode: &Arc<Inode>) {
        let grant = {
            let mut state = inode.state();
            let Some(held) = state.lease.settled() else {
                return;
            };
            if state.lease.recall(held.grant, None) != super::lease::RecallFound::Begin {
                return;
            }
            held.grant
        };
        self.give_back(inode).await;
        let returned = self
            .stamped(Wait::Short, |stamp| ReleaseLease {
                stamp,
                inode: inode.id,
                grant,
                push: None,
            })
            .await;
        if let Err(error) = returned {
            log::debug!("{}: {grant} was gone already: {error}", inode.id);
        }
    }
}
