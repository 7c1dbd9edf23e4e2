//! Frames as bytes (RFC 9113, sections 4 and 6).
//!
//! Knows: layouts, error codes, settings.   Does not know: streams, windows.

/// What a client sends first (RFC 9113 §3.4).
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Length, type, flags, stream.
pub const HEADER: usize = 9;

/// Types of frames.
pub mod kind {
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const PRIORITY: u8 = 2;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PUSH_PROMISE: u8 = 5;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
}

/// Flags of frames.
pub mod flag {
    pub const ACK: u8 = 1;
    pub const END_STREAM: u8 = 1;
    pub const END_HEADERS: u8 = 4;
    pub const PADDED: u8 = 8;
    pub const PRIORITY: u8 = 0x20;
}

/// Why a stream or a connection ends (RFC 9113 §7).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ErrorCode(pub u32);

impl ErrorCode {
    pub const NO_ERROR: Self = Self(0);
    pub const PROTOCOL_ERROR: Self = Self(1);
    pub const INTERNAL_ERROR: Self = Self(2);
    pub const FLOW_CONTROL_ERROR: Self = Self(3);
    pub const STREAM_CLOSED: Self = Self(5);
    pub const FRAME_SIZE_ERROR: Self = Self(6);
    pub const REFUSED_STREAM: Self = Self(7);
    pub const CANCEL: Self = Self(8);
    pub const COMPRESSION_ERROR: Self = Self(9);
    pub const ENHANCE_YOUR_CALM: Self = Self(0xb);
    pub const INADEQUATE_SECURITY: Self = Self(0xc);
}

/// A frame's header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameHead {
    /// Bytes of the payload, at most 2²⁴ − 1.
    pub len: usize,
    pub kind: u8,
    pub flags: u8,
    /// 0 = the connection.
    pub stream: u32,
}

impl FrameHead {
    pub const fn new(len: usize, kind: u8, flags: u8, stream: u32) -> Self {
        Self {
            len,
            kind,
            flags,
            stream,
        }
    }

    /// The header at the start of `bytes`.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let [a, b, c, kind, flags, e, f, g, h] = *bytes.first_chunk::<HEADER>()?;
        Some(Self {
            len: u32::from_be_bytes([0, a, b, c]) as usize,
            kind,
            flags,
            // The first bit is reserved.
            stream: u32::from_be_bytes([e, f, g, h]) & MOST,
        })
    }

    pub const fn bytes(self) -> [u8; HEADER] {
        let [_, a, b, c] = (self.len as u32).to_be_bytes();
        let [e, f, g, h] = self.stream.to_be_bytes();
        [a, b, c, self.kind, self.flags, e, f, g, h]
    }

    pub const fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// The largest stream id, and the largest window.
pub const MOST: u32 = u32::MAX >> 1;

/// Settings by number (RFC 9113 §6.5.2).
pub mod setting {
    pub const HEADER_TABLE_SIZE: u16 = 1;
    pub const ENABLE_PUSH: u16 = 2;
    pub const MAX_CONCURRENT_STREAMS: u16 = 3;
    pub const INITIAL_WINDOW_SIZE: u16 = 4;
    pub const MAX_FRAME_SIZE: u16 = 5;
    pub const MAX_HEADER_LIST_SIZE: u16 = 6;
}

/// What the other end has said that it takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    pub header_table: usize,
    pub max_streams: u32,
    pub initial_window: u32,
    pub max_frame: usize,
    pub max_header_list: usize,
}

impl Default for Settings {
    /// What holds before the first SETTINGS frame.
    fn default() -> Self {
        Self {
            header_table: 4096,
            max_streams: u32::MAX,
            initial_window: WINDOW_DEFAULT,
            max_frame: FRAME_DEFAULT,
            max_header_list: usize::MAX,
        }
    }
}

/// A window before anything was said.
pub const WINDOW_DEFAULT: u32 = 65_535;
/// The largest payload before anything was said, and the smallest limit there can be.
pub const FRAME_DEFAULT: usize = 16_384;
/// The largest limit there can be.
const FRAME_MOST: usize = (1 << 24) - 1;

impl Settings {
    /// Takes over what a SETTINGS frame says; later values win.
    ///
    /// # Errors
    /// A value outside its range.
    pub fn apply(&mut self, payload: &[u8]) -> Result<(), ErrorCode> {
        for entry in payload.chunks_exact(6) {
            let [a, b, c, d, e, f] = *entry.first_chunk().expect("chunks of six have six");
            let value = u32::from_be_bytes([c, d, e, f]);
            match u16::from_be_bytes([a, b]) {
                setting::HEADER_TABLE_SIZE => self.header_table = value as usize,
                setting::ENABLE_PUSH if value > 1 => return Err(ErrorCode::PROTOCOL_ERROR),
                setting::MAX_CONCURRENT_STREAMS => self.max_streams = value,
                setting::INITIAL_WINDOW_SIZE if value > MOST => {
                    return Err(ErrorCode::FLOW_CONTROL_ERROR);
                }
                setting::INITIAL_WINDOW_SIZE => self.initial_window = value,
                setting::MAX_FRAME_SIZE => {
                    let size = value as usize;
                    if !(FRAME_DEFAULT..=FRAME_MOST).contains(&size) {
                        return Err(ErrorCode::PROTOCOL_ERROR);
                    }
                    self.max_frame = size;
                }
                setting::MAX_HEADER_LIST_SIZE => self.max_header_list = value as usize,
                _ => {} // unknown ones are passed over
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_read_as_it_was_written() {
        let head = FrameHead::new(0x012_345, kind::HEADERS, flag::END_HEADERS, 0x7654_3210);
        assert_eq!(FrameHead::read(&head.bytes()), Some(head));
        let mut reserved = head.bytes();
        reserved[5] |= 0x80;
        assert_eq!(FrameHead::read(&reserved), Some(head));
        assert_eq!(FrameHead::read(&reserved[..8]), None);
    }

    #[test]
    fn settings_outside_their_range_are_refused() {
        for (entry, code) in [
            ([0, 2, 0, 0, 0, 2], ErrorCode::PROTOCOL_ERROR),
            ([0, 4, 0x80, 0, 0, 0], ErrorCode::FLOW_CONTROL_ERROR),
            ([0, 5, 0, 0, 0x3f, 0xff], ErrorCode::PROTOCOL_ERROR),
            ([0, 5, 1, 0, 0, 0], ErrorCode::PROTOCOL_ERROR),
        ] {
            assert_eq!(Settings::default().apply(&entry), Err(code), "{entry:?}");
        }
        let mut settings = Settings::default();
        let both = [0, 4, 0, 0, 1, 0, 0xff, 0xff, 9, 9, 9, 9, 0, 4, 0, 0, 2, 0];
        assert_eq!(settings.apply(&both), Ok(()));
        assert_eq!(settings.initial_window, 512);
    }
}
