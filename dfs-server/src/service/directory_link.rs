//! The connection to the directory: registration, heartbeats, reports.
//!
//! Made by this server, to whichever of the given addresses leads; the directory's own requests
//! come back over it. When it breaks it is made again at once, then with growing pauses. A
//! directory that refuses this server for good ends a run that never registered; a later run of
//! it may be let in again, so one that did goes on asking, slowly.

use super::driver::Driver;
use super::facing::Facing;
use crate::pace::Slow;
use crate::scrub::Scrubber;
use dfs_proto::elsewhere::leader_elsewhere;
use dfs_proto::error::{Error, ErrorCode, Retry};
use dfs_proto::ids::{ClusterId, Epoch, GroupId, ServerId, ServerRun};
use dfs_proto::msg::member::ListMembers;
use dfs_proto::msg::registry::{
    DataDirPast, ProposeInSync, RegisterServer, ReportSlow, ReportSuspect, ServerHeartbeat, Space,
};
use dfs_proto::payload::Payload;
use dfs_proto::timing::{
    DIAL_DEADLINE, RETRY_DELAY_MAX, RETRY_DELAY_MIN, SERVER_HEARTBEAT, SERVER_SILENT,
};
use dfs_proto::transport::{Connection, Identity, Role, connect};
use dfs_proto::whereabouts::Whereabouts;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// A registration is a logged command: it may take an election.
const REGISTER_DEADLINE: Duration = Duration::from_secs(5);

/// A directory that has refused this server for good is asked again after this.
const REFUSED_DELAY: Duration = Duration::from_secs(5);

/// A leader that has not answered for so long may have been replaced: the others are asked. (An
/// answer that only takes long breaks nothing: the connection stays until somebody else leads.)
const SUSPICIOUS: Duration = Duration::from_millis(600);

/// The longest pause while members answer but none of them leads.
const ELECTION_DELAY_MAX: Duration = Duration::from_millis(40);

/// How often the directory is asked for its members: they change by hand.
const LOOK_FOR_MEMBERS: Duration = Duration::from_secs(10);

/// What the core has to tell the directory.
#[derive(Clone, Debug)]
pub enum Notice {
    Suspect {
        suspect: ServerRun,
        groups: Vec<(GroupId, Epoch)>,
        reason: String,
    },
    Propose {
        group: GroupId,
        epoch: Epoch,
        joined: ServerRun,
    },
    Slow(Slow),
}

/// Keeps this run known to the directory.
#[derive(Debug)]
pub struct DirectoryLink {
    /// The data dir, for messages.
    pub data: PathBuf,
    pub directory: Whereabouts,
    pub identity: Arc<Identity>,
    pub driver: Arc<Driver>,
    pub scrubber: Arc<Scrubber>,
    /// `HOST:PORT` under which others reach this server.
    pub advertise: String,
    /// What the data dir knows of earlier runs.
    pub past: DataDirPast,
    /// Set when the directory knows this run.
    pub registered: Arc<AtomicBool>,
    pub notices: mpsc::Receiver<Notice>,
}

/// The directory sees at once that a link has ended, also when its task was dropped.
struct Ends(Connection);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0
            .close("this server is not registered here, registers again, or stops");
    }
}

