//! Tests of the tables: by example, and against naive models.

mod lease_properties;
mod leases;
mod lock_model;
mod locks;
mod many_locks;
