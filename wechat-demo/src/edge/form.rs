//! Types of content: how each is called, how it begins, how much of it is taken.
//!
//! Knows: media types, first bytes.   Does not know: what a picture shows.

use crate::proto::terminal::media::Sort;

/// A type of content that is taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Form {
    Jpeg,
    Png,
    Webp,
    Ogg,
    Amr,
    Mpeg,
    Wav,
    /// Anything; given out as bytes, for no browser to interpret.
    File,
}

/// Bytes of a picture at most.
const IMAGE_BYTES: u64 = 20 << 20;
/// Bytes of a voice message at most.
const VOICE_BYTES: u64 = 4 << 20;
/// Bytes of a beginning that tell the type.
pub(super) const BEGINNING: usize = 12;

impl Form {
    pub(super) const ALL: [Self; 8] = [
        Self::Jpeg,
        Self::Png,
        Self::Webp,
        Self::Ogg,
        Self::Amr,
        Self::Mpeg,
        Self::Wav,
        Self::File,
    ];

    /// The type of that name.
    pub(super) fn named(content_type: &str) -> Option<Self> {
        let mut all = Self::ALL.into_iter();
        all.find(|form| form.content_type().eq_ignore_ascii_case(content_type))
    }

    /// Its name in `Content-Type`.
    pub(super) const fn content_type(self) -> &'static str {
        match self {
            Self::Jpeg => "image/jpeg",
            Self::Png => "image/png",
            Self::Webp => "image/webp",
            Self::Ogg => "audio/ogg",
            Self::Amr => "audio/amr",
            Self::Mpeg => "audio/mpeg",
            Self::Wav => "audio/wav",
            Self::File => "application/octet-stream",
        }
    }

    /// What a pointer to it is.
    pub(super) const fn sort(self) -> Sort {
        match self {
            Self::Jpeg | Self::Png | Self::Webp => Sort::Image,
            Self::Ogg | Self::Amr | Self::Mpeg | Self::Wav => Sort::Voice,
            Self::File => Sort::File,
        }
    }

    /// Bytes of it at most, where a file may have `file`.
    pub(super) fn most(self, file: u64) -> u64 {
        match self.sort() {
            Sort::Image => file.min(IMAGE_BYTES),
            Sort::Voice => file.min(VOICE_BYTES),
            _ => file,
        }
    }

    /// Whether content of this type may begin so; `head` has [`BEGINNING`] bytes, or all there are.
    pub(super) fn begins(self, head: &[u8]) -> bool {
        let riff = |what: &[u8]| head.starts_with(b"RIFF") && head.get(8..12) == Some(what);
        match self {
            Self::Jpeg => head.starts_with(b"\xff\xd8\xff"),
            Self::Png => head.starts_with(b"\x89PNG\r\n\x1a\n"),
            Self::Webp => riff(b"WEBP"),
            Self::Ogg => head.starts_with(b"OggS"),
            Self::Amr => head.starts_with(b"#!AMR"),
            // A frame's eleven bits of sync, or a tag before the first.
            Self::Mpeg => {
                head.starts_with(b"ID3")
                    || matches!(head, [0xff, second, ..] if second & 0xe0 == 0xe0)
            }
            Self::Wav => riff(b"WAVE"),
            Self::File => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_is_known_by_its_name_and_its_beginning() {
        let heads: [(Form, &[u8]); 7] = [
            (Form::Jpeg, b"\xff\xd8\xff\xe0\0\x10JFIF\0\x01"),
            (Form::Png, b"\x89PNG\r\n\x1a\n\0\0\0\x0d"),
            (Form::Webp, b"RIFF\x10\0\0\0WEBP"),
            (Form::Ogg, b"OggS\0\x02\0\0\0\0\0\0"),
            (Form::Amr, b"#!AMR\n......"),
            (Form::Mpeg, b"ID3\x03........"),
            (Form::Wav, b"RIFF\x10\0\0\0WAVE"),
        ];
        for (form, head) in heads {
            assert_eq!(Form::named(form.content_type()), Some(form));
            for other in Form::ALL {
                let fits = other.begins(head);
                assert_eq!(fits, other == form || other == Form::File, "{other:?}");
            }
            assert!(!form.begins(&head[..2]), "{form:?} in part");
        }
        assert_eq!(Form::named("text/html"), None);
        assert_eq!(Form::File.most(7), 7);
        assert_eq!(Form::Wav.most(u64::MAX), VOICE_BYTES);
    }
}
