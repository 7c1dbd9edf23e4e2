//! The golden files, compiled under strict lints as a crate would include them, and called through.
//!
//! `facade` stands in for rpc-core, under whose name the generated code finds it.

extern crate self as rpc_core;

use std::sync::Arc;

use crate::codegen::{CallOptions, Channel, Request, Response, Service, Status};

#[path = "facade.rs"]
pub mod codegen;

macro_rules! include_golden {
    ($($module:ident: $file:literal;)*) => {
        $(
            #[deny(
                dead_code, deprecated, missing_debug_implementations, missing_docs, unreachable_pub,
                unused_qualifications, clippy::all, clippy::pedantic, clippy::nursery
            )]
            mod $module {
                include!(concat!("../golden/", $file));
            }
        )*
    };
}

include_golden! {
    greeter: "greeter/expected/greeter.rs";
    packages: "packages/expected/all.rs";
    beside: "beside/expected/all.rs";
    well_known: "well_known/expected/_.rs";
    options: "options/expected/options.rs";
    comments: "comments/expected/comments.rs";
    odd: "odd/expected/odd.rs";
}

use greeter::{Greeter, GreeterClient, GreeterServer, HelloReply, HelloRequest, Mood};

struct Polite;

impl Greeter for Polite {
    fn say_hello(&self, request: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
        Ok(Response(HelloReply {
            text: format!("hello {}", request.0.name),
            mood: Mood::Glad.into(),
        }))
    }

    fn say_goodbye(&self, _: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
        Err(Status("stay".to_owned()))
    }

    fn r#type(&self, _: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
        Ok(Response(HelloReply::default()))
    }
}

#[test]
fn a_message_and_a_package_share_a_module() {
    use beside::plan::schema::kind::{Deep, Exact};
    use beside::plan::schema::{Kind, Part};
    let schema = beside::plan::Schema {
        parts: vec![Part { number: 1 }],
        kind: Some(Kind {
            exact: Some(Exact { number: 2 }),
            deep: Some(Deep { number: 3 }),
        }),
    };
    assert_eq!(schema.parts[0].number, 1);
}

#[test]
fn a_call_reaches_the_method_it_names() {
    let client = GreeterClient::new(Channel::to(GreeterServer::new(Polite)));
    let request = HelloRequest {
        name: "you".to_owned(),
    };
    let reply = client.say_hello(request.clone()).unwrap().0;
    assert_eq!(
        (reply.text.as_str(), reply.mood()),
        ("hello you", Mood::Glad)
    );

    let reply = client
        .clone()
        .say_hello_with(Request(request), CallOptions)
        .unwrap()
        .0;
    assert_eq!(reply.text, "hello you");
    assert_eq!(
        client.r#type(HelloRequest::default()).unwrap().0,
        HelloReply::default()
    );
}

#[test]
fn an_error_of_the_server_reaches_the_client() {
    #![expect(deprecated, reason = "the schema deprecates the method called here")]
    let client = GreeterClient::new(Channel::to(GreeterServer::from_arc(Arc::new(Polite))));
    assert_eq!(
        client.say_goodbye(HelloRequest::default()).unwrap_err(),
        Status("stay".to_owned())
    );
}

#[test]
fn a_service_describes_itself() {
    assert_eq!(GreeterServer::<Polite>::NAME, "greeter.Greeter");
    let descriptor = GreeterServer::new(Polite).descriptor();
    assert_eq!(descriptor.name, "greeter.Greeter");
    assert_eq!(descriptor.file_descriptor_set, greeter::FILE_DESCRIPTOR_SET);
    let methods: Vec<_> = descriptor
        .methods
        .iter()
        .map(|method| (method.name, method.input))
        .collect();
    let input = "greeter.HelloRequest";
    assert_eq!(
        methods,
        [("SayHello", input), ("SayGoodbye", input), ("Type", input)]
    );
}

#[test]
fn a_default_stub_says_what_is_missing() {
    use options::{Blob, Store, StoreServer};

    struct Lazy;
    impl Store for Lazy {}

    let status = Lazy.put(Request(Blob::default())).unwrap_err();
    assert_eq!(
        status,
        Status::unimplemented("options.Store/Put is not implemented")
    );
    assert_eq!(StoreServer::<Lazy>::NAME, "options.Store");
}

#[test]
fn bytes_fields_share_their_buffer_where_asked() {
    let blob = options::Blob::default();
    let _: (bytes::Bytes, Vec<u8>) = (blob.shared, blob.owned);
    let _: std::collections::BTreeMap<String, i32> = blob.tags;
}
