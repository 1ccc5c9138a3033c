//! What goes through the log, one change at a time, and what follows from its outcome.

use super::{Action, Governor, Link, LinkId, Order, Reply, Ticket};
use crate::placement::{Placed, PlacementCommand, PlacementOutcome};
use dfs_proto::error::{Error, ErrorCode, Result};
use dfs_proto::ids::{GroupId, ServerRun};
use dfs_proto::msg::registry::{ProposeInSync, RegisterServer, ServerRegistered};
use std::sync::Arc;
use std::time::Duration;

/// A registration that is not logged yet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Registration {
    pub(super) link: LinkId,
    pub(super) request: RegisterServer,
    pub(super) ticket: Ticket,
    /// Its connection has ended meanwhile.
    pub(super) closed: bool,
}

/// What is on its way to the log. One change at a time: the next one is decided on what this one
/// has made.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) enum Logging {
    #[default]
    Nothing,
    /// The logged state is read, since something that it lacks may be there now.
    Reading(Registration),
    Registering(Registration),
    /// A change that answers these proposals.
    Changing(Vec<(ProposeInSync, Ticket)>),
    Effective,
    /// New homes of groups.
    Moving,
    Ordered(Ticket),
}

impl Governor {
    pub(super) fn commit(&mut self, what: Logging, command: PlacementCommand) {
        self.logging = what;
        self.out.push(Action::Commit(command));
    }

    pub(super) fn log_registration(&mut self) {
        let Some(registration) = self.registrations.pop_front() else {
            return;
        };
        if self.placed.format.is_none() {
            self.logging = Logging::Reading(registration);
            self.out.push(Action::Read);
            return;
        }
        let request = &registration.request;
        let command = PlacementCommand::RegisterServer {
            node: request.node,
            incarnation: request.incarnation,
            address: request.address.clone(),
            past: request.past.clone(),
            epochs: request.epochs.clone(),
        };
        self.commit(Logging::Registering(registration), command);
    }

    pub(super) fn log_order(&mut self) {
        let Some((order, ticket)) = self.orders.pop_front() else {
            return;
        };
        let command = match order {
            Order::SetLife { server, life } => PlacementCommand::SetLife { server, life },
            Order::Configure(settings) => PlacementCommand::Configure { settings },
        };
        self.commit(Logging::Ordered(ticket), command);
    }

    /// What was sent to the log has an outcome, or none that is known.
    pub(super) fn logged(
        &mut self,
        outcome: Result<PlacementOutcome>,
        placed: Arc<Placed>,
        now: Duration,
    ) {
        self.placed = placed;
        let logging = std::mem::take(&mut self.logging);
        if let Err(e) = &outcome {
            log::warn!("a change of servers or groups was not logged, again: {e}");
        }
        match logging {
            Logging::Registering(registration) => self.registered(registration, outcome, now),
            Logging::Changing(proposals) => {
                match outcome {
                    Ok(_) => self.answer_proposals(proposals),
                    Err(e) => {
                        for (_, ticket) in proposals {
                            self.reply(ticket, Reply::Done(Err(e.clone())));
                        }
                        return;
                    }
                }
                self.changed = now;
                self.publish = true;
            }
            Logging::Effective | Logging::Moving => {
                self.changed = now;
                self.publish = true;
            }
            Logging::Ordered(ticket) => {
                let answer = match outcome {
                    Ok(PlacementOutcome::Unknown) => {
                        Err(Error::new(ErrorCode::InvalidArgument, "no such server"))
                    }
                    Ok(_) => Ok(()),
                    Err(e) => Err(e),
                };
                self.reply(ticket, Reply::Done(answer));
                self.repair_at = now;
                self.publish = true;
            }
            Logging::Nothing | Logging::Reading(_) => {}
        }
    }

    fn registered(
        &mut self,
        registration: Registration,
        outcome: Result<PlacementOutcome>,
        now: Duration,
    ) {
        let Registration {
            link,
            request,
            ticket,
            closed,
        } = registration;
        let server = match outcome {
            Ok(PlacementOutcome::Registered { server, set_back }) => Ok((server, set_back)),
            Ok(_) => Err(Error::new(
                ErrorCode::Internal,
                "a registration had no server id",
            )),
            Err(e) => Err(e),
        };
        let answer = server.map(|(server, set_back)| {
            let run = ServerRun {
                server,
                incarnation: request.incarnation,
            };
            report_return(run, &request, &set_back);
            self.registry.add(Link { run, link }, request.space, now);
            if closed {
                self.registry.remove(link, now);
            }
            self.publish = true;
            ServerRegistered {
                server,
                groups: self.placed.format.map_or(0, |format| format.groups),
                fenced: self.placed.fenced.clone(),
            }
        });
        if let Err(e) = &answer {
            log::warn!("a file server was not registered: {e}");
        }
        self.reply(ticket, Reply::Registered(answer));
    }

    pub(super) fn answer_proposals(&mut self, proposals: Vec<(ProposeInSync, Ticket)>) {
        for (proposal, ticket) in proposals {
            let config = self.placed.groups.get(&proposal.group).map(|r| &r.config);
            let taken = config.is_some_and(|c| c.in_sync().any(|member| member == proposal.joined));
            let answer = if taken {
                Ok(())
            } else {
                let present = config.map_or(0, |c| c.epoch.0);
                Err(Error::new(
                    ErrorCode::WrongEpoch,
                    format!(
                        "{} cannot be in-sync in {} now",
                        proposal.joined, proposal.group
                    ),
                )
                .with_detail(present))
            };
            self.reply(ticket, Reply::Done(answer));
        }
    }
}

/// With which data dir a server has come.
fn report_return(run: ServerRun, request: &RegisterServer, set_back: &[GroupId]) {
    let past = &request.past;
    let stopped = match (past.runs.is_empty(), past.intact > 0) {
        (true, _) => "with a new data dir",
        (_, true) => "with all that it had",
        (_, false) => "after a stop that may have lost what was not synced",
    };
    log::info!("{run} at {} registered, {stopped}", request.address);
    if past.accept_rollback {
        log::warn!(
            "{} is to count in all groups that are down: a person says so",
            run.server
        );
    }
    if !set_back.is_empty() {
        log::warn!(
            "the data dir of {} at {} is not the one with which it served {} groups: it was \
             emptied or is an older copy. It counts for nothing there until it has been brought \
             up to date from the others; if none of them has the data, put the right dir back, \
             or start the server that has the best with --accept-rollback",
            run.server,
            request.address,
            set_back.len()
        );
    }
}
