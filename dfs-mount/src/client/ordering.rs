//! Taking a place in an inode's order of reads and writes (`super::gate`), and waiting for it.

use super::gate::{Access, Ticket};
use super::guard::lock;
use super::inode::Inode;
use dfs_proto::layout::FileLayout;

/// A place in the order; given up when dropped.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    inode: &'a Inode,
    ticket: Ticket,
}

impl Inode {
    /// Takes a place now and waits until nobody earlier is in the way.
    pub(super) async fn turn(&self, access: Access, layout: FileLayout) -> Turn<'_> {
        let ticket = lock(&self.gate).enter(access);
        let turn = Turn {
            inode: self,
            ticket,
        };
        let chunk_bytes = u64::from(layout.chunk_bytes);
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if lock(&self.gate).is_clear(ticket, chunk_bytes) {
                return turn;
            }
            changed.await;
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        lock(&self.inode.gate).leave(self.ticket);
        self.inode.changed.notify_waiters();
    }
}
