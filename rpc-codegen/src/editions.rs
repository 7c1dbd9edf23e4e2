//! Editions, told in the words of proto2 and proto3.
//!
//! Knows: the encoding of descriptors, what features stand for.   Does not know: options of its user.
//!
//! An edition is proto2 or proto3 with switches. Nothing here reads its rules but the few that change
//! generated code: whether a field has presence, is packed, is a group. A file whose fields all have presence
//! becomes proto2, one with a field without becomes proto3, where `optional` gives presence back to
//! the others. Descriptors are changed in their encoding: decoding them into `prost_types` would drop
//! what that does not know, features and custom options among it.

use std::path::Path;

use prost::bytes::Buf;
use prost::encoding::{WireType, decode_key, decode_varint, encode_key, encode_varint};

use crate::error::{Error, Problem};

/// An encoded `FileDescriptorSet` with its editions replaced.
///
/// # Errors
/// It is no such set, has an edition that is not known here, or mixes what neither syntax can say.
pub(crate) fn lower(set: &[u8]) -> Result<Vec<u8>, Error> {
    let mut out = Vec::with_capacity(set.len());
    for field in fields(set)? {
        match (field.number, field.content) {
            (1, Some(file)) => put(&mut out, 1, &lower_file(file)?),
            _ => out.extend_from_slice(field.raw),
        }
    }
    Ok(out)
}

/// What a field is encoded by, as far as generated code depends on it.
#[derive(Clone, Copy)]
struct Features {
    presence: u64,
    packed: bool,
    /// Messages between marks, as groups are.
    delimited: bool,
}

const EXPLICIT: u64 = 1;
const IMPLICIT: u64 = 2;
const LEGACY_REQUIRED: u64 = 3;

impl Features {
    /// Those of editions 2023 and 2024.
    const DEFAULT: Self = Self {
        presence: EXPLICIT,
        packed: true,
        delimited: false,
    };

    /// With what the options of an element say, which have their features in field `number`.
    fn within(mut self, options: Option<&[u8]>, number: u32) -> Result<Self, Error> {
        let Some(features) = options.map(|options| bytes(options, number)).transpose()? else {
            return Ok(self);
        };
        for feature in features.into_iter().flat_map(fields).flatten() {
            match (feature.number, feature.varint) {
                (1, Some(presence)) => self.presence = presence,
                (3, Some(encoding)) => self.packed = encoding == 1,
                (5, Some(encoding)) => self.delimited = encoding == 2,
                _ => {}
            }
        }
        Ok(self)
    }
}

/// Which syntax a file gets.
#[derive(Clone, Copy, PartialEq)]
enum Syntax {
    Proto2,
    Proto3,
}

fn lower_file(file: &[u8]) -> Result<Vec<u8>, Error> {
    if bytes(file, 12)? != Some(b"editions".as_slice()) {
        return Ok(file.to_vec());
    }
    let name = bytes(file, 1)?.unwrap_or_default();
    let refuse = |message: String, hint: &str| {
        let path = String::from_utf8_lossy(name).into_owned();
        Error::from(Problem::of_file(
            Path::new(&path),
            message,
            Some(hint.to_owned()),
        ))
    };
    let edition = varint(file, 14)?;
    if !matches!(edition, Some(1000 | 1001)) {
        let message = format!("edition {} is not known", edition.unwrap_or_default());
        return Err(refuse(message, "2023 and 2024 are"));
    }
    let features = Features::DEFAULT.within(bytes(file, 8)?, 50)?;
    let mut seen = Seen::default();
    for message in all(file, 4)? {
        seen.message(message, features)?;
    }
    let syntax = match seen {
        Seen {
            implicit: true,
            only_proto2: true,
        } => {
            let message = "fields without presence stand beside required fields or groups";
            return Err(refuse(message.to_owned(), "put them into different files"));
        }
        Seen { implicit: true, .. } => Syntax::Proto3,
        Seen { .. } => Syntax::Proto2,
    };
    let mut out = Vec::with_capacity(file.len());
    for field in fields(file)? {
        match (field.number, field.content) {
            (12 | 14, _) => {}
            (4, Some(message)) => put(&mut out, 4, &lower_message(message, features, syntax)?),
            (7, Some(extension)) => {
                let lowered = lower_field(extension, features, syntax, false, None)?;
                put(&mut out, 7, &lowered);
            }
            _ => out.extend_from_slice(field.raw),
        }
    }
    let syntax: &[u8] = match syntax {
        Syntax::Proto2 => b"proto2",
        Syntax::Proto3 => b"proto3",
    };
    put(&mut out, 12, syntax);
    Ok(out)
}

