//! The member as a whole, on a real disk.
