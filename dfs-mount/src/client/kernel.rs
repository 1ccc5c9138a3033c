//! What the client core asks of the kernel's caches. Implemented by the FUSE adapter; tests
//! implement it with nothing behind it.

use super::recall::OldRights;
use dfs_proto::ids::InodeId;
use dfs_proto::name::FileName;
use std::future::Future;
use std::pin::Pin;

/// A future that can be handed between threads.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// The kernel's caches of this mount.
pub trait KernelCache: Send + Sync + 'static {
    /// Drops everything that the kernel caches of the inode (data and attributes), by the scheme
    /// of `super::recall`. The future resolves when it is gone. The core never asks a second
    /// time for an inode before the first has resolved.
    ///
    /// Until then the adapter answers no GETATTR of the inode, keeps new READs as the gate says,
    /// and lets launder WRITEs through (`WriteMode::Launder`). A cluster-wide wait hangs on this.
    fn drop_data(&self, inode: InodeId, rights: OldRights) -> BoxFuture<()>;

    /// Drops these names of a dir, and the dir's attributes, from the kernel's caches. The core
    /// has forgotten them before: an answer that is handed to the kernel from now on gives it
    /// nothing of before to keep. A cluster-wide wait hangs on this.
    fn drop_names(&self, dir: InodeId, names: Vec<FileName>) -> BoxFuture<()>;

    /// Drops all names, and the attributes of these dirs. The core waits no longer for it than
    /// the kernel may keep them.
    fn drop_all_names(&self, dirs: Vec<InodeId>) -> BoxFuture<()>;
}

/// No kernel, no caches: for tools and tests that use the client core as a library.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoKernel;

impl KernelCache for NoKernel {
    fn drop_data(&self, _: InodeId, _: OldRights) -> BoxFuture<()> {
        Box::pin(std::future::ready(()))
    }

    fn drop_names(&self, _: InodeId, _: Vec<FileName>) -> BoxFuture<()> {
        Box::pin(std::future::ready(()))
    }

    fn drop_all_names(&self, _: Vec<InodeId>) -> BoxFuture<()> {
        Box::pin(std::future::ready(()))
    }
}
