//! Stored records: own types, apart from the wire's, each with a version in its first byte.
//!
//! So that a message can change without changing what is on disk, and a record of a newer
//! program is refused in words rather than misread.

use super::tables::{Read, Table, TableError, Write, decode, encode};
use serde::{Serialize, de::DeserializeOwned};

/// A type that is stored in the tables.
pub trait Record: Serialize + DeserializeOwned {
    /// The first stored byte. Rises when the fields change their meaning.
    const VERSION: u8;
    /// What it is, for the message when it can't be read.
    const NAME: &'static str;
}

/// Encodes a record with its version.
pub fn encode_record<R: Record>(record: &R) -> Result<Vec<u8>, TableError> {
    let body = encode(record)?;
    let mut bytes = Vec::with_capacity(1 + body.len());
    bytes.push(R::VERSION);
    bytes.extend_from_slice(&body);
    Ok(bytes)
}

/// Decodes a record; another version, or bytes that are none, are an error.
pub fn decode_record<R: Record>(bytes: &[u8]) -> Result<R, TableError> {
    match bytes.split_first() {
        Some((version, body)) if *version == R::VERSION => {
            decode(body).map_err(|e| TableError(format!("{} record: {}", R::NAME, e.0)))
        }
        Some((version, _)) => Err(TableError(format!(
            "{} record of version {version}, this program knows version {}",
            R::NAME,
            R::VERSION
        ))),
        None => Err(TableError(format!("empty {} record", R::NAME))),
    }
}

/// Reads one record.
pub fn load_record<R: Record>(
    tables: &(impl Read + ?Sized),
    table: Table,
    key: &[u8],
) -> Result<Option<R>, TableError> {
    tables
        .get(table, key)?
        .map(|bytes| decode_record(&bytes))
        .transpose()
}

/// Writes one record.
pub fn store_record<R: Record>(
    tables: &mut (impl Write + ?Sized),
    table: Table,
    key: &[u8],
    record: &R,
) -> Result<(), TableError> {
    let bytes = encode_record(record)?;
    tables.put(table, key, &bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(PartialEq, Debug, Serialize, Deserialize)]
    struct Sample {
        number: u32,
    }

    impl Record for Sample {
        const VERSION: u8 = 3;
        const NAME: &'static str = "sample";
    }

    #[test]
    fn the_version_is_the_first_byte() {
        let bytes = encode_record(&Sample { number: 7 }).expect("encodes");
        assert_eq!(bytes, [3, 7]);
        assert_eq!(decode_record::<Sample>(&bytes), Ok(Sample { number: 7 }));
    }

    #[test]
    fn another_version_is_refused_in_words() {
        let refused = decode_record::<Sample>(&[4, 7]).expect_err("a newer version");
        assert!(
            refused.0.contains("sample record of version 4"),
            "{refused}"
        );
        assert!(decode_record::<Sample>(&[]).is_err());
        assert!(decode_record::<Sample>(&[3]).is_err());
        assert!(decode_record::<Sample>(&[3, 7, 7]).is_err());
    }
}
