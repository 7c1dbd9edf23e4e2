//! A way to a server that can be cut: carries bytes of connections both ways, as far as it is told to.
//!
//! Knows: sockets.   Does not know: what the bytes mean.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use anyhow::Result;

/// What becomes of what travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum How {
    /// It arrives.
    Open,
    /// What is asked arrives, what is answered does not.
    NoAnswers,
    /// Nothing arrives.
    Cut,
}

/// Carries bytes both ways, as far as it is told to.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    how: Arc<AtomicU8>,
}

impl Relay {
    /// One that leads to `to`.
    ///
    /// # Errors
    /// No port is free.
    pub fn start(to: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let how = Arc::new(AtomicU8::new(How::Open as u8));
        let told = how.clone();
        std::thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                // Nobody at home: the client sees a closed connection, as it should.
                let Ok(far) = TcpStream::connect(to) else {
                    continue;
                };
                let (Ok(near2), Ok(far2)) = (near.try_clone(), far.try_clone()) else {
                    continue;
                };
                let (asked, answered) = (told.clone(), told.clone());
                std::thread::spawn(move || carry(near, far, &asked, How::Cut));
                std::thread::spawn(move || carry(far2, near2, &answered, How::NoAnswers));
            }
        });
        Ok(Self { address, how })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What happens from now on. What is lost takes its connection with it.
    pub fn shake(&self, how: How) {
        self.how.store(how as u8, Ordering::SeqCst);
    }
}

/// One direction, which is closed from `least` on. What is lost takes the connection with it.
fn carry(mut from: TcpStream, mut to: TcpStream, how: &AtomicU8, least: How) {
    let mut bytes = [0; 4096];
    while let Ok(length @ 1..) = from.read(&mut bytes) {
        let lost = how.load(Ordering::SeqCst) >= least as u8;
        if lost || to.write_all(&bytes[..length]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
