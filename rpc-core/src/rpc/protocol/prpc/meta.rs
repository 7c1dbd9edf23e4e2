//! `RpcMeta`: what precedes the body of a PRPC message, read and written by hand.
//!
//! Knows: the fields of brpc's `baidu_rpc_meta.proto`.   Does not know: frames, sessions.
//!
//! Reading borrows from the frame and allocates nothing; the full schema, on prost, is this file's
//! oracle in tests. brpc writes empty and zero fields out; so do we, in the same order, so that our
//! messages equal its own byte for byte.

use bytes::Bytes;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

use crate::rpc::metadata::MetadataMap;
use crate::rpc::protocol::base64;
use crate::rpc::protocol::call::{Checksum, Trace};
use crate::rpc::status::Status;

/// A meta as read. Strings are bytes of the frame.
#[derive(Debug, Default, PartialEq)]
pub struct Meta<'a> {
    pub request: Option<RequestMeta<'a>>,
    pub response: Option<ResponseMeta<'a>>,
    pub compress_type: i32,
    pub correlation_id: i64,
    pub attachment_size: i32,
    /// The stream that the sender opens with the call, or takes with the answer.
    pub stream: Option<StreamSettings>,
    /// brpc's `ContentType`: 0 Protocol Buffers, 1 JSON, 2 and 3 others.
    pub content_type: i32,
    pub checksum_type: i32,
    pub checksum_value: &'a [u8],
    pub checksum_with_attachment: bool,
    pub authentication: &'a [u8],
    /// `user_fields`, in the order read.
    pub user_fields: Vec<(&'a [u8], &'a [u8])>,
}

/// The part of a meta that a request has.
#[derive(Debug, Default, PartialEq)]
pub struct RequestMeta<'a> {
    pub service: Option<&'a [u8]>,
    pub method: Option<&'a [u8]>,
    pub log_id: Option<i64>,
    pub trace_id: i64,
    pub span_id: i64,
    pub parent_span_id: i64,
    pub request_id: &'a [u8],
    pub timeout_ms: Option<i32>,
}

/// The part of a meta that a response has.
#[derive(Debug, Default, PartialEq)]
pub struct ResponseMeta<'a> {
    pub error_code: i32,
    pub error_text: &'a [u8],
}

/// A stream as its sender names it; brpc's `StreamSettings`. Further streams of the same call
/// (`extra_stream_ids`) are not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamSettings {
    pub stream_id: i64,
    /// The sender waits for FEEDBACK.
    pub need_feedback: bool,
    /// The sender reads what is sent to it.
    pub writable: bool,
}

/// The bytes are no `RpcMeta`.
#[derive(Debug)]
pub struct Unparsable;

impl<'a> Meta<'a> {
    /// Reads a meta.
    #[inline]
    pub fn read(bytes: &'a [u8]) -> Result<Self, Unparsable> {
        let mut meta = Self::default();
        meta.fill(bytes)?;
        Ok(meta)
    }

    fn fill(&mut self, bytes: &'a [u8]) -> Result<(), Unparsable> {
        let meta = self;
        let mut rest = Reader(bytes);
        while let Some(&key) = rest.0.first() {
            match key {
                0x0a => read_request(rest.field()?, meta.request.get_or_insert_default())?,
                0x12 => read_response(rest.field()?, meta.response.get_or_insert_default())?,
                0x18 => meta.compress_type = rest.int()? as i32,
                0x20 => meta.correlation_id = rest.int()? as i64,
                0x28 => meta.attachment_size = rest.int()? as i32,
                0x3a => meta.authentication = rest.field()?,
                0x42 => meta.stream = Some(read_stream(rest.field()?)?),
                0x4a => meta.user_fields.push(read_pair(rest.field()?)?),
                0x50 => meta.content_type = rest.int()? as i32,
                0x58 => meta.checksum_type = rest.int()? as i32,
                0x62 => meta.checksum_value = rest.field()?,
                0x68 => meta.checksum_with_attachment = rest.int()? != 0,
                _ => rest.skip()?,
            }
        }
        Ok(())
    }

    /// What guards the body, and the sum; `None` if the meta contradicts itself.
    pub fn checksum(&self) -> Option<(Checksum, u32)> {
        match self.checksum_type {
            0 => Some((Checksum::None, 0)),
            1 => {
                let sum = u32::from_be_bytes(self.checksum_value.try_into().ok()?);
                let kind = if self.checksum_with_attachment {
                    Checksum::DataAndAttachment
                } else {
                    Checksum::Data
                };
                Some((kind, sum))
            }
            _ => None,
        }
    }