impl DirectoryLink {
    /// Runs until the task is dropped, or every directory refuses a run that never registered:
    /// then it says why.
    pub async fn run(mut self) -> String {
        let service = Facing::directory(self.driver.clone(), self.scrubber.clone());
        let mut delay = RETRY_DELAY_MIN;
        let mut complained = false;
        // Addresses in a row that refused.
        let mut refused = 0;
        loop {
            let address = self.directory.present().to_owned();
            let registered = match self.register(&address, service.clone()).await {
                Ok(registered) => registered,
                Err(error) => {
                    log::debug!("no directory at {address}: {error}");
                    self.directory.turn(&error);
                    if !is_final(&error) {
                        refused = 0;
                        if !complained {
                            log::warn!("no directory at {address}: {error}; trying again");
                            complained = true;
                        }
                        if error.code == ErrorCode::NotLeader {
                            // An election takes a moment; its end is worth many questions.
                            delay = delay.min(ELECTION_DELAY_MAX);
                        }
                        pause(&mut delay).await;
                        continue;
                    }
                    refused += 1;
                    let why = refusal(&self.data, self.identity.cluster, &address, &error);
                    let all = refused >= self.directory.count();
                    if all && !self.registered.load(Ordering::Relaxed) {
                        return why;
                    }
                    if refused <= self.directory.count() {
                        log::error!("{why}");
                    }
                    if all {
                        tokio::time::sleep(REFUSED_DELAY).await;
                    }
                    continue;
                }
            };
            (delay, complained, refused) = (RETRY_DELAY_MIN, false, 0);
            self.directory.found();
            self.registered.store(true, Ordering::Relaxed);
            let (link, run) = registered;
            let connection = link.0.clone();
            log::info!("registered as {run} at the directory {address}");
            let error = self.keep(&connection, run).await;
            log::warn!("lost the directory at {address}: {error}");
            // What was to be said is said again by the core, if it still matters.
            while self.notices.try_recv().is_ok() {}
            self.directory.lost(&error);
        }
    }

    async fn register(
        &self,
        address: &str,
        service: Arc<Facing>,
    ) -> Result<(Ends, ServerRun), Error> {
        let dial = connect(address, self.identity.clone(), service);
        let connection = tokio::time::timeout(DIAL_DEADLINE, dial).await;
        let link = Ends(connection.unwrap_or_else(|_| Err(silent()))?);
        let connection = &link.0;
        if connection.peer().role != Role::Directory {
            let text = format!("{address} is not a directory");
            return Err(Error::new(ErrorCode::InvalidArgument, text));
        }
        let request = RegisterServer {
            node: self.identity.node,
            incarnation: self.identity.incarnation,
            address: self.advertise.clone(),
            past: self.past.clone(),
            epochs: self.driver.epochs(),
            space: self.space(),
        };
        let nothing = Payload::default();
        let answer = connection.call(&request, nothing, REGISTER_DEADLINE).await;
        let run = self.run_of(answer?.0.server);
        Ok((link, run))
    }

    fn run_of(&self, server: ServerId) -> ServerRun {
        ServerRun {
            server,
            incarnation: self.identity.incarnation,
        }
    }

    fn space(&self) -> Space {
        let space = self.driver.store().space();
        Space {
            total_bytes: space.total,
            free_bytes: space.available,
            chunks: space.chunks,
        }
    }

    /// Asks who the members of the directory are now.
    async fn learn(&mut self, connection: &Connection) {
        let nothing = Payload::default();
        // A member that does not answer at once is dealt with by the heartbeats.
        match connection
            .call(&ListMembers, nothing, SERVER_HEARTBEAT)
            .await
        {
            Ok((view, _)) => self.directory.learn(&view.members),
            Err(error) => log::debug!("the members of the directory are not known: {error}"),
        }
    }

