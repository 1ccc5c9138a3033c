//! The handle that the services use: changes in, outcomes out; linearizable reads.
//!
//! It belongs to no runtime: any thread may await it.

use super::batcher::Proposals;
use super::desk::Calls;
use super::hand_over::Order;
#[cfg(any(test, feature = "testing"))]
use super::in_memory::InMemory;
use super::membership;
use super::reader::Confirmations;
use super::runtime::Core;
#[cfg(any(test, feature = "testing"))]
use super::simulated::SimulatedMember;
use super::state_machine::Progress;
use super::status::{PeerStatus, RaftStatus};
use super::types::Raft;
use crate::members;
use crate::state::level;
use crate::state::tables::{Read, TableError};
use crate::state::{Change, Outcome};
use crate::storage::Store;
use crate::storage::tables::ReadView;
use dfs_proto::error::{Error, ErrorCode, Result};
use dfs_proto::msg::member::DirectoryMember;
use dfs_proto::transport::Incoming;
use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, RwLock};
use tokio::sync::{mpsc, oneshot, watch};

/// The replicated state, as seen from this member.
#[derive(Clone)]
pub struct RaftHandle(pub(super) Inner);

#[derive(Clone)]
pub(super) enum Inner {
    Live(Arc<Live>),
    #[cfg(any(test, feature = "testing"))]
    InMemory(InMemory),
    #[cfg(any(test, feature = "testing"))]
    Simulated(Arc<dyn SimulatedMember>),
}

/// The tables, until the member has shut down.
pub(super) type StoreSlot = Arc<RwLock<Option<Arc<Store>>>>;

/// Follows a member's status.
pub(super) type StatusWatch = watch::Receiver<RaftStatus>;

/// A member with log and tables on disk.
pub(super) struct Live {
    pub(super) raft: Raft,
    pub(super) calls: Calls,
    pub(super) proposals: Proposals,
    pub(super) confirmations: Confirmations,
    /// Given up at the shutdown, so that the files are free for whoever opens them next.
    pub(super) store: StoreSlot,
    pub(super) progress: Arc<Progress>,
    pub(super) status: StatusWatch,
    pub(super) orders: mpsc::Sender<Order>,
    pub(super) supports: u16,
    pub(super) core: Core,
}

impl fmt::Debug for RaftHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RaftHandle").field(&self.status()).finish()
    }
}

impl RaftHandle {
    /// Logs a change and returns its outcome: the change is then on the disks of a majority and
    /// applied here. Changes of one caller that awaits each are applied in its order.
    ///
    /// Dropping the future does not take the change back: it may still be applied.
    ///
    /// `NotLeader` (with the leader's member id) and `Overloaded` mean that nothing was logged;
    /// after `Disconnected` and `StorageFailed` the outcome is unknown.
    pub async fn commit(&self, change: Change) -> Result<Outcome> {
        match &self.0 {
            Inner::Live(live) => live.proposals.propose(change).await,
            #[cfg(any(test, feature = "testing"))]
            Inner::InMemory(memory) => memory.commit(change),
            #[cfg(any(test, feature = "testing"))]
            Inner::Simulated(member) => member.commit(change).await,
        }
    }

    /// Runs `f` on a state that holds every change acknowledged before the call, by whichever
    /// leader. `f` runs on the caller's thread and sees one moment of the state.
    pub async fn read<T, F>(&self, f: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&dyn Read) -> Result<T, TableError> + Send + 'static,
    {
        match &self.0 {
            Inner::Live(live) => {
                live.confirmations.confirm().await?;
                live.read(f)
            }
            #[cfg(any(test, feature = "testing"))]
            Inner::InMemory(memory) => memory.read(f),
            #[cfg(any(test, feature = "testing"))]
            Inner::Simulated(member) => {
                member.confirm().await?;
                read_simulated(&**member, f)
            }
        }
    }

    /// Runs `f` on what this member has applied, which may lag behind the leader: for status
    /// reports, never for answers to mounts or servers.
    pub fn read_local<T, F>(&self, f: F) -> Result<T>
    where
        F: FnOnce(&dyn Read) -> Result<T, TableError>,
    {
        match &self.0 {
            Inner::Live(live) => live.read(f),
            #[cfg(any(test, feature = "testing"))]
            Inner::InMemory(memory) => memory.read_local(f),
            #[cfg(any(test, feature = "testing"))]
            Inner::Simulated(member) => read_simulated(&**member, f),
        }
    }

    /// Runs `f` on a view of the tables of this moment, as `read_local`, for a backup: what is in
    /// the tables, whatever it is.
    pub fn with_view<T>(&self, f: impl FnOnce(&ReadView) -> T) -> Result<T> {
        match &self.0 {
            Inner::Live(live) => live.view().map(|view| f(&view)),
            #[cfg(any(test, feature = "testing"))]
            Inner::InMemory(_) | Inner::Simulated(_) => {
                Err(Error::new(ErrorCode::Unsupported, "there is no disk"))
            }
        }
    }

    /// The members as far as this one knows, ordered by number: whom to ask when this one does not
    /// lead. Empty if the tables can't be read, which stops the member anyway.
    pub fn members(&self) -> Vec<DirectoryMember> {
        self.read_local(|tables| members::list(tables))
            .unwrap_or_default()
    }

    /// The highest feature level that this member takes part in.
    pub fn supports(&self) -> u16 {
        match &self.0 {
            Inner::Live(live) => live.supports,
            #[cfg(any(test, feature = "testing"))]
            Inner::InMemory(_) | Inner::Simulated(_) => level::FEATURE_LEVEL,
        }
    }

