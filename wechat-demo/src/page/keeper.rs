//! Keeps a cluster's processes running, but for those that somebody wants down.
//!
//! Knows:       the launcher, the board.
//! Does not know: how the page looks.

use std::collections::HashMap;
use std::time::Duration;

use rpc_core::time::Instant;
use wechat_demo::cluster::{Cluster, Role};

use super::board::{Action, Board, Life, Post};

/// A role that died younger than this was started again in vain: what dies at once is not helped by haste, and nobody can
/// read a flood of lines.
const YOUNG: Duration = Duration::from_secs(3);
/// How long a process that was killed from the page stays down: beyond the 3 s after which a backup takes over.
const DOWN: Duration = Duration::from_secs(5);

/// What is to be started, and when.
#[derive(Default)]
pub(crate) struct Keeper {
    /// Not running, to be started then; `None` = when it is asked for.
    down: HashMap<Post, Option<Instant>>,
    /// When those were started that have been since the beginning.
    born: HashMap<Post, Instant>,
}

impl Keeper {
    /// Tells the board that all processes run.
    pub(crate) fn begin(idcs: &[Cluster], board: &Board) -> Self {
        let keeper = Self::default();
        for (post, _) in board.posts() {
            runs(idcs, board, post);
        }
        keeper
    }

    /// Does what was asked for at the page, starts what died; tells what happens.
    pub(crate) fn tend(
        &mut self,
        idcs: &mut [Cluster],
        board: &Board,
        mut tell: impl FnMut(String),
    ) {
        for action in board.take_actions() {
            self.act(action, idcs, board, &mut tell);
        }
        let now = Instant::now();
        for (idc, cluster) in idcs.iter_mut().enumerate() {
            for (role, status) in cluster.ended() {
                let post = Post { idc, role };
                let (last_words, log) = cluster.last_words(role);
                let name = board.name(post);
                tell(format!(
                    "{name} ended ({status}): {last_words} (see {log}); starting it again"
                ));
                board.tell(format!("{name} ended ({status})"));
                board.lives(post, Life::Ended);
                let born = self.born.get(&post);
                let young = born.is_some_and(|born| now - *born < YOUNG);
                let pause = if young { YOUNG } else { Duration::ZERO };
                self.down.insert(post, Some(now + pause));
            }
        }
        self.start_what_is_due(idcs, board, &mut tell);
        board.tick();
    }

    fn act(
        &mut self,
        action: Action,
        idcs: &mut [Cluster],
        board: &Board,
        tell: &mut impl FnMut(String),
    ) {
        let mut said = |text: String| {
            board.tell(text.clone());
            tell(text);
        };
        match action {
            Action::Kill(post) if self.down.contains_key(&post) => {
                said(format!("{} is down already", board.name(post)));
            }
            Action::Kill(post) => {
                idcs[post.idc].kill(post.role);
                self.down.insert(post, Some(Instant::now() + DOWN));
                board.lives(post, Life::Ended);
                said(format!("{} was killed from the page", board.name(post)));
            }
            Action::KillAll(idc) => {
                let roles = idcs[idc].layout().roles();
                // All at once as far as may be, as when the power goes.
                for role in roles {
                    let post = Post { idc, role };
                    idcs[idc].kill(role);
                    self.down.insert(post, None);
                    board.lives(post, Life::Held);
                }
                let name = board.idc(idc);
                said(format!(
                    "{name} was killed from the page; it stays down until it is restored"
                ));
            }
            Action::Restore(idc) => {
                let now = Instant::now();
                for (post, when) in &mut self.down {
                    if post.idc == idc && when.is_none() {
                        *when = Some(now);
                        board.lives(*post, Life::Ended);
                    }
                }
                said(format!("{} is restored from the page", board.idc(idc)));
            }
        }
    }

    /// In the order in which a cluster is started: each finds those it calls already there.
    fn start_what_is_due(
        &mut self,
        idcs: &mut [Cluster],
        board: &Board,
        tell: &mut impl FnMut(String),
    ) {
        let now = Instant::now();
        let due = self.down.iter();
        let due = due.filter(|(_, when)| when.is_some_and(|when| when <= now));
        let mut due: Vec<(usize, Role)> = due.map(|(post, _)| (post.idc, post.role)).collect();
        due.sort_unstable();
        for (idc, role) in due {
            let post = Post { idc, role };
            match idcs[idc].spawn(role) {
                Ok(()) => {
                    self.down.remove(&post);
                    self.born.insert(post, now);
                    runs(idcs, board, post);
                    board.tell(format!("{} was started again", board.name(post)));
                }
                Err(error) => {
                    tell(error.to_string());
                    board.tell(error.to_string());
                    self.down.insert(post, Some(now + YOUNG));
                }
            }
        }
    }
}

fn runs(idcs: &[Cluster], board: &Board, post: Post) {
    if let Some(pid) = idcs[post.idc].pid(post.role) {
        let since = Instant::now();
        board.lives(post, Life::Runs { pid, since });
    }
}
