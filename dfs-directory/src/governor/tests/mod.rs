//! The governor in virtual time, over the real tables, with servers that do as they are told.

mod changes;
mod moves;
mod returns;
mod slow;
mod world;
