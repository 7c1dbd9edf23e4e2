//! One table: gRPC code ↔ brpc error number ↔ HTTP status.
//!
//! Every translation between the three worlds is in this file, so that a failure that crosses two
//! protocols arrives as what it was. Sources: gRPC `statuscodes.md` and `http-grpc-status-mapping.md`,
//! brpc `errno.proto` and `docs/en/error_code.md`, Connect's table of HTTP statuses.
//!
//! Invariants
//! - M-1  code → errno → code is the identity for every code but `Ok`.
//! - M-2  No failure is ever written as errno 0 or as an HTTP status below 400.
//! - M-3  A number that says that a call never ran (ELIMIT, ELOGOFF, ENOMETHOD, ERPCAUTH …) is written only by
//!   who knows: a code alone, as handlers give it, is written as a number of the system.

#![forbid(unsafe_code)]

use std::io::ErrorKind;

use super::status::{Code, Status};

/// brpc: no such service.
pub const ENOSERVICE: i32 = 1001;
/// brpc: no such method. brpc 1.17 answers it for unknown services as well.
pub const ENOMETHOD: i32 = 1002;
/// brpc: bad request, the body cannot be parsed.
pub const EREQUEST: i32 = 1003;
/// brpc: authentication failed.
pub const ERPCAUTH: i32 = 1004;
/// brpc: the call's time ran out.
pub const ERPCTIMEDOUT: i32 = 1008;
/// brpc: the connection broke while the call was under way.
pub const EFAILEDSOCKET: i32 = 1009;
/// brpc: too much unwritten data on the connection.
pub const EOVERCROWDED: i32 = 1011;
/// brpc: the other end closed the connection.
pub const EEOF: i32 = 1014;
/// brpc: refused before it ran.
pub const EREJECT: i32 = 1018;
/// brpc: the server failed inside.
pub const EINTERNAL: i32 = 2001;
/// brpc: bad response, the body cannot be parsed.
pub const ERESPONSE: i32 = 2002;
/// brpc: the server is going away.
pub const ELOGOFF: i32 = 2003;
/// brpc: a limit on concurrency is reached.
pub const ELIMIT: i32 = 2004;
/// brpc: the connection was closed on purpose.
pub const ECLOSE: i32 = 2005;

/// A row: code, the error number it is written as, the HTTP status it is written as.
const TABLE: [(Code, i32, u16); 16] = [
    (Code::Cancelled, 125, 499),      // ECANCELED
    (Code::Unknown, 1999, 500),       // ours: free in errno.proto
    (Code::InvalidArgument, 22, 400), // EINVAL
    (Code::DeadlineExceeded, ERPCTIMEDOUT, 504),
    (Code::NotFound, 2, 404),            // ENOENT
    (Code::AlreadyExists, 17, 409),      // EEXIST
    (Code::PermissionDenied, 13, 403),   // EACCES
    (Code::ResourceExhausted, 105, 429), // ENOBUFS
    (Code::FailedPrecondition, 39, 400), // ENOTEMPTY
    (Code::Aborted, 35, 409),            // EDEADLK: the loser of a conflict
    (Code::OutOfRange, 34, 400),         // ERANGE
    (Code::Unimplemented, 38, 501),      // ENOSYS
    (Code::Internal, EINTERNAL, 500),
    (Code::Unavailable, 11, 503),      // EAGAIN
    (Code::DataLoss, 74, 500),         // EBADMSG
    (Code::Unauthenticated, 129, 401), // EKEYREJECTED
];

/// The brpc error number a failure with `code` is written as. `Ok` is 0.
pub fn errno_of_code(code: Code) -> i32 {
    TABLE
        .iter()
        .find(|row| row.0 == code)
        .map_or(0, |row| row.1)
}

/// The code for an error number read from a brpc peer, of the system or of a service; 0 is `Ok`.
pub fn code_of_errno(errno: i32) -> Code {
    if let Some(row) = TABLE.iter().find(|row| row.1 == errno) {
        return row.0;
    }
    match errno {
        0 => Code::Ok,
        ENOSERVICE | ENOMETHOD => Code::Unimplemented,
        ERPCAUTH | 126..=128 => Code::Unauthenticated, // ENOKEY, EKEYEXPIRED, EKEYREVOKED
        EREQUEST => Code::InvalidArgument,
        110 | 62 | 1019 => Code::DeadlineExceeded, // ETIMEDOUT, ETIME, EPROGREADTIMEOUT
        ELIMIT | EOVERCROWDED | 12 | 23 | 24 | 28 | 122 => Code::ResourceExhausted,
        1005..=1018 | ELOGOFF | ECLOSE | 2006 | 2007 | 3001 | 3002 => Code::Unavailable,
        -1 | ERESPONSE | 5 => Code::Internal, // brpc writes −1 as EINTERNAL; EIO
        1 => Code::PermissionDenied,          // EPERM
        4 | 16 | 26 | 32 => Code::Unavailable, // EINTR EBUSY ETXTBSY EPIPE
        100..=104 | 106..=109 | 111..=113 => Code::Unavailable, // network, connection, host
        95 => Code::Unimplemented,            // EOPNOTSUPP
        _ => Code::Unknown,
    }
}

/// The error number as brpc writes it: −1 becomes [`EINTERNAL`], 0 is no failure and does too.
pub const fn wire_errno(errno: i32) -> i32 {
    match errno {
        -1 | 0 => EINTERNAL,
        errno => errno,
    }
}

