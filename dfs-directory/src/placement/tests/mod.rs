//! The transition against its table in the documentation, and against random histories.

#![allow(clippy::unwrap_used)]

mod commands;
mod history;
mod repair;
mod table;
