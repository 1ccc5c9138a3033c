//! Files: made at the beginning; their sizes and generations are the namespace's. A grant tells
//! of a generation only when its cut is made, as in the product.

use super::Directory;
use super::placement::Waiting;
use crate::sim::message::{Answer, Told};
use crate::sim::schedule::{Schedule, error};
use dfs_directory::lease::Token;
use dfs_directory::lease::table::{Granted, Wanted};
use dfs_directory::namespace::{Changed, Intent, NamespaceCommand, NamespaceOutcome, read};
use dfs_directory::session::{SessionChanged, SessionCommand};
use dfs_directory::state::{self, Outcome};
use dfs_proto::attr::{FileAttr, FileKind, SizeTimes};
use dfs_proto::error::{Error, ErrorCode};
use dfs_proto::ids::{Generation, GrantId, Incarnation, InodeId, ROOT, Sequence, SessionId};
use dfs_proto::msg::namespace::{Creator, Mutation};
use dfs_proto::msg::session::{LeaseKind, Stamp};
use dfs_proto::name::FileName;
use std::collections::BTreeMap;

/// Files of the simulation.
pub(crate) const FILES: usize = 2;

/// What waits for a cut.
#[derive(Clone, Copy, Debug)]
enum ForCut {
    Grant {
        call: u64,
        session: SessionId,
        inode: InodeId,
        granted: Granted,
    },
    Size {
        call: u64,
        token: Token,
        inode: InodeId,
    },
}

/// A change of a size that waits for leases to be out of its way.
#[derive(Clone, Copy, Debug)]
struct Sizing {
    call: u64,
    stamp: Stamp,
    size: u64,
}

#[derive(Debug, Default)]
pub(super) struct Files {
    waiting: BTreeMap<u64, ForCut>,
    numbers: u64,
    sizing: BTreeMap<Token, Sizing>,
}

impl Directory {
    /// The files, made by a session that says goodbye.
    pub(super) fn make_files(&mut self, s: &mut Schedule) {
        let open = SessionCommand::Open {
            incarnation: Incarnation(1),
            host: String::new(),
            pid: 1,
            mount_point: String::new(),
        };
        let opened = self.commit_session(s, open).map(|outcome| outcome.0);
        let Some(Ok(SessionChanged::Opened { session, .. })) = opened else {
            return s.violate("no session to make files".into());
        };
        for number in 1..=FILES as u64 {
            let stamp = Stamp {
                session,
                sequence: Sequence(number),
                lowest_unanswered: Sequence(number),
            };
            let Ok(name) = FileName::new(number.to_string().as_bytes()) else {
                continue;
            };
            let mutation = Mutation::MakeNode {
                parent: ROOT,
                name,
                kind: FileKind::Regular,
                mode: 0o644,
                device: 0,
                creator: Creator {
                    uid: 0,
                    gid: 0,
                    umask: 0,
                },
            };
            match self.change_files(s, NamespaceCommand::Mutate { stamp, mutation }) {
                Ok(Changed {
                    attr: Some(attr), ..
                }) => s.files.push((attr.inode, attr.layout)),
                other => s.violate(format!("a file was not made: {other:?}")),
            }
        }
        self.commit_session(s, SessionCommand::BeginEnd { session });
        self.commit_session(s, SessionCommand::FinishEnd { session });
    }

    pub(super) fn change_files(
        &mut self,
        s: &mut Schedule,
        command: NamespaceCommand,
    ) -> Result<Changed, Error> {
        match self.commit(s, state::Change::Namespace(command)) {
            Some(Outcome::Namespace(NamespaceOutcome(result))) => result.map_err(Error::from),
            _ => Err(error(ErrorCode::Internal)),
        }
    }

    pub(super) fn attr(&self, s: &mut Schedule, inode: InodeId) -> Result<FileAttr, Error> {
        match read::attr(&self.tables, inode) {
            Ok(attr) => attr.map_err(Error::from),
            Err(failed) => {
                s.violate(format!("the state cannot be read: {failed}"));
                Err(error(ErrorCode::Internal))
            }
        }
    }

    pub(super) fn intents(&self, inode: InodeId) -> Vec<Intent> {
        read::intents_of(&self.tables, inode).unwrap_or_default()
    }

    /// Inodes with a cut under way are told to the checks.
    pub(super) fn note_intents(&mut self, s: &mut Schedule) {
        let inodes: Vec<InodeId> = s.files.iter().map(|(inode, _)| *inode).collect();
        for inode in &inodes {
            if let Some(last) = self.intents(*inode).last() {
                s.invariants.cuts.insert(*inode, last.generation);
            }
        }
        s.invariants.cutting = inodes
            .into_iter()
            .filter(|inode| !self.intents(*inode).is_empty())
            .collect();
    }

    fn wait(&mut self, s: &mut Schedule, inode: InodeId, generation: Generation, what: ForCut) {
        self.files.numbers += 1;
        let number = self.files.numbers;
        self.files.waiting.insert(number, what);
        self.wait_for_cut(s, inode, generation, Waiting::Cut(number));
    }

