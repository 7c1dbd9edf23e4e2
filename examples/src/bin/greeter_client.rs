//! The client of `greeter_server`: `greeter_client [NAME] [HOST:PORT]`.

use std::time::Duration;

use rpc_core::Channel;

rpc_core::include_proto!("greeter");

#[rpc_core::main]
fn main() -> Result<(), rpc_core::Error> {
    let mut args = std::env::args().skip(1);
    let name = args.next().unwrap_or_else(|| "world".into());
    let addr = args.next().unwrap_or_else(|| "127.0.0.1:8000".into());
    let channel = Channel::builder(&addr)
        .deadline(Duration::from_secs(1))
        .connect()?;
    let reply = GreeterClient::new(channel).say_hello(HelloRequest { name })?;
    println!("{}", reply.message);
    Ok(())
}
