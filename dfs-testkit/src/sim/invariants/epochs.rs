//! Epochs only rise (R1): within a run as it knows them, over runs as it has told the directory.
//! And a request is served only by a server that is in the request's epoch when it comes.

use dfs_proto::ids::{Epoch, GroupId, ServerRun};
use dfs_server::replica::{GroupView, Request, Response};
use std::collections::BTreeMap;

/// A request as it met its server.
#[derive(Clone, Debug)]
pub(crate) struct Admission {
    pub(crate) request: Request,
    /// The server's epoch of the request's group at that moment.
    pub(crate) epoch: Option<Epoch>,
}

impl Admission {
    /// The group and epoch that a request names, if it stands for one epoch.
    pub(crate) fn names(request: &Request) -> Option<(GroupId, Epoch)> {
        Some(match request {
            Request::Read(r) => (r.group, r.epoch),
            Request::Write(r) => (r.group, r.epoch),
            Request::Sync(r) => (r.group, r.epoch),
            Request::Find(r) => (r.group, r.epoch),
            Request::Stored(r) => (r.group, r.epoch),
            Request::Forward(r) => (r.group, r.epoch),
            Request::Marks(r) => (r.group, r.epoch),
            Request::List(r) => (r.group, r.epoch),
            Request::States(r) => (r.group, r.epoch),
            Request::InstallFloors(r) => (r.group, r.epoch),
            Request::Fetch(r) => (r.group, r.epoch),
            Request::Install(r) => (r.group, r.epoch),
            Request::SyncGroup(r) => (r.group, r.epoch),
            Request::Check(r) => (r.group, r.epoch),
            Request::Adopt(_)
            | Request::Equalise(_)
            | Request::Effective(_)
            | Request::Cut(_)
            | Request::Fence(_)
            | Request::Measure(_)
            | Request::Release(_)
            | Request::Committed(_)
            | Request::ScrubKeys(_)
            | Request::ScrubChunk(_) => return None,
        })
    }
}

pub(super) fn served(
    run: ServerRun,
    admission: &Admission,
    response: &Response,
) -> Result<(), String> {
    let Some((group, epoch)) = Admission::names(&admission.request) else {
        return Ok(());
    };
    if admission.epoch == Some(epoch) {
        return Ok(());
    }
    Err(format!(
        "{run} was in {:?} of {group} and serves a request of {epoch}: {:?} -> {response:?}",
        admission.epoch, admission.request
    ))
}

#[derive(Debug, Default)]
pub(super) struct Epochs {
    known: BTreeMap<(ServerRun, GroupId), Epoch>,
    /// What each machine has told the directory.
    promised: BTreeMap<(usize, GroupId), Epoch>,
}

impl Epochs {
    pub(super) fn viewed(
        &mut self,
        place: usize,
        run: ServerRun,
        group: GroupId,
        view: &GroupView,
    ) -> Result<(), String> {
        let known = self.known.entry((run, group)).or_default();
        if view.epoch < *known || view.durable > view.epoch {
            return Err(format!("{run} went from {known} of {group} to {view:?}"));
        }
        *known = view.epoch;
        match self.promised.get(&(place, group)) {
            Some(promised) if view.durable < *promised => Err(format!(
                "{run} has {} of {group} on disk, {promised} was promised",
                view.durable
            )),
            _ => Ok(()),
        }
    }

    pub(super) fn promised(&mut self, place: usize, epochs: &[(GroupId, Epoch)]) {
        for (group, epoch) in epochs {
            let known = self.promised.entry((place, *group)).or_default();
            *known = (*known).max(*epoch);
        }
    }
}
