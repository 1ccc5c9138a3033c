//! `flock(2)` and `fcntl(2)` locks of the kernel's callers.
//!
//! The FUSE library hands both over alike; which call it is stands in the caller's `/proc` entry
//! while it waits. Where that can't be read (another user's process under an ordinary user's
//! mount), an owner's locks go to the space of byte ranges, so that they exclude each other still.

use super::caller::{self, Ends, LockCall};
use super::convert;
use super::interrupt::until_interrupted;
use super::range_owners::RangeOwners;
use super::serve::{Adapter, INTERRUPTED, Refuse};
use crate::client::{Cancel, Client, Handle, LockRequest};
use dfs_proto::error::{Error, ErrorCode, Result};
use dfs_proto::ids::{InodeId, LockOwner};
use dfs_proto::lock::{LockKind, LockRange, LockSpace};
use fuser::{FileHandle, ReplyEmpty, ReplyLock, Request};
use std::collections::BTreeSet;
use std::sync::{Arc, Once};
use std::time::Duration;
use tokio::sync::watch;

/// How long an interrupted caller waits for the directory's word on its lock.
const CANCEL_WAIT: Duration = Duration::from_millis(50);

/// What is remembered about lock calls.
#[derive(Debug)]
pub(super) struct LockCalls {
    told: Once,
    settling: Arc<Settling>,
    pub(super) range_owners: RangeOwners,
}

impl Default for LockCalls {
    fn default() -> Self {
        Self {
            told: Once::new(),
            settling: Arc::default(),
            range_owners: RangeOwners::default(),
        }
    }
}

type Owner = (InodeId, LockSpace, LockOwner);

/// Owners whose interrupted wait has not ended at the directory. Their next lock call waits until
/// it has: what a late grant brought is given back, and must not take a newer lock along.
#[derive(Debug, Default)]
struct Settling(watch::Sender<BTreeSet<Owner>>);

impl Settling {
    async fn none_of(&self, owner: Owner) {
        if self.0.borrow().is_empty() {
            return;
        }
        let mut watching = self.0.subscribe();
        // The sender lives in `self`: an error cannot come.
        let _ = watching.wait_for(|owners| !owners.contains(&owner)).await;
    }

    fn begin(self: &Arc<Self>, owner: Owner) -> Settle {
        self.0.send_modify(|owners| {
            owners.insert(owner);
        });
        Settle {
            settling: self.clone(),
            owner,
        }
    }
}

/// One owner's wait that is being ended.
struct Settle {
    settling: Arc<Settling>,
    owner: Owner,
}

impl Drop for Settle {
    fn drop(&mut self) {
        self.settling.0.send_modify(|owners| {
            owners.remove(&self.owner);
        });
    }
}

/// Removes a lock that was granted although its caller has been told that it was interrupted.
async fn give_back(client: &Client, handle: &Handle, lock: LockRequest) {
    let unlock = LockRequest {
        kind: None,
        wait: false,
        ..lock
    };
    if let Err(e) = client.set_lock(handle, unlock, &Cancel::default()).await {
        log::warn!(
            "{}: a lock of an interrupted wait stays until it is closed: {e}",
            handle.inode()
        );
    }
}

fn kind(typ: i32) -> Result<Option<LockKind>> {
    match typ {
        libc::F_RDLCK => Ok(Some(LockKind::Shared)),
        libc::F_WRLCK => Ok(Some(LockKind::Exclusive)),
        libc::F_UNLCK => Ok(None),
        _ => Err(Error::from(ErrorCode::InvalidArgument)),
    }
}

/// The kernel writes "to the end" as the largest file offset.
fn range(start: u64, end: u64) -> Result<LockRange> {
    let last = if end >= i64::MAX as u64 {
        u64::MAX
    } else {
        end
    };
    if start > last {
        return Err(Error::from(ErrorCode::InvalidArgument));
    }
    Ok(LockRange { start, last })
}

fn to_kernel(kind: LockKind) -> i32 {
    match kind {
        LockKind::Shared => libc::F_RDLCK,
        LockKind::Exclusive => libc::F_WRLCK,
    }
}

impl Adapter {
    /// The space of the present call. Read before the handler returns, while the caller is
    /// asleep in that very call.
    fn space(
        &self,
        request: &Request,
        fh: FileHandle,
        owner: LockOwner,
        (start, end): (u64, u64),
    ) -> LockSpace {
        // A flock is always of the whole file, and never a process's.
        let whole = start == 0 && end >= i64::MAX as u64;
        match self.locks.range_owners.space(fh.0, owner) {
            Some(LockSpace::Posix) => return LockSpace::Posix,
            Some(space) if !whole => return space,
            _ => {}
        }
        match caller::lock_call(request.pid()) {
            LockCall::Flock => LockSpace::Flock,
            LockCall::Posix => LockSpace::Posix,
            LockCall::OpenFile => LockSpace::OpenFile,
            LockCall::Hidden => {
                self.locks.told.call_once(|| {
                    log::warn!(
                        "can't see which lock call thread {} is in: flock and fcntl locks of \
                         such callers share one space",
                        request.pid()
                    );
                });
                LockSpace::Posix
            }
        }
    }

