//! The end of open files: what a close, and the last one, let go of.

use super::handles::Opened;
use super::serve::Adapter;
use dfs_proto::ids::LockOwner;
use dfs_proto::lock::LockSpace;
use fuser::{FileHandle, ReplyEmpty, Request};

impl Adapter {
    pub(super) fn start_flush(
        &self,
        request: &Request,
        fh: FileHandle,
        owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        let (client, handle) = (self.client.clone(), self.file(fh));
        self.locks.range_owners.flushed(fh.0, owner);
        // A close by a process lets go of all its byte-range locks on the file. Data and errors
        // need nothing here: each write was answered when it was done.
        let release =
            handle.map(|handle| client.release_owner(handle.inode(), LockSpace::Posix, owner));
        let work = async move { release?.await };
        self.change(request, reply, work, |reply, ()| reply.ok());
    }

    pub(super) fn start_release(
        &self,
        fh: FileHandle,
        flock_owner: Option<LockOwner>,
        reply: ReplyEmpty,
    ) {
        let Some(Opened::File(handle)) = self.handles.remove(fh.0) else {
            return reply.ok();
        };
        // The last close of an open file description. The kernel doesn't wait for the answer, so
        // its locks go first and fast.
        let flock = flock_owner.map(|owner| (LockSpace::Flock, owner));
        let ranges = self.locks.range_owners.released(fh.0);
        let ranges = ranges.into_iter().map(|(owner, space)| (space, owner));
        let releases: Vec<_> = flock
            .into_iter()
            .chain(ranges)
            .map(|(space, owner)| self.client.release_owner(handle.inode(), space, owner))
            .collect();
        if releases.is_empty() {
            drop(handle);
            return reply.ok();
        }
        self.client.names_runtime().spawn(async move {
            for release in releases {
                if let Err(e) = release.await {
                    log::warn!(
                        "{}: a lock of a closed file is not released: {e}",
                        handle.inode()
                    );
                }
            }
            drop(handle);
            reply.ok();
        });
    }
}
