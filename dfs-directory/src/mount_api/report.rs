//! Answers for `dfsctl`.

use super::MountApi;
use dfs_proto::error::Result;
use dfs_proto::msg::admin::{ListLocks, LockStatus, SessionStatus};

impl MountApi {
    /// All sessions that have not ended.
    pub fn list_sessions(&self) -> Result<Vec<SessionStatus>> {
        let core = self.leading()?;
        let at = self.now();
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
                    silent_ms: u64::try_from(silence.as_millis()).unwrap_or(u64::MAX),
                    connected: present.connection.is_some(),
                    leases_shared,
                    leases_exclusive,
                    locks,
                    waits,
                    opens: core.opens.count(session),
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
