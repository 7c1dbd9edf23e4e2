//! A call is cut in the middle, its connection goes back to a pool, and the answer comes late: the
//! connection's next user must not take it for his own.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use libraries::calls;
use libraries::processes::Process;
use mysql::prelude::Queryable;
use rpc_core::{Deadline, spawn};

use super::on_one_worker;

const SOON: Duration = Duration::from_millis(5);
/// Calls that are cut, one after the other, on what the pool hands out.
const ROUNDS: usize = 50;

/// A client that takes every reply for the answer to its last command, as many drivers do.
struct Trusting(BufReader<TcpStream>);

impl Trusting {
    fn connect(addr: SocketAddr) -> io::Result<Self> {
        Ok(Self(BufReader::new(TcpStream::connect(addr)?)))
    }

    fn ask(&mut self, command: &str) -> io::Result<String> {
        let line = format!("{command}\r\n");
        self.0.get_mut().write_all(line.as_bytes())?;
        self.reply()
    }

    /// A reply in one line: the elements of a list with blanks between them.
    fn reply(&mut self) -> io::Result<String> {
        let line = self.line()?;
        match line.split_at(1) {
            ("*", count) => {
                let count = count.parse().map_err(io::Error::other)?;
                let elements: io::Result<Vec<String>> = (0..count).map(|_| self.reply()).collect();
                Ok(elements?.join(" "))
            }
            ("$", _) => self.line(),
            (_, rest) => Ok(rest.to_owned()),
        }
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.0.read_line(&mut line)? < 3 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim_end().to_owned())
    }
}

/// Pushes what a cut call waited for.
fn answer_late(control: &mut Trusting) {
    control.ask("RPUSH late foreign").unwrap();
}

/// Asks until the server counts one client that waits for a list.
fn wait_until_one_is_blocked(addr: SocketAddr) {
    let client = redis::Client::open(format!("redis://{addr}/")).unwrap();
    let mut control = client.get_connection().unwrap();
    loop {
        let mut ask = redis::cmd("INFO");
        let said: String = ask.arg("clients").query(&mut control).unwrap();
        if said.contains("\r\nblocked_clients:1\r\n") {
            return;
        }
    }
}

#[test]
fn a_connection_cut_by_a_deadline_brings_no_foreign_reply() {
    let server = Process::redis().unwrap();
    let addr = server.addr();
    // On a thread, where a socket's own timeout cuts the call, this very client is fooled.
    let mut control = Trusting::connect(addr).unwrap();
    control.ask("SET own mine").unwrap();
    let mut client = Trusting::connect(addr).unwrap();
    client.0.get_ref().set_read_timeout(Some(SOON)).unwrap();
    client.ask("BLPOP late 0").unwrap_err();
    client.0.get_ref().set_read_timeout(None).unwrap();
    answer_late(&mut control);
    assert_eq!(client.ask("GET own").unwrap(), "late foreign");

    let next = on_one_worker(move || {
        let mut client = Trusting::connect(addr).unwrap();
        let cut = Deadline::within(SOON, || client.ask("BLPOP late 0")).unwrap_err();
        answer_late(&mut control);
        (cut.kind(), client.ask("GET own").map_err(drop))
    });
    assert_eq!(next, (io::ErrorKind::TimedOut, Err(())));
}

#[test]
fn a_connection_cut_by_cancellation_brings_no_foreign_reply() {
    let server = Process::redis().unwrap();
    let addr = server.addr();
    let next = on_one_worker(move || {
        let mut control = Trusting::connect(addr).unwrap();
        control.ask("SET own mine").unwrap();
        let mut client = Trusting::connect(addr).unwrap();
        let waiting = spawn(move || {
            let cut = client.ask("BLPOP late 0").unwrap_err();
            (cut.raw_os_error(), client)
        });
        wait_until_one_is_blocked(addr);
        waiting.cancel();
        let (cut, mut client) = waiting.join().unwrap();
        answer_late(&mut control);
        (cut, client.ask("GET own").map_err(drop))
    });
    assert_eq!(next, (Some(libc::ECANCELED), Err(())));
}

#[test]
fn a_redis_pool_gives_every_user_its_own_replies_though_calls_are_cut() {
    let server = Process::redis().unwrap();
    let addr = server.addr();
    let (cut, seen) = on_one_worker(move || {
        let client = redis::Client::open(format!("redis://{addr}/")).unwrap();
        let pool = r2d2::Pool::builder().max_size(2).build(client).unwrap();
        let mut control = Trusting::connect(addr).unwrap();
        let mut cut = 0;
        let mut seen = Vec::new();
        for round in 0..ROUNDS {
            let mut pop = redis::cmd("BLPOP");
            pop.arg("late").arg(0);
            if round % 2 == 0 {
                let mut connection = pool.get().unwrap();
                let popped: Result<(String, String), _> =
                    Deadline::within(SOON, || pop.query(&mut connection));
                cut += usize::from(popped.is_err());
            } else {
                let mut connection = pool.get().unwrap();
                let waiting = spawn(move || pop.query::<(String, String)>(&mut connection));
                wait_until_one_is_blocked(addr);
                waiting.cancel();
                cut += usize::from(waiting.join().unwrap().is_err());
            }
            answer_late(&mut control);
            let mut connection = pool.get().unwrap();
            let mut echo = redis::cmd("ECHO");
            seen.push(echo.arg(round).query::<usize>(&mut connection).unwrap());
            // What nobody took must not answer the next round.
            control.ask("DEL late").unwrap();
        }
        (cut, seen)
    });
    assert_eq!(cut, ROUNDS);
    assert_eq!(seen, (0..ROUNDS).collect::<Vec<_>>());
}

#[test]
fn a_mysql_pool_gives_every_user_its_own_rows_though_queries_are_cut() {
    let server = Process::mariadb().unwrap();
    let addr = server.addr();
    let (cut, seen) = on_one_worker(move || {
        let limits = mysql::PoolConstraints::new(1, 2).unwrap();
        let options = mysql::OptsBuilder::from_opts(calls::mysql_options(addr))
            .pool_opts(mysql::PoolOpts::default().with_constraints(limits));
        let pool = mysql::Pool::new(options).unwrap();
        let mut holder = mysql::Conn::new(calls::mysql_options(addr)).unwrap();
        let mut cut = 0;
        let mut seen = Vec::new();
        for round in 0..ROUNDS {
            // Waits, where need be, for the end of the session that was cut before.
            let held: Option<u8> = holder.query_first("SELECT GET_LOCK('late', 60)").unwrap();
            assert_eq!(held, Some(1));
            let mut connection = pool.get_conn().unwrap();
            let late = "SELECT 'foreign', GET_LOCK('late', 60)";
            cut += usize::from(Deadline::within(SOON, || connection.query_drop(late)).is_err());
            drop(connection);
            holder.query_drop("SELECT RELEASE_LOCK('late')").unwrap();
            let mut connection = pool.get_conn().unwrap();
            let query = format!("SELECT {round}");
            seen.push(connection.query_first(query).unwrap());
        }
        (cut, seen)
    });
    assert_eq!(cut, ROUNDS);
    assert_eq!(seen, (0..ROUNDS).map(Some).collect::<Vec<_>>());
}
