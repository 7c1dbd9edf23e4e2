//! Names and keys of objects: keyed hashes of what an object is, under a secret of the edge.
//!
//! So the same content of the same owner has the same name, and another's content has another; nobody can tell a name
//! or a key from what they know of the content.

use std::fmt;

use super::form::Form;

/// What the edge alone knows.
pub(super) struct Secret(pub(super) [u8; 32]);

/// An object, and the upload that it comes from: 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Id([u8; 16]);

/// What it takes to read an object: 64 hexadecimal digits. Compared in constant time.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Key(blake3::Hash);

/// What is to be an object, or is one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Content {
    /// User id.
    pub(super) owner: u64,
    /// BLAKE3 of the bytes.
    pub(super) hash: blake3::Hash,
    /// Bytes.
    pub(super) size: u64,
    pub(super) form: Form,
}

impl Secret {
    /// What `content` is called.
    pub(super) fn id(&self, content: &Content) -> Id {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        hasher.update(b"id");
        hasher.update(&content.owner.to_be_bytes());
        hasher.update(content.hash.as_bytes());
        hasher.update(&content.size.to_be_bytes());
        hasher.update(content.form.content_type().as_bytes());
        let mut id = [0; 16];
        hasher.finalize_xof().fill(&mut id);
        Id(id)
    }

    /// What it takes to read it.
    pub(super) fn key(&self, id: Id) -> Key {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        hasher.update(b"key");
        hasher.update(&id.0);
        Key(hasher.finalize())
    }
}

impl Id {
    /// From its digits; in small letters alone, so that an object has one name.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let digit = |byte: u8| match byte {
            b'0'..=b'9' => Some(byte - b'0'),
            b'a'..=b'f' => Some(byte - b'a' + 10),
            _ => None,
        };
        let digits: &[u8; 32] = text.as_bytes().try_into().ok()?;
        let mut id = [0; 16];
        for (byte, pair) in id.iter_mut().zip(digits.chunks(2)) {
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Some(Self(id))
    }
}

impl Key {
    /// From its digits.
    pub(super) fn parse(text: &str) -> Option<Self> {
        blake3::Hash::from_hex(text).ok().map(Self)
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Id({self})")
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.to_hex())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_that_of_all_an_object_is_and_reads_back() {
        let secret = Secret([1; 32]);
        let content = Content {
            owner: 1,
            hash: blake3::hash(b"x"),
            size: 1,
            form: Form::File,
        };
        let id = secret.id(&content);
        assert_eq!(Id::parse(&id.to_string()), Some(id));
        let others = [
            Content {
                owner: 2,
                ..content
            },
            Content {
                hash: blake3::hash(b"y"),
                ..content
            },
            Content { size: 2, ..content },
            Content {
                form: Form::Png,
                ..content
            },
        ];
        assert!(others.iter().all(|other| secret.id(other) != id));
        assert_ne!(Secret([2; 32]).id(&content), id);
        let key = secret.key(id);
        assert!(Key::parse(&key.to_string()) == Some(key));
        assert!(Secret([2; 32]).key(id) != key);
        for wrong in [
            "",
            "0",
            "../../../../../../etc/passwd/././",
            &"F".repeat(32),
        ] {
            assert_eq!(Id::parse(wrong), None, "{wrong}");
        }
    }
}
