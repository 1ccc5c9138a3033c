//! docs/protocol.md says what the code does.

use dfs_proto::{frame, limits, msg, timing};
use std::collections::BTreeMap;

fn document() -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/protocol.md");
    std::fs::read_to_string(path).expect("the document is there")
}

/// Cells of the table rows whose first cell begins so.
fn rows(document: &str, first: &str) -> Vec<Vec<String>> {
    document
        .lines()
        .filter_map(|line| line.strip_prefix("| "))
        .filter(|line| line.starts_with(first))
        .map(|line| {
            let cells = line.trim_end().trim_end_matches('|').split(" | ");
            cells.map(|cell| cell.trim().replace('`', "")).collect()
        })
        .collect()
}

#[test]
fn the_table_of_messages_is_complete() {
    let mut documented = BTreeMap::new();
    for row in rows(&document(), "`0x") {
        assert_eq!(
            row.len(),
            5,
            "method, name, direction, idempotence, retry: {row:?}"
        );
        assert!(row[2].contains("->"), "{row:?}");
        let number = u16::from_str_radix(row[0].trim_start_matches("0x"), 16);
        let number = number.expect("a method number");
        let twice = documented.insert(number, row[1].clone());
        assert_eq!(twice, None, "{row:?} is there twice");
    }
    let actual: BTreeMap<u16, String> = msg::methods()
        .map(|(number, name)| (number, name.to_owned()))
        .collect();
    assert_eq!(documented, actual);
}

#[test]
fn the_numbers_are_the_present_ones() {
    let numbers = [
        ("HEADER_BYTES", frame::HEADER_BYTES),
        ("SHORT_BODY_BYTES_MAX", frame::SHORT_BODY_BYTES_MAX),
        ("BODY_BYTES_MAX", limits::BODY_BYTES_MAX),
        ("PAYLOAD_BYTES_MAX", limits::PAYLOAD_BYTES_MAX),
        ("IN_FLIGHT_MAX", limits::IN_FLIGHT_MAX),
        ("IN_FLIGHT_UNDATED_MAX", limits::IN_FLIGHT_UNDATED_MAX),
        (
            "IN_FLIGHT_PAYLOAD_BYTES_MAX",
            limits::IN_FLIGHT_PAYLOAD_BYTES_MAX,
        ),
        ("HANDSHAKES_MAX", limits::HANDSHAKES_MAX),
        (
            "HANDSHAKE_DEADLINE",
            timing::HANDSHAKE_DEADLINE.as_millis() as usize,
        ),
        (
            "FRAME_DEADLINE",
            timing::FRAME_DEADLINE.as_millis() as usize,
        ),
        (
            "CONNECT_DEADLINE",
            timing::CONNECT_DEADLINE.as_millis() as usize,
        ),
        (
            "TCP_USER_TIMEOUT",
            timing::TCP_USER_TIMEOUT.as_millis() as usize,
        ),
    ];
    let document = document();
    for (name, value) in numbers {
        let rows = rows(&document, &format!("`{name}`"));
        assert_eq!(rows.len(), 1, "{name} has one row");
        let digits = rows[0][1].replace(' ', "");
        assert_eq!(digits.parse(), Ok(value), "{name}");
    }
}
