//! Random calls on a small tree of a real mount, held against what must come of them: a model in
//! memory (for calls from two mounts at once), or a local file system as the oracle.
//!
//! | module | what it is |
//! | --- | --- |
//! | `call`, `generate` | a call, as a line of text; which one comes next |
//! | `perform` | makes it on a mount or a local dir, as some user |
//! | `look` | everything that can be seen of the tree |
//! | `model`, `model_calls` | the tree as it must be, for calls by root |
//! | `verdict` | whether a look is what the model says |
//! | `orders` | in which orders the calls of a step may have been made |
//! | `oracle` | whether a look is what a local file system shows |
//! | `shrink` | the fewest calls that still fail; those that have failed once |

pub mod call;
pub mod generate;
pub mod look;
pub mod model;
mod model_calls;
pub mod oracle;
pub mod orders;
pub mod perform;
pub mod shrink;
pub mod verdict;
