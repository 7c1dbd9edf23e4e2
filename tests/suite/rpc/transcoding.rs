//! Paths that the schema chose (`google.api.http`): which request each becomes, and what is refused.

use super::peer::http;
use super::*;

mod library {
    rpc_core::include_proto!("library");
}
use library::{Book, Books, ChangeBook, FindBooks, GetBook, Library, LibraryServer};

/// Answers with what it was asked.
struct Shelves;

impl Library for Shelves {
    fn get(&self, request: Request<GetBook>) -> Result<Response<Book>, Status> {
        Ok(Response::new(Book {
            name: request.into_inner().name,
            ..Book::default()
        }))
    }

    fn find(&self, request: Request<FindBooks>) -> Result<Response<Books>, Status> {
        let asked = format!("{:?}", request.into_inner());
        let books = vec![Book::default()];
        Ok(Response::new(Books { books, asked }))
    }

    fn change(&self, request: Request<ChangeBook>) -> Result<Response<Book>, Status> {
        let ChangeBook { book, reason } = request.into_inner();
        let mut book = book.unwrap_or_default();
        book.title += &format!(" ({reason})");
        Ok(Response::new(book))
    }

    fn add(&self, request: Request<Book>) -> Result<Response<Book>, Status> {
        Ok(Response::new(request.into_inner()))
    }
}

fn ask_http(addr: SocketAddr, line: &str, body: &str) -> (u16, String, serde_json::Value) {
    let (line, body) = (line.to_owned(), body.to_owned());
    let (status, head, body) = on_a_thread(move || {
        let length = match body.is_empty() {
            true => String::new(),
            false => format!("Content-Length: {}\r\n", body.len()),
        };
        let text =
            format!("{line} HTTP/1.1\r\nHost: test\r\n{length}Connection: close\r\n\r\n{body}");
        http(addr, &text)
    });
    let json = serde_json::from_str(&body).unwrap_or(serde_json::Value::Null);
    (status, head, json)
}

/// Every line with its body, and the answer.
fn expect(cases: &[(&str, &str, serde_json::Value)]) {
    let server = Served::with(|builder| builder.add_service(LibraryServer::new(Shelves)));
    for (line, body, expected) in cases {
        let (status, head, json) = ask_http(server.addr, line, body);
        assert_eq!((status, &json), (200, expected), "{line} {body}: {head}");
    }
    server.stop();
}

#[rpc_core::test]
fn the_path_fills_its_fields() {
    expect(&[
        (
            "GET /v1/shelves/7/books/a%20b",
            "",
            serde_json::json!({"name": "shelves/7/books/a b"}),
        ),
        ("GET /v1/books/x", "", serde_json::json!({"name": "x"})),
    ]);
}

#[rpc_core::test]
fn the_query_fills_what_the_path_leaves_open() {
    let server = Served::with(|builder| builder.add_service(LibraryServer::new(Shelves)));
    let query = "filter.tags=a+b&filter.tags=%E4%BD%A0&pageSize=3&filter.printed=true&filter.kind=NOVEL\
                 &filter.since=2026-01-02T03:04:05Z&filter.price=1.5";
    let line = format!("GET /v1/shelves/s/books?{query}");
    let (status, head, json) = ask_http(server.addr, &line, "");
    assert_eq!(status, 200, "{head} {json}");
    let asked = json["asked"].as_str().unwrap();
    for part in [
        r#"shelf: "s""#,
        r#"tags: ["a b", "你"]"#,
        "printed: true",
        "kind: Novel",
        "price: 1.5",
        "seconds: 1767323045",
        "page_size: 3",
    ] {
        assert!(asked.contains(part), "{part} in {asked}");
    }
    server.stop();
}

#[rpc_core::test]
fn the_body_is_the_request_or_one_field_of_it() {
    expect(&[
        (
            "POST /v1/books",
            r#"{"title":"T","pages":"12","tags":["x"]}"#,
            serde_json::json!({"title": "T", "pages": "12", "tags": ["x"]}),
        ),
        (
            "PATCH /v1/shelves/1/books/2?reason=typo",
            r#"{"name":"ignored","title":"T"}"#,
            serde_json::json!({"name": "shelves/1/books/2", "title": "T (typo)"}),
        ),
    ]);
}

#[rpc_core::test]
fn one_field_of_the_answer_may_be_the_whole_answer() {
    let server = Served::with(|builder| builder.add_service(LibraryServer::new(Shelves)));
    let line = "POST /v1/shelves/s/books:search?page_size=9";
    let (status, _, json) = ask_http(server.addr, line, r#"{"printed":true}"#);
    let asked = json.as_str().unwrap_or_default();
    assert_eq!(status, 200);
    assert!(
        asked.contains("page_size: 9") && asked.contains("printed: true"),
        "{asked}"
    );
    server.stop();
}

#[rpc_core::test]
fn what_does_not_fit_is_refused_and_named() {
    let server = Served::with(|builder| builder.add_service(LibraryServer::new(Shelves)));
    let cases = [
        ("GET /v1/shelves/s/books?nope=1", "", 400, "nope"),
        ("GET /v1/shelves/s/books?page_size=x", "", 400, "FindBooks"),
        ("GET /v1/shelves/s/books?filter=x", "", 400, "filter"),
        ("GET /v1/shelves/s/books?filter.printed=yes", "", 400, "yes"),
        ("GET /v1/shelves/s/books?shelf=t", "", 400, "shelf"),
        (
            "GET /v1/shelves/s/books?page_size=1&page_size=2",
            "",
            400,
            "twice",
        ),
        ("GET /v1/books/%ff", "", 400, "UTF-8"),
        ("GET /v1/books/x", "{}", 400, "no body"),
        ("POST /v1/books", "{", 400, "line 1"),
        (
            "POST /v1/books",
            r#"{"title":"a"}, "name": 1"#,
            400,
            "trailing",
        ),
        (
            "PATCH /v1/shelves/1/books/2",
            r#"{}, "reason":"x""#,
            400,
            "trailing",
        ),
    ];
    for (line, body, expected, word) in cases {
        let (status, _, json) = ask_http(server.addr, line, body);
        let message = json["message"].as_str().unwrap_or_default();
        assert!(
            status == expected && message.contains(word),
            "{line} {body}: {status} {json}"
        );
    }
    let (status, head, _) = ask_http(server.addr, "PUT /v1/books/x", "{}");
    assert_eq!(status, 405);
    assert!(head.to_ascii_lowercase().contains("allow: get"), "{head}");
    let (status, ..) = ask_http(server.addr, "GET /v1/nothing/here/at/all", "");
    assert_eq!(status, 404);
    server.stop();
}
