//! Answers as tables for people and as JSON for programs.

use dfs_proto::cluster::{GroupConfig, MemberState, ServerLife};
use dfs_proto::ids::InodeId;
use dfs_proto::lock::{LockKind, LockRange, LockSpace};
use dfs_proto::msg::admin::{GroupStatus, LockStatus, LockWait, ServerStatus, SessionStatus};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write;

/// One JSON document, ended by a newline.
pub(crate) fn document(value: &Value) -> String {
    format!("{value:#}\n")
}

/// Columns as wide as their widest cell, two spaces between them.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = head.iter().map(|cell| cell.len()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    let mut line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut out = String::new();
        for (cell, width) in cells.zip(&widths) {
            let _ = write!(out, "{cell:<width$}  ");
        }
        text.push_str(out.trim_end());
        text.push('\n');
    };
    line(&mut head.iter().copied());
    for row in rows {
        line(&mut row.iter().map(String::as_str));
    }
    text
}

fn life(life: ServerLife) -> &'static str {
    match life {
        ServerLife::Active => "active",
        ServerLife::Draining => "draining",
        ServerLife::Removed => "removed",
    }
}

/// The servers as JSON.
pub(crate) fn servers_json(servers: &[ServerStatus]) -> Value {
    servers
        .iter()
        .map(|server| {
            json!({
                "server": server.entry.run.server.0,
                "incarnation": format!("{:016x}", server.entry.run.incarnation.0),
                "address": server.entry.address,
                "alive": server.entry.alive,
                "life": life(server.life),
                "silent_ms": (server.silent_ms != u64::MAX).then_some(server.silent_ms),
                "total_bytes": server.space.total_bytes,
                "free_bytes": server.space.free_bytes,
                "chunks": server.space.chunks,
                "groups": server.groups,
                "groups_in_sync": server.groups_in_sync,
                "failure": (!server.failure.is_empty()).then_some(&server.failure),
            })
        })
        .collect()
}

pub(crate) fn servers(servers: &[ServerStatus], json: bool) -> String {
    if json {
        return document(&servers_json(servers));
    }
    let rows: Vec<Vec<String>> = servers
        .iter()
        .map(|server| {
            let heard = match server.silent_ms {
                u64::MAX => "-".to_owned(),
                ms => format!("{ms} ms ago"),
            };
            vec![
                server.entry.run.server.0.to_string(),
                match server.life {
                    _ if server.entry.alive && !server.failure.is_empty() => "FAILED".to_owned(),
                    ServerLife::Active if server.entry.alive => "alive".to_owned(),
                    ServerLife::Active => "gone".to_owned(),
                    other if server.entry.alive => life(other).to_owned(),
                    other => format!("{}, gone", life(other)),
                },
                server.entry.address.clone(),
                heard,
                bytes(server.space.free_bytes),
                bytes(server.space.total_bytes),
                server.space.chunks.to_string(),
                format!("{} of {} in-sync", server.groups_in_sync, server.groups),
            ]
        })
        .collect();
    let head = [
        "SERVER", "STATE", "ADDRESS", "HEARD", "FREE", "TOTAL", "CHUNKS", "GROUPS",
    ];
    let mut text = table(&head, &rows);
    for server in servers.iter().filter(|server| !server.failure.is_empty()) {
        let _ = writeln!(
            text,
            "the disk of {} has failed: {}",
            server.entry.run.server, server.failure
        );
    }
    text
}

/// In one word, how a group is.
fn health(group: &GroupStatus) -> &'static str {
    let config = &group.config;
    if config.primary.is_none() {
        "unavailable"
    } else if config.epoch != group.effective {
        "changing"
    } else if config.in_sync().count() < usize::from(group.wanted) {
        "degraded"
    } else {
        "healthy"
    }
}

fn member_state(state: MemberState) -> &'static str {
    match state {
        MemberState::InSync => "in-sync",
        MemberState::Joining => "joining",
        MemberState::Offline => "offline",
        MemberState::LastServing => "last-serving",
    }
}