    /// The failure that an answer carries.
    pub fn failure(&self) -> Option<Status> {
        let response = self
            .response
            .as_ref()
            .filter(|response| response.error_code != 0)?;
        let text = String::from_utf8_lossy(response.error_text).into_owned();
        let mut status = Status::from_errno(response.error_code, text);
        *status.metadata_mut() = self.metadata();
        Some(status)
    }

    /// `user_fields` as metadata; bytes under `…-bin` come back out of base64.
    pub fn metadata(&self) -> MetadataMap {
        let mut map = MetadataMap::new();
        for (key, value) in &self.user_fields {
            let key = String::from_utf8_lossy(key);
            match base64::decode_if_binary(&key, value) {
                Some(bytes) => map.append_bytes(&key, bytes),
                None => map.append_bytes(&key, value.to_vec()),
            }
        }
        map
    }
}

impl RequestMeta<'_> {
    /// Trace ids, if there are any.
    pub fn trace(&self) -> Option<Box<Trace>> {
        if self.trace_id == 0
            && self.span_id == 0
            && self.parent_span_id == 0
            && self.request_id.is_empty()
        {
            return None;
        }
        Some(Box::new(Trace {
            trace_id: self.trace_id,
            span_id: self.span_id,
            parent_span_id: self.parent_span_id,
            request_id: String::from_utf8_lossy(self.request_id).into_owned(),
        }))
    }
}

fn read_request<'a>(bytes: &'a [u8], request: &mut RequestMeta<'a>) -> Result<(), Unparsable> {
    let mut rest = Reader(bytes);
    while let Some(&key) = rest.0.first() {
        match key {
            0x0a => request.service = Some(rest.field()?),
            0x12 => request.method = Some(rest.field()?),
            0x18 => request.log_id = Some(rest.int()? as i64),
            0x20 => request.trace_id = rest.int()? as i64,
            0x28 => request.span_id = rest.int()? as i64,
            0x30 => request.parent_span_id = rest.int()? as i64,
            0x3a => request.request_id = rest.field()?,
            0x40 => request.timeout_ms = Some(rest.int()? as i32),
            _ => rest.skip()?,
        }
    }
    Ok(())
}

fn read_response<'a>(bytes: &'a [u8], response: &mut ResponseMeta<'a>) -> Result<(), Unparsable> {
    let mut rest = Reader(bytes);
    while let Some(&key) = rest.0.first() {
        match key {
            0x08 => response.error_code = rest.int()? as i32,
            0x12 => response.error_text = rest.field()?,
            _ => rest.skip()?,
        }
    }
    Ok(())
}

fn read_pair(bytes: &[u8]) -> Result<(&[u8], &[u8]), Unparsable> {
    let (mut key, mut value) = (&[][..], &[][..]);
    let mut rest = Reader(bytes);
    while let Some(&tag) = rest.0.first() {
        match tag {
            0x0a => key = rest.field()?,
            0x12 => value = rest.field()?,
            _ => rest.skip()?,
        }
    }
    Ok((key, value))
}

fn read_stream(bytes: &[u8]) -> Result<StreamSettings, Unparsable> {
    let mut id = None;
    let mut settings = StreamSettings {
        stream_id: 0,
        need_feedback: false,
        writable: false,
    };
    let mut rest = Reader(bytes);
    while let Some(&key) = rest.0.first() {
        match key {
            0x08 => id = Some(rest.int()? as i64),
            0x10 => settings.need_feedback = rest.int()? != 0,
            0x18 => settings.writable = rest.int()? != 0,
            _ => rest.skip()?,
        }
    }
    settings.stream_id = id.ok_or(Unparsable)?; // a required field
    Ok(settings)
}

