//! The bytes on the wire, pinned: a change of any of them is a change of the protocol.

mod samples;

use dfs_proto::codec::{decode, encode};
use dfs_proto::error::{Error, ErrorCode};
use dfs_proto::frame::{HEADER_BYTES, Header, Kind};
use dfs_proto::handshake::{
    Hello, Identity, Prover, Refusal, Role, Secret, challenge, check_proof, prove,
};
use dfs_proto::ids::{ClusterId, Incarnation, NodeId};
use dfs_proto::msg::{Request, Visit, visit};
use samples::samples;
use std::fmt::Write;
use std::path::PathBuf;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes all");
        text
    })
}

#[test]
fn the_frame_header() {
    let header = Header::new(
        Kind::Request,
        1,
        0x0603,
        0x0102_0304_0506_0708,
        b"body",
        4096,
    );
    let bytes = header.encode();
    assert_eq!(
        hex(&bytes),
        concat!(
            "44465301", // magic "DFS" 1
            "0100",     // version
            "01",       // kind: request
            "00",
            "0306", // method
            "0000",
            "0807060504030201", // request id
            "04000000",         // body length
            "00100000",         // payload length
            "50c93f26",         // crc32c of the body
            "6897d4e2",         // crc32c of the 32 bytes before
        )
    );
    assert_eq!(bytes.len(), HEADER_BYTES);
    assert_eq!(Header::decode(&bytes, 1), Ok(header));
    assert_eq!(header.check_body(b"body"), Ok(()));
}

fn identity() -> Identity {
    Identity {
        cluster: Some(ClusterId(0x1111_2222_3333_4444_5555_6666_7777_8888)),
        node: NodeId(0x0102_0304),
        incarnation: Incarnation(0xaabb),
        role: Role::FileServer,
        secret: Secret::new(b"a secret of the golden test\n"),
    }
}

#[test]
fn the_handshake() {
    let own = identity();
    let hello = Hello::of(&own, [0xee; 32]);
    let bytes = hello.encode();
    assert_eq!(
        hex(&bytes),
        concat!(
            "0100",
            "0100", // versions from, to
            "02",   // role: file server
            "03",   // flags: cluster known, has a secret
            "0000",
            "88887777666655554444333322221111", // cluster
            "04030201000000000000000000000000", // node
            "bbaa000000000000",                 // incarnation
            "eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee", // nonce
        )
    );
    assert_eq!(Hello::decode(&bytes), Ok(hello));

    let answer = challenge(&own, &hello, [0xdd; 32]).expect("it is acceptable");
    let answer = answer.encode();
    let secret = own.secret.as_ref();
    let proof = prove(secret, Prover::Connecting, &bytes, &answer);
    let welcome = prove(secret, Prover::Accepting, &bytes, &answer);
    assert_eq!(
        (hex(&proof).as_str(), hex(&welcome).as_str()),
        (
            "c30b924cbd0b77d1a8bd8264cf0b3c77f8a0511fee7e09823a18549997ab1cb6",
            "30448a81ab09c2468bd0c15080db6cedc045fd693699a1ddcc7574504028b35d",
        )
    );
    assert_eq!(
        check_proof(secret, Prover::Connecting, &bytes, &answer, &proof),
        Ok(())
    );
    // A proof is worth nothing in the other direction, for another nonce, or cut short.
    let mut other = answer;
    other[79] ^= 1;
    for (prover, challenge, proof) in [
        (Prover::Accepting, &answer, &proof[..]),
        (Prover::Connecting, &other, &proof[..]),
        (Prover::Connecting, &answer, &proof[..31]),
        (Prover::Connecting, &answer, &[]),
    ] {
        assert!(check_proof(secret, prover, &bytes, challenge, proof).is_err());
    }

    let refusal = Refusal::malformed("hello");
    assert_eq!(hex(&refusal.encode()), "01006d616c666f726d65642068656c6c6f");
    assert_eq!(Refusal::decode(&refusal.encode()), refusal);
}

/// One line a sample: method, name, what it is, number, bytes.
#[derive(Default)]
struct Lines(String);

impl Lines {
    fn add<T: serde::Serialize + serde::de::DeserializeOwned>(&mut self, title: &str, value: &T) {
        let bytes = encode(value).expect("a sample is small");
        let back: T = decode(&bytes).expect("what was encoded decodes");
        assert_eq!(encode(&back).expect("it is small"), bytes, "{title}");
        writeln!(self.0, "{title} {}", hex(&bytes)).expect("a string takes all");
    }
}

impl Visit for Lines {
    fn method<R: Request>(&mut self) {
        let name = format!("{:#06x} {}", R::METHOD, R::NAME);
        for (number, request) in samples::<R>().iter().enumerate() {
            self.add(&format!("{name} request {number}"), request);
        }
        for (number, response) in samples::<R::Response>().into_iter().enumerate() {
            let reply: Result<R::Response, Error> = Ok(response);
            self.add(&format!("{name} reply {number}"), &reply);
        }
    }
}

#[test]
fn every_message() {
    let mut lines = Lines::default();
    visit(&mut lines);
    let error = Error::new(ErrorCode::WrongEpoch, "server:3 is at epoch:9").with_detail(9);
    lines.add("any error reply", &Err::<(), Error>(error));

    let path: PathBuf = [
        env!("CARGO_MANIFEST_DIR"),
        "tests",
        "golden",
        "messages.txt",
    ]
    .iter()
    .collect();
    if std::env::var("DFS_GOLDEN").is_ok_and(|value| value == "write") {
        std::fs::write(&path, &lines.0).expect("the golden file can be written");
    }
    let golden = std::fs::read_to_string(&path).expect("the golden file is there");
    let hint = "if the protocol is meant to change: DFS_GOLDEN=write cargo test -p dfs-proto \
                --test golden, and see docs/protocol.md about versions";
    for (now, pinned) in lines.0.lines().zip(golden.lines()) {
        assert_eq!(now, pinned, "{hint}");
    }
    assert_eq!(lines.0.lines().count(), golden.lines().count(), "{hint}");
}
