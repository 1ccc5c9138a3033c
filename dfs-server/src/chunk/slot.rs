//! The header of a chunk file: one of its slots, as bytes.
//!
//! A slot holds all that is known of the chunk beside its data. It is written as a whole and
//! carries its own checksum: a slot that was written in part is as if it had not been written.
//! The layout is in `docs/storage.md`; the golden test below guards it.

use super::bits::BlockSet;
use dfs_proto::ids::{
    ChunkIndex, ChunkKey, Epoch, Generation, GroupId, InodeId, Sequence, SessionId, Version,
};
use dfs_proto::limits::{BLOCK_BYTES, WRITE_RECORDS_MAX};
use dfs_proto::msg::peer::WriteRecord;
use std::ops::Range;

/// Slots of a file. Three: the one that is known to be on disk is never overwritten, and the
/// other two alternate, so that the newest is not overwritten either.
pub(super) const SLOTS: usize = 3;

/// Distance of the slots in the file; only what is used of each is written.
pub(super) const SLOT_SPAN: u64 = 128 << 10;

/// Where the data begin.
pub(super) const DATA_OFFSET: u64 = SLOTS as u64 * SLOT_SPAN;

/// Largest chunk of format 1: its table of checksums has to fit into a slot.
pub(super) const CAPACITY: u32 = 64 << 20;

/// A slot of a 4 MiB chunk with all write records fits into this.
pub(super) const SLOT_READ_AHEAD: usize = 8 << 10;

const MAGIC: &[u8; 8] = b"dfschunk";
const FORMAT: u32 = 1;
const FIXED: usize = 104;
const RECORD: usize = 32;
const BLOCK: u32 = BLOCK_BYTES as u32;

const _: () = {
    let blocks = (CAPACITY / BLOCK) as usize;
    assert!(
        FIXED + WRITE_RECORDS_MAX * RECORD + 2 * blocks.div_ceil(8) + 4 * blocks
            < SLOT_SPAN as usize
    );
    assert!(DATA_OFFSET.is_multiple_of(BLOCK_BYTES as u64));
};

/// All that is known of a chunk beside its data.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Meta {
    pub(super) key: ChunkKey,
    pub(super) group: GroupId,
    pub(super) generation: Generation,
    pub(super) version: Version,
    /// Bytes of the chunk; the last block is stored whole, zeros after the end.
    pub(super) len: u32,
    pub(super) records: Vec<WriteRecord>,
    /// Blocks that are stored; the others, and what lies beyond, are zeros.
    pub(super) present: BlockSet,
    /// Blocks changed since the last slot known to be on disk.
    pub(super) dirty: BlockSet,
    /// Blocks that may be overwritten in place though they were synced: the overwrite mark.
    pub(super) mark: Range<u32>,
    /// crc32c of each block; meaningless for a block that is not present.
    pub(super) checksums: Vec<u32>,
}

impl Meta {
    /// A chunk without content.
    pub(super) fn new(key: ChunkKey, group: GroupId) -> Self {
        Self {
            key,
            group,
            generation: Generation(0),
            version: Version::HOLE,
            len: 0,
            records: Vec::new(),
            present: BlockSet::default(),
            dirty: BlockSet::default(),
            mark: 0..0,
            checksums: Vec::new(),
        }
    }

    /// Number of blocks up to the length.
    pub(super) fn blocks(&self) -> u32 {
        self.len.div_ceil(BLOCK)
    }

    /// The checksum of a block, `None` if it is zeros that are not stored.
    pub(super) fn checksum(&self, block: u32) -> Option<u32> {
        self.present
            .contains(block)
            .then(|| self.checksums.get(block as usize).copied())
            .flatten()
    }

    /// Notes the new content of a block.
    pub(super) fn set_block(&mut self, block: u32, checksum: u32) {
        let at = block as usize;
        if at >= self.checksums.len() {
            self.checksums.resize(at + 1, 0);
        }
        self.checksums[at] = checksum;
        self.present.insert(block);
        self.dirty.insert(block);
    }

    /// Puts a session's record in the place of its last one. Beyond the bound the record of
    /// the oldest write goes.
    pub(super) fn set_record(&mut self, record: WriteRecord) {
        self.records.retain(|kept| kept.session != record.session);
        if self.records.len() >= WRITE_RECORDS_MAX
            && let Some(oldest) = (0..self.records.len()).min_by_key(|at| self.records[*at].version)
        {
            self.records.remove(oldest);
        }
        self.records.push(record);
    }
}

/// One slot of a header.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Slot {
    /// Rises with every slot written to the file; `1` and up.
    pub(super) sequence: u64,
    /// The newest slot that was known to be on disk, with its data, when this one was written.
    pub(super) base: u64,
    pub(super) meta: Meta,
}

