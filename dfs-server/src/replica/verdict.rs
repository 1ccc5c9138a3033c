//! Which of the copies of a chunk is right.
//!
//! Damaged ones never are; of the others what most members hold, then the higher generation and
//! version, then the primary's. A hole never wins over the only copies of something, whole or
//! damaged, unless most members hold none: that would turn an error into zeros.

use dfs_proto::ids::{ChunkKey, Generation, GroupId, Incarnation, ServerId, ServerRun, Version};
use dfs_proto::msg::scrub::{CheckedChunk, CheckedCopy, ScrubFinding};
use std::collections::BTreeMap;

/// Generation, version, length and digest; `None`: a hole.
type Content = Option<(Generation, Version, u32, u32)>;

/// What is right, and what is wrong with the others.
pub(super) struct Verdict {
    /// Who holds the right copy, the primary first; empty: nobody.
    pub(super) right: Vec<ServerRun>,
    pub(super) version: Version,
    pub(super) findings: Vec<ScrubFinding>,
}

/// Compares what was read of one chunk.
pub(super) fn verdict(
    key: ChunkKey,
    group: GroupId,
    copies: &BTreeMap<ServerRun, CheckedChunk>,
    me: Incarnation,
) -> Verdict {
    let content = |chunk: &CheckedChunk| -> Result<Content, String> {
        match &chunk.copy {
            None => Ok(None),
            Some(copy) => {
                let digest = copy.digest.clone()?;
                Ok(Some((copy.generation, copy.version, copy.len, digest)))
            }
        }
    };
    let mut votes: BTreeMap<Content, Vec<ServerRun>> = BTreeMap::new();
    for (run, copy) in copies {
        if let Ok(content) = content(copy) {
            votes.entry(content).or_default().push(*run);
        }
    }
    let of_primary = |voters: &[ServerRun]| voters.iter().any(|run| run.incarnation == me);
    let most = copies.len() / 2;
    let right = votes
        .iter()
        // Holes by a bare majority only, or where nobody holds anything.
        .filter(|(content, voters)| {
            content.is_some() || voters.len() > most || voters.len() == copies.len()
        })
        .max_by_key(|(content, voters)| {
            let age = content.map(|(generation, version, ..)| (generation, version));
            (voters.len(), age, of_primary(voters))
        });
    let version = right
        .and_then(|(content, _)| content.as_ref())
        .map_or(Version::HOLE, |(_, version, ..)| *version);
    let mut holders = right.map_or_else(Vec::new, |(_, voters)| voters.clone());
    holders.sort_by_key(|run| run.incarnation != me);
    let model = holders.first().map(|run| run.server);
    let findings = copies
        .iter()
        .filter(|(run, _)| !holders.contains(run))
        .map(|(run, copy)| ScrubFinding {
            server: run.server,
            group,
            key,
            version: copy.copy.as_ref().map(|copy| copy.version),
            what: describe(
                copy.copy.as_ref(),
                right.map(|(content, _)| *content),
                model,
            ),
            repaired: Err(String::new()),
        })
        .collect();
    Verdict {
        right: holders,
        version,
        findings,
    }
}

/// What is wrong with a copy, beside the right one.
fn describe(copy: Option<&CheckedCopy>, right: Option<Content>, model: Option<ServerId>) -> String {
    let others = model.map_or("nobody".to_owned(), |server| server.to_string());
    match (copy, right.flatten()) {
        (Some(copy), _) if copy.digest.is_err() => copy.digest.clone().err().unwrap_or_default(),
        (None, Some((_, version, ..))) => format!("missing, {others} has {version}"),
        (None, None) => "missing".to_owned(),
        (Some(copy), None) => format!("is {}, {others} has none", copy.version),
        (Some(copy), Some((generation, version, ..)))
            if (copy.generation, copy.version) != (generation, version) =>
        {
            format!(
                "is {} of {}, {others} has {version} of {generation}",
                copy.version, copy.generation
            )
        }
        (Some(_), Some(_)) => {
            format!("has another content than that of {others}, in the same version")
        }
    }
}
