//! Who gets an event: messages and timers reach their processes, or do not.

use super::{RESENT, World};
use crate::sim::message::{Node, Process};
use crate::sim::schedule::{Event, Schedule};
use crate::sim::server;
use crate::sim::server::Server;

impl World {
    pub(super) fn happen(&mut self, event: Event) {
        match event {
            Event::Request {
                call,
                from,
                to,
                ask,
            } => {
                let event = Event::Request {
                    call,
                    from,
                    to,
                    ask,
                };
                let Some(Event::Request { ask, .. }) = self.passes(from.node, to, event) else {
                    return;
                };
                let s = &mut self.schedule;
                if !s.is_alive(to) {
                    return s.refuse_connection(call, from, to);
                }
                match to.node {
                    Node::Directory => self.directory.requested(s, call, from, ask),
                    Node::Client(at) => self.clients[at].requested(s, call, ask),
                    Node::Server(at) => self.with_server(at, |server, s, world| {
                        server.requested(s, call, from, ask, world);
                    }),
                }
            }
            Event::Answer { call, from, answer } => {
                let Some(caller) = self.schedule.caller(call) else {
                    return;
                };
                let event = Event::Answer { call, from, answer };
                let event = self.passes(from.node, caller, event);
                if let Some(Event::Answer { answer, .. }) = event {
                    self.answered(call, answer);
                }
            }
            Event::Fail { call, code } => {
                let Some(caller) = self.schedule.caller(call) else {
                    return;
                };
                let event = Event::Fail { call, code };
                if self.passes(caller.node, caller, event).is_some() {
                    self.answered(call, Err(code.into()));
                }
            }
            Event::Closed { at, peer } => {
                if self
                    .passes(at.node, at, Event::Closed { at, peer })
                    .is_none()
                {
                    return;
                }
                let s = &mut self.schedule;
                match at.node {
                    _ if !s.is_alive(at) => {}
                    Node::Directory => self.directory.closed(s, peer),
                    Node::Server(place) => self.servers[place].closed(s, peer),
                    Node::Client(_) => {}
                }
            }
            Event::Timer { at, timer } => {
                let event = Event::Timer { at, timer };
                let Some(Event::Timer { timer, .. }) = self.passes(at.node, at, event) else {
                    return;
                };
                let s = &mut self.schedule;
                match at.node {
                    _ if !s.is_alive(at) => {}
                    Node::Directory => self.directory.woken(s, timer),
                    Node::Client(place) => self.clients[place].woken(s, timer),
                    Node::Server(place) => self.with_server(place, |server, s, world| {
                        server.woken(s, timer, world);
                    }),
                }
            }
            Event::Chaos => {
                if !self.healing {
                    self.chaos();
                }
            }
            Event::Relieved(place, relief) => self.relieve(place, relief),
            Event::DiskReplaced(place) => self.replace_disk(place),
        }
    }

    /// The event, if it reaches `to` now. If not it is put off, or lost.
    fn passes(&mut self, from: Node, to: Process, event: Event) -> Option<Event> {
        let s = &mut self.schedule;
        if s.net.is_cut(from, to.node, s.now) {
            if s.random.chance(RESENT) {
                let delay = s.random.micros(20_000, 400_000);
                s.push(delay, event);
            }
            return None;
        }
        if let Some(until) = s.net.paused(to.node, s.now).filter(|_| s.is_alive(to)) {
            let delay = until - s.now;
            s.push(delay, event);
            return None;
        }
        Some(event)
    }

    fn answered(&mut self, call: u64, answer: crate::sim::message::Answer) {
        let Some((caller, then)) = self.schedule.end_call(call) else {
            return;
        };
        let s = &mut self.schedule;
        match caller.node {
            _ if !s.is_alive(caller) => {}
            Node::Directory => self.directory.answered(s, then, answer),
            Node::Client(at) => self.clients[at].answered(s, then, answer),
            Node::Server(at) => self.with_server(at, |server, s, world| {
                server.answered(s, then, answer, world);
            }),
        }
    }

    fn with_server(
        &mut self,
        at: usize,
        step: impl FnOnce(&mut Server, &mut Schedule, &server::World<'_>),
    ) {
        let (before, rest) = self.servers.split_at_mut(at);
        let Some((server, after)) = rest.split_first_mut() else {
            return;
        };
        let world = server::World {
            placed: &self.directory.placed,
            groups: self.shape.groups,
            others: before.iter().chain(after.iter()).collect(),
        };
        step(server, &mut self.schedule, &world);
        // Whoever is in-sync in an epoch that serves has everything again.
        if let Some(run) = server.run().filter(|_| !server.lost.is_empty()) {
            let groups = &self.directory.placed.groups;
            server.lost.retain(|group| {
                let record = groups.get(group).filter(|r| r.is_effective());
                !record.is_some_and(|r| r.config.in_sync().any(|member| member == run))
            });
        }
    }
}
