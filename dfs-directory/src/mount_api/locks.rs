//! Locks: set, cancel, test, release; grants by push; the question whether a holder is still
//! there before a try-lock is refused.

use super::core::{Core, Remembered};
use super::{MountApi, next_change};
use crate::lease::lock_table::{LockGrant, LockRequest, SetAnswer, WaitKey};
use dfs_proto::error::{Error, ErrorCode, Result};
use dfs_proto::ids::{InodeId, LockOwner, SessionId};
use dfs_proto::lock::{HeldLock, LockHolder, LockRange, LockSpace};
use dfs_proto::msg::callback::{ConfirmLocks, LockGranted};
use dfs_proto::msg::session::{
    CancelAnswer, CancelLock, LockAnswer, ReleaseOwner, SetLock, TestLock,
};
use dfs_proto::payload::Payload;
use dfs_proto::timing::{RECALL_PROGRESS, RETRY_DELAY_MIN};
use std::collections::BTreeMap;
use std::sync::MutexGuard;
use std::time::Duration;

/// How long a mount may take to say whether it still holds a lock before a try-lock of another
/// mount is refused.
const CONFIRM_DEADLINE: Duration = Duration::from_millis(100);

/// How often an unacknowledged grant is pushed again, also when nothing seems to change.
const REPEAT: Duration = Duration::from_millis(200);

fn answer_of(known: Remembered) -> Result<LockAnswer> {
    match known {
        Remembered::Done | Remembered::Granted => Ok(LockAnswer::Done),
        Remembered::Queued => Ok(LockAnswer::Queued),
        Remembered::Refused(code) => Err(code.into()),
    }
}

/// The lock that a request is about; `InvalidArgument` for a range that is none.
fn lock_of(request: &SetLock) -> Result<HeldLock> {
    let range = match request.space {
        LockSpace::Flock => LockRange::WHOLE,
        LockSpace::Posix | LockSpace::OpenFile => request.range,
    };
    if range.start > range.last {
        return Err(Error::new(
            ErrorCode::InvalidArgument,
            "a lock ends before it starts",
        ));
    }
    Ok(HeldLock {
        space: request.space,
        holder: LockHolder {
            session: request.stamp.session,
            owner: request.owner,
        },
        kind: request.kind.unwrap_or(dfs_proto::lock::LockKind::Shared),
        range,
        pid: request.pid,
    })
}

impl MountApi {
    pub(super) async fn set_lock(self, request: SetLock) -> Result<LockAnswer> {
        let session = request.stamp.session;
        let lock = lock_of(&request)?;
        if let Some(known) = self.remembered(&request)? {
            return answer_of(known);
        }
        let life = self.alive(session)?.life;
        self.grace(session, request.inode, false).await?;
        if request.kind.is_none() {
            return self.unlock(&request, &lock);
        }
        self.ensure_interest(session, request.inode).await?;
        if !request.wait {
            self.make_sure_of_holders(session, request.inode, &lock)
                .await;
        }
        let mut core = self.alive(session)?;
        if core.life != life {
            // What others hold is not told to this life yet; the mount asks again when it has
            // told what it holds itself.
            return Err(ErrorCode::NotLeader.into());
        }
        let memory = &mut core.present(session)?.memory;
        // A repeat may have been faster, or the wait was cancelled before it began.
        if let Some(known) = memory.known(request.stamp.sequence) {
            return answer_of(known);
        }
        let mut grants = Vec::new();
        let key = WaitKey {
            session,
            sequence: request.stamp.sequence,
        };
        let wanted = LockRequest {
            key,
            inode: request.inode,
            lock,
            wait: request.wait,
        };
        let answer = match core.locks.set(&wanted, &mut grants) {
            SetAnswer::Done => Remembered::Done,
            SetAnswer::Queued => Remembered::Queued,
            SetAnswer::WouldBlock => Remembered::Refused(ErrorCode::WouldBlock),
            SetAnswer::Deadlock => Remembered::Refused(ErrorCode::Deadlock),
            SetAnswer::NoLocks => Remembered::Refused(ErrorCode::NoLocks),
        };
        core.present(session)?
            .memory
            .remember(request.stamp.sequence, answer);
        if matches!(answer, Remembered::Refused(_)) {
            core.interest
                .maybe_unused(session, request.inode, self.now());
        }
        self.tell_grants(&mut core, grants);
        answer_of(answer)
    }

    /// The answer of a repeat.
    fn remembered(&self, request: &SetLock) -> Result<Option<Remembered>> {
        let stamp = request.stamp;
        let mut core = self.alive(stamp.session)?;
        core.present(stamp.session)?
            .memory
            .recall(stamp.sequence, stamp.lowest_unanswered)
    }

    fn unlock(&self, request: &SetLock, lock: &HeldLock) -> Result<LockAnswer> {
        let session = request.stamp.session;
        let mut core = self.alive(session)?;
        let memory = &mut core.present(session)?.memory;
        if let Some(known) = memory.known(request.stamp.sequence) {
            return answer_of(known);
        }
        memory.remember(request.stamp.sequence, Remembered::Done);
        self.drop_locks(
            &mut core,
            request.inode,
            lock.space,
            lock.holder,
            lock.range,
        );
        Ok(LockAnswer::Done)
    }

    fn drop_locks(
        &self,
        core: &mut MutexGuard<'_, Core>,
        inode: InodeId,
        space: LockSpace,
        holder: LockHolder,
        range: LockRange,
    ) {
        let mut grants = Vec::new();
        core.locks.unlock(inode, space, holder, range, &mut grants);
        core.interest
            .maybe_unused(holder.session, inode, self.now());
        self.tell_grants(core, grants);
    }

