//! brpc's `baidu_rpc_meta.proto` and `streaming_rpc_meta.proto` on prost: the oracle of `meta.rs` and of
//! the recorded packets. Not on the path of a call.

use std::collections::BTreeMap;

use prost::Message;

#[derive(Clone, PartialEq, Message)]
pub struct RpcMeta {
    #[prost(message, optional, tag = "1")]
    pub request: Option<RpcRequestMeta>,
    #[prost(message, optional, tag = "2")]
    pub response: Option<RpcResponseMeta>,
    #[prost(int32, optional, tag = "3")]
    pub compress_type: Option<i32>,
    #[prost(int64, optional, tag = "4")]
    pub correlation_id: Option<i64>,
    #[prost(int32, optional, tag = "5")]
    pub attachment_size: Option<i32>,
    #[prost(message, optional, tag = "6")]
    pub chunk_info: Option<ChunkInfo>,
    #[prost(bytes = "vec", optional, tag = "7")]
    pub authentication_data: Option<Vec<u8>>,
    #[prost(message, optional, tag = "8")]
    pub stream_settings: Option<StreamSettings>,
    #[prost(btree_map = "string, string", tag = "9")]
    pub user_fields: BTreeMap<String, String>,
    #[prost(int32, optional, tag = "10")]
    pub content_type: Option<i32>,
    #[prost(int32, optional, tag = "11")]
    pub checksum_type: Option<i32>,
    #[prost(bytes = "vec", optional, tag = "12")]
    pub checksum_value: Option<Vec<u8>>,
    #[prost(bool, optional, tag = "13")]
    pub checksum_with_attachment: Option<bool>,
}

#[derive(Clone, PartialEq, Message)]
pub struct RpcRequestMeta {
    #[prost(string, required, tag = "1")]
    pub service_name: String,
    #[prost(string, required, tag = "2")]
    pub method_name: String,
    #[prost(int64, optional, tag = "3")]
    pub log_id: Option<i64>,
    #[prost(int64, optional, tag = "4")]
    pub trace_id: Option<i64>,
    #[prost(int64, optional, tag = "5")]
    pub span_id: Option<i64>,
    #[prost(int64, optional, tag = "6")]
    pub parent_span_id: Option<i64>,
    #[prost(string, optional, tag = "7")]
    pub request_id: Option<String>,
    #[prost(int32, optional, tag = "8")]
    pub timeout_ms: Option<i32>,
}

#[derive(Clone, PartialEq, Message)]
pub struct RpcResponseMeta {
    #[prost(int32, optional, tag = "1")]
    pub error_code: Option<i32>,
    #[prost(string, optional, tag = "2")]
    pub error_text: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
pub struct ChunkInfo {
    #[prost(int64, required, tag = "1")]
    pub stream_id: i64,
    #[prost(int64, required, tag = "2")]
    pub chunk_id: i64,
}

#[derive(Clone, PartialEq, Message)]
pub struct StreamSettings {
    #[prost(int64, required, tag = "1")]
    pub stream_id: i64,
    #[prost(bool, optional, tag = "2")]
    pub need_feedback: Option<bool>,
    #[prost(bool, optional, tag = "3")]
    pub writable: Option<bool>,
    #[prost(int64, repeated, packed = "false", tag = "4")]
    pub extra_stream_ids: Vec<i64>,
}

#[derive(Clone, PartialEq, Message)]
pub struct StreamFrameMeta {
    #[prost(int64, required, tag = "1")]
    pub stream_id: i64,
    #[prost(int64, optional, tag = "2")]
    pub source_stream_id: Option<i64>,
    #[prost(int32, optional, tag = "3")]
    pub frame_type: Option<i32>,
    #[prost(bool, optional, tag = "4")]
    pub has_continuation: Option<bool>,
    #[prost(message, optional, tag = "5")]
    pub feedback: Option<Feedback>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Feedback {
    #[prost(int64, optional, tag = "1")]
    pub consumed_size: Option<i64>,
}
