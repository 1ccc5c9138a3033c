//! The beginning of a cluster: the root dir, and what was chosen for good.

use super::inodes::{self, Done};
use super::records::{DIR_BYTES, Effect, FIRST_COOKIE, FormatRecord, InodeRecord, StoredKind};
use super::{Format, keys, read};
use crate::state::record::store_record;
use crate::state::tables::{Table, Write};
use dfs_proto::attr::Timestamp;
use dfs_proto::error::ErrorCode;
use dfs_proto::ids::{GroupId, ROOT};
use dfs_proto::layout::FileLayout;
use dfs_proto::limits::REPLICAS_MAX;

/// Replica groups there can be: a map of them fits into one message.
pub(super) const GROUPS_MAX: u32 = 4096;

pub(super) fn format(tables: &mut dyn Write, now: Timestamp, format: Format) -> Done<Effect> {
    check(&format)?;
    match read::format(tables)? {
        Some(known) if known == format => {
            return Ok(Effect::on(ROOT, inodes::named(tables, ROOT)?));
        }
        Some(_) => return Err(ErrorCode::Exists.into()),
        None => {}
    }
    let stored = FormatRecord::from(format);
    let root = InodeRecord {
        kind: StoredKind::Dir,
        mode: 0o755,
        links: 2,
        uid: stored.uid,
        gid: stored.gid,
        device: 0,
        size: DIR_BYTES,
        accessed: now.into(),
        modified: now.into(),
        changed: now.into(),
        sparse: false,
        generation: 0,
        layout: inodes::layout(&stored, ROOT),
        parent: ROOT.0,
        next_cookie: FIRST_COOKIE,
        xattrs: 0,
    };
    let mut counters = inodes::counters(tables)?;
    counters.next_inode = ROOT.0 + 1;
    counters.inodes = 1;
    inodes::put_counters(tables, &counters)?;
    inodes::put(tables, ROOT, &root)?;
    store_record(tables, Table::Meta, keys::FORMAT, &stored)?;
    Ok(Effect {
        created: true,
        ..Effect::on(ROOT, root)
    })
}

fn check(format: &Format) -> Result<(), ErrorCode> {
    let layout = FileLayout {
        chunk_bytes: format.chunk_bytes,
        first_group: GroupId(0),
        groups: format.groups,
    };
    let replicas = usize::from(format.replicas);
    let good = layout.is_valid()
        && format.groups <= GROUPS_MAX
        && (1..=REPLICAS_MAX).contains(&replicas)
        && (1..=format.replicas).contains(&format.min_in_sync);
    if good {
        Ok(())
    } else {
        Err(ErrorCode::InvalidArgument)
    }
}
