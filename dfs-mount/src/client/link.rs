//! The link to the directory: one connection to its leader, the session, heartbeats. Runs as one task on the names runtime, for the life of the mount.

use super::callbacks::Callbacks;
use super::clock;
use super::core::Core;
use super::patience::Patience;
use super::session::Session;
use dfs_proto::elsewhere::leader_elsewhere;
use dfs_proto::error::{Error, ErrorCode, Result};
use dfs_proto::ids::ClusterId;
use dfs_proto::msg::session::{Heartbeat, HeartbeatAck, OpenSession};
use dfs_proto::payload::Payload;
use dfs_proto::timing::{DIAL_DEADLINE, REQUEST_DEADLINE, SESSION_HEARTBEAT};
use dfs_proto::transport::{Connection, Identity, Role, connect};
use dfs_proto::whereabouts::Whereabouts;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::watch;

/// A heartbeat without an answer for this long: another member may lead by now. If not, only the
/// connection is made anew.
const HEARTBEAT_DEADLINE: Duration = SESSION_HEARTBEAT.saturating_mul(2);

/// A heartbeat without an answer for this long: the other members are asked whether one of them leads
/// by now, again and again until the answer comes or is given up.
const SUSPICIOUS: Duration = Duration::from_millis(600);
const ASK_AGAIN: Duration = Duration::from_millis(150);

/// Between two questions while members answer but none of them leads.
const ELECTION_PAUSE: Duration = Duration::from_millis(40);

/// The state of the link.
#[derive(Clone, Debug)]
pub(super) enum LinkState {
    /// No leader is known, or it is being told what this mount holds.
    Connecting,
    Up(Arc<Up>),
    /// Refused in words before there was a session: it will not mend by itself.
    Refused(Error),
    /// The mount is going away.
    Ended,
}

/// A working link.
#[derive(Debug)]
pub(super) struct Up {
    pub(super) connection: Connection,
    pub(super) session: Arc<Session>,
    /// The leader's life; answers of another one grant nothing.
    pub(super) leader_life: u64,
}

/// Whom to try next, and what was learnt on the way.
struct Dialer {
    directory: Whereabouts,
    cluster: Option<ClusterId>,
    sessions: u64,
}

/// Keeps the link until the mount stops.
pub(super) async fn run(core: Arc<Core>) {
    let Some(directory) = Whereabouts::new(core.options.directories.clone()) else {
        let error = Error::new(ErrorCode::InvalidArgument, "no directory is named");
        core.link.send_replace(LinkState::Refused(error));
        return;
    };
    let mut dialer = Dialer {
        directory,
        cluster: None,
        sessions: 0,
    };
    let mut session: Option<Arc<Session>> = None;
    let mut stopping = core.stopping.subscribe();
    let mut patience = Patience::new("the connection to the directory");
    loop {
        core.link.send_replace(LinkState::Connecting);
        let address = dialer.directory.present().to_owned();
        let established = tokio::select! {
            established = patience.awaited(
                &address,
                &"no answer yet",
                establish(&core, &mut dialer, &mut session),
            ) => established,
            _ = stopping.wait_for(|stop| *stop) => break,
        };
        match established {
            Ok(up) => {
                let up = Arc::new(up);
                dialer.directory.found();
                core.link.send_replace(LinkState::Up(up.clone()));
                let cause = tokio::select! {
                    cause = beat(&core, &mut dialer, &up) => cause,
                    _ = stopping.wait_for(|stop| *stop) => break,
                };
                patience = Patience::new("the connection to the directory");
                // Whoever is to be asked again is named by the others; a dead one is named by nobody.
                dialer.directory.lost(&cause);
                log::info!("the link to the directory is being renewed: {cause}");
            }
            Err(error) => {
                if error.code == ErrorCode::HandshakeRefused {
                    log::error!("{error}");
                    if session.is_none() {
                        core.link.send_replace(LinkState::Refused(error.clone()));
                    }
                }
                dialer.directory.turn(&error);
                *super::guard::lock(&core.last_failure) = Some(format!("{address}: {error}"));
                tokio::select! {
                    () = between_tries(&mut patience, &address, &error) => {}
                    _ = stopping.wait_for(|stop| *stop) => break,
                }
            }
        }
    }
    core.link.send_replace(LinkState::Ended);
}

