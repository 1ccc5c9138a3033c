//! Writes of mounts: the primary orders them, forwards them, and answers when all have them.

use super::event::{Caller, DiskDone, DiskOp, Request, Response};
use super::group::Role;
use super::holdings::{Holdings, identity};
use super::lane::{Lane, Local, Op, REPEATS_MAX, Started, Wait, WaitState, WriteOp};
use super::reader::stems_from;
use super::{DiskFor, RETRY_AFTER, ReplicaCore, SendFor};
use dfs_proto::error::{Error, ErrorCode};
use dfs_proto::ids::{ChunkKey, GroupId, ServerId, ServerRun, Version};
use dfs_proto::limits::IO_BYTES_MAX;
use dfs_proto::msg::chunk::{ChunkWritten, WriteChunk};
use dfs_proto::msg::peer::{Committed, ForwardWrite, Forwarded, WriteRecord};
use dfs_proto::payload::{Payload, verify_checksums};
use std::collections::BTreeMap;
use std::time::Duration;

/// A member that said it is full counts as full for this long.
const LOW_FOR: Duration = Duration::from_secs(1);

impl ReplicaCore {
    pub(super) fn write(
        &mut self,
        caller: Caller,
        request: WriteChunk,
        payload: Payload,
        h: &dyn Holdings,
    ) {
        if let Err(error) = self.admit_write(&request, &payload, h) {
            return self.refuse(caller, error);
        }
        // A repeat of a write that still waits or is in flight gets that one's answer.
        let lane = self.lanes.entry(request.key).or_default();
        let same = lane
            .current
            .iter_mut()
            .chain(lane.queue.iter_mut())
            .find_map(|op| match op {
                Op::Write(op)
                    if op.request.session == request.session
                        && op.request.sequence == request.sequence =>
                {
                    Some(op)
                }
                _ => None,
            });
        if let Some(op) = same {
            if self.planted.answers_repeats()
                && let Some(started) = &op.started
            {
                let (version, epoch) = (started.forward.version, started.forward.epoch);
                let written = ChunkWritten { version, epoch };
                return self.answer(caller, Ok(Response::Written(written)), Payload::default());
            }
            if op.callers.len() >= REPEATS_MAX {
                let oldest = op.callers.remove(0);
                op.callers.push(caller);
                return self.refuse(oldest, Error::bare(ErrorCode::GroupUnavailable));
            }
            op.callers.push(caller);
            return;
        }
        let key = request.key;
        let op = WriteOp {
            callers: vec![caller],
            request,
            payload,
            started: None,
        };
        self.enqueue(key, Op::Write(op), h);
    }

    fn admit_write(
        &mut self,
        request: &WriteChunk,
        payload: &Payload,
        h: &dyn Holdings,
    ) -> Result<(), Error> {
        self.admit_writer(request, h)?;
        let len = payload.len();
        let fits = request
            .offset
            .checked_add(len as u32)
            .is_some_and(|end| end <= 1 << 30);
        if len == 0 || len > IO_BYTES_MAX || !fits {
            return Err(Error::new(
                ErrorCode::InvalidArgument,
                "a write has 1 byte to 1 MiB",
            ));
        }
        // Before anybody applies: else the members would refuse it one by one.
        if !verify_checksums(request.offset, payload, &request.checksums) {
            return Err(Error::bare(ErrorCode::PayloadDamaged));
        }
        Ok(())
    }

    /// What may have changed while a write waited for its turn.
    fn admit_writer(&mut self, request: &WriteChunk, h: &dyn Holdings) -> Result<(), Error> {
        self.admit_mount(request.group, request.epoch, h)?;
        if let Some(g) = self.groups.get(&request.group) {
            if g.role != Role::Primary {
                return Err(Error::bare(ErrorCode::WrongRole));
            }
            self.admit_session(request.session)?;
            self.admit_generation(request.group, request.key, request.generation, h)?;
            if !g.config.is_writable() {
                return Err(Error::new(
                    ErrorCode::GroupUnavailable,
                    "fewer members are in-sync than a write needs",
                ));
            }
        }
        Ok(())
    }

