//! A `Placement` whose file servers a simulation stands for: there are no groups and no epochs,
//! but cuts and fences are asked for, and waited for, as of real ones.

use super::events::ServerEvents;
use super::handle::Placement;
use crate::raft::Pending;
use dfs_proto::attr::StatFs;
use dfs_proto::error::Result;
use dfs_proto::ids::{Generation, InodeId, SessionId};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::{Notify, mpsc, watch};

/// What file servers are asked for. An answer ends the wait of whoever asked.
pub trait SimulatedServers: Send + Sync + 'static {
    /// Every replica makes the cuts of the inode up to this generation, and the log says so.
    fn cut(&self, inode: InodeId, generation: Generation) -> Pending<Result<()>>;

    /// Nothing of the session is in progress anywhere, and nothing of it is accepted any more.
    fn fence(&self, session: SessionId) -> Pending<Result<()>>;

    /// Where the data of files end, beyond what the log says of them.
    fn ends(&self, inodes: Vec<InodeId>) -> Pending<Result<BTreeMap<InodeId, u64>>>;
}

impl Placement {
    /// Over simulated servers. Runs in the present tokio runtime.
    pub fn simulated(servers: Arc<dyn SimulatedServers>) -> Self {
        let (cuts, mut cuts_wanted) = mpsc::channel::<super::handle::CutWait>(64);
        let (fences, mut fences_wanted) = mpsc::channel::<super::handle::FenceWait>(64);
        let (measures, mut measures_wanted) = mpsc::channel::<super::handle::MeasureWait>(64);
        let measuring = servers.clone();
        tokio::spawn(async move {
            while let Some(wait) = measures_wanted.recv().await {
                let inodes = wait.files.iter().map(|file| file.inode).collect();
                let ends = measuring.ends(inodes);
                tokio::spawn(async move { wait.done.send(ends.await) });
            }
        });
        let cutting = servers.clone();
        tokio::spawn(async move {
            while let Some(wait) = cuts_wanted.recv().await {
                let cut = cutting.cut(wait.inode, wait.generation);
                // Whoever has given up does not care.
                tokio::spawn(async move { wait.done.send(cut.await) });
            }
        });
        tokio::spawn(async move {
            while let Some(wait) = fences_wanted.recv().await {
                let fence = servers.fence(wait.session);
                tokio::spawn(async move { wait.done.send(fence.await) });
            }
        });
        Self {
            map: watch::channel(Arc::default()).1,
            space: watch::channel(StatFs::default()).1,
            view: watch::channel(Arc::default()).1,
            signs: watch::channel(Default::default()).1,
            intents: Arc::new(Notify::new()),
            cuts,
            fences,
            measures,
            events: ServerEvents::to_nobody(),
        }
    }
}
