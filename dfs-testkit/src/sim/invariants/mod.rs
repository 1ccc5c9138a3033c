//! What must hold after every step, whatever clients have seen of it yet. A broken rule is found
//! here steps before a client could notice it.
//!
//! | module | rule |
//! | --- | --- |
//! | `acknowledged` | an answered write is on every in-sync member of its epoch |
//! | `versions` | a version of a group names one write, given out by one primary an epoch |
//! | `epochs` | a run's epochs only rise, also over a restart; nothing of another epoch is served |
//! | `fences` | nothing of a session that is over changes what serves |
//! | `serving` | the in-sync members of an epoch that begins to serve are equal, hold every acknowledged write, have adopted it and know all fences; nobody serves before |
//! | `synced` | what a sync names is on the disk of whoever answers it |
//! | `cuts` | a cut that has ended is made on every in-sync member |
//! | `refused` | a write refused for want of space is nowhere |
//! | `convergence` | when all is quiet, the replicas are equal and everybody is in-sync |

mod acknowledged;
pub(crate) mod convergence;
mod cuts;
mod epochs;
mod fences;
mod refused;
mod serving;
mod synced;
mod versions;

pub(crate) use epochs::Admission;

use super::disk::Disk;
use dfs_directory::namespace::Intent;
use dfs_directory::placement::{GroupRecord, Placed};
use dfs_proto::error::ErrorCode;
use dfs_proto::ids::{Epoch, Generation, GroupId, InodeId, ServerRun};
use dfs_server::replica::{DiskOp, GroupView, Request, Response};
use std::collections::{BTreeMap, BTreeSet};

/// A file server as the checks see it.
#[derive(Debug)]
pub(crate) struct Seen<'a> {
    /// The number of its machine.
    pub(crate) place: usize,
    /// Its run, if a process lives there.
    pub(crate) run: Option<ServerRun>,
    pub(crate) disk: &'a Disk,
}

/// Everything that the checks remember. Off, only what clients see counts.
#[derive(Debug, Default)]
pub(crate) struct Invariants {
    off: bool,
    versions: versions::Versions,
    epochs: epochs::Epochs,
    fences: fences::Fences,
    acknowledged: serving::Acknowledged,
    /// Inodes with a cut under way.
    pub(crate) cutting: BTreeSet<InodeId>,
    /// The last cut of each inode. Servers forget theirs when an epoch is effective.
    pub(crate) cuts: BTreeMap<InodeId, Generation>,
}

impl Invariants {
    pub(crate) fn turn_off(&mut self) {
        self.off = true;
    }

    /// A server starts work on its disk.
    pub(crate) fn disk_begins(
        &mut self,
        run: ServerRun,
        op: &DiskOp,
        placed: &Placed,
    ) -> Result<(), String> {
        if self.off {
            return Ok(());
        }
        if let DiskOp::Write {
            key, group, record, ..
        } = op
        {
            self.versions.given(*group, *key, record)?;
            self.fences.written(run, *group, record, placed)?;
        }
        Ok(())
    }

    /// A server is about to answer a request of the replication.
    pub(crate) fn answers(
        &mut self,
        run: ServerRun,
        admission: &Admission,
        response: &Response,
        placed: &Placed,
        servers: &[Seen<'_>],
    ) -> Result<(), String> {
        if self.off {
            return Ok(());
        }
        epochs::served(run, admission, response)?;
        if let (Request::Write(request), Response::Written(written)) =
            (&admission.request, response)
        {
            self.versions.acknowledged(run, request.group, written)?;
            self.fences
                .answered(run, request.group, request.session, placed)?;
            acknowledged::check(run, request, written, placed, servers)?;
            let (group, key) = (request.group, request.key);
            self.acknowledged
                .wrote(group, key, request.generation, written.version);
        }
        if let Request::Sync(request) = &admission.request {
            synced::check(run, request, &self.cuts, servers)?;
        }
        Ok(())
    }

    /// A server is about to refuse a request.
    pub(crate) fn refuses(
        &mut self,
        run: ServerRun,
        admission: &Admission,
        code: ErrorCode,
        placed: &Placed,
        servers: &[Seen<'_>],
    ) -> Result<(), String> {
        match &admission.request {
            Request::Write(request) if code == ErrorCode::NoSpace && !self.off => {
                refused::check(run, request, placed, servers)
            }
            _ => Ok(()),
        }
    }

    /// An epoch serves from now on.
    pub(crate) fn serves(
        &mut self,
        group: GroupId,
        record: &GroupRecord,
        servers: &[Seen<'_>],
    ) -> Result<(), String> {
        if self.off {
            return Ok(());
        }
        let over = self.fences.all();
        let cutting = &self.cutting;
        serving::begins(group, record, servers, &self.acknowledged, over, cutting)
    }

    /// A cut has ended.
    pub(crate) fn cut_ended(
        &mut self,
        intent: &Intent,
        placed: &Placed,
        servers: &[Seen<'_>],
    ) -> Result<(), String> {
        self.acknowledged.cut(intent);
        match self.off {
            true => Ok(()),
            false => cuts::ended(intent, placed, servers),
        }
    }

    /// A group may have lost what was not synced.
    pub(crate) fn lost(&mut self, group: GroupId) {
        self.acknowledged.lost(group);
    }

    /// What a server knows of a group after a step.
    pub(crate) fn viewed(
        &mut self,
        place: usize,
        run: ServerRun,
        group: GroupId,
        view: &GroupView,
        placed: &Placed,
    ) -> Result<(), String> {
        if self.off {
            return Ok(());
        }
        serving::believed(run, group, view, placed)?;
        self.epochs.viewed(place, run, group, view)
    }

    /// A server has told the directory what it has adopted.
    pub(crate) fn adopted(&mut self, place: usize, epochs: &[(GroupId, Epoch)]) {
        self.epochs.promised(place, epochs);
    }

    /// The directory gives a session's leases to others.
    pub(crate) fn session_over(&mut self, session: dfs_proto::ids::SessionId) {
        self.fences.over(session);
    }
}