/// Why bytes are no slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum NoSlot {
    /// Never written.
    Blank,
    /// Of a format that this program does not know.
    Newer(u32),
    /// More bytes are needed: this many in all.
    Short(usize),
    Damaged,
}

impl Slot {
    /// The bytes as they are in the file.
    pub(super) fn encode(&self) -> Vec<u8> {
        let meta = &self.meta;
        let blocks = meta.blocks();
        let mut out = Vec::with_capacity(FIXED + meta.records.len() * RECORD + 5 * blocks as usize);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&FORMAT.to_le_bytes());
        out.extend_from_slice(&[0; 8]); // checksum and length, below
        out.extend_from_slice(&meta.group.0.to_le_bytes());
        for number in [
            self.sequence,
            self.base,
            meta.key.inode.0,
            meta.key.index.0,
            meta.generation.0,
            meta.version.epoch.0,
            meta.version.counter,
        ] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        for number in [
            meta.mark.start,
            meta.mark.end,
            meta.len,
            blocks,
            meta.records.len() as u32,
            0,
        ] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        for record in &meta.records {
            for number in [
                record.session.0,
                record.sequence.0,
                record.version.epoch.0,
                record.version.counter,
            ] {
                out.extend_from_slice(&number.to_le_bytes());
            }
        }
        meta.present.store(blocks, &mut out);
        meta.dirty.store(blocks, &mut out);
        for block in 0..blocks as usize {
            let checksum = meta.checksums.get(block).copied().unwrap_or(0);
            out.extend_from_slice(&checksum.to_le_bytes());
        }
        let len = out.len() as u32;
        out[16..20].copy_from_slice(&len.to_le_bytes());
        let checksum = crc32c::crc32c(&out[16..]);
        out[12..16].copy_from_slice(&checksum.to_le_bytes());
        out
    }

    /// Reads a slot from bytes that begin with it.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, NoSlot> {
        if bytes.iter().take(FIXED).all(|byte| *byte == 0) {
            return Err(NoSlot::Blank);
        }
        if bytes.len() < FIXED || &bytes[..8] != MAGIC {
            return Err(NoSlot::Damaged);
        }
        let len = u32_at(bytes, 16) as usize;
        if !(FIXED..=SLOT_SPAN as usize).contains(&len) {
            return Err(NoSlot::Damaged);
        }
        if bytes.len() < len {
            return Err(NoSlot::Short(len));
        }
        let bytes = &bytes[..len];
        if crc32c::crc32c(&bytes[16..]) != u32_at(bytes, 12) {
            return Err(NoSlot::Damaged);
        }
        let format = u32_at(bytes, 8);
        if format != FORMAT {
            return Err(if format > FORMAT {
                NoSlot::Newer(format)
            } else {
                NoSlot::Damaged
            });
        }
        Self::decode_checked(bytes).ok_or(NoSlot::Damaged)
    }

    fn decode_checked(bytes: &[u8]) -> Option<Self> {
        let (stored_len, blocks) = (u32_at(bytes, 88), u32_at(bytes, 92));
        let records = u32_at(bytes, 96) as usize;
        if stored_len > CAPACITY
            || blocks != stored_len.div_ceil(BLOCK)
            || records > WRITE_RECORDS_MAX
        {
            return None;
        }
        let bitmap = BlockSet::stored_len(blocks);
        let present_at = FIXED + records * RECORD;
        let dirty_at = present_at + bitmap;
        let table_at = dirty_at + bitmap;
        if bytes.len() != table_at + 4 * blocks as usize {
            return None;
        }
        let mut present = BlockSet::load(&bytes[present_at..dirty_at]);
        let mut dirty = BlockSet::load(&bytes[dirty_at..table_at]);
        present.truncate(blocks);
        dirty.truncate(blocks);
        Some(Self {
            sequence: u64_at(bytes, 24),
            base: u64_at(bytes, 32),
            meta: Meta {
                key: ChunkKey {
                    inode: InodeId(u64_at(bytes, 40)),
                    index: ChunkIndex(u64_at(bytes, 48)),
                },
                group: GroupId(u32_at(bytes, 20)),
                generation: Generation(u64_at(bytes, 56)),
                version: Version {
                    epoch: Epoch(u64_at(bytes, 64)),
                    counter: u64_at(bytes, 72),
                },
                len: stored_len,
                records: bytes[FIXED..present_at]
                    .chunks_exact(RECORD)
                    .map(record_from)
                    .collect(),
                present,
                dirty,
                mark: u32_at(bytes, 80)..u32_at(bytes, 84),
                checksums: bytes[table_at..]
                    .chunks_exact(4)
                    .map(|part| u32_at(part, 0))
                    .collect(),
            },
        })
    }
}

