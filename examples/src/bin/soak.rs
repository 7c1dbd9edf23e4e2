//! The soak: random spawns, cancellations, reads, writes and closes for as long as asked, under a bound on
//! memory. `cargo xtask soak` runs it for half an hour.
//!
//! ```text
//! cargo run --release --bin soak -- --minutes 30
//! ```
//! Time is cut into rounds. A round lets coroutines loose, then cancels and joins what is left, and
//! counts: every coroutine has ended, every guard was dropped, every descriptor closed, and memory is where
//! it was after the first rounds. What does not add up ends the program with exit status 1 and the
//! seed. What a coroutine does is drawn from the seed; how they interleave is the machine's.

use std::cell::RefCell;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use clap::Parser;
use rpc_core::base::rng::Rng;
use rpc_core::{Builder, Deadline, JoinError, JoinHandle, Runtime};

/// Random work for a long time; fails if anything leaks
#[derive(Clone, Parser)]
struct Flags {
    /// How long, in minutes
    #[arg(long, default_value_t = 30.0)]
    minutes: f64,
    /// Draws what is done; from the kernel when left out
    #[arg(long)]
    seed: Option<u64>,
    /// Coroutines at once
    #[arg(long, default_value_t = 1000)]
    coroutines: usize,
    /// Worker threads
    #[arg(long, default_value_t = 2)]
    workers: usize,
    /// MiB that the process may hold at any time
    #[arg(long, default_value_t = 512)]
    memory: u64,
}

/// What happened so far. Relaxed all of them: read when everything has ended, or shown as they are.
#[derive(Default)]
struct Counters {
    begun: AtomicU64,
    ended: AtomicU64,
    cancelled: AtomicU64,
    panicked: AtomicU64,
    cut: AtomicU64,
    bytes: AtomicU64,
    guards_made: AtomicU64,
    guards_dropped: AtomicU64,
}

fn add(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}

fn get(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

/// What every coroutine can reach.
struct World {
    echo: SocketAddr,
    counters: Counters,
    lock: Mutex<u64>,
}

/// Counts its own end, whichever way a coroutine ends.
struct Guard(Arc<World>);

impl Guard {
    fn new(world: &Arc<World>) -> Self {
        add(&world.counters.guards_made, 1);
        Self(Arc::clone(world))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        add(&self.0.counters.guards_dropped, 1);
    }
}

thread_local! {
    /// Dropped with the thread-locals of its coroutine.
    static LEFT: RefCell<Vec<Guard>> = const { RefCell::new(Vec::new()) };
}

fn main() -> Result<()> {
    let flags = Flags::parse();
    let seed = flags.seed.unwrap_or_else(|| Rng::from_entropy().next_u64());
    println!("seed {seed}");
    quiet_planned_panics();
    let runtime = Runtime::builder().workers(flags.workers).build()?;
    let outcome = runtime.block_on(move || soak(&flags, seed));
    outcome.with_context(|| format!("with --seed {seed}"))
}

/// Their messages would drown everything else.
fn quiet_planned_panics() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if info.payload().downcast_ref::<&str>() != Some(&PLANNED) {
            usual(info);
        }
    }));
}

fn soak(flags: &Flags, seed: u64) -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let world = Arc::new(World {
        echo: listener.local_addr()?,
        counters: Counters::default(),
        lock: Mutex::new(0),
    });
    let server = rpc_core::spawn(move || serve(&listener));
    let all = Duration::from_secs_f64(flags.minutes * 60.0);
    let round = (all / 10).clamp(Duration::from_millis(200), Duration::from_secs(20));
    let mut rng = Rng::from_seed(seed);
    let started = Instant::now();
    let mut plateau = Plateau::default();
    while started.elapsed() < all || !plateau.is_reached() {
        play(&world, &mut rng, flags, Instant::now() + round)?;
        let found = settle(&world, &mut plateau)?;
        println!("{:>5.0} s: {found}", started.elapsed().as_secs_f64());
    }
    server.cancel();
    server
        .join()
        .map_err(|error| anyhow!("the server: {error}"))?;
    println!("nothing leaked");
    Ok(())
}

/// Answers every connection with what it says, until it is cancelled.
fn serve(listener: &TcpListener) {
    for connection in listener.incoming() {
        let Ok(mut connection) = connection else {
            return;
        };
        drop(rpc_core::spawn(move || {
            let mut room = [0; 4096];
            while let Ok(count @ 1..) = connection.read(&mut room) {
                if connection.write_all(&room[..count]).is_err() {
                    return;
                }
            }
        }));
    }
}