    /// Answers a repeat from its record; `None`: it was never applied.
    fn recorded(
        &self,
        request: &WriteChunk,
        h: &dyn Holdings,
    ) -> Result<Option<WriteRecord>, Error> {
        if self.planted.forgets_records() {
            return Ok(None);
        }
        match h.record(request.key, request.session)? {
            Some(record) if record.sequence == request.sequence => Ok(Some(record)),
            Some(record) if record.sequence > request.sequence => {
                Err(Error::bare(ErrorCode::WriteForgotten).with_detail(record.sequence.0))
            }
            _ => {
                stems_from(request.key, request.session, request.after, h)?;
                Ok(None)
            }
        }
    }

    /// A write's turn has come. `None`: it is answered already.
    pub(super) fn start_write(&mut self, mut op: WriteOp, h: &dyn Holdings) -> Option<WriteOp> {
        let request = &op.request;
        let (key, group) = (request.key, request.group);
        let admitted = self
            .admit_writer(request, h)
            .and_then(|()| self.recorded(request, h));
        let result = match admitted {
            Ok(None) => Ok(()),
            Ok(Some(record)) => Err(Ok(ChunkWritten {
                version: record.version,
                epoch: request.epoch,
            })),
            Err(error) => Err(Err(error)),
        };
        let held = h.chunk(key);
        let result = result.and_then(|()| match self.is_full(group, h) {
            true if held.is_none() => Err(Err(Error::bare(ErrorCode::NoSpace))),
            _ => Ok(()),
        });
        if let Err(answer) = result {
            for caller in &op.callers {
                let answer = answer.clone().map(Response::Written);
                self.answer(*caller, answer, Payload::default());
            }
            return None;
        }

        let me = self.me;
        let g = self.groups.get_mut(&group)?;
        g.counter += 1;
        g.outstanding.insert(g.counter);
        let version = Version {
            epoch: g.epoch(),
            counter: g.counter,
        };
        if !self.planted.forgets_marks() {
            g.marks.wrote(version, key);
        }
        let (predecessor_generation, predecessor) = identity(held.as_ref());
        let forward = ForwardWrite {
            key,
            group,
            epoch: g.epoch(),
            generation: request.generation,
            session: request.session,
            sequence: request.sequence,
            version,
            predecessor,
            predecessor_generation,
            committed: g.committed(),
            offset: request.offset,
            checksums: request.checksums.clone(),
        };
        g.told = forward.committed;
        g.told_at = self.now;
        let mut targets = g.others(me);
        if !self.planted.leaves_joining_out() {
            targets.extend(g.joins.values().filter(|j| j.in_set()).map(|j| j.run));
        }
        let mut waiting = BTreeMap::new();
        for run in targets {
            let state = WaitState::Forwarded;
            waiting.insert(run.server, Wait { run, state });
            self.forward(run, &forward, &op.payload);
        }
        self.disk(
            DiskOp::Write {
                key,
                group,
                generation: forward.generation,
                record: WriteRecord {
                    session: forward.session,
                    sequence: forward.sequence,
                    version,
                },
                offset: forward.offset,
                checksums: forward.checksums.clone(),
                payload: op.payload.clone(),
            },
            DiskFor::Local { key, version },
            Some(group),
        );
        op.started = Some(Started {
            forward,
            local: Local::Writing,
            waiting,
            applied: Vec::new(),
        });
        Some(op)
    }

    fn is_full(&self, group: GroupId, h: &dyn Holdings) -> bool {
        h.is_low()
            || self
                .groups
                .get(&group)
                .is_some_and(|g| g.low_until.values().any(|until| self.now < *until))
    }