/// What is left of a message.
pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    /// Passes over a one-byte key and reads a varint.
    #[inline]
    pub fn int(&mut self) -> Result<u64, Unparsable> {
        self.0 = &self.0[1..];
        self.varint()
    }

    /// Passes over a one-byte key and reads a length and that many bytes.
    #[inline]
    pub fn field(&mut self) -> Result<&'a [u8], Unparsable> {
        self.0 = &self.0[1..];
        let len = usize::try_from(self.varint()?).map_err(|_| Unparsable)?;
        let (field, rest) = self.0.split_at_checked(len).ok_or(Unparsable)?;
        self.0 = rest;
        Ok(field)
    }

    #[inline]
    fn varint(&mut self) -> Result<u64, Unparsable> {
        match self.0 {
            [byte, rest @ ..] if *byte < 0x80 => {
                self.0 = rest;
                Ok(u64::from(*byte))
            }
            _ => decode_varint(&mut self.0).map_err(|_| Unparsable),
        }
    }

    /// Passes over a field with any key; a known number with another wire type ends here too and is
    /// refused, as nobody writes that.
    #[cold]
    pub fn skip(&mut self) -> Result<(), Unparsable> {
        let (tag, wire) = decode_key(&mut self.0).map_err(|_| Unparsable)?;
        if wire == WireType::EndGroup {
            return Err(Unparsable);
        }
        skip_field(wire, tag, &mut self.0, DecodeContext::default()).map_err(|_| Unparsable)
    }
}

/// A meta to write. What brpc leaves out when absent is an `Option` or empty here.
#[derive(Debug, Default, Clone, Copy)]
pub struct MetaOut<'a> {
    pub request: Option<RequestOut<'a>>,
    pub response: Option<ResponseOut<'a>>,
    pub compress_type: i32,
    pub correlation_id: i64,
    /// 0 = no attachment.
    pub attachment_size: usize,
    /// What vouches for the sender; empty = left out.
    pub authentication: &'a [u8],
    pub stream: Option<StreamSettings>,
    pub user_fields: Option<&'a MetadataMap>,
    pub content_type: i32,
    pub checksum: Checksum,
    pub sum: u32,
}

/// The part of a meta that a request has, to write.
#[derive(Debug, Clone, Copy)]
pub struct RequestOut<'a> {
    pub service: &'a str,
    pub method: &'a str,
    pub log_id: Option<i64>,
    pub trace: Option<&'a Trace>,
    pub timeout_ms: Option<i32>,
}

/// The part of a meta that a response has, to write.
#[derive(Debug, Clone, Copy)]
pub struct ResponseOut<'a> {
    pub error_code: i32,
    /// Empty = left out.
    pub error_text: &'a str,
}

/// What [`MetaOut::measure`] found.
#[derive(Debug, Clone, Copy)]
pub struct Lengths {
    /// Of the whole meta.
    pub meta: usize,
    request: usize,
    response: usize,
}

impl MetaOut<'_> {
    /// How long the meta will be, whatever [`MetaOut::sum`] is.
    pub fn measure(&self) -> Lengths {
        let request = self.request.as_ref().map_or(0, RequestOut::len);
        let response = self.response.as_ref().map_or(0, ResponseOut::len);
        let mut len = 0;
        if self.request.is_some() {
            len += sized(request);
        }
        if self.response.is_some() {
            len += sized(response);
        }
        len += int_len(self.compress_type as u64) + int_len(self.correlation_id as u64);
        if self.attachment_size > 0 {
            len += int_len(self.attachment_size as u64);
        }
        if !self.authentication.is_empty() {
            len += sized(self.authentication.len());
        }
        if let Some(stream) = &self.stream {
            len += sized(stream.len());
        }
        for (key, value) in self.user_fields.iter().flat_map(|map| map.iter()) {
            let value = base64::encode_if_binary(key, value);
            len += sized(sized(key.len()) + sized(value.len()));
        }
        len += int_len(self.content_type as u64);
        len += match self.checksum {
            Checksum::None => 4,
            Checksum::Data => 8,
            Checksum::DataAndAttachment => 10,
        };
        Lengths {
            meta: len,
            request,
            response,
        }
    }

    /// Writes the meta to the start of `out`; the number of bytes written is that of `lengths`.
    pub fn write(&self, lengths: &Lengths, out: &mut [u8]) -> usize {
        let mut to = Writer::new(out);
        if let Some(request) = &self.request {
            to.open(0x0a, lengths.request);
            request.write(&mut to);
        }
        if let Some(response) = &self.response {
            to.open(0x12, lengths.response);
            to.int(0x08, response.error_code as u64);
            if !response.error_text.is_empty() {
                to.field(0x12, response.error_text.as_bytes());
            }
        }
        to.int(0x18, self.compress_type as u64);
        to.int(0x20, self.correlation_id as u64);
        if self.attachment_size > 0 {
            to.int(0x28, self.attachment_size as u64);
        }
        if !self.authentication.is_empty() {
            to.field(0x3a, self.authentication);
        }
        if let Some(stream) = &self.stream {
            to.open(0x42, stream.len());
            to.int(0x08, stream.stream_id as u64);
            to.int(0x10, stream.need_feedback.into());
            to.int(0x18, stream.writable.into());
        }
        for (key, value) in self.user_fields.iter().flat_map(|map| map.iter()) {
            let value = base64::encode_if_binary(key, value);
            to.open(0x4a, sized(key.len()) + sized(value.len()));
            to.field(0x0a, key.as_bytes());
            to.field(0x12, &value);
        }
        to.int(0x50, self.content_type as u64);
        to.int(0x58, u64::from(self.checksum != Checksum::None));
        if self.checksum == Checksum::None {
            to.field(0x62, &[]);
        } else {
            to.field(0x62, &self.sum.to_be_bytes());
        }
        if self.checksum == Checksum::DataAndAttachment {
            to.int(0x68, 1);
        }
        to.at
    }

    /// The meta alone.
    pub fn to_bytes(self) -> Bytes {
        let lengths = self.measure();
        let mut out = vec![0; lengths.meta];
        self.write(&lengths, &mut out);
        out.into()
    }
}

