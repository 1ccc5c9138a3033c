//! Names of entries: bytes, not text.

use crate::limits::NAME_BYTES_MAX;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The name of an entry in a dir: 1 to 255 bytes, neither `/` nor NUL, not `.` or `..`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct FileName(Box<[u8]>);

/// Why some bytes are no name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NameError {
    Empty,
    TooLong,
    /// Holds `/` or NUL, or is `.` or `..`.
    Forbidden,
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "a name can't be empty",
            Self::TooLong => "a name has at most 255 bytes",
            Self::Forbidden => "a name can't hold '/' or NUL, nor be '.' or '..'",
        })
    }
}

impl std::error::Error for NameError {}

impl FileName {
    /// Takes the bytes if they are a name.
    pub fn new(bytes: &[u8]) -> Result<Self, NameError> {
        if bytes.is_empty() {
            return Err(NameError::Empty);
        }
        if bytes.len() > NAME_BYTES_MAX {
            return Err(NameError::TooLong);
        }
        if bytes == b"." || bytes == b".." || bytes.iter().any(|b| matches!(b, 0 | b'/')) {
            return Err(NameError::Forbidden);
        }
        Ok(Self(bytes.into()))
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl<'de> Deserialize<'de> for FileName {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = Box::<[u8]>::deserialize(deserializer)?;
        Self::new(&bytes).map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.escape_ascii())
    }
}

impl fmt::Debug for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0.escape_ascii().to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_any_bytes_but_slash_and_nul() {
        assert!(FileName::new(b"a").is_ok());
        assert!(FileName::new(&[0xff, 0x01, b' ', b'\n']).is_ok());
        assert!(FileName::new(&[b'x'; 255]).is_ok());
        assert!(FileName::new(b"...").is_ok());
    }

    #[test]
    fn refuses_what_is_no_name() {
        assert_eq!(FileName::new(b""), Err(NameError::Empty));
        assert_eq!(FileName::new(&[b'x'; 256]), Err(NameError::TooLong));
        for bad in [&b"a/b"[..], b"a\0", b".", b".."] {
            assert_eq!(FileName::new(bad), Err(NameError::Forbidden));
        }
    }

    #[test]
    fn a_bad_name_does_not_decode() {
        let bytes = crate::codec::encode(&b"a/b".to_vec()).expect("encodes");
        assert!(crate::codec::decode::<FileName>(&bytes).is_err());
    }
}