fn record_from(bytes: &[u8]) -> WriteRecord {
    WriteRecord {
        session: SessionId(u64_at(bytes, 0)),
        sequence: Sequence(u64_at(bytes, 8)),
        version: Version {
            epoch: Epoch(u64_at(bytes, 16)),
            counter: u64_at(bytes, 24),
        },
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut number = [0; 4];
    number.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(number)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> Slot {
        let mut meta = Meta::new(
            ChunkKey {
                inode: InodeId(0x1122),
                index: ChunkIndex(3),
            },
            GroupId(7),
        );
        meta.generation = Generation(5);
        meta.version = Version {
            epoch: Epoch(9),
            counter: 10,
        };
        meta.len = 2 * BLOCK + 100;
        meta.set_block(0, 0xAABB_CCDD);
        meta.dirty.remove_all();
        meta.set_block(2, 0x0102_0304);
        meta.mark = 0..16;
        meta.set_record(WriteRecord {
            session: SessionId(0x51),
            sequence: Sequence(0x52),
            version: meta.version,
        });
        Slot {
            sequence: 12,
            base: 11,
            meta,
        }
    }

    #[test]
    fn the_bytes_of_a_slot_are_these() {
        let mut expected = Vec::new();
        expected.extend_from_slice(b"dfschunk");
        expected.extend_from_slice(&[1, 0, 0, 0]);
        expected.extend_from_slice(&[0; 4]); // the checksum, filled in below
        expected.extend_from_slice(&[150, 0, 0, 0, 7, 0, 0, 0]);
        expected.extend_from_slice(&[12, 0, 0, 0, 0, 0, 0, 0, 11, 0, 0, 0, 0, 0, 0, 0]);
        expected.extend_from_slice(&[0x22, 0x11, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0]);
        expected.extend_from_slice(&[5, 0, 0, 0, 0, 0, 0, 0]);
        expected.extend_from_slice(&[9, 0, 0, 0, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0, 0, 0]);
        expected.extend_from_slice(&[0, 0, 0, 0, 16, 0, 0, 0]);
        expected.extend_from_slice(&[0x64, 0x20, 0, 0, 3, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
        expected.extend_from_slice(&[0x51, 0, 0, 0, 0, 0, 0, 0, 0x52, 0, 0, 0, 0, 0, 0, 0]);
        expected.extend_from_slice(&[9, 0, 0, 0, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0, 0, 0]);
        expected.extend_from_slice(&[0b101, 0b100]);
        expected.extend_from_slice(&[0xDD, 0xCC, 0xBB, 0xAA, 0, 0, 0, 0, 4, 3, 2, 1]);
        let checksum = crc32c::crc32c(&expected[16..]);
        expected[12..16].copy_from_slice(&checksum.to_le_bytes());
        assert_eq!(sample().encode(), expected);
        assert_eq!(checksum, GOLDEN_CHECKSUM);
    }

    const GOLDEN_CHECKSUM: u32 = 0xDF5E_C3B4;

    #[test]
    fn a_flipped_bit_is_never_a_slot() {
        let bytes = sample().encode();
        assert_eq!(Slot::decode(&bytes), Ok(sample()));
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            // The format number lies outside the checksum, so that a newer format can be told.
            let flipped = Slot::decode(&flipped);
            assert!(flipped.is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_newer_format_is_told_from_damage() {
        let mut bytes = sample().encode();
        bytes[8] = 2;
        assert_eq!(Slot::decode(&bytes), Err(NoSlot::Newer(2)));
        assert_eq!(Slot::decode(&[0; 4096]), Err(NoSlot::Blank));
        assert_eq!(
            Slot::decode(&sample().encode()[..120]),
            Err(NoSlot::Short(150))
        );
    }

    #[test]
    fn the_oldest_record_makes_room() {
        let mut meta = sample().meta;
        for session in 0..2 * WRITE_RECORDS_MAX as u64 {
            meta.set_record(WriteRecord {
                session: SessionId(1000 + session),
                sequence: Sequence(1),
                version: Version {
                    epoch: Epoch(20),
                    counter: session,
                },
            });
        }
        assert_eq!(meta.records.len(), WRITE_RECORDS_MAX);
        assert!(
            meta.records
                .iter()
                .all(|r| r.version.counter >= WRITE_RECORDS_MAX as u64)
        );
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..400), patch in any::<u32>()) {
            let _ = Slot::decode(&bytes);
            // With a valid checksum the fields are reached.
            let mut slot = sample().encode();
            let at = 16 + patch as usize % (slot.len() - 16);
            slot[at] ^= (patch >> 24) as u8;
            let checksum = crc32c::crc32c(&slot[16..]);
            slot[12..16].copy_from_slice(&checksum.to_le_bytes());
            let _ = Slot::decode(&slot);
        }
    }
}
