//! What fuzzers run: each function takes any bytes and panics only if a parser or a state machine breaks a
//! promise.
//!
//! Included by path, both by the fuzz targets and by this crate's own tests, which run them on generated
//! input. The first byte of the input chooses how the rest is used.
//!
//! Promises
//! - No input panics.
//! - How the stream of a long link is cut changes neither what was asked nor why it ends.
//! - Whatever a server says, a terminal's key falls only where it says so, and each item is applied once, in order.

use bytes::Bytes;
use prost::Message;
use rpc_core::base::time::Instant;
use wechat_demo::access::session::{Closing, Event, Inbound, Limits};
use wechat_demo::longlink::Decoder;
use wechat_demo::model::brief;
use wechat_demo::proto::terminal as pb;
use wechat_demo::terminal::store::LocalStore;
use wechat_demo::terminal::store::memory::Memory;
use wechat_demo::terminal::sync::{Cursor, Page, Step, Sync};

/// An access process reads `data` from a link; how many commands and beats it found.
pub fn long_link(data: &[u8]) -> usize {
    let Some((&size, data)) = data.split_first() else {
        return 0;
    };
    let (whole, cut) = (
        read(data, data.len().max(1)),
        read(data, usize::from(size) + 1),
    );
    assert_eq!(whole, cut, "the pieces do not matter");
    whole.0.len()
}

/// A terminal is told whatever packets `data` holds; how many items it stored.
pub fn terminal_sync(data: &[u8]) -> usize {
    let mut decoder = Decoder::default();
    decoder.feed(data);
    let store = Memory::new(1);
    let mut sync = Sync::new(Cursor::default());
    let mut now = Instant::ZERO;
    let mut stored = 0;
    while let Ok(Some(frame)) = decoder.next_frame() {
        let mut answer = None;
        match frame.cmd {
            0 => answer = pb::SyncReply::decode(frame.body).ok(),
            1 => sync.heard(u64::from(frame.seq)),
            2 => sync.linked(u64::from(frame.seq)),
            _ => {
                if let Ok(mut notify) = pb::Notify::decode(frame.body) {
                    brief::restore_notify(&mut notify, 1);
                    sync.notified(notify, now);
                }
            }
        }
        stored += settle(&mut sync, &store, &mut answer, &mut now);
    }
    stored
}

/// Does what the machine says until it waits or has nobody to ask.
fn settle(
    sync: &mut Sync,
    store: &Memory,
    answer: &mut Option<pb::SyncReply>,
    now: &mut Instant,
) -> usize {
    let mut stored = 0;
    loop {
        match sync.step(*now) {
            Step::Ask(at) => {
                assert_eq!(at, store.cursor());
                match answer.take() {
                    // Nonsense is refused, which the machine remembers by itself.
                    Some(reply) => drop(sync.answered(reply, *now)),
                    None => sync.ask_failed(*now),
                }
            }
            Step::Rewind { before, to } => {
                assert!(before == store.key());
                let at = store.rewind(before, to).expect("memory takes it");
                sync.rewound(at);
            }
            Step::Apply {
                before,
                page,
                items,
                after,
            } => {
                let begins = page == Page::FullBegins;
                assert!(before == store.key() && (begins || after.key > before));
                let mut last = if begins { 0 } else { before };
                for item in &items {
                    assert!(item.number > last && item.number <= after.key);
                    last = item.number;
                }
                if store.apply_page(before, page, &items, after).is_err() {
                    // Malformed items end a terminal; what was stored before stays.
                    assert_eq!(store.key(), before);
                    return stored;
                }
                stored += items.len();
                sync.applied();
            }
            Step::Wait(until) => {
                if let (Some(until), true) = (until, answer.is_some()) {
                    *now = until.max(*now);
                    continue;
                }
                return stored;
            }
        }
    }
}

/// What was asked, and why the link ends if it does.
type Read = (Vec<(u32, u32, Bytes)>, Option<Closing>);

fn read(data: &[u8], size: usize) -> Read {
    let mut session = Inbound::new(Limits::default(), Instant::ZERO);
    let mut asked = Vec::new();
    for piece in data.chunks(size) {
        session.received(piece, Instant::ZERO);
        loop {
            match session.next_event() {
                Ok(Some(Event::Command(request))) => {
                    asked.push((request.cmd, request.seq, request.body))
                }
                Ok(Some(Event::Noop)) => asked.push((6, u32::MAX, Bytes::new())),
                Ok(None) => break,
                Err(closing) => return (asked, Some(closing)),
            }
        }
    }
    (asked, None)
}
