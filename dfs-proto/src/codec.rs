//! The one place that names the serialization format: bincode 2, standard configuration, with a
//! limit on what a decode may allocate.

use crate::limits::BODY_BYTES_MAX;
use serde::{Serialize, de::DeserializeOwned};
use std::fmt;

/// Bytes that are no valid encoding of the type asked for, or a value too large to encode.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CodecError(String);

impl fmt::Display for CodecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for CodecError {}

fn config() -> impl bincode::config::Config {
    bincode::config::standard().with_limit::<BODY_BYTES_MAX>()
}

/// Encodes a value; at most `BODY_BYTES_MAX` bytes.
pub fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, CodecError> {
    let bytes = bincode::serde::encode_to_vec(value, config())
        .map_err(|e| CodecError(format!("encode: {e}")))?;
    if bytes.len() > BODY_BYTES_MAX {
        return Err(CodecError(format!(
            "encode: {} bytes are over the limit",
            bytes.len()
        )));
    }
    Ok(bytes)
}

/// Decodes a value from all of `bytes`: what is left over is an error, and so is a length that
/// claims more than `BODY_BYTES_MAX`.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    let (value, used) = bincode::serde::decode_from_slice(bytes, config())
        .map_err(|e| CodecError(format!("decode: {e}")))?;
    if used != bytes.len() {
        return Err(CodecError(format!(
            "decode: {} bytes left over",
            bytes.len() - used
        )));
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn leftover_bytes_are_refused() {
        let mut bytes = encode(&7u64).expect("encodes");
        bytes.push(0);
        assert!(decode::<u64>(&bytes).is_err());
    }

    #[test]
    fn a_hostile_length_allocates_nothing() {
        // A vector that claims 2^62 items.
        let bytes = [253, 0, 0, 0, 0, 0, 0, 0, 0x40];
        assert!(decode::<Vec<u64>>(&bytes).is_err());
        assert!(decode::<String>(&bytes).is_err());
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode::<Vec<(u64, String, Option<Vec<u8>>)>>(&bytes);
        }
    }
}