    /// The cluster's feature level, as far as this member knows.
    pub fn level(&self) -> u16 {
        self.read_local(|tables| level::of_cluster(tables))
            .unwrap_or(level::FIRST_LEVEL)
    }

    /// How far each member is, as the leader knows; ordered by number.
    pub fn peers(&self) -> Vec<PeerStatus> {
        match &self.0 {
            Inner::Live(live) => membership::peers(&live.raft.metrics().borrow()),
            #[cfg(any(test, feature = "testing"))]
            Inner::InMemory(_) | Inner::Simulated(_) => Vec::new(),
        }
    }

    /// Serves a `RaftCall` of another member.
    pub fn serve(&self, incoming: Incoming) {
        match &self.0 {
            Inner::Live(live) => {
                if let Err(full) = live.calls.try_send(incoming) {
                    let why = "this directory member is behind with the calls of others";
                    full.into_inner()
                        .refuse(Error::new(ErrorCode::Overloaded, why));
                }
            }
            #[cfg(any(test, feature = "testing"))]
            Inner::InMemory(_) | Inner::Simulated(_) => incoming.refuse_unknown(),
        }
    }

    pub fn status(&self) -> RaftStatus {
        match &self.0 {
            Inner::Live(live) => live.status(),
            #[cfg(any(test, feature = "testing"))]
            Inner::InMemory(memory) => memory.status(),
            #[cfg(any(test, feature = "testing"))]
            Inner::Simulated(member) => member.watch().borrow().clone(),
        }
    }

    /// Follows the status: changes of leadership are seen here first. (`applied` moves too often
    /// to be told here; ask `status` for it.)
    pub fn watch(&self) -> watch::Receiver<RaftStatus> {
        match &self.0 {
            Inner::Live(live) => live.status.clone(),
            #[cfg(any(test, feature = "testing"))]
            Inner::InMemory(memory) => memory.watch(),
            #[cfg(any(test, feature = "testing"))]
            Inner::Simulated(member) => member.watch(),
        }
    }

    /// Waits until this member leads; returns its status then. `StorageFailed` or
    /// `ShuttingDown` when it never will.
    pub async fn leading(&self) -> Result<RaftStatus> {
        let mut watch = self.watch();
        let status = watch
            .wait_for(|s| s.leading || s.failed.is_some())
            .await
            .map_err(|_| Error::new(ErrorCode::ShuttingDown, "the directory member has stopped"))?
            .clone();
        match status.failed {
            Some(why) => Err(Error::new(ErrorCode::StorageFailed, why)),
            None => Ok(status),
        }
    }

    /// Ends only when the member has failed for good (its disk), with the reason: the process
    /// should then stop.
    pub async fn failed(&self) -> String {
        let mut watch = self.watch();
        match watch.wait_for(|s| s.failed.is_some()).await {
            Ok(status) => status.failed.clone().unwrap_or_default(),
            Err(_) => std::future::pending().await,
        }
    }

    /// Gives the lead to another member if this one has it, before a stop: changes that are on
    /// their way are answered, later ones are told who leads. Ends when another one leads, or
    /// after a few seconds.
    pub async fn hand_over(&self) {
        match &self.0 {
            Inner::Live(live) => {
                let (done, handed) = oneshot::channel();
                if live.orders.send(done).await.is_ok() {
                    // An error means that the member has stopped.
                    let _ = handed.await;
                }
            }
            #[cfg(any(test, feature = "testing"))]
            Inner::InMemory(_) | Inner::Simulated(_) => {}
        }
    }

    /// Stops the member: no more changes, the applied state is made durable, the log closed and
    /// the data dir unlocked. Later calls answer `ShuttingDown`.
    pub async fn shutdown(&self) {
        match &self.0 {
            Inner::Live(live) => live.core.shutdown().await,
            #[cfg(any(test, feature = "testing"))]
            Inner::InMemory(memory) => memory.shutdown(),
            // It ends when the simulation says so.
            #[cfg(any(test, feature = "testing"))]
            Inner::Simulated(_) => {}
        }
    }
}

#[cfg(test)]
impl RaftHandle {
    /// Makes the member prove its lead for every read, as if there were other voters; tells
    /// whether it did not before.
    pub(super) fn always_prove(&self) -> bool {
        match &self.0 {
            Inner::Live(live) => live.confirmations.always_prove(),
            Inner::InMemory(_) | Inner::Simulated(_) => false,
        }
    }
}

impl Live {
    fn read<T, F>(&self, f: F) -> Result<T>
    where
        F: FnOnce(&dyn Read) -> Result<T, TableError>,
    {
        f(&self.view()?).map_err(storage_failed)
    }

    fn view(&self) -> Result<ReadView> {
        let store = self.store.read().unwrap_or_else(PoisonError::into_inner);
        let store = store
            .as_ref()
            .ok_or_else(|| Error::bare(ErrorCode::ShuttingDown))?;
        store.read().map_err(storage_failed)
    }

    fn status(&self) -> RaftStatus {
        let mut status = self.status.borrow().clone();
        status.applied = self.progress.applied.load(Ordering::Acquire);
        status
    }
}

#[cfg(any(test, feature = "testing"))]
fn read_simulated<T>(
    member: &dyn SimulatedMember,
    f: impl FnOnce(&dyn Read) -> Result<T, TableError>,
) -> Result<T> {
    let tables = member.tables();
    let tables = tables.lock().unwrap_or_else(PoisonError::into_inner);
    f(&*tables).map_err(storage_failed)
}

fn storage_failed(e: TableError) -> Error {
    Error::new(ErrorCode::StorageFailed, e.to_string())
}