/// What of a file only one of the syntaxes can say.
#[derive(Default)]
struct Seen {
    implicit: bool,
    only_proto2: bool,
}

impl Seen {
    fn message(&mut self, message: &[u8], features: Features) -> Result<(), Error> {
        let features = features.within(bytes(message, 7)?, 12)?;
        if is_map_entry(message)? {
            return Ok(());
        }
        for field in all(message, 2)? {
            let own = features.within(bytes(field, 8)?, 21)?;
            let (kind, label) = (varint(field, 5)?, varint(field, 4)?);
            let in_oneof = varint(field, 9)?.is_some();
            let singular = label != Some(REPEATED);
            let scalar = kind != Some(MESSAGE);
            self.implicit |= own.presence == IMPLICIT && singular && scalar && !in_oneof;
            self.only_proto2 |= own.presence == LEGACY_REQUIRED && singular;
            self.only_proto2 |= own.delimited && kind == Some(MESSAGE);
        }
        all(message, 3)?
            .into_iter()
            .try_for_each(|nested| self.message(nested, features))
    }
}

fn lower_message(message: &[u8], features: Features, syntax: Syntax) -> Result<Vec<u8>, Error> {
    if is_map_entry(message)? {
        return Ok(message.to_vec());
    }
    let features = features.within(bytes(message, 7)?, 12)?;
    let mut maps = Vec::new();
    for nested in all(message, 3)? {
        if is_map_entry(nested)? {
            maps.extend(bytes(nested, 1)?);
        }
    }
    let mut oneofs = all(message, 8)?.len() as u64;
    let mut added = Vec::new();
    let mut out = Vec::with_capacity(message.len());
    for field in fields(message)? {
        match (field.number, field.content) {
            (number @ (2 | 6), Some(content)) => {
                let type_name = bytes(content, 6)?.unwrap_or_default();
                let last = type_name.rsplit(|byte| *byte == b'.').next();
                let is_map = last.is_some_and(|last| maps.contains(&last));
                let own = features.within(bytes(content, 8)?, 21)?;
                // proto3 gives presence by a oneof of the field's own.
                let optional = syntax == Syntax::Proto3
                    && number == 2
                    && own.presence == EXPLICIT
                    && varint(content, 4)? != Some(REPEATED)
                    && varint(content, 5)? != Some(MESSAGE)
                    && varint(content, 9)?.is_none();
                if optional {
                    added.push([b"_", bytes(content, 1)?.unwrap_or_default()].concat());
                    oneofs += 1;
                }
                let oneof = optional.then(|| oneofs - 1);
                put(
                    &mut out,
                    number,
                    &lower_field(content, features, syntax, is_map, oneof)?,
                );
            }
            (3, Some(nested)) => put(&mut out, 3, &lower_message(nested, features, syntax)?),
            _ => out.extend_from_slice(field.raw),
        }
    }
    for name in added {
        let mut oneof = Vec::new();
        put(&mut oneof, 1, &name);
        put(&mut out, 8, &oneof);
    }
    Ok(out)
}

