//! Leases, and reads and writes under them: as `client::lease_use`, `read` and `write` of the product.

use super::Mount;
use super::calls::Wait;
use crate::servers::Write;
use crate::world::locked;
use dfs_mount::client::lease::{Enter, Held, LeaseState};
use dfs_proto::error::{ErrorCode, Result};
use dfs_proto::ids::{InodeId, Sequence, SessionId};
use dfs_proto::msg::session::{AcquireLease, LeaseKind};
use std::sync::Arc;
use std::time::Duration;

/// The lease of an inode, and what is cached under it.
#[derive(Debug, Default)]
pub(crate) struct Lease {
    pub(crate) state: LeaseState,
    pub(crate) cached: Option<u64>,
    /// Writes of this mount that have begun, and how many go on: what was read beside one is not
    /// cached.
    writes: u64,
    writing: u64,
    ask_failed: Option<(u64, ErrorCode)>,
}

/// While it lives the lease is used.
struct Use {
    mount: Arc<Mount>,
    inode: InodeId,
    era: u64,
}

impl Drop for Use {
    fn drop(&mut self) {
        if let Some(lease) = self.mount.state().leases.get_mut(&self.inode) {
            lease.state.leave();
        }
        self.mount.tell();
    }
}

impl Mount {
    async fn lease(self: &Arc<Self>, inode: InodeId, kind: LeaseKind) -> Result<Use> {
        let mut waited_for = None;
        let era = self
            .until(|state| {
                let lease = state.leases.entry(inode).or_default();
                if let (Some(ask), Some((failed, code))) = (waited_for, lease.ask_failed)
                    && failed >= ask
                {
                    return Some(Err(code));
                }
                match lease.state.enter(kind, false) {
                    Enter::Ready { era, .. } => return Some(Ok(era)),
                    Enter::Ask(ask) => {
                        waited_for = Some(ask);
                        tokio::spawn(self.clone().acquire(inode, ask, kind));
                    }
                    Enter::Wait(ask) => waited_for = waited_for.or(ask),
                }
                None
            })
            .await?
            .map_err(dfs_proto::error::Error::from)?;
        Ok(Use {
            mount: self.clone(),
            inode,
            era,
        })
    }

    /// One ask, in the background.
    async fn acquire(self: Arc<Self>, inode: InodeId, ask: u64, kind: LeaseKind) {
        let result = loop {
            let since = self.since();
            let asked = self.ask(Wait::Long, |session| AcquireLease {
                session,
                inode,
                kind,
            });
            match asked.await {
                Ok((grant, up)) => {
                    let mut state = self.state();
                    let counts = state.grants(&up, since);
                    let held = Held {
                        grant: grant.grant,
                        kind: grant.kind,
                    };
                    let lease = state.leases.entry(inode).or_default();
                    let taken = counts && lease.state.granted(held);
                    self.cluster.world.trace(|| {
                        format!(
                            "{} is granted {held:?} of {inode}, taken: {taken}",
                            up.session
                        )
                    });
                    if taken {
                        drop(state);
                        self.alone(inode, up.session, held.kind);
                        break Ok(());
                    }
                }
                Err(error) => break Err(error.code),
            }
            self.cluster.world.sleep(2, 50).await;
        };
        let mut state = self.state();
        let lease = state.leases.entry(inode).or_default();
        lease.state.ask_ended(ask);
        if let Err(code) = result {
            lease.ask_failed = Some((ask, code));
        }
        drop(state);
        self.tell();
    }

    /// Nobody else believes in a right that excludes this one, by its own clock, unless it is fenced.
    fn alone(&self, inode: InodeId, session: SessionId, kind: LeaseKind) {
        if kind == LeaseKind::Shared && !self.has_right(&self.state()) {
            // It came late, and will be lost before it can be used.
            return;
        }
        if kind == LeaseKind::Exclusive && self.cluster.is_fenced(session) {
            // It came after the end of its session, of which this mount has not heard: what it writes
            // is refused everywhere.
            return;
        }
        for other in self.cluster.mounts() {
            if other.number == self.number {
                continue;
            }
            let state = other.state();
            let held = state
                .leases
                .get(&inode)
                .and_then(|lease| lease.state.held());
            let (Some(held), Some(owner)) = (held, state.session.as_ref()) else {
                continue;
            };
            let believes = match held.kind {
                LeaseKind::Exclusive => !owner.ended && !self.cluster.is_fenced(owner.id),
                LeaseKind::Shared => kind == LeaseKind::Exclusive && other.has_right(&state),
            };
            if believes {
                self.cluster.world.violate(format!(
                    "{inode}: {session} holds it {kind:?} while {} of mount {} holds it {:?}",
                    owner.id, other.number, held.kind
                ));
            }
        }
    }

