//! The service over loopback connections, with mounts that answer as the test says.
