//! What changes a cluster: the life of servers, and settings.

use crate::client::Client;
use crate::show::{bytes, document};
use clap::{Args, Subcommand};
use dfs_proto::cluster::{ClusterSettings, ServerLife};
use dfs_proto::ids::ServerId;
use dfs_proto::msg::admin::{ChangeSettings, GetSettings, ListServers, SetServerLife};
use serde_json::json;

#[derive(Debug, Subcommand)]
pub(crate) enum ServerOrder {
    /// Empties a server for maintenance: its groups move to others without losing a copy.
    Drain { server: String },
    /// Uses a server (again): takes back `drain` and `remove`.
    Undrain { server: String },
    /// Gives a server up: its groups are replaced on others at once. What it holds is deleted
    /// should it come back.
    Remove { server: String },
}

#[derive(Debug, Args)]
pub(crate) struct Changes {
    /// A server that is gone for longer is replaced: seconds, or with s, m, h.
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    replace_after: Option<u64>,
    /// What one server may copy to bring others up to date: bytes a second, or with K, M, G;
    /// 0 does not limit it.
    #[arg(long, value_name = "BYTES", value_parser = size)]
    repair_rate: Option<u64>,
}

fn with_unit(text: &str, units: &[(char, u64)]) -> Result<u64, String> {
    let unit = units.iter().find(|(unit, _)| {
        text.chars()
            .last()
            .is_some_and(|last| last.eq_ignore_ascii_case(unit))
    });
    let (number, factor) = match unit {
        Some((_, factor)) => (&text[..text.len() - 1], *factor),
        None => (text, 1),
    };
    number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(factor))
        .ok_or_else(|| format!("{text} is no such number"))
}

fn seconds(text: &str) -> Result<u64, String> {
    with_unit(text, &[('s', 1), ('m', 60), ('h', 3600)])
}

fn size(text: &str) -> Result<u64, String> {
    with_unit(text, &[('k', 1 << 10), ('m', 1 << 20), ('g', 1 << 30)])
}

/// A server by its number or its address.
async fn find(client: &Client, name: &str) -> Result<ServerId, String> {
    let servers = client.ask(&ListServers).await?;
    let found: Vec<ServerId> = servers
        .iter()
        .filter(|s| s.entry.run.server.0.to_string() == name || s.entry.address == name)
        .map(|s| s.entry.run.server)
        .collect();
    match found[..] {
        [server] => Ok(server),
        [] => Err(format!("no server {name}; `dfsctl servers` lists them")),
        _ => Err(format!(
            "{name} is the address of several servers: name one by its number"
        )),
    }
}

pub(crate) async fn server(client: &Client, order: &ServerOrder) -> Result<String, String> {
    let (name, life) = match order {
        ServerOrder::Drain { server } => (server, ServerLife::Draining),
        ServerOrder::Undrain { server } => (server, ServerLife::Active),
        ServerOrder::Remove { server } => (server, ServerLife::Removed),
    };
    let server = find(client, name).await?;
    client.ask(&SetServerLife { server, life }).await?;
    Ok(match life {
        ServerLife::Active => format!("{server} takes groups\n"),
        ServerLife::Draining | ServerLife::Removed => {
            format!("groups leave {server}; `dfsctl repair --watch` shows how far they are\n")
        }
    })
}

pub(crate) async fn set(client: &Client, changes: &Changes, json: bool) -> Result<String, String> {
    let mut settings = client.ask(&GetSettings).await?;
    let present = settings;
    if let Some(seconds) = changes.replace_after {
        settings.replace_after_seconds = seconds;
    }
    if let Some(rate) = changes.repair_rate {
        settings.repair_rate = rate;
    }
    if settings != present {
        client.ask(&ChangeSettings { settings }).await?;
    }
    Ok(show(&settings, json))
}

fn show(settings: &ClusterSettings, json: bool) -> String {
    if json {
        return document(&json!({
            "replace_after_seconds": settings.replace_after_seconds,
            "repair_rate": settings.repair_rate,
        }));
    }
    let rate = match settings.repair_rate {
        0 => "not limited".to_owned(),
        rate => format!("{}/s for each copying server", bytes(rate)),
    };
    format!(
        "replace-after  {} s\nrepair-rate    {rate}\n",
        settings.replace_after_seconds
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_sizes_have_units() {
        assert_eq!(seconds("90"), Ok(90));
        assert_eq!(seconds("10m"), Ok(600));
        assert_eq!(seconds("2H"), Ok(7200));
        assert!(seconds("m").is_err());
        assert_eq!(size("100M"), Ok(100 << 20));
        assert_eq!(size("0"), Ok(0));
        assert!(size("99999999999999999999G").is_err());
        assert!(size("-1").is_err());
    }
}