pub(crate) fn groups(groups: &[GroupStatus], json: bool) -> String {
    if json {
        let members = |config: &GroupConfig| -> Vec<Value> {
            config
                .members
                .iter()
                .map(|member| {
                    json!({
                        "server": member.run.server.0,
                        "incarnation": format!("{:016x}", member.run.incarnation.0),
                        "state": member_state(member.state),
                    })
                })
                .collect()
        };
        let groups: Vec<Value> = groups
            .iter()
            .map(|group| {
                json!({
                    "group": group.config.group.0,
                    "epoch": group.config.epoch.0,
                    "effective": group.effective.0,
                    "primary": group.config.primary.map(|server| server.0),
                    "state": health(group),
                    "wanted": group.wanted,
                    "min_in_sync": group.config.min_in_sync,
                    "writable": group.config.is_writable(),
                    "members": members(&group.config),
                })
            })
            .collect();
        return document(&Value::Array(groups));
    }
    let rows: Vec<Vec<String>> = groups
        .iter()
        .map(|group| {
            let config = &group.config;
            let members: Vec<String> = config
                .members
                .iter()
                .map(|m| format!("{} {}", m.run.server.0, member_state(m.state)))
                .collect();
            vec![
                config.group.0.to_string(),
                config.epoch.0.to_string(),
                config
                    .primary
                    .map_or("-".to_owned(), |server| server.0.to_string()),
                health(group).to_owned(),
                members.join(", "),
            ]
        })
        .collect();
    table(&["GROUP", "EPOCH", "PRIMARY", "STATE", "MEMBERS"], &rows)
}

/// The sessions as JSON.
pub(crate) fn sessions_json(sessions: &[SessionStatus]) -> Value {
    sessions
        .iter()
        .map(|session| {
            json!({
                "session": session.session.0,
                "host": session.host,
                "pid": session.pid,
                "mount_point": session.mount_point,
                "silent_ms": session.silent_ms,
                "connected": session.connected,
                "leases_shared": session.leases_shared,
                "leases_exclusive": session.leases_exclusive,
                "locks": session.locks,
                "waits": session.waits,
                "opens": session.opens,
                "age_ms": session.age_ms,
                "waiting_for": session.waiting_for.iter().map(wait_json).collect::<Value>(),
            })
        })
        .collect()
}

fn wait_json(wait: &LockWait) -> Value {
    let holder = wait
        .holder
        .as_ref()
        .map(|(session, host, pid)| json!({ "session": session.0, "host": host, "pid": pid }));
    json!({ "inode": wait.inode.0, "pid": wait.pid, "holder": holder })
}

/// What a session waits for, one line for each lock.
pub(crate) fn waits(sessions: &[SessionStatus]) -> String {
    let mut text = String::new();
    for session in sessions {
        for wait in &session.waiting_for {
            let holder = match &wait.holder {
                Some((session, host, pid)) => format!("held by pid {pid} on {host} ({session})"),
                None => "it is not its turn".to_owned(),
            };
            let _ = writeln!(
                text,
                "{}: pid {} on {} waits for a lock of {}: {holder}",
                session.session, wait.pid, session.host, wait.inode
            );
        }
    }
    text
}

/// A time in the largest unit that leaves two digits or so.
fn age(ms: Option<u64>) -> String {
    match ms.map(|ms| ms / 1000) {
        None => "-".to_owned(),
        Some(seconds @ 0..120) => format!("{seconds} s"),
        Some(seconds @ 120..7200) => format!("{} min", seconds / 60),
        Some(seconds @ 7200..172_800) => format!("{} h", seconds / 3600),
        Some(seconds) => format!("{} d", seconds / 86_400),
    }
}

pub(crate) fn sessions(sessions: &[SessionStatus], json: bool) -> String {
    if json {
        return document(&sessions_json(sessions));
    }
    let rows: Vec<Vec<String>> = sessions
        .iter()
        .map(|session| {
            vec![
                session.session.0.to_string(),
                format!("{}:{}", session.host, session.mount_point),
                session.pid.to_string(),
                if session.connected {
                    "connected"
                } else {
                    "away"
                }
                .to_owned(),
                age(session.age_ms),
                format!("{} ms ago", session.silent_ms),
                format!("{}/{}", session.leases_shared, session.leases_exclusive),
                session.locks.to_string(),
                session.waits.to_string(),
                session.opens.to_string(),
            ]
        })
        .collect();
    let head = [
        "SESSION",
        "MOUNT",
        "PID",
        "STATE",
        "AGE",
        "HEARD",
        "LEASES S/X",
        "LOCKS",
        "WAITS",
        "OPENS",
    ];
    table(&head, &rows) + &waits(sessions)
}

