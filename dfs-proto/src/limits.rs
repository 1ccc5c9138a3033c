//! Every maximum, with its reason. Sizes are bytes unless the name says otherwise.

/// A block is what carries one checksum, in memory, on the wire and on disk.
pub const BLOCK_BYTES: usize = 4096;

/// Largest payload of one frame: one FUSE write or read (1 MiB) and the block that an unaligned
/// range touches in excess.
pub const PAYLOAD_BYTES_MAX: usize = (1 << 20) + BLOCK_BYTES;

/// Largest serialized body of one frame: the biggest is a dir page or an inventory page.
pub const BODY_BYTES_MAX: usize = 1 << 20;

/// Largest read or write that a mount sends in one request.
pub const IO_BYTES_MAX: usize = 1 << 20;

/// Longest name of an entry.
pub const NAME_BYTES_MAX: usize = 255;

/// Longest name of an extended attribute, with its prefix.
pub const XATTR_NAME_BYTES_MAX: usize = 255;

/// Longest value of an extended attribute; longest list of the names of one inode, a NUL after
/// each. The kernel takes no more.
pub const XATTR_VALUE_BYTES_MAX: usize = 64 << 10;
pub const XATTR_LIST_BYTES_MAX: usize = 64 << 10;

/// All values of one inode's extended attributes: a bound for what a name can carry along.
pub const XATTR_INODE_BYTES_MAX: usize = 4 << 20;

/// Longest target of a symlink (PATH_MAX less the NUL).
pub const SYMLINK_BYTES_MAX: usize = 4095;

/// Longest file: Linux's loff_t.
pub const FILE_BYTES_MAX: u64 = i64::MAX as u64;

/// Links to one inode, as on ext4.
pub const LINKS_MAX: u32 = 65_000;

/// Default size of a chunk.
pub const CHUNK_BYTES_DEFAULT: u32 = 4 << 20;

/// Largest chunk: its checksums fit into the header of its file.
pub const CHUNK_BYTES_MAX: u32 = 64 << 20;

/// Default number of replica groups, fixed when the cluster is formatted.
pub const GROUPS_DEFAULT: u32 = 64;

/// Default and largest number of replicas of a chunk.
pub const REPLICAS_DEFAULT: u8 = 3;
pub const REPLICAS_MAX: usize = 8;

/// Requests that one side of a connection may have unanswered; more wait at the sender.
pub const IN_FLIGHT_MAX: usize = 512;

/// Undated requests (lease waits) that one side of a connection may have unanswered. They are
/// counted apart, so that waiting ones never take the places of those that make progress.
pub const IN_FLIGHT_UNDATED_MAX: usize = 4096;

/// Payload bytes that one side of a connection may have unanswered; more wait at the sender.
pub const IN_FLIGHT_PAYLOAD_BYTES_MAX: usize = 64 << 20;

/// Mutations that a session may have unanswered: bounds the ledger of remembered replies.
pub const SESSION_UNANSWERED_MAX: usize = 256;

/// Connections that have not finished their handshake; more are closed at once.
pub const HANDSHAKES_MAX: usize = 2048;

/// Entries of one readdir page, items of one inventory page.
pub const DIR_PAGE_ENTRIES_MAX: usize = 1024;
pub const INVENTORY_PAGE_ITEMS_MAX: usize = 4096;

/// Inodes whose ends one request asks for.
pub const MEASURED_INODES_MAX: usize = 256;

/// Items of one reclaim page.
pub const RECLAIM_PAGE_ITEMS_MAX: usize = 1024;

/// Write records kept with a chunk: sessions that wrote it and have not ended. A session that
/// has ended is fenced, so its record may go; beyond this many the oldest goes.
pub const WRITE_RECORDS_MAX: usize = 64;

/// Lock waiters in the table of one directory leader.
pub const LOCK_WAITERS_MAX: usize = 100_000;

/// Dirs whose names one session may keep: a bound for the directory's memory. Beyond it the
/// right that was used least recently goes.
pub const SESSION_DIR_RIGHTS_MAX: usize = 65_536;

/// Dirs that one change of the namespace can touch: two parents, what is moved, what it replaces.
pub const DIR_CHANGES_MAX: usize = 4;

/// Servers that one heartbeat of a mount may call unreachable.
pub const UNREACHABLE_MAX: usize = 64;

const _: () = {
    assert!(IO_BYTES_MAX + BLOCK_BYTES <= PAYLOAD_BYTES_MAX);
    assert!((CHUNK_BYTES_DEFAULT as usize).is_multiple_of(BLOCK_BYTES));
    assert!(IO_BYTES_MAX <= CHUNK_BYTES_DEFAULT as usize);
    assert!(IN_FLIGHT_PAYLOAD_BYTES_MAX >= PAYLOAD_BYTES_MAX * 4);
};
