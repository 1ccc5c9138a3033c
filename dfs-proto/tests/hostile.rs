//! Bytes from a broken or hostile peer: no decoder panics, none allocates what a length claims.

mod samples;

use dfs_proto::codec::{decode, encode};
use dfs_proto::error::Error;
use dfs_proto::frame::{FrameError, HEADER_BYTES, Header, Kind, VERSION_HANDSHAKE};
use dfs_proto::handshake::{HELLO_BYTES, Hello, Refusal};
use dfs_proto::limits::{BODY_BYTES_MAX, PAYLOAD_BYTES_MAX};
use dfs_proto::msg::{Request, Visit, visit};
use proptest::prelude::*;
use samples::samples;
use serde::{Serialize, de::DeserializeOwned};

fn flip(bytes: &mut [u8], bit: usize) {
    bytes[bit / 8] ^= 1 << (bit % 8);
}

fn kinds() -> impl Strategy<Value = Kind> {
    proptest::sample::select(vec![
        Kind::Request,
        Kind::UndatedRequest,
        Kind::Reply,
        Kind::Cancel,
    ])
}

proptest! {
    #[test]
    fn a_garbage_header_is_refused(bytes in any::<[u8; HEADER_BYTES]>(), version in 0u16..3) {
        prop_assert!(Header::decode(&bytes, version).is_err());
    }

    #[test]
    fn a_header_survives_and_any_flipped_bit_is_found(
        kind in kinds(),
        method in any::<u16>(),
        id in 1..u64::MAX,
        bit in 0..HEADER_BYTES * 8,
    ) {
        let header = Header::new(kind, 1, method, id, &[], 0);
        let mut bytes = header.encode();
        prop_assert_eq!(Header::decode(&bytes, 1), Ok(header));
        flip(&mut bytes, bit);
        prop_assert!(Header::decode(&bytes, 1).is_err());
    }

    #[test]
    fn lengths_over_the_limit_are_refused(body_len in any::<u32>(), payload_len in any::<u32>()) {
        let mut header = Header::new(Kind::Request, 1, 1, 1, &[], 0);
        (header.body_len, header.payload_len) = (body_len, payload_len);
        let decoded = Header::decode(&header.encode(), 1);
        let expected = if body_len as usize > BODY_BYTES_MAX {
            Err(FrameError::BodyTooLong(body_len))
        } else if payload_len as usize > PAYLOAD_BYTES_MAX {
            Err(FrameError::PayloadTooLong(payload_len))
        } else {
            Ok(header)
        };
        prop_assert_eq!(decoded, expected);
    }

    #[test]
    fn a_flipped_bit_in_a_body_is_found(
        mut body in proptest::collection::vec(any::<u8>(), 1..500),
        bit in any::<proptest::sample::Index>(),
    ) {
        let header = Header::new(Kind::Reply, 1, 1, 1, &body, 0);
        prop_assert_eq!(header.check_body(&body), Ok(()));
        let bits = body.len() * 8;
        flip(&mut body, bit.index(bits));
        prop_assert_eq!(header.check_body(&body), Err(FrameError::BodyChecksum));
        body.pop();
        prop_assert_eq!(header.check_body(&body), Err(FrameError::BodyChecksum));
    }

    #[test]
    fn handshake_bodies_of_any_content_are_read_or_refused(
        body in proptest::collection::vec(any::<u8>(), 0..512),
    ) {
        let hello = Hello::decode(&body);
        prop_assert!(body.len() >= HELLO_BYTES || hello.is_err());
        let text = Refusal::decode(&body).text;
        prop_assert!(!text.chars().any(char::is_control));
    }

    #[test]
    fn garbage_decodes_to_no_panic_in_any_message(
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        struct Garbage<'a>(&'a [u8]);
        impl Visit for Garbage<'_> {
            fn method<R: Request>(&mut self) {
                let _ = decode::<R>(self.0);
                let _ = decode::<Result<R::Response, Error>>(self.0);
            }
        }
        visit(&mut Garbage(&bytes));
    }
}

#[test]
fn kinds_belong_to_their_time() {
    let hello = Header::new(Kind::Hello, VERSION_HANDSHAKE, 0, 0, &[], 0).encode();
    assert!(Header::decode(&hello, VERSION_HANDSHAKE).is_ok());
    assert_eq!(Header::decode(&hello, 1), Err(FrameError::Version(0)));
    let mut early = Header::new(Kind::Request, VERSION_HANDSHAKE, 1, 1, &[], 0);
    let decoded = Header::decode(&early.encode(), VERSION_HANDSHAKE);
    assert_eq!(decoded, Err(FrameError::Kind(1)));
    // A hello cannot make a stranger's length be believed, a long wait cannot hold a payload,
    // and a request has an id.
    early.kind = Kind::Hello;
    (early.id, early.body_len) = (0, 513);
    let decoded = Header::decode(&early.encode(), VERSION_HANDSHAKE);
    assert_eq!(decoded, Err(FrameError::BodyTooLong(513)));
    let mut undated = Header::new(Kind::UndatedRequest, 1, 1, 1, &[], 0);
    undated.payload_len = 1;
    let decoded = Header::decode(&undated.encode(), 1);
    assert_eq!(decoded, Err(FrameError::PayloadTooLong(1)));
    (undated.payload_len, undated.id) = (0, 0);
    assert_eq!(Header::decode(&undated.encode(), 1), Err(FrameError::Field));
}

/// Damages the samples of every message in every way that is cheap to try.
struct Damage;

impl Damage {
    fn try_all<T: Serialize + DeserializeOwned>(&self, name: &str) {
        for sample in samples::<T>() {
            let bytes = encode(&sample).expect("a sample is small");
            for len in 0..bytes.len() {
                assert!(decode::<T>(&bytes[..len]).is_err(), "{name} cut to {len}");
            }
            for bit in 0..bytes.len() * 8 {
                let mut flipped = bytes.clone();
                flip(&mut flipped, bit);
                let _ = decode::<T>(&flipped);
            }
            // A huge number in every place: some of the places are lengths.
            for at in 0..bytes.len() {
                for claim in [u64::MAX, 1 << 40, 1 << 32, (BODY_BYTES_MAX as u64) * 2] {
                    let mut hostile = bytes[..at].to_vec();
                    hostile.push(253);
                    hostile.extend_from_slice(&claim.to_le_bytes());
                    hostile.extend_from_slice(&bytes[at + 1..]);
                    let _ = decode::<T>(&hostile);
                }
            }
        }
    }
}

impl Visit for Damage {
    fn method<R: Request>(&mut self) {
        self.try_all::<R>(R::NAME);
        self.try_all::<Result<R::Response, Error>>(R::NAME);
    }
}

/// The most memory that this process ever had, in KiB.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux shows it");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let peak = peak.and_then(|text| text.trim().strip_suffix(" kB"));
    peak.expect("Linux shows it").parse().expect("a number")
}

#[test]
fn damaged_messages_are_refused_without_a_panic_or_much_memory() {
    let before = peak_memory();
    visit(&mut Damage);
    // What a list claims is believed for at most a MiB ahead of what is there.
    assert!(peak_memory() - before < 64 << 10);
}
