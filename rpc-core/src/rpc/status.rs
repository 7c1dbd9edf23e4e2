//! The one error every call can end with.
//!
//! Knows: canonical codes, texts, brpc's error numbers as numbers.
//! Does not know: how a protocol writes them; see [`super::status_map`].

#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::error::Error;
use std::fmt;

use bytes::Bytes;

use super::metadata::MetadataMap;
use super::status_map;

/// How a call ended, as one of gRPC's canonical codes.
///
/// The numbers are those of gRPC (`grpc/status.h`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(i32)]
pub enum Code {
    /// Success. A [`Status`] never carries it.
    Ok = 0,
    /// The caller gave the call up.
    Cancelled = 1,
    /// A failure nobody classified.
    Unknown = 2,
    /// The request is wrong whatever the state of the system.
    InvalidArgument = 3,
    /// The time for the call ran out.
    DeadlineExceeded = 4,
    /// What was asked for does not exist.
    NotFound = 5,
    /// What was to be created exists.
    AlreadyExists = 6,
    /// The caller is known and may not do this.
    PermissionDenied = 7,
    /// A quota or a limit is used up.
    ResourceExhausted = 8,
    /// The state of the system does not allow this now.
    FailedPrecondition = 9,
    /// A conflict with something that ran at the same time.
    Aborted = 10,
    /// Past the valid range.
    OutOfRange = 11,
    /// No such service or method here.
    Unimplemented = 12,
    /// An invariant of the callee is broken.
    Internal = 13,
    /// Not reachable now; trying elsewhere or later may help.
    Unavailable = 14,
    /// Data is lost or damaged for good.
    DataLoss = 15,
    /// The caller is not known.
    Unauthenticated = 16,
}

impl Code {
    /// Every code, in the order of its number.
    pub const ALL: [Self; 17] = [
        Self::Ok,
        Self::Cancelled,
        Self::Unknown,
        Self::InvalidArgument,
        Self::DeadlineExceeded,
        Self::NotFound,
        Self::AlreadyExists,
        Self::PermissionDenied,
        Self::ResourceExhausted,
        Self::FailedPrecondition,
        Self::Aborted,
        Self::OutOfRange,
        Self::Unimplemented,
        Self::Internal,
        Self::Unavailable,
        Self::DataLoss,
        Self::Unauthenticated,
    ];

    /// The code with gRPC's number `number`; a number gRPC does not know is [`Code::Unknown`].
    pub fn from_number(number: i32) -> Self {
        usize::try_from(number)
            .ok()
            .and_then(|index| Self::ALL.get(index).copied())
            .unwrap_or(Self::Unknown)
    }

    /// gRPC's number.
    pub const fn number(self) -> i32 {
        self as i32
    }

    /// The name as JSON bodies and logs carry it: `not_found`, `deadline_exceeded`, …
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Cancelled => "cancelled",
            Self::Unknown => "unknown",
            Self::InvalidArgument => "invalid_argument",
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::NotFound => "not_found",
            Self::AlreadyExists => "already_exists",
            Self::PermissionDenied => "permission_denied",
            Self::ResourceExhausted => "resource_exhausted",
            Self::FailedPrecondition => "failed_precondition",
            Self::Aborted => "aborted",
            Self::OutOfRange => "out_of_range",
            Self::Unimplemented => "unimplemented",
            Self::Internal => "internal",
            Self::Unavailable => "unavailable",
            Self::DataLoss => "data_loss",
            Self::Unauthenticated => "unauthenticated",
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a call failed: a code, a text for people, and optional details.
///
/// One pointer wide, so that `Result<Response<T>, Status>` costs the success path nothing.
#[derive(Clone, PartialEq)]
pub struct Status(Box<Inner>);

#[derive(Clone, PartialEq)]
struct Inner {
    code: Code,
    /// brpc's error number; 0 = the one [`status_map`] gives for `code`.
    errno: i32,
    message: Cow<'static, str>,
    /// Serialized `google.rpc.Status` or whatever both ends agreed on; empty = none.
    details: Bytes,
    metadata: MetadataMap,
}

impl Status {
    /// A failure with `code` and a text that says what, where and what to do.
    ///
    /// [`Code::Ok`] is no failure and becomes [`Code::Unknown`].
    pub fn new(code: Code, message: impl Into<Cow<'static, str>>) -> Self {
        let code = if code == Code::Ok {
            Code::Unknown
        } else {
            code
        };
        Self(Box::new(Inner {
            code,
            errno: 0,
            message: message.into(),
            details: Bytes::new(),
            metadata: MetadataMap::new(),
        }))
    }

