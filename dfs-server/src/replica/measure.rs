//! Where the data of inodes end: what the directory asks when the writer of a file is gone without
//! having told its size.

use super::ReplicaCore;
use super::event::{Caller, Response};
use super::holdings::Holdings;
use super::reader::before;
use dfs_proto::error::{Error, ErrorCode};
use dfs_proto::ids::{ChunkIndex, ChunkKey, GroupId, InodeId};
use dfs_proto::limits::MEASURED_INODES_MAX;
use dfs_proto::msg::control::{InodesMeasured, MeasureInodes};
use dfs_proto::payload::Payload;
use std::collections::BTreeMap;

/// Chunks looked at together beyond the first: most inodes have none, or one, that the directory
/// does not know of.
const LOOK: usize = 64;

impl ReplicaCore {
    /// Nothing is being written to these inodes: their writer is fenced, so the in-sync members of
    /// a group hold the same of them.
    pub(super) fn measure(&mut self, caller: Caller, request: &MeasureInodes, h: &dyn Holdings) {
        if request.inodes.len() > MEASURED_INODES_MAX {
            let error = Error::new(ErrorCode::InvalidArgument, "too many inodes at a time");
            return self.refuse(caller, error);
        }
        let mut groups = Vec::new();
        let mut last: BTreeMap<InodeId, (ChunkIndex, u32)> = BTreeMap::new();
        for (group, epoch) in &request.groups {
            // The directory asks in epochs that are effective, as mounts do.
            if self.admit_mount(*group, *epoch, h).is_err() {
                continue;
            }
            groups.push((*group, *epoch));
            for (inode, from) in &request.inodes {
                let Some(key) = last_chunk(*group, *inode, *from, h) else {
                    continue;
                };
                let stored = u32::try_from(h.chunk_bytes(key)).unwrap_or(u32::MAX);
                let known = last.entry(*inode).or_default();
                *known = (*known).max((key.index, stored));
            }
        }
        let last = last.into_iter();
        let measured = InodesMeasured {
            groups,
            last: last
                .map(|(inode, (i, stored))| (inode, i, stored))
                .collect(),
        };
        self.answer(caller, Ok(Response::Measured(measured)), Payload::default());
    }
}

/// The last chunk of an inode in a group, if it has one from `from` on.
fn last_chunk(
    group: GroupId,
    inode: InodeId,
    from: ChunkIndex,
    h: &dyn Holdings,
) -> Option<ChunkKey> {
    let mut last = None;
    let mut after = before(inode, from);
    let mut most = 1;
    loop {
        let (found, end) = h.chunks(group, after, most);
        let of_inode = found.iter().take_while(|chunk| chunk.key.inode == inode);
        let keys: Vec<ChunkKey> = of_inode.map(|chunk| chunk.key).collect();
        last = keys.last().copied().or(last);
        if end || keys.is_empty() || keys.len() < found.len() {
            return last;
        }
        after = last;
        most = LOOK;
    }
}