    /// Answers a grant, when the generation that it tells of is cut everywhere.
    pub(super) fn answer_grant(
        &mut self,
        s: &mut Schedule,
        call: u64,
        session: SessionId,
        inode: InodeId,
        granted: Granted,
    ) {
        if let Some(last) = self.intents(inode).last() {
            let generation = last.generation;
            let what = ForCut::Grant {
                call,
                session,
                inode,
                granted,
            };
            return self.wait(s, inode, generation, what);
        }
        self.grant_is_ready(s, call, session, inode, granted);
    }

    fn grant_is_ready(
        &mut self,
        s: &mut Schedule,
        call: u64,
        session: SessionId,
        inode: InodeId,
        granted: Granted,
    ) {
        let present = self.sessions.table.holds(session, inode, granted.grant);
        let answer = match self.attr(s, inode) {
            _ if present.is_none() => Err(error(ErrorCode::StaleGrant)),
            Ok(attr) => Ok(Told::Granted {
                grant: granted.grant,
                kind: granted.kind,
                map_version: self.map.version,
                attr,
            }),
            Err(e) => Err(e),
        };
        s.trace(|| format!("directory: {session} gets {inode} {granted:?}"));
        s.answer(self.process, call, answer);
        self.delivered(s, session, inode, granted.grant);
    }

    pub(super) fn cut_is_made(&mut self, s: &mut Schedule, number: u64) {
        match self.files.waiting.remove(&number) {
            Some(ForCut::Grant {
                call,
                session,
                inode,
                granted,
            }) => self.answer_grant(s, call, session, inode, granted),
            Some(ForCut::Size { call, token, inode }) => {
                let answer = self.attr(s, inode).map(Told::Attr);
                s.answer(self.process, call, answer);
                self.finish(s, token);
            }
            None => {}
        }
    }

    /// An intent has been carried out.
    pub(super) fn cut_ended(&mut self, s: &mut Schedule, inode: InodeId, done: NamespaceCommand) {
        let first = self.intents(inode).first().copied();
        self.ended_cuts.extend(first);
        if let Err(e) = self.change_files(s, done) {
            s.violate(format!("the end of a cut was not logged: {e}"));
        }
        self.note_intents(s);
    }

    /// Truncates or extends on behalf of the holder of the exclusive lease.
    pub(super) fn set_size(
        &mut self,
        s: &mut Schedule,
        call: u64,
        stamp: Stamp,
        inode: InodeId,
        size: u64,
    ) {
        if !self.sessions.is_alive(stamp.session) {
            let answer = Err(error(ErrorCode::SessionEnded));
            return s.answer(self.process, call, answer);
        }
        let token = self.sessions.token();
        self.files
            .sizing
            .insert(token, Sizing { call, stamp, size });
        self.want(s, token, stamp.session, inode, Wanted::Operation);
    }

    /// No other session's lease is in the way of a change.
    pub(super) fn operates(&mut self, s: &mut Schedule, token: Token, inode: InodeId) {
        let Some(Sizing { call, stamp, size }) = self.files.sizing.remove(&token) else {
            return;
        };
        let mutation = Mutation::SetSize {
            inode,
            size,
            modified: true,
        };
        let changed = self.change_files(s, NamespaceCommand::Mutate { stamp, mutation });
        self.note_intents(s);
        s.trace(|| format!("directory: {stamp:?} sets {inode} to {size}: {changed:?}"));
        let answer: Answer = match changed {
            Ok(Changed {
                cut: Some(generation),
                ..
            }) => {
                self.intents_logged(s);
                let what = ForCut::Size { call, token, inode };
                return self.wait(s, inode, generation, what);
            }
            Ok(changed) => changed
                .attr
                .map(Told::Attr)
                .ok_or_else(|| error(ErrorCode::Stale)),
            Err(e) => Err(e),
        };
        s.answer(self.process, call, answer);
        self.finish(s, token);
    }

    /// A change went away with its session.
    pub(super) fn operation_dropped(&mut self, s: &mut Schedule, token: Token) {
        if let Some(sizing) = self.files.sizing.remove(&token) {
            let answer = Err(error(ErrorCode::SessionEnded));
            s.answer(self.process, sizing.call, answer);
        }
    }

    pub(super) fn pushed(
        &mut self,
        s: &mut Schedule,
        stamp: Stamp,
        inode: InodeId,
        grant: GrantId,
        push: SizeTimes,
    ) -> Answer {
        let session = stamp.session;
        if !self.sessions.is_alive(session) {
            return Err(error(ErrorCode::SessionEnded));
        }
        if self.sessions.table.holds(session, inode, grant) != Some(LeaseKind::Exclusive) {
            return Err(error(ErrorCode::StaleGrant));
        }
        let changed = self.change_files(s, NamespaceCommand::Push { stamp, inode, push })?;
        changed
            .attr
            .map(Told::Attr)
            .ok_or_else(|| error(ErrorCode::Stale))
    }
}
