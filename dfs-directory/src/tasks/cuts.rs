//! Runs the cuts (`crate::governor::cuts`) while this member leads.

use super::events::{Event, ends_reign, stopping};
use super::handle::CutWait;
use super::view::{View, now};
use crate::governor::cuts::{CutAction, CutEvent, Cuts};
use crate::governor::{self, Ticket};
use crate::raft::RaftHandle;
use crate::state::Change;
use dfs_proto::error::{Error, ErrorCode, Result};
use dfs_proto::payload::Payload;
use dfs_proto::timing::REQUEST_DEADLINE;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinSet;

/// Nothing is to be done again: the next event is waited for.
const IDLE: Duration = Duration::from_secs(3600);

struct Driver {
    raft: RaftHandle,
    events: mpsc::Sender<Event>,
    core: Cuts,
    waits: BTreeMap<Ticket, oneshot::Sender<Result<()>>>,
    tickets: u64,
    work: JoinSet<Result<CutEvent>>,
}

/// Works while this member leads.
pub(super) async fn run(
    raft: RaftHandle,
    waits: &mut mpsc::Receiver<CutWait>,
    notify: Arc<Notify>,
    mut view: watch::Receiver<Arc<View>>,
    events: mpsc::Sender<Event>,
) -> Error {
    let mut driver = Driver {
        raft,
        events,
        core: Cuts::default(),
        waits: BTreeMap::new(),
        tickets: 0,
        work: JoinSet::new(),
    };
    loop {
        let present = view.borrow_and_update().clone();
        driver.step(&present);
        let wake = driver.core.wake_at(now());
        let pause = wake.map_or(IDLE, |at| at.saturating_sub(now()));
        tokio::select! {
            wait = waits.recv() => match wait {
                Some(wait) => driver.wait(wait),
                None => return stopping(),
            },
            () = notify.notified() => driver.take(CutEvent::Logged),
            Some(came) = driver.work.join_next(), if !driver.work.is_empty() => {
                if let Err(e) = driver.came(came) {
                    return e;
                }
            }
            changed = view.changed() => if changed.is_err() {
                return stopping();
            },
            () = tokio::time::sleep(pause) => {}
        }
        // What came meanwhile is looked at in the same read.
        while let Ok(wait) = waits.try_recv() {
            driver.wait(wait);
        }
        while let Some(came) = driver.work.try_join_next() {
            if let Err(e) = driver.came(came) {
                return e;
            }
        }
    }
}

impl Driver {
    fn wait(&mut self, wait: CutWait) {
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        self.waits.insert(ticket, wait.done);
        self.take(CutEvent::Wait {
            inode: wait.inode,
            generation: wait.generation,
            ticket,
        });
    }

    fn came(&mut self, came: Result<Result<CutEvent>, tokio::task::JoinError>) -> Result<()> {
        let event = came.map_err(|e| {
            Error::new(
                ErrorCode::Internal,
                format!("a part of the work of cuts was lost: {e}"),
            )
        })??;
        self.take(event);
        Ok(())
    }

    fn take(&mut self, event: CutEvent) {
        // The only actions here are answers.
        for action in self.core.take(now(), event) {
            if let CutAction::Done(ticket) = action {
                self.done(ticket);
            }
        }
    }

    fn done(&mut self, ticket: Ticket) {
        if let Some(done) = self.waits.remove(&ticket) {
            let _ = done.send(Ok(()));
        }
    }

    fn step(&mut self, view: &View) {
        let given_up: BTreeSet<Ticket> = self
            .waits
            .iter()
            .filter(|(_, done)| done.is_closed())
            .map(|(ticket, _)| *ticket)
            .collect();
        if !given_up.is_empty() {
            self.waits.retain(|ticket, _| !given_up.contains(ticket));
            self.take(CutEvent::GivenUp(given_up));
        }
        for action in self.core.step(now(), &view.placed, &view.known()) {
            match action {
                CutAction::Look(look) => {
                    let raft = self.raft.clone();
                    self.work.spawn(async move {
                        match raft.read(move |tables| look.read(tables)).await {
                            Ok(found) => Ok(CutEvent::Found(Some(found))),
                            Err(e) if ends_reign(&e) => Err(e),
                            Err(e) => {
                                log::warn!("cannot read what is to be cut: {e}");
                                Ok(CutEvent::Found(None))
                            }
                        }
                    });
                }
                CutAction::Call { link, request } => {
                    let connection = view.connection(link);
                    let (inode, run) = (request.inode, link.run);
                    self.work.spawn(async move {
                        let answer = match connection {
                            Some(connection) => connection
                                .call(&request, Payload::default(), REQUEST_DEADLINE)
                                .await
                                .map(|(answer, _)| answer),
                            None => Err(ErrorCode::Disconnected.into()),
                        };
                        Ok(CutEvent::Answered {
                            inode,
                            run,
                            link: link.link,
                            answer,
                        })
                    });
                }
                CutAction::Commit { inode, command } => {
                    let raft = self.raft.clone();
                    self.work.spawn(async move {
                        let logged = match raft.commit(Change::Namespace(command)).await {
                            Ok(_) => true,
                            Err(e) if ends_reign(&e) => return Err(e),
                            Err(e) => {
                                log::warn!(
                                    "the end of a cut of {inode} was not logged, again: {e}"
                                );
                                false
                            }
                        };
                        Ok(CutEvent::Ended { inode, logged })
                    });
                }
                CutAction::Done(ticket) => self.done(ticket),
                CutAction::Unable(server) => {
                    let events = self.events.clone();
                    let event = Event::Said(governor::Event::Unable { server });
                    // A full queue: it is said again with the next tries.
                    let _ = events.try_send(event);
                }
            }
        }
    }
}