/// Members that answer but don't lead are electing: that takes a moment, and its end is worth
/// many questions.
async fn between_tries(patience: &mut Patience, address: &str, error: &Error) {
    if error.code == ErrorCode::NotLeader {
        patience.note(&address, error);
        tokio::time::sleep(ELECTION_PAUSE).await;
    } else {
        patience.pause(&address, error).await;
    }
}

/// Connects, begins or resumes the session, and reclaims if the leader is a new one.
async fn establish(
    core: &Arc<Core>,
    dialer: &mut Dialer,
    session: &mut Option<Arc<Session>>,
) -> Result<Up> {
    let identity = identity(core, dialer);
    let address = dialer.directory.present().to_owned();
    let service = Arc::new(Callbacks::new(core));
    let connection = tokio::time::timeout(DIAL_DEADLINE, connect(&address, identity, service))
        .await
        .unwrap_or_else(|_| Err(Error::bare(ErrorCode::DeadlineExceeded)))?;
    let result = greet(core, dialer, session, &connection).await;
    if let Err(error) = &result {
        connection.close(&error.to_string());
    }
    result
}

fn identity(core: &Core, dialer: &Dialer) -> Arc<Identity> {
    Arc::new(Identity {
        cluster: dialer.cluster,
        node: core.node,
        incarnation: core.incarnation,
        role: Role::Mount,
        secret: core.options.secret.clone(),
    })
}

async fn greet(
    core: &Arc<Core>,
    dialer: &mut Dialer,
    session: &mut Option<Arc<Session>>,
    connection: &Connection,
) -> Result<Up> {
    dialer.cluster = dialer.cluster.or(connection.peer().cluster);
    core.servers.set_cluster(dialer.cluster);
    loop {
        if session.as_ref().is_some_and(|s| s.has_ended()) {
            *session = None;
        }
        let present = match session {
            Some(present) => present.clone(),
            None => {
                let begun = begin_session(core, dialer, connection).await?;
                *session = Some(begun.clone());
                begun
            }
        };
        let ack = match heartbeat(core, connection, &present).await {
            Ok(ack) => ack,
            Err(error) if error.code == ErrorCode::SessionEnded => {
                present.end();
                continue;
            }
            Err(error) => return Err(error),
        };
        if core.leader_life.load(Ordering::SeqCst) != ack.leader_life {
            core.reclaim(connection, &present, ack.leader_life).await?;
        }
        core.reopen_after_lost_session(connection, &present).await?;
        return Ok(Up {
            connection: connection.clone(),
            session: present,
            leader_life: ack.leader_life,
        });
    }
}

/// A new session; what belonged to the last one is lost.
async fn begin_session(
    core: &Arc<Core>,
    dialer: &mut Dialer,
    connection: &Connection,
) -> Result<Arc<Session>> {
    let request = OpenSession {
        incarnation: core.incarnation,
        host: host_name(),
        pid: std::process::id(),
        mount_point: core.options.mount_point.clone(),
    };
    let sent = clock::now();
    let (opened, _) = connection
        .call(&request, Payload::default(), REQUEST_DEADLINE)
        .await?;
    core.clock.measure(sent, opened.clock_ns);
    dialer.directory.learn(&opened.members);
    core.map.install(opened.map);
    dialer.sessions += 1;
    core.session_begins(dialer.sessions, opened.leader_life);
    if dialer.sessions > 1 {
        log::warn!(
            "the mount's session has ended at the directory; {} follows it",
            opened.session
        );
    }
    let session = Arc::new(Session::new(opened.session, dialer.sessions));
    core.session.send_replace(Some(session.clone()));
    Ok(session)
}

fn host_name() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}

