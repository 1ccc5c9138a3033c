//! The file server: checksummed chunks of files on a local disk, and the primary/backup
//! replication of the replica groups that it is a member of.
//!
//! | module | what it is |
//! | --- | --- |
//! | `chunk` | the chunk store: a synchronous library that knows nothing of replication |
//! | `replica` | the replication: a pure state machine that knows nothing of disk and network |
//! | `service` | the shell that joins both with the network |
//! | `config`, `node` | the command line; one server, started and stopped |

pub mod chunk;
pub mod config;
pub mod node;
pub mod replica;
pub mod service;
