//! POSIX ACLs: their stored form, and what they have to do with the permission bits of a mode.
//!
//! Stored, and handed over, in the form of the system calls: a version, then (tag, permissions,
//! id) in the order of the tags, all little-endian. Nobody is judged by them here: the kernels of
//! the mounts do that.
//!
//! An access ACL and the mode say the same: owner and others have their bits in both; the group
//! bits of the mode are the mask, or the group's entry where there is none.

use dfs_proto::error::ErrorCode;

const VERSION: u32 = 2;
const HEADER_BYTES: usize = 4;
const ENTRY_BYTES: usize = 8;

/// Users or groups that an entry does not name.
const NO_ID: u32 = u32::MAX;

/// Read, write and execute.
const RWX: u16 = 0o7;

/// Whom an entry is about. The numbers are stored; the order is that of the entries.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u16)]
enum Tag {
    Owner = 0x01,
    User = 0x02,
    OwningGroup = 0x04,
    Group = 0x08,
    Mask = 0x10,
    Others = 0x20,
}

impl Tag {
    fn from_number(number: u16) -> Option<Self> {
        [
            Self::Owner,
            Self::User,
            Self::OwningGroup,
            Self::Group,
            Self::Mask,
            Self::Others,
        ]
        .into_iter()
        .find(|tag| *tag as u16 == number)
    }

    fn has_id(self) -> bool {
        matches!(self, Self::User | Self::Group)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Entry {
    tag: Tag,
    permissions: u16,
    id: u32,
}

/// An ACL that the system calls would take.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Acl(Vec<Entry>);

impl Acl {
    /// Reads an ACL; what is none, or not whole, is `InvalidArgument`.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, ErrorCode> {
        let acl = Self::read(bytes).ok_or(ErrorCode::InvalidArgument)?;
        if acl.is_valid() {
            Ok(acl)
        } else {
            Err(ErrorCode::InvalidArgument)
        }
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let (version, rest) = bytes.split_first_chunk::<HEADER_BYTES>()?;
        let (entries, left) = rest.as_chunks::<ENTRY_BYTES>();
        if u32::from_le_bytes(*version) != VERSION || !left.is_empty() {
            return None;
        }
        let read = |entry: &[u8; ENTRY_BYTES]| {
            let [t0, t1, p0, p1, id @ ..] = *entry;
            let tag = Tag::from_number(u16::from_le_bytes([t0, t1]))?;
            Some(Entry {
                tag,
                permissions: u16::from_le_bytes([p0, p1]),
                // The others' field has no meaning: one form for what says the same.
                id: if tag.has_id() {
                    u32::from_le_bytes(id)
                } else {
                    NO_ID
                },
            })
        };
        Some(Self(entries.iter().map(read).collect::<Option<_>>()?))
    }

    fn is_valid(&self) -> bool {
        let count = |tag| self.0.iter().filter(|entry| entry.tag == tag).count();
        let in_order = self.0.windows(2).all(|pair| pair[0].tag <= pair[1].tag);
        let names_any = count(Tag::User) + count(Tag::Group) > 0;
        in_order
            && [Tag::Owner, Tag::OwningGroup, Tag::Others]
                .into_iter()
                .all(|tag| count(tag) == 1)
            && (count(Tag::Mask) == 1 || (count(Tag::Mask) == 0 && !names_any))
            && self.0.iter().all(|entry| {
                entry.permissions & !RWX == 0 && !(entry.tag.has_id() && entry.id == NO_ID)
            })
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES + ENTRY_BYTES * self.0.len());
        bytes.extend(VERSION.to_le_bytes());
        for entry in &self.0 {
            bytes.extend((entry.tag as u16).to_le_bytes());
            bytes.extend(entry.permissions.to_le_bytes());
            bytes.extend(entry.id.to_le_bytes());
        }
        bytes
    }

    /// The permission bits of a mode that says the same, as far as one can.
    pub(super) fn mode_bits(&self) -> u16 {
        let of = |tag| {
            let entry = self.0.iter().find(|entry| entry.tag == tag);
            entry.map(|entry| entry.permissions)
        };
        let group = of(Tag::Mask).or(of(Tag::OwningGroup));
        let bits = [of(Tag::Owner), group, of(Tag::Others)];
        let [owner, group, others] = bits.map(Option::unwrap_or_default);
        owner << 6 | group << 3 | others
    }

    /// Whether the mode says all of it.
    pub(super) fn is_mode(&self) -> bool {
        self.0
            .iter()
            .all(|entry| !entry.tag.has_id() && entry.tag != Tag::Mask)
    }

    /// The entries that the bits of a mode stand for, each with the place of its bits.
    fn bits_of_mode(&mut self) -> impl Iterator<Item = (&mut u16, u16)> {
        let masked = self.0.iter().any(|entry| entry.tag == Tag::Mask);
        self.0.iter_mut().filter_map(move |entry| {
            let place = match entry.tag {
                Tag::Owner => 6,
                Tag::Mask => 3,
                Tag::OwningGroup if !masked => 3,
                Tag::Others => 0,
                _ => return None,
            };
            Some((&mut entry.permissions, place))
        })
    }