    fn forward(&mut self, run: ServerRun, forward: &ForwardWrite, payload: &Payload) {
        let what = SendFor::Forward {
            key: forward.key,
            version: forward.version,
            run,
        };
        self.send(
            run,
            Request::Forward(forward.clone()),
            payload.clone(),
            what,
        );
    }

    /// The write in progress on a chunk, if it is still the one of that version.
    fn started(&mut self, key: ChunkKey, version: Version) -> Option<WriteOp> {
        match self.current(key)? {
            Op::Write(op)
                if op
                    .started
                    .as_ref()
                    .is_some_and(|s| s.forward.version == version) =>
            {
                Some(op)
            }
            other => {
                self.put_back(key, other);
                None
            }
        }
    }

    pub(super) fn local_ended(
        &mut self,
        key: ChunkKey,
        version: Version,
        result: Result<DiskDone, Error>,
        h: &dyn Holdings,
    ) {
        let Some(mut op) = self.started(key, version) else {
            return self.drained(key, h);
        };
        let Some(started) = op.started.as_mut() else {
            return;
        };
        match result {
            Ok(_) => started.local = Local::Done,
            Err(error) if started.waiting.is_empty() && started.applied.is_empty() => {
                // Nobody else was asked and nothing was applied: this is the answer.
                return self.end_write(op, Err(error), h);
            }
            Err(error) if error.code == ErrorCode::Rotten => {
                log::error!("{key}: the copy here is damaged ({error}); replacing it by another");
                started.local = Local::Rotten;
            }
            Err(error) if error.code == ErrorCode::NoSpace => started.local = Local::Full,
            Err(error) => {
                log::error!("{key}: the disk refused a write ({error}); leaving the group");
                started.local = Local::Failed;
                self.suspect_self(started.forward.group, error.to_string());
            }
        }
        self.go_on(op, h);
    }

    pub(super) fn forward_answered(
        &mut self,
        key: ChunkKey,
        version: Version,
        run: ServerRun,
        result: Result<Response, Error>,
        h: &dyn Holdings,
    ) {
        let Some(mut op) = self.started(key, version) else {
            return;
        };
        let group = op.request.group;
        let joining = self.is_joining(group, run.server);
        let retry_at = self.now + RETRY_AFTER;
        let Some(started) = op.started.as_mut() else {
            return;
        };
        let Some(wait) = started.waiting.get_mut(&run.server) else {
            return self.put_back(key, Op::Write(op));
        };
        if !matches!(wait.state, WaitState::Forwarded | WaitState::Failed { .. }) {
            return self.put_back(key, Op::Write(op));
        }
        match result {
            Ok(Response::Forwarded(Forwarded { low_on_space })) => {
                started.waiting.remove(&run.server);
                started.applied.push(run);
                self.note_space(group, run.server, low_on_space);
            }
            Err(error)
                if error.code == ErrorCode::WrongEpoch && self.planted.serves_when_voted_out() =>
            {
                started.waiting.remove(&run.server);
                started.applied.push(run);
            }
            Err(error) if error.code == ErrorCode::Fenced && self.planted.counts_fenced() => {
                started.waiting.remove(&run.server);
                started.applied.push(run);
            }
            Err(error) if joining => {
                started.waiting.remove(&run.server);
                self.join_missed(group, run, key, &error);
            }
            Err(error) if does_not_fit(&error) => wait.state = WaitState::Repair,
            Err(error) if error.code == ErrorCode::NoSpace => wait.state = WaitState::Full,
            Err(error) => {
                wait.state = WaitState::Failed { retry_at };
                let newer =
                    error.code == ErrorCode::WrongEpoch && error.detail > started.forward.epoch.0;
                // One that knows a newer epoch does its part: this server's word is over soon.
                if !newer {
                    self.suspect(group, run, format!("forwarded write: {error}"));
                }
            }
            Ok(_) => wait.state = WaitState::Failed { retry_at },
        }
        self.go_on(op, h);
    }

