//! A handle over a log that a simulation keeps: its members, its elections and its network are the
//! simulation's, the state machine and everybody who holds the handle are the product's.

use super::handle::{Inner, RaftHandle};
use super::status::RaftStatus;
use crate::state::memory::MemoryTables;
use crate::state::{Change, Outcome};
use dfs_proto::error::Result;
use dfs_proto::ids::MemberId;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use tokio::sync::watch;

/// What takes its time.
pub type Pending<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// One run of a member, as `RaftHandle` needs it; its methods promise what `RaftHandle`'s do.
pub trait SimulatedMember: Send + Sync {
    /// Logs a change: answered when a majority has it and it is applied here.
    fn commit(&self, change: Change) -> Pending<Result<Outcome>>;

    /// Proves that this member still leads.
    fn confirm(&self) -> Pending<Result<()>>;

    /// What it has applied.
    fn tables(&self) -> Arc<Mutex<MemoryTables>>;

    /// Follows its part in the group.
    fn watch(&self) -> watch::Receiver<RaftStatus>;
}

impl RaftHandle {
    /// A member of a simulated group.
    pub fn simulated(member: Arc<dyn SimulatedMember>) -> Self {
        Self(Inner::Simulated(member))
    }
}

impl RaftStatus {
    /// The incarnation of a member's reign in a term.
    pub fn life_in(term: u64, member: MemberId) -> u64 {
        Self::life_of(term, member)
    }
}
