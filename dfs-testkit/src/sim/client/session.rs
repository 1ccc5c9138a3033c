//! The mount's side of its session: signs of life, leases and recalls, the map.

use super::{Asking, Client, Grant, Recall};
use crate::sim::directory::CACHE_RIGHT;
use crate::sim::message::{Answer, Ask, Node, Then, Timer, Told};
use crate::sim::schedule::Schedule;
use dfs_mount::client::authority::Authority;
use dfs_mount::client::lease::{Held, RecallFound};
use dfs_proto::cluster::ClusterMap;
use dfs_proto::error::ErrorCode;
use dfs_proto::ids::SessionId;
use dfs_proto::msg::session::LeaseKind;
use std::rc::Rc;
use std::time::Duration;

const BEAT: Duration = Duration::from_millis(100);

const DEADLINE: Duration = Duration::from_millis(300);

/// A lease wait is asked for anew after this.
const LEASE_DEADLINE: Duration = Duration::from_millis(800);

/// A recalled grant that was never seen is looked for so many times.
const LOOKS: u32 = 3;

impl Client {
    pub(super) fn beat(&mut self, s: &mut Schedule) {
        let (Some(process), Some(directory)) = (self.process, s.process(Node::Directory)) else {
            return;
        };
        s.own_timer(process, BEAT, Timer::Beat);
        let sent = self.now(s);
        match self.session {
            Some(session) => {
                let then = Then::Beaten { session, sent };
                s.call(process, directory, Ask::Beat(session), DEADLINE, then);
            }
            None if self.opening.is_none() => {
                self.opening = Some(sent);
                let ask = Ask::OpenSession(s.incarnation(process));
                s.call(process, directory, ask, DEADLINE, Then::Opened);
            }
            None => {}
        }
    }

    pub(super) fn opened(&mut self, s: &mut Schedule, answer: Answer) {
        let Some(sent) = self.opening.take() else {
            return;
        };
        if let Ok(Told::Session(session, map)) = answer {
            s.trace(|| format!("client {} has {session}", self.place));
            self.session = Some(session);
            self.right = sent + CACHE_RIGHT;
            self.install(s, map);
        }
    }

    pub(super) fn beaten(
        &mut self,
        s: &mut Schedule,
        session: SessionId,
        sent: Duration,
        answer: &Answer,
    ) {
        if self.session != Some(session) {
            return;
        }
        match answer {
            Ok(_) => {
                // Rights that have lapsed stay lost.
                self.drop_lapsed(self.now(s));
                self.right = self.right.max(sent + CACHE_RIGHT);
            }
            Err(e) if e.code == ErrorCode::SessionEnded => self.lose_session(s),
            Err(_) => {}
        }
    }

    /// Shared leases are gone when the directory has not answered for too long.
    pub(super) fn drop_lapsed(&mut self, now: Duration) {
        if now < self.right {
            return;
        }
        self.lapses += 1;
        for file in &mut self.files {
            file.lease.lose_shared();
            file.forget_lost();
        }
    }

    pub(super) fn install(&mut self, s: &mut Schedule, map: Rc<ClusterMap>) {
        if map.version > self.map.version || self.map.groups.is_empty() {
            self.map = map;
            self.leave_epochs(s);
            for file in 0..self.files.len() {
                self.take_grant(s, file);
            }
        }
    }

    pub(super) fn refresh_map(&mut self, s: &mut Schedule) {
        let (Some(process), Some(directory)) = (self.process, s.process(Node::Directory)) else {
            return;
        };
        if !std::mem::replace(&mut self.mapping, true) {
            s.call(process, directory, Ask::Map, DEADLINE, Then::Mapped);
        }
    }

    pub(super) fn ask_lease(&mut self, s: &mut Schedule, file: usize, ask: u64, kind: LeaseKind) {
        let (Some(process), Some(session)) = (self.process, self.session) else {
            return;
        };
        let Some(directory) = s.process(Node::Directory) else {
            return;
        };
        self.files[file].asking = Some(Asking { ask, kind });
        let request = Ask::Lease {
            session,
            inode: s.files[file].0,
            kind,
        };
        let then = Then::Leased {
            session,
            inode: file,
            ask,
            lapses: self.lapses,
        };
        s.call(process, directory, request, LEASE_DEADLINE, then);
    }

