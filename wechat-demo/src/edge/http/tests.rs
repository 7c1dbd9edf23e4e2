//! Requests as they come from the port, against a store in a directory of its own.

use std::sync::atomic::AtomicI64;

use rpc_core::rpc::protocol::CallId;
use rpc_core::time::Instant;

use super::super::store::Bounds;
use super::*;
use crate::model::clock::TestClock;

/// The token is the user's name.
struct Names;

impl Gate for Names {
    fn user(&self, token: Vec<u8>) -> Result<u64, Status> {
        match &token[..] {
            b"ann" => Ok(1),
            b"bob" => Ok(2),
            b"nobody can be asked" => Err(Status::unavailable("logic is away")),
            _ => Err(Status::unauthenticated("this is no token; log in again")),
        }
    }
}

const SIZE: u64 = 1 << 22;

fn media(dir: &tempfile::TempDir) -> Media {
    let bounds = Bounds {
        object: SIZE,
        owner: 1 << 24,
        total: 1 << 30,
    };
    let store = Store::open(dir.path(), bounds, 0).unwrap();
    let clock = Arc::new(TestClock(AtomicI64::new(0)));
    Media::new(
        Arc::new(store),
        None,
        Box::new(Names),
        clock,
        Arc::default(),
        SIZE,
    )
}

