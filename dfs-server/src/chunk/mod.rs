//! The chunk store: checksummed chunks of files on a local disk.
//!
//! It keeps, for each chunk, the bytes, one crc32c for each 4 KiB block, the generation and
//! version, and the write records that make writes exactly-once; an index that tells a chunk
//! that rotted away from one that never was; and the small durable state of the replica layer
//! (adopted epochs, fenced sessions, generation floors).
//!
//! It is a synchronous library: callers bring their own threads, and all methods may be called
//! from several at once. It knows nothing of replication, of roles or of the network: it never
//! decides whether a write is allowed, only whether it can be kept. The formats are described
//! byte by byte in `docs/storage.md`.

mod behind;
mod bits;
mod catalog;
mod clear;
mod cut;
mod disk;
mod error;
#[cfg(test)]
mod faults;
mod file;
mod handles;
mod identity;
mod index;
mod install;
mod live;
mod promises;
mod quarantine;
mod read;
mod recover;
mod removals;
mod request;
mod slot;
mod space;
mod store;
mod sync;
#[cfg(test)]
mod tests;
mod witness;
mod write;

pub use error::{Damage, Result, StoreError};
pub use quarantine::Kept;
pub use request::{
    ChunkState, Image, InstallPart, OpenOptions, Opened, Read, Space, Verified, WriteRequest,
};
pub use store::ChunkStore;