    fn note_space(&mut self, group: GroupId, server: ServerId, low: bool) {
        let until = self.now + LOW_FOR;
        if let Some(g) = self.groups.get_mut(&group) {
            match low {
                true => g.low_until.insert(server, until),
                false => g.low_until.remove(&server),
            };
        }
    }

    /// Looks what a write still needs, and does it.
    fn go_on(&mut self, mut op: WriteOp, h: &dyn Holdings) {
        let key = op.request.key;
        let Some(started) = op.started.as_mut() else {
            return;
        };
        let (group, epoch) = (started.forward.group, started.forward.epoch);
        let mut repairs = Vec::new();
        let mut full = Vec::new();
        let retry_at = self.now + RETRY_AFTER;
        match started.local {
            Local::Full => {
                let answered = |wait: &Wait| wait.state != WaitState::Forwarded;
                if started.applied.is_empty()
                    && started.waiting.values().all(|w| w.state == WaitState::Full)
                {
                    return self.end_write(op, Err(Error::bare(ErrorCode::NoSpace)), h);
                }
                if started.waiting.values().all(answered) {
                    // Others have it: this server cannot follow.
                    started.local = match started.applied.is_empty() {
                        true => Local::Failed,
                        false => Local::Behind { retry_at },
                    };
                    self.suspect_self(group, "its disk is full".into());
                }
            }
            Local::Rotten => {
                if let Some(source) = started.applied.first() {
                    let version = started.forward.version;
                    self.pull(key, group, epoch, *source, Some(version), h);
                    started.local = Local::Writing;
                } else if started.waiting.is_empty() {
                    // Nobody has it, so nothing of it is left.
                    return self.end_write(op, Err(Error::bare(ErrorCode::Rotten)), h);
                } else if started
                    .waiting
                    .values()
                    .all(|w| w.state == WaitState::Repair)
                {
                    // A cut passed over the damaged copy here and changed all the others. Nobody
                    // has the write, so each would wait for the other's copy: this one is
                    // replaced first, and the write is repeated.
                    self.end_write(op, Err(Error::bare(ErrorCode::GroupUnavailable)), h);
                    let rotten = Error::bare(ErrorCode::Rotten);
                    return self.found_rotten(key, group, &rotten, h);
                }
            }
            Local::Done => {
                let most = started.applied.len() + 1 > started.waiting.len();
                if started.waiting.is_empty()
                    || self.planted.acks_before_backups()
                    || (most && self.planted.acks_by_majority())
                {
                    let written = ChunkWritten {
                        version: started.forward.version,
                        epoch,
                    };
                    return self.end_write(op, Ok(written), h);
                }
                for wait in started.waiting.values_mut() {
                    if wait.state == WaitState::Repair {
                        wait.state = WaitState::Repairing;
                        repairs.push(wait.run);
                    } else if wait.state == WaitState::Full {
                        wait.state = WaitState::Failed { retry_at };
                        full.push(wait.run);
                    }
                }
            }
            Local::Writing | Local::Behind { .. } | Local::Failed => {}
        }
        self.put_back(key, Op::Write(op));
        for run in full {
            self.suspect(group, run, "its disk is full".into());
        }
        for run in repairs {
            self.push(key, group, epoch, run, h);
        }
    }

    /// A copy that a write needed has been made, or not.
    pub(super) fn write_repaired(
        &mut self,
        mut op: WriteOp,
        peer: ServerRun,
        pulled: bool,
        result: Result<(), Error>,
        h: &dyn Holdings,
    ) {
        let group = op.request.group;
        let retry_at = self.now + RETRY_AFTER;
        if let Some(started) = op.started.as_mut() {
            match (pulled, result) {
                (true, Ok(())) => started.local = Local::Done,
                (true, Err(error)) => {
                    started.local = Local::Behind { retry_at };
                    self.suspect_self(group, format!("replacing the copy here: {error}"));
                }
                (false, Ok(())) => {
                    started.waiting.remove(&peer.server);
                    started.applied.push(peer);
                }
                (false, Err(error)) => {
                    if let Some(wait) = started.waiting.get_mut(&peer.server) {
                        wait.state = WaitState::Failed { retry_at };
                    }
                    // One that has made a cut which is still before this server is well.
                    if error.code != ErrorCode::StaleGeneration {
                        self.suspect(group, peer, format!("repairing a chunk: {error}"));
                    }
                }
            }
        }
        self.go_on(op, h);
    }

