//! Accounts: what contacts see of them, and how they end.

use prost::Message;
use rpc_core::{Code, Status};
use wechat_demo::proto::{
    logic as lp,
    terminal::{self, Contact, Kind, change_request::Change, contact::State},
};

use super::{Home, caller, change, code, who};

fn profile(nickname: Option<&str>, avatar: Option<&str>) -> Change {
    Change::Profile(terminal::Profile {
        nickname: nickname.map(str::to_owned),
        avatar: avatar.map(str::to_owned),
    })
}

/// What `user` sees of a contact.
fn seen(home: &Home, user: u64, peer: u64) -> Contact {
    let items = home.sync(user, 0, 1000).unwrap().items;
    let contact = items
        .into_iter()
        .find(|item| item.kind() == Kind::Contact && item.id == peer);
    Contact::decode(contact.unwrap().payload).unwrap()
}

fn find(home: &Home, by: u64, name: &str) -> Result<terminal::FindUserReply, Status> {
    let call = lp::FindUserCall {
        caller: caller(by),
        request: Some(terminal::FindUserRequest {
            name: name.to_owned(),
            user_id: 0,
        }),
    };
    Ok(home.logic.find_user(call)?.into_inner())
}

#[rpc_core::test]
fn contacts_see_what_one_is_called_and_where_the_picture_is() {
    let home = Home::start();
    let [ann, bob, cy] = ["ann", "bob", "cy"].map(|name| home.register(name, "secret1").unwrap());
    home.befriend(ann, bob);
    let picture = "https://example.org/ann.png";
    change(&home, who(ann, 1), profile(None, Some(picture))).unwrap();
    home.until("bob sees the picture", || {
        seen(&home, bob, ann).avatar == picture
    });
    assert_eq!(seen(&home, bob, ann).nickname, "ann", "as it was");
    change(&home, who(ann, 1), profile(Some("Annie"), None)).unwrap();
    home.until("bob sees the nickname", || {
        seen(&home, bob, ann).nickname == "Annie"
    });
    assert_eq!(seen(&home, bob, ann).avatar, picture, "as it was");
    assert_eq!(find(&home, cy, "ann").unwrap().avatar, picture);
    home.befriend(ann, cy);
    assert_eq!(seen(&home, cy, ann).avatar, picture);
    for bad in ["two words", "a\u{7}", &"x".repeat(257)] {
        let refused = change(&home, who(ann, 1), profile(None, Some(bad)));
        assert_eq!(code(refused), Code::InvalidArgument, "{bad:?}");
    }
    home.stop();
}

#[rpc_core::test]
fn an_account_that_is_deleted_is_gone_for_all_and_its_name_is_nobodys() {
    let home = Home::start();
    let [ann, bob, cy] = ["ann", "bob", "cy"].map(|name| home.register(name, "secret1").unwrap());
    home.befriend(ann, bob);
    let phone = home.login("ann", "secret1").unwrap();
    let delete = |password: &str| {
        let password = password.to_owned();
        let delete = Change::DeleteAccount(terminal::DeleteAccount { password });
        change(&home, who(ann, phone.device_id), delete)
    };
    assert_eq!(code(delete("secret2")), Code::PermissionDenied);
    assert!(home.authenticate(&phone.token).is_ok());
    delete("secret1").unwrap();
    assert_eq!(code(home.authenticate(&phone.token)), Code::Unauthenticated);
    assert_eq!(code(home.sync(ann, 0, 0)), Code::Unauthenticated);
    assert_eq!(code(home.send(ann, bob, 1, "boo")), Code::Unauthenticated);
    assert_eq!(code(delete("secret1")), Code::Unauthenticated);
    assert_eq!(code(home.login("ann", "secret1")), Code::Unauthenticated);
    let again = home.register("ann", "secret1");
    assert_eq!(code(again), Code::AlreadyExists, "the name stays taken");
    assert_eq!(code(find(&home, cy, "ann")), Code::NotFound);
    let ask = home.logic.add_contact(lp::AddContactCall {
        caller: caller(cy),
        request: Some(terminal::AddContactRequest {
            user_id: ann,
            greeting: String::new(),
        }),
    });
    assert_eq!(code(ask), Code::NotFound);
    home.until("bob sees that she is gone", || {
        let contact = seen(&home, bob, ann);
        contact.gone && contact.state() == State::Removed
    });
    home.send(bob, ann, 2, "where are you?").unwrap();
    home.until("word of the refusal comes back", || {
        let items = home.sync(bob, 0, 1000).unwrap().items;
        items.iter().any(|item| item.kind() == Kind::Refused)
    });
    home.stop();
}
