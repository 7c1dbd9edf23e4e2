//! A store that is put back to an older copy of its disk, by the operator's hand, under phones that go on: they learn
//! what is lost, say their own part of it again, and come to what a fresh device gets.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod patience;
mod phone;

use std::fs;
use std::path::Path;
use std::process::Command;

use wechat_demo::cluster::{Cluster, Plan, Role};
use wechat_demo::proto::terminal as pb;

use patience::{PATIENCE, wait_for};
use phone::{Phone, befriend, light, sign_up};

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &to),
            false => drop(fs::copy(entry.path(), to).unwrap()),
        }
    }
}

fn promote(cluster: &Cluster, role: Role) -> (bool, String) {
    let layout = cluster.layout();
    let output = Command::new(env!("CARGO_BIN_EXE_wechat-demo"))
        .args(["promote", "--dir"])
        .arg(layout.dir.join(role.name()))
        .args(["--listen", &layout.rpc(role).to_string()])
        .args(["--coordinator", &layout.rpc(Role::Coordinator).to_string()])
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(said).unwrap())
}

/// A cluster with cheap passwords, and accounts of two.
fn start(dir: &Path) -> (Cluster, String) {
    let plan = Plan {
        extra: light(),
        ..Plan::default()
    };
    let binary = Path::new(env!("CARGO_BIN_EXE_wechat-demo"));
    let cluster = Cluster::bring_up(dir, 0, &plan, binary).unwrap();
    let address = cluster.layout().link_address();
    sign_up([&address; 2]);
    (cluster, address)
}

fn kill_storage(cluster: &mut Cluster) {
    for role in Role::STORAGE {
        cluster.kill(role);
    }
}

fn spawn_storage(cluster: &mut Cluster) {
    for role in Role::STORAGE {
        cluster.spawn(role).unwrap();
    }
}

/// Puts an old disk of `primary` in the place of all there is, and makes it the store.
fn restore(cluster: &mut Cluster, primary: Role, saved: &Path) {
    let dir = cluster.layout().dir.clone();
    wait_for("somebody lives to see that it is not needed", || {
        cluster.primary()
    });
    cluster.kill(primary);
    let (done, said) = promote(cluster, primary);
    assert!(!done && said.contains("lives and is a member"), "{said}");
    kill_storage(cluster);
    for role in Role::STORAGE {
        fs::remove_dir_all(dir.join(role.name())).unwrap();
    }
    copy(saved, &dir.join(primary.name()));
    // The coordinator forgets the dead by and by.
    let said = wait_for("the old disk is promoted", || {
        let (done, said) = promote(cluster, primary);
        assert!(done || said.contains("lives and is a member"), "{said}");
        done.then_some(said)
    });
    assert!(said.contains("incarnation 1"), "{said}");
    spawn_storage(cluster);
}

/// Holds the same as a fresh device, most of it given anew.
fn ends_as_a_fresh_one(phone: &Phone, address: &str, name: &str, other: &Phone) {
    let fresh = Phone::new(address, name, "fresh");
    fresh.until("a fresh device has it all", |fresh| {
        fresh.texts(other).len() == 21
    });
    phone.is_like(&fresh, other);
    let again = phone.messages(other).into_iter();
    let again = again.filter(|stored| stored.number >> 48 == 1).count();
    // Whatever the killed process had not handed to the disk is lost as well.
    assert!(again >= 11, "only {again} came again");
    fresh.terminal.stop();
}

#[test]
fn phones_say_again_what_a_restored_store_has_lost_and_end_as_fresh_ones() {
    let dir = tempfile::tempdir().unwrap();
    let (mut cluster, address) = start(dir.path());
    let [ann, bob] = ["ann", "bob"].map(|name| Phone::new(&address, name, "phone"));
    befriend(&ann, &bob);
    ann.say(&bob, "what is kept", 5);
    bob.say(&ann, "what is kept", 5);

    let primary = wait_for("somebody serves", || cluster.primary());
    let saved = dir.path().join("saved");
    kill_storage(&mut cluster);
    copy(&dir.path().join(primary.name()), &saved);
    spawn_storage(&mut cluster);
    ann.say(&bob, "what is lost", 5);
    bob.say(&ann, "what is lost", 5);
    // A version that takes the place of another: with it, that other is missing.
    let remark = pb::change_request::Change::Remark(pb::Remark {
        user_id: bob.user,
        remark: "lost as well".to_owned(),
    });
    ann.terminal.change(remark, PATIENCE).unwrap();
    ann.until("ann has it all", |ann| ann.texts(&bob).len() == 20);
    bob.until("bob has it all", |bob| bob.texts(&ann).len() == 20);
    let talk = ann.texts(&bob);
    assert_eq!(talk, bob.texts(&ann));

    restore(&mut cluster, primary, &saved);
    ann.until("ann has it all again", |ann| ann.texts(&bob) == talk);
    bob.until("bob has it all again", |bob| bob.texts(&ann) == talk);
    assert_eq!(ann.contact(&bob).remark, "");
    ann.say(&bob, "something new", 1);
    bob.until("bob hears it", |bob| bob.texts(&ann).len() == 21);
    ann.until("ann is level", |_| true);
    ends_as_a_fresh_one(&ann, &address, "ann", &bob);
    ends_as_a_fresh_one(&bob, &address, "bob", &ann);
    ann.terminal.stop();
    bob.terminal.stop();
}
