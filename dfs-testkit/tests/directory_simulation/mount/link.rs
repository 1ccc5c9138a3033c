//! The link to the directory: as `client::link` and `client::reclaim` of the product keep it.

use super::callbacks::Callbacks;
use super::{Mount, Session, State};
use crate::log::MEMBERS;
use crate::world::{Planted, locked};
use dfs_mount::client::lease::Held;
use dfs_mount::client::window::Window;
use dfs_proto::error::{Error, ErrorCode, Result};
use dfs_proto::ids::{InodeId, SessionId};
use dfs_proto::msg::session::{Heartbeat, HeartbeatAck, OpenSession, Reclaim};
use dfs_proto::payload::Payload;
use dfs_proto::timing::{CACHE_RIGHT, REQUEST_DEADLINE, SESSION_HEARTBEAT};
use dfs_proto::transport::Connection;
use std::sync::Arc;
use std::time::Duration;

const HEARTBEAT_DEADLINE: Duration = SESSION_HEARTBEAT.saturating_mul(2);
const DIAL_DEADLINE: Duration = Duration::from_millis(900);

/// A working link.
#[derive(Clone, Debug)]
pub(crate) struct Up {
    pub(crate) connection: Connection,
    pub(crate) session: SessionId,
    pub(crate) session_life: u64,
    pub(crate) leader_life: u64,
}

impl State {
    /// The right to cache has lapsed: shared leases and names are lost.
    pub(super) fn lose_shared(&mut self) {
        self.lapses += 1;
        self.dirs.lose_all();
        for lease in self.leases.values_mut() {
            if lease.state.lose_shared() {
                lease.cached = None;
            }
        }
    }

    fn move_waiters(&mut self) {
        for (_, waiter) in std::mem::take(&mut self.waiters) {
            waiter.moved();
        }
    }
}

impl Mount {
    pub(super) async fn keep_link(self: Arc<Self>) {
        let mut member = self.cluster.world.random(|random| random.index(MEMBERS));
        while self.is_alive() {
            let cause = match self.establish(member).await {
                Ok(up) => {
                    self.state().up = Some(up.clone());
                    self.tell();
                    let cause = self.beat(&up).await;
                    up.connection.close("the link is renewed");
                    self.state().up = None;
                    self.tell();
                    cause
                }
                Err(error) => error,
            };
            let named = (cause.code == ErrorCode::NotLeader && cause.detail > 0)
                .then(|| cause.detail as usize - 1);
            member = match named {
                Some(named) if named != member && named < MEMBERS => named,
                _ => (member + 1) % MEMBERS,
            };
            let pause = match cause.code {
                ErrorCode::NotLeader => 40,
                _ => 100,
            };
            self.cluster.world.sleep(pause / 2, pause).await;
        }
    }

    async fn establish(self: &Arc<Self>, member: usize) -> Result<Up> {
        self.awake().await?;
        let callbacks = Arc::new(Callbacks::new(self));
        let dial = self.cluster.dial(self.number, self.run, member, callbacks);
        let connection = tokio::time::timeout(DIAL_DEADLINE, dial)
            .await
            .unwrap_or_else(|_| Err(ErrorCode::DeadlineExceeded.into()))?;
        let result = self.greet(&connection).await;
        if result.is_err() {
            connection.close("no link came of it");
        }
        result
    }

    async fn greet(&self, connection: &Connection) -> Result<Up> {
        loop {
            self.awake().await?;
            let present = {
                let state = self.state();
                let session = state.session.as_ref().filter(|s| !s.ended);
                session.map(|s| (s.id, s.life))
            };
            let (session, session_life) = match present {
                Some(present) => present,
                None => self.begin_session(connection).await?,
            };
            let ack = match self.heartbeat(connection, session).await {
                Err(error) if error.code == ErrorCode::SessionEnded => {
                    self.session_ended(session, &error);
                    continue;
                }
                ack => ack?,
            };
            if self.state().leader_life != ack.leader_life {
                self.reclaim(connection, session, ack.leader_life).await?;
            }
            return Ok(Up {
                connection: connection.clone(),
                session,
                session_life,
                leader_life: ack.leader_life,
            });
        }
    }

    /// The directory says that the session has ended.
    pub(super) fn session_ended(&self, session: SessionId, why: &Error) {
        let mut state = self.state();
        if let Some(present) = &mut state.session
            && present.id == session
        {
            present.ended = true;
            self.cluster.world.trace(|| {
                format!(
                    "mount {} hears that {session} has ended: {why}",
                    self.number
                )
            });
        }
        drop(state);
        self.tell();
    }

