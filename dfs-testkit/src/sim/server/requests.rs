//! What comes to a file server: requests, answers, timers.

use super::{Asked, DIRECTORY_DEADLINE, PATROL, SPACE, Server, TICK, World};
use crate::sim::invariants::Admission;
use crate::sim::message::{Answer, Ask, Node, Process, Then, Timer, Told};
use crate::sim::schedule::Schedule;
use dfs_proto::error::ErrorCode;
use dfs_proto::ids::NodeId;
use dfs_proto::msg::registry::{RegisterServer, RepairWork, ServerHeartbeat};
use dfs_proto::timing::SERVER_HEARTBEAT;
use dfs_server::replica::{Caller, Event};
use std::time::Duration;

impl Server {
    pub(crate) fn requested(
        &mut self,
        s: &mut Schedule,
        call: u64,
        from: Process,
        ask: Ask,
        world: &World<'_>,
    ) {
        let (
            Ask::Chunk {
                from: sender,
                request,
                payload,
            },
            Some(core),
        ) = (ask, &self.core)
        else {
            return;
        };
        if let (Some(process), Some(_)) = (self.process, self.stopping) {
            return s.answer(process, call, Err(ErrorCode::ShuttingDown.into()));
        }
        let epoch = Admission::names(&request)
            .and_then(|(group, _)| core.view(group))
            .map(|view| view.epoch);
        self.callers += 1;
        let caller = Caller(self.callers);
        let admission = Admission {
            request: request.clone(),
            epoch,
        };
        s.trace(|| format!("  server {} <- {from:?} {request:?}", self.place));
        self.asked.insert(
            caller,
            Asked {
                call,
                from,
                admission,
            },
        );
        let event = Event::Request {
            from: sender,
            caller,
            request,
            payload,
        };
        self.feed(s, event, world);
    }

    pub(crate) fn answered(
        &mut self,
        s: &mut Schedule,
        then: Then,
        answer: Answer,
        world: &World<'_>,
    ) {
        let Some(process) = self.process else { return };
        match then {
            Then::Core(token) => {
                let (result, payload) = match answer {
                    Ok(Told::Chunk(response, payload)) => (Ok(response), payload),
                    Ok(_) => (Err(ErrorCode::Malformed.into()), Default::default()),
                    Err(error) => (Err(error), Default::default()),
                };
                let event = Event::Reply {
                    token,
                    result,
                    payload,
                };
                self.feed(s, event, world);
            }
            Then::Registered => match answer {
                Ok(Told::Registered(id)) => {
                    self.id = Some(id);
                    self.registered = true;
                }
                _ => s.timer(process, Duration::from_millis(20), Timer::Register),
            },
            Then::Lived => {
                let lost = match &answer {
                    Ok(_) => false,
                    Err(e) => e.code != ErrorCode::DeadlineExceeded,
                };
                if lost && std::mem::take(&mut self.registered) {
                    s.timer(process, Duration::from_millis(5), Timer::Register);
                }
            }
            _ => {}
        }
    }

    /// The connection to a peer has ended; without the directory the server registers anew.
    pub(crate) fn closed(&mut self, s: &mut Schedule, peer: Process) {
        if let Some(process) = self.process
            && peer.node == Node::Directory
            && std::mem::take(&mut self.registered)
        {
            s.timer(process, Duration::from_millis(2), Timer::Register);
        }
    }

    pub(crate) fn woken(&mut self, s: &mut Schedule, timer: Timer, world: &World<'_>) {
        let (Some(process), Some(directory)) = (self.process, s.process(Node::Directory)) else {
            return;
        };
        match timer {
            Timer::Tick => {
                s.own_timer(process, TICK, Timer::Tick);
                self.feed(s, Event::Tick, world);
                if self.disk.trouble.failed {
                    let reason = "it has failed".into();
                    self.feed(s, Event::DiskFailed { reason }, world);
                }
            }
            Timer::Register => {
                let incarnation = s.incarnation(process);
                let request = RegisterServer {
                    node: NodeId(self.place as u128 + 1),
                    incarnation,
                    address: format!("place {}", self.place),
                    past: self.told.clone(),
                    epochs: self.adopted(),
                    space: SPACE,
                };
                let ask = Ask::Register(Box::new(request));
                s.call(
                    process,
                    directory,
                    ask,
                    DIRECTORY_DEADLINE,
                    Then::Registered,
                );
            }
            Timer::Beat => {
                s.own_timer(process, SERVER_HEARTBEAT, Timer::Beat);
                if let Some(run) = self.run().filter(|_| self.registered) {
                    s.call(
                        process,
                        directory,
                        Ask::Alive(ServerHeartbeat {
                            run,
                            space: SPACE,
                            repair: RepairWork::default(),
                            failure: self.failure(),
                        }),
                        DIRECTORY_DEADLINE,
                        Then::Lived,
                    );
                }
            }
            Timer::DiskWorks(token, op) => {
                self.waiting.remove(&token);
                let result = self.disk.work(*op);
                if self.disk.trouble.failed {
                    s.trace(|| format!("the disk of server {} has failed", self.place));
                }
                let delay = s.random.micros(0, 300) * self.disk.trouble.slow.max(1);
                s.timer(process, delay, Timer::DiskEnds(token, result));
            }
            Timer::DiskEnds(token, result) => self.feed(s, Event::Disk { token, result }, world),
            Timer::Patrol => {
                s.own_timer(process, PATROL, Timer::Patrol);
                self.patrol(s, world);
            }
            Timer::Stop => {
                if let Some(until) = self.stopping {
                    self.stop_goes_on(s, process, until);
                }
            }
            Timer::Task(_) | Timer::Recall(_) | Timer::Push | Timer::Logged(_) => {}
        }
    }
}
