//! Extended attributes: their names, and which kinds an inode has.

use crate::limits::XATTR_NAME_BYTES_MAX;
use serde::{Deserialize, Serialize};
use std::fmt;

const USER: &[u8] = b"user.";
const TRUSTED: &[u8] = b"trusted.";
const SECURITY: &[u8] = b"security.";
const ACCESS_ACL: &[u8] = b"system.posix_acl_access";
const DEFAULT_ACL: &[u8] = b"system.posix_acl_default";

/// What follows the prefix of a name: at least one byte, no NUL.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct XattrSuffix(Box<[u8]>);

impl XattrSuffix {
    fn new(bytes: &[u8]) -> Result<Self, XattrNameError> {
        if bytes.is_empty() || bytes.contains(&0) {
            return Err(XattrNameError::Forbidden);
        }
        // The shortest prefix leaves the most room; `XattrName::new` counts with its own.
        if USER.len() + bytes.len() > XATTR_NAME_BYTES_MAX {
            return Err(XattrNameError::TooLong);
        }
        Ok(Self(bytes.into()))
    }
}

impl<'de> Deserialize<'de> for XattrSuffix {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = Box::<[u8]>::deserialize(deserializer)?;
        Self::new(&bytes).map_err(serde::de::Error::custom)
    }
}

impl fmt::Debug for XattrSuffix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0.escape_ascii().to_string())
    }
}

/// The name of an extended attribute, by its name space.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum XattrName {
    /// `user.`: for everybody with the right to the data of a file or dir.
    User(XattrSuffix),
    /// `trusted.`: seen by CAP_SYS_ADMIN only.
    Trusted(XattrSuffix),
    Security(XattrSuffix),
    /// `system.posix_acl_access`
    AccessAcl,
    /// `system.posix_acl_default`
    DefaultAcl,
}

/// Why some bytes are no name of an extended attribute.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum XattrNameError {
    /// Empty, or longer than 255 bytes.
    TooLong,
    /// Nothing behind the prefix, or a NUL.
    Forbidden,
    /// A name space that there is not.
    Unknown,
}

impl fmt::Display for XattrNameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooLong => "the name of an extended attribute has 1 to 255 bytes",
            Self::Forbidden => "there is nothing behind the prefix, or a NUL",
            Self::Unknown => "no name space of extended attributes has this prefix",
        })
    }
}

impl std::error::Error for XattrNameError {}

impl XattrName {
    /// Takes the bytes if they are a name.
    pub fn new(bytes: &[u8]) -> Result<Self, XattrNameError> {
        if bytes.is_empty() || bytes.len() > XATTR_NAME_BYTES_MAX {
            return Err(XattrNameError::TooLong);
        }
        match bytes {
            ACCESS_ACL => return Ok(Self::AccessAcl),
            DEFAULT_ACL => return Ok(Self::DefaultAcl),
            _ => {}
        }
        if let Some(suffix) = bytes.strip_prefix(USER) {
            XattrSuffix::new(suffix).map(Self::User)
        } else if let Some(suffix) = bytes.strip_prefix(TRUSTED) {
            XattrSuffix::new(suffix).map(Self::Trusted)
        } else if let Some(suffix) = bytes.strip_prefix(SECURITY) {
            XattrSuffix::new(suffix).map(Self::Security)
        } else {
            Err(XattrNameError::Unknown)
        }
    }

    fn parts(&self) -> (&'static [u8], &[u8]) {
        match self {
            Self::User(suffix) => (USER, &suffix.0),
            Self::Trusted(suffix) => (TRUSTED, &suffix.0),
            Self::Security(suffix) => (SECURITY, &suffix.0),
            Self::AccessAcl => (ACCESS_ACL, &[]),
            Self::DefaultAcl => (DEFAULT_ACL, &[]),
        }
    }

    /// The whole name, as programs write it.
    pub fn to_bytes(&self) -> Vec<u8> {
        let (prefix, suffix) = self.parts();
        [prefix, suffix].concat()
    }

    /// Its length in bytes. One that came over the wire may be longer than a name can be.
    pub fn byte_len(&self) -> usize {
        let (prefix, suffix) = self.parts();
        prefix.len() + suffix.len()
    }

    /// The kind that it is of.
    pub fn kind(&self) -> XattrKinds {
        match self {
            Self::AccessAcl => XattrKinds::ACCESS_ACL,
            Self::DefaultAcl => XattrKinds::DEFAULT_ACL,
            Self::Security(suffix) if *suffix.0 == *b"capability" => XattrKinds::CAPABILITY,
            _ => XattrKinds::OTHER,
        }
    }
}

impl fmt::Display for XattrName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.to_bytes().escape_ascii())
    }
}

