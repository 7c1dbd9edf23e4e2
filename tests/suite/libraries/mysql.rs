//! The `mysql` driver and MariaDB.

use std::thread;

use libraries::calls;
use libraries::processes::Process;
use mysql::prelude::Queryable;

use super::{COUNT, at_once, own_answers};

#[test]
fn mysql_waits_for_a_lock_a_thousand_times_on_one_worker() {
    let server = Process::mariadb().unwrap();
    let addr = server.addr();
    let mut holder = mysql::Conn::new(calls::mysql_options(addr)).unwrap();
    for statement in [
        "CREATE DATABASE suite",
        "CREATE TABLE suite.gate (open INT)",
        "INSERT INTO suite.gate VALUES (1)",
        "LOCK TABLES suite.gate WRITE",
    ] {
        holder.query_drop(statement).unwrap();
    }
    let opener = thread::spawn(move || {
        let mut control = mysql::Conn::new(calls::mysql_options(addr)).unwrap();
        let waiting = "SELECT COUNT(*) FROM information_schema.processlist WHERE state LIKE 'Waiting for table%'";
        while control.query_first(waiting).unwrap() != Some(COUNT) {}
        holder.query_drop("UNLOCK TABLES").unwrap();
    });
    let answers = at_once(move |caller| {
        calls::mysql(addr, &format!("SELECT {caller} * open FROM suite.gate"))
    });
    opener.join().unwrap();
    assert_eq!(answers, own_answers(|caller| caller.to_string()));
}
