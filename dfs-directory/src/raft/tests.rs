//! The member as a whole, on a real disk.

#![allow(clippy::unwrap_used)]

mod conformance;
mod group;
mod member;
mod snapshots;
