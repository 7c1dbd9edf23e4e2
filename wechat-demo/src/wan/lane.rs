//! When what arrives: a line's clockwork, and one direction of one stream that waits in it.
//!
//! Knows:       shapes, modes, the order of a stream.
//! Does not know: sockets, coroutines, the clock (it is told the time).

use std::collections::VecDeque;
use std::time::Duration;

use rpc_core::base::rng::Rng;
use rpc_core::base::time::Instant;

use super::matrix::{Mode, Shape};

/// Bytes that wait in one direction of one stream.
pub const BUFFER: usize = 256 << 10;
/// Things that wait there, however small.
const ITEMS: usize = 1_024;

/// One direction between two places. Its streams share the bandwidth and the stalls.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) shape: Shape,
    pub(super) mode: Mode,
    /// Bytes that came out.
    pub(super) carried: u64,
    rng: Rng,
    /// When the last byte that was put in has left the sender's side.
    busy_until: Instant,
    /// The stall that comes next, or is.
    stall: Option<(Instant, Instant)>,
}

/// What goes through a stream, in order.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Item {
    /// It begins.
    Open,
    /// Never empty.
    Bytes(Vec<u8>),
    /// The sender sends no more.
    End,
    /// It is over for both.
    Reset,
}

/// One direction of one stream.
#[derive(Debug, Default)]
pub(super) struct Lane {
    /// With the time of arrival, which never falls.
    queue: VecDeque<(Instant, Item)>,
    bytes: usize,
    last: Instant,
    /// Its end was delivered.
    pub(super) ended: bool,
}

impl Line {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            shape: Shape::default(),
            mode: Mode::Open,
            carried: 0,
            rng: Rng::from_seed(seed),
            busy_until: Instant::ZERO,
            stall: None,
        }
    }

    /// Gives it another shape; what is on its way arrives as it would have.
    pub(super) fn reshape(&mut self, shape: Shape) {
        self.shape = shape;
        self.stall = None;
        self.busy_until = Instant::ZERO;
    }

    /// When `length` bytes arrive that are put in at `now`.
    pub(super) fn arrival(&mut self, length: usize, now: Instant) -> Instant {
        let mut leaves = now.max(self.busy_until);
        if let Some(nanos) =
            (length as u64 * 1_000_000_000).checked_div(u64::from(self.shape.kib_per_s) << 10)
        {
            leaves = leaves + Duration::from_nanos(nanos);
            self.busy_until = leaves;
        }
        let jitter = self.below(u64::from(self.shape.jitter_ms) * 1_000_000);
        let way = ms(self.shape.delay_ms) + Duration::from_nanos(jitter);
        self.after_stalls(leaves, now) + way
    }

    /// `time`, or the end of the stall that it falls into.
    fn after_stalls(&mut self, time: Instant, now: Instant) -> Instant {
        let Shape {
            stall_every_ms: every,
            stall_ms: length,
            ..
        } = self.shape;
        if every == 0 || length == 0 {
            return time;
        }
        // A line that nothing crossed for long has not stalled for anybody meanwhile.
        let (mut begin, mut end) = self.stall.unwrap_or((Instant::ZERO, now));
        while end <= time {
            let from = if end + ms(length) + 2 * ms(every) < now {
                now
            } else {
                end
            };
            let quiet = u64::from(every) * 1_000_000;
            begin = from + Duration::from_nanos(quiet / 2 + self.below(quiet));
            end = begin + ms(length);
            self.stall = Some((begin, end));
        }
        if time < begin { time } else { end }
    }

    /// Whether anything comes out.
    pub(super) fn flows(&self) -> bool {
        matches!(self.mode, Mode::Open | Mode::HalfOpen)
    }

    fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.rng.below(bound) }
    }
}

impl Lane {
    /// Bytes that fit in now.
    pub(super) fn room(&self) -> usize {
        if self.queue.len() < ITEMS {
            BUFFER - self.bytes
        } else {
            0
        }
    }

    /// Puts something in at the end. Bytes only where there is [`Lane::room`].
    pub(super) fn put(&mut self, item: Item, line: &mut Line, now: Instant) {
        let length = item.length();
        self.bytes += length;
        self.last = self.last.max(line.arrival(length, now));
        self.queue.push_back((self.last, item));
    }

    /// When the first thing arrives if nothing holds it.
    pub(super) fn due(&self) -> Option<Instant> {
        self.queue.front().map(|(due, _)| *due)
    }

    /// The first thing, if it has arrived.
    pub(super) fn take(&mut self, line: &mut Line, now: Instant) -> Option<Item> {
        if !line.flows() || self.due()? > now {
            return None;
        }
        let (_, item) = self.queue.pop_front()?;
        self.bytes -= item.length();
        line.carried += item.length() as u64;
        Some(item)
    }
}

impl Item {
    fn length(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Open | Self::End | Self::Reset => 0,
        }
    }
}

