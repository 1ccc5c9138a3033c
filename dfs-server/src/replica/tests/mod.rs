//! Tests of the core: single decisions with their exact actions, and three cores together.

#![allow(clippy::unwrap_used)]

mod changes;
mod floors;
mod holes;
mod joining;
mod measure;
mod memory;
#[cfg(feature = "planted-bugs")]
mod planted;
mod release;
mod scrub;
mod seeds;
mod world;
mod writes;
