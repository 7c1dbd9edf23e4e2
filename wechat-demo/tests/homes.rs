//! A cluster of two homes: users of the one and the other become contacts and write to each other, while the process
//! that serves here or there is killed: nothing is lost, nothing comes twice, and each may connect anywhere.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod patience;
mod phone;

use std::path::Path;

use wechat_demo::cluster::{Clusters, Plan, Role, figures};
use wechat_demo::model::{HomeId, UserId};
use wechat_demo::terminal::new_client_id;

use patience::wait_for;
use phone::{Phone, befriend, light, sign_up};

/// Says something without waiting for it to be taken.
fn speak(from: &Phone, to: &Phone, words: &str) {
    for n in 0..10 {
        let text = format!("{} says {words} {n}", from.user);
        from.terminal.send(to.user, new_client_id(), text).unwrap();
    }
}

/// Kills whoever serves a home; that process is to be started again later.
fn kill_primary(clusters: &mut Clusters, home: usize) -> Role {
    let cluster = &mut clusters.parts_mut()[home];
    let primary = wait_for("somebody serves", || cluster.primary());
    cluster.kill(primary);
    primary
}

#[test]
fn friends_at_two_homes_lose_nothing_whichever_primary_is_killed() {
    let plan = Plan {
        extra: light(),
        ..Plan::default()
    };
    let dir = tempfile::tempdir().unwrap();
    let binary = Path::new(env!("CARGO_BIN_EXE_wechat-demo"));
    let mut clusters = Clusters::bring_up(dir.path(), 0, &plan, 2, binary).unwrap();
    let addresses = clusters.link_addresses();
    sign_up([&addresses[0], &addresses[1]]);
    let ann = Phone::new(&addresses[0], "ann", "phone");
    let bob = Phone::new(&addresses[1], "bob", "phone");
    let homes = [&ann, &bob].map(|phone| UserId(phone.user).home());
    assert_eq!(homes, [HomeId(0), HomeId(1)], "home is where one registers");
    befriend(&ann, &bob);

    let mut said = 0;
    for (round, home) in [1, 0, 1].into_iter().enumerate() {
        speak(&ann, &bob, &format!("before kill {round}"));
        speak(&bob, &ann, &format!("before kill {round}"));
        let killed = kill_primary(&mut clusters, home);
        speak(&ann, &bob, &format!("after kill {round}"));
        speak(&bob, &ann, &format!("after kill {round}"));
        said += 40;
        clusters.parts_mut()[home].spawn(killed).unwrap();
    }
    ann.until("ann has it all", |ann| ann.texts(&bob).len() >= said);
    bob.until("bob has it all", |bob| bob.texts(&ann).len() >= said);
    let talk = ann.texts(&bob);
    assert_eq!(talk.len(), said, "nothing comes twice");
    assert_eq!(bob.texts(&ann), talk, "both have one order");

    // Who connects elsewhere than at home has it all too, and is heard.
    let away = Phone::new(&addresses[0], "bob", "away");
    away.until("bob has it all elsewhere", |away| away.texts(&ann) == talk);
    away.is_like(&bob, &ann);
    away.say(&ann, "from elsewhere", 1);
    ann.until("ann hears bob", |ann| ann.texts(&bob).len() > said);
    let serving = wait_for("ann's home serves", || clusters.parts()[0].primary());
    wait_for("nothing waits for bob's home", || {
        let figures = figures(clusters.parts()[0].layout().rpc(serving));
        (figures.sum("wechat_storage_carry_waiting", &["home=\"hk\""]) == Some(0.0)).then_some(())
    });
    for phone in [&ann, &bob, &away] {
        phone.terminal.stop();
    }
}
