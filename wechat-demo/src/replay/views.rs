//! What every device shows at the end: the phones that took part, and a fresh device for each person.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use indicatif::ProgressBar;
use wechat_demo::terminal::store::LocalStore;
use wechat_demo::terminal::store::memory::Memory;
use wechat_demo::terminal::{Config, Observer, Terminal};

use super::check::{Shown, Verdict};
use super::parallel::parallel;
use super::play::Stage;

/// Devices looked at at a time.
const WIDTH: usize = 32;
/// Time for one device to become level.
const PATIENCE: Duration = Duration::from_secs(120);

/// What one device shows: per conversation, by the other person's index, or `None` for somebody who is
/// not in the log.
type View = Vec<(Option<usize>, Vec<Shown>)>;

/// Brings every phone level, syncs a fresh device for everybody, and holds all they show against the log.
pub(super) fn look_at_all(
    stage: &Arc<Stage>,
    verdict: &mut Verdict<'_>,
    bar: &ProgressBar,
) -> anyhow::Result<()> {
    let (phones, counted) = (stage.clone(), bar.clone());
    let seen = parallel(stage.people().len(), WIDTH, move |person| {
        let terminal = phones.terminal(person);
        let level = terminal.refresh(PATIENCE);
        level.map_err(|error| anyhow::anyhow!("{}'s phone: {error}", phones.name(person)))?;
        counted.inc(1);
        view(&phones, terminal.store())
    })?;
    judge(stage, verdict, "phone", seen);

    let (fresh, counted) = (stage.clone(), bar.clone());
    let seen = parallel(stage.people().len(), WIDTH, move |person| {
        let account = &fresh.people()[person];
        let mut config = Config::new(fresh.elsewhere(person), account.fresh_token.clone());
        config.history = Some(fresh.recorder(person, account.fresh_device));
        let store = Arc::new(Memory::new(account.user_id));
        let terminal = Terminal::start(config, store, Arc::new(Deaf));
        let level = terminal.refresh(PATIENCE);
        let seen = view(&fresh, terminal.store());
        terminal.stop();
        level.map_err(|error| anyhow::anyhow!("{}'s fresh device: {error}", fresh.name(person)))?;
        counted.inc(1);
        seen
    })?;
    judge(stage, verdict, "fresh device", seen);
    bar.finish_and_clear();
    Ok(())
}

fn view(stage: &Stage, store: &dyn LocalStore) -> anyhow::Result<View> {
    let mut view = Vec::new();
    for user_id in store.conversations()? {
        let shown = store
            .messages(user_id, usize::MAX)?
            .into_iter()
            .map(|stored| Shown {
                line: stage.line_of(&stored.message.client_id),
                text: stored.message.text,
            });
        view.push((stage.person_of(user_id), shown.collect()));
    }
    Ok(view)
}

fn judge(stage: &Stage, verdict: &mut Verdict<'_>, device: &str, seen: Vec<View>) {
    for (person, view) in seen.into_iter().enumerate() {
        let mut shown: BTreeMap<Option<usize>, Vec<Shown>> = view.into_iter().collect();
        for (other, lines) in stage.conversations_of(person) {
            let name = format!("{}'s {device}", stage.name(person));
            verdict.look(
                &name,
                lines,
                &shown.remove(&Some(other)).unwrap_or_default(),
            );
        }
        for (_, strange) in shown {
            verdict.look(&format!("{}'s {device}", stage.name(person)), &[], &strange);
        }
    }
}

/// Listens to nothing.
struct Deaf;

impl Observer for Deaf {}
