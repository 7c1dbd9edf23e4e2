//! How one call is made.

use std::time::Duration;

use crate::rpc::compression::Compression;
use crate::rpc::metadata::MetadataMap;
use crate::rpc::protocol::Checksum;

/// Options of one call; generated `…_with` methods take them.
#[derive(Clone, Debug, Default)]
pub struct CallOptions {
    /// `None` = the channel's.
    pub(super) deadline: Option<Duration>,
    pub(super) checksum: Checksum,
    pub(super) compression: Compression,
    pub(super) log_id: Option<i64>,
    /// Added to the request's own.
    pub(super) metadata: MetadataMap,
    pub(super) wait_for_ready: bool,
}

impl CallOptions {
    /// The channel's defaults.
    pub const fn new() -> Self {
        Self {
            deadline: None,
            checksum: Checksum::None,
            compression: Compression::None,
            log_id: None,
            metadata: MetadataMap::new(),
            wait_for_ready: false,
        }
    }

    /// Time for the whole call, waiting for a connection included. The time left to the surrounding call
    /// or [`Deadline`](crate::runtime::Deadline) bounds it further.
    #[must_use]
    pub const fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// Guards the message by a CRC-32C; brpc peers answer alike.
    #[must_use]
    pub const fn checksum(mut self, checksum: bool) -> Self {
        self.checksum = if checksum {
            Checksum::Data
        } else {
            Checksum::None
        };
        self
    }

    /// Sends the message compressed; gzip and zlib are spoken everywhere, snappy by baidu_std,
    /// zstd by gRPC. Attachments never are.
    #[must_use]
    pub const fn compression(mut self, compression: Compression) -> Self {
        self.compression = compression;
        self
    }

    /// The number under which both ends log this call.
    #[must_use]
    pub const fn log_id(mut self, log_id: i64) -> Self {
        self.log_id = Some(log_id);
        self
    }

    /// Sends `key: value` beside the message. A key that begins with `x-ctx-` travels on: the calls that
    /// the handler makes carry it too, and so the calls under those.
    #[must_use]
    pub fn metadata(mut self, key: impl AsRef<str>, value: impl Into<String>) -> Self {
        self.metadata.append(key, value);
        self
    }

    /// With no server reachable: waits for one until the deadline instead of failing at once.
    #[must_use]
    pub const fn wait_for_ready(mut self, wait: bool) -> Self {
        self.wait_for_ready = wait;
        self
    }
}