pub(crate) fn locks(locks: &[LockStatus], names: &BTreeMap<InodeId, String>, json: bool) -> String {
    let name = |inode: InodeId| names.get(&inode).cloned();
    let space = |space| match space {
        LockSpace::Flock => "flock",
        LockSpace::Posix => "posix",
        LockSpace::OpenFile => "ofd",
    };
    let kind = |kind| match kind {
        LockKind::Shared => "shared",
        LockKind::Exclusive => "exclusive",
    };
    if json {
        let locks: Vec<Value> = locks
            .iter()
            .map(|status| {
                let lock = &status.lock;
                json!({
                    "inode": status.inode.0,
                    "path": name(status.inode),
                    "space": space(lock.space),
                    "kind": kind(lock.kind),
                    "start": lock.range.start,
                    "last": lock.range.last,
                    "session": lock.holder.session.0,
                    "owner": format!("{:016x}", lock.holder.owner.0),
                    "pid": lock.pid,
                    "host": status.host,
                    "waiting": status.waiting,
                })
            })
            .collect();
        return document(&Value::Array(locks));
    }
    let rows: Vec<Vec<String>> = locks
        .iter()
        .map(|status| {
            let lock = &status.lock;
            vec![
                status.inode.0.to_string(),
                space(lock.space).to_owned(),
                kind(lock.kind).to_owned(),
                range(&lock.range),
                if status.waiting { "waits" } else { "holds" }.to_owned(),
                lock.holder.session.0.to_string(),
                status.host.clone(),
                lock.pid.to_string(),
                name(status.inode).unwrap_or_else(|| "-".to_owned()),
            ]
        })
        .collect();
    table(
        &[
            "INODE", "SPACE", "KIND", "BYTES", "STATE", "SESSION", "HOST", "PID", "FILE",
        ],
        &rows,
    )
}

fn range(range: &LockRange) -> String {
    if *range == LockRange::WHOLE {
        return "all".to_owned();
    }
    match range.last {
        u64::MAX => format!("{}-", range.start),
        last => format!("{}-{last}", range.start),
    }
}

