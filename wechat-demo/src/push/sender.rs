//! The loop: takes what is due, sends it, says what became of it.
//!
//! Knows: batches, back-off, how often is often enough.   Does not know: fields of requests, sockets.
//!
//! Invariants
//! - P-1  Nothing is taken without a connection: while the service is away, what is due stays in the store.
//! - P-2  What was taken is settled, or given out again when the store's patience is over.
//! - P-3  A push is tried [`Sender::tries`] times at most; then it is given up, counted and logged.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};
use std::time::Duration;

use rpc_core::base::rng::Rng;
use rpc_core::base::time::unix_nanos;
use rpc_core::rpc::protocol::requests::Outcome as Answer;
use rpc_core::time::{Instant, sleep};
use rpc_core::{CallOptions, Response, Status};

use super::apns::{Form, Signer, Verdict, judge};
use super::connection::{Connection, Server};
use super::meter::Meter;
use crate::coordinator::names::Clients;
use crate::proto::storage::{self as pb, settled_push::Outcome};

/// Pushes of one turn: streams of the connection at a time.
pub(super) const BATCH: u32 = 100;
/// Pause when nothing is due.
const LOOK: Duration = Duration::from_millis(250);
/// Time for a batch to be answered: well within the store's patience.
const ANSWERS: Duration = Duration::from_secs(10);
/// First and longest pause before a push is tried again, or the service is called again.
const BACK_OFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(600));
/// As above, for connections: a short one, because all pushes wait for it.
const RECONNECT: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));

/// What the loop works with.
pub(super) struct Sender {
    /// Storage processes; the one that serves answers.
    pub(super) stores: Clients<pb::StorageClient>,
    /// The one that answered last.
    pub(super) serving: usize,
    pub(super) server: Server,
    pub(super) signer: Signer,
    pub(super) topic: String,
    pub(super) tries: u32,
    pub(super) meter: Arc<Meter>,
    pub(super) rng: Rng,
}

/// How a turn went.
enum Turn {
    /// There may be more at once.
    Done,
    /// Nothing is due.
    Idle,
    /// The service does not answer, or does not admit us.
    Trouble(String),
}

impl Sender {
    /// Works until told to stop.
    pub(super) fn run(mut self, stop: &AtomicBool) {
        let mut connection = None;
        let mut failures = 0;
        while !stop.load(Ordering::Relaxed) {
            let pause = match self.turn(&mut connection) {
                Turn::Done => {
                    failures = 0;
                    continue;
                }
                Turn::Idle => {
                    failures = 0;
                    LOOK
                }
                Turn::Trouble(why) => {
                    connection = None;
                    Meter::add(&self.meter.broken);
                    failures += 1;
                    let pause = back_off(RECONNECT, failures, &mut self.rng);
                    tracing::warn!(why, ?pause, "the push service cannot be used");
                    pause
                }
            };
            let until = Instant::now() + pause;
            while !stop.load(Ordering::Relaxed) && Instant::now() < until {
                sleep(LOOK.min(until.saturating_since(Instant::now())));
            }
        }
    }

    fn turn(&mut self, connection: &mut Option<Connection>) -> Turn {
        let usable = connection.as_mut().is_some_and(Connection::is_usable);
        if !usable {
            match self.server.connect() {
                Ok(fresh) => *connection = Some(fresh),
                Err(error) => return Turn::Trouble(error.to_string()),
            }
            Meter::add(&self.meter.connections);
        }
        let Some(connection) = connection else {
            return Turn::Idle;
        };
        let pushes = self.take();
        if pushes.is_empty() {
            return Turn::Idle;
        }
        let now_s = unix_nanos() / 1_000_000_000;
        let bearer = match self.signer.bearer(now_s) {
            Ok(bearer) => bearer.to_owned(),
            Err(error) => return Turn::Trouble(error.to_string()),
        };
        let forms: Vec<Form> = pushes.iter().map(Form::of).collect();
        let topic = &self.topic;
        let (answers, end) =
            connection.exchange(forms.len(), Instant::now() + ANSWERS, |requests, at| {
                forms[at].with(&bearer, topic, now_s, |request| {
                    requests.send(at as u64, request)
                })
            });
        let mut trouble = end.err().map(|error| error.to_string());
        let unanswered = answers.iter().any(Option::is_none);
        // A service that goes away has said so: the rest goes over another connection.
        if unanswered && trouble.is_none() && !connection.is_spent() {
            trouble = Some("it did not answer in time".to_owned());
        }
        let mut settled = Vec::with_capacity(pushes.len());
        for (push, answer) in pushes.into_iter().zip(answers) {
            let outcome = self.outcome(&push, answer, &mut trouble);
            settled.push(pb::SettledPush {
                user_id: push.user_id,
                device_id: push.device_id,
                number: push.number,
                outcome: Some(outcome),
            });
        }
        self.settle(settled);
        trouble.map_or(Turn::Done, Turn::Trouble)
    }

