//! What `dfsctl` asks: status, servers, groups, sessions, locks, verification. It changes nothing.

mod export;
mod fsck;
mod held;
mod repair;
mod report;
mod scrub;
mod verify;

use crate::mount_api::MountApi;
use crate::raft::RaftHandle;
use crate::tasks::{Placement, ServerEvents};
use dfs_proto::error::Result;
use dfs_proto::msg::Request;
use dfs_proto::msg::admin::{
    BeginExport, ChangeSettings, EvictSession, GetRepair, GetSettings, GetStatus, GoOn, ListGroups,
    ListLocks, ListServers, ListSessions, NextExport, SetServerLife, VerifyGroup,
};
use dfs_proto::msg::scrub::{CheckGroup, CheckNames, FindFile, ListScrubs, NameInodes, ScrubGroup};
use dfs_proto::payload::Payload;
use dfs_proto::transport::{Incoming, Service};
use export::Exports;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// Groups that are verified at the same time: each reads a page of every replica.
const VERIFICATIONS_MAX: usize = 4;

/// The service for `dfsctl`.
#[derive(Clone, Debug)]
pub struct AdminApi {
    raft: RaftHandle,
    placement: Placement,
    orders: ServerEvents,
    mounts: MountApi,
    verifications: Arc<Semaphore>,
    exports: Exports,
}

impl AdminApi {
    pub fn new(
        raft: RaftHandle,
        placement: Placement,
        orders: ServerEvents,
        mounts: MountApi,
    ) -> Self {
        Self {
            raft,
            placement,
            orders,
            mounts,
            verifications: Arc::new(Semaphore::new(VERIFICATIONS_MAX)),
            exports: Exports::default(),
        }
    }

    /// Whether a method is served here.
    pub fn serves(method: u16) -> bool {
        method >> 8 == 0x08
    }

    async fn go_on(self) -> Result<u32> {
        self.orders.go_on().await
    }

    fn spawn<R, F>(&self, incoming: Incoming, handle: impl FnOnce(Self, R) -> F)
    where
        R: Request,
        F: Future<Output = Result<R::Response>> + Send + 'static,
    {
        match incoming.decode::<R>() {
            Ok(request) => {
                let answer = handle(self.clone(), request);
                tokio::spawn(async move {
                    incoming.answer::<R>(answer.await, Payload::default());
                });
            }
            Err(e) => incoming.refuse(e),
        }
    }
}

impl Service for AdminApi {
    fn serve(&self, incoming: Incoming) {
        match incoming.method {
            GetStatus::METHOD => self.spawn(incoming, |api, _: GetStatus| api.status()),
            ListServers::METHOD => self.spawn(incoming, |api, _: ListServers| api.servers()),
            ListGroups::METHOD => self.spawn(incoming, |api, _: ListGroups| api.groups()),
            ListSessions::METHOD => self.spawn(incoming, |api, _: ListSessions| api.sessions()),
            ListLocks::METHOD => self.spawn(incoming, Self::locks),
            EvictSession::METHOD => self.spawn(incoming, Self::evict),
            BeginExport::METHOD => self.spawn(incoming, Self::begin_export),
            NextExport::METHOD => match incoming.decode::<NextExport>() {
                Ok(request) => {
                    let answer = self.clone().next_export(request);
                    tokio::spawn(async move {
                        match answer.await {
                            Ok((more, piece)) => incoming.answer::<NextExport>(Ok(more), piece),
                            Err(e) => incoming.refuse(e),
                        }
                    });
                }
                Err(e) => incoming.refuse(e),
            },
            GetRepair::METHOD => self.spawn(incoming, |api, _: GetRepair| api.repair()),
            GetSettings::METHOD => self.spawn(incoming, |api, _: GetSettings| api.settings()),
            ChangeSettings::METHOD => self.spawn(incoming, Self::change_settings),
            SetServerLife::METHOD => self.spawn(incoming, Self::set_life),
            GoOn::METHOD => self.spawn(incoming, |api, _: GoOn| api.go_on()),
            VerifyGroup::METHOD => self.spawn(incoming, Self::verify),
            ScrubGroup::METHOD => self.spawn(incoming, Self::scrub),
            ListScrubs::METHOD => self.spawn(incoming, Self::scrubs),
            FindFile::METHOD => self.spawn(incoming, Self::find_file),
            NameInodes::METHOD => self.spawn(incoming, Self::name_inodes),
            CheckNames::METHOD => self.spawn(incoming, Self::check_names),
            CheckGroup::METHOD => self.spawn(incoming, Self::check_group),
            _ => incoming.refuse_unknown(),
        }
    }
}
