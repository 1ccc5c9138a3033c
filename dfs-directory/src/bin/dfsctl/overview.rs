//! `dfsctl status`: the whole cluster on one screen; `dfsctl directory`: its members.

use crate::client::Client;
use crate::repair;
use crate::show::{document, servers, servers_json, sessions, sessions_json, table};
use dfs_proto::msg::admin::{
    GetRepair, GetStatus, ListServers, ListSessions, MemberStatus, RepairStatus, ServerStatus,
    SessionStatus, Status,
};
use dfs_proto::msg::member::DirectoryView;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write;

/// What members say of themselves, by address; in words why one says nothing.
type Views = BTreeMap<String, Result<DirectoryView, String>>;

/// Everything that there is to show.
struct Overview {
    status: Status,
    views: Views,
    servers: Vec<ServerStatus>,
    sessions: Vec<SessionStatus>,
    repair: RepairStatus,
}

/// The cluster on one screen.
pub(crate) async fn status(client: &Client, json: bool) -> Result<String, String> {
    let status = client.ask(&GetStatus).await?;
    let addresses = status.members.iter().map(|m| m.address.clone());
    let views = client.views(addresses).await;
    let overview = Overview {
        views,
        status,
        servers: client.ask(&ListServers).await?,
        sessions: client.ask(&ListSessions).await?,
        repair: client.ask(&GetRepair).await?,
    };
    Ok(if json {
        document(&overview.json())
    } else {
        overview.text()
    })
}

/// The members of the directory.
pub(crate) async fn directory(client: &Client, json: bool) -> Result<String, String> {
    let status = client.ask(&GetStatus).await?;
    let addresses = status.members.iter().map(|m| m.address.clone());
    let views = client.views(addresses).await;
    Ok(if json {
        document(&json!({
            "cluster": status.cluster.to_string(),
            "feature_level": status.level,
            "members": members_json(&status.members, &views),
        }))
    } else {
        members_table(&status, &views)
    })
}

/// Changes that a member lacks; `None` if the leader has not heard of it.
fn behind(member: &MemberStatus) -> Option<u64> {
    member.held.map(|held| member.end.saturating_sub(held))
}

fn members_json(members: &[MemberStatus], views: &Views) -> Value {
    members
        .iter()
        .map(|member| {
            let view = views.get(&member.address);
            let view = |wanted: fn(&DirectoryView) -> u64| {
                view.and_then(|view| view.as_ref().ok()).map(wanted)
            };
            let silent = views.get(&member.address).and_then(|v| v.as_ref().err());
            json!({
                "member": member.member.0,
                "address": member.address,
                "leader": member.leader,
                "votes": member.votes,
                "term": member.term,
                "held": member.held,
                "behind": behind(member),
                "applied": view(|view| view.applied),
                "supports": view(|view| view.supports.into()).unwrap_or(member.supports.into()),
                "error": silent,
            })
        })
        .collect()
}

fn members_table(status: &Status, views: &Views) -> String {
    let rows: Vec<Vec<String>> = status
        .members
        .iter()
        .map(|member| {
            let state = match (member.leader, member.votes) {
                (true, _) => "leads",
                (false, true) => "follows",
                (false, false) => "joins, no vote yet",
            };
            let view = views.get(&member.address).and_then(|v| v.as_ref().ok());
            vec![
                member.member.0.to_string(),
                state.to_owned(),
                member.address.clone(),
                view.map_or(member.term, |view| view.term).to_string(),
                view.map_or("-".to_owned(), |view| view.applied.to_string()),
                match behind(member) {
                    Some(changes) => format!("{changes} changes"),
                    None => "not heard of".to_owned(),
                },
                member.supports.to_string(),
            ]
        })
        .collect();
    let head = [
        "MEMBER", "STATE", "ADDRESS", "TERM", "APPLIED", "LAG", "KNOWS",
    ];
    let mut text = table(&head, &rows);
    for member in &status.members {
        if let Some(Err(why)) = views.get(&member.address) {
            let _ = writeln!(text, "member {} does not answer: {why}", member.member.0);
        }
    }
    let lowest = status.members.iter().map(|m| m.supports).min();
    let highest = status.members.iter().map(|m| m.supports).max();
    let _ = writeln!(text, "the cluster is at feature level {}", status.level);
    if highest > Some(status.level) && lowest < highest {
        let _ = writeln!(
            text,
            "it rises when all members run a version that knows more"
        );
    }
    text
}

