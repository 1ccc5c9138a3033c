//! The service over loopback connections, with mounts that answer as the test says.

mod ending;
mod harness;
mod leases;
mod locks;
mod mutations;
mod restart;
mod rights;
