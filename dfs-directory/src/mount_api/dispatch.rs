//! From a frame to a handler and back.

use super::MountApi;
use dfs_proto::error::{ErrorCode, Result};
use dfs_proto::ids::{GrantId, InodeId, SessionId};
use dfs_proto::msg::Request;
use dfs_proto::msg::namespace::{
    GetAttr, GetStatFs, GetXattr, ListXattrs, Lookup, Mutate, ReadDir, ReadLink,
};
use dfs_proto::msg::session::{
    AcquireLease, CancelLock, CloseInode, EndSession, GetMap, Heartbeat, OpenInode, OpenSession,
    PushAttr, Reclaim, ReleaseLease, ReleaseOwner, SetLock, TestLock,
};
use dfs_proto::payload::Payload;
use dfs_proto::transport::{Connection, Incoming, Service};
use std::future::Future;

/// Grants that travel with an answer: they can be recalled once it is on its way.
#[derive(Default, Debug)]
pub(super) struct Delivery(pub(super) Vec<(SessionId, InodeId, GrantId)>);

impl MountApi {
    /// Whether a method is served here.
    pub fn serves(method: u16) -> bool {
        matches!(method >> 8, 0x01 | 0x02)
    }

    fn spawn<R, F>(&self, incoming: Incoming, handle: impl FnOnce(Self, R) -> F)
    where
        R: Request,
        F: Future<Output = Result<R::Response>> + Send + 'static,
    {
        match incoming.decode::<R>() {
            Ok(request) => {
                let (api, answer) = (self.clone(), handle(self.clone(), request));
                tokio::spawn(async move {
                    let result = api.ends_proven(answer.await).await;
                    incoming.answer::<R>(result, Payload::default());
                });
            }
            Err(e) => incoming.refuse(e),
        }
    }

    /// For requests that may be answered with grants.
    fn spawn_granting<R, F>(&self, incoming: Incoming, handle: impl FnOnce(Self, R) -> F)
    where
        R: Request,
        F: Future<Output = (Result<R::Response>, Delivery)> + Send + 'static,
    {
        match incoming.decode::<R>() {
            Ok(request) => {
                let api = self.clone();
                let answer = handle(self.clone(), request);
                tokio::spawn(async move {
                    let (result, delivery) = answer.await;
                    let result = api.ends_proven(result).await;
                    incoming.answer::<R>(result, Payload::default());
                    api.delivered(delivery);
                });
            }
            Err(e) => incoming.refuse(e),
        }
    }

    fn inline<R: Request>(
        &self,
        incoming: Incoming,
        handle: impl FnOnce(&Self, R) -> Result<R::Response>,
    ) {
        let result = incoming
            .decode::<R>()
            .and_then(|request| handle(self, request));
        match result {
            Err(error) if error.code == ErrorCode::SessionEnded => {
                let api = self.clone();
                tokio::spawn(async move {
                    let result = api.ends_proven(Err(error)).await;
                    incoming.answer::<R>(result, Payload::default());
                });
            }
            result => incoming.answer::<R>(result, Payload::default()),
        }
    }

    fn acquire(&self, incoming: Incoming) {
        match incoming.decode::<AcquireLease>() {
            Ok(request) => {
                let api = self.clone();
                tokio::spawn(async move {
                    let mut delivery = Delivery::default();
                    let result = {
                        let acquire = Box::pin(api.acquire_lease(
                            request,
                            incoming.abandoned(),
                            &mut delivery,
                        ));
                        acquire.await
                    };
                    let result = api.ends_proven(result).await;
                    incoming.answer::<AcquireLease>(result, Payload::default());
                    api.delivered(delivery);
                });
            }
            Err(e) => incoming.refuse(e),
        }
    }
}

impl Service for MountApi {
    fn serve(&self, incoming: Incoming) {
        let connection = incoming.connection.clone();
        match incoming.method {
            OpenSession::METHOD => {
                self.spawn(incoming, |api, r| api.open_session(connection, r));
            }
            Heartbeat::METHOD => {
                let received = self.now();
                self.spawn(incoming, move |api, r| {
                    api.heartbeat(connection, r, received)
                });
            }
            EndSession::METHOD => self.spawn(incoming, Self::goodbye),
            GetMap::METHOD => {
                self.inline(incoming, |api, _: GetMap| {
                    Ok((*api.placement().map()).clone())
                });
            }
            AcquireLease::METHOD => self.acquire(incoming),
            ReleaseLease::METHOD => self.spawn(incoming, Self::release_lease),
            PushAttr::METHOD => self.spawn(incoming, Self::push_attr),
            OpenInode::METHOD => self.spawn_granting(incoming, Self::open_inode),
            CloseInode::METHOD => self.inline(incoming, Self::close_inode),
            SetLock::METHOD => self.spawn(incoming, Self::set_lock),
            CancelLock::METHOD => self.inline(incoming, Self::cancel_lock),
            TestLock::METHOD => self.spawn(incoming, Self::test_lock),
            ReleaseOwner::METHOD => self.spawn(incoming, Self::release_owner),
            Reclaim::METHOD => {
                self.spawn_granting(incoming, |api, r| api.reclaim(connection, r));
            }
            Lookup::METHOD => self.spawn_granting(incoming, Self::lookup),
            GetAttr::METHOD => self.spawn_granting(incoming, Self::get_attr),
            ReadDir::METHOD => self.spawn_granting(incoming, Self::read_dir),
            ReadLink::METHOD => self.spawn(incoming, Self::read_link),
            GetXattr::METHOD => self.spawn(incoming, Self::get_xattr),
            ListXattrs::METHOD => self.spawn(incoming, Self::list_xattrs),
            GetStatFs::METHOD => self.spawn(incoming, Self::stat_fs),
            Mutate::METHOD => self.spawn_granting(incoming, Self::mutate),
            _ => incoming.refuse_unknown(),
        }
    }

    fn disconnected(&self, connection: &Connection) {
        self.unbind(connection);
    }
}