/// Lets coroutines loose until `until`, then ends them all.
fn play(world: &Arc<World>, rng: &mut Rng, flags: &Flags, until: Instant) -> Result<()> {
    let mut running: Vec<JoinHandle<()>> = Vec::new();
    while Instant::now() < until {
        match below(rng, 10) {
            0..6 if running.len() < flags.coroutines => running.push(begin(world, rng)),
            6 if !running.is_empty() => running[below(rng, running.len())].cancel(),
            7 => rpc_core::yield_now(),
            _ if !running.is_empty() => {
                let handle = running.swap_remove(below(rng, running.len()));
                if handle.is_finished() || below(rng, 50) == 0 {
                    handle.cancel();
                    end(world, handle)?;
                } else {
                    running.push(handle);
                    rpc_core::yield_now();
                }
            }
            _ => rpc_core::yield_now(),
        }
        if below(rng, 1000) == 0 {
            let held = resident()? >> 20;
            ensure!(
                held <= flags.memory,
                "{held} MiB are held, of {} allowed",
                flags.memory
            );
        }
    }
    running.iter().for_each(JoinHandle::cancel);
    running
        .into_iter()
        .try_for_each(|handle| end(world, handle))
}

fn begin(world: &Arc<World>, rng: &mut Rng) -> JoinHandle<()> {
    let (own, seed) = (Arc::clone(world), rng.next_u64());
    add(&world.counters.begun, 1);
    Builder::new()
        .name("soaked")
        .stack_size((64 << 10) << below(rng, 3))
        .reuse_thread_locals(below(rng, 2) == 0)
        .spawn(move || act(&own, &mut Rng::from_seed(seed)))
}

fn end(world: &World, handle: JoinHandle<()>) -> Result<()> {
    match handle.join() {
        Ok(()) => {}
        Err(JoinError::Cancelled) => add(&world.counters.cancelled, 1),
        Err(JoinError::Panicked(said)) if said.downcast_ref::<&str>() == Some(&PLANNED) => {
            add(&world.counters.panicked, 1);
        }
        Err(error) => return Err(anyhow!("a coroutine ended early: {error}")),
    }
    add(&world.counters.ended, 1);
    Ok(())
}

/// What one coroutine does.
fn act(world: &Arc<World>, rng: &mut Rng) {
    let guard = Guard::new(world);
    LEFT.with_borrow_mut(|left| left.truncate(3));
    LEFT.with_borrow_mut(|left| left.push(Guard::new(world)));
    let done = match below(rng, 8) {
        0 | 1 => echo(world, rng),
        2 => silent(world, rng),
        3 => closed_by_another(rng),
        4 => through_a_pipe(world, rng),
        5 => locked(world, rng),
        6 => handed_on(rng),
        _ => {
            std::thread::sleep(Duration::from_micros(below(rng, 2000) as u64));
            add(&world.counters.bytes, dive(below(rng, 40 << 10)) as u64);
            Ok(())
        }
    };
    if done.is_err() {
        add(&world.counters.cut, 1);
    }
    if below(rng, 40) == 0 {
        std::panic::panic_any(PLANNED);
    }
    drop(guard);
}

/// Says something and hears it again.
fn echo(world: &World, rng: &mut Rng) -> io::Result<()> {
    let mut connection = TcpStream::connect(world.echo)?;
    for _ in 0..=below(rng, 5) {
        let said: Vec<u8> = (0..=below(rng, 8000)).map(|i| (i * 31) as u8).collect();
        connection.write_all(&said)?;
        let mut heard = vec![0; said.len()];
        connection.read_exact(&mut heard)?;
        assert!(heard == said, "another conversation's bytes");
        add(&world.counters.bytes, said.len() as u64);
    }
    Ok(())
}

/// Waits for an answer that does not come, until a deadline or a cancellation.
fn silent(world: &World, rng: &mut Rng) -> io::Result<()> {
    let mut connection = TcpStream::connect(world.echo)?;
    let limit = Duration::from_micros(below(rng, 20_000) as u64);
    Deadline::within(limit, || connection.read(&mut [0; 16])).map(drop)
}

/// Waits on a socket that another coroutine closes.
fn closed_by_another(rng: &mut Rng) -> io::Result<()> {
    let (mut near, far) = std::os::unix::net::UnixStream::pair()?;
    let pause = Duration::from_micros(below(rng, 500) as u64);
    let closer = rpc_core::spawn(move || {
        std::thread::sleep(pause);
        drop(far);
    });
    let read = near.read(&mut [0; 16]);
    joined(closer)?;
    read.map(drop)
}

fn through_a_pipe(world: &World, rng: &mut Rng) -> io::Result<()> {
    let (mut reader, mut writer) = io::pipe()?;
    let len = below(rng, 200_000);
    let writing = rpc_core::spawn(move || {
        // The reader may have been cancelled, and its end closed.
        let _ = writer.write_all(&vec![7; len]);
    });
    let mut all = Vec::new();
    let read = reader.read_to_end(&mut all);
    drop(reader);
    joined(writing)?;
    add(&world.counters.bytes, all.len() as u64);
    read.map(drop)
}

/// Holds std's lock across a wait.
fn locked(world: &World, rng: &mut Rng) -> io::Result<()> {
    for _ in 0..=below(rng, 4) {
        let mut held = world.lock.lock().map_err(|_| ErrorKind::Other)?;
        let before = *held;
        rpc_core::yield_now();
        *held = before + 1;
    }
    Ok(())
}

