//! The connection to the directory: registration, heartbeats, reports.
//!
//! Made by this server, to whichever of the given addresses leads; the directory's own requests
//! come back over it. When it breaks it is made again at once, then with growing pauses.

use super::driver::Driver;
use super::facing::Facing;
use dfs_proto::error::{Error, ErrorCode, Retry};
use dfs_proto::ids::{Epoch, GroupId, ServerId, ServerRun};
use dfs_proto::msg::registry::{
    ProposeInSync, RegisterServer, ReportSuspect, ServerHeartbeat, Space,
};
use dfs_proto::payload::Payload;
use dfs_proto::timing::{RETRY_DELAY_MAX, RETRY_DELAY_MIN, SERVER_HEARTBEAT, SERVER_SILENT};
use dfs_proto::transport::{Connection, Identity, Role, connect};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// A registration is a logged command: it may take an election.
const REGISTER_DEADLINE: Duration = Duration::from_secs(5);

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
}

/// Keeps this run known to the directory.
#[derive(Debug)]
pub struct DirectoryLink {
    pub addresses: Vec<String>,
    pub identity: Arc<Identity>,
    pub driver: Arc<Driver>,
    /// `HOST:PORT` under which others reach this server.
    pub advertise: String,
    /// Nothing that was written before this run is gone.
    pub clean: bool,
    pub notices: mpsc::Receiver<Notice>,
}

/// The directory sees at once that a link has ended, also when its task was dropped.
struct Ends(Connection);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.close("this server registers again, or stops");
    }
}

impl DirectoryLink {
    /// Runs until the task is dropped.
    pub async fn run(mut self) {
        let service = Facing::directory(self.driver.clone());
        let mut delay = RETRY_DELAY_MIN;
        let mut at = 0;
        let mut complained = false;
        loop {
            let address = self.addresses[at % self.addresses.len()].clone();
            let registered = match self.register(&address, service.clone()).await {
                Ok(registered) => registered,
                Err(error) => {
                    if error.retry() == Retry::Never && error.code != ErrorCode::Internal {
                        log::error!("the directory at {address} refuses this server: {error}");
                    } else if !complained {
                        log::warn!("no directory at {address}: {error}; trying again");
                        complained = true;
                    }
                    at += 1;
                    pause(&mut delay).await;
                    continue;
                }
            };
            (delay, complained) = (RETRY_DELAY_MIN, false);
            let (connection, run) = registered;
            let _ends = Ends(connection.clone());
            log::info!("registered as {run} at the directory {address}");
            let error = self.keep(&connection, run).await;
            log::warn!("lost the directory at {address}: {error}");
            // What was to be said is said again by the core, if it still matters.
            while self.notices.try_recv().is_ok() {}
            if error.code == ErrorCode::NotLeader {
                at += 1;
            }
        }
    }

    async fn register(
        &self,
        address: &str,
        service: Arc<Facing>,
    ) -> Result<(Connection, ServerRun), Error> {
        let connection = connect(address, self.identity.clone(), service).await?;
        if connection.peer().role != Role::Directory {
            connection.close("a directory was expected here");
            let text = format!("{address} is not a directory");
            return Err(Error::new(ErrorCode::InvalidArgument, text));
        }
        let request = RegisterServer {
            node: self.identity.node,
            incarnation: self.identity.incarnation,
            address: self.advertise.clone(),
            clean: self.clean,
            epochs: self.driver.epochs(),
            space: self.space(),
        };
        let nothing = Payload::default();
        match connection.call(&request, nothing, REGISTER_DEADLINE).await {
            Ok((registered, _)) => {
                let run = self.run_of(registered.server);
                Ok((connection, run))
            }
            Err(error) => {
                connection.close("not registered");
                Err(error)
            }
        }
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

    /// Heartbeats and reports, until something fails.
    async fn keep(&mut self, connection: &Connection, run: ServerRun) -> Error {
        let mut beats = tokio::time::interval(SERVER_HEARTBEAT);
        beats.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // Answers are awaited beside the next beat: a slow one must not look like silence.
        let mut answers = tokio::task::JoinSet::new();
        loop {
            tokio::select! {
                () = connection.closed() => return Error::bare(ErrorCode::Disconnected),
                _ = beats.tick() => {
                    let beat = ServerHeartbeat { run, space: self.space() };
                    let connection = connection.clone();
                    answers.spawn(async move {
                        let nothing = Payload::default();
                        connection.call(&beat, nothing, SERVER_SILENT * 4).await.map(|_| ())
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