    /// After a chmod: says what the mode says.
    pub(super) fn set_mode_bits(&mut self, mode: u16) {
        for (permissions, place) in self.bits_of_mode() {
            *permissions = mode >> place & RWX;
        }
    }

    /// A default ACL becomes the access ACL of what is made with `mode`: neither gives what the
    /// other one takes. Returns the permission bits.
    pub(super) fn limit_to(&mut self, mode: u16) -> u16 {
        for (permissions, place) in self.bits_of_mode() {
            *permissions &= mode >> place & RWX;
        }
        self.mode_bits()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// An ACL in words: `u::rwx,u:7:rw-,g::r--,m::rw-,o::---`.
    pub(in crate::namespace) fn acl(text: &str) -> Vec<u8> {
        let mut bytes = VERSION.to_le_bytes().to_vec();
        for entry in text.split(',').filter(|entry| !entry.is_empty()) {
            let parts: Vec<&str> = entry.split(':').collect();
            let tag: u16 = match (parts[0], parts[1]) {
                ("u", "") => 1,
                ("u", _) => 2,
                ("g", "") => 4,
                ("g", _) => 8,
                ("m", _) => 16,
                _ => 32,
            };
            let letters = parts[2].bytes();
            let permissions = letters.fold(0u16, |bits, c| bits << 1 | u16::from(c != b'-'));
            let id = parts[1].parse().unwrap_or(NO_ID);
            bytes.extend(tag.to_le_bytes());
            bytes.extend(permissions.to_le_bytes());
            bytes.extend(id.to_le_bytes());
        }
        bytes
    }

    fn parsed(text: &str) -> Acl {
        Acl::parse(&acl(text)).expect("an ACL")
    }

    #[test]
    fn what_is_no_acl_is_refused() {
        for bad in [
            "",
            "u::rwx,g::r-x",
            "g::r-x,u::rwx,o::r-x",
            "u::rwx,u::rwx,g::r-x,o::r-x",
            // Names somebody, but has no mask.
            "u::rwx,u:7:rwx,g::r-x,o::r-x",
            "u::rwx,g::r-x,m::r-x,m::r-x,o::r-x",
        ] {
            let refused = Acl::parse(&acl(bad));
            assert_eq!(refused, Err(ErrorCode::InvalidArgument), "{bad}");
        }
        let good = acl("u::rwx,g::r-x,o::r-x");
        for len in 0..good.len() {
            assert!(Acl::parse(&good[..len]).is_err(), "{len} bytes of it");
        }
        let mut other_version = good.clone();
        other_version[0] = 1;
        assert!(Acl::parse(&other_version).is_err());
        let mut more_bits = good;
        more_bits[6] = 8;
        assert!(Acl::parse(&more_bits).is_err());
    }

    #[test]
    fn the_mode_says_what_it_can() {
        let plain = parsed("u::rwx,g::r-x,o::--x");
        assert_eq!((plain.mode_bits(), plain.is_mode()), (0o751, true));
        let named = parsed("u::rw-,u:7:rwx,g::r-x,g:8:---,m::-w-,o::---");
        assert_eq!((named.mode_bits(), named.is_mode()), (0o620, false));
        let masked = parsed("u::rw-,g::r-x,m::-w-,o::---");
        assert_eq!((masked.mode_bits(), masked.is_mode()), (0o620, false));
    }

    #[test]
    fn a_chmod_changes_the_mask_and_not_the_group() {
        let mut named = parsed("u::rwx,u:7:rwx,g::r-x,m::rwx,o::---");
        named.set_mode_bits(0o7641);
        assert_eq!(named, parsed("u::rw-,u:7:rwx,g::r-x,m::r--,o::--x"));
        let mut plain = parsed("u::rwx,g::r-x,o::---");
        plain.set_mode_bits(0o640);
        assert_eq!(plain, parsed("u::rw-,g::r--,o::---"));
    }

    #[test]
    fn what_is_made_has_what_both_allow() {
        let mut inherited = parsed("u::rwx,u:7:rwx,g::rwx,m::rwx,o::r-x");
        assert_eq!(inherited.limit_to(0o640), 0o640);
        assert_eq!(inherited, parsed("u::rw-,u:7:rwx,g::rwx,m::r--,o::---"));
        let mut tight = parsed("u::r-x,g::--x,o::---");
        assert_eq!(tight.limit_to(0o666), 0o400);
        assert_eq!(tight, parsed("u::r--,g::---,o::---"));
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            if let Ok(acl) = Acl::parse(&bytes) {
                prop_assert_eq!(Acl::parse(&acl.encode()), Ok(acl));
            }
        }

        #[test]
        fn mode_and_acl_say_the_same(mode in 0u16..0o10000, named in any::<bool>()) {
            let text = ["u::rwx,g::rwx,o::rwx", "u::rwx,u:1:r--,g::rwx,m::rwx,o::rwx"];
            let mut acl = parsed(text[usize::from(named)]);
            acl.set_mode_bits(mode);
            prop_assert_eq!(acl.mode_bits(), mode & 0o777);
            let read = Acl::parse(&acl.encode());
            prop_assert_eq!(read, Ok(acl));
        }
    }
}