    /// A failure with a brpc error number: one of `errno.proto`, of the system, or the service's own.
    ///
    /// The number travels unchanged over PRPC; the code is what [`status_map::code_of_errno`] says.
    pub fn from_errno(errno: i32, message: impl Into<Cow<'static, str>>) -> Self {
        let mut status = Self::new(status_map::code_of_errno(errno), message);
        status.0.errno = status_map::wire_errno(errno);
        status
    }

    /// The canonical code. Never [`Code::Ok`].
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// The text for people.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The brpc error number of this failure; never 0.
    pub fn errno(&self) -> i32 {
        match self.0.errno {
            0 => status_map::errno_of_code(self.0.code),
            errno => errno,
        }
    }

    /// True if the failure was made with brpc's number `errno`, rather than with a code that maps to it.
    pub fn is_errno(&self, errno: i32) -> bool {
        self.0.errno == errno
    }

    /// Details for programs, in a form both ends agreed on; empty when there are none.
    pub fn details(&self) -> &Bytes {
        &self.0.details
    }

    /// Adds details for programs (gRPC: `grpc-status-details-bin`).
    #[must_use]
    pub fn with_details(mut self, details: Bytes) -> Self {
        self.0.details = details;
        self
    }

    /// Metadata sent along with the failure.
    pub fn metadata(&self) -> &MetadataMap {
        &self.0.metadata
    }

    /// Metadata sent along with the failure, to change.
    pub fn metadata_mut(&mut self) -> &mut MetadataMap {
        &mut self.0.metadata
    }
}

macro_rules! constructors {
    ($($(#[$doc:meta])* $name:ident => $code:ident,)*) => {
        impl Status {
            $(
                $(#[$doc])*
                pub fn $name(message: impl Into<Cow<'static, str>>) -> Self {
                    Self::new(Code::$code, message)
                }
            )*
        }
    };
}

constructors! {
    /// The caller gave the call up.
    cancelled => Cancelled,
    /// A failure nobody classified.
    unknown => Unknown,
    /// The request is wrong whatever the state of the system.
    invalid_argument => InvalidArgument,
    /// The time for the call ran out.
    deadline_exceeded => DeadlineExceeded,
    /// What was asked for does not exist.
    not_found => NotFound,
    /// What was to be created exists.
    already_exists => AlreadyExists,
    /// The caller is known and may not do this.
    permission_denied => PermissionDenied,
    /// A quota or a limit is used up.
    resource_exhausted => ResourceExhausted,
    /// The state of the system does not allow this now.
    failed_precondition => FailedPrecondition,
    /// A conflict with something that ran at the same time.
    aborted => Aborted,
    /// Past the valid range.
    out_of_range => OutOfRange,
    /// No such service or method here.
    unimplemented => Unimplemented,
    /// An invariant of the callee is broken.
    internal => Internal,
    /// Not reachable now; trying elsewhere or later may help.
    unavailable => Unavailable,
    /// Data is lost or damaged for good.
    data_loss => DataLoss,
    /// The caller is not known.
    unauthenticated => Unauthenticated,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code(), self.message())
    }
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Status")
            .field("code", &self.code())
            .field("errno", &self.errno())
            .field("message", &self.message())
            .field("details", &self.0.details.len())
            .field("metadata", &self.0.metadata)
            .finish()
    }
}

impl Error for Status {}

impl From<std::io::Error> for Status {
    /// An operating system error keeps its number, so that `?` in a handler tells a brpc peer what
    /// happened.
    fn from(error: std::io::Error) -> Self {
        match error.raw_os_error() {
            Some(errno) if errno > 0 => Self::from_errno(errno, error.to_string()),
            _ => Self::new(status_map::code_of_io(error.kind()), error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_one_pointer_wide_and_never_ok() {
        assert_eq!(size_of::<Status>(), size_of::<usize>());
        assert_eq!(Status::new(Code::Ok, "x").code(), Code::Unknown);
    }

    #[test]
    fn numbers_and_codes_are_inverse() {
        for code in Code::ALL {
            assert_eq!(Code::from_number(code.number()), code);
        }
        assert_eq!(Code::from_number(17), Code::Unknown);
        assert_eq!(Code::from_number(-1), Code::Unknown);
    }

    #[test]
    fn an_io_error_keeps_its_number() {
        let status = Status::from(std::io::Error::from_raw_os_error(110));
        assert_eq!(
            (status.code(), status.errno()),
            (Code::DeadlineExceeded, 110)
        );
    }
}