    pub(super) async fn release_owner(self, request: ReleaseOwner) -> Result<()> {
        let ReleaseOwner {
            stamp,
            inode,
            space,
            owner,
        } = request;
        let session = stamp.session;
        {
            let mut core = self.alive(session)?;
            let memory = &mut core.present(session)?.memory;
            if memory
                .recall(stamp.sequence, stamp.lowest_unanswered)?
                .is_some()
            {
                return Ok(());
            }
        }
        // What is to be released may have to be reclaimed first.
        self.grace(session, inode, false).await?;
        let mut core = self.alive(session)?;
        core.present(session)?
            .memory
            .remember(stamp.sequence, Remembered::Done);
        let holder = LockHolder { session, owner };
        self.drop_locks(&mut core, inode, space, holder, LockRange::WHOLE);
        Ok(())
    }

    pub(super) fn cancel_lock(&self, request: CancelLock) -> Result<CancelAnswer> {
        let CancelLock {
            session,
            inode,
            wait,
        } = request;
        let mut core = self.alive(session)?;
        let mut grants = Vec::new();
        let key = WaitKey {
            session,
            sequence: wait,
        };
        let cancelled = core.locks.cancel(key, &mut grants);
        self.tell_grants(&mut core, grants);
        let memory = &mut core.present(session)?.memory;
        let held = matches!(
            memory.known(wait),
            Some(Remembered::Done | Remembered::Granted)
        );
        if !cancelled && held {
            return Ok(CancelAnswer::TooLate);
        }
        memory.refuse(wait)?;
        core.interest.maybe_unused(session, inode, self.now());
        Ok(CancelAnswer::Cancelled)
    }

    pub(super) async fn test_lock(self, request: TestLock) -> Result<Option<HeldLock>> {
        let TestLock {
            session,
            inode,
            space,
            owner,
            kind,
            range,
        } = request;
        if range.start > range.last {
            return Err(Error::new(
                ErrorCode::InvalidArgument,
                "a lock ends before it starts",
            ));
        }
        self.grace(session, inode, false).await?;
        // Only one who surely leads knows all locks.
        self.raft().read(|_| Ok(())).await?;
        let lock = HeldLock {
            space,
            holder: LockHolder { session, owner },
            kind,
            range,
            pid: 0,
        };
        let found = self.alive(session)?.locks.test(inode, &lock);
        if found.is_some_and(|held| held.space.is_of_open_file()) {
            self.make_sure_of_holders(session, inode, &lock).await;
            return Ok(self.alive(session)?.locks.test(inode, &lock));
        }
        Ok(found)
    }

    /// Before a try-lock is refused: sessions that are past their time are ended, and the mounts
    /// (also the caller's own) are asked once whether the open files that hold the locks are still
    /// there.
    async fn make_sure_of_holders(&self, session: SessionId, inode: InodeId, lock: &HeldLock) {
        let opponents = self.core().locks.opponents(inode, lock);
        let mut owners: BTreeMap<SessionId, BTreeMap<LockSpace, Vec<LockOwner>>> = BTreeMap::new();
        for (holder, space) in opponents {
            let of_session = owners.entry(holder.session).or_default();
            if space.is_of_open_file() {
                of_session.entry(space).or_default().push(holder.owner);
            }
        }
        let mut asked = Vec::new();
        for (holder, spaces) in owners {
            if holder != session {
                self.press(holder, &format!("a lock on {inode}"));
                self.ended(holder).await;
            }
            let Some(connection) = self.core().connection(holder) else {
                continue;
            };
            for (space, owners) in spaces {
                let request = ConfirmLocks {
                    inode,
                    space,
                    owners,
                };
                let connection = connection.clone();
                asked.push(tokio::spawn(async move {
                    let call = connection.call(&request, Payload::default(), CONFIRM_DEADLINE);
                    if let Err(e) = call.await {
                        log::debug!("{holder} did not confirm its locks: {e}");
                    }
                }));
            }
        }
        for ask in asked {
            // It ends by its own deadline.
            let _ = ask.await;
        }
    }

    /// Waits that have ended with the lock: their mounts are told until they acknowledge.
    pub(super) fn tell_grants(&self, core: &mut MutexGuard<'_, Core>, grants: Vec<LockGrant>) {
        for LockGrant { key, inode } in grants {
            let Some(present) = core.sessions.get_mut(&key.session) else {
                continue;
            };
            present.memory.remember(key.sequence, Remembered::Granted);
            core.lock_grants.insert(key, inode);
            tokio::spawn(self.clone().push_grant(core.life, key, inode));
        }
    }

    async fn push_grant(self, life: u64, key: WaitKey, inode: InodeId) {
        let request = LockGranted {
            inode,
            wait: key.sequence,
        };
        let mut changes = self.changes();
        loop {
            let connection = {
                let core = self.core();
                if core.life != life || !core.lock_grants.contains_key(&key) {
                    return;
                }
                core.connection(key.session)
            };
            if let Some(connection) = connection {
                match connection
                    .call(&request, Payload::default(), RECALL_PROGRESS)
                    .await
                {
                    Ok(_) => break,
                    Err(e) => {
                        log::debug!("grant of a lock on {inode} to {}: {e}", key.session);
                        tokio::time::sleep(RETRY_DELAY_MIN).await;
                    }
                }
            }
            next_change(&mut changes, REPEAT).await;
        }
        let mut core = self.core();
        core.lock_grants.remove(&key);
        if let Some(present) = core.sessions.get_mut(&key.session) {
            present.memory.acknowledged(key.sequence);
        }
    }
}