    /// Heartbeats and reports, until something fails.
    async fn keep(&mut self, connection: &Connection, run: ServerRun) -> Error {
        let mut beats = tokio::time::interval(SERVER_HEARTBEAT);
        beats.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // Answers are awaited beside the next beat: a slow one must not look like silence.
        let mut answers = tokio::task::JoinSet::new();
        let mut looks = tokio::time::interval(LOOK_FOR_MEMBERS);
        let mut heard = Instant::now();
        let mut elsewhere = tokio::task::JoinSet::new();
        loop {
            tokio::select! {
                _ = looks.tick() => self.learn(connection).await,
                () = connection.closed() => return Error::bare(ErrorCode::Disconnected),
                _ = beats.tick() => {
                    if heard.elapsed() > SUSPICIOUS && elsewhere.is_empty() {
                        let directory = self.directory.clone();
                        elsewhere.spawn(leader_elsewhere(directory, self.identity.clone()));
                    }
                    let repair = self.driver.repair_work();
                    let failure = self.driver.store().failure().unwrap_or_default();
                    let space = self.space();
                    let beat = ServerHeartbeat { run, space, repair, failure };
                    let (connection, driver) = (connection.clone(), self.driver.clone());
                    answers.spawn(async move {
                        let nothing = Payload::default();
                        let answer = connection.call(&beat, nothing, SERVER_SILENT * 4).await;
                        answer.map(|(answer, _)| driver.heard(answer))
                    });
                }
                Some(notice) = self.notices.recv() => {
                    let connection = connection.clone();
                    answers.spawn(async move {
                        if let Err(error) = tell(&connection, run, notice).await {
                            log::debug!("the directory did not take a report: {error}");
                        }
                        Ok(())
                    });
                }
                Some(answer) = answers.join_next(), if !answers.is_empty() => {
                    if let Ok(Err(error)) = answer {
                        return error;
                    }
                    heard = Instant::now();
                }
                Some(found) = elsewhere.join_next(), if !elsewhere.is_empty() => {
                    if let Ok(Some(not_leader)) = found {
                        // Else it comes next while the new leader is not ready.
                        self.directory.note_silence();
                        return not_leader;
                    }
                }
            }
        }
    }
}

async fn tell(connection: &Connection, run: ServerRun, notice: Notice) -> Result<(), Error> {
    let (nothing, deadline) = (Payload::default(), REGISTER_DEADLINE);
    match notice {
        Notice::Suspect {
            suspect,
            groups,
            reason,
        } => {
            log::warn!("{suspect} is suspect in {} groups: {reason}", groups.len());
            let report = ReportSuspect {
                from: run,
                suspect,
                groups,
                reason,
            };
            connection.call(&report, nothing, deadline).await?;
        }
        Notice::Slow(slow) => {
            let millis = |time: Duration| u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
            let report = ReportSlow {
                from: run,
                slow: slow.run.unwrap_or(run),
                mean_millis: millis(slow.mean),
                others_millis: millis(slow.others),
            };
            connection.call(&report, nothing, deadline).await?;
        }
        Notice::Propose {
            group,
            epoch,
            joined,
        } => {
            let propose = ProposeInSync {
                from: run,
                group,
                epoch,
                joined,
            };
            connection.call(&propose, nothing, deadline).await?;
        }
    }
    Ok(())
}

fn silent() -> Error {
    let text = format!("no greeting within {DIAL_DEADLINE:?}");
    Error::new(ErrorCode::DeadlineExceeded, text)
}

/// Whether asking again gives the same answer until somebody changes a configuration.
fn is_final(error: &Error) -> bool {
    error.code == ErrorCode::HandshakeRefused
        || error.retry() == Retry::Never && error.code != ErrorCode::Internal
}

/// What a person has to know when a directory does not let this server in.
pub fn refusal(data: &Path, cluster: Option<ClusterId>, address: &str, error: &Error) -> String {
    let belongs = match cluster {
        Some(cluster) => format!("belongs to cluster {cluster}"),
        None => "belongs to no cluster yet".into(),
    };
    format!(
        "the directory at {address} refuses this server, whose data dir {} {belongs}: {}. \
         Check --directory and --secret-file; a data dir stays with its cluster for good, so to \
         join another one start with an empty dir",
        data.display(),
        match error.message.is_empty() {
            true => error.to_string(),
            false => error.message.clone(),
        }
    )
}

/// Waits, longer each time, with jitter so that many servers do not come at once.
async fn pause(delay: &mut Duration) {
    let mut bytes = [0u8; 2];
    let jitter = match getrandom::fill(&mut bytes) {
        Ok(()) => f64::from(u16::from_le_bytes(bytes)) / 65536.0,
        Err(_) => 0.5,
    };
    tokio::time::sleep(delay.mul_f64(0.5 + jitter)).await;
    *delay = (*delay * 2).min(RETRY_DELAY_MAX);
}