/// The HTTP status of a failure with `code`; `Ok` is 200.
pub fn http_of_code(code: Code) -> u16 {
    TABLE
        .iter()
        .find(|row| row.0 == code)
        .map_or(200, |row| row.2)
}

/// The HTTP status of a failure. A name that leads nowhere is 404, as in brpc and on the web.
pub fn http_of_status(status: &Status) -> u16 {
    if status.is_errno(ENOSERVICE) || status.is_errno(ENOMETHOD) {
        return 404;
    }
    http_of_code(status.code())
}

/// The code for an HTTP status that came without one, after gRPC's table.
pub const fn code_of_http(http: u16) -> Code {
    match http {
        200..=299 => Code::Ok,
        400 | 411 | 413 | 414 | 415 | 431 => Code::InvalidArgument,
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        404 => Code::NotFound,
        405 | 501 | 505 => Code::Unimplemented,
        409 => Code::Aborted,
        429 => Code::ResourceExhausted,
        499 => Code::Cancelled,
        502 | 503 => Code::Unavailable,
        504 => Code::DeadlineExceeded,
        500..=599 => Code::Internal,
        _ => Code::Unknown,
    }
}

/// The code for an HTTP status where a gRPC answer was due (grpc's http-grpc-status-mapping.md).
pub const fn grpc_code_of_http(http: u16) -> Code {
    match http {
        400 => Code::Internal,
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        404 => Code::Unimplemented,
        429 | 502 | 503 | 504 => Code::Unavailable,
        _ => Code::Unknown,
    }
}

/// The code for an I/O error without a number of the system.
pub const fn code_of_io(kind: ErrorKind) -> Code {
    match kind {
        ErrorKind::NotFound => Code::NotFound,
        ErrorKind::PermissionDenied => Code::PermissionDenied,
        ErrorKind::AlreadyExists => Code::AlreadyExists,
        ErrorKind::InvalidInput => Code::InvalidArgument,
        ErrorKind::InvalidData => Code::DataLoss,
        ErrorKind::TimedOut => Code::DeadlineExceeded,
        ErrorKind::Unsupported => Code::Unimplemented,
        ErrorKind::OutOfMemory => Code::ResourceExhausted,
        ErrorKind::ConnectionRefused
        | ErrorKind::ConnectionReset
        | ErrorKind::ConnectionAborted
        | ErrorKind::NotConnected
        | ErrorKind::BrokenPipe
        | ErrorKind::UnexpectedEof
        | ErrorKind::WouldBlock
        | ErrorKind::Interrupted => Code::Unavailable,
        _ => Code::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_comes_back_from_its_error_number() {
        for code in Code::ALL {
            assert_eq!(code_of_errno(errno_of_code(code)), code, "{code}");
        }
    }

    #[test]
    fn a_handlers_failure_is_not_taken_for_a_call_that_never_ran() {
        for code in Code::ALL.into_iter().filter(|code| *code != Code::Ok) {
            let sent = errno_of_code(code);
            let received = Status::from_errno(sent, "it ran");
            assert_eq!(received.code(), code);
            assert!(!received.never_ran(), "{code} is written as {sent}");
        }
        for errno in [
            ELIMIT,
            ELOGOFF,
            ENOMETHOD,
            ENOSERVICE,
            EOVERCROWDED,
            EREJECT,
            ERPCAUTH,
        ] {
            assert!(Status::from_errno(errno, "refused").never_ran(), "{errno}");
        }
    }

    #[test]
    fn every_failure_stays_a_failure_in_http() {
        for code in Code::ALL.into_iter().filter(|code| *code != Code::Ok) {
            let http = http_of_code(code);
            assert!(http >= 400, "{code} is written as {http}");
            assert_ne!(code_of_http(http), Code::Ok, "{code}");
        }
    }

    #[test]
    fn http_statuses_with_one_meaning_come_back_as_their_code() {
        let exact = [
            Code::Cancelled,
            Code::DeadlineExceeded,
            Code::NotFound,
            Code::PermissionDenied,
            Code::ResourceExhausted,
            Code::InvalidArgument,
            Code::Unimplemented,
            Code::Internal,
            Code::Unavailable,
            Code::Unauthenticated,
        ];
        for code in exact {
            assert_eq!(code_of_http(http_of_code(code)), code);
        }
    }

    #[test]
    fn every_number_of_brpc_has_a_class_and_travels_unchanged() {
        for errno in (1001..=1019).chain(2001..=2007).chain(3001..=3002) {
            let status = Status::from_errno(errno, "x");
            assert_eq!(status.errno(), errno);
            assert_ne!(status.code(), Code::Unknown, "{errno}");
        }
        assert_eq!(Status::from_errno(4711, "ours").errno(), 4711);
        assert_eq!(
            Status::from_errno(-1, "brpc's plain failure").errno(),
            EINTERNAL
        );
    }

    #[test]
    fn unknown_names_are_404_and_other_unimplemented_things_501() {
        assert_eq!(http_of_status(&Status::from_errno(ENOSERVICE, "")), 404);
        assert_eq!(http_of_status(&Status::from_errno(ENOMETHOD, "")), 404);
        assert_eq!(http_of_status(&Status::from_errno(38, "")), 501);
        assert_eq!(http_of_status(&Status::unimplemented("")), 501);
    }
}
