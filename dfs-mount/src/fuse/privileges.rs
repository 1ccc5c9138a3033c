//! What the caller of a request may do beyond its user and group, where the kernel leaves the
//! decision to the file system: read from `/proc`, and only where it makes a difference.
//!
//! Who can't be looked at (another pid namespace) has no privileges here.

use crate::client::{Keeps, Writer};
use fuser::Request;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Capability numbers of Linux.
const CAP_FSETID: u32 = 4;
const CAP_SYS_ADMIN: u32 = 21;

/// The caller's effective capabilities and its groups.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Privileges {
    capabilities: u64,
    groups: Vec<u32>,
}

impl Privileges {
    /// Of the thread that waits for a request.
    pub(super) fn of(thread: u32) -> Self {
        if thread == 0 {
            return Self::default();
        }
        let status = std::fs::read(format!("/proc/{thread}/status"));
        let mut found = status.map_or_else(|_| Self::default(), |text| Self::parse(&text));
        if found.capabilities != 0 && !is_in_our_user_namespace(thread) {
            // They count for what belongs to its own user namespace.
            found.capabilities = 0;
        }
        found
    }

    fn parse(status: &[u8]) -> Self {
        let mut found = Self::default();
        for line in status.split(|b| *b == b'\n') {
            let Ok(line) = std::str::from_utf8(line) else {
                continue;
            };
            if let Some(groups) = line.strip_prefix("Groups:") {
                let groups = groups.split_ascii_whitespace();
                found.groups = groups.filter_map(|group| group.parse().ok()).collect();
            } else if let Some(mask) = line.strip_prefix("CapEff:") {
                found.capabilities = u64::from_str_radix(mask.trim(), 16).unwrap_or(0);
            }
        }
        found
    }

    fn has(&self, capability: u32) -> bool {
        self.capabilities & (1 << capability) != 0
    }

    /// Whether it sees `trusted.` attributes.
    pub(super) fn is_admin(&self) -> bool {
        self.has(CAP_SYS_ADMIN)
    }

    /// Whether it may keep the setuid and setgid bits of what it changes.
    pub(super) fn keeps_set_ids(&self) -> bool {
        self.has(CAP_FSETID)
    }

    /// Whether the group is one of its supplementary ones.
    pub(super) fn is_in(&self, group: u32) -> bool {
        self.groups.contains(&group)
    }
}

/// The caller of a request, as the client core asks for it; `looked` tells whether it did.
pub(super) fn writer(request: &Request, looked: &Arc<AtomicBool>) -> Writer {
    let (thread, gid, looked) = (request.pid(), request.gid(), looked.clone());
    Writer::caller(move |group| {
        looked.store(true, Ordering::Relaxed);
        let caller = Privileges::of(thread);
        Keeps {
            set_ids: caller.keeps_set_ids(),
            group: gid == group || caller.is_in(group),
        }
    })
}

/// Unknown is no.
fn is_in_our_user_namespace(thread: u32) -> bool {
    let of = |who: &str| std::fs::read_link(Path::new("/proc").join(who).join("ns/user")).ok();
    let ours = of("self");
    ours.is_some() && ours == of(&thread.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_and_groups_are_read() {
        let text = "Name:\tx\nGroups:\t0 4 1000 \nCapPrm:\t0000000000000000\n\
                    CapEff:\t0000000000200010\nCapBnd:\t000001ffffffffff\n";
        let found = Privileges::parse(text.as_bytes());
        assert!(found.is_admin() && found.keeps_set_ids());
        assert!(found.is_in(4) && !found.is_in(5));
        let none = Privileges::parse(b"Groups:\t\nCapEff:\t0000000000000000\n");
        assert_eq!(none, Privileges::default());
        assert_eq!(Privileges::parse(b"\xff\nCapEff:\tno\n"), none);
    }

    #[test]
    fn who_can_not_be_looked_at_has_none() {
        assert_eq!(Privileges::of(0), Privileges::default());
        assert!(!Privileges::of(u32::MAX).is_admin());
    }

    #[test]
    fn this_thread_is_seen_as_it_is() {
        let status = std::fs::read_to_string("/proc/self/status").expect("readable");
        let found = Privileges::of(std::process::id());
        let expected = Privileges::parse(status.as_bytes());
        assert_eq!(found, expected);
    }
}