/// `, 2 draining`, or nothing.
fn counted(count: u32, what: &str) -> String {
    match count {
        0 => String::new(),
        count => format!(", {count} {what}"),
    }
}

impl Overview {
    fn json(&self) -> Value {
        let status = &self.status;
        json!({
            "cluster": status.cluster.to_string(),
            "feature_level": status.level,
            "members": members_json(&status.members, &self.views),
            "servers": status.servers,
            "servers_alive": status.servers_alive,
            "servers_draining": status.servers_draining,
            "servers_removed": status.servers_removed,
            "groups": status.groups,
            "groups_healthy": status.groups_healthy,
            "groups_degraded": status.groups_degraded,
            "groups_unavailable": status.groups_unavailable,
            "sessions": status.sessions,
            "inodes": status.inodes,
            "intents": status.intents,
            "server_list": servers_json(&self.servers),
            "session_list": sessions_json(&self.sessions),
            "repair": repair::json(&self.repair),
        })
    }

    fn text(&self) -> String {
        let status = &self.status;
        let mut text = format!("cluster {}\n\n", status.cluster);
        text += &members_table(status, &self.views);
        let _ = writeln!(
            text,
            "\n{} of {} servers alive{}{}",
            status.servers_alive,
            status.servers,
            counted(status.servers_draining, "draining"),
            counted(status.servers_removed, "removed"),
        );
        text += &servers(&self.servers, false);
        let _ = writeln!(
            text,
            "\n{} groups: {} healthy, {} degraded, {} unavailable",
            status.groups, status.groups_healthy, status.groups_degraded, status.groups_unavailable
        );
        text += &repair::text(&self.repair);
        let _ = writeln!(text, "\n{} sessions", status.sessions);
        text += &sessions(&self.sessions, false);
        let _ = writeln!(
            text,
            "\n{} inodes, {} cuts and frees to be carried out",
            status.inodes, status.intents
        );
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dfs_proto::ids::{ClusterId, MemberId};

    fn member(number: u64, supports: u16, held: Option<u64>) -> MemberStatus {
        MemberStatus {
            member: MemberId(number),
            address: format!("127.0.0.1:{number}"),
            leader: number == 1,
            votes: true,
            term: 3,
            held,
            end: 9,
            supports,
        }
    }

    fn overview() -> Overview {
        let view = DirectoryView {
            members: Vec::new(),
            leader: Some(MemberId(1)),
            asked: MemberId(1),
            term: 3,
            applied: 8,
            level: 1,
            supports: 2,
        };
        Overview {
            status: Status {
                cluster: ClusterId(0xfeed),
                members: vec![member(1, 2, Some(9)), member(2, 1, None)],
                servers: 3,
                servers_alive: 2,
                servers_draining: 1,
                servers_removed: 0,
                groups: 64,
                groups_healthy: 0,
                groups_degraded: 64,
                groups_unavailable: 0,
                sessions: 1,
                inodes: 5,
                intents: 0,
                level: 1,
            },
            views: BTreeMap::from([
                ("127.0.0.1:1".to_owned(), Ok(view)),
                ("127.0.0.1:2".to_owned(), Err("refused".to_owned())),
            ]),
            servers: Vec::new(),
            sessions: Vec::new(),
            repair: RepairStatus::default(),
        }
    }

    #[test]
    fn the_status_as_json_is_flat_and_greppable() {
        let text = document(&overview().json());
        assert!(text.contains("\"groups_unavailable\": 0"), "{text}");
        let value: Value = serde_json::from_str(&text).expect("valid JSON");
        assert_eq!(value["cluster"], "0000000000000000000000000000feed");
        let members = &value["members"];
        assert_eq!(members[0]["leader"], true);
        assert_eq!(members[0]["applied"], 8);
        assert_eq!(members[0]["behind"], 0);
        assert!(members[1]["behind"].is_null() && members[1]["applied"].is_null());
        assert_eq!(members[1]["error"], "refused");
        assert!(value["session_list"].is_array() && value["repair"].is_object());
    }

    #[test]
    fn one_screen_names_what_is_wrong() {
        let text = overview().text();
        for words in [
            "2 of 3 servers alive, 1 draining",
            "member 2 does not answer: refused",
            "not heard of",
            "feature level 1\nit rises when all members run a version that knows more",
            "64 groups: 0 healthy, 64 degraded, 0 unavailable",
        ] {
            assert!(text.contains(words), "{words}: {text}");
        }
    }
}