/// Which kinds of extended attributes an inode has. It is part of the attributes, so whoever may
/// keep those knows without a question what is not there: the kernel asks for ACLs at every look
/// at permissions, and for `security.capability` at writes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct XattrKinds(u8);

impl XattrKinds {
    pub const NONE: Self = Self(0);
    /// `system.posix_acl_access`
    pub const ACCESS_ACL: Self = Self(1);
    /// `system.posix_acl_default`
    pub const DEFAULT_ACL: Self = Self(2);
    /// `security.capability`
    pub const CAPABILITY: Self = Self(4);
    /// Any other.
    pub const OTHER: Self = Self(8);

    /// All kinds of `self` and of `others`.
    pub fn with(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }

    /// The kinds of `self` but those of `others`.
    pub fn without(self, others: Self) -> Self {
        Self(self.0 & !others.0)
    }

    /// Whether any kind of `others` is there.
    pub fn have(self, others: Self) -> bool {
        self.0 & others.0 != 0
    }

    /// As a number, to be stored.
    pub fn bits(self) -> u8 {
        self.0
    }

    /// Reads what `bits` gave; bits without a meaning are dropped.
    pub fn from_bits(bits: u8) -> Self {
        Self(bits & 0xf)
    }
}

impl fmt::Debug for XattrKinds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [
            (Self::ACCESS_ACL, "access ACL"),
            (Self::DEFAULT_ACL, "default ACL"),
            (Self::CAPABILITY, "capability"),
            (Self::OTHER, "other"),
        ];
        let there = names.iter().filter(|(kind, _)| self.have(*kind));
        f.debug_list().entries(there.map(|(_, name)| name)).finish()
    }
}

/// When an extended attribute is to be set.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum SetXattrIf {
    #[default]
    Always,
    /// XATTR_CREATE: only if it is not there.
    Absent,
    /// XATTR_REPLACE: only if it is there.
    Present,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_a_known_prefix_and_something_behind_it() {
        for good in [
            "user.a",
            "user. ",
            "trusted.x.y",
            "security.capability",
            "security.selinux",
            "system.posix_acl_access",
            "system.posix_acl_default",
        ] {
            let name = XattrName::new(good.as_bytes()).expect(good);
            assert_eq!(name.to_bytes(), good.as_bytes());
            assert_eq!(name.byte_len(), good.len());
        }
        for (bad, why) in [
            ("", XattrNameError::TooLong),
            ("user.", XattrNameError::Forbidden),
            ("trusted.", XattrNameError::Forbidden),
            ("user.a\0", XattrNameError::Forbidden),
            ("user", XattrNameError::Unknown),
            ("system.posix_acl", XattrNameError::Unknown),
            ("com.apple.quarantine", XattrNameError::Unknown),
        ] {
            assert_eq!(XattrName::new(bad.as_bytes()), Err(why), "{bad}");
        }
    }

    #[test]
    fn the_whole_name_has_at_most_255_bytes() {
        for prefix in [USER, TRUSTED, SECURITY] {
            let longest = [prefix, &vec![b'x'; 255 - prefix.len()]].concat();
            assert!(XattrName::new(&longest).is_ok());
            let longer = [&longest[..], b"x"].concat();
            assert_eq!(XattrName::new(&longer), Err(XattrNameError::TooLong));
        }
    }

    #[test]
    fn names_travel() {
        for text in ["user.a", "trusted.b", "system.posix_acl_default"] {
            let name = XattrName::new(text.as_bytes()).expect("a name");
            let bytes = crate::codec::encode(&name).expect("encodes");
            assert_eq!(crate::codec::decode::<XattrName>(&bytes), Ok(name));
        }
        // An empty suffix.
        let bytes = crate::codec::encode(&(0u32, Vec::<u8>::new())).expect("encodes");
        assert!(crate::codec::decode::<XattrName>(&bytes).is_err());
    }

    #[test]
    fn kinds_are_told_apart() {
        let kind = |text: &str| XattrName::new(text.as_bytes()).expect("a name").kind();
        assert_eq!(kind("security.capability"), XattrKinds::CAPABILITY);
        assert_eq!(kind("security.capability2"), XattrKinds::OTHER);
        assert_eq!(kind("system.posix_acl_access"), XattrKinds::ACCESS_ACL);
        let both = XattrKinds::OTHER.with(XattrKinds::CAPABILITY);
        assert!(both.have(XattrKinds::OTHER) && !both.have(XattrKinds::DEFAULT_ACL));
        assert_eq!(both.without(XattrKinds::OTHER), XattrKinds::CAPABILITY);
        assert_eq!(XattrKinds::from_bits(both.bits()), both);
    }
}
