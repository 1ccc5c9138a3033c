//! What is stored of a sparse file: where its data and holes are, and how much it takes up.
//!
//! Every in-sync member has every write that was acknowledged, block by block the same, so any of
//! them knows.

use super::ReplicaCore;
use super::event::{Caller, Response};
use super::holdings::Holdings;
use super::reader::before;
use dfs_proto::error::{Error, ErrorCode};
use dfs_proto::ids::{ChunkKey, Epoch, Generation, GroupId, InodeId};
use dfs_proto::limits::{BLOCK_BYTES, INVENTORY_PAGE_ITEMS_MAX};
use dfs_proto::msg::chunk::{FindChunks, FoundChunks, MeasureStored, Seek, StoredMeasured};
use dfs_proto::payload::Payload;

/// Chunks looked at together.
const LOOK: usize = 64;

const BLOCK: u32 = BLOCK_BYTES as u32;

impl ReplicaCore {
    /// Where data or a hole begin.
    pub(super) fn find(&mut self, caller: Caller, request: FindChunks, h: &dyn Holdings) {
        let FindChunks { inode, group, .. } = request;
        let admitted = self.admit_look(inode, group, request.epoch, request.generation, h);
        match admitted.and_then(|()| found(&request, h)) {
            Ok(found) => self.answer(caller, Ok(Response::Found(found)), Payload::default()),
            Err(error) => self.refuse(caller, error),
        }
    }

    /// How much is stored.
    pub(super) fn measure_stored(
        &mut self,
        caller: Caller,
        request: MeasureStored,
        h: &dyn Holdings,
    ) {
        let MeasureStored { inode, group, .. } = request;
        if let Err(error) = self.admit_look(inode, group, request.epoch, request.generation, h) {
            return self.refuse(caller, error);
        }
        let bytes = h.stored_bytes(inode, group);
        let measured = Response::Stored(StoredMeasured { bytes });
        self.answer(caller, Ok(measured), Payload::default());
    }

    fn admit_look(
        &mut self,
        inode: InodeId,
        group: GroupId,
        epoch: Epoch,
        generation: Generation,
        h: &dyn Holdings,
    ) -> Result<(), Error> {
        let epoch = self.read_epoch(group, epoch);
        self.admit_mount(group, epoch, h)?;
        let floor = h.floor(group, inode);
        match generation < floor {
            true => Err(Error::bare(ErrorCode::StaleGeneration).with_detail(floor.0)),
            false => Ok(()),
        }
    }
}

fn found(request: &FindChunks, h: &dyn Holdings) -> Result<FoundChunks, Error> {
    let most = (request.items_max as usize).clamp(1, INVENTORY_PAGE_ITEMS_MAX);
    let mut answer = FoundChunks {
        whole: Vec::new(),
        found: None,
        end: false,
    };
    let mut after = before(request.inode, request.from);
    loop {
        let (chunks, end) = h.chunks(request.group, after, LOOK);
        let of_inode = chunks.iter().map(|chunk| chunk.key);
        for key in of_inode.take_while(|key| key.inode == request.inode) {
            let from = match key.index == request.from {
                true => request.offset,
                false => 0,
            };
            if let Some(at) = place(request, key, from, h)? {
                answer.found = Some((key.index, at));
                return Ok(answer);
            }
            if request.seek == Seek::Hole {
                answer.whole.push(key.index);
                if answer.whole.len() >= most {
                    return Ok(answer);
                }
            }
        }
        after = chunks.last().map(|chunk| chunk.key);
        if end || after.is_none_or(|last| last.inode != request.inode) {
            answer.end = true;
            return Ok(answer);
        }
    }
}

/// The byte of a chunk from `from` on where what is looked for begins.
fn place(
    request: &FindChunks,
    key: ChunkKey,
    from: u32,
    h: &dyn Holdings,
) -> Result<Option<u32>, Error> {
    let stored = h.stored_blocks(key);
    let whole = u64::from(stored) * u64::from(BLOCK) >= u64::from(request.chunk_bytes);
    let block = match request.seek {
        Seek::Hole if whole => None,
        Seek::Data if stored == 0 => None,
        seek => h.find_block(key, from / BLOCK, seek == Seek::Data)?,
    };
    let at = block.map(|block| from.max(block.saturating_mul(BLOCK)));
    Ok(at.filter(|at| *at < request.chunk_bytes))
}
