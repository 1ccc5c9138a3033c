//! The tasks with file servers that are played by the test, over real connections.

#![allow(clippy::unwrap_used)]

mod cluster;
mod scenarios;