/// One heartbeat; an answer renews the right to cache from the moment of its sending.
async fn heartbeat(
    core: &Arc<Core>,
    connection: &Connection,
    session: &Arc<Session>,
) -> Result<HeartbeatAck> {
    let sent = clock::now();
    let request = Heartbeat {
        session: session.id,
        unreachable: core.unreachable(),
    };
    let (ack, _) = connection
        .call(&request, Payload::default(), HEARTBEAT_DEADLINE)
        .await?;
    core.clock.measure(sent, ack.clock_ns);
    if core.leader_life.load(Ordering::SeqCst) == ack.leader_life {
        core.renew_right(sent);
    }
    Ok(ack)
}

/// One heartbeat; if its answer takes long, `NotLeader` as soon as another member leads.
async fn heartbeat_here_or_elsewhere(
    core: &Arc<Core>,
    dialer: &mut Dialer,
    up: &Arc<Up>,
) -> Result<HeartbeatAck> {
    let beat = heartbeat(core, &up.connection, &up.session);
    tokio::pin!(beat);
    if let Ok(answer) = tokio::time::timeout(SUSPICIOUS, &mut beat).await {
        return answer;
    }
    loop {
        let elsewhere = leader_elsewhere(dialer.directory.clone(), identity(core, dialer));
        let found = tokio::select! {
            answer = &mut beat => return answer,
            found = elsewhere => found,
        };
        if let Some(not_leader) = found {
            // Else it comes next while the new leader is not ready.
            dialer.directory.note_silence();
            return Err(not_leader);
        }
        if let Ok(answer) = tokio::time::timeout(ASK_AGAIN, &mut beat).await {
            return answer;
        }
    }
}

/// Heartbeats until the link has to be renewed.
async fn beat(core: &Arc<Core>, dialer: &mut Dialer, up: &Arc<Up>) -> Error {
    let mut ticks = tokio::time::interval(SESSION_HEARTBEAT);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            // Its groups wait for the directory to hear of it.
            () = core.servers.lost.notified() => {}
            () = up.connection.closed() => {
                return Error::new(ErrorCode::Disconnected, "the connection has ended");
            }
        }
        match heartbeat_here_or_elsewhere(core, dialer, up).await {
            Ok(ack) => {
                dialer.directory.learn(&ack.members);
                if ack.leader_life != up.leader_life {
                    up.connection.close("the leader has changed");
                    return Error::new(ErrorCode::NotLeader, "the leader has changed");
                }
                if ack.map_version > core.map.version() {
                    let core = core.clone();
                    tokio::spawn(async move { core.refresh_map(ack.map_version).await });
                }
            }
            Err(error) => {
                if error.code == ErrorCode::SessionEnded {
                    up.session.end();
                }
                up.connection.close("the heartbeat failed");
                return error;
            }
        }
    }
}

impl Core {
    /// A working link, waiting for it.
    pub(super) async fn up(&self) -> Result<Arc<Up>> {
        let mut watching = self.link.subscribe();
        loop {
            match &*watching.borrow_and_update() {
                LinkState::Up(up) if !up.connection.is_closed() => return Ok(up.clone()),
                LinkState::Refused(error) => return Err(error.clone()),
                LinkState::Ended => {
                    return Err(Error::new(ErrorCode::ShuttingDown, "the mount has ended"));
                }
                _ => {}
            }
            wait_change(&mut watching).await?;
        }
    }

    /// The present session, whether or not the link is up.
    pub(super) async fn session(&self) -> Result<Arc<Session>> {
        if let Some(session) = &*self.session.borrow() {
            return Ok(session.clone());
        }
        Ok(self.up().await?.session.clone())
    }

    /// Waits until another session has taken the place of one that has ended.
    pub(super) async fn session_after(&self, ended: &Session) -> Result<()> {
        let mut sessions = self.session.subscribe();
        let mut stopping = self.stopping.subscribe();
        tokio::select! {
            _ = sessions.wait_for(|s| s.as_ref().is_some_and(|s| s.life > ended.life)) => Ok(()),
            _ = stopping.wait_for(|stop| *stop) => {
                Err(Error::new(ErrorCode::ShuttingDown, "the mount has ended"))
            }
        }
    }
}

async fn wait_change(watching: &mut watch::Receiver<LinkState>) -> Result<()> {
    watching
        .changed()
        .await
        .map_err(|_| Error::new(ErrorCode::ShuttingDown, "the mount has ended"))
}