    /// What is due, from whichever process serves.
    fn take(&mut self) -> Vec<pb::Push> {
        let request = pb::TakePushesRequest { limit: BATCH };
        let reply = self.ask(|store| store.take_pushes_with(request, quickly()));
        reply.map(|reply| reply.pushes).unwrap_or_default()
    }

    fn settle(&mut self, settled: Vec<pb::SettledPush>) {
        let request = pb::SettlePushesRequest { settled };
        if self
            .ask(|store| store.settle_pushes(request.clone()))
            .is_none()
        {
            Meter::add(&self.meter.unsettled);
            tracing::warn!("no store could be told what became of pushes; they are sent again");
        }
    }

    /// Asks one process after the other, the one that served last first.
    fn ask<Reply>(
        &mut self,
        call: impl Fn(&pb::StorageClient) -> Result<Response<Reply>, Status>,
    ) -> Option<Reply> {
        let stores = self.stores.now();
        let count = stores.len();
        let mut order = (0..count).map(|step| (self.serving + step) % count);
        let (at, reply) = order.find_map(|at| Some((at, call(&stores[at].1).ok()?)))?;
        self.serving = at;
        Some(reply.into_inner())
    }

    fn outcome(
        &mut self,
        push: &pb::Push,
        answer: Option<Answer>,
        trouble: &mut Option<String>,
    ) -> Outcome {
        let verdict = match answer {
            Some(Answer::Answered(response)) => judge(&response),
            Some(Answer::Unprocessed) => return self.again(push, Duration::ZERO, false),
            // What became of it is not known: it may be sent twice, and is one on the device.
            Some(Answer::Broken(_)) | None => Verdict::Later(Duration::ZERO),
        };
        let over = || Outcome::Over(pb::Over {});
        match verdict {
            Verdict::Delivered => {
                Meter::add(&self.meter.delivered);
                over()
            }
            Verdict::Gone { at_ms } => {
                Meter::add(&self.meter.gone);
                let token = push.token.clone();
                Outcome::Gone(pb::TokenGone { token, at_ms })
            }
            Verdict::Refused(reason) => {
                Meter::add(&self.meter.refused);
                tracing::error!(reason, "the push service takes this push from nobody");
                over()
            }
            Verdict::SignAgain => {
                self.signer.expire();
                self.again(push, Duration::ZERO, false)
            }
            Verdict::NotAdmitted(reason) => {
                let text = format!("{reason}: check --apns-key, its ids and --apns-topic");
                *trouble = Some(text);
                self.again(push, Duration::ZERO, true)
            }
            Verdict::Later(least) => self.again(push, least, true),
        }
    }

    /// Once more, unless it was tried often enough.
    fn again(&mut self, push: &pb::Push, least: Duration, wait: bool) -> Outcome {
        let tries = push.tries.saturating_add(1);
        if tries >= self.tries {
            Meter::add(&self.meter.given_up);
            tracing::error!(tries, user = push.user_id, "a push is given up");
            return Outcome::Over(pb::Over {});
        }
        Meter::add(&self.meter.again);
        let pause = match wait {
            true => back_off(BACK_OFF, tries, &mut self.rng).max(least),
            false => least,
        };
        Outcome::AgainMs(pause.as_millis().try_into().unwrap_or(i64::MAX))
    }
}

/// Nothing is waited for to say what is due: it is asked again soon.
fn quickly() -> CallOptions {
    CallOptions::new().deadline(Duration::from_secs(2))
}

/// The pause after so many failures in a row: doubled each time up to the longest, of which a random part of
/// at least a half is taken, so that those who failed together do not come again together.
fn back_off((first, longest): (Duration, Duration), failures: u32, rng: &mut Rng) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    let whole = first.saturating_mul(1 << doublings).min(longest);
    let half = whole / 2;
    half + Duration::from_nanos(rng.below(half.as_nanos() as u64 + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_differ_and_are_bounded() {
        let seed = 7;
        let mut rng = Rng::from_seed(seed);
        let mut before = Duration::ZERO;
        for failures in 1..40 {
            let pauses: Vec<Duration> = (0..50)
                .map(|_| back_off(BACK_OFF, failures, &mut rng))
                .collect();
            let longest = pauses.iter().max().copied().unwrap_or_default();
            assert!(longest <= BACK_OFF.1, "seed {seed}");
            assert!(longest >= before / 2, "seed {seed}");
            assert!(pauses.iter().any(|pause| *pause != pauses[0]));
            before = longest;
        }
        assert!(before >= BACK_OFF.1 / 2, "seed {seed}");
    }
}
