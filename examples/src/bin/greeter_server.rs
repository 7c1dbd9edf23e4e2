//! A service in twenty lines: `cargo run -p examples --bin greeter_server`, then `greeter_client`, or
//! `curl -d '{"name":"you"}' -H 'content-type: application/json' 127.0.0.1:8000/greeter.Greeter/SayHello`.

use rpc_core::{Request, Response, Server, Status};

rpc_core::include_proto!("greeter");

struct Polite;

impl Greeter for Polite {
    fn say_hello(&self, request: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
        if request.name.is_empty() {
            return Err(Status::invalid_argument("name is empty: say whom to greet"));
        }
        let message = format!("Hello, {}!", request.name);
        Ok(Response::new(HelloReply { message }))
    }
}

#[rpc_core::main]
fn main() -> Result<(), rpc_core::Error> {
    let addr = std::env::args().nth(1);
    let addr = addr.as_deref().unwrap_or("127.0.0.1:8000");
    Server::builder()
        .add_service(GreeterServer::new(Polite))
        .serve(addr)
}
