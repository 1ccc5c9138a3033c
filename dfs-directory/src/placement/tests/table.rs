//! Reads the transition table of `docs/replication.md` and checks every line of it.

use crate::placement::GroupRecord;
use crate::placement::transition::{Event, Primaries, ServerView, Servers, next};
use dfs_proto::cluster::{Equalise, GroupConfig, GroupMember, MemberState};
use dfs_proto::ids::{Epoch, GroupId, Incarnation, ServerId, ServerRun};

const NOW: Epoch = Epoch(5);

struct Line {
    text: String,
    record: GroupRecord,
    servers: Servers,
    event: Event,
    expected: Option<(Vec<GroupMember>, Option<ServerId>, Equalise)>,
}

fn server(token: &str) -> ServerId {
    let token = token.trim_start_matches('(');
    let letter = token.bytes().next().expect("a member has a letter");
    ServerId(u32::from(letter - b'A') + 1)
}

/// A server that the group wants, and that its epoch does not name yet: `(D)`.
fn is_wanted_only(token: &str) -> bool {
    token.starts_with('(')
}

/// The run of a token: the first one, or with `'` the one after a restart.
fn run(token: &str) -> ServerRun {
    ServerRun {
        server: server(token),
        incarnation: Incarnation(1 + u64::from(token.contains('\''))),
    }
}

fn members(cell: &str) -> (Vec<GroupMember>, Option<ServerId>) {
    let mut primary = None;
    let mut members = Vec::new();
    for token in cell.split_whitespace().filter(|t| !is_wanted_only(t)) {
        let state = match token.chars().last() {
            Some('~') => MemberState::Joining,
            Some('-') => MemberState::Offline,
            Some('!') => MemberState::LastServing,
            Some('*') => {
                assert_eq!(primary, None, "two primaries in {cell}");
                primary = Some(server(token));
                MemberState::InSync
            }
            _ => MemberState::InSync,
        };
        members.push(GroupMember {
            run: run(token),
            state,
        });
    }
    (members, primary)
}

fn config(epoch: Epoch, members: Vec<GroupMember>, primary: Option<ServerId>) -> GroupConfig {
    GroupConfig {
        group: GroupId(0),
        epoch,
        primary,
        min_in_sync: if members.len() >= 3 { 2 } else { 1 },
        members,
        equalise: Equalise::Marked,
    }
}

/// What a cell says is known of all servers that were ever named in the line.
fn servers(home: &[ServerId], there: &str) -> Servers {
    let view = |id: &ServerId| {
        let token = there.split_whitespace().find(|token| server(token) == *id);
        let view = ServerView {
            incarnation: token.map_or(Incarnation(1), |token| run(token).incarnation),
            alive: token.is_some(),
            intact_since: match token {
                Some(token) if token.contains('+') => vec![Incarnation(1)],
                _ => Vec::new(),
            },
            may_join: token.is_some_and(|token| !token.contains('?')),
        };
        (*id, view)
    };
    home.iter().map(view).collect()
}

/// The servers that came back with a data dir that is not the one they served with.
fn lost(there: &str) -> Vec<ServerId> {
    let tokens = there.split_whitespace();
    tokens
        .filter(|token| token.contains('#'))
        .map(server)
        .collect()
}

fn parse(text: &str) -> Line {
    let cells: Vec<&str> = text.trim_matches('|').split('|').map(str::trim).collect();
    let [served, now, there, event, after, equalise, _why] = cells[..] else {
        panic!("7 cells expected: {text}");
    };
    let (now, owed) = match now.strip_suffix("(everything)") {
        Some(now) => (now, Equalise::Everything),
        None => (now, Equalise::Marked),
    };
    let (present, primary) = members(now);
    // `^`: not wanted any more.
    let wanted = now.split_whitespace().filter(|token| !token.contains('^'));
    let home: Vec<ServerId> = wanted.map(server).collect();
    let named: Vec<ServerId> = now.split_whitespace().map(server).collect();
    let known: Vec<ServerId> = match served {
        "=" | "none" => named,
        served => served.split_whitespace().map(server).chain(named).collect(),
    };
    let mut last = config(NOW, present, primary);
    last.equalise = owed;
    let effective = match served {
        "=" => Some(last.clone()),
        "none" => None,
        runs => {
            let (in_sync, _) = members(runs);
            let first = in_sync[0].run.server;
            Some(config(Epoch(NOW.0 - 1), in_sync, Some(first)))
        }
    };
    let proposal = |joined: &str| Event::Propose {
        from: run(now
            .split_whitespace()
            .find(|t| t.contains('*'))
            .expect("a primary")),
        epoch: NOW,
        joined: run(joined),
    };
    let event = match event.split_whitespace().collect::<Vec<_>>()[..] {
        ["review"] => Event::Review,
        ["rebalance"] => Event::Rebalance,
        ["wait", "over"] => Event::ReturnWaitOver,
        ["go", "on"] => Event::GoOn,
        ["suspect", who] => Event::Suspect(run(who)),
        ["expel", who] => Event::Expel(run(who)),
        ["propose", who] => proposal(who),
        _ => panic!("no such event: {text}"),
    };
    let expected = (after != "stays").then(|| {
        let (members, primary) = members(after);
        let equalise = match equalise {
            "marked" => Equalise::Marked,
            "everything" => Equalise::Everything,
            _ => panic!("no way to equalise: {text}"),
        };
        (members, primary, equalise)
    });
    Line {
        text: text.to_owned(),
        record: GroupRecord {
            home: home.clone(),
            config: last,
            effective,
            lost: lost(there),
        },
        servers: servers(&known, there),
        event,
        expected,
    }
}

fn lines() -> Vec<Line> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/replication.md");
    let text = std::fs::read_to_string(path).expect("the documentation is there");
    let table = text
        .lines()
        .skip_while(|line| !line.starts_with("| served last |"));
    table
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .map(parse)
        .collect()
}

#[test]
fn the_transition_is_what_the_documentation_says() {
    let lines = lines();
    assert!(lines.len() > 40, "only {} lines were found", lines.len());
    for line in lines {
        let new = next(&line.record, line.event, &line.servers, &Primaries::new());
        if let Some(new) = &new {
            assert_eq!(new.epoch, NOW.next(), "{}", line.text);
            assert_eq!(
                new.min_in_sync, line.record.config.min_in_sync,
                "{}",
                line.text
            );
        }
        let found = new.map(|new| (new.members, new.primary, new.equalise));
        assert_eq!(found, line.expected, "{}", line.text);
    }
}

#[test]
fn the_groups_of_a_dead_primary_are_shared_out() {
    let line = parse("| = | A* B C | B C | review | A- B* C | marked | |");
    let busy = Primaries::from([(ServerId(2), 9), (ServerId(3), 8)]);
    let new = next(&line.record, line.event, &line.servers, &busy).expect("a new epoch");
    assert_eq!(new.primary, Some(ServerId(3)));
}
