//! `dfsctl repair`: how far the cluster is from having every copy where it is wanted.

use crate::client::Client;
use crate::show::{bytes, document};
use dfs_proto::msg::admin::{GetRepair, RepairStatus};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::process::ExitCode;
use std::time::Duration;

/// Exit codes, for scripts.
const UNDER_WAY: u8 = 1;
const STUCK: u8 = 2;

/// Between two looks with `--watch`.
const PAUSE: Duration = Duration::from_millis(500);

/// Columns of the bar.
const BAR: usize = 30;

/// What the numbers come to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Whole,
    UnderWay,
    Stuck,
}

fn state(status: &RepairStatus) -> State {
    if !status.stuck.is_empty() {
        State::Stuck
    } else if status.groups > 0 && status.groups_whole == status.groups {
        State::Whole
    } else {
        State::UnderWay
    }
}

fn exit_code(state: State) -> ExitCode {
    match state {
        State::Whole => ExitCode::SUCCESS,
        State::UnderWay => ExitCode::from(UNDER_WAY),
        State::Stuck => ExitCode::from(STUCK),
    }
}

/// Seconds until what is known to be missing is copied, at the present speed.
fn eta_seconds(status: &RepairStatus) -> Option<u64> {
    if status.bytes_left == 0 {
        return None;
    }
    status.bytes_left.checked_div(status.bytes_per_second)
}