    pub(super) fn leased(
        &mut self,
        s: &mut Schedule,
        session: SessionId,
        file: usize,
        ask: u64,
        lapses: u64,
        answer: Answer,
    ) {
        if self.session != Some(session) {
            return;
        }
        match answer {
            Ok(Told::Granted {
                grant,
                kind,
                map_version,
                attr,
            }) => {
                let held = Held { grant, kind };
                self.files[file].granted = Some(Grant {
                    held,
                    map: map_version,
                    ask,
                    lapses,
                    attr,
                });
                self.take_grant(s, file);
            }
            Err(e) if e.code == ErrorCode::SessionEnded => self.lose_session(s),
            _ => self.ask_again(s, file, ask),
        }
    }

    /// Takes a grant once the map is as new as the granter's: requests under it use that map.
    fn take_grant(&mut self, s: &mut Schedule, file: usize) {
        let Some(grant) = self.files[file].granted else {
            return;
        };
        if self.map.version < grant.map {
            return self.refresh_map(s);
        }
        self.drop_lapsed(self.now(s));
        let state = &mut self.files[file];
        state.granted = None;
        let present = grant.lapses == self.lapses;
        let before = state.lease.held();
        if present && state.lease.granted(grant.held) {
            match (&mut state.data, before) {
                // Nobody else can have changed the data in between.
                (Some(data), Some(_)) => data.learn(&grant.attr),
                (data, _) => *data = Some(Authority::new(grant.attr)),
            }
            state.generation = state.generation.max(grant.attr.generation);
            state.lease.ask_ended(grant.ask);
            state.asking = None;
        } else {
            self.ask_again(s, file, grant.ask);
        }
    }

    fn ask_again(&mut self, s: &mut Schedule, file: usize, ask: u64) {
        let asking = self.files[file].asking.filter(|asking| asking.ask == ask);
        if let Some(asking) = asking {
            self.ask_lease(s, file, ask, asking.kind);
        }
    }

    /// A grant waits for its map, and the map got lost: ask again for it.
    pub(super) fn nudge(&mut self, s: &mut Schedule, file: usize) {
        self.take_grant(s, file);
    }

    pub(super) fn recalled(&mut self, s: &mut Schedule, file: usize, recall: Recall) {
        self.drop_lapsed(self.now(s));
        self.files[file].recalls.push(recall);
        self.look_at_recalls(s, file);
    }

    /// Gives back what is recalled and what nobody uses any more.
    pub(super) fn look_at_recalls(&mut self, s: &mut Schedule, file: usize) {
        let Some(process) = self.process else { return };
        // What is unpushed goes first.
        let recalls = std::mem::take(&mut self.files[file].recalls);
        for mut recall in recalls {
            let state = &mut self.files[file];
            let known = state.lease.recalling() == Some(recall.grant);
            let mut found = match known {
                true => RecallFound::InProgress,
                false => state.lease.recall(recall.grant, recall.keep),
            };
            if found == RecallFound::NotYet {
                // A grant that is still on its way: wait a moment for it.
                recall.tries += 1;
                if recall.tries > LOOKS {
                    found = state.lease.refuse(recall.grant, recall.keep);
                }
            }
            let over = match found {
                RecallFound::NotHeld => true,
                RecallFound::Begin | RecallFound::InProgress => {
                    let drained = state.lease.is_drained() && self.push(s, file);
                    let state = &mut self.files[file];
                    let over = drained && state.lease.flip();
                    state.forget_lost();
                    over
                }
                RecallFound::NotYet => false,
            };
            if over {
                let grant = recall.grant;
                s.trace(|| format!("client {} gives {grant:?} back", self.place));
                s.answer(process, recall.call, Ok(Told::Done));
            } else {
                self.files[file].recalls.push(recall);
            }
        }
        if !self.files[file].recalls.is_empty() {
            s.timer(process, Duration::from_millis(2), Timer::Recall(file));
        }
    }
}
