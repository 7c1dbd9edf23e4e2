//! An HTTP server that answers every GET after a fixed wait, for thousands of connections at once.
//! Neither side of the benchmark: both ask it.

use std::net::SocketAddr;
use std::time::Duration;

use clap::Parser;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Answer GETs slowly
#[derive(Parser)]
struct Flags {
    /// Where to listen
    #[arg(long, value_name = "HOST:PORT")]
    addr: SocketAddr,
    /// Milliseconds from a request to its answer
    #[arg(long, default_value_t = 100)]
    wait_ms: u64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let flags = Flags::parse();
    let socket = tokio::net::TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(flags.addr)?;
    // 4,096: a thousand clients connect at the same moment.
    let listener: TcpListener = socket.listen(4096)?;
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(answer(stream, Duration::from_millis(flags.wait_ms)));
    }
}

/// Serves one connection until it ends. Requests have no body and arrive one at a time.
async fn answer(mut stream: TcpStream, wait: Duration) -> std::io::Result<()> {
    const ANSWER: &[u8] =
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-type: text/plain\r\n\r\nok";
    stream.set_nodelay(true)?;
    let mut request = Vec::with_capacity(1024);
    loop {
        request.clear();
        while !request.ends_with(b"\r\n\r\n") {
            if request.len() > 16 << 10 || stream.read_buf(&mut request).await? == 0 {
                return Ok(());
            }
        }
        tokio::time::sleep(wait).await;
        stream.write_all(ANSWER).await?;
    }
}