/// Prints it once, or with `watch` again and again until nothing is left to do.
pub(crate) async fn run(client: &Client, watch: bool, json: bool) -> Result<ExitCode, String> {
    if !watch {
        let status = client.ask(&GetRepair).await?;
        crate::print(&if json {
            as_json(&status)
        } else {
            text(&status)
        })?;
        return Ok(exit_code(state(&status)));
    }
    let in_place = !json && std::io::stdout().is_terminal();
    loop {
        let status = client.ask(&GetRepair).await?;
        let now = state(&status);
        if json {
            crate::print(&as_json(&status))?;
        } else if in_place {
            // Over the line before; what is left of it is cleared.
            crate::print(&format!("\r{}\x1b[K", line(&status)))?;
        } else {
            crate::print(&format!("{}\n", line(&status)))?;
        }
        std::io::stdout().flush().map_err(|e| e.to_string())?;
        if now != State::UnderWay {
            if in_place {
                crate::print("\n")?;
            }
            if !json {
                crate::print(&text(&status))?;
            }
            return Ok(exit_code(now));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn as_json(status: &RepairStatus) -> String {
    document(&json(status))
}

/// The progress as JSON.
pub(crate) fn json(status: &RepairStatus) -> Value {
    let stuck: Vec<_> = status
        .stuck
        .iter()
        .map(|(group, why)| json!({ "group": group.0, "why": why }))
        .collect();
    let awaited: Vec<_> = status
        .awaited
        .iter()
        .map(|(server, seconds)| json!({ "server": server.0, "seconds": seconds }))
        .collect();
    let state = match state(status) {
        State::Whole => "whole",
        State::UnderWay => "under way",
        State::Stuck => "stuck",
    };
    json!({
        "state": state,
        "groups": status.groups,
        "groups_whole": status.groups_whole,
        "groups_degraded": status.groups_degraded,
        "groups_joining": status.groups_joining,
        "groups_moving": status.groups_moving,
        "groups_unavailable": status.groups_unavailable,
        "chunks_left": status.chunks_left,
        "bytes_left": status.bytes_left,
        "compared": status.compared,
        "chunks_copied": status.chunks_copied,
        "bytes_copied": status.bytes_copied,
        "bytes_per_second": status.bytes_per_second,
        "eta_seconds": eta_seconds(status),
        "awaited": awaited,
        "stuck": stuck,
    })
}

/// One line with a bar over the groups.
fn line(status: &RepairStatus) -> String {
    let groups = status.groups.max(1) as usize;
    let full = BAR * status.groups_whole as usize / groups;
    let mut line = format!(
        "[{}{}] {}/{} groups",
        "#".repeat(full),
        "-".repeat(BAR - full),
        status.groups_whole,
        status.groups
    );
    if status.chunks_left > 0 {
        let _ = write!(
            line,
            ", {} chunks, {}{} left, {}/s",
            status.chunks_left,
            bytes(status.bytes_left),
            if status.compared { "" } else { " or more" },
            bytes(status.bytes_per_second),
        );
    }
    if let Some(seconds) = eta_seconds(status) {
        let _ = write!(line, ", {}", duration(seconds));
    }
    line
}

pub(crate) fn text(status: &RepairStatus) -> String {
    let mut text = String::new();
    let _ = writeln!(
        text,
        "groups   {}: {} whole, {} degraded, {} unavailable; {} joining, {} moving",
        status.groups,
        status.groups_whole,
        status.groups_degraded,
        status.groups_unavailable,
        status.groups_joining,
        status.groups_moving
    );
    if status.groups_joining > 0 {
        let _ = writeln!(
            text,
            "copied   {} chunks, {}; {}/s",
            status.chunks_copied,
            bytes(status.bytes_copied),
            bytes(status.bytes_per_second)
        );
        let more = if status.compared {
            ""
        } else {
            " or more, inventories are being compared"
        };
        let _ = writeln!(
            text,
            "left     {} chunks, {}{more}",
            status.chunks_left,
            bytes(status.bytes_left)
        );
        if let Some(seconds) = eta_seconds(status) {
            let _ = writeln!(text, "time     about {}", duration(seconds));
        }
    }
    for (server, seconds) in &status.awaited {
        let _ = writeln!(
            text,
            "waits    {server} is gone; it is replaced in {}, or at once after `dfsctl server remove {}`",
            duration(*seconds),
            server.0
        );
    }
    // Many groups are usually stuck for the same reason.
    let mut reasons: Vec<(&str, u32)> = Vec::new();
    for (_, why) in &status.stuck {
        match reasons.iter_mut().find(|(known, _)| known == why) {
            Some((_, count)) => *count += 1,
            None => reasons.push((why, 1)),
        }
    }
    for (why, count) in reasons {
        let _ = writeln!(text, "STUCK    {count} groups: {why}");
    }
    if state(status) == State::Whole {
        text.push_str("every copy is where it is wanted\n");
    }
    text
}

fn duration(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        _ => format!("{} h {:02} min", seconds / 3600, seconds % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dfs_proto::ids::{GroupId, ServerId};

    fn status(whole: u32) -> RepairStatus {
        RepairStatus {
            groups: 4,
            groups_whole: whole,
            compared: true,
            ..RepairStatus::default()
        }
    }

    #[test]
    fn the_state_is_what_scripts_are_told() {
        assert_eq!(state(&status(4)), State::Whole);
        assert_eq!(state(&status(3)), State::UnderWay);
        assert_eq!(state(&RepairStatus::default()), State::UnderWay);
        let mut stuck = status(3);
        stuck.stuck.push((GroupId(1), "no server".into()));
        assert_eq!(state(&stuck), State::Stuck);
    }

    #[test]
    fn what_is_left_and_when_it_is_done_is_said() {
        let mut half = status(2);
        half.groups_joining = 2;
        half.chunks_left = 10;
        half.bytes_left = 40 << 20;
        half.bytes_per_second = 10 << 20;
        half.awaited.push((ServerId(3), 75));
        assert_eq!(eta_seconds(&half), Some(4));
        let line = line(&half);
        assert!(line.contains("2/4 groups"), "{line}");
        assert!(line.contains(&"#".repeat(BAR / 2)), "{line}");
        assert!(text(&half).contains("1 min 15 s"), "{}", text(&half));
        half.bytes_per_second = 0;
        assert_eq!(eta_seconds(&half), None);
    }
}
