//! After each step: what follows without a choice, what can be forgotten, and what must hold.

use super::GROUP;
use super::directory::Session;
use super::options::{Options, Rule};
use super::packet::{Message, Packet};
use super::state::State;
use dfs_proto::ids::{Epoch, ServerRun};
use std::rc::Rc;

pub(super) fn settle(state: &mut State, options: &Options) {
    super::cut::drive(state, options);
    end_sessions(state, options);
    forget(state, options);
    count_as_whole(state);
    if !options.clients_only
        && let Err(what) = equal_at_rest(state)
    {
        state.violate(what);
    }
}

/// A session is over when every in-sync member of an epoch that serves has fenced it.
fn end_sessions(state: &mut State, options: &Options) {
    let directory = &state.directory;
    let fenced = directory.is_effective() && directory.unfenced().next().is_none();
    if !directory.is_fencing() || !(fenced || options.rule == Rule::NoFence) {
        return;
    }
    let directory = Rc::make_mut(&mut state.directory);
    for (at, session) in directory.sessions.iter_mut().enumerate() {
        let cuts = directory.cut.as_ref();
        // What is logged comes first.
        if *session != Session::Ending || cuts.is_some_and(|cut| cut.client == at as u8) {
            continue;
        }
        *session = Session::Over;
        if directory.holder == Some(at as u8) {
            directory.holder = None;
        }
        if let Some(write) = state.clients[at].writing {
            state.oracle.decided(write.value);
        }
    }
}

/// Messages that nobody could take for anything any more. What a server refuses for its epoch
/// it refuses for ever, and a run that is gone does not come back.
fn forget(state: &mut State, options: &Options) {
    let keeps = |packet: &Rc<Packet>| match &packet.message {
        Message::Written { client, sequence } => {
            let writing = state.clients[usize::from(*client)].writing;
            writing.is_some_and(|write| write.sequence == *sequence)
        }
        Message::Cut { to, .. } => state.place(*to).is_some(),
        Message::Propose { epoch, .. } => *epoch == state.directory.config().epoch,
        Message::Write { to, epoch, .. } | Message::Peer { to, epoch, .. } => {
            options.old_messages_count || is_open(state, *to, *epoch)
        }
    };
    if !state.packets.iter().all(keeps) {
        let kept = state.packets.iter().filter(|p| keeps(p)).cloned().collect();
        state.packets = Rc::new(kept);
    }
}

fn is_open(state: &State, to: ServerRun, epoch: Epoch) -> bool {
    let Some(at) = state.place(to) else {
        return false;
    };
    let view = state.hosts[at].core.as_ref().and_then(|c| c.view(GROUP));
    view.is_none_or(|view| view.epoch <= epoch)
}

/// Who is in-sync in an epoch that serves has everything again.
fn count_as_whole(state: &mut State) {
    if !state.directory.is_effective() {
        return;
    }
    let runs: Vec<ServerRun> = state.directory.config().in_sync().collect();
    for run in runs {
        let host = &mut state.hosts[State::at(run.server)];
        if host.lost && host.core.is_some() && host.run() == run {
            let host = Rc::make_mut(host);
            host.lost = false;
            host.refresh();
        }
    }
}

/// While no write is in flight, all members of an epoch that serves hold the same.
fn equal_at_rest(state: &State) -> Result<(), String> {
    let config = state.directory.config();
    if !state.directory.is_effective() || state.directory.cut.is_some() {
        return Ok(());
    }
    let members: Vec<ServerRun> = config.in_sync().collect();
    let rests = |run: &ServerRun| {
        let host = &state.hosts[State::at(run.server)];
        let view = match &host.core {
            Some(core) if host.run() == *run => core.view(GROUP),
            _ => None,
        };
        view.is_some_and(|view| view.epoch == config.epoch && view.in_flight == 0)
    };
    if !members.iter().all(rests) {
        return Ok(());
    }
    let mut first = None;
    for run in members {
        let held = &state.hosts[State::at(run.server)].disk.chunk;
        if *first.get_or_insert(held) != held {
            return Err(format!(
                "{run} holds {held:?}, another in-sync member {first:?}"
            ));
        }
    }
    Ok(())
}
