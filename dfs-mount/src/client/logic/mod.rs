//! The decisions of the client core, as pure state machines: no clock, no network, no task. What
//! happened comes in, what is to be done comes out; the modules around execute it, and so does
//! a simulation.
//!
//! | machine | decides |
//! | --- | --- |
//! | `window` | the stamps of changes, and which are unanswered |
//! | `lease` | who may use an inode's lease, and when a recall is done |
//! | `gate` | the order of reads and writes of an inode |
//! | `authority` | size and times under the exclusive lease |
//! | `chunk_op` | which replica is asked, and what follows from its answer |
//! | `recall` | how the kernel's pages go |
//! | `filled` | where the kernel may have pages that a write makes old |
//! | `stream` | what a sequential reader will want next |
//! | `sparse` | where a sparse file has data |
//! | `stored` | how much a sparse file takes up |
//! | `held_locks` | which locks a new leader is told of |

pub mod authority;
pub mod chunk_op;
pub mod dir_cache;
pub mod filled;
pub mod gate;
pub mod held_locks;
pub mod lease;
pub mod recall;
pub mod sparse;
pub mod stored;
pub mod stream;
pub mod window;
