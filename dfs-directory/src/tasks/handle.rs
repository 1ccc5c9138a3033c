//! The handle through which the rest of the directory sees file servers and groups.

use super::events::{ServerEvents, deposed, stopping};
use super::measures::Ends;
use super::view::View;
use crate::governor::Signs;
use dfs_proto::attr::StatFs;
use dfs_proto::cluster::ClusterMap;
use dfs_proto::error::Result;
use dfs_proto::ids::{Generation, InodeId, ServerRun, SessionId};
use dfs_proto::layout::FileLayout;
use std::sync::Arc;
use tokio::sync::{Notify, mpsc, oneshot, watch};

/// A wait for the end of a cut.
#[derive(Debug)]
pub(crate) struct CutWait {
    pub(crate) inode: InodeId,
    pub(crate) generation: Generation,
    pub(crate) done: oneshot::Sender<Result<()>>,
}

/// A wait for the end of a fence.
#[derive(Debug)]
pub(crate) struct FenceWait {
    pub(crate) session: SessionId,
    pub(crate) done: oneshot::Sender<Result<()>>,
}

/// A file whose end is not known.
#[derive(Clone, Copy, Debug)]
pub struct Unmeasured {
    pub inode: InodeId,
    pub layout: FileLayout,
    /// What lies before this byte is known.
    pub from: u64,
}

/// A question for the ends of files.
#[derive(Debug)]
pub(crate) struct MeasureWait {
    pub(crate) files: Vec<Unmeasured>,
    pub(crate) done: oneshot::Sender<Result<Ends>>,
}

/// What the tasks offer: the present map, and waits for what they drive.
#[derive(Clone, Debug)]
pub struct Placement {
    pub(crate) map: watch::Receiver<Arc<ClusterMap>>,
    pub(crate) space: watch::Receiver<StatFs>,
    pub(crate) view: watch::Receiver<Arc<View>>,
    pub(crate) signs: watch::Receiver<Signs>,
    pub(crate) intents: Arc<Notify>,
    pub(crate) cuts: mpsc::Sender<CutWait>,
    pub(crate) fences: mpsc::Sender<FenceWait>,
    pub(crate) measures: mpsc::Sender<MeasureWait>,
    pub(crate) events: ServerEvents,
}

impl Placement {
    /// The present map of effective epochs.
    pub fn map(&self) -> Arc<ClusterMap> {
        self.map.borrow().clone()
    }

    /// Follows the map.
    pub fn subscribe(&self) -> watch::Receiver<Arc<ClusterMap>> {
        self.map.clone()
    }

    /// Waits until no logged intent of the inode up to this generation is left: every replica
    /// has made the cut. No deadline: drop the future to stop
    /// waiting. `NotLeader` if this member does not lead.
    pub async fn cut_done(&self, inode: InodeId, generation: Generation) -> Result<()> {
        let (done, ended) = oneshot::channel();
        self.cuts
            .send(CutWait {
                inode,
                generation,
                done,
            })
            .await
            .map_err(|_| stopping())?;
        self.intents.notify_one();
        ended.await.map_err(|_| deposed())?
    }

    /// Fences an ended session: logs it, and waits until in every group all in-sync members of
    /// one effective epoch have acknowledged that nothing of it is in progress and nothing will
    /// be accepted. No deadline: drop the future to stop
    /// waiting. `NotLeader` if this member does not lead.
    pub async fn fence(&self, session: SessionId) -> Result<()> {
        let (done, ended) = oneshot::channel();
        self.fences
            .send(FenceWait { session, done })
            .await
            .map_err(|_| stopping())?;
        ended.await.map_err(|_| deposed())?
    }

    /// Asks where the data of files end, at most `limits::MEASURED_INODES_MAX`, as the file servers
    /// hold them: by inode the byte after the last one, of those that have something from where they
    /// were asked for. Whoever wrote to them must be fenced, and the cuts in the log be made. No
    /// deadline: drop the future to stop waiting. `NotLeader` if this member does not lead.
    pub async fn ends(&self, files: Vec<Unmeasured>) -> Result<Ends> {
        let (done, measured) = oneshot::channel();
        self.measures
            .send(MeasureWait { files, done })
            .await
            .map_err(|_| stopping())?;
        measured.await.map_err(|_| deposed())?
    }

    /// A mount cannot reach these servers, and says so with each heartbeat.
    pub(crate) fn unreachable(&self, session: SessionId, runs: Vec<ServerRun>) {
        self.events.unreachable(session, runs);
    }

    /// An intent (cut or free) was just logged: drive it now.
    pub fn intents_changed(&self) {
        self.intents.notify_one();
    }

    /// What the tasks know at this moment; empty while this member does not lead.
    pub(crate) fn view(&self) -> Arc<View> {
        self.view.borrow().clone()
    }

    /// The servers' last signs of life.
    pub(crate) fn signs(&self) -> Signs {
        self.signs.borrow().clone()
    }

    /// Usable space after replication, as the servers last reported it; inode counts are 0 here
    /// (the namespace knows them).
    pub fn statfs(&self) -> StatFs {
        *self.space.borrow()
    }
}
