//! `dfsctl scrub --status`: what the servers' own scrub is at, and what they keep in quarantine.

use crate::client::Client;
use crate::scrub::{duration, names};
use crate::show::{bytes, document, table};
use dfs_proto::ids::InodeId;
use dfs_proto::msg::scrub::{ListScrubs, ServerScrub};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

pub(crate) async fn status(client: &Client, json: bool) -> Result<String, String> {
    let scrubs = client.ask(&ListScrubs).await?;
    let kept = scrubs.iter().filter_map(|s| s.state.as_ref().ok());
    let inodes = kept.flat_map(|state| state.quarantined.iter().map(|q| q.key.inode));
    let names = names(client, inodes).await;
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    Ok(show_status(
        &scrubs,
        &names,
        now.map_or(0, |now| now.as_secs()),
        json,
    ))
}

fn show_status(
    scrubs: &[ServerScrub],
    names: &BTreeMap<InodeId, String>,
    now: u64,
    json: bool,
) -> String {
    if json {
        let servers: Vec<Value> = scrubs
            .iter()
            .map(|scrub| status_json(scrub, names))
            .collect();
        return document(&Value::Array(servers));
    }
    let rows: Vec<Vec<String>> = scrubs
        .iter()
        .map(|scrub| {
            let server = scrub.server.0.to_string();
            let state = match &scrub.state {
                Ok(state) => state,
                Err(why) => return vec![server, why.clone()],
            };
            let every = match state.every_s {
                0 => "never".to_owned(),
                every => duration(every as f64),
            };
            let oldest = match (state.never, state.oldest_s) {
                (0, 0) => "-".to_owned(),
                (0, at) => format!("{} ago", duration(now.saturating_sub(at) as f64)),
                (never, _) => format!("{never} groups not yet"),
            };
            vec![
                server,
                every,
                format!("{}/s", bytes(state.rate)),
                state.groups.to_string(),
                state.running.to_string(),
                oldest,
                state.chunks.to_string(),
                bytes(state.bytes),
                state.found.to_string(),
                state.repaired.to_string(),
                state.quarantined.len().to_string(),
            ]
        })
        .collect();
    let head = [
        "SERVER",
        "EVERY",
        "RATE",
        "LEADS",
        "RUNNING",
        "OLDEST",
        "CHUNKS",
        "READ",
        "FOUND",
        "REPAIRED",
        "QUARANTINE",
    ];
    let mut text = table(&head, &rows);
    for scrub in scrubs {
        for kept in scrub.state.iter().flat_map(|state| &state.quarantined) {
            let _ = writeln!(
                text,
                "quarantine of {}: {} {}, {} ago, {}: {}",
                scrub.server,
                kept.key,
                names
                    .get(&kept.key.inode)
                    .map_or("(no name)", String::as_str),
                duration(now.saturating_sub(kept.at_s) as f64),
                bytes(kept.bytes),
                kept.why
            );
        }
    }
    text
}

fn status_json(scrub: &ServerScrub, names: &BTreeMap<InodeId, String>) -> Value {
    let server = scrub.server.0;
    let state = match &scrub.state {
        Ok(state) => state,
        Err(why) => return json!({ "server": server, "error": why }),
    };
    let quarantined: Vec<Value> = state
        .quarantined
        .iter()
        .map(|kept| {
            json!({
                "inode": kept.key.inode.0,
                "chunk": kept.key.index.0,
                "path": names.get(&kept.key.inode),
                "at": kept.at_s,
                "bytes": kept.bytes,
                "why": kept.why,
            })
        })
        .collect();
    json!({
        "server": server,
        "every_s": state.every_s,
        "rate": state.rate,
        "groups": state.groups,
        "never": state.never,
        "running": state.running,
        "oldest": (state.oldest_s > 0).then_some(state.oldest_s),
        "chunks": state.chunks,
        "bytes": state.bytes,
        "found": state.found,
        "repaired": state.repaired,
        "quarantined": quarantined,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use dfs_proto::ids::{ChunkIndex, ChunkKey, ServerId};
    use dfs_proto::msg::scrub::{Quarantined, ScrubState};

    const KEY: ChunkKey = ChunkKey {
        inode: InodeId(12),
        index: ChunkIndex(3),
    };

    #[test]
    fn the_state_of_a_server_that_is_away_is_told_too() {
        let scrubs = [
            ServerScrub {
                server: ServerId(1),
                state: Ok(ScrubState {
                    every_s: 604_800,
                    groups: 4,
                    oldest_s: 1000,
                    quarantined: vec![Quarantined {
                        key: KEY,
                        at_s: 4000,
                        bytes: 8192,
                        why: "its header is damaged".into(),
                    }],
                    ..ScrubState::default()
                }),
            },
            ServerScrub {
                server: ServerId(2),
                state: Err("it is not connected".into()),
            },
        ];
        let text = show_status(&scrubs, &BTreeMap::new(), 4600, false);
        assert!(
            text.contains("7 days") && text.contains("1 h ago"),
            "{text}"
        );
        assert!(text.contains("it is not connected"), "{text}");
        assert!(text.contains("10 min ago"), "{text}");
        let text = show_status(&scrubs, &BTreeMap::new(), 4600, true);
        let value: Value = serde_json::from_str(&text).expect("valid JSON");
        assert_eq!(value[0]["quarantined"][0]["chunk"], 3);
        assert_eq!(value[1]["error"], "it is not connected");
    }
}