fn ms(ms: u32) -> Duration {
    Duration::from_millis(ms.into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    fn line(shape: Shape) -> Line {
        let mut line = Line::new(1);
        line.reshape(shape);
        line
    }

    /// What somebody does to a stream.
    #[derive(Clone, Debug)]
    enum Act {
        /// Offers so many bytes.
        Send(usize),
        Wait(u64),
        Mode(Mode),
        Shape(Shape),
    }

    fn shape() -> impl Strategy<Value = Shape> {
        let stalls = (prop_oneof![Just(0), 1_u32..500], 0_u32..500);
        (
            0_u32..300,
            0_u32..100,
            prop_oneof![Just(0), 1_u32..1_000],
            stalls,
        )
            .prop_map(
                |(delay_ms, jitter_ms, kib_per_s, (stall_every_ms, stall_ms))| Shape {
                    delay_ms,
                    jitter_ms,
                    kib_per_s,
                    stall_every_ms,
                    stall_ms,
                },
            )
    }

    fn act() -> impl Strategy<Value = Act> {
        prop_oneof![
            4 => (1_usize..100_000).prop_map(Act::Send),
            4 => (0_u64..1_000).prop_map(Act::Wait),
            1 => prop_oneof![Just(Mode::Open), Just(Mode::Stall), Just(Mode::HalfOpen)]
                .prop_map(Act::Mode),
            1 => shape().prop_map(Act::Shape),
        ]
    }

    proptest! {
        /// N-1 and N-3, on virtual time.
        #[test]
        fn bytes_come_out_as_they_went_in(
            first in shape(),
            acts in proptest::collection::vec(act(), 1..60),
        ) {
            let (mut line, mut lane, mut now) = (line(first), Lane::default(), at(0));
            let (mut sent, mut received, mut number) = (Vec::new(), Vec::new(), 0_u8);
            let mut put_at: VecDeque<(usize, Instant)> = VecDeque::new();
            let drain = |lane: &mut Lane, line: &mut Line, now: Instant, received: &mut Vec<u8>| {
                while let Some(item) = lane.take(line, now) {
                    let Item::Bytes(bytes) = item else { panic!("only bytes went in") };
                    received.extend(bytes);
                }
            };
            for act in acts {
                match act {
                    Act::Send(length) => {
                        let length = length.min(lane.room());
                        if length > 0 {
                            number = number.wrapping_add(1);
                            sent.extend(std::iter::repeat_n(number, length));
                            put_at.push_back((sent.len(), now));
                            lane.put(Item::Bytes(vec![number; length]), &mut line, now);
                        }
                    }
                    Act::Wait(ms) => now = now + Duration::from_millis(ms),
                    Act::Mode(mode) => line.mode = mode,
                    Act::Shape(shape) => line.reshape(shape),
                }
                let before = received.len();
                drain(&mut lane, &mut line, now, &mut received);
                prop_assert!(line.flows() || received.len() == before, "a stalled line gave something out");
                prop_assert!(lane.bytes <= BUFFER && lane.queue.len() <= ITEMS);
                prop_assert_eq!(lane.bytes, sent.len() - received.len());
                prop_assert_eq!(&sent[..received.len()], &received[..]);
            }
            line.mode = Mode::Open;
            lane.put(Item::End, &mut line, now);
            let end = lane.queue.back().expect("the end is there").0;
            prop_assert!(!end.is_never());
            let Some((_, Item::End)) = lane.queue.pop_back() else { panic!("the end is last") };
            drain(&mut lane, &mut line, end, &mut received);
            prop_assert_eq!(sent, received, "all of it is there before the end is");
        }

        #[test]
        fn nothing_is_faster_than_its_line(shape in shape(), gaps in proptest::collection::vec((0_u64..2_000, 1_usize..20_000), 1..50)) {
            let (mut line, mut now, mut bytes) = (line(shape), at(0), 0);
            let first = at(0);
            for (gap, length) in gaps {
                now = now + Duration::from_millis(gap);
                let arrives = line.arrival(length, now);
                bytes += length as u64;
                prop_assert!(arrives >= now + ms(shape.delay_ms));
                if shape.kib_per_s > 0 {
                    let least = Duration::from_secs_f64(length as f64 / f64::from(shape.kib_per_s) / 1024.0);
                    prop_assert!(arrives - now + Duration::from_nanos(1) >= least + ms(shape.delay_ms));
                } else {
                    let most = ms(shape.delay_ms) + ms(shape.jitter_ms) + ms(shape.stall_ms);
                    prop_assert!(arrives - now <= most, "{:?} > {most:?}", arrives - now);
                }
            }
            if shape.kib_per_s > 0 {
                let least = bytes as f64 / f64::from(shape.kib_per_s) / 1024.0;
                let took = (line.busy_until - first).as_secs_f64();
                prop_assert!(took + 1e-6 >= least, "{bytes} bytes in {took} s");
            }
        }
    }

    #[test]
    fn an_end_waits_behind_the_bytes_and_for_the_line() {
        let (mut line, mut lane) = (line(Shape::delay(10)), Lane::default());
        lane.put(Item::Bytes(vec![1]), &mut line, at(0));
        lane.put(Item::End, &mut line, at(1));
        assert_eq!(lane.take(&mut line, at(9)), None);
        assert_eq!(lane.take(&mut line, at(10)), Some(Item::Bytes(vec![1])));
        assert_eq!(lane.take(&mut line, at(10)), None);
        line.mode = Mode::Stall;
        assert_eq!(lane.take(&mut line, at(1_000)), None);
        line.mode = Mode::Open;
        assert_eq!(lane.take(&mut line, at(1_001)), Some(Item::End));
        assert_eq!(line.carried, 1);
    }

    #[test]
    fn a_line_that_stalls_by_itself_does_so_about_as_often_as_said() {
        let shape = Shape {
            stall_every_ms: 1_000,
            stall_ms: 200,
            ..Shape::default()
        };
        let mut line = line(shape);
        let late = (0..100_000_u64).filter(|ms| line.arrival(1, at(*ms)) > at(*ms));
        let late = late.count();
        assert!(
            (14_000..20_000).contains(&late),
            "{late} ms of 100000 were stalled"
        );
    }
}
