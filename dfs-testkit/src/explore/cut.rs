//! Cuts: everything that was written goes, logged by the directory and made by every member.

use super::directory::{Cut, bit};
use super::options::{Options, Rule};
use super::packet::{Message, Writing};
use super::state::{CUT, State};
use super::{CHUNK, GROUP, step};
use dfs_proto::cluster::MemberState;
use dfs_proto::error::Error;
use dfs_proto::ids::{Epoch, Generation, ServerRun};
use dfs_proto::layout::FileLayout;
use dfs_proto::msg::control::CutInode;
use dfs_server::replica::{Caller, Request, Response, Token};
use std::rc::Rc;

/// The holder of the lease asks for it: logged, so it takes effect whatever happens.
pub(super) fn begins(s: &mut State, c: u8) {
    s.spent.cuts += 1;
    let value = s.spent.writes + s.spent.cuts;
    let replicas = s.hosts.len();
    let directory = Rc::make_mut(&mut s.directory);
    directory.generation = directory.generation.next();
    directory.cut = Some(Cut {
        client: c,
        value,
        made: vec![Epoch(0); replicas],
    });
    let generation = directory.generation;
    let client = &mut s.clients[usize::from(c)];
    client.writing = Some(Writing {
        client: c,
        sequence: 0,
        value,
        generation,
        cuts: true,
    });
    s.oracle.begins_cut(value);
}

/// After each step: who has not made the cut in the epoch that serves is asked to; it ends when
/// there is nobody of these.
pub(super) fn drive(s: &mut State, options: &Options) {
    let directory = s.directory.clone();
    let Some(cut) = &directory.cut else { return };
    if !directory.is_effective() {
        return;
    }
    let config = directory.config();
    let active = |state| matches!(state, MemberState::InSync | MemberState::Joining);
    let made = |run: &ServerRun| match options.rule {
        Rule::CutsOfAnyEpoch => cut.made[State::at(run.server)] > Epoch(0),
        _ => cut.made[State::at(run.server)] == config.epoch,
    };
    let members = config.members.iter().filter(|member| active(member.state));
    let missing: Vec<ServerRun> = members.map(|m| m.run).filter(|run| !made(run)).collect();
    for to in missing.iter().filter(|run| directory.takes_part(**run)) {
        let (to, generation) = (*to, directory.generation);
        let epoch = config.epoch;
        s.post(
            Message::Cut {
                to,
                generation,
                epoch,
            },
            Token(0),
        );
    }
    if !missing.is_empty() {
        return;
    }
    let primary = config.primary.and_then(|server| config.member(server));
    let (client, value) = (usize::from(cut.client), cut.value);
    Rc::make_mut(&mut s.directory).cut = None;
    let client = &mut s.clients[client];
    if client.writing.is_some_and(|writing| writing.value == value) {
        client.writing = None;
        client.generation = directory.generation;
        // A member that was voted out and does not know it has not made the cut: the mount that
        // has cut must not read from it.
        if options.rule != Rule::CutsHideTheirEpoch {
            client.epoch = config.epoch;
            client.primary = primary.map(|member| member.run);
        }
    }
    if !s.oracle.answered(value) {
        s.violate(format!("cut {value} was answered, but was not before"));
    }
}

pub(super) fn delivered(
    s: &mut State,
    to: ServerRun,
    (generation, epoch): (Generation, Epoch),
    options: &Options,
) {
    let Some(at) = s.place(to) else { return };
    Rc::make_mut(&mut s.directory).cut_asked |= bit(to.server);
    let request = CutInode {
        inode: CHUNK.inode,
        generation,
        from: 0,
        to: u64::MAX,
        layout: FileLayout {
            chunk_bytes: 4096,
            first_group: GROUP,
            groups: 1,
        },
        groups: vec![(GROUP, epoch)],
    };
    let caller = Caller(CUT | generation.0);
    s.feed(at, step::control(Request::Cut(request), caller), options);
}

pub(super) fn answered(
    s: &mut State,
    at: usize,
    generation: Generation,
    result: Result<Response, Error>,
) {
    let server = s.hosts[at].server;
    let directory = Rc::make_mut(&mut s.directory);
    directory.cut_asked &= !bit(server);
    let Ok(Response::Cut(made)) = result else {
        return;
    };
    let epoch = made.epochs.iter().find(|(group, _)| *group == GROUP);
    if let (Some((_, epoch)), Some(cut)) = (epoch, &mut directory.cut)
        && generation == directory.generation
    {
        cut.made[at] = *epoch;
    }
}