/// Hands values from one coroutine to another, over std's channel.
fn handed_on(rng: &mut Rng) -> io::Result<()> {
    let (sender, receiver) = mpsc::sync_channel(below(rng, 4));
    let count = below(rng, 30);
    let sending = rpc_core::spawn(move || (0..count).all(|i| sender.send(i).is_ok()));
    let heard = receiver.iter().count();
    assert!(heard == count, "{heard} of {count} arrived");
    joined(sending).map(drop)
}

fn joined<T>(handle: JoinHandle<T>) -> io::Result<T> {
    handle
        .join()
        .map_err(|error| io::Error::other(error.to_string()))
}

/// Uses about `bytes` of the stack.
fn dive(bytes: usize) -> usize {
    const FRAME: usize = 512;
    let frame = std::hint::black_box([1_u8; FRAME]);
    let below = if bytes > FRAME {
        dive(bytes - FRAME)
    } else {
        0
    };
    below + usize::from(std::hint::black_box(&frame)[FRAME / 2])
}

/// What memory and descriptors are measured against.
#[derive(Default)]
struct Plateau {
    /// Bytes after each round.
    held: Vec<u64>,
    /// Descriptors after the first round.
    descriptors: Option<usize>,
}

impl Plateau {
    /// After the first rounds everything has its size: buffers, tables, the allocator's arenas.
    const WARM: usize = 4;
    /// Allocators do not give back every page: so much more than at the plateau is none of ours.
    const SLACK: u64 = 16 << 20;

    fn is_reached(&self) -> bool {
        self.held.len() > Self::WARM
    }

    fn check(&mut self, held: u64, descriptors: usize) -> Result<()> {
        let wanted = *self.descriptors.get_or_insert(descriptors);
        ensure!(
            descriptors <= wanted,
            "{descriptors} descriptors are open, {wanted} were after the first round"
        );
        self.held.push(held);
        if self.is_reached() {
            let warm = self.held[..Self::WARM].iter().max().copied().unwrap_or(0);
            ensure!(
                held <= warm + warm / 10 + Self::SLACK,
                "{held} bytes are held; after the first rounds it were {warm}"
            );
        }
        Ok(())
    }
}

/// Everything has been told to end: waits until it has, and counts.
fn settle(world: &World, plateau: &mut Plateau) -> Result<String> {
    let counters = &world.counters;
    ensure!(
        get(&counters.begun) == get(&counters.ended),
        "{} coroutines begun, {} ended",
        get(&counters.begun),
        get(&counters.ended)
    );
    rpc_core::time::sleep(Duration::from_millis(50));
    rpc_core::trim_stacks();
    // What was spawned on the side ends a little later, and connections that their clients gave up are
    // still to be accepted: only what stays open is a leak.
    let mut descriptors = open_descriptors()?;
    let patience = Instant::now() + PATIENCE;
    while plateau
        .descriptors
        .is_some_and(|wanted| descriptors > wanted)
        && Instant::now() < patience
    {
        rpc_core::time::sleep(Duration::from_millis(5));
        descriptors = open_descriptors()?;
    }
    let (made, dropped) = (get(&counters.guards_made), get(&counters.guards_dropped));
    // Each worker keeps some stacks, whose thread-locals may have been left to the next coroutine.
    let kept = made - dropped;
    ensure!(kept <= GUARDS_KEPT, "{made} guards made, {dropped} dropped");
    let held = resident()?;
    let checked = plateau.check(held, descriptors);
    checked.inspect_err(|_| tell_all())?;
    let stacks = rpc_core::stacks().classes;
    Ok(format!(
        "{} coroutines ended, {} of them before they ran, {} by a panic; {} calls cut; {} MB carried; \
         {} MiB held in {} stacks, {} descriptors",
        get(&counters.ended),
        get(&counters.cancelled),
        get(&counters.panicked),
        get(&counters.cut),
        get(&counters.bytes) / 1_000_000,
        held >> 20,
        stacks.iter().map(|class| class.made).sum::<usize>(),
        descriptors
    ))
}

/// Bytes in memory.
fn resident() -> Result<u64> {
    let pages = std::fs::read_to_string("/proc/self/statm")?;
    let pages = pages
        .split(' ')
        .nth(1)
        .context("statm has a second field")?;
    Ok(pages.parse::<u64>()? * 4096)
}

/// What is open and who is left, for whoever looks for a leak.
fn tell_all() {
    for entry in std::fs::read_dir("/proc/self/fd")
        .into_iter()
        .flatten()
        .flatten()
    {
        let leads_to = std::fs::read_link(entry.path());
        eprintln!("{}: {leads_to:?}", entry.path().display());
    }
    eprintln!("{}", rpc_core::dump());
}

fn open_descriptors() -> Result<usize> {
    Ok(std::fs::read_dir("/proc/self/fd")?.count())
}

/// A number from 0 to `count` − 1.
fn below(rng: &mut Rng, count: usize) -> usize {
    (rng.next_u64() % count.max(1) as u64) as usize
}

const PLANNED: &str = "planned";
/// Longer than anything a coroutine does on the side.
const PATIENCE: Duration = Duration::from_secs(30);
/// 64 stacks and the running few for each of 64 workers, four guards on each.
const GUARDS_KEPT: u64 = 64 * 70 * 4;