/// Three significant digits and a binary unit.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1024.0;
    let mut unit = UNITS[0];
    for larger in &UNITS[1..] {
        if value < 1000.0 {
            break;
        }
        value /= 1024.0;
        unit = larger;
    }
    let digits = if value < 10.0 {
        2
    } else {
        usize::from(value < 100.0)
    };
    format!("{value:.digits$} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use dfs_proto::cluster::{Equalise, GroupMember, ServerEntry};
    use dfs_proto::ids::{Epoch, GroupId, Incarnation, LockOwner, ServerId, ServerRun, SessionId};
    use dfs_proto::lock::{HeldLock, LockHolder};
    use dfs_proto::msg::registry::Space;

    fn parse(text: &str) -> Value {
        serde_json::from_str(text).expect("valid JSON")
    }

    fn run(server: u32) -> ServerRun {
        ServerRun {
            server: ServerId(server),
            incarnation: Incarnation(0xab),
        }
    }

    fn group(states: [MemberState; 3], epoch: u64, effective: u64) -> GroupStatus {
        let members: Vec<GroupMember> = (1..)
            .zip(states)
            .map(|(server, state)| GroupMember {
                run: run(server),
                state,
            })
            .collect();
        let primary = members
            .iter()
            .find(|m| m.state == MemberState::InSync)
            .map(|m| m.run.server);
        GroupStatus {
            config: GroupConfig {
                group: GroupId(4),
                epoch: Epoch(epoch),
                primary,
                members,
                min_in_sync: 2,
                equalise: Equalise::Marked,
            },
            effective: Epoch(effective),
            wanted: 3,
        }
    }

    #[test]
    fn the_state_of_a_group_is_one_word() {
        use MemberState::{InSync, Joining, LastServing, Offline};
        let word = |states, epoch, effective| health(&group(states, epoch, effective));
        assert_eq!(word([InSync; 3], 5, 5), "healthy");
        assert_eq!(word([InSync; 3], 6, 5), "changing");
        assert_eq!(word([InSync, Joining, Offline], 5, 5), "degraded");
        assert_eq!(word([LastServing; 3], 6, 5), "unavailable");
    }

    #[test]
    fn groups_as_json_name_each_member_and_its_state() {
        use MemberState::{InSync, Joining};
        let text = groups(&[group([InSync, InSync, Joining], 5, 5)], true);
        let value = parse(&text);
        assert_eq!(value[0]["group"], 4);
        assert_eq!(value[0]["primary"], 1);
        assert_eq!(value[0]["state"], "degraded");
        assert_eq!(value[0]["members"][2]["server"], 3);
        assert_eq!(value[0]["members"][2]["state"], "joining");
    }

    #[test]
    fn groups_as_a_table_have_one_line_each() {
        let text = groups(&[group([MemberState::InSync; 3], 5, 5)], false);
        let lines: Vec<Vec<&str>> = text
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(lines[0], ["GROUP", "EPOCH", "PRIMARY", "STATE", "MEMBERS"]);
        assert_eq!(lines[1][..4], ["4", "5", "1", "healthy"]);
        assert_eq!(lines.len(), 2);
    }

    #[test]
    fn a_server_that_was_never_heard_has_no_number() {
        let server = ServerStatus {
            entry: ServerEntry {
                run: run(2),
                address: "h:1".into(),
                alive: false,
            },
            life: ServerLife::Active,
            space: Space::default(),
            silent_ms: u64::MAX,
            groups: 64,
            groups_in_sync: 0,
            failure: "read data/00/1.0: Input/output error".into(),
        };
        let value = parse(&servers(std::slice::from_ref(&server), true));
        assert!(value[0]["silent_ms"].is_null());
        let text = servers(&[server], false);
        assert!(text.contains("gone"), "{text}");
        assert!(
            text.contains("the disk of server:2 has failed: read"),
            "{text}"
        );
    }

    #[test]
    fn locks_tell_holders_from_waiters() {
        let status = LockStatus {
            inode: InodeId(7),
            lock: HeldLock {
                space: LockSpace::Posix,
                holder: LockHolder {
                    session: SessionId(3),
                    owner: LockOwner(1),
                },
                kind: LockKind::Exclusive,
                range: LockRange {
                    start: 10,
                    last: 19,
                },
                pid: 42,
            },
            waiting: true,
            host: "h".into(),
        };
        let names = BTreeMap::from([(InodeId(7), "/a/b".to_owned())]);
        let value = parse(&locks(std::slice::from_ref(&status), &names, true));
        assert_eq!(value[0]["waiting"], true);
        assert_eq!(value[0]["path"], "/a/b");
        assert_eq!(value[0]["last"], 19);
        let text = locks(&[status], &names, false);
        assert!(text.contains("10-19") && text.contains("waits"), "{text}");
    }

    #[test]
    fn who_waits_and_for_whom_is_one_line() {
        let session = SessionStatus {
            session: SessionId(3),
            host: "a".into(),
            pid: 1,
            mount_point: "/mnt".into(),
            age_ms: Some(130_000),
            silent_ms: 20,
            connected: true,
            leases_shared: 0,
            leases_exclusive: 0,
            locks: 0,
            waits: 1,
            opens: 1,
            waiting_for: vec![LockWait {
                inode: InodeId(7),
                pid: 42,
                holder: Some((SessionId(4), "b".into(), 43)),
            }],
        };
        let text = sessions(std::slice::from_ref(&session), false);
        assert!(text.contains("2 min"), "{text}");
        let line =
            "session:3: pid 42 on a waits for a lock of ino:7: held by pid 43 on b (session:4)";
        assert!(text.lines().any(|l| l == line), "{text}");
        let value = parse(&sessions(&[session], true));
        assert_eq!(value[0]["waiting_for"][0]["holder"]["pid"], 43);
        assert_eq!(value[0]["age_ms"], 130_000);
    }

    #[test]
    fn bytes_have_three_digits() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1536), "1.50 KiB");
        assert_eq!(bytes(100 << 30), "100 GiB");
        assert_eq!(bytes(u64::MAX), "16384 PiB");
    }
}
