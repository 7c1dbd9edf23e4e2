//! Small pictures of large ones, and pictures that nobody should open.
//!
//! Knows: how pictures are decoded, how large they may be.   Does not know: whose they are.
//!
//! Invariant: what a picture says of its size is looked at before anything is decoded: a few bytes can say that they are
//! gigabytes of points.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use image::codecs::jpeg::JpegEncoder;
use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits};
use rpc_core::sync::Semaphore;

use super::form::Form;

/// Points of a side at most.
const SIDE: u32 = 16_384;
/// Points at most.
const POINTS: u64 = 40_000_000;
/// Bytes that decoding one may take at most.
const DECODED: u64 = 256 << 20;
/// Pictures that are decoded at a time.
static DECODING: Semaphore = Semaphore::new(2);
/// Points of a small picture's longer side at most.
const SMALL_SIDE: u32 = 320;
/// Of a small picture, in percent.
const QUALITY: u8 = 75;

/// Why a picture is none for us.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unfit {
    /// Decoding it would take too much.
    #[error(
        "the picture says that it has {0}; at most {SIDE} points a side, {POINTS} in all and {DECODED} bytes in memory are \
         opened here; it is thrown away: send it smaller, or as a file"
    )]
    Large(String),
    /// It cannot be decoded.
    #[error("the picture cannot be opened ({0}); it is thrown away: send it as a file")]
    Damaged(ImageError),
}

impl From<ImageError> for Unfit {
    fn from(error: ImageError) -> Self {
        match error {
            ImageError::Limits(_) => Self::Large("more than that".to_owned()),
            other => Self::Damaged(other),
        }
    }
}

/// The picture at `path` as a small JPEG, upright; `None` if `form` is no picture's.
pub(super) fn small(path: &Path, form: Form) -> Result<Option<Vec<u8>>, Unfit> {
    let format = match form {
        Form::Jpeg => ImageFormat::Jpeg,
        Form::Png => ImageFormat::Png,
        Form::Webp => ImageFormat::WebP,
        _ => return Ok(None),
    };
    let file = File::open(path).map_err(ImageError::IoError)?;
    let mut reader = ImageReader::with_format(BufReader::new(file), format);
    // Dimensions are judged here, in our words.
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(DECODED);
    reader.limits(limits);
    let mut decoder = reader.into_decoder()?;
    let (width, height) = decoder.dimensions();
    let points = u64::from(width) * u64::from(height);
    if width.max(height) > SIDE || points > POINTS || decoder.total_bytes() > DECODED {
        return Err(Unfit::Large(format!("{width} by {height} points")));
    }
    let permit = DECODING.acquire();
    let orientation = decoder.orientation()?;
    let mut small = DynamicImage::from_decoder(decoder)?;
    if width.max(height) > SMALL_SIDE {
        small = small.thumbnail(SMALL_SIDE, SMALL_SIDE);
    }
    drop(permit);
    small.apply_orientation(orientation);
    let mut bytes = Vec::new();
    JpegEncoder::new_with_quality(&mut bytes, QUALITY).encode_image(&small.to_rgb8())?;
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn written(bytes: &[u8]) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    /// A PNG of zeros that says it has so many points.
    fn png(width: u32, height: u32, rows: usize) -> Vec<u8> {
        let mut bytes = b"\x89PNG\r\n\x1a\n".to_vec();
        let mut chunk = |kind: &[u8], data: &[u8]| {
            bytes.extend_from_slice(&(data.len() as u32).to_be_bytes());
            let mut sum = flate2::Crc::new();
            for part in [kind, data] {
                sum.update(part);
                bytes.extend_from_slice(part);
            }
            bytes.extend_from_slice(&sum.sum().to_be_bytes());
        };
        let mut head = [width.to_be_bytes(), height.to_be_bytes()].concat();
        head.extend_from_slice(&[8, 0, 0, 0, 0]);
        chunk(b"IHDR", &head);
        let mut zeros = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
        let row = vec![0; width as usize + 1];
        for _ in 0..rows {
            zeros.write_all(&row).unwrap();
        }
        chunk(b"IDAT", &zeros.finish().unwrap());
        chunk(b"IEND", b"");
        bytes
    }

    #[test]
    fn a_picture_becomes_a_small_jpeg_of_its_own_shape() {
        for (width, height, shown) in [(1000, 500, (320, 160)), (40, 80, (40, 80))] {
            let file = written(&png(width, height, height as usize));
            let bytes = small(file.path(), Form::Png).unwrap().unwrap();
            assert!(Form::Jpeg.begins(&bytes) && bytes.len() < 64 << 10);
            let back = image::load_from_memory(&bytes).unwrap();
            assert_eq!((back.width(), back.height()), shown);
        }
        let file = written(b"anything");
        assert!(small(file.path(), Form::File).unwrap().is_none());
    }

    #[test]
    fn a_bomb_is_refused_by_what_it_says_before_anything_is_decoded() {
        for (width, height) in [(SIDE + 1, 1), (8_000, 8_000), (u32::MAX / 2, 2)] {
            // There are no points behind the words: who decoded would find it damaged.
            let file = written(&png(width.min(9_000), height, 0));
            let mut bytes = std::fs::read(file.path()).unwrap();
            bytes[16..20].copy_from_slice(&width.to_be_bytes());
            let mut sum = flate2::Crc::new();
            sum.update(&bytes[12..29]);
            bytes[29..33].copy_from_slice(&sum.sum().to_be_bytes());
            let file = written(&bytes);
            let unfit = small(file.path(), Form::Png).unwrap_err();
            assert!(matches!(unfit, Unfit::Large(_)), "{unfit}");
        }
    }

    #[test]
    fn a_picture_in_part_is_refused() {
        let whole = png(100, 100, 100);
        for bytes in [
            &whole[..40],
            &whole[..20],
            b"\x89PNG\r\n\x1a\n",
            b"\xff\xd8\xff",
        ] {
            let file = written(bytes);
            for form in [Form::Png, Form::Jpeg, Form::Webp] {
                assert!(matches!(small(file.path(), form), Err(Unfit::Damaged(_))));
            }
        }
        let file = written(&png(100, 100, 50));
        assert!(matches!(
            small(file.path(), Form::Png),
            Err(Unfit::Damaged(_))
        ));
    }
}
