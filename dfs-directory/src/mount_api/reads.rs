//! Reads of the namespace. Attributes are true: the holder of an exclusive lease is asked.

use super::MountApi;
use super::dispatch::Delivery;
use crate::namespace::read;
use crate::state::tables::{Read, TableError};
use dfs_proto::attr::{FileAttr, StatFs};
use dfs_proto::error::{Error, ErrorCode, Result};
use dfs_proto::ids::{InodeId, SessionId};
use dfs_proto::limits::BLOCK_BYTES;
use dfs_proto::msg::namespace::{
    DirPage, GetAttr, GetStatFs, GetXattr, ListXattrs, LookedUp, Lookup, ReadDir, ReadLink, Seen,
};
use dfs_proto::xattr::XattrName;

impl MountApi {
    /// Reads the replicated state; what the read refuses becomes the error.
    pub(super) async fn look<T, F>(&self, f: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&dyn Read) -> Result<Result<T, ErrorCode>, TableError> + Send + 'static,
    {
        drop(self.leading()?);
        self.raft().read(f).await?.map_err(Error::from)
    }

    /// The recorded attributes.
    pub(super) async fn recorded_attr(&self, inode: InodeId) -> Result<FileAttr> {
        self.look(move |tables| read::attr(tables, inode)).await
    }

    /// The recorded attributes, once every logged cut of the inode is made.
    pub(super) async fn settled_attr(&self, inode: InodeId) -> Result<FileAttr> {
        loop {
            let (attr, last) = self
                .look(move |tables| {
                    let last = read::intents_of(tables, inode)?
                        .iter()
                        .map(|intent| intent.generation)
                        .max();
                    Ok(read::attr(tables, inode)?.map(|attr| (attr, last)))
                })
                .await?;
            match last {
                Some(generation) => self.placement().cut_done(inode, generation).await?,
                None => return Ok(attr),
            }
        }
    }

    /// The attributes with every write that was acknowledged, on whichever mount, before the
    /// call. The session's own exclusive lease is not asked: it knows better itself.
    pub(super) async fn true_attr(&self, session: SessionId, inode: InodeId) -> Result<FileAttr> {
        self.grace(session, inode, false).await?;
        if self.someone_else_writes(session, inode)? {
            self.ask(inode).await?;
        }
        self.recorded_attr(inode).await
    }

    fn someone_else_writes(&self, session: SessionId, inode: InodeId) -> Result<bool> {
        let core = self.leading()?;
        Ok(core
            .leases
            .exclusive_holder(inode)
            .is_some_and(|(holder, _)| holder != session))
    }

    pub(super) async fn get_attr(self, request: GetAttr) -> (Result<Seen>, Delivery) {
        let mut delivery = Delivery::default();
        let result = self.try_get_attr(request, &mut delivery).await;
        (result, delivery)
    }

    async fn try_get_attr(&self, request: GetAttr, delivery: &mut Delivery) -> Result<Seen> {
        let GetAttr { session, inode } = request;
        let pushes = self.alive(session)?.pushes;
        let found = self.recorded_attr(inode).await?;
        self.see(session, found, pushes, delivery).await
    }

    pub(super) async fn lookup(self, request: Lookup) -> (Result<LookedUp>, Delivery) {
        let mut delivery = Delivery::default();
        let result = self.try_lookup(request, &mut delivery).await;
        (result, delivery)
    }

    async fn try_lookup(&self, request: Lookup, delivery: &mut Delivery) -> Result<LookedUp> {
        let Lookup {
            session,
            parent,
            name,
        } = request;
        let pushes = self.alive(session)?.pushes;
        // What `..` is, is never kept: a dir does not know who moves it.
        let named = name.is_some();
        let names = named && self.keep_dir(session, parent)?;
        let found = self
            .look(move |tables| read::lookup(tables, parent, name.as_ref()))
            .await;
        let seen = match found {
            Ok(found) => Some(self.see(session, found, pushes, delivery).await?),
            Err(e) if named && e.code == ErrorCode::NotFound => None,
            Err(e) => return Err(e),
        };
        Ok(LookedUp { seen, names })
    }

    pub(super) async fn read_dir(self, request: ReadDir) -> (Result<DirPage>, Delivery) {
        let mut delivery = Delivery::default();
        let result = self.try_read_dir(request, &mut delivery).await;
        (result, delivery)
    }

    async fn try_read_dir(&self, request: ReadDir, delivery: &mut Delivery) -> Result<DirPage> {
        let ReadDir {
            session,
            inode,
            cookie,
            entries_max,
            with_attr,
        } = request;
        let names = self.keep_dir(session, inode)?;
        let mut page = self
            .look(move |tables| read::readdir(tables, inode, cookie, entries_max, with_attr))
            .await?;
        page.names = names;
        if with_attr {
            self.keep_page(session, &mut page, delivery).await?;
        }
        Ok(page)
    }

    pub(super) async fn read_link(self, request: ReadLink) -> Result<Vec<u8>> {
        self.look(move |tables| read::readlink(tables, request.inode))
            .await
    }

    pub(super) async fn get_xattr(self, request: GetXattr) -> Result<Vec<u8>> {
        let GetXattr { inode, name } = request;
        self.look(move |tables| read::xattr(tables, inode, &name))
            .await
    }

    pub(super) async fn list_xattrs(self, request: ListXattrs) -> Result<Vec<XattrName>> {
        self.look(move |tables| read::xattr_names(tables, request.inode))
            .await
    }

    pub(super) async fn stat_fs(self, _: GetStatFs) -> Result<StatFs> {
        let counts = self.look(|tables| read::counts(tables).map(Ok)).await?;
        let space = self.placement().statfs();
        // Inodes are not limited by themselves: as many more as there are free blocks.
        let free_inodes = space.free_bytes / BLOCK_BYTES as u64;
        Ok(StatFs {
            inodes: counts.inodes + free_inodes,
            free_inodes,
            ..space
        })
    }
}
