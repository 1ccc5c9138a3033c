//! What the client core asks of the kernel's caches. Implemented by the FUSE adapter; tests
//! implement it with nothing behind it.

use super::recall::OldRights;
use dfs_proto::ids::InodeId;
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
}

/// No kernel, no caches: for tools and tests that use the client core as a library.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoKernel;

impl KernelCache for NoKernel {
    fn drop_data(&self, _: InodeId, _: OldRights) -> BoxFuture<()> {
        Box::pin(std::future::ready(()))
    }
}
