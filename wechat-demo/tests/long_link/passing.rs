//! What access is handed for a link: signs go on at once while somebody uses the terminal, else when somebody does; a
//! link that is gone is reported.

use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use wechat_demo::access::session::Limits;
use wechat_demo::proto::access::Target;
use wechat_demo::proto::terminal::{self as pb, Sign, sign::What};
use wechat_demo::terminal::store::memory::Memory;
use wechat_demo::terminal::{Beats, Config, Observer, Terminal};

use super::{Rig, rig};

#[derive(Default)]
struct Signs {
    told: Mutex<(Vec<Vec<Sign>>, bool)>,
    changed: Condvar,
}

impl Observer for Signs {
    fn signs(&self, signs: &[Sign]) {
        self.told.lock().unwrap().0.push(signs.to_vec());
        self.changed.notify_all();
    }

    fn linked(&self) {
        self.told.lock().unwrap().1 = true;
        self.changed.notify_all();
    }
}

impl Signs {
    /// What was told once `done` holds; the limit only turns a hang into a failure.
    fn wait(&self, what: &str, done: impl Fn(&(Vec<Vec<Sign>>, bool)) -> bool) -> Vec<Vec<Sign>> {
        let told = self.told.lock().unwrap();
        let limit = Duration::from_secs(30);
        let (told, waited) = self
            .changed
            .wait_timeout_while(told, limit, |told| !done(told))
            .unwrap();
        assert!(!waited.timed_out(), "never: {what}");
        told.0.clone()
    }
}

fn terminal(rig: &Rig, active: bool) -> (Terminal, Arc<Signs>) {
    let mut config = Config::new(&rig.address.to_string(), "7".into());
    config.heartbeat = Beats::Fixed(Duration::from_secs(3_600));
    config.active = active;
    let signs = Arc::<Signs>::default();
    let terminal = Terminal::start(config, Arc::new(Memory::new(7)), signs.clone());
    signs.wait("the link", |told| told.1);
    (terminal, signs)
}

fn pass(rig: &Rig, signs: &[Sign]) {
    let link = rig.fake.users.lock().unwrap()[&7].links[0].clone();
    let target = Target {
        user_id: 7,
        device_id: 7,
        link: link.link,
        notify: None,
        signs: signs.to_vec(),
    };
    assert!(rig.access.notify(vec![target]).is_empty());
}

fn sign(from: u64, what: What) -> Sign {
    Sign {
        from,
        what: Some(what),
    }
}

#[rpc_core::test]
fn signs_come_at_once_while_somebody_uses_the_terminal_and_move_no_key() {
    let rig = rig(Limits::default());
    let (terminal, signs) = terminal(&rig, true);
    let typing = sign(3, What::Typing(true));
    pass(&rig, &[typing]);
    let told = signs.wait("the sign", |told| !told.0.is_empty());
    assert_eq!(told, [vec![typing]]);
    assert_eq!(terminal.store().key(), 0);
    terminal.stop();
}

#[rpc_core::test]
fn what_passed_while_nobody_looked_comes_in_one_when_somebody_does() {
    let rig = rig(Limits::default());
    let (terminal, signs) = terminal(&rig, false);
    pass(
        &rig,
        &[sign(3, What::Here(true)), sign(3, What::Typing(true))],
    );
    pass(&rig, &[sign(4, What::Here(true))]);
    pass(&rig, &[sign(3, What::Here(false))]);
    terminal.set_active(true);
    let told = signs.wait("the signs", |told| !told.0.is_empty());
    let newest = vec![sign(4, What::Here(true)), sign(3, What::Here(false))];
    assert_eq!(told, [newest]);
    terminal.stop();
}

#[rpc_core::test]
fn a_home_is_told_whether_somebody_uses_the_device() {
    let rig = rig(Limits::default());
    let (terminal, _signs) = terminal(&rig, false);
    let active = || rig.fake.users.lock().unwrap()[&7].links[0].active;
    assert!(!active(), "AUTH has said so");
    for now in [true, false] {
        terminal.set_active(now);
        // It is on its way.
        while active() != now {
            std::thread::yield_now();
        }
    }
    let request = pb::SetActiveRequest { active: true };
    let mut raw = wechat_demo::terminal::Connection::open(&rig.address.to_string()).unwrap();
    let refused = raw.call::<pb::SetActiveReply>(pb::Command::SetActive, &request);
    assert!(refused.unwrap_err().is_refusal(16), "it speaks for nobody");
    terminal.stop();
}

#[rpc_core::test]
fn notifies_for_links_that_are_gone_are_reported() {
    let rig = rig(Limits::default());
    let target = Target {
        user_id: 1,
        device_id: 1,
        link: 77,
        notify: Some(pb::Notify::default()),
        signs: Vec::new(),
    };
    assert_eq!(rig.access.notify(vec![target]), [77]);
    let (alice, alices) = rig.terminal(1);
    alices.wait("the link", |told| told.links == 1);
    let number = rig.fake.users.lock().unwrap()[&1].links[0].link;
    let foreign = Target {
        user_id: 2,
        device_id: 1,
        link: number,
        notify: Some(pb::Notify::default()),
        signs: Vec::new(),
    };
    assert_eq!(
        rig.access.notify(vec![foreign]),
        [number],
        "another user's link is nobody's"
    );
    alice.stop();
}
