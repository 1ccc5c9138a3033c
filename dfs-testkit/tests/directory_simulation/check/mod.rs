//! What must be true.
//!
//! | module | rule |
//! | --- | --- |
//! | `names` | changes of names are executed once, in the order of the log, and seen by whoever looks after their answer |
//! | `holds` | locks and exclusive leases exclude each other over all mounts |
//! | `values` | data are one register under leases |

pub(crate) mod holds;
pub(crate) mod names;
pub(crate) mod values;
