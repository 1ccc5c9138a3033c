//! Messages: one struct a request, with its method number and the type of its answer.
//!
//! | module | from -> to |
//! | --- | --- |
//! | `session` | mount -> directory: sessions, leases, opens, locks, reclaim |
//! | `namespace` | mount -> directory: names and attributes |
//! | `callback` | directory -> mount |
//! | `registry` | file server -> directory |
//! | `control` | directory -> file server |
//! | `chunk` | mount -> file server |
//! | `peer` | file server -> file server |
//! | `admin` | `dfsctl` -> directory |
//! | `member` | directory member <-> directory member; `dfsctl` -> directory |
//! | `scrub` | `dfsctl` -> directory -> file server -> file server: scrub and fsck |
//!
//! The body of a frame is the encoded request, or for a reply the encoded
//! `Result<Response, Error>`; file data travel beside it as the frame's payload.
//!
//! # What decoding does not check
//!
//! Decoding guarantees the types (a `FileName` is a name, an enum has a known variant, nothing
//! is larger than the body that carried it). The rest is checked by whoever serves a request or
//! uses an answer, before computing with it:
//!
//! | what | check |
//! | --- | --- |
//! | `FileLayout` | `is_valid()`: a chunk size of 0 divides |
//! | `LockRange` | `start <= last` |
//! | `Timestamp` | `nanoseconds < 1_000_000_000` |
//! | modes | `<= 0o7777` |
//! | `offset`, `len` of chunk requests | end within the chunk, without overflow; `len <= IO_BYTES_MAX` (`PAYLOAD_BYTES_MAX` between servers) |
//! | payload of chunk requests and answers | its length, and `payload::verify_checksums` |
//! | `size` of `SetSize` and `SizeTimes` | `<= FILE_BYTES_MAX` |
//! | `from`, `to` of `Punch` and `CutInode` | `from < to` |
//! | `target` of `Symlink` | not empty, no NUL, `<= SYMLINK_BYTES_MAX` |
//! | `name`, `value` of `SetXattr` | `<= XATTR_NAME_BYTES_MAX`, `<= XATTR_VALUE_BYTES_MAX`; an ACL is one |
//! | `umask` of `Creator` | only the bits `0o777` count |
//! | `items_max`, `entries_max` | capped by the page limits of `limits`, and at least 1 |
//! | host names, mount points, addresses, reasons | length, before they are stored; control characters, before they are logged |
//! | `ClusterMap`, `GroupConfig` | `groups` in order, `members` and `in_sync` within `REPLICAS_MAX` and distinct, the primary among them |
//! | lists that answer a list | the same length, the same order |
//! | sessions, servers, inodes, groups | that they exist and belong to who asks |

pub mod admin;
pub mod callback;
pub mod chunk;
pub mod control;
pub mod member;
pub mod namespace;
pub mod peer;
pub mod registry;
pub mod scrub;
pub mod session;

use serde::{Serialize, de::DeserializeOwned};
use std::fmt::Debug;

/// A request that can be sent over a connection.
pub trait Request: Serialize + DeserializeOwned + Debug + Send + Sync + 'static {
    /// Its number on the wire, never reused for another meaning.
    const METHOD: u16;
    /// Its name in logs.
    const NAME: &'static str;
    type Response: Serialize + DeserializeOwned + Send + 'static;
}

/// Something to be done for every method of the protocol, with its types at hand.
pub trait Visit {
    fn method<R: Request>(&mut self);
}

/// Declares method numbers: `requests! { 0x0101 Lookup => Entry; ... }`.
macro_rules! requests {
    ($( $number:literal $request:ident => $response:ty; )*) => {
        $(
            impl $crate::msg::Request for $request {
                const METHOD: u16 = $number;
                const NAME: &'static str = stringify!($request);
                type Response = $response;
            }
        )*
        /// Method numbers and names of this module.
        pub const METHODS: &[(u16, &str)] = &[$(($number, stringify!($request))),*];

        /// Visits the methods of this module, in the order of their numbers.
        pub fn visit(visitor: &mut impl $crate::msg::Visit) {
            $( visitor.method::<$request>(); )*
        }
    };
}
pub(crate) use requests;

/// Every method of the protocol, by module.
pub fn methods() -> impl Iterator<Item = (u16, &'static str)> {
    [
        session::METHODS,
        namespace::METHODS,
        callback::METHODS,
        registry::METHODS,
        control::METHODS,
        chunk::METHODS,
        peer::METHODS,
        admin::METHODS,
        member::METHODS,
        scrub::METHODS,
    ]
    .into_iter()
    .flatten()
    .copied()
}

/// Visits every method of the protocol, by module.
pub fn visit(visitor: &mut impl Visit) {
    session::visit(visitor);
    namespace::visit(visitor);
    callback::visit(visitor);
    registry::visit(visitor);
    control::visit(visitor);
    chunk::visit(visitor);
    peer::visit(visitor);
    admin::visit(visitor);
    member::visit(visitor);
    scrub::visit(visitor);
}

/// The name of a method number, for logs.
pub fn method_name(method: u16) -> &'static str {
    methods()
        .find(|(number, _)| *number == method)
        .map_or("unknown", |(_, name)| name)
}

#[cfg(test)]
mod tests {
    struct Numbers(Vec<u16>);

    impl super::Visit for Numbers {
        fn method<R: super::Request>(&mut self) {
            self.0.push(R::METHOD);
        }
    }

    #[test]
    fn every_method_is_visited() {
        let mut visited = Numbers(Vec::new());
        super::visit(&mut visited);
        let listed: Vec<u16> = super::methods().map(|(number, _)| number).collect();
        assert_eq!(visited.0, listed);
    }

    #[test]
    fn method_numbers_are_distinct() {
        let mut numbers: Vec<u16> = super::methods().map(|(number, _)| number).collect();
        let all = numbers.len();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), all);
    }
}
