//! What the leader of the directory does by itself: it watches file servers, gives groups new
//! epochs and drives them until they serve, carries out cuts, and fences ended sessions.
//!
//! What is to be done is decided by `crate::governor`, without network or clock; the tasks here
//! feed it and do what it says.
//!
//! Everything that a task needs to go on after a restart is in the log; what is here in memory
//! can be lost at any moment.

mod cuts;
mod events;
mod fences;
mod governor;
mod handle;
mod measures;
mod reign;
#[cfg(any(test, feature = "testing"))]
mod simulated;
mod view;

#[cfg(test)]
mod tests;

pub use events::ServerEvents;
pub use handle::{Placement, Unmeasured};
pub use reign::Tasks;
#[cfg(any(test, feature = "testing"))]
pub use simulated::SimulatedServers;
pub(crate) use view::{View, clock, now};
