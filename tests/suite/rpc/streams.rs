//! Streams through generated code: handlers return iterators, clients take and give them.

use std::sync::mpsc;

use rpc_core::{
    Channel, Code, IntoStreamingRequest, Request, Response, Server, ServerHandle, Status, Streaming,
};

rpc_core::include_proto!("numbers");

struct Plain;

fn number(value: i64) -> Number {
    Number { value }
}

impl Numbers for Plain {
    fn square(&self, request: Request<Number>) -> Result<Response<Number>, Status> {
        Ok(Response::new(number(request.value * request.value)))
    }

    fn sum(&self, request: Request<Streaming<Number>>) -> Result<Response<Number>, Status> {
        let mut sum = 0;
        for item in request.into_inner() {
            sum += item?.value;
        }
        Ok(Response::new(number(sum)))
    }

    fn count(
        &self,
        request: Request<Number>,
    ) -> Result<Response<impl Iterator<Item = Result<Number, Status>>>, Status> {
        if request.value < 0 {
            return Err(Status::out_of_range("counting goes up"));
        }
        Ok(Response::new(
            (1..=request.value).map(|value| Ok(number(value))),
        ))
    }

    fn running(
        &self,
        request: Request<Streaming<Number>>,
    ) -> Result<Response<impl Iterator<Item = Result<Number, Status>>>, Status> {
        let sums = request.into_inner().scan(0, |sum, item| {
            Some(item.map(|item| {
                *sum += item.value;
                number(*sum)
            }))
        });
        Ok(Response::new(sums))
    }
}

fn start(service: impl Numbers) -> (NumbersClient, ServerHandle) {
    let server = Server::builder()
        .add_service(NumbersServer::new(service))
        .handle_signals(false)
        .bind("127.0.0.1:0")
        .expect("a free port is there");
    let (handle, addr) = (server.handle(), server.local_addr());
    std::thread::spawn(move || server.serve().expect("the server drains"));
    let channel = Channel::builder(&addr.to_string()).connect();
    (NumbersClient::new(channel.expect("it listens")), handle)
}

fn numbers(values: impl IntoIterator<Item = i64>) -> Vec<Number> {
    values.into_iter().map(number).collect()
}

/// Every kind of method once, on whatever runs it.
fn all_kinds(client: &NumbersClient) {
    assert_eq!(client.square(number(7)).unwrap().value, 49);
    assert_eq!(client.sum(numbers(1..=10)).unwrap().value, 55);
    let counted = client.count(number(3)).unwrap().into_inner();
    let counted: Result<Vec<Number>, Status> = counted.collect();
    assert_eq!(counted.unwrap(), numbers(1..=3));
    assert_eq!(
        client.count(number(-1)).unwrap_err().code(),
        Code::OutOfRange
    );
    let (tell, told) = mpsc::sync_channel(1);
    let mut sums = client.running(told).unwrap().into_inner();
    for (value, sum) in [(1, 1), (2, 3), (3, 6)] {
        tell.send(number(value)).unwrap();
        assert_eq!(sums.message().unwrap(), Some(number(sum)));
    }
    drop(tell);
    assert_eq!(sums.message().unwrap(), None);
}

#[test]
fn every_kind_of_method_works_from_an_os_thread() {
    let (client, handle) = start(Plain);
    all_kinds(&client);
    handle.drain();
}

#[rpc_core::test]
fn every_kind_of_method_works_from_a_coroutine() {
    let (client, handle) = start(Plain);
    all_kinds(&client);
    handle.drain();
}

#[test]
fn a_stream_of_requests_carries_metadata_in_a_request_around_it() {
    let mut request = Request::new(numbers([1, 2]));
    request.metadata_mut().insert("k", "v");
    let request = request.into_streaming_request();
    assert_eq!(request.metadata().get("k"), Some("v"));
    let (client, handle) = start(Plain);
    assert_eq!(client.sum(request).unwrap().value, 3);
    handle.drain();
}

/// Leaves all methods to their default bodies.
struct Nothing;

impl Numbers for Nothing {}

#[test]
fn methods_left_out_answer_unimplemented_whatever_their_kind() {
    let (client, handle) = start(Nothing);
    let status = client.square(number(1)).unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
    assert!(
        status.message().contains("numbers.Numbers/Square"),
        "{status}"
    );
    assert_eq!(client.sum([]).unwrap_err().code(), Code::Unimplemented);
    assert_eq!(
        client.count(number(1)).unwrap_err().code(),
        Code::Unimplemented
    );
    let mut sums = client.running([]).unwrap().into_inner();
    assert_eq!(sums.message().unwrap_err().code(), Code::Unimplemented);
    handle.drain();
}

#[test]
fn a_mock_does_what_it_was_told() {
    let mock = NumbersMock::new()
        .on_square(|request| Ok(number(-request.value).into()))
        .on_count(|_| Ok(Streaming::of(numbers([5, 6])).into()))
        .on_running(|request| Ok(request.into_inner().into()));
    let (client, handle) = start(mock);
    assert_eq!(client.square(number(3)).unwrap().value, -3);
    let counted: Result<Vec<Number>, Status> =
        client.count(number(1)).unwrap().into_inner().collect();
    assert_eq!(counted.unwrap(), numbers([5, 6]));
    let echoed = client.running(numbers([7])).unwrap().into_inner().message();
    assert_eq!(echoed.unwrap(), Some(number(7)));
    let status = client.sum([]).unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented, "it was not told");
    handle.drain();
}