    /// Gives a recalled lease up when nobody uses it any more.
    pub(super) async fn give_back(self: Arc<Self>, inode: InodeId) {
        let flipped = self.until(|state| {
            let lease = state.leases.entry(inode).or_default();
            let flipped = lease.state.flip();
            if flipped && lease.state.held().is_none() {
                lease.cached = None;
            }
            if flipped {
                let left = lease.state.held();
                self.cluster
                    .world
                    .trace(|| format!("mount {} gives {inode} back, left: {left:?}", self.number));
            }
            flipped.then_some(())
        });
        // An error: the process is dead.
        if flipped.await.is_ok() {
            self.tell();
        }
    }

    /// Reads the number in a file.
    pub(crate) async fn read(self: &Arc<Self>, inode: InodeId) -> Result<u64> {
        loop {
            let using = self.lease(inode, LeaseKind::Shared).await?;
            let (cached, begun) = self
                .until(|state| {
                    let right = self.has_right(state);
                    let lease = state.leases.entry(inode).or_default();
                    right.then_some((lease.cached, (lease.writes, lease.writing)))
                })
                .await?;
            if let Some(value) = cached
                && self.still(&using)
            {
                return Ok(value);
            }
            let Some(value) = self.cluster.servers.read(self.node(), inode).await else {
                self.cluster.world.sleep(5, 50).await;
                continue;
            };
            self.awake().await?;
            // The right is looked at again before its effect is seen.
            if self.still(&using) {
                if let Some(lease) = self.state().leases.get_mut(&inode)
                    && begun == (lease.writes, 0)
                {
                    lease.cached = Some(value);
                }
                return Ok(value);
            }
        }
    }

    fn still(&self, using: &Use) -> bool {
        let state = self.state();
        let lease = state.leases.get(&using.inode);
        self.has_right(&state) && lease.is_some_and(|lease| lease.state.is_valid(using.era))
    }

    /// Replaces the number that was read by the next one, for a program that has the file open since
    /// `session`. `Fenced` or `SessionEnded` is EIO for it.
    pub(crate) async fn write(
        self: &Arc<Self>,
        session: SessionId,
        inode: InodeId,
        base: u64,
    ) -> Result<()> {
        let using = self.lease(inode, LeaseKind::Exclusive).await?;
        let sequence = {
            let mut state = self.state();
            let present = state.session.as_mut().filter(|s| s.id == session);
            let present = present.ok_or(ErrorCode::SessionEnded)?;
            present.writes += 1;
            Sequence(present.writes)
        };
        let write = Write {
            session,
            sequence,
            inode,
            base,
        };
        if let Some(lease) = self.state().leases.get_mut(&inode) {
            lease.cached = None;
            lease.writes += 1;
            lease.writing += 1;
        }
        let written = self.write_through(write).await;
        let still = self.still(&using);
        if let Some(lease) = self.state().leases.get_mut(&inode) {
            lease.writing -= 1;
            let alone = still && lease.writing == 0;
            lease.cached = (alone && written.is_ok()).then_some(base + 1);
        }
        if written.is_ok() {
            locked(&self.cluster.values).written(inode, base + 1);
        }
        written
    }

    /// Repeats a write until there is an answer, or its session has ended.
    async fn write_through(&self, write: Write) -> Result<()> {
        loop {
            self.awake().await?;
            let written = self.cluster.servers.write(self.node(), write);
            let patience = Duration::from_secs(1);
            let answer = tokio::time::timeout(patience, written).await.ok().flatten();
            self.awake().await?;
            match answer {
                Some(answer) => return answer,
                None => {
                    // In doubt, and for ever when its session has ended.
                    let state = self.state();
                    let present = state.session.as_ref();
                    if present.is_none_or(|s| s.id != write.session) {
                        return Err(ErrorCode::SessionEnded.into());
                    }
                }
            }
        }
    }
}
