//! Answers for `dfsctl`.

use super::MountApi;
use super::core::Core;
use crate::tasks::clock;
use dfs_proto::error::Result;
use dfs_proto::ids::SessionId;
use dfs_proto::msg::admin::{ListLocks, LockStatus, LockWait, SessionStatus, WAITS_SHOWN_MAX};
use std::collections::BTreeMap;

/// The first locks that each session waits for, and who is in the way.
fn waits(core: &Core) -> BTreeMap<SessionId, Vec<LockWait>> {
    let mut waits: BTreeMap<SessionId, Vec<LockWait>> = BTreeMap::new();
    for (inode, lock, _) in core.locks.list(None).iter().filter(|(_, _, waits)| *waits) {
        let of_session = waits.entry(lock.holder.session).or_default();
        if of_session.len() >= WAITS_SHOWN_MAX {
            continue;
        }
        let holder = core.locks.test(*inode, lock).map(|held| {
            let session = held.holder.session;
            let present = core.sessions.get(&session);
            let host = present.map(|present| present.info.host.clone());
            (session, host.unwrap_or_default(), held.pid)
        });
        of_session.push(LockWait {
            inode: *inode,
            pid: lock.pid,
            holder,
        });
    }
    waits
}

impl MountApi {
    /// All sessions that have not ended.
    pub fn list_sessions(&self) -> Result<Vec<SessionStatus>> {
        let core = self.leading()?;
        let at = self.now();
        let waiting = waits(&core);
        let clock = clock().seconds;
        Ok(core
            .sessions
            .values()
            .map(|present| {
                let session = present.info.session;
                let (leases_shared, leases_exclusive) = core.leases.count(session);
                let (locks, waits) = core.locks.count(session);
                let silence = core.clock.silence(session, at).unwrap_or_default();
                SessionStatus {
                    session,
                    host: present.info.host.clone(),
                    pid: present.info.pid,
                    mount_point: present.info.mount_point.clone(),
                    age_ms: present
                        .info
                        .began
                        .map(|began| clock.saturating_sub(began).max(0).unsigned_abs() * 1000),
                    silent_ms: u64::try_from(silence.as_millis()).unwrap_or(u64::MAX),
                    connected: present.connection.is_some(),
                    leases_shared,
                    leases_exclusive,
                    locks,
                    waits,
                    opens: core.opens.count(session),
                    waiting_for: waiting.get(&session).cloned().unwrap_or_default(),
                }
            })
            .collect())
    }

    /// All locks and waits, of one inode or of all.
    pub fn list_locks(&self, request: &ListLocks) -> Result<Vec<LockStatus>> {
        let core = self.leading()?;
        Ok(core
            .locks
            .list(request.inode)
            .into_iter()
            .map(|(inode, lock, waiting)| LockStatus {
                inode,
                lock,
                waiting,
                host: core
                    .sessions
                    .get(&lock.holder.session)
                    .map(|present| present.info.host.clone())
                    .unwrap_or_default(),
            })
            .collect())
    }
}
