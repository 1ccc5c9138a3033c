//! The file server: checksummed chunks of files on a local disk, and the primary/backup
//! replication of the replica groups that it is a member of.
//!
//! | module | what it is |
//! | --- | --- |
//! | `chunk` | the chunk store: a synchronous library that knows nothing of replication |
//! | `replica` | the replication: a pure state machine that knows nothing of disk and network |
//! | `pace` | which member is so slow that it holds everybody: a pure judge |
//! | `scrub` | going through everything, to find and repair what is wrong |
//! | `service` | the shell that joins all of it with the network |
//! | `config`, `node` | the command line; one server, started and stopped |

pub mod chunk;
pub mod config;
pub mod node;
pub mod pace;
pub mod replica;
mod scrub;
pub mod service;