fn request(method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> PageRequest {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut map = MetadataMap::new();
    for (name, value) in headers {
        map.append(name, *value);
    }
    PageRequest {
        id: CallId::new(0, 0),
        method: method.to_owned(),
        path: path.to_owned(),
        query: query.to_owned(),
        headers: map,
        body: Bytes::copy_from_slice(body),
        arrived: Instant::ZERO,
    }
}

fn bearer(name: &str) -> String {
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    format!("Bearer {}", URL_SAFE_NO_PAD.encode(name))
}

fn described(bytes: &[u8], content_type: &str) -> String {
    let hash = blake3::hash(bytes).to_string();
    let (hash, content_type) = (STANDARD.encode(hash), STANDARD.encode(content_type));
    format!("name Zm9v, hash {hash}, type {content_type}")
}

fn begin(media: &Media, who: &str, bytes: &[u8], content_type: &str) -> Page {
    let (size, what) = (bytes.len().to_string(), described(bytes, content_type));
    let headers = [
        ("authorization", &*bearer(who)),
        ("upload-length", &size),
        ("upload-metadata", &what),
        ("tus-resumable", "1.0.0"),
    ];
    media.answer(&request("POST", "/media/uploads", &headers, b""))
}

fn patch(media: &Media, who: &str, place: &str, offset: usize, chunk: &[u8]) -> Page {
    let headers = [
        ("authorization", &*bearer(who)),
        ("upload-offset", &*offset.to_string()),
        ("content-type", CHUNK_TYPE),
    ];
    media.answer(&request("PATCH", place, &headers, chunk))
}

/// Uploads it; where it is then read.
fn upload(media: &Media, who: &str, bytes: &[u8], content_type: &str) -> String {
    let begun = begin(media, who, bytes, content_type);
    assert_eq!(begun.status, 201, "{begun:?}");
    let place = begun.headers.get("location").unwrap().to_owned();
    let mut offset = 0;
    loop {
        let end = bytes.len().min(offset + CHUNK);
        let page = patch(media, who, &place, offset, &bytes[offset..end]);
        offset = end;
        if page.status == 204 {
            continue;
        }
        return place_of(&page);
    }
}

fn place_of(pointer: &Page) -> String {
    assert_eq!(pointer.status, 200, "{pointer:?}");
    let told: serde_json::Value = serde_json::from_slice(&pointer.body).unwrap();
    let word = |name: &str| told[name].as_str().unwrap().to_owned();
    format!("/media/objects/{}?key={}", word("file_id"), word("key"))
}

fn get(media: &Media, target: &str, headers: &[(&str, &str)]) -> Page {
    media.answer(&request("GET", target, headers, b""))
}

#[rpc_core::test]
fn what_was_uploaded_in_chunks_is_read_whole_and_in_ranges() {
    let dir = tempfile::tempdir().unwrap();
    let media = media(&dir);
    let bytes: Vec<u8> = (0..2_500_000_u32).map(|n| (n % 251) as u8).collect();
    let target = upload(&media, "ann", &bytes, "application/octet-stream");
    let whole = get(&media, &target, &[]);
    assert_eq!((whole.status, &whole.body[..]), (200, &bytes[..]));
    assert_eq!(whole.content_type, "application/octet-stream");
    assert_eq!(whole.headers.get("content-disposition"), Some("attachment"));
    let tag = whole.headers.get("etag").unwrap().to_owned();
    assert_eq!(tag, format!("\"{}\"", blake3::hash(&bytes)));
    drop(whole);

    let part = get(&media, &target, &[("range", "bytes=1000-1999")]);
    assert_eq!((part.status, &part.body[..]), (206, &bytes[1000..2000]));
    let line = part.headers.get("content-range").unwrap();
    assert_eq!(line, "bytes 1000-1999/2500000");
    let beyond = get(&media, &target, &[("range", "bytes=2500000-")]);
    assert_eq!(beyond.status, 416);
    assert_eq!(beyond.headers.get("content-range"), Some("bytes */2500000"));
    let known = get(
        &media,
        &target,
        &[("if-none-match", &format!("\"x\", W/{tag}"))],
    );
    assert_eq!((known.status, known.body.len()), (304, 0));
    let other = get(
        &media,
        &target,
        &[("range", "bytes=0-1"), ("if-range", "\"x\"")],
    );
    assert_eq!(other.status, 200);
    let same = get(
        &media,
        &target,
        &[("range", "bytes=0-1"), ("if-range", &tag)],
    );
    assert_eq!(same.status, 206);
}

#[rpc_core::test]
fn without_its_key_nobody_learns_of_an_object() {
    let dir = tempfile::tempdir().unwrap();
    let media = media(&dir);
    let target = upload(&media, "ann", b"OggS of ann", "audio/ogg");
    let (place, key) = target.split_once('?').unwrap();
    assert_eq!(get(&media, place, &[]).status, 403);
    let wrong = get(&media, &format!("{place}?key={}", "0".repeat(64)), &[]);
    let absent = get(
        &media,
        &format!("/media/objects/{}?{key}", "0".repeat(32)),
        &[],
    );
    assert_eq!((wrong.status, absent.status), (404, 404));
    assert_eq!(wrong.body, absent.body);
    assert_eq!(get(&media, &format!("{place}?key=x"), &[]).status, 404);
    assert_eq!(
        get(&media, "/media/objects/..%2fsecret?key=x", &[]).status,
        404
    );

    // The same bytes of another owner are news to the edge.
    assert_eq!(
        begin(&media, "bob", b"OggS of ann", "audio/ogg").status,
        201
    );
    let again = begin(&media, "ann", b"OggS of ann", "audio/ogg");
    assert_eq!(place_of(&again), target);
    let auth = bearer("bob");
    let delete = |auth: &str| {
        let headers = [("authorization", auth)];
        media
            .answer(&request("DELETE", place, &headers, b""))
            .status
    };
    assert_eq!(delete(&auth), 404);
    assert_eq!(delete(&bearer("ann")), 204);
    assert_eq!(get(&media, &target, &[]).status, 404);
}

#[rpc_core::test]
fn bad_input_has_its_status_and_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let media = media(&dir);
    let refused = |page: Page, status: u16, part: &str| {
        let text = String::from_utf8_lossy(&page.body).into_owned();
        assert_eq!(page.status, status, "{text}");
        assert!(text.contains(part), "{text}");
        page
    };
    let file = "application/octet-stream";
    let begun = begin(&media, "ann", b"0123456789", file);
    let place = begun.headers.get("location").unwrap();
    let wrong = refused(patch(&media, "ann", place, 3, b"3"), 409, "0 bytes");
    assert_eq!(wrong.headers.get("upload-offset"), Some("0"));
    refused(
        patch(&media, "ann", place, 0, b"0123456789+"),
        413,
        "10 bytes",
    );
    refused(
        patch(&media, "ann", place, 0, &vec![0; CHUNK + 1]),
        413,
        "at most",
    );
    refused(patch(&media, "bob", place, 0, b"0"), 404, "begin again");
    refused(patch(&media, "eve", place, 0, b"0"), 401, "log in");
    refused(
        patch(&media, "nobody can be asked", place, 0, b"0"),
        503,
        "away",
    );
    refused(patch(&media, "ann", place, 0, b"9876543210"), 460, "hash");
    refused(patch(&media, "ann", place, 0, b"0"), 404, "begin again");

    refused(begin(&media, "ann", b"", file), 413, "1 to");
    refused(
        begin(&media, "ann", &vec![0; SIZE as usize + 1], file),
        413,
        "1 to",
    );
    refused(begin(&media, "ann", b"0", "text/html"), 415, "image/png");
    let png = begin(&media, "ann", b"not a picture", "image/png");
    let place = png.headers.get("location").unwrap();
    refused(
        patch(&media, "ann", place, 0, b"not a picture"),
        415,
        "no image/png",
    );
    let auth = bearer("ann");
    let bare = [("authorization", &*auth), ("upload-length", "1")];
    let post =
        |headers: &[(&str, &str)]| media.answer(&request("POST", "/media/uploads", headers, b""));
    refused(post(&bare), 400, "hash");
    refused(
        post(&[("authorization", &auth), ("upload-length", "-1")]),
        400,
        "upload-length",
    );
    refused(post(&[]), 401, "Bearer");
    refused(post(&[("tus-resumable", "0.2")]), 412, "1.0.0");
    refused(get(&media, "/media/uploads", &[]), 405, "POST");
    refused(get(&media, "/media/nonsense", &[]), 404, "/media/uploads");
}

#[rpc_core::test]
fn answers_that_wait_for_their_readers_are_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let media = media(&dir);
    let target = upload(
        &media,
        "ann",
        &vec![1; SIZE as usize],
        "application/octet-stream",
    );
    let first = get(&media, &target, &[]);
    assert_eq!(first.status, 200);
    let second = get(&media, &target, &[("range", "bytes=0-0")]);
    assert_eq!(second.status, 503);
    assert_eq!(second.headers.get("retry-after"), Some("1"));
    drop(first);
    assert_eq!(get(&media, &target, &[("range", "bytes=0-0")]).status, 206);
}
