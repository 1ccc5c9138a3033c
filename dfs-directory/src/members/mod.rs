//! Who the members of the directory are to be: node, number and address of each, in the log; and
//! the feature level that all of them know (`state::level`).
//!
//! This is what is wanted. Raft has its own membership, which follows it step by step
//! (`raft::membership`): a member that is wanted gets the log first, and votes when it has it; one
//! that is not wanted any more loses its vote.
//!
//! A number is given once and never again. A disk that lost its votes could otherwise vote twice
//! in one term, so a member whose data dir was emptied comes back under a new number, and takes
//! the place of the old one at its address.

#[cfg(test)]
mod tests;

use crate::state::level;
use crate::state::tables::{self, Read, Table, TableError, Write};
use dfs_proto::error::ErrorCode;
use dfs_proto::ids::{MemberId, NodeId};
use dfs_proto::msg::member::DirectoryMember;
use serde::{Deserialize, Serialize};
use std::ops::ControlFlow;

/// Most members: every change waits for a majority of them.
pub const MEMBERS_MAX: usize = 7;

/// Longest `HOST:PORT`: a host name has 253 bytes.
pub const ADDRESS_BYTES_MAX: usize = 260;

const NEXT_KEY: &[u8] = b"member";

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum MembersCommand {
    /// Takes a node in, or notes its new address or program. Repeated: the same answer. A node at
    /// the address of another one replaces it. `NoSpace` beyond `MEMBERS_MAX`, `InvalidArgument`
    /// for a bad address, `Unsupported` if its program does not know the cluster's level.
    Admit {
        node: NodeId,
        address: String,
        /// The highest feature level that its program knows.
        supports: u16,
    },
    /// Takes a member out. `NotFound` if there is none such, `Busy` if it is the last one.
    Remove { member: MemberId },
    /// Raises the cluster's feature level to the lowest that its members know. `InvalidArgument`
    /// if that is another one, or not above the present one.
    Raise { level: u16 },
}

/// What a command did, or why it was refused. A refused command changed nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MembersOutcome(pub Result<Option<MemberId>, ErrorCode>);

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Record {
    node: NodeId,
    address: String,
    supports: u16,
}

/// Applies one command.
pub fn apply(
    tables: &mut dyn Write,
    command: &MembersCommand,
) -> Result<MembersOutcome, TableError> {
    Ok(MembersOutcome(match command {
        MembersCommand::Admit {
            node,
            address,
            supports,
        } => admit(tables, *node, address, *supports)?.map(Some),
        MembersCommand::Remove { member } => remove(tables, *member)?.map(Some),
        MembersCommand::Raise { level } => raise(tables, *level)?.map(|()| None),
    }))
}

/// The members that there are to be, ordered by number.
pub fn list(tables: &(impl Read + ?Sized)) -> Result<Vec<DirectoryMember>, TableError> {
    let all = records(tables)?;
    Ok(all
        .into_iter()
        .map(|(member, record)| DirectoryMember {
            member,
            address: record.address,
        })
        .collect())
}

fn admit(
    tables: &mut dyn Write,
    node: NodeId,
    address: &str,
    supports: u16,
) -> Result<Result<MemberId, ErrorCode>, TableError> {
    let plain = |c: char| c.is_ascii_graphic();
    let ends_in_port = address
        .rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|p| p != 0));
    if address.len() > ADDRESS_BYTES_MAX || !address.chars().all(plain) || !ends_in_port {
        return Ok(Err(ErrorCode::InvalidArgument));
    }
    if supports < level::of_cluster(tables)? {
        return Ok(Err(ErrorCode::Unsupported));
    }
    let all = records(tables)?;
    let record = Record {
        node,
        address: address.to_owned(),
        supports,
    };
    let known = all.iter().find(|(_, r)| r.node == node).map(|(id, _)| *id);
    let replaced: Vec<MemberId> = all
        .iter()
        .filter(|(_, r)| r.address == address && r.node != node)
        .map(|(id, _)| *id)
        .collect();
    if known.is_none() && all.len() - replaced.len() >= MEMBERS_MAX {
        return Ok(Err(ErrorCode::NoSpace));
    }
    for old in replaced {
        tables.delete(Table::Members, &key(old))?;
    }
    let member = match known {
        Some(member) => member,
        None => next_number(tables)?,
    };
    tables::store(tables, Table::Members, &key(member), &record)?;
    Ok(Ok(member))
}

fn remove(
    tables: &mut dyn Write,
    member: MemberId,
) -> Result<Result<MemberId, ErrorCode>, TableError> {
    let all = records(tables)?;
    if !all.iter().any(|(id, _)| *id == member) {
        return Ok(Err(ErrorCode::NotFound));
    }
    if all.len() == 1 {
        return Ok(Err(ErrorCode::Busy));
    }
    tables.delete(Table::Members, &key(member))?;
    Ok(Ok(member))
}

fn raise(tables: &mut dyn Write, level: u16) -> Result<Result<(), ErrorCode>, TableError> {
    if raisable(tables)? != Some(level) {
        return Ok(Err(ErrorCode::InvalidArgument));
    }
    level::raise(tables, level)?;
    Ok(Ok(()))
}

/// The level that all members know, if it is above the cluster's.
pub fn raisable(tables: &(impl Read + ?Sized)) -> Result<Option<u16>, TableError> {
    let lowest = records(tables)?.iter().map(|(_, r)| r.supports).min();
    let present = level::of_cluster(tables)?;
    Ok(lowest.filter(|lowest| *lowest > present))
}

/// The feature level that each member's program knows, as it has said last.
pub fn supported(tables: &(impl Read + ?Sized)) -> Result<Vec<(MemberId, u16)>, TableError> {
    let all = records(tables)?.into_iter();
    Ok(all
        .map(|(member, record)| (member, record.supports))
        .collect())
}

fn next_number(tables: &mut dyn Write) -> Result<MemberId, TableError> {
    let next = next(tables)?;
    tables::store(tables, Table::Meta, NEXT_KEY, &(next.0 + 1))?;
    Ok(next)
}

/// The number of the next new member.
pub fn next(tables: &(impl Read + ?Sized)) -> Result<MemberId, TableError> {
    let next = tables::load(tables, Table::Meta, NEXT_KEY)?;
    Ok(MemberId(next.unwrap_or(1)))
}

fn key(member: MemberId) -> [u8; 8] {
    member.0.to_be_bytes()
}

fn records(tables: &(impl Read + ?Sized)) -> Result<Vec<(MemberId, Record)>, TableError> {
    let mut all = Vec::new();
    let mut failed = None;
    tables.scan(Table::Members, &[], &mut |key, value| {
        let number = <[u8; 8]>::try_from(key).map(u64::from_be_bytes);
        match (number, tables::decode(value)) {
            (Ok(number), Ok(record)) => {
                all.push((MemberId(number), record));
                ControlFlow::Continue(())
            }
            (_, Err(e)) => {
                failed = Some(e);
                ControlFlow::Break(())
            }
            (Err(_), _) => {
                failed = Some(TableError("a member's key is not a number".to_owned()));
                ControlFlow::Break(())
            }
        }
    })?;
    failed.map_or(Ok(all), Err)
}
