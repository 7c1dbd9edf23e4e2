//! The mysql back end: any database that speaks MySQL's protocol, through the blocking `mysql` driver. On a
//! coroutine its sockets park like any other.
//!
//! The database keeps the copies and syncs; its tables are the store's. Each batch is one transaction that
//! begins with the fence:
//!
//! ```sql
//! UPDATE shard SET last = last + ? WHERE id = ? AND epoch = ?
//! ```
//! and stops when no row matched. Whoever takes the store over raises `epoch` in that row first, and waits
//! there for a batch that is under way; so a writer that was paused, or cut off, writes nothing any more.
//! One committer writes all shards of a store, so they share one row, of id 0; `last` counts batches.
//!
//! Statements are those that every such database takes: no hints, no locks but of rows, one schema of five
//! tables of keys and values beside the fence.

use std::{
    collections::HashSet,
    fmt::Write,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use mysql::{Conn, Opts, OptsBuilder, Value, prelude::Queryable};

use super::{Batch, Durability, Engine, EngineError, Snapshot, Span, Table, fold};

/// A store in a database. It reads from the start and writes after [`Engine::take_over`].
pub struct Mysql {
    pool: Arc<Pool>,
    /// `None` before the take-over, and after a failed write.
    writer: Mutex<Option<Writer>>,
}

/// The one connection that writes.
struct Writer {
    conn: Conn,
    epoch: u64,
}

/// Connections for readers, at most [`READERS`].
struct Pool {
    opts: Opts,
    connections: Mutex<Connections>,
    returned: Condvar,
}

#[derive(Default)]
struct Connections {
    idle: Vec<Conn>,
    /// Idle or not.
    all: usize,
}

/// A connection of the pool, given back when dropped.
struct Reader {
    pool: Arc<Pool>,
    /// `None` once it was lost.
    conn: Option<Conn>,
}

/// A transaction that reads one moment's state.
struct Moment(Reader);

/// Of the schema, in the `shard` table.
const FORMAT: u32 = 1;
/// The fence's row.
const FENCE: u32 = 0;
/// Connections that read at the same time; who wants another waits.
const READERS: usize = 32;
/// A database that takes longer to connect is taken for away.
const CONNECT_WAIT: Duration = Duration::from_secs(5);
/// Longest wait for an answer: longer than a database lets a transaction wait for a lock.
const ANSWER_WAIT: Duration = Duration::from_secs(90);
/// Rows in one statement; few sizes, so that each is prepared once.
const GROUPS: [usize; 4] = [128, 32, 8, 1];
/// Bytes in one statement, but for a single row.
const GROUP_BYTES: usize = 1 << 20;
/// Rows of the first page of a scan; each next one has four times as many, up to [`PAGE_MOST`]. What is left of
/// a page when the visitor has enough is read for nothing.
const PAGE_FIRST: u64 = 16;
/// See [`PAGE_FIRST`].
const PAGE_MOST: u64 = 1024;
/// Smallest `max_allowed_packet`: a value of the longest sort, and what goes with it.
const PACKET_LEAST: u64 = 2 * super::VALUE_BYTES as u64;
/// Prepared statements kept by a connection: two for each table and group, and the rest.
const STATEMENTS: usize = 64;
/// The server's code for a database that does not exist.
const UNKNOWN_DATABASE: u16 = 1049;

impl Mysql {
    /// Opens the store in a database given as `mysql://USER:PASSWORD@HOST:PORT/NAME`, and makes the database
    /// and its tables if they are missing. Refuses one that may lose what it has committed.
    pub fn open(url: &str) -> Result<Self, EngineError> {
        let opts = options(url)?;
        let mut conn = connect_or_create(&opts)?;
        check_promises(&mut conn)?;
        make_tables(&mut conn, opts.get_db_name().unwrap_or_default())?;
        let connections = Connections {
            idle: vec![conn],
            all: 1,
        };
        let pool = Pool {
            opts,
            connections: Mutex::new(connections),
            returned: Condvar::new(),
        };
        Ok(Self {
            pool: Arc::new(pool),
            writer: Mutex::new(None),
        })
    }

    fn writer(&self) -> MutexGuard<'_, Option<Writer>> {
        // After a panic in a write the writer is still there, but its transaction is never committed.
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Engine for Mysql {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        let statement = format!("SELECT v FROM `{}` WHERE k = ?", name(table));
        let value: Option<Vec<u8>> = self
            .pool
            .reader()?
            .ask(|conn| conn.exec_first(&statement, (key,)))?;
        Ok(value.map(Bytes::from))
    }

    fn snapshot(&self) -> Result<Box<dyn Snapshot>, EngineError> {
        let mut reader = self.pool.reader()?;
        reader.ask(|conn| conn.query_drop("START TRANSACTION WITH CONSISTENT SNAPSHOT"))?;
        Ok(Box::new(Moment(reader)))
    }

    fn take_over(&self) -> Result<(), EngineError> {
        let mut conn = connect(&self.pool.opts)?;
        conn.query_drop("BEGIN")?;
        let raise = "UPDATE `shard` SET epoch = epoch + 1 WHERE id = ?";
        conn.exec_drop(raise, (FENCE,))?;
        let epoch = conn.exec_first("SELECT epoch FROM `shard` WHERE id = ?", (FENCE,))?;
        conn.query_drop("COMMIT")?;
        let Some(epoch) = epoch else {
            return Err(EngineError::Damaged("the row of the fence".to_owned()));
        };
        *self.writer() = Some(Writer { conn, epoch });
        Ok(())
    }

    /// Commits, whatever the durability: the database knows one.
    fn write(&self, parts: &[&[u8]], _durability: Durability) -> Result<(), EngineError> {
        let batch = fold(parts)?;
        let mut guard = self.writer();
        // Taken out: after an error it is not there to be used again (E-3).
        let Some(mut writer) = guard.take() else {
            let text = "this process does not hold the store, or an earlier write has failed";
            return Err(EngineError::Database(text.to_owned()));
        };
        writer.commit(&batch)?;
        *guard = Some(writer);
        Ok(())
    }
}

impl Writer {
    fn commit(&mut self, batch: &Batch<'_>) -> Result<(), EngineError> {
        let Self { conn, epoch } = self;
        conn.query_drop("BEGIN")?;
        let fence = "UPDATE `shard` SET last = last + ? WHERE id = ? AND epoch = ?";
        conn.exec_drop(fence, (1, FENCE, *epoch))?;
        if conn.affected_rows() == 0 {
            return Err(EngineError::Fenced(*epoch));
        }
        for table in Table::ALL {
            let rows = || {
                batch
                    .range((table, &[][..])..)
                    .take_while(move |((of, _), _)| *of == table)
            };
            let puts: Vec<_> = rows()
                .filter_map(|((_, key), value)| Some((*key, (*value)?)))
                .collect();
            let removals: Vec<_> = rows()
                .filter(|(_, value)| value.is_none())
                .map(|((_, key), _)| (*key, &[][..]))
                .collect();
            for group in groups(&removals) {
                let keys = group.iter().map(|(key, _)| Value::from(*key));
                conn.exec_drop(
                    remove_statement(table, group.len()),
                    keys.collect::<Vec<_>>(),
                )?;
            }
            for group in groups(&puts) {
                let cells = group
                    .iter()
                    .flat_map(|(key, value)| [Value::from(*key), Value::from(*value)]);
                conn.exec_drop(put_statement(table, group.len()), cells.collect::<Vec<_>>())?;
            }
        }
        Ok(conn.query_drop("COMMIT")?)
    }
}

impl Snapshot for Moment {
    fn scan(
        &mut self,
        table: Table,
        span: Span<'_>,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), EngineError> {
        let statement = format!(
            "SELECT k, v FROM `{}` WHERE k >= ? AND k < ? ORDER BY k {} LIMIT ?",
            name(table),
            if span.backwards { "DESC" } else { "ASC" }
        );
        let (mut from, mut to) = (span.from.to_vec(), span.to.to_vec());
        let mut limit = PAGE_FIRST;
        // A lost connection has lost the moment with it: nothing is asked twice.
        let conn = self.0.conn()?;
        loop {
            let mut seen = 0;
            let mut last = Vec::new();
            for row in conn.exec_iter(&statement, (&from, &to, limit))? {
                let (key, value): (Vec<u8>, Vec<u8>) =
                    mysql::from_row_opt(row?).map_err(mysql::Error::from)?;
                if !visit(&key, &value) {
                    return Ok(());
                }
                seen += 1;
                last = key;
            }
            if seen < limit {
                return Ok(());
            }
            if span.backwards {
                to = last;
            } else {
                last.push(0);
                from = last;
            }
            limit = (limit * 4).min(PAGE_MOST);
        }
    }
}

impl Drop for Moment {
    fn drop(&mut self) {
        if let Some(conn) = &mut self.0.conn
            && conn.query_drop("COMMIT").is_err()
        {
            self.0.conn = None;
        }
    }
}

impl Pool {
    fn reader(self: &Arc<Self>) -> Result<Reader, EngineError> {
        let mut connections = self.connections();
        let idle = loop {
            if let Some(conn) = connections.idle.pop() {
                break Some(conn);
            }
            if connections.all < READERS {
                connections.all += 1;
                break None;
            }
            connections = self
                .returned
                .wait(connections)
                .unwrap_or_else(PoisonError::into_inner);
        };
        drop(connections);
        let mut reader = Reader {
            pool: Arc::clone(self),
            conn: idle,
        };
        if reader.conn.is_none() {
            reader.conn = Some(connect(&self.opts)?);
        }
        Ok(reader)
    }

    fn connections(&self) -> MutexGuard<'_, Connections> {
        // Its holders only move connections and count: it is whole after a panic.
        self.connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reader {
    fn conn(&mut self) -> Result<&mut Conn, EngineError> {
        let lost = || EngineError::Database("the connection was lost".to_owned());
        self.conn.as_mut().ok_or_else(lost)
    }

    /// Asks, once more over a new connection when this one turns out to be lost: the database may have been
    /// started again since it was last used.
    fn ask<T>(&mut self, ask: impl Fn(&mut Conn) -> mysql::Result<T>) -> Result<T, EngineError> {
        match ask(self.conn()?) {
            Err(error) if is_lost(&error) => {
                // Those that idle are as old or older.
                let idle = std::mem::take(&mut self.pool.connections().idle);
                self.pool.connections().all -= idle.len();
                self.conn = None;
                let conn = self.conn.insert(connect(&self.pool.opts)?);
                let again = ask(conn);
                if again.as_ref().is_err_and(is_lost) {
                    self.conn = None;
                }
                Ok(again?)
            }
            answer => Ok(answer?),
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut connections = self.pool.connections();
        match self.conn.take() {
            Some(conn) => connections.idle.push(conn),
            None => connections.all -= 1,
        }
        drop(connections);
        self.pool.returned.notify_one();
    }
}

impl From<mysql::Error> for EngineError {
    fn from(error: mysql::Error) -> Self {
        Self::Database(match error {
            mysql::Error::IoError(error) => error.to_string(),
            mysql::Error::MySqlError(error) => format!("{} ({})", error.message, error.code),
            other => other.to_string(),
        })
    }
}

fn is_lost(error: &mysql::Error) -> bool {
    use mysql::Error::{CodecError, DriverError, IoError};
    matches!(error, IoError(_) | CodecError(_) | DriverError(_))
}

/// The table's name in the database.
fn name(table: Table) -> &'static str {
    match table {
        Table::Log => "log",
        Table::Meta => "meta",
        Table::Timeline => "timeline",
        Table::Rows => "rows",
        Table::Tasks => "tasks",
    }
}

/// Cuts rows into groups that a statement takes.
fn groups<'r, 'a>(
    mut rows: &'r [(&'a [u8], &'a [u8])],
) -> impl Iterator<Item = &'r [(&'a [u8], &'a [u8])]> {
    std::iter::from_fn(move || {
        let fits = |&size: &usize| {
            let bytes = |group: &[(&[u8], &[u8])]| -> usize {
                group
                    .iter()
                    .map(|(key, value)| key.len() + value.len())
                    .sum()
            };
            size == 1
                || rows
                    .get(..size)
                    .is_some_and(|group| bytes(group) <= GROUP_BYTES)
        };
        let size = *GROUPS.iter().find(|size| fits(size))?;
        let (group, rest) = rows.split_at_checked(size)?;
        rows = rest;
        Some(group)
    })
}

fn put_statement(table: Table, rows: usize) -> String {
    let mut text = format!("INSERT INTO `{}` (k, v) VALUES (?, ?)", name(table));
    text.push_str(&", (?, ?)".repeat(rows - 1));
    text.push_str(" ON DUPLICATE KEY UPDATE v = VALUES(v)");
    text
}

fn remove_statement(table: Table, rows: usize) -> String {
    let more = ", ?".repeat(rows - 1);
    format!("DELETE FROM `{}` WHERE k IN (?{more})", name(table))
}

fn options(url: &str) -> Result<Opts, EngineError> {
    let wrong = |what: &str| {
        let text = format!("{what}; write it as mysql://USER:PASSWORD@HOST:PORT/NAME");
        EngineError::Database(text)
    };
    let opts = Opts::from_url(url).map_err(|error| wrong(&error.to_string()))?;
    let database = opts.get_db_name().unwrap_or_default();
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    if database.is_empty() || !database.bytes().all(plain) {
        return Err(wrong("the database's name has letters, digits and _"));
    }
    let opts = OptsBuilder::from_opts(opts)
        // Left to itself the driver would change to the Unix socket that the server names.
        .prefer_socket(false)
        .tcp_connect_timeout(Some(CONNECT_WAIT))
        .read_timeout(Some(ANSWER_WAIT))
        .write_timeout(Some(ANSWER_WAIT))
        .stmt_cache_size(STATEMENTS)
        .init(vec![
            "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ",
        ]);
    Ok(opts.into())
}

fn connect(opts: &Opts) -> Result<Conn, EngineError> {
    Conn::new(opts.clone()).map_err(|error| unreachable_at(opts, error))
}

fn connect_or_create(opts: &Opts) -> Result<Conn, EngineError> {
    match Conn::new(opts.clone()) {
        Err(mysql::Error::MySqlError(error)) if error.code == UNKNOWN_DATABASE => {
            let database = opts.get_db_name().unwrap_or_default();
            let without = OptsBuilder::from_opts(opts.clone()).db_name(None::<String>);
            let mut conn = Conn::new(without).map_err(|error| unreachable_at(opts, error))?;
            conn.query_drop(format!("CREATE DATABASE IF NOT EXISTS `{database}`"))?;
            connect(opts)
        }
        conn => conn.map_err(|error| unreachable_at(opts, error)),
    }
}

fn unreachable_at(opts: &Opts, error: mysql::Error) -> EngineError {
    let (host, port) = (opts.get_ip_or_hostname(), opts.get_tcp_port());
    let EngineError::Database(why) = error.into() else {
        unreachable!("every error of the driver is one of the database")
    };
    EngineError::Database(format!("at {host}:{port} it cannot be used: {why}"))
}

/// What is acknowledged rests on the database's own syncing.
fn check_promises(conn: &mut Conn) -> Result<(), EngineError> {
    let mut variable = |name: &str| -> Result<Option<String>, EngineError> {
        let row: Option<(String, String)> =
            conn.query_first(format!("SHOW VARIABLES LIKE '{name}'"))?;
        Ok(row.map(|(_, value)| value))
    };
    let weak = |setting: &str, what: &str| {
        let text = format!("{setting}, so {what}; set it to 1, then start again");
        Err(EngineError::Database(text))
    };
    match variable("innodb_flush_log_at_trx_commit")?.as_deref() {
        Some("1") => {}
        Some(value) => {
            return weak(
                &format!("innodb_flush_log_at_trx_commit is {value}"),
                "what it has committed may be lost with its machine",
            );
        }
        None => tracing::warn!(
            "the database does not say how it syncs: what is acknowledged lasts as long as it makes its commits last"
        ),
    }
    let binary_log = variable("log_bin")?.is_some_and(|value| value == "ON" || value == "1");
    match variable("sync_binlog")?.as_deref() {
        Some(value) if binary_log && value != "1" => {
            return weak(
                &format!("sync_binlog is {value}"),
                "its copies may lack what it has committed",
            );
        }
        _ => {}
    }
    match variable("max_allowed_packet")?.and_then(|value| value.parse::<u64>().ok()) {
        Some(bytes) if bytes < PACKET_LEAST => {
            let text = format!("max_allowed_packet is {bytes}; set it to {PACKET_LEAST} or more");
            Err(EngineError::Database(text))
        }
        _ => Ok(()),
    }
}

fn make_tables(conn: &mut Conn, database: &str) -> Result<(), EngineError> {
    let there: HashSet<String> = conn.query("SHOW TABLES")?.into_iter().collect();
    let ours = || Table::ALL.into_iter().map(name).chain(["shard"]);
    if !there.contains("shard") {
        let mut foreign = there
            .iter()
            .filter(|table| !ours().any(|own| own == *table));
        if let Some(table) = foreign.next() {
            let text = format!(
                "{database} holds other tables, {table} for one; give an empty database or a store's"
            );
            return Err(EngineError::Database(text));
        }
    }
    let mut statement = String::new();
    for table in Table::ALL {
        statement.clear();
        write!(
            statement,
            "CREATE TABLE IF NOT EXISTS `{}` (k VARBINARY({}) NOT NULL PRIMARY KEY, v LONGBLOB NOT NULL) ENGINE=InnoDB",
            name(table),
            super::KEY_BYTES
        )
        .expect("a String takes everything");
        conn.query_drop(&statement)?;
    }
    conn.query_drop(
        "CREATE TABLE IF NOT EXISTS `shard` (id INT UNSIGNED NOT NULL PRIMARY KEY, epoch BIGINT UNSIGNED NOT NULL, \
         last BIGINT UNSIGNED NOT NULL, format INT UNSIGNED NOT NULL) ENGINE=InnoDB",
    )?;
    let first = "INSERT IGNORE INTO `shard` (id, epoch, last, format) VALUES (?, 0, 0, ?)";
    conn.exec_drop(first, (FENCE, FORMAT))?;
    let format: Option<u32> =
        conn.exec_first("SELECT format FROM `shard` WHERE id = ?", (FENCE,))?;
    if format != Some(FORMAT) {
        let format = format.unwrap_or_default();
        let text = format!("its tables have format {format}, this program reads {FORMAT}");
        return Err(EngineError::Damaged(text));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use libraries::processes::Process;

    use super::*;
    use crate::storage::{changes::Changes, engine::conformance};

    fn url(server: &Process, database: &str) -> String {
        format!("mysql://root@{}/{database}", server.addr())
    }

    fn held(url: &str) -> Mysql {
        let engine = Mysql::open(url).unwrap();
        engine.take_over().unwrap();
        engine
    }

    fn put(engine: &Mysql, key: &[u8], value: &[u8]) -> Result<(), EngineError> {
        let mut changes = Changes::default();
        changes.put(Table::Rows, key, value);
        engine.write(&[changes.as_bytes()], Durability::Synced)
    }

    #[test]
    fn a_mysql_database_keeps_every_promise_of_an_engine() {
        let server = Process::mariadb().unwrap();
        let mut stores = 0;
        conformance::run(&mut || {
            stores += 1;
            let url = url(&server, &format!("store_{stores}"));
            Box::new(move || Arc::new(held(&url)))
        });
        // The rest on the same server: it takes seconds to make one.
        who_was_taken_over_writes_nothing_more(&url(&server, "fenced"));
        nobody_writes_before_taking_over(&url(&server, "fenced"));
        other_peoples_databases_are_left_alone(&server);
        many_readers_share_the_connections(&url(&server, "readers"));
        a_database_that_may_lose_commits_is_refused(&server);
    }

    fn who_was_taken_over_writes_nothing_more(url: &str) {
        let first = held(url);
        put(&first, b"a", b"first").unwrap();
        let second = Mysql::open(url).unwrap();
        put(&first, b"a", b"again").unwrap();
        second.take_over().unwrap();
        let error = put(&first, b"a", b"too late").unwrap_err();
        assert!(matches!(error, EngineError::Fenced(1)), "{error}");
        assert!(matches!(
            put(&first, b"a", b"x"),
            Err(EngineError::Database(_))
        ));
        assert_eq!(second.get(Table::Rows, b"a").unwrap().unwrap(), "again");
        put(&second, b"a", b"second").unwrap();
        assert_eq!(first.get(Table::Rows, b"a").unwrap().unwrap(), "second");
    }

    fn nobody_writes_before_taking_over(url: &str) {
        let error = put(&Mysql::open(url).unwrap(), b"a", b"x").unwrap_err();
        assert!(error.to_string().contains("does not hold"), "{error}");
    }

    fn other_peoples_databases_are_left_alone(server: &Process) {
        let mut conn = Conn::new(Opts::from_url(&url(server, "")).unwrap()).unwrap();
        conn.query_drop("CREATE DATABASE diary").unwrap();
        conn.query_drop("CREATE TABLE diary.entries (day INT)")
            .unwrap();
        let error = Mysql::open(&url(server, "diary")).err().unwrap();
        assert!(error.to_string().contains("entries"), "{error}");
        let tables: Vec<String> = conn.query("SHOW TABLES FROM diary").unwrap();
        assert_eq!(tables, ["entries"]);
    }

    fn many_readers_share_the_connections(url: &str) {
        let engine = held(url);
        put(&engine, b"a", b"1").unwrap();
        // Lost connections, as after a restart of the database, cost a reader nothing.
        let ids: Vec<u32> = {
            let pool = engine.pool.connections();
            pool.idle.iter().map(Conn::connection_id).collect()
        };
        for id in ids {
            let mut conn = connect(&engine.pool.opts).unwrap();
            conn.query_drop(format!("KILL {id}")).unwrap();
        }
        std::thread::scope(|scope| {
            for _ in 0..2 * READERS {
                scope.spawn(|| {
                    let mut moment = engine.snapshot().unwrap();
                    let mut rows = 0;
                    moment
                        .scan(Table::Rows, Span::ALL, &mut |_, _| {
                            rows += 1;
                            true
                        })
                        .unwrap();
                    assert_eq!(rows, 1);
                });
            }
        });
        let connections = engine.pool.connections();
        assert!(connections.all <= READERS && connections.all == connections.idle.len());
    }

    fn a_database_that_may_lose_commits_is_refused(server: &Process) {
        let mut conn = Conn::new(Opts::from_url(&url(server, "")).unwrap()).unwrap();
        conn.query_drop("SET GLOBAL innodb_flush_log_at_trx_commit = 2")
            .unwrap();
        let error = Mysql::open(&url(server, "weak")).err().unwrap();
        assert!(error.to_string().contains("trx_commit is 2"), "{error}");
    }

    #[test]
    fn a_database_that_is_not_there_is_named() {
        for (url, part) in [
            ("mysql://root@127.0.0.1:1/store", "127.0.0.1:1"),
            ("mysql://root@127.0.0.1:1", "/NAME"),
            ("mysql://root@127.0.0.1:1/a-b", "letters"),
            ("http://127.0.0.1/store", "mysql://USER"),
        ] {
            let error = Mysql::open(url).err().unwrap().to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn rows_go_in_groups_of_few_sizes() {
        let row = |bytes: usize| (&[1][..], &*vec![0; bytes].leak());
        let sizes = |rows: &[(&[u8], &[u8])]| groups(rows).map(<[_]>::len).collect::<Vec<_>>();
        assert!(sizes(&[]).is_empty());
        assert_eq!(sizes(&vec![row(1); 170]), [128, 32, 8, 1, 1]);
        let large = [row(10), row(2 * GROUP_BYTES), row(10)];
        assert_eq!(sizes(&large), [1, 1, 1]);
    }
}