    fn end_write(&mut self, op: WriteOp, result: Result<ChunkWritten, Error>, h: &dyn Holdings) {
        let (key, group) = (op.request.key, op.request.group);
        if let (Some(started), Some(g)) = (&op.started, self.groups.get_mut(&group)) {
            g.outstanding.remove(&started.forward.version.counter);
            let committed = g.committed();
            g.marks.committed(started.forward.epoch, committed);
        }
        for caller in &op.callers {
            let result = result.clone().map(Response::Written);
            self.answer(*caller, result, Payload::default());
        }
        self.release(key, &Op::Write(op), h);
    }

    /// Copies that could not be replaced are tried again.
    pub(super) fn retry_copies(&mut self, h: &dyn Holdings) {
        let now = self.now;
        let due = |lane: &Lane| match &lane.current {
            Some(Op::Write(op)) => op.started.as_ref().is_some_and(
                |started| matches!(started.local, Local::Behind { retry_at } if retry_at <= now),
            ),
            _ => false,
        };
        let lanes = self.lanes.iter().filter(|(_, lane)| due(lane));
        for key in lanes.map(|(key, _)| *key).collect::<Vec<_>>() {
            if let Some(Op::Write(mut op)) = self.current(key) {
                if let Some(started) = op.started.as_mut() {
                    started.local = Local::Rotten;
                }
                self.go_on(op, h);
            }
        }
    }

    /// In-doubt writes are offered again: the member may only have lost its connection.
    pub(super) fn retry_forwards(&mut self) {
        let now = self.now;
        let mut again = Vec::new();
        for lane in self.lanes.values_mut() {
            let Some(Op::Write(op)) = &mut lane.current else {
                continue;
            };
            let Some(started) = &mut op.started else {
                continue;
            };
            for wait in started.waiting.values_mut() {
                if matches!(wait.state, WaitState::Failed { retry_at } if retry_at <= now) {
                    wait.state = WaitState::Forwarded;
                    again.push((wait.run, started.forward.clone(), op.payload.clone()));
                }
            }
        }
        for (run, forward, payload) in again {
            self.forward(run, &forward, &payload);
        }
    }

    /// Tells members how far their groups are, where no forwarded write does.
    pub(super) fn tell_committed(&mut self) {
        let (me, now) = (self.me, self.now);
        let mut notices: BTreeMap<ServerRun, Vec<_>> = BTreeMap::new();
        for (id, g) in &mut self.groups {
            let committed = g.committed();
            if g.role != Role::Primary || g.told >= committed || now < g.told_at + RETRY_AFTER {
                continue;
            }
            g.told = committed;
            g.told_at = now;
            let joining = g.joins.values().filter(|j| j.in_set()).map(|j| j.run);
            for run in g.others(me).into_iter().chain(joining) {
                let list = notices.entry(run).or_default();
                list.push((*id, g.config.epoch, committed));
            }
        }
        for (run, groups) in notices {
            let request = Request::Committed(Committed { groups });
            self.send(run, request, Payload::default(), SendFor::Nobody);
        }
    }
}

/// The member is well, but its copy is not what the write can be applied to.
pub(super) fn does_not_fit(error: &Error) -> bool {
    matches!(
        error.code,
        ErrorCode::WrongPredecessor | ErrorCode::Fenced | ErrorCode::Rotten
    )
}