    #[allow(clippy::too_many_arguments)]
    pub(super) fn set_lock(
        &self,
        request: &Request,
        fh: FileHandle,
        owner: fuser::LockOwner,
        (start, end): (u64, u64),
        typ: i32,
        pid: u32,
        wait: bool,
        reply: ReplyEmpty,
    ) {
        let owner = LockOwner(owner.0);
        let space = self.space(request, fh, owner, (start, end));
        let prepared = kind(typ).and_then(|kind| {
            let range = match space {
                LockSpace::Flock => LockRange::WHOLE,
                LockSpace::Posix | LockSpace::OpenFile => range(start, end)?,
            };
            let handle = self.file(fh)?;
            if space.is_ranges() && kind.is_some() {
                self.locks.range_owners.asks(fh.0, owner, space);
            }
            Ok((
                handle,
                LockRequest {
                    space,
                    owner,
                    pid,
                    kind,
                    range,
                    wait,
                },
            ))
        });
        let (client, thread) = (self.client.clone(), request.pid());
        let settling = self.locks.settling.clone();
        self.client.names_runtime().spawn(async move {
            let (handle, lock) = match prepared {
                Ok(prepared) => prepared,
                Err(e) => return reply.refuse(convert::errno(&e)),
            };
            // A signal that the program handles ends a wait, but no call that doesn't wait.
            let ends = match lock.wait {
                true => Ends::AnySignal,
                false => Ends::Death,
            };
            let owner = (handle.inode(), lock.space, lock.owner);
            let settled = until_interrupted(thread, ends, settling.none_of(owner)).await;
            if settled.is_err() {
                return reply.refuse(INTERRUPTED);
            }
            let held = client.holds_locks(owner.0, owner.1, owner.2);
            let cancel = Cancel::default();
            let mut work = std::pin::pin!(client.set_lock(&handle, lock, &cancel));
            let answer = match until_interrupted(thread, ends, &mut work).await {
                Ok(answer) => answer,
                Err(_) => {
                    // The directory decides: cancelled, or granted in the same moment. Where it
                    // doesn't answer, the caller goes and the wait ends behind it.
                    cancel.cancel();
                    match tokio::time::timeout(CANCEL_WAIT, &mut work).await {
                        Ok(answer) => answer,
                        Err(_) => {
                            let _settle = settling.begin(owner);
                            reply.refuse(INTERRUPTED);
                            // What the owner held before would go too; then it keeps both.
                            if work.await.is_ok() && lock.kind.is_some() && !held {
                                give_back(&client, &handle, lock).await;
                            }
                            return;
                        }
                    }
                }
            };
            match answer {
                Ok(()) => reply.ok(),
                Err(e) => reply.refuse(convert::errno(&e)),
            }
        });
    }

    #[allow(clippy::too_many_arguments)]
    pub(super) fn test_lock(
        &self,
        request: &Request,
        fh: FileHandle,
        owner: fuser::LockOwner,
        start: u64,
        end: u64,
        typ: i32,
        reply: ReplyLock,
    ) {
        let prepared = kind(typ).and_then(|kind| {
            let kind = kind.ok_or(ErrorCode::InvalidArgument)?;
            Ok((self.file(fh)?, kind, range(start, end)?))
        });
        let (client, thread) = (self.client.clone(), request.pid());
        let owner = LockOwner(owner.0);
        self.client.names_runtime().spawn(async move {
            let (handle, kind, range) = match prepared {
                Ok(prepared) => prepared,
                Err(e) => return reply.refuse(convert::errno(&e)),
            };
            let work = client.test_lock(handle.inode(), LockSpace::Posix, owner, kind, range);
            match until_interrupted(thread, Ends::Death, work).await {
                Ok(Ok(None)) => reply.locked(start, end, libc::F_UNLCK, 0),
                Ok(Ok(Some(held))) => {
                    let last = held.range.last.min(i64::MAX as u64);
                    reply.locked(held.range.start, last, to_kernel(held.kind), held.pid);
                }
                Ok(Err(e)) => reply.refuse(convert::errno(&e)),
                Err(_) => reply.refuse(INTERRUPTED),
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_end_of_file_is_ours() {
        assert_eq!(
            range(5, i64::MAX as u64),
            Ok(LockRange {
                start: 5,
                last: u64::MAX
            })
        );
        assert_eq!(range(5, 9), Ok(LockRange { start: 5, last: 9 }));
        assert!(range(9, 5).is_err());
    }

    #[test]
    fn unknown_kinds_are_refused() {
        assert_eq!(kind(libc::F_UNLCK), Ok(None));
        assert!(kind(99).is_err());
    }
}