/// `oneof` is the field's own, where it needs one.
fn lower_field(
    field: &[u8],
    features: Features,
    syntax: Syntax,
    is_map: bool,
    oneof: Option<u64>,
) -> Result<Vec<u8>, Error> {
    let options = bytes(field, 8)?;
    let own = features.within(options, 21)?;
    let (kind, label) = (varint(field, 5)?, varint(field, 4)?);
    let repeated = label == Some(REPEATED);
    let required = own.presence == LEGACY_REQUIRED && !repeated;
    let group = own.delimited && kind == Some(MESSAGE) && !is_map && syntax == Syntax::Proto2;
    let mut out = Vec::with_capacity(field.len() + 8);
    for part in fields(field)? {
        match part.number {
            4 if required => put_varint(&mut out, 4, REQUIRED),
            5 if group => put_varint(&mut out, 5, GROUP),
            8 => {}
            _ => out.extend_from_slice(part.raw),
        }
    }
    let mut options = options.unwrap_or_default().to_vec();
    if repeated && !matches!(kind, Some(STRING | GROUP | MESSAGE | BYTES)) {
        put_varint(&mut options, 2, own.packed.into());
    }
    if !options.is_empty() {
        put(&mut out, 8, &options);
    }
    if let Some(oneof) = oneof {
        put_varint(&mut out, 9, oneof);
        put_varint(&mut out, 17, 1);
    }
    Ok(out)
}

fn is_map_entry(message: &[u8]) -> Result<bool, Error> {
    let options = bytes(message, 7)?;
    Ok(options
        .map(|options| varint(options, 7))
        .transpose()?
        .flatten()
        == Some(1))
}

/// Numbers of `FieldDescriptorProto.Label` and `Type`.
const REQUIRED: u64 = 2;
const REPEATED: u64 = 3;
const STRING: u64 = 9;
const GROUP: u64 = 10;
const MESSAGE: u64 = 11;
const BYTES: u64 = 12;

/// One field of an encoded message.
struct Field<'a> {
    number: u32,
    /// With its key.
    raw: &'a [u8],
    /// Of a field with a length.
    content: Option<&'a [u8]>,
    varint: Option<u64>,
}

fn fields(mut left: &[u8]) -> Result<Vec<Field<'_>>, Error> {
    let malformed = |_| no_set();
    let mut found = Vec::new();
    while !left.is_empty() {
        let start = left;
        let (number, wire) = decode_key(&mut left).map_err(malformed)?;
        let (mut content, mut varint) = (None, None);
        let size = match wire {
            WireType::Varint => {
                varint = Some(decode_varint(&mut left).map_err(malformed)?);
                0
            }
            WireType::LengthDelimited => {
                let size = decode_varint(&mut left).map_err(malformed)?;
                let size = usize::try_from(size).map_err(|_| no_set())?;
                content = Some(left.get(..size).ok_or_else(no_set)?);
                size
            }
            WireType::ThirtyTwoBit => 4,
            WireType::SixtyFourBit => 8,
            // Descriptors have no groups.
            WireType::StartGroup | WireType::EndGroup => return Err(no_set()),
        };
        if size > left.len() {
            return Err(no_set());
        }
        left.advance(size);
        found.push(Field {
            number,
            raw: &start[..start.len() - left.len()],
            content,
            varint,
        });
    }
    Ok(found)
}

fn no_set() -> Error {
    let hint =
        "protoc --descriptor_set_out makes one, with --include_imports and --include_source_info";
    Error::general("these bytes are no FileDescriptorSet", Some(hint))
}

/// The last field of that number, which counts.
fn bytes(message: &[u8], number: u32) -> Result<Option<&[u8]>, Error> {
    Ok(all(message, number)?.pop())
}

fn all(message: &[u8], number: u32) -> Result<Vec<&[u8]>, Error> {
    let of_number = fields(message)?
        .into_iter()
        .filter(|field| field.number == number);
    Ok(of_number.filter_map(|field| field.content).collect())
}

fn varint(message: &[u8], number: u32) -> Result<Option<u64>, Error> {
    let of_number = fields(message)?
        .into_iter()
        .filter(|field| field.number == number);
    Ok(of_number.filter_map(|field| field.varint).next_back())
}

fn put(out: &mut Vec<u8>, number: u32, content: &[u8]) {
    encode_key(number, WireType::LengthDelimited, out);
    encode_varint(content.len() as u64, out);
    out.extend_from_slice(content);
}

fn put_varint(out: &mut Vec<u8>, number: u32, value: u64) {
    encode_key(number, WireType::Varint, out);
    encode_varint(value, out);
}
