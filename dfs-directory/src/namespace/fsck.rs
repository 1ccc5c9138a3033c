//! Whether the tables agree with each other.
