//! The language that every part of dfs speaks.
//!
//! Types, messages and the frames that carry them; nothing here knows of FUSE, disks or Raft.

pub mod attr;
pub mod cluster;
pub mod codec;
pub mod eager;
pub mod elsewhere;
pub mod error;
pub mod frame;
pub mod handshake;
pub mod ids;
pub mod layout;
pub mod limits;
pub mod lock;
pub mod msg;
pub mod name;
pub mod payload;
pub mod timing;
pub mod transport;
pub mod whereabouts;
pub mod xattr;