impl StreamSettings {
    fn len(&self) -> usize {
        int_len(self.stream_id as u64) + 4
    }
}

impl RequestOut<'_> {
    fn len(&self) -> usize {
        let mut len = sized(self.service.len()) + sized(self.method.len());
        if let Some(log_id) = self.log_id {
            len += int_len(log_id as u64);
        }
        if let Some(trace) = self.trace {
            for id in [trace.trace_id, trace.span_id, trace.parent_span_id] {
                len += if id == 0 { 0 } else { int_len(id as u64) };
            }
            if !trace.request_id.is_empty() {
                len += sized(trace.request_id.len());
            }
        }
        if let Some(timeout_ms) = self.timeout_ms {
            len += int_len(timeout_ms as u64);
        }
        len
    }

    fn write(&self, to: &mut Writer<'_>) {
        to.field(0x0a, self.service.as_bytes());
        to.field(0x12, self.method.as_bytes());
        if let Some(log_id) = self.log_id {
            to.int(0x18, log_id as u64);
        }
        if let Some(trace) = self.trace {
            let ids = [trace.trace_id, trace.span_id, trace.parent_span_id];
            for (key, id) in [0x20, 0x28, 0x30].into_iter().zip(ids) {
                if id != 0 {
                    to.int(key, id as u64);
                }
            }
            if !trace.request_id.is_empty() {
                to.field(0x3a, trace.request_id.as_bytes());
            }
        }
        if let Some(timeout_ms) = self.timeout_ms {
            to.int(0x40, timeout_ms as u64);
        }
    }
}

impl ResponseOut<'_> {
    fn len(&self) -> usize {
        let text = self.error_text.len();
        int_len(self.error_code as u64) + if text == 0 { 0 } else { sized(text) }
    }
}

/// Writes fields with one-byte keys into a slice that is long enough.
pub struct Writer<'a> {
    out: &'a mut [u8],
    at: usize,
}

impl<'a> Writer<'a> {
    pub fn new(out: &'a mut [u8]) -> Self {
        Self { out, at: 0 }
    }

    #[inline]
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.out[self.at] = value as u8 | 0x80;
            self.at += 1;
            value >>= 7;
        }
        self.out[self.at] = value as u8;
        self.at += 1;
    }

    #[inline]
    pub fn open(&mut self, key: u8, len: usize) {
        self.out[self.at] = key;
        self.at += 1;
        self.varint(len as u64);
    }

    #[inline]
    pub fn int(&mut self, key: u8, value: u64) {
        self.out[self.at] = key;
        self.at += 1;
        self.varint(value);
    }

    #[inline]
    fn field(&mut self, key: u8, bytes: &[u8]) {
        self.open(key, bytes.len());
        self.out[self.at..self.at + bytes.len()].copy_from_slice(bytes);
        self.at += bytes.len();
    }
}

/// Bytes of a varint.
#[inline]
fn varint_len(value: u64) -> usize {
    (70 - (value | 1).leading_zeros() as usize) / 7
}

/// Bytes of a one-byte key and a varint.
#[inline]
pub fn int_len(value: u64) -> usize {
    1 + varint_len(value)
}

/// Bytes of a one-byte key, a length and that many bytes.
#[inline]
pub fn sized(len: usize) -> usize {
    int_len(len as u64) + len
}

#[cfg(test)]
mod tests;