    async fn begin_session(&self, connection: &Connection) -> Result<(SessionId, u64)> {
        let request = OpenSession {
            incarnation: dfs_proto::ids::Incarnation(self.run),
            host: format!("host{}", self.number),
            pid: 1,
            mount_point: "/mnt".into(),
        };
        let (opened, _) = connection
            .call(&request, Payload::default(), REQUEST_DEADLINE)
            .await?;
        self.awake().await?;
        let mut state = self.state();
        let before = state.session.as_ref().map(|s| (s.id, s.life));
        let life = before.map_or(1, |(_, life)| life + 1);
        self.cluster.world.trace(|| {
            format!(
                "mount {} begins {}, life {}",
                self.number, opened.session, opened.leader_life
            )
        });
        // What belonged to the last one is lost.
        state.leader_life = opened.leader_life;
        state.locks_life = opened.leader_life;
        state.move_waiters();
        state.held.lose_all();
        if let Some((before, _)) = before {
            locked(&self.cluster.holds).lost(before);
            state.lose_shared();
            for lease in state.leases.values_mut() {
                lease.state.lose_all();
                lease.cached = None;
            }
        }
        state.session = Some(Session {
            id: opened.session,
            life,
            ended: false,
            window: Window::default(),
            writes: 0,
        });
        drop(state);
        self.tell();
        Ok((opened.session, life))
    }

    /// One heartbeat; an answer renews the right to cache from the moment of its sending.
    async fn heartbeat(&self, connection: &Connection, session: SessionId) -> Result<HeartbeatAck> {
        self.awake().await?;
        let mut sent = self.clock();
        let request = Heartbeat {
            session,
            unreachable: Vec::new(),
        };
        let (ack, _) = connection
            .call(&request, Payload::default(), HEARTBEAT_DEADLINE)
            .await?;
        self.awake().await?;
        if self.cluster.world.planted(Planted::RightFromReply) {
            sent = self.clock();
        }
        let now = self.clock();
        let mut state = self.state();
        if state.leader_life == ack.leader_life {
            if state.right < now {
                state.lose_shared();
            }
            state.right = state.right.max(sent + CACHE_RIGHT);
        }
        drop(state);
        self.tell();
        Ok(ack)
    }

    /// Heartbeats until the link has to be renewed.
    async fn beat(&self, up: &Up) -> Error {
        loop {
            let pause = self.cluster.world.millis(490, 510);
            tokio::select! {
                biased;
                () = up.connection.closed() => return ErrorCode::Disconnected.into(),
                () = tokio::time::sleep(pause) => {}
            }
            match self.heartbeat(&up.connection, up.session).await {
                Ok(ack) if ack.leader_life != up.leader_life => {
                    return ErrorCode::NotLeader.into();
                }
                Ok(_) => {}
                Err(error) => {
                    if error.code == ErrorCode::SessionEnded {
                        self.session_ended(up.session, &error);
                    }
                    return error;
                }
            }
        }
    }

    /// Another leader: shared leases are given up, then everything else is told to it.
    async fn reclaim(
        &self,
        connection: &Connection,
        session: SessionId,
        leader_life: u64,
    ) -> Result<()> {
        let (locks, leases) = {
            let mut state = self.state();
            state.lose_shared();
            // From here on answers of the old leader grant nothing.
            state.leader_life = leader_life;
            state.locks_life = leader_life;
            state.move_waiters();
            let leases = state
                .leases
                .iter()
                .filter(|(_, l)| l.state.holds_exclusive());
            let leases: Vec<InodeId> = leases.map(|(inode, _)| *inode).collect();
            (state.held.all(session), leases)
        };
        self.tell();
        self.cluster.world.trace(|| {
            format!(
                "mount {} tells life {leader_life} of {} locks and {leases:?}",
                self.number,
                locks.len()
            )
        });
        let request = Reclaim {
            session,
            leader_life,
            opens: Vec::new(),
            leases: leases.clone(),
            locks,
            last: true,
        };
        let answer = connection
            .call(&request, Payload::default(), REQUEST_DEADLINE)
            .await;
        self.awake().await?;
        let (answer, _) = match answer {
            Ok(answer) => answer,
            Err(error) => {
                // Told again from the start, under the same life or the next one.
                self.state().leader_life = 0;
                if error.code == ErrorCode::SessionEnded {
                    self.session_ended(session, &error);
                }
                return Err(error);
            }
        };
        let mut state = self.state();
        for (inode, grant) in leases.into_iter().zip(answer.leases) {
            let lease = state.leases.entry(inode).or_default();
            let held = grant.map(|grant| Held {
                grant: grant.grant,
                kind: grant.kind,
            });
            let kept = match held {
                Some(held) if !lease.state.holds_exclusive() => lease.state.granted(held),
                held => lease.state.reclaimed(held),
            };
            if !kept {
                lease.cached = None;
            }
        }
        drop(state);
        self.tell();
        Ok(())
    }

    /// What remains of the right to cache.
    pub(super) fn has_right(&self, state: &State) -> bool {
        self.clock() < state.right
    }
}
